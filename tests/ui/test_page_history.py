"""The History tab: it follows the jobs by itself, filters by its URL, and reads older pages."""

from __future__ import annotations

import re
import time
from pathlib import Path

from playwright.sync_api import Locator, Page, Route, expect
from ui_world import Server

NAME = '<img src=x onerror=alert(1)> & 🛫 "it\'s" </li>'


def row_of(page: Page, job_id: str) -> Locator:
    return page.locator(f".job-item[data-job-id='{job_id}']")


def test_jobs_appear_progress_and_end_without_a_reload(open_page, run, server: Server) -> None:
    """Whoever watches the page sees what happens, whoever made it happen."""
    page = open_page()
    page.evaluate("window.sameDocument = true")

    job_id = run("bronze.slow")

    row = row_of(page, job_id)
    expect(row.locator(".badge")).to_have_text("running")
    expect(row.locator(".job-who")).to_have_text("admin · api")
    expect(row.locator(".job-count")).to_have_text("0/1")
    expect(page.locator(".job-item").first).to_have_attribute("data-job-id", job_id)
    seen = row.locator("progress").evaluate("bar => bar.value")
    page.wait_for_function(
        "([bar, seen]) => bar.value > seen", arg=[row.locator("progress").element_handle(), seen]
    )
    server.cancel(job_id)
    expect(row.locator(".badge")).to_have_text("cancelled")
    expect(row.locator(".btn-danger")).to_have_count(0)
    assert page.evaluate("window.sameDocument") is True


def test_an_end_that_comes_while_the_list_is_read_is_not_lost(
    open_page, run, server: Server, tmp_path: Path
) -> None:
    """The answer shows the job as it was before; the page must ask again, or the row runs for ever."""
    page = open_page()
    gate = tmp_path / "gate"
    held: list[str] = []

    def hold(route: Route) -> None:
        answer = route.fetch()
        if held and held[0] not in held[1:] and held[0] in answer.text():
            held.append(held[0])
            gate.touch()
            server.wait_until_over(held[0])
            time.sleep(0.5)  # the events reach the page by their own connection
        route.fulfill(response=answer)

    page.route("**/api/jobs?*", hold)
    held.append(run("bronze.gated", params={"gate": str(gate)}))
    expect(row_of(page, held[0]).locator(".badge")).to_have_text("success")
    assert len(held) == 2, "the list was never read while the job ran"


def test_every_end_has_its_word(open_page, run) -> None:
    """Success, failure and partial success are told apart by a word, not by colour alone."""
    page = open_page()
    jobs = {
        run("bronze.nothing"): "success",
        run("silver.after_failing", with_dependencies=True): "failed",
        run("bronze.nothing", "bronze.failing"): "partial",
    }
    for job_id, status in jobs.items():
        badge = row_of(page, job_id).locator(".badge")
        expect(badge).to_have_text(status)
        expect(badge).to_have_class(re.compile(rf"\bbadge-{status}\b"))


def test_the_filter_lives_in_the_url(open_page, run, server: Server) -> None:
    """A filtered view can be bookmarked, sent to someone, reloaded and left by going back."""
    failed, slow = run("bronze.failing"), run("bronze.slow")
    server.wait_until_over(failed)
    page = open_page()
    page.locator(".chip", has_text="failed").click()
    expect(page).to_have_url(re.compile(r"#/history\?status=failed$"))
    expect(row_of(page, slow)).to_have_count(0)
    expect(row_of(page, failed)).to_be_visible()
    assert set(page.locator(".job-item .badge").all_inner_texts()) == {"failed"}

    page.locator(".chip", has_text="running").click()
    expect(page).to_have_url(re.compile(r"status=failed&status=running$"))
    page.reload()
    expect(row_of(page, slow)).to_be_visible()
    expect(row_of(page, failed)).to_be_visible()

    page.go_back()
    expect(row_of(page, slow)).to_have_count(0)
    page.go_back()
    expect(row_of(page, slow)).to_be_visible()


