"""Create, find, list and cancel jobs: the verbs that routes, commands and the executor share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sluicegate.core import resuming
from sluicegate.core.cancellation import Stage
from sluicegate.core.ids import new_id
from sluicegate.core.job import (
    Event,
    Job,
    JobNotFoundError,
    JobNotRunningError,
    JobQuery,
    JobStatus,
    LogEntry,
    StopMode,
    TableRollback,
    TaskNotFoundError,
    TaskNotRunningError,
    TaskRecord,
    TaskStatus,
    TaskStop,
)
from sluicegate.core.ledger import Decide, Ledger, Written
from sluicegate.core.pace import NO_OUTLOOK, Outlook
from sluicegate.core.plan import PipelineNotFoundError, Plan, make_plan
from sluicegate.core.ports import Accepted, Change, Clock, Store, Tables
from sluicegate.core.receipt import Kept, latency_ms
from sluicegate.core.resuming import ResumePreview
from sluicegate.core.rollbacks import Rollbacks
from sluicegate.core.transitions import (
    Ended,
    StopRequest,
    TaskEvent,
    decide_cancel,
    decide_resume,
    decide_task_cancel,
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


MANY_MAX: Final = 10_000
MATCHED_PAGE: Final = 500


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


class StopResult(StrEnum):
    """What a stop of many came to for one job."""

    CANCELLED = "cancelled"
    NOT_RUNNING = "job_not_running"
    NOT_FOUND = "job_not_found"


@dataclass(frozen=True, slots=True)
class ManyStopped:
    """What a stop of many came to, or would come to: each job that was meant, in order, and its result."""

    results: tuple[tuple[str, StopResult], ...]

    @property
    def cancelled(self) -> int:
        """How many were stopped by it."""
        return sum(result is StopResult.CANCELLED for _, result in self.results)


class TooManyJobsError(SluicegateError):
    """A filter means more jobs than one call stops."""

    code = "too_many_jobs"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"more than {most} jobs match", mend="narrow the filter, or stop them in several calls"
        )


class NothingToRunError(SluicegateError):
    """The layers asked for hold no pipeline."""

    code = "nothing_to_run"


class JobManager:
    """The jobs of a store.

    Args:
        store: Where they are kept.
        ledger: How they are written.
        catalog: What can be run.
        wake: Told of each job that was created or decided on, after it is durable. Without it nobody executes
            here, and a stop of a job that has no running task is closed on the spot.
        tables: The lake; what a rollback changes.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        clock: Clock,
        catalog: Catalog,
        wake: Callable[[str, Job | None], None] | None = None,
        tables: Tables | None = None,
    ) -> None:
        self._store, self._ledger, self._clock = store, ledger, clock
        self.rollbacks = Rollbacks(store, ledger, clock, tables)
        self.catalog = catalog
        self.wake = wake
        # What stops of a job's running tasks would cost, by task id; the executor knows.
        self.outlook: Callable[[str], Mapping[str, Outlook]] = lambda _: {}
        # Whose a new job is from the start, which spares a claim.
        self.owner: Callable[[], str | None] = lambda: None

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
        owner = self.owner()
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
            executor_id=owner,
            lease=1 if owner else 0,
        )
        outcome = self._ledger.create(_creation(job, plan))
        if isinstance(outcome, Accepted):
            self._woken(outcome.job)
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
        try:
            written = self.cancel_soon(job_id, request).result()
        except JobNotRunningError:
            if ignore_ended:
                return self._store.get(job_id)
            raise
        return written.job if self.wake is not None else self._close_idle(written.job)

    def cancel_soon(self, job_id: str, request: StopRequest) -> Future[Written]:
        """Stop a job; as `cancel`, for who must not block and where somebody executes."""
        decide = _deciding_stop(request, self._clock.now())
        return self._ledger.write_soon(job_id, decide, then=self._woken)

    def cancel_many(self, job_ids: Sequence[str], request: StopRequest) -> ManyStopped:
        """Stop many jobs. When this returns, each is stored as `cancelled`, or is none that can be stopped.

        Raises: `StoreUnavailableError`: the store went away; the jobs before that are stopped.
        """
        wanted = list(dict.fromkeys(job_ids))
        decide = _deciding_stop(request, self._clock.now())
        results: list[tuple[str, StopResult]] = []
        written = self._ledger.write_all([(job_id, decide) for job_id in wanted])
        for job_id, came_to in zip(wanted, written, strict=True):
            match came_to:
                case Written(job):
                    if self.wake is None:
                        self._close_idle(job)
                    self._woken(job)
                    results.append((job_id, StopResult.CANCELLED))
                case JobNotRunningError():
                    results.append((job_id, StopResult.NOT_RUNNING))
                case JobNotFoundError():
                    results.append((job_id, StopResult.NOT_FOUND))
                case error:
                    raise error
        return ManyStopped(tuple(results))

    def preview_cancel_many(
        self, job_ids: Sequence[str], mode: StopMode = StopMode.GRACEFUL
    ) -> ManyStopped:
        """Return what `cancel_many` would come to, changing nothing."""
        results: list[tuple[str, StopResult]] = []
        wanted = list(dict.fromkeys(job_ids))
        jobs = self._store.get_many(wanted)
        for job_id in wanted:
            job = jobs.get(job_id)
            if job is None:
                results.append((job_id, StopResult.NOT_FOUND))
            # One that is still stopping can be forced.
            elif job.is_terminal and not (job.stopping and mode is StopMode.FORCE):
                results.append((job_id, StopResult.NOT_RUNNING))
            else:
                results.append((job_id, StopResult.CANCELLED))
        return ManyStopped(tuple(results))

    def matching(self, query: JobQuery, *, most: int = MANY_MAX) -> Sequence[str]:
        """Return the ids of the jobs that a filter means, newest first; without a status, those that have not ended.

        Raises: `TooManyJobsError`: more than `most` match.
        """
        statuses = query.statuses or (JobStatus.PENDING, JobStatus.RUNNING)
        query = replace(query, statuses=statuses, limit=MATCHED_PAGE)
        found = []
        while jobs := self._store.list(query):
            found += [job.job_id for job in jobs]
            if len(found) > most:
                raise TooManyJobsError(most)
            query = replace(query, before_job_id=found[-1])
        return found

    def cancel_task(self, job_id: str, task_id: str, request: StopRequest) -> JobDetails:
        """Stop one task; what depends on it does not run, the rest of the job goes on.

        Returns: the job with its tasks; `task_stops` of its header names the task from now on.

        Raises:
            JobNotFoundError, TaskNotFoundError: There is no such job, or no such task in it.
            JobNotRunningError: The job has ended, or all of it is being stopped.
            TaskNotRunningError: The task has ended, or is being stopped already.
        """
        now = self._clock.now()

        def find() -> TaskRecord:
            for task in self._store.tasks([job_id]):
                if task.task_id == task_id:
                    return task
            raise TaskNotFoundError(job_id, task_id)

        def decide(job: Job) -> Change | None:
            task = find()
            after = decide_task_cancel(job, task, request, now)
            facts = {**_stop_facts(request), "pipeline": task.pipeline}
            line = f"{task.pipeline}: {_stop_line(request)}"
            return Change(
                after,
                made_from=job.version,
                events=(Event("task.stopping", job_id, now, task_id, facts),),
                logs=(LogEntry(job_id, now, line, task_id),),
            )

        self._store.get(job_id)
        self._ledger.write(job_id, decide, then=self._woken)
        task = find()
        if task.is_terminal and task.status is not TaskStatus.CANCELLED:
            raise TaskNotRunningError(task_id, task.status)  # it ended in the very same moment
        return self.get(job_id)

    def preview_cancel(self, job_id: str, mode: StopMode = StopMode.GRACEFUL) -> StopPreview:
        """Return what a stop would do, changing nothing. Raises: `JobNotFoundError`, `JobNotRunningError`."""
        details = self.get(job_id)
        if details.job.is_terminal and not details.job.stopping:
            raise JobNotRunningError(job_id, details.job.status)
        running = tuple(t for t in details.tasks if t.status is TaskStatus.RUNNING)
        outlook = self.outlook(job_id)
        ahead = {task.task_id: outlook.get(task.task_id, NO_OUTLOOK) for task in running}
        # Killing waits for no checkpoint, and who drains waits for the end: neither was observed.
        graceful = mode is StopMode.GRACEFUL
        lost = [one.lost_work_seconds for one in ahead.values()]
        return StopPreview(
            running=running,
            not_started=not_started(details.plan, details.tasks),
            kept=kept(details.tasks),
            expected_stop_ms={
                task_id: round(one.expected_stop_seconds * 1000, 1)
                if graceful and one.expected_stop_seconds is not None
                else None
                for task_id, one in ahead.items()
            },
            lost_work_seconds=_total(lost) if mode is not StopMode.DRAIN else 0.0,
        )

    # ---------------------------------------------------------------- go on, go back, again

    def preview_resume(self, job_id: str) -> ResumePreview:
        """Return what a resume would keep and run. Raises: as `resume`."""
        details = self.get(job_id)
        decide_resume(details.job, job_id)
        return resuming.preview(details.job, details.plan, details.tasks)

    def resume(self, job_id: str, *, user_id: str) -> Job:
        """Go on with an ended job as a new one: the part of its plan that did not succeed.

        Returns: the new job; it is `success` at once when nothing is left.

        Raises:
            JobNotFoundError: There is no such job.
            JobNotResumableError: It runs, stops, has succeeded, or was resumed before.
            PipelineNotFoundError: A pipeline that is left is not in the code any more.
        """
        details = self.get(job_id)
        now, successor = self._clock.now(), new_id()

        def decide(job: Job) -> Change | None:
            after = decide_resume(job, successor)
            left = resuming.what_is_left(job, details.plan, details.tasks)
            self._check_declared(left)
            new = replace(
                self._again(job, left, user_id, "resume", now),
                job_id=successor,
                resumed_from=job_id,
            )
            if not left.steps:
                new = replace(new, status=JobStatus.SUCCESS, completed_at=now, executor_id=None)
            facts = {"resumed_by": successor}
            return Change(
                after,
                made_from=job.version,
                events=(Event("job.resumed", job_id, now, data=facts),),
                logs=(LogEntry(job_id, now, f"resumed by {user_id} as job {successor}"),),
                creates=_creation(new, left),
            )

        self._ledger.write(job_id, decide)
        job = self._store.get(successor)
        self._woken(job)
        return job

    def rerun(self, job_id: str, *, user_id: str) -> Job:
        """Run the plan of a job again, from its beginning, with the same parameters.

        Raises: `JobNotFoundError`; `PipelineNotFoundError`: a pipeline is not in the code any more.
        """
        details = self.get(job_id)
        self._check_declared(details.plan)
        job = self._again(details.job, details.plan, user_id, "rerun", self._clock.now())
        outcome = self._ledger.create(_creation(job, details.plan))
        assert isinstance(outcome, Accepted), "a new id without an idempotency key is not refused"
        self._woken(outcome.job)
        return outcome.job

    def preview_rollback(self, job_id: str) -> tuple[TableRollback, ...]:
        """Return what a rollback would put back. Raises: as `rollback`."""
        details = self.get(job_id)
        return self.rollbacks.preview(details.job, details.tasks)

    def rollback(self, job_id: str, *, requested_by: str) -> Job:
        """Put the tables that an ended job changed back to their content before it, all or none.

        Returns: the job; its `rollback` names the tables.

        Raises:
            JobNotFoundError: There is no such job.
            JobNotRolledBackError: It runs or stops, was rolled back before, or a table is being written.
            SluicegateError: `table_changed`: another job has changed a table since. `content_gone`: what a table
                held before was vacuumed.
        """
        details = self.get(job_id)
        return self.rollbacks.roll_back(details.job, details.tasks, requested_by)

    def _again(self, job: Job, plan: Plan, user_id: str, trigger: str, now: datetime) -> Job:
        """A new job that runs `plan` as `job` was asked to."""
        owner = self.owner()
        return Job(
            job_id=new_id(),
            job_name=job.job_name,
            status=JobStatus.PENDING,
            created_at=now,
            total_tasks=len(plan.steps),
            user_id=user_id,
            trigger=trigger,
            params=job.params,
            labels=job.labels,
            priority=job.priority,
            timeout_seconds=job.timeout_seconds,
            full_refresh=job.full_refresh,
            code_version=self.catalog.code_version,
            executor_id=owner,
            lease=1 if owner else 0,
        )

    def _check_declared(self, plan: Plan) -> None:
        """Raise `PipelineNotFoundError` for what is not in the code any more, where the code was loaded."""
        if self.catalog.target is None:
            return
        for pipeline in plan.pipelines:
            if pipeline not in self.catalog.specs:
                raise PipelineNotFoundError(pipeline, self.catalog.specs)

    def _close_idle(self, job: Job) -> Job:
        """Close the stop of a job that is stopping, that nobody executes and that has no running task."""
        if job.running_tasks:
            return job
        details = self.get(job.job_id)
        now = self._clock.now()

        def decide(job: Job) -> Change | None:
            if job.is_over or job.running_tasks:
                return None
            return close_job(job, details.plan, details.tasks, now)

        return self._ledger.write(job.job_id, decide).job

    def _woken(self, job: Job) -> None:
        if self.wake is not None:
            self.wake(job.job_id, job)


