"""Create, find, list and cancel jobs: the verbs that routes, commands and the executor share."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sluicegate.core.cancellation import Stage
from sluicegate.core.job import (
    Event,
    Job,
    JobNotFoundError,
    JobNotRunningError,
    JobQuery,
    JobStatus,
    LogEntry,
    TaskRecord,
    TaskStatus,
    TaskStop,
)
from sluicegate.core.ledger import Ledger
from sluicegate.core.plan import Plan, make_plan
from sluicegate.core.ports import Accepted, Change, Clock, Store
from sluicegate.core.receipt import Kept, latency_ms
from sluicegate.core.transitions import (
    Ended,
    StopRequest,
    TaskEvent,
    decide_cancel,
    end_attempt,
    end_job,
)
from sluicegate.errors import SluicegateError
from sluicegate.spec import PipelineSpec

__all__ = [
    "Catalog",
    "JobDetails",
    "JobManager",
    "JobNotFoundError",
    "JobNotRunningError",
    "JobStatus",
    "RunRequest",
    "StopPreview",
    "StopRequest",
    "TaskStatus",
]


@dataclass(frozen=True, slots=True)
class Catalog:
    """The pipelines as they were loaded, by id in order of declaration, and the version of their code."""

    specs: Mapping[str, PipelineSpec] = field(default_factory=dict)
    code_version: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What to run. Without `pipelines`: the full pipeline, limited to `layers` when given."""

    pipelines: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    with_dependencies: bool = False
    full_refresh: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    job_name: str | None = None
    timeout_seconds: float | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class JobDetails:
    """A job with its plan and the tasks that have started."""

    job: Job
    plan: Plan
    tasks: tuple[TaskRecord, ...]


@dataclass(frozen=True, slots=True)
class StopPreview:
    """What a stop would do now. Times are `None` while nothing was observed to tell them from."""

    running: tuple[TaskRecord, ...]
    not_started: tuple[str, ...]
    kept: tuple[Kept, ...]
    expected_stop_ms: Mapping[str, float | None]
    lost_work_seconds: float | None


class NothingToRunError(SluicegateError):
    """The layers asked for hold no pipeline."""

    code = "nothing_to_run"


