"""What is stored for each end that a task can come to: its record, its table's writer, the timeline and the log."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from executor_world import STATS, Made, World, spec
from fakes import T0

from sluicegate.core.cancellation import Stage
from sluicegate.core.job import (
    Job,
    JobStatus,
    StopMode,
    TaskProgress,
    TaskRecord,
    TaskStatus,
    TaskStop,
)
from sluicegate.core.job_manager import Catalog
from sluicegate.core.ports import (
    Assignment,
    RemoteStopped,
    TaskHung,
    TaskOpened,
    TaskProgressed,
    UnitCommitted,
    Writer,
)
from sluicegate.core.receipt import Cause, Kept, Receipt, RemoteStop, StopOutcome, Stopped
from sluicegate.core.transitions import StopRequest

A, B, SA = "bronze.a", "bronze.b", "silver.a"


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def timeline(world: World, job_id: str) -> list[tuple[Any, ...]]:
    """The events of a job: what, after how many seconds, of which pipeline, the facts."""
    of = {t.task_id: t.pipeline for t in world.store.tasks([job_id])}
    return [
        (e.type, (e.at - T0).total_seconds(), of[e.task_id] if e.task_id else None, dict(e.data))
        for e in world.store.events(job_id=job_id)
    ]


def lines(world: World, job_id: str) -> list[tuple[Any, ...]]:
    """The log of a job: after how many seconds, of which pipeline, how loud, what."""
    of = {t.task_id: t.pipeline for t in world.store.tasks([job_id])}
    return [
        ((e.at - T0).total_seconds(), of[e.task_id] if e.task_id else None, e.level, e.message)
        for e in world.store.logs(job_id)
    ]


CREATED = ("job.created", 0.0, None, {"status": "pending"})
STARTED = ("job.started", 0.0, None, {"status": "running"})


def task_started(seconds: float, pipeline: str = A, attempt: int = 1) -> tuple[Any, ...]:
    return "task.started", seconds, pipeline, {"pipeline": pipeline, "attempt": attempt}


def task_over(
    kind: str, seconds: float, status: str, rows: int = 0, pipeline: str = A
) -> tuple[Any, ...]:
    return kind, seconds, pipeline, {"pipeline": pipeline, "status": status, "rows": rows}


def job_over(seconds: float, status: str, kind: str = "job.finished") -> tuple[Any, ...]:
    return kind, seconds, None, {"status": status}


def commit_a_unit(world: World, pipeline: str = A) -> str:
    """A task commits a unit as workers do it. Returns the task's id."""
    task_id = world.ask_permit(pipeline)
    world.workers.tell(UnitCommitted(task_id, STATS))
    world.settle()
    return task_id


# ------------------------------------------------------------------ it runs


def test_what_a_worker_is_handed_is_all_that_the_run_was_asked_for(made: Made) -> None:
    """A worker knows nothing of the job but this; a later attempt has to look at what earlier ones have done."""
    world = made(spec(A, retries=1))
    job_id = world.run(params={"day": "2026-01-01"}, full_refresh=True)
    task_id = world.end(A, "failed", error="no")
    first = Assignment(
        job_id=job_id,
        task_id=task_id,
        attempt=1,
        spec=world.catalog.specs[A],
        epoch=1,
        params={"day": "2026-01-01"},
        full_refresh=True,
        recovers=False,
    )
    again = replace(first, attempt=2, epoch=2, recovers=True)
    assert world.workers.handed == [first, again]


def test_a_success_is_stored_whole(made: Made) -> None:
    """From its creation to its end: each instant, each counter, the table free for the next writer."""
    world = made(spec(A))
    world.workers.missing_means = ("no subreaper",)  # which is told where something was stopped
    job_id = world.run()
    task_id = commit_a_unit(world.later(7))
    world.later(3)
    world.end(A, stats=STATS, message="fine")
    assert world.task(job_id, A) == TaskRecord(
        task_id,
        job_id,
        A,
        TaskStatus.SUCCESS,
        started_at=at(0),
        completed_at=at(10),
        epoch=1,
        permits=1,
        message="fine",
        stats=STATS,
    )
    job = world.job(job_id)
    assert job == Job(
        job_id,
        "full pipeline",
        JobStatus.SUCCESS,
        created_at=at(0),
        total_tasks=1,
        user_id="ann",
        started_at=at(0),
        completed_at=at(10),
        completed_tasks=1,
        code_version="v1",
        executor_id=world.executor.executor_id,
        lease=1,
        version=job.version,
    )
    assert world.store.writers([A])[A] == Writer(A, epoch=1, revision=2)
    assert timeline(world, job_id) == [
        CREATED,
        STARTED,
        task_started(0.0),
        ("task.committed", 7.0, A, {"rows": 10}),
        task_over("task.finished", 10.0, "success", rows=10),
        job_over(10.0, "success"),
    ]
    assert lines(world, job_id) == [
        (10.0, None, "info", "job ended success: 1 of 1 succeeded, 0 failed, 0 cancelled")
    ]


