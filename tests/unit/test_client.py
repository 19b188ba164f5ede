"""The client against a small server of our own: requests, refusals, and events without a gap."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sluicegate import client as client_module
from sluicegate.client import ApiError, Client, ServerUnreachableError, parse_events

Answer = tuple[int, str, bytes]


@dataclass
class Scripted:
    """A server that answers by script and remembers what it was asked."""

    answer: Callable[[str, str], Answer]
    url: str = ""
    asked: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    script = Scripted(lambda method, path: (200, "application/json", b"{}"))

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            script.asked.append((self.command, self.path, dict(self.headers), body))
            status, kind, content = script.answer(self.command, self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _handle

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    yield script
    server.shutdown()
    thread.join()
    server.server_close()


def test_each_verb_asks_its_own_address(scripted: Scripted) -> None:
    """One table of all calls; a slip in a path would only show in production."""
    with Client(scripted.url, "k") as client:
        client.run({"pipelines": ["silver.a"]}, idempotency_key="once")
        client.get("j/1")
        client.list({"status": ["failed", "partial"], "limit": 2, "cursor": None})
        client.cancel("j1", reason="why", mode="force")
        client.preview_cancel("j1")
        client.cancel_task("j1", "t/1", reason="slow")
        client.cancel_many(job_ids=["j1"], match_token="m1.")
        client.cancel_many(filter={"status": "pending"}, dry_run=True, mode="force")
        client.preview_resume("j1")
        client.resume("j1")
        client.preview_rollback("j1")
        client.rollback("j1")
        client.rerun("j1")
        client.logs("j1", task_id="t1", after=5)
        client.pipelines()
        client.tables()
        client.table("silver.a", limit=3, version=7)
        client.keys()
        client.create_key("ci", "viewer")
        client.revoke_key("ci")
    assert [(method, path) for method, path, _, _ in scripted.asked] == [
        ("POST", "/api/jobs"),
        ("GET", "/api/jobs/j%2F1"),
        ("GET", "/api/jobs?status=failed&status=partial&limit=2"),
        ("POST", "/api/jobs/j1/cancel"),
        ("POST", "/api/jobs/j1/cancel?dry_run=true"),
        ("POST", "/api/jobs/j1/tasks/t%2F1/cancel"),
        ("POST", "/api/jobs/cancel"),
        ("POST", "/api/jobs/cancel"),
        ("POST", "/api/jobs/j1/resume?dry_run=true"),
        ("POST", "/api/jobs/j1/resume"),
        ("POST", "/api/jobs/j1/rollback?dry_run=true"),
        ("POST", "/api/jobs/j1/rollback"),
        ("POST", "/api/jobs/j1/rerun"),
        ("GET", "/api/jobs/j1/logs?task_id=t1&after=5&limit=1000"),
        ("GET", "/api/pipelines"),
        ("GET", "/api/tables"),
        ("GET", "/api/tables/silver.a?limit=3&version=7"),
        ("GET", "/api/keys"),
        ("POST", "/api/keys"),
        ("DELETE", "/api/keys/ci"),
    ]
    _, _, headers, body = scripted.asked[0]
    assert headers["Authorization"] == "Bearer k"
    assert headers["Idempotency-Key"] == "once"
    assert body == {"pipelines": ["silver.a"]}
    assert scripted.asked[3][3] == {"reason": "why", "mode": "force"}
    assert scripted.asked[5][3] == {"reason": "slow", "mode": "graceful"}
    how = {"reason": None, "mode": "graceful", "dry_run": False}
    assert scripted.asked[6][3] == {**how, "job_ids": ["j1"], "match_token": "m1."}
    meant = {"filter": {"status": "pending"}, "mode": "force", "dry_run": True}
    assert scripted.asked[7][3] == {**how, **meant}


def test_a_problem_becomes_an_error_with_its_code_and_mend(scripted: Scripted) -> None:
    """The two lines that the server wrote reach whoever sits at the terminal."""
    problem = {"detail": "there is no job 'x'", "code": "job_not_found", "mend": "list them"}
    scripted.answer = lambda method, path: (
        404,
        "application/problem+json",
        json.dumps(problem).encode(),
    )
    with Client(scripted.url) as client, pytest.raises(ApiError) as caught:
        client.get("x")
    error = caught.value
    assert (error.what, error.mend, error.code) == (
        "there is no job 'x'",
        "list them",
        "job_not_found",
    )
    assert error.status == 404


@pytest.mark.parametrize("status", [401, 403, 404, 409, 422, 429, 500, 502])
def test_a_refusal_without_a_word_still_says_how_to_mend_it(
    scripted: Scripted, status: int
) -> None:
    """A proxy in between answers in HTML."""
    scripted.answer = lambda method, path: (status, "text/html", b"<h1>no</h1>")
    with Client(scripted.url) as client, pytest.raises(ApiError) as caught:
        client.list()
    assert str(status) in caught.value.what
    assert caught.value.mend


def test_what_is_no_sluicegate_is_told_apart(scripted: Scripted) -> None:
    """A wrong port often leads to some other server."""
    scripted.answer = lambda method, path: (200, "text/html", b"<h1>hello</h1>")
    with Client(scripted.url) as client, pytest.raises(ServerUnreachableError, match="no Sluice"):
        client.list()


def test_nobody_there_is_one_clear_error() -> None:
    """The likeliest cause is a server that was not started."""
    with Client("http://127.0.0.1:1") as client:
        assert not client.answers()
        with pytest.raises(ServerUnreachableError, match="refused") as caught:
            client.list()
    assert "sluicegate serve" in caught.value.mend


def test_events_go_on_after_the_last_one_when_the_connection_breaks(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost connection must cost neither an event nor a repetition."""
    monkeypatch.setattr(client_module, "RECONNECT_SECONDS", 0)
    streams = iter(
        [
            b': hello\n\nid: 1\ndata: {"event_id": 1}\n\nid: 2\ndata: {"event_',
            b"",
            b'event: ping\ndata: x\n\nid: 2\ndata: {"event_id": 2}\n\n',
        ]
    )
    scripted.answer = lambda method, path: (200, "text/event-stream", next(streams))
    with Client(scripted.url) as client:
        events = client.follow("j1", after=0)
        assert [next(events)["event_id"], next(events)["event_id"]] == [1, 2]
    asked = [(path, headers["Last-Event-ID"]) for _, path, headers, _ in scripted.asked]
    assert asked == [("/api/events?job_id=j1", n) for n in ("0", "1", "1")]


def test_following_ends_when_the_server_refuses(scripted: Scripted) -> None:
    """A revoked key is no lost connection: asking again would never help."""
    scripted.answer = lambda method, path: (401, "application/json", b"{}")
    with Client(scripted.url) as client, pytest.raises(ApiError):
        next(client.follow())


def test_an_event_may_have_several_lines_and_a_name() -> None:
    """The parser takes what the standard allows."""
    lines = ["event: a", "data:1", "data: 2", "", ": note", "", "id: 7", "data: 3", "", "data: cut"]
    assert list(parse_events(lines)) == [("a", None, "1\n2"), ("message", "7", "3")]