def _deciding_stop(request: StopRequest, now: datetime) -> Decide:
    """The decision to stop a job, whichever it is made for."""

    def decide(job: Job) -> Change | None:
        after = decide_cancel(job, request, now)
        if after is job:
            return None
        kind = "job.escalated" if job.stopping else "job.cancelled"
        return Change(
            after,
            made_from=job.version,
            events=(Event(kind, job.job_id, now, data=_stop_facts(request)),),
            logs=(LogEntry(job.job_id, now, _stop_line(request, escalates=job.stopping)),),
        )

    return decide


def _creation(job: Job, plan: Plan) -> Change:
    """The change that creates a job; one that is over already says so."""
    now = job.created_at
    events = [Event("job.created", job.job_id, now, data={"status": JobStatus.PENDING.value})]
    if job.is_over:
        events.append(Event("job.finished", job.job_id, now, data={"status": job.status.value}))
    return Change(job, made_from=0, plan=plan, events=tuple(events))


def _total(seconds: Sequence[float | None]) -> float | None:
    """The sum; `None` when a part of it is not known."""
    known = [one for one in seconds if one is not None]
    return round(sum(known), 3) if len(known) == len(seconds) else None


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


def close_job(
    job: Job,
    plan: Plan,
    tasks: Sequence[TaskRecord],
    now: datetime,
    lasted_seconds: float | None = None,
) -> Change:
    """The change that ends a job, or closes the receipt of a cancelled one; with its event and log line.

    Where a task could not be reached the receipt is closed as `unconfirmed`, and this is done again at its end.
    A task that was waiting for another attempt will not get one: it ends with its job.
    """
    stored, ended = job, []
    for task in tasks:
        if task.status is TaskStatus.PENDING and not stored.is_over:
            stop = _stop_while_waiting(job, now)
            job, task = end_attempt(job, task, Ended(TaskEvent.CANCEL, now, task.stats, stop=stop))
            ended.append(task)
    after = end_job(
        job,
        now,
        not_started=not_started(plan, tasks),
        kept=kept(tasks),
        lasted_seconds=lasted_seconds,
    )
    kind = "job.stopped" if after.status is JobStatus.CANCELLED else "job.finished"
    if job.is_over:
        kind = "job.confirmed"
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


def _stop_line(request: StopRequest, *, escalates: bool = False) -> str:
    because = f": {request.reason}" if request.reason else ""
    if escalates:
        return f"stop escalated to {request.mode.value} by {request.requested_by}{because}"
    return f"stop ({request.mode.value}) requested by {request.requested_by}{because}"


def _end_line(job: Job) -> str:
    receipt = job.cancellation
    if job.running_tasks:
        return (
            f"stop unconfirmed: {job.running_tasks} tasks cannot be reached; it goes on being tried"
        )
    if receipt is not None and receipt.confirmed_at is not None:
        return "stop confirmed: the tasks that could not be reached have ended"
    if job.status is not JobStatus.CANCELLED or receipt is None:
        return (
            f"job ended {job.status.value}: {job.completed_tasks} of {job.total_tasks} succeeded,"
            f" {job.failed_tasks} failed, {job.cancelled_tasks} cancelled"
        )
    return (
        f"job stopped in {receipt.latency_ms:.0f} ms: {len(receipt.stopped)} tasks stopped,"
        f" {len(receipt.not_started)} not started, {len(receipt.kept)} tables keep what was published"
    )