class JobManager:
    """The jobs of a store.

    Args:
        store: Where they are kept.
        ledger: How they are written.
        catalog: What can be run.
        wake: Told the id of each job that was created or decided on, after it is durable. Without it nobody
            executes here, and a stop of a job that has no running task is closed on the spot.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        clock: Clock,
        catalog: Catalog,
        wake: Callable[[str], None] | None = None,
    ) -> None:
        self._store, self._ledger, self._clock = store, ledger, clock
        self.catalog = catalog
        self.wake = wake
        self.executor_id: str | None = (
            None  # whose jobs new ones are from the start, sparing a claim
        )

    # ---------------------------------------------------------------- run

    def create(
        self,
        request: RunRequest,
        *,
        user_id: str,
        trigger: str = "api",
        idempotency_key: str | None = None,
    ) -> tuple[Job, bool]:
        """Create a job and hand it to the executor.

        Returns: the job, and whether it is new; a repeated idempotency key answers with the first one's job.
        Raises: `PipelineNotFoundError`, `NothingToRunError`; nothing was created.
        """
        if idempotency_key is not None and (known := self._store.find_idempotent(idempotency_key)):
            return known, False
        plan = make_plan(
            self.catalog.specs,
            request.pipelines,
            with_dependencies=request.with_dependencies,
            layers=request.layers,
        )
        if not plan.steps and request.layers:
            raise NothingToRunError(
                f"no pipeline is declared in {', '.join(request.layers)}",
                mend="the layers are bronze, silver and gold; list the pipelines to see what is declared",
            )
        job = Job(
            job_id=new_id(),
            job_name=request.job_name or _default_name(request),
            status=JobStatus.PENDING,
            created_at=self._clock.now(),
            total_tasks=len(plan.steps),
            user_id=user_id,
            trigger=trigger,
            params=request.params,
            labels=request.labels,
            priority=request.priority,
            timeout_seconds=request.timeout_seconds,
            full_refresh=request.full_refresh,
            code_version=self.catalog.code_version,
            idempotency_key=idempotency_key,
            executor_id=self.executor_id,
            lease=1 if self.executor_id else 0,
        )
        created = Event(
            "job.created", job.job_id, job.created_at, data={"status": job.status.value}
        )
        outcome = self._ledger.create(Change(job, made_from=0, plan=plan, events=(created,)))
        if isinstance(outcome, Accepted):
            self._woken(job.job_id)
            return outcome.job, True
        if outcome.duplicate_of is not None:
            return self._store.get(outcome.duplicate_of), False
        raise SluicegateError(f"job id {job.job_id!r} was taken", mend="try again")

    # ---------------------------------------------------------------- look

    def get(self, job_id: str) -> JobDetails:
        """Return a job with its plan and tasks. Raises: `JobNotFoundError`."""
        job = self._store.get(job_id)
        return JobDetails(job, self._store.plan(job_id), tuple(self._store.tasks([job_id])))

    def header(self, job_id: str) -> Job:
        """Return a job's header. Raises: `JobNotFoundError`."""
        return self._store.get(job_id)

    def list(self, query: JobQuery) -> tuple[Sequence[Job], str | None]:
        """Return a page of the history, newest first, and the job id that the next page starts before."""
        jobs = self._store.list(replace(query, limit=query.limit + 1))
        if len(jobs) <= query.limit:
            return jobs, None
        return jobs[: query.limit], jobs[query.limit - 1].job_id

    def progress_percent(self, jobs: Sequence[Job]) -> dict[str, float]:
        """Return, by job id, how much of the plan is done: finished tasks plus the fractions of running ones."""
        going = [job.job_id for job in jobs if job.running_tasks]
        fractions: dict[str, float] = dict.fromkeys(going, 0.0)
        if going:
            for task in self._store.tasks(going, statuses=(TaskStatus.RUNNING,)):
                fractions[task.job_id] += task.progress.fraction if task.progress else 0.0
        return {job.job_id: _percent(job, fractions.get(job.job_id, 0.0)) for job in jobs}

    def latest_tasks(self) -> dict[str, TaskRecord]:
        """Return, by pipeline id, the last task of each declared pipeline that ever ran."""
        return self._store.latest_tasks(list(self.catalog.specs))

    def logs(
        self, job_id: str, *, task_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> Sequence[LogEntry]:
        """Return the job's log lines after `after`. Raises: `JobNotFoundError`."""
        self._store.get(job_id)
        return self._store.logs(job_id, task_id=task_id, after=after, limit=limit)

    def events(
        self, *, job_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> Sequence[Event]:
        """Return the timeline after `after`, of one job or of all. Raises: `JobNotFoundError`."""
        if job_id is not None:
            self._store.get(job_id)
        return self._store.events(job_id=job_id, after=after, limit=limit)

    # ---------------------------------------------------------------- stop

    def cancel(self, job_id: str, request: StopRequest, *, ignore_ended: bool = False) -> Job:
        """Stop a job. When this returns, the job is stored as `cancelled`; its tasks follow.

        Args:
            ignore_ended: Return an ended job as it is instead of raising.

        Raises:
            JobNotFoundError: There is no such job.
            JobNotRunningError: It had ended, or is stopping already and `force` was not asked for.
        """
        now = self._clock.now()

        def decide(job: Job) -> Change | None:
            after = decide_cancel(job, request, now)
            if after is job:
                return None
            kind = "job.escalated" if job.stopping else "job.cancelled"
            return Change(
                after,
                made_from=job.version,
                events=(Event(kind, job_id, now, data=_stop_facts(request)),),
                logs=(LogEntry(job_id, now, _stop_line(request, kind)),),
            )

        try:
            written = self._ledger.write(job_id, decide)
        except JobNotRunningError:
            if ignore_ended:
                return self._store.get(job_id)
            raise
        if self.wake is not None:
            self._woken(job_id)
            return written.job
        return self._close_idle(written.job)

    def preview_cancel(self, job_id: str) -> StopPreview:
        """Return what a stop would do, changing nothing. Raises: `JobNotFoundError`, `JobNotRunningError`."""
        details = self.get(job_id)
        if details.job.is_terminal and not details.job.stopping:
            raise JobNotRunningError(job_id, details.job.status)
        running = tuple(t for t in details.tasks if t.status is TaskStatus.RUNNING)
        return StopPreview(
            running=running,
            not_started=not_started(details.plan, details.tasks),
            kept=kept(details.tasks),
            expected_stop_ms={task.task_id: None for task in running},
            lost_work_seconds=None,
        )

    def _close_idle(self, job: Job) -> Job:
        """Close the stop of a job that nobody executes and that has no running task."""
        if job.running_tasks or not job.stopping:
            return job
        details = self.get(job.job_id)
        now = self._clock.now()

        def decide(job: Job) -> Change | None:
            if job.is_over or job.running_tasks:
                return None
            return close_job(job, details.plan, details.tasks, now)

        return self._ledger.write(job.job_id, decide).job

    def _woken(self, job_id: str) -> None:
        if self.wake is not None:
            self.wake(job_id)


def not_started(plan: Plan, tasks: Sequence[TaskRecord]) -> tuple[str, ...]:
    """The pipelines of the plan that have no task, in plan order."""
    started = {task.pipeline for task in tasks}
    return tuple(p for p in plan.pipelines if p not in started)


def kept(tasks: Sequence[TaskRecord]) -> tuple[Kept, ...]:
    """What the tasks have published."""
    return tuple(
        Kept(task.pipeline, task.stats.version, task.stats.rows)
        for task in tasks
        if task.stats.version is not None
    )


def close_job(job: Job, plan: Plan, tasks: Sequence[TaskRecord], now: datetime) -> Change:
    """The change that ends a job, or closes the receipt of a cancelled one; with its event and log line.

    A task that was waiting for another attempt will not get one: it ends with its job.
    """
    stored, ended = job, []
    for task in tasks:
        if task.status is TaskStatus.PENDING:
            stop = _stop_while_waiting(job, now)
            job, task = end_attempt(job, task, Ended(TaskEvent.CANCEL, now, task.stats, stop=stop))
            ended.append(task)
    after = end_job(job, now, not_started=not_started(plan, tasks), kept=kept(tasks))
    kind = "job.stopped" if after.status is JobStatus.CANCELLED else "job.finished"
    return Change(
        after,
        made_from=stored.version,
        tasks=tuple(ended),
        events=(
            *(task_finished(task, now) for task in ended),
            Event(kind, job.job_id, now, data={"status": after.status.value}),
        ),
        logs=(LogEntry(job.job_id, now, _end_line(after)),),
    )


def task_finished(task: TaskRecord, now: datetime, kind: str = "task.finished") -> Event:
    """The event of an attempt's end."""
    facts = {"pipeline": task.pipeline, "status": task.status.value, "rows": task.stats.rows}
    return Event(kind, task.job_id, now, task.task_id, facts)


def _stop_while_waiting(job: Job, now: datetime) -> TaskStop | None:
    receipt = job.cancellation
    if receipt is None:
        return None
    return TaskStop(
        cause=receipt.cause.value,
        requested_by=receipt.requested_by,
        reason=receipt.reason,
        stage=Stage.CHECKPOINT.value,
        stopped_at=now,
        latency_ms=latency_ms(receipt.requested_at, now),
    )


def new_id() -> str:
    """Return a UUIDv7: ids of one process sort by creation, to a quarter of a microsecond; the rest is random.

    Source: RFC 9562, sections 5.7 and 6.2 (method 3: the 12 bits of rand_a hold the fraction of the millisecond).
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = nanoseconds * 4096 // 1_000_000
    random = int.from_bytes(os.urandom(8)) & (2**62 - 1)
    return str(uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random))


def _default_name(request: RunRequest) -> str:
    if not request.pipelines:
        return " + ".join(request.layers) if request.layers else "full pipeline"
    shown = ", ".join(request.pipelines[:3])
    return shown if len(request.pipelines) <= 3 else f"{shown} + {len(request.pipelines) - 3} more"


def _percent(job: Job, running: float) -> float:
    if not job.total_tasks:
        return 100.0 if job.is_terminal else 0.0
    ended = job.completed_tasks + job.failed_tasks + job.cancelled_tasks
    return round(min(100.0, 100.0 * (ended + running) / job.total_tasks), 1)


def _stop_facts(request: StopRequest) -> dict[str, Any]:
    return {
        "requested_by": request.requested_by,
        "cause": request.cause,
        "reason": request.reason,
        "mode": request.mode.value,
    }


def _stop_line(request: StopRequest, kind: str) -> str:
    because = f": {request.reason}" if request.reason else ""
    if kind == "job.escalated":
        return f"stop escalated to {request.mode.value} by {request.requested_by}{because}"
    return f"stop ({request.mode.value}) requested by {request.requested_by}{because}"


def _end_line(job: Job) -> str:
    receipt = job.cancellation
    if job.status is not JobStatus.CANCELLED or receipt is None:
        return (
            f"job ended {job.status.value}: {job.completed_tasks} of {job.total_tasks} succeeded,"
            f" {job.failed_tasks} failed, {job.cancelled_tasks} cancelled"
        )
    return (
        f"job stopped in {receipt.latency_ms:.0f} ms: {len(receipt.stopped)} tasks stopped,"
        f" {len(receipt.not_started)} not started, {len(receipt.kept)} tables keep what was published"
    )
