"""Pipelines, Tables and Settings; and every view where there is little room."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect
from ui_console import Console
from ui_world import PIPELINES, Server

REQUESTS_MAX = 40
NARROW = {"width": 320, "height": 640}


def run_by_button(page: Page, server: Server, name: str) -> dict:
    """Press a Run button; return the job, which the page now shows in the history."""
    with page.expect_response("**/api/jobs") as created:
        page.get_by_role("button", name=name, exact=True).click()
    job_id = created.value.json()["job_id"]
    expect(page.locator(f"#job-name-{job_id}")).to_be_focused()
    return server.job(job_id)


def planned(job: dict) -> list[str]:
    return [step["pipeline"] for step in job["plan"]]


def test_pipelines_are_run_alone_or_with_dependencies(open_page, server: Server) -> None:
    """Each card runs its pipeline, and leads to the job that it made."""
    page = open_page("#/pipelines")
    card = page.locator(".card[data-pipeline='silver.squares']")
    expect(card).to_contain_text("bronze.numbers")
    job = run_by_button(page, server, "Run with dependencies: silver.squares")
    assert planned(job) == ["bronze.numbers", "silver.squares"]
    assert job["trigger"] == "ui"
    server.wait_until_over(job["job_id"])

    page.get_by_role("link", name="Pipelines").click()
    expect(card.locator(".badge")).to_have_text("success")
    expect(card).to_contain_text("3 rows")
    job = run_by_button(page, server, "Run: silver.squares")
    assert planned(job) == ["silver.squares"]
    assert server.wait_until_over(job["job_id"])["status"] == "success"


def test_the_full_pipeline_is_run(open_page, server: Server) -> None:
    """One button for all of bronze, then silver, then gold."""
    page = open_page("#/pipelines")
    cards = page.locator(".card")
    expect(cards).not_to_have_count(0)
    declared = set(cards.evaluate_all("cards => cards.map(card => card.dataset.pipeline)"))
    job = run_by_button(page, server, "Run full pipeline")
    server.cancel(job["job_id"], mode="force")
    assert set(planned(job)) == declared
    assert len(declared) == len(re.findall(r"^@", (PIPELINES / "kinds.py").read_text(), re.M))
    server.wait_until_over(job["job_id"])


def test_tables_are_listed_and_looked_into(open_page, run, server: Server) -> None:
    """Columns with types, rows as they are: no digit lost, nothing read as markup."""
    server.wait_until_over(run("silver.squares", with_dependencies=True))
    page = open_page("#/tables")
    link = page.locator("[data-table='bronze.numbers']")
    expect(link).to_contain_text("3 rows")
    link.click()
    expect(page.locator("#table-body .soft").first).to_have_text("3 rows · 2 columns")
    expect(page.locator(".grid thead th")).to_have_text([re.compile("^nint64"), re.compile("word")])
    cells = page.locator(".grid tbody td").all_inner_texts()
    assert cells == ["1152921504606846976", "<b>bold</b>", "2", "null", "3", '""']
    assert page.locator(".grid b").count() == 0


def test_any_version_of_a_table_is_looked_into(
    open_page, run, server: Server, console: Console
) -> None:
    """What was there before the last load, by its number and by an address."""
    console.allow(r"status of 404 .*bronze\.grows")  # The version that is asked for at the end.
    for _ in range(2):
        server.wait_until_over(run("bronze.grows"))
    page = open_page("#/tables/bronze.grows")
    facts = page.locator("#table-body .soft").first
    expect(facts).to_have_text("2 rows · 1 column")
    latest = int(page.get_by_label("Version").input_value())
    expect(page.locator(".table-version")).to_contain_text("the latest")
    found = {}
    for version in range(latest):
        page.get_by_label("Version").fill(str(version))
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile(rf"#/tables/bronze.grows\?version={version}$"))
        expect(page.locator(".table-version")).to_contain_text(f"latest: {latest}")
        expect(page.locator(f".table-version[data-version='{version}']")).to_be_visible()
        found[version] = facts.inner_text().split(" ")[0]
        expect(page.get_by_label("Version")).to_be_focused()
    assert "1" in found.values(), found
    page.get_by_role("link", name=f"latest: {latest}").click()
    expect(facts).to_contain_text("2 rows")

    page.goto(f"{server.url}/#/tables/bronze.grows?version={latest + 5}")
    expect(page.get_by_role("alert")).to_contain_text("could not be read")
    page.get_by_role("link", name="Show the latest version").click()
    expect(facts).to_contain_text("2 rows")


def test_a_key_is_made_used_and_revoked(open_page, server: Server) -> None:
    """It is shown once; revoking asks again, for it cannot be undone."""
    page = open_page("#/settings")
    page.get_by_label("Name").fill("loader-ci")
    page.get_by_label("Role").select_option("operator")
    page.get_by_role("button", name="Create key").click()
    key = page.locator("#new-key-value").inner_text()
    assert server.call("GET", "/api/session", key=key).json()["role"] == "operator"
    row = page.locator("#keys-list tr", has_text="loader-ci")
    expect(row).to_contain_text("operator")

    page.reload()
    expect(row).to_be_visible()
    expect(page.locator("#settings-body")).not_to_contain_text(key)
    row.get_by_role("button").click()
    assert server.call("GET", "/api/session", key=key).status_code == 200, "it only asked"
    row.get_by_role("button").click()
    expect(row).to_contain_text("revoked")
    assert server.call("GET", "/api/session", key=key).status_code == 401


def test_no_view_is_wider_than_a_small_screen(open_page, run, server: Server) -> None:
    """320 pixels, as WCAG 1.4.10 asks: no view scrolls sideways as a whole."""
    name = "a-name-without-any-space-" * 8
    job_id = run("silver.after_slow", with_dependencies=True, job_name=name)
    server.wait_until_running(job_id)
    page = open_page()
    page.set_viewport_size(NARROW)
    views = ["history", "pipelines", "tables", "tables/bronze.numbers", "settings"]
    for route in [*views, f"jobs/{job_id}"]:
        page.goto(f"{server.url}/#/{route}")
        expect(page.locator("main > .view:not([hidden]) :is(h1, h2)").first).to_be_visible()
        expect(page.locator(".skeleton:visible")).to_have_count(0)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= NARROW["width"], f"#/{route} is {width} px wide"
    page.goto(f"{server.url}/#/history")
    page.locator(f"[data-job-id='{job_id}']").get_by_role("button", name="Stop").click()
    expect(page.locator("#stop-confirm")).to_be_in_viewport()
    expect(page.locator(".stop-lines li").first).to_be_visible()
    assert page.locator("#stop-dialog").evaluate("box => box.scrollWidth <= box.clientWidth")


def test_the_page_asks_nobody_else(open_page, server: Server, context) -> None:
    """No other host, and few requests: it works in a locked room."""
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = open_page()
    for route in ("pipelines", "tables", "settings", "history"):
        page.goto(f"{server.url}/#/{route}")
        expect(page.locator(f"#view-{route}")).to_be_visible()
    assert [url for url in asked if not url.startswith(f"{server.url}/")] == []
    assert len(asked) <= REQUESTS_MAX