def test_only_the_first_start_starts_the_job(made: Made) -> None:
    """Its timeline has one beginning."""
    world = made(spec(A), spec(SA, A))
    job_id = world.run()
    world.later(5)
    world.end(A)
    assert timeline(world, job_id) == [
        CREATED,
        STARTED,
        task_started(0.0),
        task_over("task.finished", 5.0, "success"),
        task_started(5.0, SA),
    ]
    assert world.job(job_id).started_at == at(0)


# ------------------------------------------------------------------ it fails


def test_a_failure_and_its_retry_are_stored_whole(made: Made) -> None:
    """Between two attempts the record says why it waits; what the first one told of itself is gone with the second."""
    world = made(spec(A, retries=1, retry_delay_seconds=30.0))
    job_id = world.run()
    task_id = world.live(A).task_id
    world.workers.tell(TaskOpened(task_id, ()))
    world.workers.tell(TaskProgressed(task_id, TaskProgress(1, 2)))
    world.later(1)
    world.end(A, "failed", message="it said", error="no", stats=STATS)
    waiting = TaskRecord(
        task_id,
        job_id,
        A,
        TaskStatus.PENDING,
        started_at=at(0),
        attempt=2,
        epoch=1,
        retries_used=1,
        message="it said",
        error="no",
        stats=STATS,
        progress=TaskProgress(1, 2),
    )
    assert world.task(job_id, A) == waiting
    world.later(30)
    assert world.task(job_id, A) == replace(
        waiting,
        status=TaskStatus.RUNNING,
        started_at=at(31),
        epoch=2,
        message=None,
        error=None,
        progress=None,
    )
    world.later(1)
    world.end(A, "failed", error="again", stats=STATS)
    assert world.task(job_id, A) == replace(
        waiting,
        status=TaskStatus.FAILED,
        started_at=at(31),
        completed_at=at(32),
        epoch=2,
        message=None,
        error="again",
        progress=None,
    )
    assert timeline(world, job_id)[2:] == [
        task_started(0.0),
        task_over("task.waiting", 1.0, "pending", rows=10),
        task_started(31.0, attempt=2),
        task_over("task.finished", 32.0, "failed", rows=10),
        job_over(32.0, "failed"),
    ]
    assert lines(world, job_id) == [
        (1.0, A, "warning", f"{A} waits for attempt 2: no"),
        (32.0, A, "error", f"{A} failed: again"),
        (32.0, None, "info", "job ended failed: 0 of 1 succeeded, 1 failed, 0 cancelled"),
    ]
    assert world.store.writers([A])[A] == Writer(A, epoch=2, revision=4)


def test_a_pipeline_that_is_gone_from_the_code_says_so(made: Made) -> None:
    """Whoever created the job can see what to put back."""
    world = made(spec(A))
    job_id = world.run(settle=False)
    world.manager.catalog = Catalog({}, "v2")
    world.settle()
    assert timeline(world, job_id)[2:] == [
        task_started(0.0),
        task_over("task.finished", 0.0, "failed"),
        job_over(0.0, "failed"),
    ]
    assert world.task(job_id, A).error == f"pipeline {A!r} is not in the code any more"
    assert world.store.writers([A])[A].is_free
    world.is_idle()


@pytest.mark.parametrize("retries", [0, 1])
def test_an_attempt_at_a_busy_table_starts_and_ends_in_one_write(made: Made, retries: int) -> None:
    """The timeline tells of an attempt like any other; the table stays the other job's."""
    conflict = {"on_conflict": "reject", "retries": retries, "retry_delay_seconds": 30.0}
    world = made(spec(A, **conflict))
    first = world.run(A)
    world.later(5)
    second = world.run(A)
    error = f"table_busy: {A} is being written by job {first}\nrun it again later"
    task = world.task(second, A)
    assert task == TaskRecord(
        task.task_id,
        second,
        A,
        TaskStatus.PENDING if retries else TaskStatus.FAILED,
        started_at=at(5),
        completed_at=None if retries else at(5),
        attempt=1 + retries,
        retries_used=retries,
        error=error,
    )
    begun = [
        ("job.created", 5.0, None, {"status": "pending"}),
        ("job.started", 5.0, None, {"status": "running"}),
        task_started(5.0),
    ]
    if retries:
        over = [task_over("task.waiting", 5.0, "pending")]
        said = [(5.0, A, "warning", f"{A} waits for attempt 2: {error}")]
    else:
        over = [task_over("task.finished", 5.0, "failed"), job_over(5.0, "failed")]
        end = "job ended failed: 0 of 1 succeeded, 1 failed, 0 cancelled"
        said = [(5.0, A, "error", f"{A} failed: {error}"), (5.0, None, "info", end)]
    assert timeline(world, second) == begun + over
    assert lines(world, second) == said
    assert world.store.writers([A])[A].job_id == first
    world.later(29)
    world.end(A)
    assert world.running == []
    world.later(1)
    assert world.running == [A] * retries


