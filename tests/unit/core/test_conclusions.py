"""What an attempt came to: as a worker told it, or as its table's log says, with the stop that was under way."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from executor_world import STATS, spec
from fakes import T0

from sluicegate.cancel_policy import DEFAULT_POLICY
from sluicegate.core.cancellation import Stage
from sluicegate.core.conclusions import (
    REDONE_MAX,
    Conclusion,
    conclude,
    end_lines,
    is_stopped,
    told,
)
from sluicegate.core.job import (
    Job,
    JobStatus,
    LogEntry,
    StopMode,
    TaskRecord,
    TaskStats,
    TaskStatus,
    TaskStop,
    TaskStopRequest,
)
from sluicegate.core.ports import Settled, TaskEnded
from sluicegate.core.receipt import Cause, Receipt, RemoteStop
from sluicegate.core.stops import TaskStopping
from sluicegate.core.transitions import Ended, TaskEvent

NOW = T0 + timedelta(seconds=4)
BEGAN, MONOTONIC = 1000.0, 1004.0  # of a stop that both clocks have seen for four seconds
RECORD = TaskRecord("t", "j", "bronze.a", TaskStatus.RUNNING)
RUNNING = Job("j", "j", JobStatus.RUNNING, T0, 1)
STOPPED = replace(
    RUNNING, status=JobStatus.CANCELLED, cancellation=Receipt(T0, "ann", reason="why")
)
REMOTE = (RemoteStop("a query", "confirmed", 1),)


def by_ann(**fields: Any) -> TaskStopping:
    given: dict[str, Any] = {"requested_by": "ann", "reason": "why", "delivered": Stage.TERMINATE}
    return TaskStopping("t", BEGAN, DEFAULT_POLICY, StopMode.GRACEFUL, Cause.USER, **given | fields)


def by_its_own_time(**fields: Any) -> TaskStopping:
    return replace(by_ann(requested_by=None, reason="too slow", **fields), cause=Cause.TIMEOUT)


def concluded(
    job: Job,
    ended: TaskEnded,
    stopping: TaskStopping | None,
    *,
    monotonic: float = MONOTONIC,
    remote: tuple[RemoteStop, ...] = (),
    record: TaskRecord = RECORD,
) -> Conclusion:
    return conclude(
        job,
        record,
        ended,
        stopping,
        spec("bronze.a"),
        handing_back=None,
        now=NOW,
        monotonic=monotonic,
        remote=remote,
    )


def stop_of(
    job: Job, ended: TaskEnded, stopping: TaskStopping, monotonic: float = MONOTONIC
) -> TaskStop:
    """How the attempt was stopped."""
    stop = concluded(job, ended, stopping, monotonic=monotonic).ended.stop
    assert stop is not None
    return stop


@pytest.mark.parametrize("complete", [True, False])
def test_a_log_says_what_a_dead_worker_would_have_said(complete: bool) -> None:
    """Success when all is in; else the attempt failed, with what is in. How it died stays told."""
    lost = TaskEnded("t", "lost", message="signal 9", stage=Stage.KILL, processes_killed=2)
    assert told(lost, Settled(STATS, complete=complete)) == replace(
        lost, outcome="success" if complete else "failed", stats=STATS
    )


def test_a_stopped_attempt_is_told_with_who_why_how_and_what_became_of_its_work() -> None:
    """It is the record that a person reads after the stop: nothing of it may be lost on the way."""
    ended = TaskEnded(
        "t",
        "failed",
        STATS,
        message="m",
        error="whatever it raised",
        stage=Stage.KILL,
        where=("a.py:1 f",),
        processes_killed=3,
    )
    stop = TaskStop(
        cause="user",
        requested_by="ann",
        reason="why",
        stage="kill",
        stopped_at=NOW,
        latency_ms=4000.0,
        processes_killed=3,
        where=("a.py:1 f",),
        remote=REMOTE,
    )
    assert concluded(STOPPED, ended, by_ann(), remote=REMOTE) == Conclusion(
        Ended(TaskEvent.CANCEL, NOW, STATS, "m", None, stop), RECORD
    )


def test_an_attempt_out_of_its_own_time_has_failed_for_that_reason() -> None:
    """What it raised when it was interrupted is not why it failed."""
    ended = TaskEnded("t", "cancelled", error="interrupted", stage=Stage.INTERRUPT)
    conclusion = concluded(RUNNING, ended, by_its_own_time())
    stop = TaskStop("timeout", None, "too slow", "interrupt", NOW, 4000.0)
    assert conclusion == Conclusion(
        Ended(TaskEvent.FAIL, NOW, TaskStats(), None, "too slow", stop), RECORD
    )


@pytest.mark.parametrize(
    ("reported", "delivered", "told_of"),
    [
        (Stage.KILL, Stage.TERMINATE, Stage.KILL),
        (Stage.CHECKPOINT, Stage.INTERRUPT, Stage.CHECKPOINT),
        (None, Stage.INTERRUPT, Stage.INTERRUPT),
        (None, None, Stage.CHECKPOINT),
    ],
)
def test_the_stage_is_the_one_that_has_ended_the_attempt(
    reported: Stage | None, delivered: Stage | None, told_of: Stage
) -> None:
    """Who ended it knows; the last one that was sent may have come too late."""
    ended = TaskEnded("t", "cancelled", stage=reported)
    assert stop_of(STOPPED, ended, by_ann(delivered=delivered)).stage == told_of.value


def test_where_it_hung_is_the_workers_last_word_or_what_was_seen_before() -> None:
    """A killed process cannot say it any more."""
    seen = by_ann(where=("b.py:2 g",))
    assert stop_of(STOPPED, TaskEnded("t", "lost"), seen).where == ("b.py:2 g",)
    ended = TaskEnded("t", "cancelled", where=("a.py:1 f",))
    assert stop_of(STOPPED, ended, seen).where == ("a.py:1 f",)


@pytest.mark.parametrize(
    ("job", "stopping", "monotonic", "latency_ms"),
    [
        (STOPPED, by_ann(), MONOTONIC, 4000.0),
        (STOPPED, by_ann(), MONOTONIC - 0.9, 4000.0),  # the clocks agree: the instants are told
        (STOPPED, by_ann(), BEGAN + 90, 90_000.0),  # the instants lie
        (STOPPED, by_ann(seen_begin=False), BEGAN + 90, 4000.0),  # `since` is no beginning
        (RUNNING, by_ann(), BEGAN + 1.23456789, 1234.568),  # of the task alone
        (STOPPED, by_its_own_time(), BEGAN + 1.23456789, 1234.568),  # in a job that drains
    ],
)
def test_the_latency_counts_from_what_was_stopped(
    job: Job, stopping: TaskStopping, monotonic: float, latency_ms: float
) -> None:
    """From the request where the whole job was; from the task's own stop else. To a microsecond."""
    ended = TaskEnded("t", "cancelled", stage=Stage.CHECKPOINT)
    assert stop_of(job, ended, stopping, monotonic).latency_ms == latency_ms


