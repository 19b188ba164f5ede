"""What may follow what: one table per status, and the pure functions that turn a record into the next one.

Stores never look at a status. Everything that changes a job or a task passes through here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from sluicegate.core.job import (
    Job,
    JobNotResumableError,
    JobNotRolledBackError,
    JobNotRunningError,
    JobStatus,
    Rollback,
    StopMode,
    TaskNotRunningError,
    TaskRecord,
    TaskStats,
    TaskStatus,
    TaskStop,
    TaskStopRequest,
)
from sluicegate.core.receipt import Cause, Kept, Receipt, StopOutcome, Stopped
from sluicegate.core.records import replace
from sluicegate.errors import SluicegateError


class InvalidTransitionError(SluicegateError):
    """A status was asked to become one that cannot follow it: a mistake of ours, never of a user."""

    code = "invalid_transition"


class JobEvent(StrEnum):
    """What can happen to a job."""

    START = "start"
    CANCEL = "cancel"
    SUCCEED = "succeed"
    FAIL = "fail"
    SPLIT = "split"


class TaskEvent(StrEnum):
    """What can happen to a task. `wait` ends an attempt that another one will follow."""

    START = "start"
    WAIT = "wait"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"


TRANSITIONS: Final[Mapping[tuple[JobStatus, JobEvent], JobStatus]] = {
    (JobStatus.PENDING, JobEvent.START): JobStatus.RUNNING,
    (JobStatus.PENDING, JobEvent.CANCEL): JobStatus.CANCELLED,
    (JobStatus.PENDING, JobEvent.FAIL): JobStatus.FAILED,  # its pipeline is gone from the code
    (JobStatus.PENDING, JobEvent.SUCCEED): JobStatus.SUCCESS,  # nothing was left to do
    (JobStatus.RUNNING, JobEvent.CANCEL): JobStatus.CANCELLED,  # its tasks may be stopping yet
    (JobStatus.RUNNING, JobEvent.SUCCEED): JobStatus.SUCCESS,
    (JobStatus.RUNNING, JobEvent.FAIL): JobStatus.FAILED,
    (JobStatus.RUNNING, JobEvent.SPLIT): JobStatus.PARTIAL,  # some succeeded, some did not
}
TERMINAL: Final = frozenset(JobStatus) - {status for status, _ in TRANSITIONS}

TASK_TRANSITIONS: Final[Mapping[tuple[TaskStatus, TaskEvent], TaskStatus]] = {
    (TaskStatus.PENDING, TaskEvent.START): TaskStatus.RUNNING,  # the next attempt
    (TaskStatus.PENDING, TaskEvent.FAIL): TaskStatus.FAILED,  # no attempt is left to it
    (
        TaskStatus.PENDING,
        TaskEvent.CANCEL,
    ): TaskStatus.CANCELLED,  # stopped in the pause between two
    (TaskStatus.RUNNING, TaskEvent.WAIT): TaskStatus.PENDING,  # a retry, a recovery, a hand-back
    (TaskStatus.RUNNING, TaskEvent.SUCCEED): TaskStatus.SUCCESS,
    (TaskStatus.RUNNING, TaskEvent.FAIL): TaskStatus.FAILED,
    (TaskStatus.RUNNING, TaskEvent.CANCEL): TaskStatus.CANCELLED,
}
TASK_TERMINAL: Final = frozenset(TaskStatus) - {status for status, _ in TASK_TRANSITIONS}


def next_status(status: JobStatus, event: JobEvent) -> JobStatus:
    """Return the status that `event` leads to, or raise `InvalidTransitionError`."""
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        allowed = ", ".join(e for s, e in TRANSITIONS if s is status) or "nothing"
        raise InvalidTransitionError(
            f"cannot {event} a {status} job; a {status} job allows: {allowed}"
        ) from None


def next_task_status(status: TaskStatus, event: TaskEvent) -> TaskStatus:
    """Return the status that `event` leads to, or raise `InvalidTransitionError`."""
    try:
        return TASK_TRANSITIONS[status, event]
    except KeyError:
        allowed = ", ".join(e for s, e in TASK_TRANSITIONS if s is status) or "nothing"
        raise InvalidTransitionError(
            f"cannot {event} a {status} task; a {status} task allows: {allowed}"
        ) from None


def ending(job: Job) -> JobEvent:
    """How a job ends whose tasks have all ended: by what they came to, in the contract's order of precedence."""
    if not job.failed_tasks and not job.cancelled_tasks:
        return JobEvent.SUCCEED
    if job.completed_tasks:
        return JobEvent.SPLIT
    return JobEvent.FAIL if job.failed_tasks else JobEvent.CANCEL


