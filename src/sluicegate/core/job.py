"""What a job and a task are: frozen records, their statuses, and the questions asked about them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sluicegate.core.receipt import Receipt, RemoteStop
from sluicegate.errors import SluicegateError


class JobStatus(StrEnum):
    """Where a job stands. All but `pending` and `running` are terminal and never change."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    PARTIAL = "partial"
    CANCELLED = "cancelled"


class TaskStatus(StrEnum):
    """Where a task stands. A record appears as `running`; `pending` only waits for another attempt."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StopMode(StrEnum):
    """How a job is stopped: climb the ladder, kill at once, or let running tasks finish."""

    GRACEFUL = "graceful"
    FORCE = "force"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class TaskStopRequest:
    """A stop of one task alone, as it was decided. The job goes on without what depends on the task."""

    requested_at: datetime
    requested_by: str
    reason: str | None = None
    mode: StopMode = StopMode.GRACEFUL


@dataclass(frozen=True, slots=True)
class TableRollback:
    """One table of a rollback: the version it had, and the one whose content it gets back; `None`: it becomes empty."""

    table: str
    from_version: int
    to_version: int | None


@dataclass(frozen=True, slots=True)
class Rollback:
    """The decision to take back what a job has published. Unfinished, it is carried on after a crash."""

    rollback_id: str
    requested_at: datetime
    requested_by: str
    tables: tuple[TableRollback, ...] = ()
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job's header: everything that changes while it runs, and nothing that grows with its plan.

    Times are aware UTC datetimes. `version` counts the accepted writes of this job and is what a conditional
    write is made from. `executor_id` and `lease` name who may report on its tasks: a takeover raises `lease`.
    `task_stops` are the tasks that were stopped alone, by id.
    """

    job_id: str
    job_name: str
    status: JobStatus
    created_at: datetime
    total_tasks: int
    user_id: str = "local"
    trigger: str = "api"
    started_at: datetime | None = None
    completed_at: datetime | None = None
    running_tasks: int = 0
    completed_tasks: int = 0
    failed_tasks: int = 0
    cancelled_tasks: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    timeout_seconds: float | None = None
    full_refresh: bool = False
    resumed_from: str | None = None
    resumed_by: str | None = None
    code_version: str | None = None
    error: str | None = None
    cancellation: Receipt | None = None
    task_stops: Mapping[str, TaskStopRequest] = field(default_factory=dict)
    rollback: Rollback | None = None
    idempotency_key: str | None = None
    executor_id: str | None = None
    lease: int = 0
    recoveries: int = 0
    version: int = 0

    @property
    def is_terminal(self) -> bool:
        """Whether the status can never change again."""
        return self.status not in (JobStatus.PENDING, JobStatus.RUNNING)

    @property
    def stopping(self) -> bool:
        """Whether a stop was decided and some task is not known to be gone yet."""
        return self.status is JobStatus.CANCELLED and self.completed_at is None

    @property
    def is_over(self) -> bool:
        """Whether its end is stored, and with it the whole receipt of a stop."""
        return self.is_terminal and self.completed_at is not None

    @property
    def is_settled(self) -> bool:
        """Whether it is over, and no task of it is still running out of our reach (outcome `unconfirmed`)."""
        return self.is_over and not self.running_tasks

    @property
    def rolled_back(self) -> frozenset[str]:
        """The tables that were put back to what they held before this job."""
        return frozenset(t.table for t in self.rollback.tables) if self.rollback else frozenset()

    def duration_seconds(self, now: datetime) -> float | None:
        """Seconds from the first task's start to the end, or to `now` while it lasts."""
        return _seconds_between(self.started_at, self.completed_at or now)


