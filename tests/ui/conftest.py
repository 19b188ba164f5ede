"""Fixtures of the page's tests: servers, signed-in pages, and an eye on the browser's console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect
from ui_console import Console
from ui_world import DEADLINE_SECONDS, FLIGHTS, PIPELINES, Server, launch_arguments

from sluicegate.demo import deliver

expect.set_options(timeout=DEADLINE_SECONDS * 1000 / 2)

OpenPage = Callable[..., Page]


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    """The system's Chromium, where it can be had without its own windows: they take half of a test's work."""
    return launch_arguments("chromium-headless-shell", "chromium")


@pytest.fixture(scope="session")
def base_url() -> None:
    """None: each test names its server. (The plugin's own fixture is deprecated by pytest.)"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of most tests, with the pipelines of this folder."""
    yield from _running(Server(tmp_path_factory.mktemp("ui") / "home", PIPELINES))


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo: a year of flights in the landing zone, nothing ingested yet."""
    server = Server(tmp_path_factory.mktemp("flights") / "home", FLIGHTS)
    deliver(server.home / "landing")
    yield from _running(server)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server with an empty home that a test may end and start again."""
    yield from _running(Server(tmp_path / "home", PIPELINES))


def _running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def run(server: Server) -> Iterator[Callable[..., str]]:
    """Create jobs that are over, by force, when the test ends."""
    job_ids: list[str] = []

    def create(*pipelines: str, **fields: Any) -> str:
        job_ids.append(server.run(*pipelines, **fields))
        return job_ids[-1]

    yield create
    for job_id in job_ids:
        server.cancel(job_id, mode="force")
    for job_id in job_ids:
        server.wait_until_over(job_id)


@pytest.fixture
def console() -> Console:
    return Console()


@pytest.fixture
def context(context: BrowserContext, console: Console) -> Iterator[BrowserContext]:
    """A browser context whose console must stay clean: no error, no violated policy, no warning."""
    context.on("console", console.heard)
    context.on("weberror", console.thrown)
    yield context
    console.check()


@pytest.fixture
def open_page(context: BrowserContext, server: Server) -> OpenPage:
    """Return a function that opens a view of the page, signed in with a role."""

    def open_(route: str = "", *, role: str = "admin", at: Server | None = None) -> Page:
        shown = at or server
        answer = context.request.post(f"{shown.url}/api/session", data={"key": shown.keys[role]})
        assert answer.ok, answer.text()
        page = context.new_page()
        page.goto(f"{shown.url}/{route}")
        expect(page.locator("#connection")).to_have_attribute("data-state", "live")
        return page

    return open_
