"""Stopping on the page: the dialog, its keys, its modes, and force for what hangs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from ui_console import Console
from ui_world import Server

KEYS_TO_STOP_MAX = 6


def row_of(page: Page, job_id: str) -> Locator:
    return page.locator(f".job-item[data-job-id='{job_id}']")


@pytest.fixture
def slow_job(run, server: Server) -> str:
    """A job whose first pipeline runs, with two more that wait for it."""
    job_id = run("gold.long_after_slow", with_dependencies=True, job_name="nightly load")
    server.wait_until_running(job_id)
    return job_id


def ask(page: Page, job_id: str) -> Locator:
    """Press Stop in the job's row and return the dialog, once it shows the dry run."""
    row_of(page, job_id).get_by_role("button", name="Stop").click()
    dialog = page.locator("#stop-dialog")
    expect(dialog.locator(".stop-lines li").first).to_be_visible()
    return dialog


def test_the_dialog_says_what_a_stop_would_do(open_page, slow_job: str, server: Server) -> None:
    """Nobody presses Stop blindly: what stops, what will not start, what stays; by mode."""
    page = open_page()
    dialog = ask(page, slow_job)
    expect(dialog.locator("h2")).to_have_text("Stop “nightly load”?")
    lines = dialog.locator(".stop-lines li")
    expect(lines.nth(0)).to_have_text(re.compile("^1 task stops at its next checkpoint"))
    expect(lines.nth(0)).to_contain_text(re.compile(r"bronze\.slow|in about"))
    expect(lines.nth(1)).to_have_text(
        "2 pipelines will not start silver.after_slow, gold.long_after_slow"
    )

    dialog.get_by_label("Drain").check()
    expect(lines.nth(0)).to_have_text("1 task runs to its end bronze.slow")
    dialog.get_by_label("Force").check()
    expect(lines.nth(0)).to_have_text("1 task is killed at once bronze.slow")
    assert server.job(slow_job)["status"] == "running", "a dry run changes nothing"


def test_escape_leaves_the_job_alone(open_page, slow_job: str, server: Server) -> None:
    """The way out is one key, and leads back to where one was."""
    page = open_page()
    dialog = ask(page, slow_job)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(row_of(page, slow_job).get_by_role("button", name="Stop")).to_be_focused()
    expect(page.locator("#view-history")).to_be_visible()
    assert server.job(slow_job)["status"] == "running"

    ask(page, slow_job).get_by_role("button", name="Keep running").click()
    expect(dialog).to_be_hidden()
    assert server.job(slow_job)["status"] == "running"


def test_enter_stops_and_the_reason_is_kept(open_page, slow_job: str, server: Server) -> None:
    """Enter in the reason's field stops the job; its receipt says why."""
    page = open_page()
    dialog = ask(page, slow_job)
    dialog.get_by_label("Reason").fill("wrong month 🗓")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(row_of(page, slow_job).locator(".badge")).to_have_text("cancelled")
    stopped = server.wait_until_over(slow_job)
    assert stopped["cancellation"]["reason"] == "wrong month 🗓"
    assert stopped["cancellation"]["mode"] == "graceful"
    assert stopped["cancellation"]["not_started"] == ["silver.after_slow", "gold.long_after_slow"]


def test_the_keyboard_alone_stops_a_job_in_few_keys(open_page, slow_job: str) -> None:
    """From a fresh page: past the navigation, to the newest job's Stop, and yes."""
    page = open_page()
    expect(row_of(page, slow_job)).to_be_visible()
    keys = ["Tab", "Enter"]  # Skip to content.
    keys += ["Tab", "Tab"]  # Its name, its Stop.
    for key in keys:
        page.keyboard.press(key)
    expect(row_of(page, slow_job).get_by_role("button", name="Stop")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#stop-confirm")).to_be_focused()
    page.keyboard.press("Enter")
    expect(row_of(page, slow_job).locator(".badge")).to_have_text("cancelled")
    assert len(keys) + 2 <= KEYS_TO_STOP_MAX
    expect(row_of(page, slow_job).get_by_role("button", name="View Details")).to_be_focused()


def test_a_hanging_job_is_stopped_by_force_while_it_is_stopping(
    open_page, run, server: Server
) -> None:
    """`cancelled` at once; while a task hangs, Stop now ends it; then nothing is left to press."""
    job_id = run("bronze.hanging")
    server.wait_until_running(job_id)
    page = open_page()
    row = row_of(page, job_id)
    ask(page, job_id).get_by_role("button", name="Stop job").click()
    expect(row.locator(".badge")).to_have_text("cancelled")
    expect(row.locator(".job-took")).to_have_text("stopping")

    row.get_by_role("button", name="Stop now").click()
    dialog = page.locator("#stop-dialog")
    expect(dialog.locator("h2")).to_have_text(re.compile(r"^Stop “.+” now\?$"))
    expect(dialog.locator(".stop-lines")).to_contain_text("1 task is killed at once")
    expect(dialog.get_by_label("Drain")).to_be_hidden()
    dialog.get_by_role("button", name="Stop now").click()

    expect(row.locator(".btn-danger")).to_have_count(0)
    receipt = server.wait_until_over(job_id)["cancellation"]
    assert receipt["mode"] == "force"
    assert [one["stage"] for one in receipt["stopped"]] == ["kill"]
    row.locator(".job-name").click()
    expect(page.locator("#details-receipt")).to_contain_text("killed (SIGKILL)")
    expect(page.locator("#details-receipt")).to_contain_text(
        re.compile(r"admin stopped this job .+, and by force .+ later; .+ after the request")
    )


def test_the_dialog_follows_a_job_that_ends_meanwhile(
    open_page, slow_job: str, server: Server, console: Console
) -> None:
    """Whoever hesitates is told, and cannot stop what is over."""
    console.allow(r"status of 400 .*dry_run=true$")  # It may be asking as the job ends.
    page = open_page()
    dialog = ask(page, slow_job)
    server.cancel(slow_job)
    expect(dialog.locator("#stop-error")).to_contain_text("There is nothing to stop")
    expect(dialog.get_by_role("button", name="Stop job")).to_be_disabled()


def test_the_dialog_follows_a_job_that_goes_on(
    open_page, run, server: Server, tmp_path: Path
) -> None:
    """What a stop would do is true when it is read, not only when it was asked."""
    gate = tmp_path / "gate"
    job_id = run("bronze.gated", "bronze.slow", params={"gate": str(gate)})
    server.wait_until(job_id, "runs both", lambda job: len(job["tasks"]) == 2)
    page = open_page()
    dialog = ask(page, job_id)
    lines = dialog.locator(".stop-lines")
    expect(lines).to_contain_text("2 tasks stop at their next checkpoint")
    expect(lines).not_to_contain_text("as published")

    gate.touch()

    expect(lines).to_contain_text("1 task stops at its next checkpoint")
    expect(lines).to_contain_text("1 table stays as published bronze.gated")