@dataclass(frozen=True, slots=True)
class TaskStop:
    """How one task was stopped. `stage` is the last step of the ladder that was needed."""

    cause: str
    requested_by: str | None
    reason: str | None
    stage: str
    stopped_at: datetime
    latency_ms: float
    processes_killed: int = 0
    where: tuple[str, ...] = ()
    remote: tuple[RemoteStop, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskStats:
    """What a task has committed: only whole units. `version` is the table's after the last of them."""

    rows: int = 0
    bytes: int = 0
    files: int = 0
    units: int = 0
    version: int | None = None


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far a running task says it is."""

    done: float
    total: float | None = None
    unit: str = "rows"

    @property
    def fraction(self) -> float:
        """Between 0 and 1; 0 while the total is unknown."""
        return min(1.0, max(0.0, self.done / self.total)) if self.total else 0.0


@dataclass(frozen=True, slots=True)
class TaskInput:
    """An input table and the version it was read at."""

    table: str
    version: int | None


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """The execution of one pipeline inside one job. `epoch` is its table's writer epoch, 0 without a table."""

    task_id: str
    job_id: str
    pipeline: str
    status: TaskStatus
    started_at: datetime | None = None
    completed_at: datetime | None = None
    attempt: int = 1
    epoch: int = 0
    permits: int = 0
    retries_used: int = 0
    message: str | None = None
    error: str | None = None
    inputs: tuple[TaskInput, ...] = ()
    stats: TaskStats = field(default_factory=TaskStats)
    progress: TaskProgress | None = None
    stop: TaskStop | None = None

    @property
    def layer(self) -> str:
        """The layer of its pipeline."""
        return self.pipeline.partition(".")[0]

    @property
    def pipeline_name(self) -> str:
        """The name of its pipeline within the layer."""
        return self.pipeline.partition(".")[2]

    @property
    def is_terminal(self) -> bool:
        """Whether the status can never change again."""
        return self.status not in (TaskStatus.PENDING, TaskStatus.RUNNING)

    def duration_seconds(self, now: datetime) -> float | None:
        """Seconds from the attempt's start to its end, or to `now` while it lasts."""
        return _seconds_between(self.started_at, self.completed_at or now)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's timeline. `event_id` is given by the store and grows; 0 until then."""

    type: str
    job_id: str
    at: datetime
    task_id: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    event_id: int = 0


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a job's logs. `stream` is `stdout`, `stderr`, `log` (task.log) or `job` (the runner itself)."""

    job_id: str
    at: datetime
    message: str
    task_id: str | None = None
    level: str = "info"
    stream: str = "job"
    log_id: int = 0


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs of the history, newest first.

    Several values of one field are alternatives, and so are several values of one label; labels of different
    names must all be there. `created_after` is inclusive, `created_before` exclusive.
    """

    statuses: tuple[JobStatus, ...] = ()
    pipelines: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    user_ids: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    before_job_id: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the store keeps it: never the key itself, only its SHA-256."""

    name: str
    role: str
    key_hash: str
    created_at: datetime
    revoked_at: datetime | None = None


def _seconds_between(start: datetime | None, end: datetime) -> float | None:
    return None if start is None else max(0.0, (end - start).total_seconds())


class JobNotFoundError(SluicegateError):
    """There is no job of that id."""

    code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id!r}", mend="list the jobs to see their ids")
        self.job_id = job_id


class JobNotRunningError(SluicegateError):
    """The job has already ended, so there is nothing to stop."""

    code = "job_not_running"

    def __init__(self, job_id: str, status: JobStatus, *, stopping: bool = False) -> None:
        super().__init__(
            f"cannot cancel job {job_id!r}: "
            + (
                "it is cancelled and still stopping"
                if stopping
                else f"it has ended with status {status.value}"
            ),
            mend="stop it by force if it takes too long"
            if stopping
            else "nothing of it is running; what it published stays",
        )
        self.job_id, self.status = job_id, status


class TaskNotFoundError(SluicegateError):
    """The job has no such task."""

    code = "task_not_found"

    def __init__(self, job_id: str, task_id: str) -> None:
        super().__init__(
            f"job {job_id!r} has no task {task_id!r}", mend="get the job to see its tasks"
        )
        self.job_id, self.task_id = job_id, task_id


class TaskNotRunningError(SluicegateError):
    """The task has already ended, so there is nothing to stop."""

    code = "task_not_running"

    def __init__(self, task_id: str, status: TaskStatus, *, stopping: bool = False) -> None:
        what = (
            "it is being stopped already"
            if stopping
            else f"it has ended with status {status.value}"
        )
        mend = "stop it by force if it takes too long" if stopping else "nothing of it is running"
        super().__init__(f"cannot cancel task {task_id!r}: {what}", mend=mend)
        self.task_id, self.status = task_id, status


class JobNotResumableError(SluicegateError):
    """The job cannot be resumed as it is now; `code` says which of the reasons it is."""

    def __init__(self, job: Job, code: str, what: str, mend: str) -> None:
        super().__init__(f"cannot resume job {job.job_id!r}: {what}", mend=mend)
        self.code, self.job_id, self.status, self.resumed_by = (
            code,
            job.job_id,
            job.status,
            job.resumed_by,
        )


class JobNotRolledBackError(SluicegateError):
    """The job's tables cannot be put back now; `code` says which of the reasons it is."""

    def __init__(self, job_id: str, code: str, what: str, mend: str) -> None:
        super().__init__(f"cannot roll back job {job_id!r}: {what}", mend=mend)
        self.code, self.job_id = code, job_id
