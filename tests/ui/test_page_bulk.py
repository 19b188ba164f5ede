"""Stopping many jobs from the History tab: ticks, ranges, the keyboard, and all that a filter means."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, Route, expect
from ui_world import Server

NARROW = {"width": 320, "height": 640}


def row_of(page: Page, job_id: str) -> Locator:
    return page.locator(f".job-item[data-job-id='{job_id}']")


def box_of(page: Page, job_id: str) -> Locator:
    return row_of(page, job_id).get_by_role("checkbox")


@pytest.fixture
def three(run: Callable[..., str], server: Server) -> list[str]:
    """Three jobs, oldest first: one runs, the others wait for the table."""
    job_ids = [run("bronze.slow", job_name=f"load {number}") for number in (1, 2, 3)]
    server.wait_until_running(job_ids[0])
    return job_ids


def ask(page: Page, button: str) -> Locator:
    """Press the button and return the dialog, once it shows what a stop would do."""
    page.get_by_role("button", name=button, exact=True).click()
    dialog = page.locator("#stop-dialog")
    expect(dialog.locator(".stop-lines li").first).to_be_visible()
    return dialog


def test_ticked_jobs_are_stopped_together(open_page, three: list[str], server: Server) -> None:
    """Tick two, look at what would happen, stop them; the third one is left alone."""
    page = open_page(role="operator")
    expect(page.locator("#bulk")).to_be_hidden()
    box_of(page, three[0]).check()
    box_of(page, three[2]).check()
    expect(page.locator("#bulk-count")).to_have_text("2 jobs selected")
    assert page.url.endswith("/"), "ticking does not open the details"

    dialog = ask(page, "Stop selected")
    expect(dialog.locator("h2")).to_have_text("Stop 2 selected jobs?")
    expect(dialog.locator("li")).to_have_text(["2 jobs will stop load 1, load 3"])
    dialog.get_by_label("Force").check()
    expect(dialog.locator("li")).to_have_text(["2 jobs are killed at once load 1, load 3"])
    dialog.get_by_label("Graceful").check()
    assert server.job(three[0])["status"] == "running", "a dry run changes nothing"
    dialog.get_by_label("Reason").fill("wrong month")
    page.keyboard.press("Enter")

    expect(dialog).to_be_hidden()
    for job_id in (three[0], three[2]):
        expect(row_of(page, job_id).locator(".badge")).to_have_text("cancelled")
        assert server.wait_until_over(job_id)["cancellation"]["reason"] == "wrong month"
    expect(page.locator(".toast")).to_have_text(re.compile(r"^2 jobs stopped\."))
    expect(page.locator("#bulk")).to_be_hidden()
    expect(page.locator(".job-item :checked")).to_have_count(0)
    assert server.job(three[1])["status"] in ("pending", "running")


def test_a_range_is_ticked_with_shift_or_with_arrows(open_page, run, server: Server) -> None:
    """From one click to the next one; ended jobs between are not meant. With keys alone: arrows, then Enter."""
    first = run("bronze.slow")
    server.wait_until_running(first)
    ended = run("bronze.nothing")
    server.wait_until_over(ended)
    others = [run("bronze.slow") for _ in range(2)]
    page = open_page()
    box_of(page, others[1]).click()
    box_of(page, first).click(modifiers=["Shift"])
    for job_id in (first, *others):
        expect(box_of(page, job_id)).to_be_checked()
    expect(box_of(page, ended)).not_to_be_checked()
    expect(page.locator("#bulk-count")).to_have_text("3 jobs selected")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".job-item :checked")).to_have_count(0)
    expect(page.locator("#bulk")).to_be_hidden()
    expect(box_of(page, others[1])).to_be_focused()

    page.keyboard.press("Shift+ArrowDown")
    expect(box_of(page, others[0])).to_be_focused()
    expect(page.locator("#bulk-count")).to_have_text("2 jobs selected")
    page.keyboard.press("ArrowDown")
    expect(box_of(page, ended)).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.locator("#stop-dialog")
    expect(dialog.locator("h2")).to_have_text("Stop 2 selected jobs?")
    expect(page.locator("#stop-confirm")).to_be_focused()
    page.keyboard.press("Enter")
    for job_id in others:
        expect(row_of(page, job_id).locator(".badge")).to_have_text("cancelled")
    expect(dialog).to_be_hidden()
    assert server.job(first)["status"] == "running"


def test_what_is_ticked_stays_so_while_jobs_come_and_end(
    open_page, three: list[str], run, server: Server
) -> None:
    """The list moves under the reader's hand; the selection does not. Who has ended meanwhile is told."""
    page = open_page()
    box_of(page, three[0]).check()
    box_of(page, three[1]).check()
    handle = box_of(page, three[0]).element_handle()
    newer = run("bronze.nothing")
    expect(row_of(page, newer).locator(".badge")).to_have_text("success")
    server.cancel(three[1], mode="force")
    expect(row_of(page, three[1]).locator(".badge")).to_have_text("cancelled")
    for job_id in three[:2]:
        expect(box_of(page, job_id)).to_be_checked()
    assert handle.is_checked(), "it is the same box"
    server.wait_until_over(three[1])

    dialog = ask(page, "Stop selected")
    expect(dialog.locator("li")).to_have_text(
        ["1 job will stop load 1", "1 job has ended meanwhile and stays as it is"]
    )
    server.cancel(three[0], mode="force")
    server.wait_until_over(three[0])
    expect(dialog.locator("li")).to_have_text(["2 jobs have ended meanwhile and stay as they are"])
    expect(page.locator("#stop-confirm")).to_be_hidden()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    page.locator(".chip", has_text="success").click()
    expect(page.locator("#bulk")).to_be_hidden()  # Nobody stops what is not seen to be selected.


