"""The page, its assets and `/docs`: served from here, and from nowhere else."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from api_world import World

from sluicegate.api.page import STATIC

STRICT = "default-src 'self'; img-src 'self' data:"


class Links(HTMLParser):
    """Collects what a page loads, and what it runs in place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline = ""
        self._in_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value for name, value in attrs if name in ("src", "href") and value]
        self._in_script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.inline += data.strip()


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_everything_from_here(world: World, path: str) -> None:
    """They work without a network; and no script stands in them, so that the policy forbids it."""
    client = world.client(None)
    answer = client.get(path)
    links = Links(answer.text)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert links.loaded
    assert not links.inline
    for link in links.loaded:
        if link.startswith("#"):
            continue
        assert not re.match(r"[a-z]+:|//", link)
        assert client.get(f"/{link}").status_code == 200, link


def test_the_start_of_the_docs_names_no_other_host(world: World) -> None:
    """Only paths; and the validator of swagger-ui, which is another host's, is off."""
    script = world.client(None).get("/docs/start.js").text
    assert "://" not in script
    assert "validatorUrl: null" in script
    assert 'url: "openapi.json"' in script


def test_no_policy_allows_another_host_or_inline_script(world: World) -> None:
    """Even if a bundled script asked another host, the browser would refuse."""
    client = world.client(None)
    for path in ("/", "/docs", "/docs/assets/swagger-ui-bundle.js", "/api/jobs", "/nowhere"):
        answer = client.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith(STRICT)
        assert "frame-ancestors 'none'" in policy
        assert "://" not in policy
        assert "script-src" not in policy
        assert ("'unsafe-inline'" in policy) == (path == "/docs")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert client.get("/api/jobs").headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/static/app.js", "text/javascript; charset=utf-8"),
        ("/static/style.css", "text/css; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
        ("/docs/assets/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    ],
)
def test_assets_have_their_types_and_are_asked_for_by_etag(
    world: World, path: str, media_type: str
) -> None:
    """Types do not depend on the machine; an unchanged file is not sent twice."""
    client = world.client(None)
    first = client.get(path)
    assert first.headers["Content-Type"] == media_type
    assert first.headers["Cache-Control"] == "no-cache"
    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_is_index_html(world: World) -> None:
    """`/` needs no key: it is where one signs in."""
    answer = world.client(None).get("/")
    assert answer.content == (STATIC / "index.html").read_bytes()
    assert answer.headers["ETag"]
    assert world.client(None).head("/").status_code == 200


def test_the_description_is_openapi_3_0(world: World) -> None:
    """The bundled page reads nothing newer; words of 3.1 would show as errors there."""
    answer = world.client(None).get("/openapi.json")
    described = answer.json()
    assert described["openapi"].startswith("3.0.")
    assert '"type":"null"' not in answer.text
    assert '"const"' not in answer.text
    assert {"/api/jobs", "/api/jobs/{job_id}/cancel", "/api/events"} <= described["paths"].keys()
    job = described["components"]["schemas"]["JobShape"]
    assert job["properties"]["started_at"]["nullable"] is True