# ------------------------------------------------------------------ it is stopped


def test_a_stop_is_stored_whole(made: Made) -> None:
    """The receipt and the record of the task agree on when, why, how hard, and what is left elsewhere."""
    world = made(spec(A), spec(B), spec(SA, A))
    world.workers.missing_means = ("no subreaper",)
    job_id = world.run()
    world.later(5)
    task_id = commit_a_unit(world)
    world.workers.tell(RemoteStopped(task_id, 1, "query 7", "unconfirmed", 0))
    world.end(B)
    world.later(1)
    world.cancel(job_id)
    world.later(5)
    world.workers.tell(RemoteStopped(task_id, 1, "query 7", "confirmed", 2))
    world.workers.tell(TaskHung(task_id, ("a.py:1 f",)))
    world.settle()
    world.end(A, "cancelled", stage=Stage.INTERRUPT, stats=STATS, processes_killed=2)
    remote = (RemoteStop("query 7", "confirmed", 2),)
    assert world.task(job_id, A) == TaskRecord(
        task_id,
        job_id,
        A,
        TaskStatus.CANCELLED,
        started_at=at(0),
        completed_at=at(11),
        epoch=1,
        permits=1,
        stats=STATS,
        stop=TaskStop(
            "user", "ann", "enough", "interrupt", at(11), 5000.0, 2, ("a.py:1 f",), remote
        ),
    )
    assert world.job(job_id).cancellation == Receipt(
        requested_at=at(6),
        requested_by="ann",
        cause=Cause.USER,
        reason="enough",
        mode="graceful",
        stopped_at=at(11),
        latency_ms=5000.0,
        not_started=(SA,),
        kept=(Kept(A, 3, 10),),
        stopped=(Stopped(task_id, A, "interrupt", 5000.0, 2, ("a.py:1 f",)),),
        remote=remote,
        outcome=StopOutcome.STOPPED,
        missing_means=("no subreaper",),
    )
    facts = {"requested_by": "ann", "cause": "user", "reason": "enough", "mode": "graceful"}
    assert timeline(world, job_id)[-3:] == [
        ("job.cancelled", 6.0, None, facts),
        task_over("task.finished", 11.0, "cancelled", rows=10),
        job_over(11.0, "cancelled", "job.stopped"),
    ]
    ended = "stopped at stage interrupt after 5000 ms, processes killed: 2"
    whole = (
        "job stopped in 5000 ms: 1 tasks stopped, 1 not started, 1 tables keep what was published"
    )
    assert lines(world, job_id) == [
        (6.0, None, "info", "stop (graceful) requested by ann: enough"),
        (11.0, A, "info", f"{A} {ended}"),
        (11.0, A, "info", "it hung here: a.py:1 f"),
        (11.0, A, "info", "remote work query 7: stop confirmed, tries: 2"),
        (11.0, None, "info", whole),
    ]


def test_a_job_that_runs_out_of_its_time_is_stopped_with_a_reason(made: Made) -> None:
    """Nobody asked for it: the receipt names the limit instead."""
    world = made(spec(A), spec(SA, A))
    job_id = world.run(timeout_seconds=90.0)
    world.later(90)
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    task_id, reason = world.task(job_id, A).task_id, "it ran longer than 90 s"
    assert world.job(job_id).cancellation == Receipt(
        requested_at=at(90),
        requested_by="timeout",
        cause=Cause.TIMEOUT,
        reason=reason,
        stopped_at=at(90),
        latency_ms=0.0,
        not_started=(SA,),
        stopped=(Stopped(task_id, A, "checkpoint", 0.0),),
        outcome=StopOutcome.STOPPED,
    )
    stop = TaskStop("timeout", "timeout", reason, "checkpoint", at(90), 0.0)
    assert world.task(job_id, A).stop == stop


