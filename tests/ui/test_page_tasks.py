"""One task of a job: stopped alone from the timeline; and what the receipt tells of stops."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.sync_api import Locator, Page, expect
from ui_world import Server


def task_row(page: Page, pipeline: str) -> Locator:
    return page.locator(f".timeline-rows [data-pipeline='{pipeline}']")


def stop_button(page: Page, pipeline: str) -> Locator:
    return page.get_by_role("button", name=f"Stop {pipeline}", exact=True)


def task_of(server: Server, job_id: str, name: str) -> dict[str, Any]:
    [task] = [one for one in server.job(job_id)["tasks"] if one["pipeline_name"] == name]
    return task


def both_run(server: Server, job_id: str) -> None:
    server.wait_until(
        job_id, "runs both", lambda job: [t["status"] for t in job["tasks"]] == ["running"] * 2
    )


def test_one_task_is_stopped_and_the_rest_goes_on(open_page, run, server: Server) -> None:
    """What needs it will not run; its row says stopping at once, and then what it ended as."""
    job_id = run("bronze.gated", "gold.long_after_slow", with_dependencies=True, params=_never())
    both_run(server, job_id)
    page = open_page(f"#/jobs/{job_id}", role="operator")
    stop_button(page, "bronze.slow").click()
    dialog = page.locator("#stop-dialog")
    expect(dialog.locator("h2")).to_have_text("Stop “bronze.slow”?")
    lines = dialog.locator("li")
    expect(lines.nth(0)).to_contain_text("It stops at its next checkpoint")
    expect(lines.nth(1)).to_have_text(
        "2 pipelines that need it will not run silver.after_slow, gold.long_after_slow"
    )
    expect(lines.nth(2)).to_have_text("The rest of the job goes on")
    expect(dialog.get_by_label("Drain")).to_be_hidden()
    dialog.get_by_label("Reason").fill("too slow")
    page.keyboard.press("Enter")

    expect(dialog).to_be_hidden()
    expect(task_row(page, "bronze.slow").locator(".timeline-note")).to_contain_text(
        "stopped at a checkpoint"
    )
    expect(stop_button(page, "bronze.slow")).to_have_count(0)
    expect(stop_button(page, "bronze.gated")).to_be_visible()
    facts = page.locator("#details-stops tbody tr")
    expect(facts).to_have_count(1)
    expect(facts).to_contain_text("cancelled")
    expect(facts).to_contain_text("operator")
    expect(facts).to_contain_text("too slow")
    expect(page.locator("#view-details .details-badge")).to_have_text("running")
    assert server.job(job_id)["status"] == "running"


def test_a_task_that_hangs_says_stopping_and_can_be_killed(open_page, run, server: Server) -> None:
    """Stopping is shown without waiting for an event; then Stop now, and what it came to."""
    job_id = run("bronze.gated", "bronze.hanging", params=_never())
    both_run(server, job_id)
    page = open_page(f"#/jobs/{job_id}")
    note = task_row(page, "bronze.hanging").locator(".timeline-note")
    stop_button(page, "bronze.hanging").click()
    page.keyboard.press("Enter")
    expect(note).to_have_text("stopping")

    page.get_by_role("button", name="Stop bronze.hanging now").click()
    dialog = page.locator("#stop-dialog")
    expect(dialog.locator("h2")).to_have_text("Stop “bronze.hanging” now?")
    expect(dialog.locator("li").first).to_contain_text("It is killed at once")
    dialog.get_by_role("button", name="Stop now").click()

    expect(note).to_contain_text("stopped by SIGKILL")
    expect(page.locator("#details-stops")).to_contain_text("killed (SIGKILL)")
    expect(page.locator("#view-details .details-badge")).to_have_text("running")
    expect(page.get_by_role("button", name="Stop bronze.hanging now")).to_have_count(0)


def test_an_old_picture_does_not_unstop_a_task(open_page, run, server: Server) -> None:
    """A read that was on its way as the stop was answered shows the task running; the page knows better."""
    job_id = run("bronze.gated", "bronze.hanging", params=_never())
    both_run(server, job_id)
    page = open_page(f"#/jobs/{job_id}")
    stop_button(page, "bronze.hanging").click()
    expect(page.locator("#stop-dialog li").first).to_be_visible()
    old = server.job(job_id) | {"job_name": "an old picture"}
    page.route(f"**/api/jobs/{job_id}", lambda route: route.fulfill(json=old))
    page.keyboard.press("Enter")
    expect(page.locator("#details-title")).to_have_text("an old picture")
    expect(page.locator("#stop-dialog")).to_be_hidden()
    note = task_row(page, "bronze.hanging").locator(".timeline-note")
    expect(note).to_have_text("stopping")
    page.unroute(f"**/api/jobs/{job_id}")
    server.cancel(job_id, mode="force")
    expect(note).to_contain_text("stopped by SIGKILL")


def test_a_task_that_ended_meanwhile_is_told(open_page, run, server: Server, tmp_path) -> None:
    """Whoever hesitates is told what it ended as, and stops nothing."""
    gate = tmp_path / "gate"
    job_id = run("bronze.gated", "bronze.slow", params={"gate": str(gate)})
    both_run(server, job_id)
    page = open_page(f"#/jobs/{job_id}")
    stop_button(page, "bronze.gated").click()
    dialog = page.locator("#stop-dialog")
    expect(dialog.locator("li").first).to_be_visible()
    gate.touch()
    expect(page.locator("#stop-error")).to_have_text(
        "This task has ended meanwhile: success. There is nothing to stop."
    )
    expect(page.locator("#stop-confirm")).to_be_disabled()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#details-timeline-title")).to_be_focused()
    assert server.job(job_id)["status"] == "running"


def test_the_dialog_foretells_how_soon_and_at_what_cost(open_page, run, server: Server) -> None:
    """From observed checkpoints: a short time; and the work that a resume would repeat."""
    job_id = run("bronze.slow")
    server.wait_until(job_id, "has made some progress", lambda job: job["progress_percent"] > 2)
    page = open_page()
    row = page.locator(f".job-item[data-job-id='{job_id}']")
    row.get_by_role("button", name="Stop").click()
    dialog = page.locator("#stop-dialog")
    expect(dialog.locator("li").first).to_have_text(
        re.compile(r"stops at its next checkpoint bronze\.slow, usually within [\d.]+ m?s$")
    )
    expect(dialog.locator(".dialog-aside")).to_have_text(
        re.compile(r"^A resume would repeat (less than a second|about .+) of work\.$")
    )
    dialog.get_by_label("Drain").check()
    expect(dialog.locator(".dialog-aside")).to_be_hidden()


def test_the_receipt_tells_what_became_of_work_elsewhere(open_page, run, server: Server) -> None:
    """One was confirmed, the other one did not answer: both are told, in words."""
    job_id = run("bronze.remote")
    server.wait_until(job_id, "makes progress", lambda job: job["progress_percent"] > 0)
    server.cancel(job_id)
    server.wait_until_over(job_id)
    page = open_page(f"#/jobs/{job_id}")
    receipt = page.locator("#details-receipt")
    expect(receipt).to_contain_text("1 of 2 pieces of work elsewhere confirmed as stopped")
    rows = receipt.locator("tr", has_text="at the")
    expect(rows.filter(has_text="query 7 at the database")).to_contain_text("stop confirmed")
    expect(rows.filter(has_text="job 12 at the warehouse")).to_contain_text("stop not confirmed")


def test_a_stop_that_could_not_be_confirmed_is_told_so(open_page, run, server: Server) -> None:
    """Contact was lost: the receipt does not claim that all had stopped, and says later when it had."""
    job_id = run("bronze.slow")
    server.wait_until_running(job_id)
    server.cancel(job_id)
    server.wait_until_over(job_id)
    job = server.job(job_id)
    job["cancellation"] |= {
        "outcome": "unconfirmed",
        "escalated_at": None,
        "latency_ms": 17_000,
        "missing_means": ["no pidfd: a process is looked at just before it is signalled, not held"],
    }
    job["tasks"][0] |= {"status": "running", "completed_at": None, "stop": None}
    page = open_page()
    page.route(f"**/api/jobs/{job_id}", lambda route: route.fulfill(body=json.dumps(job)))
    page.goto(f"{server.url}/#/jobs/{job_id}")
    receipt = page.locator("#details-receipt")
    expect(receipt).to_contain_text("17 s later contact to a task was still lost")
    expect(receipt).to_contain_text("The stop goes on being tried")
    expect(receipt).not_to_contain_text("everything had stopped")
    expect(receipt).to_contain_text("no pidfd")
    note = task_row(page, "bronze.slow").locator(".timeline-note")
    expect(note).to_have_text("not confirmed as ended")

    job["cancellation"]["confirmed_at"] = job["cancellation"]["stopped_at"]
    page.reload()
    expect(receipt).to_contain_text("It was confirmed")
    expect(receipt).not_to_contain_text("The stop goes on being tried")


def _never() -> dict[str, str]:
    """A gate that nobody opens."""
    return {"gate": "/nowhere/gate"}
