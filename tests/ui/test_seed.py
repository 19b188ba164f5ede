"""The user's own description of stopping a job, its section "Testing", step by step on the demo."""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserType, Locator, expect
from ui_world import Server, launch_arguments

GREY_SPREAD_MAX = 24  # Between the strongest and the weakest of red, green and blue, of 255.


@pytest.fixture(scope="module")
def browser(browser_type: BrowserType) -> Iterator[Browser]:
    """A whole Chromium, as users have it."""
    whole = browser_type.launch(**launch_arguments("chromium"))
    yield whole
    whole.close()


def test_a_full_pipeline_is_stopped_from_the_history_tab(flights: Server, open_page) -> None:
    """Start it, go to History, press Stop, confirm: it is cancelled and nothing more starts."""
    # 1. Start a long-running pipeline (a full pipeline with bronze and silver).
    page = open_page("#/pipelines", at=flights)
    with page.expect_response("**/api/jobs") as created:
        page.get_by_role("button", name="Run full pipeline").click()
    job_id = created.value.json()["job_id"]

    # 2. Navigate to the History tab while it is running.
    page.get_by_role("link", name="History").click()
    row = page.locator(f".job-item[data-job-id='{job_id}']")
    expect(row.locator(".badge")).to_have_text("running")
    flights.wait_until(job_id, "has ingested files", _has_progress)

    # 3. Click the Stop button on the running job.
    stop = row.get_by_role("button", name="Stop")
    expect(stop).to_have_class(re.compile(r"\bbtn-danger\b"))
    expect(stop.locator("svg rect")).to_have_count(1)
    red, green, blue = _rgb(stop, "background-color")
    assert red > 2 * max(green, blue), "the Stop button is red"
    stop.click()
    dialog = page.locator("#stop-dialog")
    expect(dialog).to_be_visible()
    expect(page.locator("#view-details")).to_be_hidden()
    expect(dialog.get_by_text(re.compile(r"\d+ pipelines will not start"))).to_be_visible()
    assert flights.job(job_id)["status"] == "running", "nothing is stopped before it is confirmed"
    dialog.get_by_role("button", name="Stop job").click()

    # 4. Verify that the job's status changes to "cancelled".
    badge = row.locator(".badge")
    expect(badge).to_have_text("cancelled")
    expect(badge).to_have_class(re.compile(r"\bbadge-cancelled\b"))
    for colour in (_rgb(badge, "color"), _rgb(badge, "background-color")):
        assert max(colour) - min(colour) <= GREY_SPREAD_MAX, "the badge is grey"
    expect(row.locator(".btn-danger")).to_have_count(0)
    expect(row.get_by_role("button", name="View Details")).to_be_visible()
    assert page.url.endswith("#/history"), "Stop did not open the details"
    assert flights.job(job_id)["status"] == "cancelled"

    # 5. Check that no new tasks are started after cancellation.
    stopped = flights.wait_until_over(job_id)
    _another_job_runs(flights)
    assert _tasks(flights.job(job_id)) == _tasks(stopped)
    requested_at = stopped["cancellation"]["requested_at"]
    assert all(task["started_at"] <= requested_at for task in stopped["tasks"])
    assert {task["layer"] for task in stopped["tasks"]} == {"bronze"}

    # 6. Verify that the job's completed_at timestamp is set.
    assert stopped["completed_at"] >= requested_at
    row.get_by_role("button", name="View Details").click()
    expect(page.locator("#details-receipt")).to_contain_text("admin stopped this job gracefully")


def test_the_seeds_curl_line_stops_a_job(flights: Server) -> None:
    """`curl -X POST` with a key and no body; the answer has the seed's fields."""
    job_id = flights.run("bronze.flights", full_refresh=True)
    flights.wait_until(job_id, "has ingested files", _has_progress)

    answer = json.loads(_curl(flights, job_id))

    assert answer["message"] == f"Job {job_id} has been cancelled"
    assert answer["job_id"] == job_id
    assert answer["status"] == "cancelled"
    stopped = flights.wait_until_over(job_id)
    assert stopped["status"] == "cancelled"
    _another_job_runs(flights)
    assert _tasks(flights.job(job_id)) == _tasks(stopped)


@pytest.mark.parametrize("known", [True, False], ids=["ended", "unknown"])
def test_a_job_that_cannot_be_stopped_answers_400(flights: Server, known: bool) -> None:
    """The seed: 400 when the job does not exist or is not running."""
    job_id = str(uuid.uuid4())
    if known:
        job_id = flights.run("bronze.airlines")
        flights.wait_until_over(job_id)

    body, _, status = _curl(flights, job_id, "-s", "-w", "\n%{http_code}").rpartition("\n")

    assert status == "400"
    assert json.loads(body)["code"] == ("job_not_running" if known else "job_not_found")


def _curl(server: Server, job_id: str, *options: str) -> str:
    command = ["curl", "-X", "POST", f"{server.url}/api/jobs/{job_id}/cancel"]
    command += ["-H", f"Authorization: Bearer {server.keys['admin']}", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _another_job_runs(server: Server) -> None:
    """A later job ran from start to end: the executor had every chance to start something."""
    later = server.wait_until_over(server.run("bronze.airlines"))
    assert later["status"] == "success"


def _has_progress(job: Mapping[str, Any]) -> bool:
    return any((task["progress"] or {}).get("done") for task in job["tasks"])


def _tasks(job: Mapping[str, Any]) -> set[tuple[str, int, str]]:
    return {(task["task_id"], task["attempt"], task["started_at"]) for task in job["tasks"]}


def _rgb(element: Locator, name: str) -> list[int]:
    value = element.evaluate("(node, name) => getComputedStyle(node).getPropertyValue(name)", name)
    return [round(float(part)) for part in re.findall(r"[\d.]+", value)[:3]]
