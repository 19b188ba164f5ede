"""The page outlives its server: it says that it is gone, and goes on by itself."""

from __future__ import annotations

import signal

from playwright.sync_api import expect
from ui_console import Console
from ui_world import Server


def test_the_page_survives_a_restart_of_the_server(
    open_page, own_server: Server, console: Console
) -> None:
    """Killed and started again: a banner meanwhile, then everything that happened, no reload."""
    console.allow("net::ERR_|status of 50")
    page = open_page(at=own_server)
    page.evaluate("window.sameDocument = true")
    banner = page.locator("#connection-banner")
    expect(banner).to_be_hidden()
    expect(page.locator("#history-state")).to_contain_text("No jobs yet")

    own_server.stop(signal.SIGKILL)

    expect(banner).to_be_visible()
    expect(banner).to_contain_text("The server does not answer")
    expect(page.locator("#connection")).to_have_text("reconnecting")

    own_server.start()
    job_id = own_server.run("bronze.nothing")

    expect(banner).to_be_hidden()
    expect(page.locator("#connection")).to_have_text("live")
    row = page.locator(f".job-item[data-job-id='{job_id}']")
    expect(row.locator(".badge")).to_have_text("success")
    later = own_server.run("bronze.failing")
    expect(page.locator(f".job-item[data-job-id='{later}'] .badge")).to_have_text("failed")
    assert page.evaluate("window.sameDocument") is True


def test_a_stop_without_a_server_says_so_and_can_be_tried_again(
    open_page, own_server: Server, console: Console
) -> None:
    """The dialog stays, with the reason that was typed; nothing pretends to be stopped."""
    console.allow("net::ERR_")
    job_id = own_server.run("bronze.slow")
    own_server.wait_until_running(job_id)
    page = open_page(at=own_server)
    row = page.locator(f".job-item[data-job-id='{job_id}']")
    row.get_by_role("button", name="Stop").click()
    page.get_by_label("Reason").fill("no longer needed")
    own_server.stop(signal.SIGKILL)

    page.locator("#stop-confirm").click()

    expect(page.locator("#stop-error")).to_have_text("The server does not answer.")
    expect(row.locator(".badge")).to_have_text("running")
    own_server.start()
    own_server.wait_until_running(job_id)
    page.locator("#stop-confirm").click()
    expect(row.locator(".badge")).to_have_text("cancelled")
    assert own_server.wait_until_over(job_id)["cancellation"]["reason"] == "no longer needed"
