"""The history's filter: pipeline, layer, label, who and when, in the URL, and as what a stop of many means."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect
from ui_world import Server


def row_of(page: Page, job_id: str) -> Locator:
    return page.locator(f".job-item[data-job-id='{job_id}']")


def rows_are(page: Page, *job_ids: str) -> None:
    """Just these are listed, in this order."""
    expect(page.locator(".job-item")).to_have_count(len(job_ids))
    for place, job_id in enumerate(job_ids):
        expect(page.locator(".job-item").nth(place)).to_have_attribute("data-job-id", job_id)


@pytest.fixture
def team(run: Callable[..., str], request: pytest.FixtureRequest) -> str:
    """A label that only the jobs of one test have."""
    return f"t{abs(hash(request.node.name))}"


def test_each_condition_narrows_the_list_and_is_kept_in_the_url(
    open_page, run, server: Server, team: str
) -> None:
    """Whoever looks for one job among thousands; the address can be sent to a colleague."""
    numbers = run("bronze.numbers", labels={"team": team, "kind": "load"})
    squares = run("silver.squares", with_dependencies=True, labels={"team": team})
    for job_id in (numbers, squares):
        server.wait_until_over(job_id)
    page = open_page()
    page.get_by_role("button", name="Filter", exact=True).click()
    expect(page.get_by_label("Pipeline", exact=True)).to_be_focused()

    page.get_by_label("Label").fill(f"team:{team}")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(rf"#/history\?label=team%3A{team}$"))
    rows_are(page, squares, numbers)
    page.get_by_label("Layer").select_option("silver")
    rows_are(page, squares)
    page.get_by_label("Layer").select_option("")
    page.get_by_label("Pipeline", exact=True).fill("bronze.numbers")
    page.get_by_label("Who").fill("nobody")
    page.keyboard.press("Enter")
    expect(page.locator("#history-state")).to_contain_text("No job fits the filter")
    page.get_by_label("Who").fill("admin")
    page.keyboard.press("Enter")
    rows_are(page, squares, numbers)  # both have it in their plans

    page.reload()
    rows_are(page, squares, numbers)
    expect(page.get_by_label("Pipeline", exact=True)).to_have_value("bronze.numbers")
    expect(page.locator("#filter-count")).to_have_text("3")
    page.locator(".chip", has_text="failed").click()
    expect(page).to_have_url(
        re.compile(r"status=failed&pipeline=bronze.numbers&label=.*&user_id=admin$")
    )
    rows_are(page)
    page.get_by_role("link", name="Clear filter").click()
    expect(page).to_have_url(re.compile(r"#/history\?status=failed$"))
    expect(page.get_by_label("Pipeline", exact=True)).to_have_value("")
    expect(page.locator("#filter-count")).to_be_empty()
    expect(page.get_by_role("button", name="Filter", exact=True)).to_be_focused()


def test_the_time_is_a_stretch_that_ends_now_or_lies_between_two_instants(
    open_page, run, server: Server, team: str
) -> None:
    """In the reader's own zone; a bookmark of the past hour stays the past hour."""
    job_id = run("bronze.nothing", labels={"team": team})
    created = server.wait_until_over(job_id)["created_at"]
    page = open_page(f"#/history?label={quote(f'team:{team}')}")
    rows_are(page, job_id)
    expect(page.locator("#filter-between")).to_be_hidden()
    page.get_by_label("Created").select_option("past hour")
    expect(page).to_have_url(re.compile(r"within=1h$"))
    rows_are(page, job_id)
    page.get_by_label("Created").select_option("between…")
    page.get_by_label("To", exact=True).fill("2020-02-03T04:05")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"created_before=2020-0"))
    rows_are(page)
    page.reload()
    expect(page.get_by_label("To", exact=True)).to_have_value("2020-02-03T04:05")
    page.goto(f"{server.url}/#/history?created_after={quote(created)}&label=team:{team}")
    rows_are(page, job_id)


def test_a_new_job_enters_only_if_it_fits(open_page, run, server: Server, team: str) -> None:
    """The list follows the jobs by itself, with a filter as without."""
    page = open_page(f"#/history?label=team:{team}")
    expect(page.locator("#history-state")).to_contain_text("No job fits the filter")
    other = run("bronze.slow")
    fits = run("bronze.gated", labels={"team": team}, params={"gate": "/nowhere"})
    expect(row_of(page, fits).locator(".badge")).to_have_text("running")
    server.cancel(other)
    server.wait_until_over(other)
    server.cancel(fits)
    expect(row_of(page, fits).locator(".badge")).to_have_text("cancelled")
    rows_are(page, fits)


def test_what_cannot_be_meant_is_said_and_not_asked(open_page, team: str) -> None:
    """A label without a value; a hand-written address with nonsense in it."""
    page = open_page("#/history?label=nonsense&within=9y&layer=tin&created_after=never")
    expect(page.locator(".job-item, #history-state p").first).to_be_visible()
    expect(page.locator("#filter-count")).to_be_empty()
    page.get_by_role("button", name="Filter", exact=True).click()
    page.get_by_label("Label").fill("nonsense")
    page.keyboard.press("Enter")
    message = page.get_by_label("Label").evaluate("field => field.validationMessage")
    assert message == "Write a label as key:value."
    assert "label=nonsense&within" in page.url, "it went nowhere"


def test_stopping_all_that_match_means_the_whole_filter(
    open_page, run, server: Server, team: str
) -> None:
    """And nothing beside it."""
    mine = run("bronze.slow", labels={"team": team}, job_name="mine")
    other = run("bronze.gated", params={"gate": "/nowhere"}, job_name="other")
    for job_id in (mine, other):
        server.wait_until_running(job_id)
    page = open_page(f"#/history?label=team:{team}")
    rows_are(page, mine)
    page.get_by_role("button", name="Stop all matching").click()
    dialog = page.locator("#stop-dialog")
    expect(dialog.locator("h2")).to_have_text(
        "Stop all jobs that are pending or running and fit the filter?"
    )
    expect(dialog.locator(".stop-lines li")).to_have_text(["1 job will stop mine"])
    dialog.get_by_role("button", name="Stop 1 job").click()
    expect(row_of(page, mine).locator(".badge")).to_have_text("cancelled")
    assert server.job(other)["status"] == "running"
