"""Make the README's pictures from the demo: `PYTHONPATH=tests .venv/bin/python tests/ui/screenshots.py [FOLDER]`.

A stopped job, a finished one, one that failed on a broken file, and one that runs, all of them real.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final, Literal

from playwright.sync_api import Browser, Page, expect, sync_playwright
from ui_world import FLIGHTS, HERE, Server, launch_arguments

from sluicegate.demo import deliver

IMAGES: Final = HERE.parents[1] / "docs" / "images"
WIDTH: Final = 1280
STOPPED_AFTER_FILES: Final = 90


def main(folder: Path) -> None:
    """Play the demo's story and take each picture where it belongs."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        server = Server(Path(home), FLIGHTS)
        deliver(server.home / "landing")
        server.start()
        browser = playwright.chromium.launch(**launch_arguments("chromium"))
        try:
            _story(server, browser, folder)
        finally:
            browser.close()
            server.close()


def _story(server: Server, browser: Browser, folder: Path) -> None:
    stopped = _stopped_job(server)
    server.wait_until_over(server.run(job_name="full pipeline"))
    _failed_job(server)
    server.wait_until_over(server.run("gold.busiest_routes", with_dependencies=True))

    page = _open(server, browser, "light", f"#/jobs/{stopped}", height=600)
    expect(page.locator(".timeline-stop-label")).to_be_visible()
    expect(page.locator("#details-plan svg")).to_be_visible()
    end = page.locator("#details-plan").bounding_box()
    assert end is not None
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": end["y"] - 10}
    page.screenshot(path=folder / "stopped-job.png", full_page=True, clip=clip)

    running = server.run("bronze.flights", full_refresh=True, params={"pace_ms": 60})
    name = server.run("silver.flights", with_dependencies=True, job_name="after the new delivery")
    server.wait_until(running, "is on its way", lambda job: job["progress_percent"] > 15)
    for scheme in ("light", "dark"):
        page = _open(server, browser, scheme, "#/history", height=460)
        expect(page.locator(f"#job-name-{name}")).to_be_visible()
        page.screenshot(path=folder / f"history-{scheme}.png")
    server.cancel(name)
    server.cancel(running)
    server.wait_until_over(running)

    _dialog(server, browser, folder)


def _dialog(server: Server, browser: Browser, folder: Path) -> None:
    job_id = server.run(job_name="full pipeline", full_refresh=True, params={"pace_ms": 40})
    server.wait_until(job_id, "has done something", lambda job: job["completed_tasks"] >= 4)
    page = _open(server, browser, "light", "#/history", height=640)
    page.locator(f"[data-job-id='{job_id}'] .btn-danger").click()
    expect(page.locator(".stop-lines li")).to_have_count(3)
    page.screenshot(path=folder / "stop-dialog.png")
    server.cancel(job_id)
    server.wait_until_over(job_id)


def _stopped_job(server: Server) -> str:
    """A full pipeline, stopped in the middle of a year of files."""
    job_id = server.run(job_name="full pipeline", params={"pace_ms": 30})

    def is_halfway(job: dict) -> bool:
        tasks = {f"{task['layer']}.{task['pipeline_name']}": task for task in job["tasks"]}
        progress = tasks.get("bronze.flights", {}).get("progress") or {"done": 0}
        return progress["done"] >= STOPPED_AFTER_FILES

    server.wait_until(job_id, "has read some files", is_halfway)
    server.cancel(job_id, reason="January was delivered with the wrong time zone")
    server.wait_until_over(job_id)
    return job_id


def _failed_job(server: Server) -> None:
    """A file without the columns that it should have."""
    broken = server.home / "landing" / "flights" / "2014-01-01.csv"
    broken.write_text("year;month;day\n2014;1;1\n")
    server.wait_until_over(server.run("bronze.flights", job_name="new year's file"))
    broken.unlink()


def _open(
    server: Server, browser: Browser, scheme: Literal["light", "dark"], route: str, *, height: int
) -> Page:
    context = browser.new_context(
        viewport={"width": WIDTH, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.request.post(f"{server.url}/api/session", data={"key": server.keys["admin"]})
    page = context.new_page()
    page.goto(f"{server.url}/{route}")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    return page


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
