"""Two servers, each with a home of its own, on one store and one lake: real processes, real signals."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support import SLACK, Server, kill, marked, servers, until

from sluicegate.lake.tables import Lake

LEASE_SECONDS = 3
# One that was paused in a transaction holds the store's lock for 8 s more; and the machine may be slow.
TAKEOVER_SECONDS = 60.0
PIPELINES = '''
import os, time
from sluicegate import Task, bronze

@bronze
def first(task: Task):
    print("first by", os.getppid(), flush=True)
    return [{"n": 1}]

@bronze(mode="append")
def pages(task: Task):
    """A hundred pages; a unit each, and slow."""
    while (page := task.state.get("page", 0)) < 100:
        task.state["page"] = page + 1
        print("page", page, flush=True)
        time.sleep(float(task.params.get("seconds", 0.05)))
        yield [{"page": page}]

@bronze
def waits(task: Task):
    print("waits", flush=True)
    while not os.path.exists(task.params["go"]):
        time.sleep(0.01)
        task.checkpoint()
    return [{"n": 1}]
'''

Pair = tuple[Server, Server]
on_every_store = pytest.mark.parametrize(
    "store_url",
    [
        "postgresql",
        pytest.param("firestore", marks=pytest.mark.proof),
        pytest.param("sqlite", marks=pytest.mark.proof),
    ],
    indirect=True,
)


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store that two servers can share: PostgreSQL unless a test says otherwise. SQLite too, on one disk."""
    match getattr(request, "param", "postgresql"):
        case "firestore":
            request.getfixturevalue("firestore_emulator")
            return f"firestore://p-{uuid4().hex[:20]}"
        case "sqlite":
            return f"sqlite:///{tmp_path}/shared.db"
        case _:
            return str(request.getfixturevalue("postgresql_database"))


@pytest.fixture
def start(tmp_path: Path, store_url: str) -> Iterator[Callable[[str], Server]]:
    """Starts a server on a home by name."""
    pipelines = tmp_path / "pipelines.py"
    pipelines.write_text(PIPELINES)
    shared = {
        "store": store_url,
        "lake": str(tmp_path / "lake"),
        "landing": str(tmp_path / "landing"),
        "lease_seconds": str(LEASE_SECONDS),
    }
    with servers(tmp_path) as begin:
        yield lambda home: begin(pipelines, home=home, **shared)


@pytest.fixture
def pair(start: Callable[[str], Server]) -> Pair:
    """Two servers that know each other."""
    first, second = start("one"), start("two")
    time.sleep(LEASE_SECONDS / 2)
    return first, second


def said(server: Server, job_id: str, line: str) -> None:
    """Wait until a task of the job has said so."""
    until(lambda: line in [entry["message"] for entry in server.logs(job_id)], f"a line {line!r}")


def pages(folder: Path) -> list[int]:
    """What the table holds, in order."""
    table = Lake(str(folder / "lake")).load("bronze.pages").to_pyarrow_table()
    return sorted(table.column("page").to_pylist())


@on_every_store
def test_any_of_them_stops_any_job(pair: Pair) -> None:
    """At once, and not when somebody happens to look."""
    first, second = pair
    job_id = first.start(pipelines=["bronze.pages"], params={"seconds": 0.01})
    said(first, job_id, "page 3")
    began = time.monotonic()
    answer = second.post(f"/api/jobs/{job_id}/cancel")
    assert answer.status_code == 200, answer.text
    job = second.wait(job_id)
    assert time.monotonic() - began < 2 * SLACK
    assert job["status"] == "cancelled"
    [stopped] = job["cancellation"]["stopped"]
    assert stopped["stage"] == "checkpoint"