def test_a_stop_in_the_pause_before_a_retry_is_stored_whole(made: Made) -> None:
    """No worker had it: it ends at the first stage, as soon as it is heard of, with what it had committed."""
    world = made(spec(A, retries=3, retry_delay_seconds=60.0), spec(B))
    job_id = world.run()
    task_id = commit_a_unit(world)
    world.later(5)
    world.end(A, "failed", error="no", stats=STATS)
    world.later(2)
    asked = StopRequest("ben", "wrong day", StopMode.FORCE)
    world.manager.wake = lambda *_: None  # another process decides it
    world.manager.cancel_task(job_id, task_id, asked)
    world.later(3)
    world.executor.wake(job_id)
    world.settle()
    assert world.task(job_id, A) == TaskRecord(
        task_id,
        job_id,
        A,
        TaskStatus.CANCELLED,
        started_at=at(0),
        completed_at=at(10),
        attempt=2,
        epoch=1,
        permits=1,
        retries_used=1,
        stats=STATS,
        stop=TaskStop("user", "ben", "wrong day", "checkpoint", at(10), 3000.0),
    )
    assert timeline(world, job_id)[-1] == task_over("task.finished", 10.0, "cancelled", rows=10)
    assert lines(world, job_id)[-1] == (
        10.0,
        A,
        "info",
        f"{A} stopped at stage checkpoint after 3000 ms",
    )
    world.end(B)
    assert world.status(job_id) is JobStatus.PARTIAL


# ------------------------------------------------------------------ its executor loses it


def test_a_hand_back_is_stored_whole(made: Made) -> None:
    """The next server finds a task that waits, a table that is free and a job that is nobody's."""
    world = made(spec(A))
    job_id = world.run()
    world.later(1)
    world.close()
    world.later(1)
    world.end(A, "cancelled", stage=Stage.CHECKPOINT, stats=STATS)
    why = "handed back: the server was told to stop"
    task = world.task(job_id, A)
    assert task == TaskRecord(
        task.task_id,
        job_id,
        A,
        TaskStatus.PENDING,
        started_at=at(0),
        attempt=2,
        epoch=1,
        message=why,
        stats=STATS,
    )
    job = world.job(job_id)
    assert (job.status, job.executor_id, job.lease) == (JobStatus.RUNNING, None, 1)
    assert world.store.writers([A])[A] == Writer(A, epoch=1, revision=2)
    assert timeline(world, job_id)[3:] == [
        task_over("task.waiting", 2.0, "pending", rows=10),
        ("job.released", 2.0, None, {}),
    ]
    assert lines(world, job_id) == [(2.0, A, "warning", f"{A} waits for attempt 2: {why}")]


def test_a_job_of_a_dead_executor_is_taken_up_with_all_of_it_stored(made: Made) -> None:
    """The same task goes on with its next attempt, and who reads the log learns that it is by other code."""
    world = made(spec(A))
    job_id = world.run()
    world.later(1)
    world.catalog = Catalog(world.catalog.specs, "v2")
    world.boot()
    task = world.task(job_id, A)
    assert task == TaskRecord(
        task.task_id, job_id, A, TaskStatus.RUNNING, started_at=at(1), attempt=2, epoch=2
    )
    assert timeline(world, job_id)[3:] == [
        ("job.claimed", 1.0, None, {}),
        task_over("task.waiting", 1.0, "pending"),
        task_started(1.0, attempt=2),
    ]
    changed = "the code has changed since this job was created; it goes on with today's"
    assert lines(world, job_id) == [
        (1.0, None, "info", changed),
        (1.0, A, "warning", f"{A} waits for attempt 2: taken up again after a crash"),
    ]
    world.end(A)
    world.is_idle()


@pytest.mark.parametrize("has_started", [True, False])
def test_nothing_is_said_of_code_that_is_the_same_or_was_never_run(
    made: Made, has_started: bool
) -> None:
    """A line that is always there says nothing."""
    world = made(spec(A), spec(B), capacity=1)
    world.run(B)
    job_id = world.run(A)
    if has_started:
        world.end(B)
    else:
        world.catalog = Catalog(world.catalog.specs, "v2")
    world.boot()
    assert not [line for *_, line in lines(world, job_id) if "code" in line]


def test_a_task_that_is_taken_back_from_a_server_out_of_touch_says_why(made: Made) -> None:
    """Its job is still this server's when the store is back: nothing died, so nothing is counted."""
    world = made(spec(A)).keep_lease()
    job_id = world.run()
    world.store.unavailable = True
    for _ in range(10):
        world.later(1)
    task_id = world.end(A, "lost", stage=Stage.KILL)
    world.store.unavailable = False
    world.later(1)
    why = "handed back: the store was out of reach"
    assert lines(world, job_id) == [(10.0, A, "warning", f"{A} waits for attempt 2: {why}")]
    assert world.task(job_id, A) == TaskRecord(
        task_id, job_id, A, TaskStatus.RUNNING, started_at=at(11), attempt=2, epoch=2
    )
    assert world.job(job_id).recoveries == 0
