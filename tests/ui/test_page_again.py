"""Resume, Run again and Roll back on a job's page: their previews, what comes of them, and who was faster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect
from ui_console import Console
from ui_world import Server


@pytest.fixture
def stopped_job(own_server: Server, tmp_path: Path) -> tuple[str, Path]:
    """A job stopped halfway: one table whole, one with its first rows, one not begun; and its gate."""
    gate = tmp_path / "gate"
    job_id = own_server.run(
        "bronze.numbers", "silver.after_paged", with_dependencies=True, params={"gate": str(gate)}
    )

    def is_halfway(job: dict) -> bool:
        tasks = {task["pipeline_name"]: task for task in job["tasks"]}
        return (
            tasks.get("numbers", {}).get("status") == "success"
            and (tasks.get("paged", {}).get("stats") or {}).get("rows") == 3
        )

    own_server.wait_until(job_id, "has committed its first rows", is_halfway)
    own_server.cancel(job_id, reason="wrong gate")
    own_server.wait_until_over(job_id)
    return job_id, gate


def action(page: Page, name: str) -> Locator:
    return page.locator(".details-head").get_by_role("button", name=name, exact=True)


def ask(page: Page, name: str) -> Locator:
    """Press the button and return the dialog, once it shows what would be done."""
    action(page, name).click()
    dialog = page.locator("#again-dialog")
    expect(dialog.locator(".stop-lines li").first).to_be_visible()
    return dialog


def test_a_stopped_job_is_resumed_and_its_page_leads_there(
    open_page, own_server: Server, stopped_job: tuple[str, Path]
) -> None:
    """What stays, what goes on after what, what starts over; then the new job, linked both ways."""
    job_id, gate = stopped_job
    page = open_page(f"#/jobs/{job_id}", at=own_server, role="operator")
    expect(action(page, "Roll back")).to_have_count(0)  # That takes an admin.
    dialog = ask(page, "Resume")
    expect(dialog.locator("li")).to_have_text(
        [
            "1 table stays as it is bronze.numbers",
            "bronze.paged goes on after 3 rows",
            "1 pipeline starts over silver.after_paged",
        ]
    )
    expect(dialog.get_by_role("button", name="Resume")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(action(page, "Resume")).to_be_focused()
    assert own_server.job(job_id)["resumed_by"] is None, "a dry run changes nothing"

    gate.touch()
    ask(page, "Resume")
    page.keyboard.press("Enter")

    expect(page).not_to_have_url(re.compile(job_id))
    expect(page.locator("#view-details .details-badge")).to_have_text("success")
    expect(page.locator("#details-title")).to_be_focused()
    successor = page.url.rpartition("/")[2]
    assert own_server.job(job_id)["resumed_by"] == successor
    expect(page.locator(".details-origin")).to_contain_text("by operator · resumes")
    assert own_server.get("/api/tables/bronze.paged")["row_count"] == 4, "each row once"

    page.locator(".details-origin a").click()
    expect(page).to_have_url(re.compile(f"{job_id}$"))
    expect(page.locator(".details-origin a")).to_have_attribute("href", f"#/jobs/{successor}")
    expect(action(page, "Run again")).to_be_visible()
    expect(action(page, "Resume")).to_have_count(0)


def test_somebody_else_was_faster_to_resume(
    open_page, own_server: Server, stopped_job: tuple[str, Path], console: Console
) -> None:
    """The dialog says so, and leads to the job that goes on; nothing is resumed twice."""
    job_id, gate = stopped_job
    gate.touch()
    page = open_page(f"#/jobs/{job_id}", at=own_server)
    dialog = ask(page, "Resume")

    successor = own_server.post(f"/api/jobs/{job_id}/resume")["job_id"]

    console.allow(r"status of 409 .*/resume\?dry_run=true$")  # It may be asking in that moment.
    expect(dialog.locator("#again-error")).to_contain_text("It was resumed already, as job")
    expect(dialog.get_by_role("button", name="Resume")).to_be_disabled()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    dialog.locator("#again-error a").click()
    expect(dialog).to_be_hidden()
    expect(page).to_have_url(re.compile(f"{successor}$"))
    expect(page.locator("#view-details .details-badge")).to_have_text("success")


def test_a_refusal_is_told_in_the_dialog(
    open_page, own_server: Server, stopped_job: tuple[str, Path], console: Console
) -> None:
    """The 409 itself, when no event told of it: the answer to the confirmation."""
    job_id, gate = stopped_job
    gate.touch()
    console.allow(r"status of 409 .*/resume$")
    page = open_page(f"#/jobs/{job_id}", at=own_server)

    def resume_first(route: Route) -> None:
        own_server.post(f"/api/jobs/{job_id}/resume")
        route.continue_()

    page.route("**/resume", resume_first)
    dialog = ask(page, "Resume")
    dialog.get_by_role("button", name="Resume").click()
    expect(dialog.locator("#again-error")).to_contain_text("It was resumed already, as job")
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator(".details-origin")).to_contain_text("resumed as")
    expect(action(page, "Resume")).to_have_count(0)
    expect(page.locator("#details-title")).to_be_focused()


def test_the_event_of_a_resume_may_come_before_its_answer(
    open_page, own_server: Server, stopped_job: tuple[str, Path]
) -> None:
    """The page must not take its own resume for somebody else's."""
    job_id, gate = stopped_job
    gate.touch()
    page = open_page(f"#/jobs/{job_id}", at=own_server)

    def late(route: Route) -> None:
        answer = route.fetch()
        expect(page.locator(".details-origin")).to_contain_text("resumed as")
        expect(page.locator("#again-error")).to_be_empty()
        route.fulfill(response=answer)

    page.route("**/resume", late)
    dialog = ask(page, "Resume")
    dialog.get_by_role("button", name="Resume").click()
    expect(page).not_to_have_url(re.compile(job_id))
    expect(dialog).to_be_hidden()
    expect(page.locator("#view-details .details-badge")).to_have_text("success")


