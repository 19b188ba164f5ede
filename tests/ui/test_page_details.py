"""One job's page: timeline, plan, receipt, errors and logs, live."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import expect
from ui_console import Console
from ui_world import Server


def test_a_running_job_is_followed_until_its_receipt(open_page, run, server: Server) -> None:
    """Bars grow, lines come in, and the stop appears everywhere without a reload."""
    job_id = run("gold.long_after_slow", with_dependencies=True, job_name="nightly load")
    server.wait_until_running(job_id)
    page = open_page(f"#/jobs/{job_id}")
    page.evaluate("window.sameDocument = true")

    # The timeline: what runs, how far it is, and what waits.
    row = page.locator(".timeline-rows [data-pipeline='bronze.slow']")
    expect(row).to_have_attribute("data-status", "running")
    expect(row.locator(".timeline-note")).to_have_text(re.compile(r"^[\d,]+ / 6,000 steps$"))
    waiting = page.locator(".timeline-rows [data-pipeline='gold.long_after_slow']")
    expect(waiting.locator(".timeline-note")).to_have_text("not started")
    # The plan: a node for each pipeline, an edge for each dependency.
    node = page.locator(".plan-node", has_text="bronze.slow: running")
    expect(node).to_have_attribute("data-status", "running")
    expect(page.locator(".plan-node")).to_have_count(3)
    expect(page.locator(".plan-edge")).to_have_count(2)
    # The logs: more and more lines, the newest in view.
    lines = page.locator(".log-line")
    expect(lines.first).to_contain_text("step 0")
    expect(lines.first.locator(".log-task")).to_have_text("bronze.slow")
    expect(page.locator(".log-line", has_text=re.compile(r"step \d{3,}"))).not_to_have_count(0)

    page.locator("#view-details .btn-danger").click()
    page.keyboard.press("Enter")

    expect(page.locator("#view-details .details-badge")).to_have_text("cancelled")
    receipt = page.locator("#details-receipt")
    expect(receipt).to_contain_text("admin stopped this job gracefully")
    expect(receipt).to_contain_text("everything had stopped. 1 task stopped and 2 pipelines")
    expect(receipt.locator("tbody")).to_contain_text("at a checkpoint")
    expect(receipt.locator(".id-list code")).to_have_text(
        ["silver.after_slow", "gold.long_after_slow"]
    )
    expect(row.locator(".timeline-note")).to_contain_text("stopped at a checkpoint")
    expect(row.locator(".timeline-stop")).to_be_visible()
    expect(page.locator(".timeline-stop-label")).to_have_text("stop")
    expect(page.locator(".log-lines")).to_contain_text("requested by admin")
    expect(page.locator("#view-details .btn-danger")).to_have_count(0)
    expect(page.locator("#details-facts")).not_to_contain_text("not yet")
    expect(page).to_have_title("nightly load · cancelled · Sluicegate")
    assert page.evaluate("window.sameDocument") is True

    # The lines of one task only.
    shown = lines.count()
    page.get_by_label("Show", exact=True).select_option("bronze.slow")
    expect(page.locator(".log-task", has_text="job")).to_have_count(0)
    expect(lines).not_to_have_count(0)
    assert lines.count() < shown


def test_a_failed_job_shows_why(open_page, run, server: Server) -> None:
    """The error's own words come first, its traceback after, and what did not start."""
    job_id = run("silver.after_failing", with_dependencies=True)
    server.wait_until_over(job_id)
    page = open_page(f"#/jobs/{job_id}")
    error = page.locator("#details-error .error-row")
    expect(error.locator("h3")).to_have_text("bronze.failing")
    expect(error).to_contain_text("row 13 has no departure")
    waiting = page.locator(".timeline-rows [data-pipeline='silver.after_failing']")
    expect(waiting).to_have_attribute("data-status", "not started")
    expect(page.locator("#details-receipt")).to_be_hidden()


def test_a_finished_job_shows_what_it_wrote(open_page, run, server: Server) -> None:
    """Rows and time for every pipeline; the way back leads to the list one came from."""
    job_id = run("silver.squares", with_dependencies=True, params={"month": 3})
    server.wait_until_over(job_id)
    page = open_page("#/history?status=success")
    page.locator(f".job-item[data-job-id='{job_id}']").click()
    row = page.locator(".timeline-rows [data-pipeline='silver.squares']")
    expect(row.locator(".timeline-note")).to_have_text(re.compile(r"^3 rows · "))
    expect(page.locator(".details-progress .job-count")).to_have_text("2 of 2 tasks")
    expect(page.locator("#details-params")).to_contain_text("month")
    page.get_by_role("link", name="← History").click()
    expect(page).to_have_url(re.compile(r"#/history\?status=success$"))


def test_an_unknown_job_is_said_so(open_page, console: Console) -> None:
    """A link to a job that is gone leads to a sentence, not to a blank page."""
    console.allow(r"status of 404 .*/api/jobs/nonsense$")
    page = open_page("#/jobs/nonsense")
    alert = page.get_by_role("alert").filter(has_text="There is no such job")
    expect(alert).to_be_visible()
    expect(page.get_by_role("link", name="← History")).to_be_visible()


def test_lines_are_found_and_downloaded(open_page, run, server: Server) -> None:
    """A page of three thousand lines is searched by its reader, and the rest is in the file."""
    job_id = run("bronze.speaks")
    server.wait_until_over(job_id)
    page = open_page(f"#/jobs/{job_id}")
    lines = page.locator(".log-line:visible")
    expect(page.locator(".log-note")).to_have_text("601 lines")  # and one of the job
    find = page.get_by_role("searchbox", name="Find in the lines")
    find.fill("line 59")
    expect(lines).to_have_count(11)  # 59, and 590 to 599
    expect(page.locator(".log-note")).to_have_text("11 of the 601 lines shown here hold it.")
    find.fill("nowhere")
    expect(lines).to_have_count(0)
    find.fill("")
    expect(lines).to_have_count(601)

    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == f"{job_id}.log"
    saved = Path(download.value.path()).read_text().splitlines()
    assert len(saved) == 601
    told = [line.split("\t")[1:] for line in saved]
    assert ["info", "bronze.speaks", "line 7"] in told


def test_new_lines_are_sifted_too(open_page, run, server: Server) -> None:
    """Whoever looks for something in a running job sees the next one that fits, and only that."""
    page = open_page(f"#/jobs/{run('bronze.slow')}")
    find = page.get_by_role("searchbox", name="Find in the lines")
    find.fill("step 1")
    fitting = page.locator(".log-line:visible", has_text=re.compile(r"step 1\d\d$"))
    expect(fitting.first).to_be_visible()
    expect(page.locator(".log-line:visible", has_text=re.compile(r"step [2-9]"))).to_have_count(0)