def test_new_jobs_push_no_selected_one_out(open_page, run, server: Server) -> None:
    """The list holds the newest fifty; who was selected stays, and can be stopped, however many come."""
    job_id = run("bronze.slow")
    server.wait_until_running(job_id)
    page = open_page()
    box_of(page, job_id).check()
    newer = [run("bronze.nothing") for _ in range(52)]
    expect(row_of(page, newer[-1]).locator(".badge")).to_have_text("success")
    expect(row_of(page, newer[0])).to_have_count(0)
    expect(box_of(page, job_id)).to_be_checked()
    ask(page, "Stop selected").get_by_role("button", name="Stop 1 job").click()
    expect(row_of(page, job_id).locator(".badge")).to_have_text("cancelled")


def test_all_that_a_filter_means_is_stopped_and_no_more(open_page, own_server: Server) -> None:
    """Exactly the jobs of the dry run: one that came while the dialog was read goes on."""
    meant = [own_server.run("bronze.slow", job_name=f"load {number}") for number in (1, 2)]
    own_server.wait_until_running(meant[0])
    page = open_page("#/history?status=pending&status=running", at=own_server)
    for job_id in meant:
        expect(row_of(page, job_id)).to_be_visible()
    dialog = ask(page, "Stop all matching")
    expect(dialog.locator("h2")).to_have_text("Stop all jobs that are pending or running?")
    expect(dialog.locator("li")).to_have_text(["2 jobs will stop load 2, load 1"])
    later = own_server.run("bronze.slow", job_name="later")
    expect(row_of(page, later)).to_be_visible()
    own_server.cancel(meant[1])
    own_server.wait_until_over(meant[1])
    expect(dialog.locator("li")).to_have_text(
        ["1 job will stop load 1", "1 job has ended meanwhile and stays as it is"]
    )

    dialog.get_by_role("button", name="Stop 1 job").click()

    expect(page.locator(".toast")).to_have_text(re.compile("^1 job stopped; 1 had ended before"))
    assert own_server.wait_until_over(meant[0])["status"] == "cancelled"
    assert own_server.job(later)["cancellation"] is None
    own_server.cancel(later, mode="force")
    own_server.wait_until_over(later)


def test_with_nothing_to_stop_the_button_says_so(open_page, own_server: Server) -> None:
    """It is not dead: it answers. Where a filter can mean nothing that runs, it is away."""
    page = open_page(at=own_server)
    dialog = ask(page, "Stop all matching")
    expect(dialog.locator("li")).to_have_text(["No job is so now There is nothing to stop."])
    expect(page.locator("#stop-confirm")).to_be_hidden()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop all matching")).to_be_focused()
    page.locator(".chip", has_text="failed").click()
    expect(page.get_by_role("button", name="Stop all matching")).to_be_hidden()


def test_the_events_of_a_stop_of_many_may_come_before_its_answer(
    open_page, three: list[str], server: Server
) -> None:
    """Then the rows are right already, and the answer does not make them stopping again."""
    page = open_page()
    for job_id in three:
        box_of(page, job_id).check()

    def late(route: Route) -> None:
        answer = route.fetch()
        if '"dry_run":true' not in (route.request.post_data or ""):
            for job_id in three:
                server.wait_until_over(job_id)
                expect(row_of(page, job_id).locator(".job-took")).not_to_have_text("stopping")
        route.fulfill(response=answer)

    page.route("**/api/jobs/cancel", late)
    ask(page, "Stop selected").get_by_role("button", name="Stop 3 jobs").click()
    expect(page.locator("#stop-dialog")).to_be_hidden()
    for job_id in three:
        expect(row_of(page, job_id).locator(".badge")).to_have_text("cancelled")
        expect(row_of(page, job_id).locator(".btn-danger")).to_have_count(0)


def test_hanging_jobs_are_killed_together(open_page, run, server: Server) -> None:
    """Jobs that are stopping already can be selected, and force ends them."""
    job_id = run("bronze.hanging", job_name="hangs")
    server.wait_until_running(job_id)
    server.cancel(job_id)
    page = open_page()
    expect(row_of(page, job_id).locator(".job-took")).to_have_text("stopping")
    box_of(page, job_id).check()
    dialog = ask(page, "Stop selected")
    expect(dialog.locator("li")).to_have_text(["1 job is stopping already hangs"])
    expect(page.locator("#stop-confirm")).to_be_hidden()
    dialog.get_by_label("Force").check()
    expect(dialog.locator("li")).to_have_text(["1 job that is stopping already is killed hangs"])
    dialog.get_by_role("button", name="Stop 1 job").click()
    assert server.wait_until_over(job_id)["cancellation"]["mode"] == "force"
    expect(row_of(page, job_id).locator(".btn-danger")).to_have_count(0)


def test_only_who_may_stop_can_tick(open_page, three: list[str]) -> None:
    """A viewer sees no box and no button."""
    page = open_page(role="viewer")
    expect(row_of(page, three[0])).to_be_visible()
    expect(page.get_by_role("checkbox")).to_have_count(0)
    expect(page.get_by_role("button", name="Stop all matching")).to_be_hidden()


def test_the_selection_fits_a_small_screen(open_page, three: list[str]) -> None:
    """The bar lies within the screen and moves no row; the list does not scroll sideways."""
    page = open_page()
    page.set_viewport_size(NARROW)
    box = box_of(page, three[2])
    expect(box).to_be_visible()
    before = row_of(page, three[2]).bounding_box()
    box.check()
    bar = page.locator("#bulk").bounding_box()
    assert bar is not None
    assert bar["x"] >= 0
    assert bar["x"] + bar["width"] <= NARROW["width"]
    assert row_of(page, three[2]).bounding_box() == before
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