def test_a_job_is_run_again(open_page, run, server: Server) -> None:
    """The whole plan with the same parameters; a double click is one job."""
    job_id = run("silver.squares", with_dependencies=True, params={"month": 3})
    server.wait_until_over(job_id)
    page = open_page(f"#/jobs/{job_id}")
    expect(action(page, "Resume")).to_have_count(0)
    action(page, "Run again").dblclick()
    expect(page).not_to_have_url(re.compile(job_id))
    expect(page.locator("#view-details .details-badge")).to_have_text("success")
    expect(page.locator(".details-progress .job-count")).to_have_text("2 of 2 tasks")
    expect(page.locator("#details-params")).to_contain_text("month")
    jobs = server.get("/api/jobs?trigger=rerun")["jobs"]
    assert [job["params"] for job in jobs] == [{"month": 3}]


def test_what_a_job_published_is_rolled_back(open_page, own_server: Server) -> None:
    """Back to the version before it, or empty; asked for with the focus on the way out; then it says who and when."""
    own_server.wait_until_over(own_server.run("bronze.numbers"))
    job_id = own_server.run("silver.squares", with_dependencies=True)
    own_server.wait_until_over(job_id)
    before = own_server.get("/api/tables/bronze.numbers")["version"]
    page = open_page(f"#/jobs/{job_id}", at=own_server)
    dialog = ask(page, "Roll back")
    expect(dialog.locator("li")).to_have_text(
        [
            re.compile(rf"^bronze\.numbers from version {before} back to version \d+$"),
            re.compile(r"^silver\.squares becomes empty, is at version \d+$"),
        ]
    )
    page.set_viewport_size({"width": 320, "height": 640})
    assert dialog.evaluate("box => box.scrollWidth <= box.clientWidth"), "it fits a small screen"
    expect(dialog.get_by_role("button", name="Leave as it is")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(action(page, "Roll back")).to_be_focused()
    assert own_server.job(job_id)["rollback"] is None, "a dry run changes nothing"

    ask(page, "Roll back").get_by_role("button", name="Roll back 2 tables").click()

    expect(dialog).to_be_hidden()
    record = page.locator("#details-rollback")
    expect(record).to_contain_text("admin rolled this job back just now: 2 tables hold again")
    expect(record.locator("tbody tr")).to_have_count(2)
    expect(record.locator("tbody tr", has_text="squares")).to_contain_text("empty")
    expect(record.locator("time")).to_have_attribute("datetime", re.compile("Z$"))
    expect(action(page, "Roll back")).to_have_count(0)
    expect(page.locator("#details-title")).to_be_focused()
    assert own_server.get("/api/tables/silver.squares")["row_count"] == 0
    assert own_server.get("/api/tables/bronze.numbers")["row_count"] == 3


def test_a_rollback_that_is_refused_says_why(
    open_page, own_server: Server, console: Console
) -> None:
    """A later job has changed the table: that is told in words, and nothing can be pressed by mistake."""
    job_id = own_server.run("bronze.numbers")
    own_server.wait_until_over(job_id)
    own_server.wait_until_over(own_server.run("bronze.numbers"))
    console.allow(r"status of 409 .*/rollback\?dry_run=true$")
    page = open_page(f"#/jobs/{job_id}", at=own_server)
    action(page, "Roll back").click()
    dialog = page.locator("#again-dialog")
    expect(dialog.locator("#again-error")).to_contain_text("bronze.numbers")
    expect(dialog.locator("#again-error")).to_contain_text(re.compile("^Cannot roll back.+since"))
    expect(dialog.locator("#again-confirm")).to_be_disabled()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()


def test_a_preview_that_did_not_come_can_be_asked_for_again(open_page, own_server: Server) -> None:
    """Nobody rolls back unseen; and no button is dead."""
    job_id = own_server.run("bronze.numbers")
    own_server.wait_until_over(job_id)
    page = open_page(f"#/jobs/{job_id}", at=own_server)
    lost: list[str] = []

    def lose_once(route: Route) -> None:
        if lost:
            route.continue_()
            return
        lost.append(route.request.url)
        route.fulfill(status=200, body="no JSON: a proxy's page")

    page.route("**/rollback?dry_run=true", lose_once)
    action(page, "Roll back").click()
    dialog = page.locator("#again-dialog")
    expect(dialog.locator("#again-preview")).to_contain_text("could not be worked out")
    dialog.get_by_role("button", name="Try again").click()
    expect(dialog.get_by_role("button", name="Roll back 1 table")).to_be_visible()
    assert own_server.job(job_id)["rollback"] is None


def test_a_viewer_is_offered_nothing(open_page, run, server: Server) -> None:
    """What a role may not do is not offered."""
    job_id = run("bronze.numbers", "bronze.failing")
    server.wait_until_over(job_id)
    page = open_page(f"#/jobs/{job_id}", role="viewer")
    expect(page.locator("#view-details .details-badge")).to_have_text("partial")
    expect(page.locator(".details-head button")).to_have_count(0)
