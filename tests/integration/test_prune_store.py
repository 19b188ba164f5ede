"""A prune of a large SQLite store: killed at any moment it leaves whole jobs, and others can write meanwhile."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import environment, until

from sluicegate.core.job import Event, Job, JobQuery, JobStatus, LogEntry, TaskRecord, TaskStatus
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.ports import Accepted, Change, Store
from sluicegate.stores import open_store

pytestmark = pytest.mark.proof

JOBS = 4_000
LINES = 10
T0 = datetime(2020, 1, 1, tzinfo=UTC)
PLAN = Plan((PlanStep("bronze.a"),))
ORPHANS = """
    SELECT count(*) FROM {table} WHERE job_id NOT IN (SELECT job_id FROM jobs)
"""


def filled(folder: Path) -> str:
    """A home whose store has many old jobs: the URL of the store."""
    (folder / "home").mkdir()
    url = f"sqlite:///{folder}/home/jobs.db"
    store = open_store(url)
    for start in range(0, JOBS, 500):
        store.commit([new(n) for n in range(start, start + 500)])
    store.close()
    return url


def new(number: int) -> Change:
    at = T0 + timedelta(minutes=number)
    job_id = f"0100-{number:06}"
    job = Job(job_id, "n", JobStatus.SUCCESS, at, 1, completed_at=at, labels={"team": "core"})
    return Change(
        job,
        made_from=0,
        plan=PLAN,
        tasks=(TaskRecord(f"t{number}", job_id, "bronze.a", TaskStatus.SUCCESS, started_at=at),),
        events=tuple(Event("job.created", job_id, at) for _ in range(3)),
        logs=tuple(LogEntry(job_id, at, f"line {n}") for n in range(LINES)),
    )


def prune(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "sluicegate", "prune", "--older-than", "0s", "--yes", "--json"],
        cwd=folder,
        env=environment(folder, "prune"),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def left(path: Path) -> int:
    """How many jobs are left, each of them whole."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")  # all of it as of one instant: a prune may go on

        def count(query: str) -> int:
            (found,) = connection.execute(query).fetchone()
            return int(found)

        for table in ("tasks", "plans", "job_terms", "events", "logs"):
            assert count(ORPHANS.format(table=table)) == 0, table
        jobs = count("SELECT count(*) FROM jobs")
        for table, each in (("tasks", 1), ("plans", 1), ("job_terms", 5)):
            assert count(f"SELECT count(*) FROM {table}") == each * jobs, table
        return jobs


def test_a_prune_that_is_killed_leaves_whole_jobs_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """Of the jobs that were next only lines and events may be gone: they go first."""
    filled(tmp_path)
    path = tmp_path / "home" / "jobs.db"
    chance = random.Random(5)
    before, seen = JOBS, set()
    for _ in range(5):
        process = prune(tmp_path)
        try:
            until(lambda: left(path) < before or process.poll() is not None, "a removal", 60)  # noqa: B023
            time.sleep(chance.uniform(0, 0.1))  # a moment of any kind
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        now = left(path)
        assert now <= before
        seen.add(now)
        before = now
        if now == 0:
            break
    assert len(seen) > 2, "it was never cut off in the middle"
    assert prune(tmp_path).wait(120) == 0
    assert left(path) == 0


def test_others_write_while_a_prune_goes_on(tmp_path: Path) -> None:
    """It pauses for as long as it writes: nobody waits for a prune to end."""
    store = open_store(filled(tmp_path))
    waited: list[float] = []
    process = prune(tmp_path)
    done = threading.Event()
    threading.Thread(target=lambda: (process.wait(120), done.set()), daemon=True).start()
    number = JOBS
    while not done.wait(0.005):
        began = time.monotonic()
        [outcome] = store.commit([_unfinished(number)])
        waited.append(time.monotonic() - began)
        assert isinstance(outcome, Accepted)
        number += 1
    assert process.returncode == 0
    assert len(waited) > 20
    assert max(waited) < 8, "a writer has waited for long"
    print(f"{len(waited)} commits beside a prune, the slowest took {max(waited) * 1000:.0f} ms")
    assert _count(store) == len(waited)
    store.close()


def _unfinished(number: int) -> Change:
    at = datetime.now(UTC)
    return Change(Job(f"0200-{number:06}", "n", JobStatus.PENDING, at, 1), made_from=0, plan=PLAN)


def _count(store: Store) -> int:
    return len(store.list(JobQuery(limit=1_000_000)))
