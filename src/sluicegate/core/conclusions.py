"""What an attempt came to: the outcome that a worker told or its table's log says, as a transition. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sluicegate.core.cancellation import Stage
from sluicegate.core.job import Job, JobStatus, LogEntry, TaskRecord, TaskStop
from sluicegate.core.ports import Settled, TaskEnded
from sluicegate.core.receipt import RemoteStop, latency_ms
from sluicegate.core.records import replace
from sluicegate.core.stops import TaskStopping
from sluicegate.core.transitions import Ended, TaskEvent
from sluicegate.spec import PipelineSpec

REDONE_MAX: Final = 5
RECOVERIES_EXHAUSTED: Final = "recoveries_exhausted"


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How the attempt ended, the record with what it used up, and the pause before another attempt."""

    ended: Ended
    record: TaskRecord
    pause_seconds: float = 0.0


def told(ended: TaskEnded, settled: Settled) -> TaskEnded:
    """What a worker that died would have said, read from its table's log."""
    outcome = "success" if settled.complete else "failed"
    return replace(ended, outcome=outcome, stats=settled.stats)


def says_too_little(record: TaskRecord, ended: TaskEnded) -> bool:
    """Whether a later attempt ended before it had looked at what the earlier ones committed."""
    return record.attempt > 1 and ended.outcome != "success" and not ended.stats.units


def conclude(
    job: Job,
    record: TaskRecord,
    ended: TaskEnded,
    stopping: TaskStopping | None,
    spec: PipelineSpec | None,
    *,
    handing_back: str | None,
    now: datetime,
    monotonic: float,
    remote: tuple[RemoteStop, ...] = (),
) -> Conclusion:
    """Decide what an attempt came to.

    Args:
        stopping: The stop that was under way, whether it or something else ended the attempt.
        spec: Of its pipeline; `None` when that is not in the code any more.
        handing_back: Why the attempt is taken from this executor, where it was; another will follow.
        remote: What became of its work elsewhere.
    """
    own_timeout = stopping is not None and stopping.is_own_timeout
    retries_left = (spec.retries if spec else 0) - record.retries_used
    error = ended.error or ended.message
    event, message, pause = TaskEvent.FAIL, ended.message, 0.0
    if ended.outcome == "success":
        event, stopping, error = TaskEvent.SUCCEED, None, None
    elif stopping is not None and not own_timeout:
        event, error = TaskEvent.CANCEL, None
    elif handing_back is not None and not job.is_terminal:
        event, message = TaskEvent.WAIT, f"handed back: {handing_back}"
    elif ended.again and record.attempt <= REDONE_MAX:
        event = TaskEvent.WAIT
    elif retries_left > 0 and not job.is_terminal and message != RECOVERIES_EXHAUSTED:
        event, pause = TaskEvent.WAIT, spec.retry_delay_seconds if spec else 0.0
        record = replace(record, retries_used=record.retries_used + 1)
    if own_timeout and stopping is not None and event is not TaskEvent.CANCEL:
        error = stopping.reason
    stop = None
    if stopping is not None:
        stop = replace(_task_stop(job, stopping, ended, now, monotonic), remote=remote)
    return Conclusion(Ended(event, now, ended.stats, message, error, stop), record, pause)


def is_stopped(job: Job, record: TaskRecord, ended: TaskEnded, *, closing: bool) -> bool:
    """Whether an attempt that nothing was delivered to has ended for its job's stop, or its own."""
    asked = job.status is JobStatus.CANCELLED or record.task_id in job.task_stops
    return asked and (ended.outcome == "cancelled" or closing)


def _task_stop(
    job: Job, stopping: TaskStopping, ended: TaskEnded, now: datetime, monotonic: float
) -> TaskStop:
    if job.cancellation is not None and not stopping.is_own_timeout:
        latency = latency_ms(job.cancellation.requested_at, now, _lasted(stopping, monotonic))
    else:
        latency = round((monotonic - stopping.since) * 1000, 3)
    stage = ended.stage or stopping.delivered or Stage.CHECKPOINT
    return TaskStop(
        cause=stopping.cause.value,
        requested_by=stopping.requested_by,
        reason=stopping.reason,
        stage=stage.value,
        stopped_at=now,
        latency_ms=latency,
        processes_killed=ended.processes_killed,
        where=ended.where or stopping.where,
    )


def _lasted(stopping: TaskStopping, monotonic: float) -> float | None:
    """How long a stop took by the clock that only grows; not known of one that another executor began."""
    return monotonic - stopping.since if stopping.seen_begin else None


def end_lines(task: TaskRecord, ended: Ended) -> tuple[LogEntry, ...]:
    """The log lines that an end of an attempt leaves: a stop, an error, a wait."""
    lines: list[LogEntry] = []

    def say(message: str, level: str = "info") -> None:
        lines.append(LogEntry(task.job_id, ended.at, message, task.task_id, level))

    if (stop := task.stop) is not None:
        killed = f", processes killed: {stop.processes_killed}" if stop.processes_killed else ""
        after = f"{stop.latency_ms:.0f} ms"
        say(f"{task.pipeline} stopped at stage {stop.stage} after {after}{killed}")
        if stop.where:
            say("it hung here: " + " > ".join(stop.where))
        for remote in stop.remote:
            level = "info" if remote.outcome == "confirmed" else "warning"
            say(f"remote work {remote.what}: stop {remote.outcome}, tries: {remote.tries}", level)
    if ended.event is TaskEvent.FAIL and ended.error:
        say(f"{task.pipeline} failed: {ended.error}", "error")
    if ended.event is TaskEvent.WAIT:
        why = ended.error or ended.message
        say(f"{task.pipeline} waits for attempt {task.attempt}: {why}", "warning")
    return tuple(lines)