@dataclass(frozen=True, slots=True)
class StopRequest:
    """Who wants a job or a task stopped, why and how."""

    requested_by: str
    reason: str | None = None
    mode: StopMode = StopMode.GRACEFUL
    cause: str = "user"


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended, as the executor knows it once no process of it is left."""

    event: TaskEvent
    at: datetime
    stats: TaskStats = TaskStats()
    message: str | None = None
    error: str | None = None
    stop: TaskStop | None = None


def start_task(job: Job, task: TaskRecord, now: datetime) -> tuple[Job, TaskRecord]:
    """Start an attempt. The job's first start makes it `running`."""
    job = replace(
        job,
        status=next_status(job.status, JobEvent.START)
        if job.status is JobStatus.PENDING
        else job.status,
        started_at=job.started_at or now,
        running_tasks=job.running_tasks + 1,
    )
    return job, as_started(task, now)


def as_started(task: TaskRecord, now: datetime) -> TaskRecord:
    """The task with its attempt started: a new record, or one that was waiting for it."""
    if task.status is not TaskStatus.PENDING:
        return task
    return replace(
        task,
        status=next_task_status(task.status, TaskEvent.START),
        started_at=now,
        progress=None,
        message=None,
        error=None,
        inputs=(),
        stop=None,
    )


def end_attempt(job: Job, task: TaskRecord, ended: Ended) -> tuple[Job, TaskRecord]:
    """End an attempt. The job counts the task, and its receipt names it."""
    after = as_ended(task, ended)
    return count_ended(job, task, after), after


def count_ended(job: Job, before: TaskRecord, after: TaskRecord) -> Job:
    """The job after an attempt of a task ended."""
    status = after.status
    return replace(
        job,
        running_tasks=job.running_tasks - (before.status is TaskStatus.RUNNING),
        completed_tasks=job.completed_tasks + (status is TaskStatus.SUCCESS),
        failed_tasks=job.failed_tasks + (status is TaskStatus.FAILED),
        cancelled_tasks=job.cancelled_tasks + (status is TaskStatus.CANCELLED),
        cancellation=_noted(job.cancellation, after),
    )


def as_ended(task: TaskRecord, ended: Ended) -> TaskRecord:
    """The task with its attempt ended. What was committed stays in `stats`."""
    waits = ended.event is TaskEvent.WAIT
    return replace(
        task,
        status=next_task_status(task.status, ended.event),
        attempt=task.attempt + 1 if waits else task.attempt,
        completed_at=None if waits else ended.at,
        stats=ended.stats,
        message=ended.message,
        error=ended.error,
        stop=ended.stop,
    )


def _noted(receipt: Receipt | None, task: TaskRecord) -> Receipt | None:
    """The receipt with `task` in it, when the job is being stopped and the stop ended the task."""
    if receipt is None or task.stop is None or task.status is not TaskStatus.CANCELLED:
        return receipt
    stop = task.stop
    return receipt.with_stopped(
        Stopped(
            task.task_id,
            task.pipeline,
            stop.stage,
            stop.latency_ms,
            stop.processes_killed,
            stop.where,
        ),
        stop.remote,
    )


def decide_cancel(job: Job, request: StopRequest, now: datetime) -> Job:
    """Decide to stop a job: the one write that a completion races with.

    A job that is still stopping can be escalated to `force`; that changes its receipt, not its status.

    Raises:
        JobNotRunningError: it has ended, or is stopping already and `force` was not asked for.
    """
    if job.stopping and request.mode is StopMode.FORCE and job.cancellation is not None:
        if job.cancellation.mode == StopMode.FORCE:
            return job
        escalated = replace(job.cancellation, mode=StopMode.FORCE.value, escalated_at=now)
        return replace(job, cancellation=escalated)
    if job.is_terminal:
        raise JobNotRunningError(job.job_id, job.status, stopping=job.stopping)
    return replace(
        job,
        status=next_status(job.status, JobEvent.CANCEL),
        cancellation=Receipt(
            requested_at=now,
            requested_by=request.requested_by,
            cause=Cause(request.cause),
            reason=request.reason,
            mode=request.mode.value,
        ),
    )


