"""What the page costs its reader: bytes, requests, and how long the browser is kept from answering."""

from __future__ import annotations

from playwright.sync_api import BrowserContext, expect
from ui_world import Server

BYTES_MAX = 200_000
FILES_MAX = 40
CALLS_MAX = 6
# Far more than it takes: the machine is shared. What it really takes is in docs/benchmarks.md.
PAINT_MS_MAX = 3000
LONG_TASK_MS_MAX = 1000

ENTRIES = """() => {
    const sized = ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind));
    return sized.map((one) => ({ url: one.name, bytes: one.decodedBodySize, kind: one.initiatorType }));
}"""
WATCH = """() => {
    window.longTasks = [];
    new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((one) => one.duration)))
        .observe({ type: "longtask", buffered: true });
}"""


def test_a_first_visit_stays_within_its_budget(context: BrowserContext, server: Server) -> None:
    """Two hundred kilobytes in all, from this server alone, and a first paint before anybody looks away."""
    answer = context.request.post(f"{server.url}/api/session", data={"key": server.keys["admin"]})
    assert answer.ok
    page = context.new_page()
    page.add_init_script(f"({WATCH})()")
    page.goto(server.url)
    expect(page.locator(".job-item, #history-state p").first).to_be_visible()

    entries = page.evaluate(ENTRIES)
    assert all(one["url"].startswith(server.url) for one in entries), "it asks nobody else"
    calls = [one for one in entries if "/api/" in one["url"]]
    files = [one for one in entries if one not in calls]
    assert sum(one["bytes"] for one in files) <= BYTES_MAX
    assert len(files) <= FILES_MAX
    assert len({one["url"] for one in files}) == len(files), "nothing is fetched twice"
    assert len(calls) <= CALLS_MAX, [one["url"] for one in calls]
    painted = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
    page.wait_for_function(f"({painted})() !== null")
    paint = page.evaluate(painted)
    print(
        f"first contentful paint after {paint:.0f} ms, {sum(one['bytes'] for one in files)} bytes"
    )
    assert paint <= PAINT_MS_MAX
    assert max(page.evaluate("window.longTasks"), default=0) <= LONG_TASK_MS_MAX