@on_every_store
def test_a_killed_servers_job_goes_on_at_the_other(pair: Pair, tmp_path: Path) -> None:
    """Within the lease and two seconds; every row once."""
    first, second = pair
    job_id = first.start(pipelines=["bronze.pages"])
    said(second, job_id, "page 5")
    first.kill()
    began = time.monotonic()
    until(lambda: second.job(job_id)["tasks"][0]["attempt"] == 2, "the takeover", TAKEOVER_SECONDS)
    took = time.monotonic() - began
    job = second.wait(job_id)
    assert job["status"] == "success"
    assert pages(tmp_path) == list(range(100))
    print(f"taken over after {took:.1f} s")
    assert took < (LEASE_SECONDS + 2) * SLACK


def test_a_server_that_is_told_to_end_hands_its_job_over(pair: Pair, tmp_path: Path) -> None:
    """No lease is waited for, no recovery is counted."""
    first, second = pair
    job_id = first.start(pipelines=["bronze.pages"])
    said(second, job_id, "page 5")
    assert first.terminate() == 0
    job = second.wait(job_id)
    assert job["status"] == "success"
    assert pages(tmp_path) == list(range(100))
    said_of_it = [entry["message"] for entry in second.logs(job_id)]
    assert any("handed back" in line for line in said_of_it)


@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.proof)])
def test_a_paused_server_comes_back_to_nothing(pair: Pair, tmp_path: Path, whole: bool) -> None:
    """It was stopped for longer than its lease, with or without its tasks, and wakes: every row is there once."""
    first, second = pair
    job_id = first.start(pipelines=["bronze.pages"])
    said(second, job_id, "page 5")
    processes = [first.process.pid]
    if whole:
        tree = {p.pid for p in marked(first.mark)} - {p.pid for p in _tree(second)}
        processes += sorted(tree - {first.process.pid})
    for pid in processes:
        kill(pid, signal.SIGSTOP)
    until(lambda: second.job(job_id)["tasks"][0]["attempt"] == 2, "the takeover", TAKEOVER_SECONDS)
    said(second, job_id, "page 20")
    for pid in reversed(processes):
        kill(pid, signal.SIGCONT)
    job = second.wait(job_id)
    assert job["status"] == "success"
    assert pages(tmp_path) == list(range(100))
    again = first.start(pipelines=["bronze.first"])
    assert first.wait(again)["status"] == "success", "it is of use again"
    assert first.job(job_id)["tasks"][0]["attempt"] == 2


def _tree(server: Server) -> list[Any]:
    from sluicegate.workers.process_tree import descendants, find

    own = find(server.process.pid)
    assert own is not None
    return [own, *descendants(own.pid)]


def test_jobs_are_shared(pair: Pair, tmp_path: Path) -> None:
    """All are given to one; the other one's workers help."""
    first, second = pair
    go = tmp_path / "go"
    blocked = [first.start(pipelines=["bronze.waits"], params={"go": str(go)})]
    jobs = [first.start(pipelines=["bronze.first"]) for _ in range(30)]
    go.touch()
    ended = [second.wait(job_id) for job_id in blocked + jobs]
    assert {job["status"] for job in ended} == {"success"}
    by = {
        entry["message"]
        for job_id in jobs
        for entry in second.logs(job_id)
        if "by" in entry["message"]
    }
    print(f"by {len(by)} zygotes")


def test_the_timeline_of_a_job_is_followed_from_the_other_server(pair: Pair) -> None:
    """Events of both servers, in one order, at both."""
    first, second = pair
    with second.http.stream("GET", "/api/events", timeout=30) as stream:
        lines = stream.iter_lines()
        job_id = first.start(pipelines=["bronze.first"])
        deadline = time.monotonic() + 30  # a quiet stream sends comments
        seen = []
        for line in lines:
            if line.startswith("data:"):
                seen.append(json.loads(line.removeprefix("data:")))
                if seen[-1]["type"] == "job.finished":
                    break
            assert time.monotonic() < deadline, seen
    assert {event["job_id"] for event in seen} == {job_id}
    assert [e["type"] for e in seen][:2] == ["job.created", "job.started"]
    assert second.job(job_id)["status"] == "success"