def test_a_job_that_leaves_the_filter_is_seen_to_change_and_then_goes(
    open_page, run, server: Server
) -> None:
    """A row that vanished at once would leave its reader guessing."""
    job_id = run("bronze.slow")
    page = open_page("#/history?status=pending&status=running")
    row = row_of(page, job_id)
    expect(row.locator(".badge")).to_have_text("running")

    server.cancel(job_id)

    expect(row.locator(".badge")).to_have_text("cancelled")
    expect(row).to_have_count(0)


def test_a_row_that_the_list_no_longer_holds_is_still_seen_to_change(
    open_page, run, server: Server
) -> None:
    """The list may be read after the job left the filter and before its event reached the page."""
    job_id = run("bronze.slow")
    page = open_page("#/history?status=pending&status=running")
    row = row_of(page, job_id)
    expect(row.locator(".badge")).to_have_text("running")
    page.evaluate("() => { window.sawCancelled = false; }")
    page.evaluate(
        """id => new MutationObserver(() => {
            const badge = document.querySelector(`[data-job-id="${id}"] .badge`);
            if (badge?.textContent.includes("cancelled")) window.sawCancelled = true;
        }).observe(document.getElementById("job-list"), { subtree: true, childList: true })""",
        job_id,
    )
    read: list[str] = []

    def stop_first(route: Route) -> None:
        if not read:
            read.append(route.request.url)
            server.cancel(job_id)
        route.continue_()

    page.route("**/api/jobs?*", stop_first)
    run("bronze.slow")

    expect(row).to_have_count(0)
    assert read, "the list was never read again"
    assert page.evaluate("() => window.sawCancelled")


def test_older_jobs_are_loaded_on_demand(open_page, run, server: Server) -> None:
    """Fifty at a time; what is loaded stays while new jobs come in at the top."""
    older = [run("bronze.nothing") for _ in range(52)]
    server.wait_until_over(older[-1])
    page = open_page()
    rows = page.locator(".job-item")
    expect(rows).to_have_count(50)
    expect(row_of(page, older[0])).to_have_count(0)

    page.get_by_role("button", name="Load more").click()

    expect(row_of(page, older[0])).to_have_count(1)
    loaded = rows.count()
    newest = run("bronze.nothing")
    expect(rows.first).to_have_attribute("data-job-id", newest)
    expect(rows).to_have_count(loaded + 1)
    shown = rows.evaluate_all("rows => rows.map(row => row.dataset.jobId)")
    assert shown == sorted(shown, reverse=True), "newest first, and none twice"


def test_a_name_is_text_wherever_it_is_shown(open_page, run) -> None:
    """Names come from whoever may run a job; on this page they are never markup."""
    job_id = run("bronze.slow", job_name=NAME, params={"<b>": "<i>x</i>"}, labels={"a": "<u>"})
    page = open_page()
    row = row_of(page, job_id)
    expect(row.locator(".job-name")).to_have_text(NAME)
    row.get_by_role("button", name="Stop").click()
    expect(page.locator("#stop-title")).to_have_text(f"Stop “{NAME}”?")
    page.keyboard.press("Escape")
    row.get_by_role("button", name="View Details").click()
    expect(page.locator("#details-title")).to_have_text(NAME)
    expect(page.locator("#details-params")).to_contain_text("<i>x</i>")
    expect(page).to_have_title(re.compile(re.escape(NAME)))
    assert page.locator("main img, main i, main u").count() == 0


def test_an_empty_history_says_what_to_do(open_page, own_server: Server) -> None:
    """The first thing a new user sees: no jobs, and where to start one."""
    page = open_page(at=own_server)
    expect(page.locator("#history-state")).to_contain_text("No jobs yet")
    page.get_by_role("link", name="Choose a pipeline to run").click()
    expect(page.get_by_role("heading", name="Pipelines")).to_be_visible()

    page.goto(f"{own_server.url}/#/history?status=partial")
    expect(page.locator("#history-state")).to_contain_text("No job is partial")
    expect(page.get_by_role("link", name="Show all jobs")).to_be_visible()

    page.goto(f"{own_server.url}/#/tables")
    expect(page.locator("#table-body")).to_contain_text("No tables yet")
