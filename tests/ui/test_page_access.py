"""Signing in by key and by link, signing out, and what a role gets to see."""

from __future__ import annotations

from playwright.sync_api import BrowserContext, Page, expect
from ui_console import Console
from ui_world import Server


def sign_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def test_a_key_signs_in_and_the_url_is_kept(
    context: BrowserContext, server: Server, console: Console
) -> None:
    """A bookmark works for whoever has to sign in first; a wrong key gets a clear answer."""
    console.allow("status of 401 ")  # The wrong key.
    page = context.new_page()
    page.goto(f"{server.url}/#/settings")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.locator("#tabs")).to_be_hidden()
    expect(page.get_by_label("API key")).to_be_focused()

    sign_in(page, "sg_nonsense")
    expect(page.get_by_role("alert")).to_have_text("This key is unknown or revoked.")
    sign_in(page, f" {server.keys['operator']} ")

    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
    expect(page.locator("#settings-account")).to_contain_text("operator")
    expect(page.locator("#settings-keys")).to_contain_text("Only an admin key")


def test_the_printed_link_signs_in_once(
    context: BrowserContext, server: Server, console: Console
) -> None:
    """The link of the first start is a way in without typing; nobody else can use it later."""
    page = context.new_page()
    page.goto(server.sign_in_link)
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    assert "token" not in page.url
    assert context.cookies()[0]["httpOnly"]
    assert context.cookies()[0]["sameSite"] == "Strict"
    context.clear_cookies()
    console.allow("status of 401 .*/signin")
    answer = page.goto(server.sign_in_link)
    assert answer is not None
    assert answer.status == 401


def test_signing_out_shows_nothing_any_more(open_page, server: Server) -> None:
    """After it, neither the page nor a reload shows a job."""
    page = open_page("#/settings")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto(f"{server.url}/#/history")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.locator(".job-item")).to_have_count(0)


def test_a_viewer_sees_no_stop_and_no_run(open_page, run, server: Server) -> None:
    """What a role may not do is not offered."""
    job_id = run("bronze.slow")
    server.wait_until_running(job_id)
    page = open_page(role="viewer")
    row = page.locator(f".job-item[data-job-id='{job_id}']")
    expect(row.get_by_role("button", name="View Details")).to_be_visible()
    expect(row.locator(".btn-danger")).to_have_count(0)
    row.get_by_role("button", name="View Details").click()
    expect(page.locator("#details-timeline")).to_be_visible()
    expect(page.locator("#view-details .btn-danger")).to_have_count(0)
    page.get_by_role("link", name="Pipelines").click()
    expect(page.locator(".card")).not_to_have_count(0)
    expect(page.get_by_role("button", name="Run", exact=False)).to_have_count(0)


def test_a_revoked_key_ends_its_open_page(open_page, server: Server, console: Console) -> None:
    """Revoking works on pages that are open, not only on those to come."""
    console.allow("status of 401 ")
    made = server.post("/api/keys", {"name": "short-lived", "role": "operator"})
    server.keys["short-lived"] = made["key"]
    page = open_page(role="short-lived")
    server.call("DELETE", "/api/keys/short-lived").raise_for_status()
    server.run("bronze.nothing")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.locator(".job-item:visible")).to_have_count(0)
