"""Work elsewhere, stopped with the task that began it: callbacks that misbehave, a real database, a real program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support import Here, until

from postgresql_server import Server
from sluicegate.core.job import Job, JobStatus
from sluicegate.core.receipt import Receipt, RemoteStop, Stopped

PIPELINES = '''
import os, subprocess, time
from sluicegate import CancelPolicy, Task, bronze, remote
from sluicegate.errors import Cancelled

SOON = CancelPolicy(interrupt_after="1s", terminate_after="60s", kill_after="60s")
LATE = CancelPolicy(interrupt_after="60s", terminate_after="60s", kill_after="60s")
PAST = CancelPolicy(interrupt_after=None, terminate_after="1s", kill_after="60s")

def steps(task):
    """Reach a checkpoint every few milliseconds until the stop."""
    print("ready", flush=True)
    for _ in range(12_000):
        task.checkpoint()
        time.sleep(0.005)

def hang_here():
    time.sleep(600)

def works(): pass

@bronze(cancel=SOON)
def hangs(task: Task):
    task.on_cancel(hang_here, what="the one that hangs")
    task.on_cancel(works, what="the other")
    steps(task)

@bronze(cancel=PAST)
def hangs_without_interrupt(task: Task):
    task.on_cancel(hang_here, what="the one that hangs")
    steps(task)

@bronze(cancel=SOON)
def raises_for_ever(task: Task):
    def stop(): raise OSError("not reachable")
    task.on_cancel(stop)
    print("pid", os.getpid(), flush=True)
    steps(task)

@bronze(cancel=LATE)
def raises_twice(task: Task):
    errors = [OSError("not reachable")] * 2
    def stop():
        if errors: raise errors.pop()
    task.on_cancel(stop, what="the query")
    print("pid", os.getpid(), flush=True)
    steps(task)

@bronze(cancel=LATE)
def slow(task: Task):
    def stop():
        time.sleep(0.7)
        print("stopped elsewhere", flush=True)
    task.on_cancel(stop, what="the query")
    steps(task)

@bronze(cancel=LATE)
def uploads(task: Task):
    """The stop comes in the middle of an upload."""
    task.on_cancel(lambda: print("called", flush=True), what="the export")
    with task.shield("60s"):
        for part in range(20):
            print("part", part, flush=True)
            time.sleep(0.05)
        print("uploaded", flush=True)
    print("not reached", flush=True)

@bronze(cancel=LATE)
def registers_late(task: Task):
    try:
        steps(task)
    except Cancelled:
        task.on_cancel(lambda: print("called", flush=True), what="the late one")
        raise

@bronze(cancel=LATE)
def forgets(task: Task):
    with task.on_cancel(hang_here, what="the one that is over"):
        pass
    task.on_cancel(works, what="the one that is not")
    steps(task)

@bronze
def succeeds(task: Task):
    task.on_cancel(lambda: print("called", flush=True))
    return [{"n": 1}]

@bronze
def pid(task: Task):
    print("pid", os.getpid(), flush=True)

@bronze(cancel=LATE)
def asks_postgresql(task: Task):
    import psycopg
    with psycopg.connect(task.params["address"], autocommit=True) as connection:
        pid = connection.info.backend_pid
        print("backend", pid, flush=True)
        with remote.postgresql(task, connection):
            connection.execute("select pg_sleep(600)")

@bronze(cancel=LATE)
def asks_duckdb(task: Task):
    import duckdb
    with duckdb.connect() as connection, remote.duckdb(task, connection):
        print("ready", flush=True)
        connection.execute("select sum(a.range * b.range) from range(1000000) a, range(1000000) b").fetchall()

@bronze(cancel=LATE)
def starts_program(task: Task):
    with subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600 & echo ready; wait"]) as program:
        with remote.subprocess(task, program):
            program.wait()
'''


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """One service with one worker: a worker that was replaced is seen."""
    with Here(tmp_path_factory.mktemp("remote"), PIPELINES, workers=1) as service:
        yield service


@pytest.fixture(scope="module")
def database(postgresql_server: Server) -> str:
    """A real PostgreSQL."""
    return postgresql_server.address


def ready(here: Here, pipeline: str, said: str = "ready", **params: Any) -> str:
    """Start a task and wait until it is in the midst of it."""
    job_id = here.start(pipeline, params=params)
    here.said(job_id, said)
    return job_id


def receipt(job: Job) -> tuple[Receipt, Stopped]:
    """The receipt of a job whose one task was stopped."""
    assert job.status is JobStatus.CANCELLED
    assert job.cancellation is not None
    [one] = job.cancellation.stopped
    return job.cancellation, one


def worker(here: Here) -> int:
    """The pid of the worker that takes the next task."""
    return int(here.said(here.run("bronze.pid"), "pid"))


def test_a_callback_that_hangs_is_given_up_at_the_interrupt(here: Here) -> None:
    """It delays neither the others nor the stop beyond that stage; the receipt says where it hung."""
    found, one = receipt(here.stop(ready(here, "bronze.hangs")))
    assert found.remote == (
        RemoteStop("the one that hangs", "unconfirmed", 1),
        RemoteStop("the other", "confirmed", 1),
    )
    assert one.stage == "interrupt"
    assert one.latency_ms >= 900
    assert any("pipelines.py" in line and "hang_here" in line for line in one.where), one.where
    assert not any("stop_callbacks" in line or "threading" in line for line in one.where), one.where


def test_without_an_interrupt_stage_the_next_one_ends_it(here: Here) -> None:
    """Whatever hangs is gone with its process."""
    found, one = receipt(here.stop(ready(here, "bronze.hangs_without_interrupt")))
    assert found.remote == (RemoteStop("the one that hangs", "unconfirmed", 1),)
    assert one.stage == "terminate"


def test_a_callback_that_raises_for_ever_is_unconfirmed(here: Here) -> None:
    """Its tries are counted; its thread only pauses between them, so the worker stays."""
    job_id = ready(here, "bronze.raises_for_ever")
    found, one = receipt(here.stop(job_id))
    [what] = found.remote
    assert what.what == "raises_for_ever.<locals>.stop"
    assert what.outcome == "unconfirmed"
    assert what.tries >= 2
    assert one.stage == "interrupt"
    lines = [line for line in here.lines(job_id) if "OSError('not reachable')" in line]
    assert len(lines) == 1, "the same failure is not logged again"
    assert worker(here) == int(here.said(job_id, "pid"))


def test_a_callback_that_raises_twice_is_confirmed_by_its_third_try(here: Here) -> None:
    """The task ends by itself when it has worked; the worker is clean and goes on."""
    job_id = ready(here, "bronze.raises_twice")
    found, one = receipt(here.stop(job_id))
    assert found.remote == (RemoteStop("the query", "confirmed", 3),)
    assert one.stage == "checkpoint"
    assert worker(here) == int(here.said(job_id, "pid"))


def test_the_stop_waits_for_a_slow_callback(here: Here) -> None:
    """The task is at its checkpoint at once; what it began elsewhere is not over yet."""
    job_id = ready(here, "bronze.slow")
    found, one = receipt(here.stop(job_id))
    assert found.remote == (RemoteStop("the query", "confirmed", 1),)
    assert one.stage == "checkpoint"
    assert one.latency_ms >= 700
    assert "stopped elsewhere" in here.lines(job_id, "stdout")


def test_a_stop_in_the_middle_of_an_upload_comes_after_it(here: Here) -> None:
    """First the shield ends, then the callbacks are called, then the task stops."""
    job_id = ready(here, "bronze.uploads", "part 2")
    found, one = receipt(here.stop(job_id))
    lines = here.lines(job_id, "stdout")
    assert lines.index("uploaded") < lines.index("called")
    assert lines.count("called") == 1
    assert "not reached" not in lines
    assert found.remote == (RemoteStop("the export", "confirmed", 1),)
    assert one.stage == "checkpoint"


def test_force_does_not_call_and_says_so(here: Here) -> None:
    """Everything is killed at once: what runs elsewhere may still run."""
    found, one = receipt(here.stop(ready(here, "bronze.uploads", "part 2"), "force"))
    assert found.remote == (RemoteStop("the export", "unconfirmed", 0),)
    assert one.stage == "kill"


def test_a_callback_that_comes_after_the_stop_is_called(here: Here) -> None:
    """The task found out late that something runs elsewhere."""
    job_id = ready(here, "bronze.registers_late")
    found, _ = receipt(here.stop(job_id))
    assert found.remote == (RemoteStop("the late one", "confirmed", 1),)
    assert here.lines(job_id, "stdout").count("called") == 1


@pytest.mark.parametrize(("mode", "outcome"), [("graceful", "confirmed"), ("force", "unconfirmed")])
def test_what_was_over_is_not_in_the_receipt(here: Here, mode: str, outcome: str) -> None:
    """Only what may still have run is worth a line."""
    found, _ = receipt(here.stop(ready(here, "bronze.forgets"), mode))
    assert [(one.what, one.outcome) for one in found.remote] == [("the one that is not", outcome)]


def test_without_a_stop_nothing_is_called(here: Here) -> None:
    """A task that succeeded has no need of it."""
    job_id = here.run("bronze.succeeds")
    assert here.job(job_id).status is JobStatus.SUCCESS
    assert "called" not in here.lines(job_id)


def test_a_query_of_postgresql_is_gone_from_the_server(here: Here, database: str) -> None:
    """Not only its client: nobody wants a query to run on for hours after its task was stopped."""
    job_id = ready(here, "bronze.asks_postgresql", "backend", address=database)
    pid = int(here.said(job_id, "backend"))

    def running() -> list[str]:
        with psycopg.connect(database) as connection:
            found = connection.execute(
                "select query from pg_stat_activity where pid = %s and state = 'active'", [pid]
            )
            return [query for (query,) in found]

    until(lambda: running() == ["select pg_sleep(600)"], "the query to run", 20)
    found, one = receipt(here.stop(job_id))
    assert running() == []
    [what] = found.remote
    assert (what.what, what.outcome) == (f"postgresql backend {pid}", "confirmed")
    assert one.stage == "checkpoint"


def test_a_query_of_duckdb_is_interrupted(here: Here) -> None:
    """A connection of the pipeline's own; ours need no line in the receipt."""
    found, one = receipt(here.stop(ready(here, "bronze.asks_duckdb")))
    assert [(what.what, what.outcome) for what in found.remote] == [("duckdb query", "confirmed")]
    assert one.stage == "checkpoint"


def test_a_program_and_its_children_are_asked_to_end(here: Here) -> None:
    """All of its tree, though its shell passes no signal on."""
    until(lambda: len(here.alive()) == 3, "guard, zygote and one worker")
    before = here.alive()
    job_id = ready(here, "bronze.starts_program")
    assert len(here.alive() - before) == 3
    found, one = receipt(here.stop(job_id))
    [what] = found.remote
    assert what.what.startswith("program sh ")
    assert what.outcome == "confirmed"
    assert one.stage == "checkpoint"
    assert here.alive() == before