def decide_task_cancel(job: Job, task: TaskRecord, request: StopRequest, now: datetime) -> Job:
    """Decide to stop one task of a job that goes on. One that is being stopped can be escalated to `force`.

    Raises:
        JobNotRunningError: the job has ended, or all of it is being stopped.
        TaskNotRunningError: the task has ended, or is being stopped already and `force` was not asked for.
    """
    if job.is_terminal:
        raise JobNotRunningError(job.job_id, job.status, stopping=job.stopping)
    known = job.task_stops.get(task.task_id)
    if task.is_terminal:
        raise TaskNotRunningError(task.task_id, task.status)
    if known is not None:
        if request.mode is not StopMode.FORCE:
            raise TaskNotRunningError(task.task_id, task.status, stopping=True)
        stop = replace(known, mode=StopMode.FORCE)
    else:
        stop = TaskStopRequest(now, request.requested_by, request.reason, request.mode)
    return replace(job, task_stops={**job.task_stops, task.task_id: stop})


def _unsettled(job: Job) -> str:
    if job.is_over:
        return "a task of it was out of reach when it was stopped, and may still run"
    return "it is still stopping" if job.stopping else f"it is {job.status.value}"


def check_rollback(job: Job) -> None:
    """Refuse to take back what a job has published, unless it has ended and that was not asked for before.

    Raises: `JobNotRolledBackError`: it runs, stops or was rolled back before.
    """
    if not job.is_settled:
        raise JobNotRolledBackError(
            job.job_id,
            "job_not_ended",
            _unsettled(job),
            "wait until it has ended, or cancel it",
        )
    if job.rollback is not None:
        done = job.rollback.finished_at is not None
        raise JobNotRolledBackError(
            job.job_id,
            "already_rolled_back" if done else "rolling_back",
            "that was done already" if done else "that is being done already",
            "get the job to see its tables",
        )


def decide_rollback(job: Job, rollback: Rollback) -> Job:
    """Decide to take back what an ended job has published. Raises: as `check_rollback`."""
    check_rollback(job)
    return replace(job, rollback=rollback)


def decide_resume(job: Job, resumed_by: str) -> Job:
    """Decide that an ended job goes on as the job `resumed_by`; once.

    Raises: `JobNotResumableError`: it runs, stops, has succeeded, or was resumed before.
    """
    if not job.is_settled:
        raise JobNotResumableError(
            job,
            "job_not_ended",
            _unsettled(job),
            "wait until it has ended",
        )
    if job.status is JobStatus.SUCCESS:
        raise JobNotResumableError(
            job, "job_succeeded", "all of it has succeeded", "rerun it to run it again"
        )
    if job.resumed_by is not None:
        raise JobNotResumableError(
            job,
            "already_resumed",
            f"it goes on as job {job.resumed_by}",
            f"look at job {job.resumed_by}, and resume that one if it has ended",
        )
    if job.rollback is not None and job.rollback.finished_at is None:
        raise JobNotResumableError(
            job, "rolling_back", "it is being rolled back", "try again in a moment"
        )
    return replace(job, resumed_by=resumed_by)


def may_commit(job: Job, task: TaskRecord, *, stopping_alone: bool, lease: int) -> str | None:
    """Return why a commit is refused now, or `None` when it is permitted (contract section 3, rule 4)."""
    draining = job.cancellation is not None and job.cancellation.mode == StopMode.DRAIN
    if job.status is JobStatus.CANCELLED and not draining:
        return "the job is cancelled"
    if job.is_terminal and not draining:
        return f"the job has ended with status {job.status}"
    if stopping_alone or task.task_id in job.task_stops:
        return "the task is being stopped"
    if task.status is not TaskStatus.RUNNING:
        return f"the task is {task.status}"
    if job.lease != lease:
        return "another executor has taken the job over"
    return None


def end_job(
    job: Job,
    now: datetime,
    *,
    not_started: tuple[str, ...],
    kept: tuple[Kept, ...],
    lasted_seconds: float | None = None,
) -> Job:
    """End a job whose tasks have all ended, or close the receipt of one that was cancelled.

    A cancelled job with tasks that run out of our reach ends `unconfirmed`; called again when they have ended, it says
    so in the receipt.
    """
    receipt = job.cancellation
    if job.is_over:
        if receipt is None or not receipt.is_unconfirmed or job.running_tasks:
            return job
        return replace(job, cancellation=replace(receipt, confirmed_at=now, kept=kept))
    if job.status is JobStatus.CANCELLED and receipt is not None:
        outcome = StopOutcome.STOPPED
        if job.running_tasks:
            outcome = StopOutcome.UNCONFIRMED
        elif job.completed_tasks == job.total_tasks:
            outcome = StopOutcome.FINISHED
        receipt = receipt.closed(
            now,
            not_started=not_started,
            kept=kept,
            outcome=outcome,
            lasted_seconds=lasted_seconds,
        )
        return replace(job, completed_at=now, cancellation=receipt)
    return replace(job, status=next_status(job.status, ending(job)), completed_at=now)