def test_an_attempt_that_succeeds_while_its_own_time_runs_out_has_succeeded() -> None:
    """All of it is in: the stop that came too late is neither its error nor its end."""
    conclusion = concluded(RUNNING, TaskEnded("t", "success", STATS), by_its_own_time())
    assert conclusion == Conclusion(Ended(TaskEvent.SUCCEED, NOW, STATS), RECORD)


@pytest.mark.parametrize(
    ("attempt", "event"), [(REDONE_MAX, TaskEvent.WAIT), (REDONE_MAX + 1, TaskEvent.FAIL)]
)
def test_an_attempt_that_asks_for_it_is_done_again_five_times(
    attempt: int, event: TaskEvent
) -> None:
    """A table that others change all the time must not keep a job for ever."""
    ended = TaskEnded("t", "failed", error="table_moved", again=True)
    assert REDONE_MAX == 5
    assert concluded(RUNNING, ended, None, record=replace(RECORD, attempt=attempt)) == Conclusion(
        Ended(event, NOW, error="table_moved"), replace(RECORD, attempt=attempt)
    )


ALONE = replace(RUNNING, task_stops={"t": TaskStopRequest(T0, "ann")})
OTHER_ALONE = replace(RUNNING, task_stops={"other": TaskStopRequest(T0, "ann")})


@pytest.mark.parametrize(
    ("job", "asked"), [(STOPPED, True), (ALONE, True), (OTHER_ALONE, False), (RUNNING, False)]
)
def test_an_end_without_a_delivered_stop_is_one_where_it_was_asked_for(
    job: Job, asked: bool
) -> None:
    """A worker that ends by itself as `cancelled`, or with its server, does so for its own stop and no other's."""
    cancelled, failed = TaskEnded("t", "cancelled"), TaskEnded("t", "failed")
    assert is_stopped(job, RECORD, cancelled, closing=False) is asked
    assert is_stopped(job, RECORD, failed, closing=True) is asked
    assert not is_stopped(job, RECORD, failed, closing=False)


def test_the_log_tells_where_it_hung_and_warns_of_work_elsewhere_that_may_go_on() -> None:
    """What was not confirmed costs money until somebody looks: it must not read like the rest."""
    stop = TaskStop(
        "user",
        "ann",
        None,
        "kill",
        NOW,
        4000.0,
        where=("a.py:1 f", "b.py:2 g"),
        remote=(RemoteStop("a query", "confirmed", 1), RemoteStop("a run", "unconfirmed", 3)),
    )
    lines = end_lines(replace(RECORD, stop=stop), Ended(TaskEvent.CANCEL, NOW, stop=stop))

    def line(message: str, level: str = "info") -> LogEntry:
        return LogEntry("j", NOW, message, "t", level)

    assert lines == (
        line("bronze.a stopped at stage kill after 4000 ms"),
        line("it hung here: a.py:1 f > b.py:2 g"),
        line("remote work a query: stop confirmed, tries: 1"),
        line("remote work a run: stop unconfirmed, tries: 3", "warning"),
    )
