"""A history of a million jobs: a page of it, with any filter, and one job of it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

from bench.figures import Results
from bench.server import Server, folder
from sluicegate.core.job import Job, JobStatus, TaskRecord, TaskStatus
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.stores import codec, open_store

JOBS: Final = 1_000_000
ASKED: Final = 100
BATCH: Final = 20_000
FIRST: Final = datetime(2025, 1, 1, tzinfo=UTC)
PIPELINES: Final = tuple(
    f"{layer}.{name}" for layer in ("bronze", "silver", "gold") for name in "abcdefgh"
)
USERS: Final = ("ann", "bob", "cleo", "dan", "eve")
TEAMS: Final = ("core", "ads", "risk")
ENDS: Final = (*[JobStatus.SUCCESS] * 15, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.PARTIAL)

# Common values and rare ones, one filter and several, the first page and one in the middle.
QUERIES: Final = {
    "newest": "",
    "cancelled": "status=cancelled",
    "two statuses": "status=failed&status=partial",
    "pipeline": "pipeline=silver.c",
    "layer": "layer=gold",
    "label": "label=team:risk",
    "user": "user_id=eve",
    "day": f"created_after={(FIRST + timedelta(days=100)).isoformat().replace('+', '%2B')}"
    f"&created_before={(FIRST + timedelta(days=101)).isoformat().replace('+', '%2B')}",
    "user and status": "user_id=eve&status=failed",
    "all at once": "user_id=eve&status=failed&pipeline=gold.h&label=team:risk&layer=bronze",
    "rare user": "user_id=zoe",
    "rare user and status": "user_id=zoe&status=success",
    "nobody": "user_id=nobody&status=failed",
}


def measure(results: Results) -> None:
    """Over HTTP, one at a time."""
    with folder() as made:
        (made / "home").mkdir()
        took = _fill(made / "home" / "sluicegate.db")
        results.add("history.filled", "s", [took], f"{JOBS} jobs written in bulk, not by a server")
        server = Server(made, "from sluicegate import bronze\n@bronze\ndef n(): pass\n")
        try:
            _ask(server, results)
        finally:
            server.close()


def _ask(server: Server, results: Results) -> None:
    worst: list[float] = []
    middle = server.ask("GET", "/api/jobs?limit=200")["next_cursor"]
    for name, query in QUERIES.items():
        taken = _times(server, f"/api/jobs?limit=50&{query}")
        results.add(f"history.{name}", "ms", taken)
        worst = max(worst, taken, key=lambda values: sorted(values)[-2])
    taken = _times(server, f"/api/jobs?limit=50&cursor={middle}")
    results.add("history.next page", "ms", taken)
    results.add("history.worst", "ms", max(worst, taken, key=lambda values: sorted(values)[-2]))
    job_id = server.ask("GET", "/api/jobs?limit=1")["jobs"][0]["job_id"]
    results.add("history.details", "ms", _times(server, f"/api/jobs/{job_id}"))


def _times(server: Server, path: str) -> list[float]:
    server.ask("GET", path)
    taken = []
    for _ in range(ASKED):
        began = time.perf_counter()
        server.ask("GET", path)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def _fill(path: Path) -> float:
    """Write the rows that so many jobs would have left, past the store: it would take hours."""
    open_store(f"sqlite:///{path}").close()
    began = time.perf_counter()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA synchronous = OFF")
        jobs = _jobs()
        while batch := list(islice(jobs, BATCH)):
            _insert(database, "jobs", [codec.encode_job(job) for job, _ in batch])
            _insert(
                database,
                "plans",
                [{"job_id": job.job_id, "plan": codec.encode_plan(plan)} for job, plan in batch],
            )
            terms = (
                {"job_id": job.job_id, "term": term}
                for job, plan in batch
                for term in codec.encode_terms(job, plan)
            )
            _insert(database, "job_terms", list(terms))
            last = batch[-1][0]
        task = TaskRecord(
            "t", last.job_id, PIPELINES[0], TaskStatus.SUCCESS, started_at=FIRST, completed_at=FIRST
        )
        _insert(database, "tasks", [{"position": 1, **codec.encode_task(task)}])
        database.execute("UPDATE counters SET position = 1")
    database.close()
    return time.perf_counter() - began


def _jobs() -> Iterator[tuple[Job, Plan]]:
    for n in range(JOBS):
        at = FIRST + timedelta(seconds=30 * n)
        user = "zoe" if n % 10_007 == 0 else USERS[n % 7 % len(USERS)]
        plan = Plan(tuple(PlanStep(PIPELINES[(n * 5 + k) % len(PIPELINES)]) for k in range(3)))
        job = Job(
            job_id=f"{int(at.timestamp() * 1000):012x}"[:8]
            + f"-{int(at.timestamp() * 1000) & 0xFFFF:04x}-7000-8000-{n:012x}",
            job_name="nightly",
            status=ENDS[n * 7 % len(ENDS)],
            created_at=at,
            total_tasks=3,
            user_id=user,
            labels={"team": TEAMS[n % 3]},
            started_at=at,
            completed_at=at + timedelta(seconds=20),
            completed_tasks=3,
        )
        yield replace(job, version=4), plan


def _insert(database: sqlite3.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    database.executemany(statement, [tuple(row[name] for name in names) for row in rows])
