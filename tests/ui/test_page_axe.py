"""What axe-core finds in every view, in light and dark: nothing serious, whatever is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect
from ui_world import Server

GRAVE = {"serious", "critical"}
# All that it knows; and again what a colour can change.
SCHEMES: dict[Literal["light", "dark"], dict[str, Any]] = {
    "light": {},
    "dark": {"runOnly": ["color-contrast"]},
}


def check(page: Page) -> None:
    """Look at what is shown now in both colour schemes, once everything has faded in."""
    found: list[str] = []
    for scheme, rules in SCHEMES.items():
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        results: dict[str, Any] = Axe().run(page, options=rules).response
        found += [
            f"{scheme} {one['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:300]}"
            for one in results["violations"]
            if one["impact"] in GRAVE
            for node in one["nodes"]
        ]
        assert results["passes"], "it was looked at"
    assert not found, "\n".join(found)


@pytest.fixture
def jobs(run: Callable[..., str], server: Server) -> dict[str, str]:
    """One of each kind: ended well and badly, stopped, stopping, running."""
    made = {
        "success": run("silver.squares", with_dependencies=True, labels={"team": "core"}),
        "failed": run("bronze.failing"),
        "partial": run("bronze.nothing", "bronze.failing"),
        "stopping": run("bronze.hanging"),
        "running": run("gold.long_after_slow", with_dependencies=True),
    }
    for name in ("success", "failed", "partial"):
        server.wait_until_over(made[name])
    for name in ("stopping", "running"):
        server.wait_until_running(made[name])
    server.cancel(made["stopping"])
    return made


@pytest.mark.proof
def test_the_history_and_its_dialogs(open_page, jobs: dict[str, str]) -> None:
    """With every kind of row, a filter, a selection, and the question before a stop."""
    page = open_page("#/history")
    running = page.locator(f".job-item[data-job-id='{jobs['running']}']")
    expect(running.locator(".badge")).to_have_text("running")
    check(page)
    page.get_by_role("button", name="Filter", exact=True).click()
    running.get_by_role("checkbox").check()
    check(page)
    running.get_by_role("button", name="Stop").click()
    expect(page.locator(".stop-lines li").first).to_be_visible()
    check(page)
    page.keyboard.press("Escape")
    page.goto(f"{page.url.partition('#')[0]}#/history?label=team:nobody")
    expect(page.locator("#history-state")).to_contain_text("No job fits the filter")
    check(page)


@pytest.mark.proof
def test_the_details_of_a_job(open_page, jobs: dict[str, str], server: Server) -> None:
    """Timeline, plan, receipt, errors and logs, of every kind of job."""
    page = open_page()
    for job_id in jobs.values():
        page.goto(f"{server.url}/#/jobs/{job_id}")
        expect(page.locator("#details-facts")).to_contain_text(job_id)
        expect(page.locator(".log-note")).not_to_have_text("Reading…")
        check(page)


def test_the_other_tabs(open_page, run, server: Server) -> None:
    """Pipelines, tables with a look into one, settings."""
    server.wait_until_over(run("silver.squares", with_dependencies=True))
    page = open_page("#/pipelines")
    expect(page.locator(".card").first).to_be_visible()
    check(page)
    page.get_by_role("link", name="Tables", exact=True).click()
    page.locator("[data-table='bronze.numbers']").click()
    expect(page.locator(".grid tbody td").first).to_be_visible()
    check(page)
    page.get_by_role("link", name="Settings").click()
    expect(page.locator("#settings-keys")).to_be_visible()
    check(page)


def test_the_sign_in(context: BrowserContext, server: Server, console: Any) -> None:
    """The first thing that anybody sees."""
    console.allow("status of 401 ")
    page = context.new_page()
    page.goto(server.url)
    expect(page.get_by_label("API key")).to_be_visible()
    check(page)


def test_it_is_really_looked_at(open_page) -> None:
    """A heading that nobody can read is found."""
    page = open_page("#/settings")
    page.locator("#settings-title").evaluate("title => { title.style.color = '#8888'; }")
    with pytest.raises(AssertionError, match="color-contrast"):
        check(page)
