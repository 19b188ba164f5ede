"""What the core asks of the world: stores, workers, tables and a clock, as Protocols. No implementation here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sluicegate.core.cancellation import Stage
from sluicegate.core.job import (
    ApiKey,
    Event,
    Job,
    JobQuery,
    LogEntry,
    TableRollback,
    TaskInput,
    TaskProgress,
    TaskRecord,
    TaskStats,
    TaskStatus,
)
from sluicegate.core.plan import Plan
from sluicegate.spec import PipelineSpec

# ------------------------------------------------------------------ stores


@dataclass(frozen=True, slots=True)
class Writer:
    """Who may write to a table: the task that holds it, and the epoch that each of its commits carries.

    `revision` counts accepted changes of this row and is what a conditional write is made from; 0 means no row.
    """

    table: str
    epoch: int = 0
    job_id: str | None = None
    task_id: str | None = None
    revision: int = 0

    @property
    def is_free(self) -> bool:
        """Whether no task holds the table."""
        return self.task_id is None


@dataclass(frozen=True, slots=True)
class Change:
    """One conditional write: the new header of a job, and all that must be stored with it or not at all.

    Accepted when the stored job has version `made_from` (0: there is no such job yet) and every writer in
    `writers` has the stored revision it was made from. The store gives the job `made_from + 1`, each writer
    its `revision + 1`, and each event and log entry its id.
    """

    job: Job
    made_from: int
    plan: Plan | None = None
    tasks: tuple[TaskRecord, ...] = ()
    writers: tuple[Writer, ...] = ()
    events: tuple[Event, ...] = ()
    logs: tuple[LogEntry, ...] = ()
    # A new job, stored with this change or not at all; with a plan and events, and no idempotency key.
    creates: Change | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The change is durable. `events` are those of the change and of the job it creates, with their ids."""

    job: Job
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Another writer was first; nothing of the change was written.

    `stored` is the job as it is now, `None` when there is none. `duplicate_of` names the job that has the
    same idempotency key.
    """

    stored: Job | None
    duplicate_of: str | None = None


Outcome = Accepted | Refused


@dataclass(frozen=True, slots=True)
class Executor:
    """One that claims jobs. `beat` grows with each heartbeat; others judge it by whether it still changes."""

    executor_id: str
    host: str
    pid: int
    started_at: datetime
    beat: int = 0


class JobStore(Protocol):
    """Where jobs live. Every method is one atomic step and safe from any thread.

    Stores hold no rules: what may follow what is decided in `core.transitions`, once.
    """

    def get(self, job_id: str) -> Job:
        """Return the job's header and version. Raises: `JobNotFoundError`."""
        ...

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return the headers of those of the jobs that there are, by id."""
        ...

    def plan(self, job_id: str) -> Plan:
        """Return the plan the job was created with. Raises: `JobNotFoundError`."""
        ...

    def tasks(
        self, job_ids: Sequence[str], *, statuses: Sequence[TaskStatus] = ()
    ) -> Sequence[TaskRecord]:
        """Return the task rows of these jobs in the order of their first start; unknown jobs have none."""
        ...

    def latest_tasks(self, pipelines: Sequence[str]) -> dict[str, TaskRecord]:
        """Return, for each pipeline that ever had one, the task that started last."""
        ...

    def list(self, query: JobQuery) -> Sequence[Job]:
        """Return at most `query.limit` jobs, newest (highest job id) first, all before `query.before_job_id`."""
        ...

    def unfinished(self) -> Sequence[Job]:
        """Return every job whose `completed_at` is not set, oldest first: what executors claim and recover."""
        ...

    def unclaimed(self, limit: int) -> Sequence[Job]:
        """Return at most `limit` of the jobs that are not over and that no executor holds, in the order of service.

        That is: the highest priority first, then the oldest.
        """
        ...

    def find_idempotent(self, key: str) -> Job | None:
        """Return the job that was created with this idempotency key."""
        ...

    def writers(self, tables: Sequence[str]) -> dict[str, Writer]:
        """Return the writer row of each table; one that never had a writer is `Writer(table)`."""
        ...

    def held_writers(self) -> Sequence[Writer]:
        """Return the writer of each table that a task or a rollback holds."""
        ...

    def commit(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Write every change whose job still has the version it was made from, durably, in one step.

        Changes are judged in order: a later change of the same job can be made from the version that an
        earlier one of the same call leads to; once one was refused, every later change of that job in the
        same call is refused too, for it was derived from what did not happen.

        Returns: per change, in order, `Accepted` or `Refused`; one refusal spoils no other.
        Raises: `StoreUnavailableError`; then nothing was written, or it is found by reading again.
        """
        ...

    def raise_epochs(self, epochs: Mapping[str, int]) -> Sequence[str]:
        """Raise the epochs of tables' writers to at least these: a store from a backup is behind its tables.

        Returns: the tables whose epoch was lower, in order.
        """
        ...

    def remove(self, groups: Sequence[Sequence[Job]]) -> Sequence[bool]:
        """Remove groups of jobs with all that belongs to them: each group whole, or not at all.

        A group is removed if each of its jobs still has the version that it is given with. Writers of tables stay:
        their epochs only grow. Ids of events and lines are not given out again, but an idempotency key is free.

        Returns: per group, in order, whether it was removed.
        """
        ...

    def beat(self, executor: Executor) -> None:
        """Write an executor's heartbeat; the first one makes it known."""
        ...

    def executors(self) -> Sequence[Executor]:
        """Return every executor that ever beat and was not forgotten, oldest first."""
        ...

    def forget_executor(self, executor_id: str) -> None:
        """Let go of an executor that has ended, or was taken over. One that is not known is no error."""
        ...

    def close(self) -> None:
        """Let go of files and connections; nothing accepted is lost."""
        ...


class Journal(Protocol):
    """What happened and what was said, in order; appended, never changed."""

    def append_logs(self, entries: Sequence[LogEntry]) -> None:
        """Append log lines durably, in order; they get growing ids."""
        ...

    def logs(
        self, job_id: str, *, task_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> list[LogEntry]:
        """Return the job's lines with an id above `after`, oldest first."""
        ...

    def events(
        self, *, job_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> list[Event]:
        """Return events with an id above `after`, oldest first; of one job or of all."""
        ...

    def remove_journal(self, job_ids: Sequence[str], *, most: int) -> int:
        """Remove about `most` of the events and log lines of jobs: so many that other writers do not wait for long.

        Returns: how many were removed; 0 when there are none left.
        """
        ...

    def last_event_id(self) -> int:
        """Return the highest event id, 0 when there is none."""
        ...

    def watch(self, told: Callable[[], None]) -> Callable[[], None]:
        """Call `told`, on a thread of the store's, soon after events were committed by anyone, here or elsewhere.

        A hint: it may come late, more than once, or for nothing; after the store was out of reach it comes again. It
        must not block, and must not raise.

        Returns: call it to end that; afterwards `told` is not called any more.
        """
        ...


class KeyStore(Protocol):
    """The hashed API keys."""

    def add_key(self, key: ApiKey) -> None:
        """Store a key. Raises: `KeyExistsError` when a key that is not revoked has the name."""
        ...

    def find_key(self, key_hash: str) -> ApiKey | None:
        """Return the key with this hash, revoked ones included."""
        ...

    def list_keys(self) -> list[ApiKey]:
        """Return all keys, oldest first."""
        ...

    def revoke_key(self, name: str, at: datetime) -> ApiKey:
        """Revoke the live key of this name. Raises: `KeyNotFoundError`."""
        ...


class Store(JobStore, Journal, KeyStore, Protocol):
    """A whole back end."""


# ------------------------------------------------------------------ workers


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt at a task, as it is handed to a worker. Its start is durable before it is handed over."""

    job_id: str
    task_id: str
    attempt: int
    spec: PipelineSpec
    epoch: int
    params: Mapping[str, Any] = field(default_factory=dict)
    full_refresh: bool = False
    # An earlier attempt may have committed something, or may even be alive on a machine we lost contact with:
    # the worker fences the table first and then reads its log.
    recovers: bool = False


@dataclass(frozen=True, slots=True)
class TaskBegan:
    """The worker has loaded the pipelines and begins with the attempt."""

    task_id: str


@dataclass(frozen=True, slots=True)
class TaskOpened:
    """The worker has fixed the versions of the task's inputs."""

    task_id: str
    inputs: tuple[TaskInput, ...]


@dataclass(frozen=True, slots=True)
class PermitAsked:
    """The worker has written a unit's files and asks to commit them. Answer with `Workers.answer_permit`."""

    task_id: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class UnitCommitted:
    """A unit is in the table; `stats` is the task's total so far."""

    task_id: str
    stats: TaskStats


@dataclass(frozen=True, slots=True)
class CheckpointsPassed:
    """The task has passed a checkpoint just now.

    `seconds` since it last said so are the sum of the intervals between its checkpoints, `squares` that of their
    squares.
    """

    task_id: str
    seconds: float
    squares: float


@dataclass(frozen=True, slots=True)
class TaskProgressed:
    """The task said how far it is."""

    task_id: str
    progress: TaskProgress


@dataclass(frozen=True, slots=True)
class TaskLogged:
    """Lines that the task wrote: to stdout, to stderr, or by `task.log`."""

    task_id: str
    entries: tuple[LogEntry, ...]


@dataclass(frozen=True, slots=True)
class ShieldChanged:
    """The task entered (`until_seconds` from now at most) or left (`None`) a stretch that may finish first."""

    task_id: str
    until_seconds: float | None


@dataclass(frozen=True, slots=True)
class RemoteStopped:
    """What is known of work elsewhere that the task registered, each time that it changes; the last one counts.

    `number` tells those of one task apart. `outcome`: `unconfirmed` (with 0 tries: not asked to stop yet),
    `confirmed`, or `forgotten`: it was over before it was asked.
    """

    task_id: str
    number: int
    what: str
    outcome: str
    tries: int


@dataclass(frozen=True, slots=True)
class TaskHung:
    """The task had to be interrupted: where its main thread stood, outermost last, code positions only."""

    task_id: str
    where: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """The attempt is over and no process that it started is alive.

    `outcome` is `success` (all of it is committed), `failed`, `cancelled`, or `lost`: the worker died before it
    could say; then the table's log decides and `message` says how it died. `again` marks an attempt that must be
    redone for a reason that is not its own.
    """

    task_id: str
    outcome: str
    stats: TaskStats = TaskStats()
    message: str | None = None
    error: str | None = None
    stage: Stage | None = None
    where: tuple[str, ...] = ()
    processes_killed: int = 0
    again: bool = False


WorkerEvent = (
    TaskBegan
    | TaskOpened
    | PermitAsked
    | UnitCommitted
    | CheckpointsPassed
    | TaskProgressed
    | TaskLogged
    | ShieldChanged
    | RemoteStopped
    | TaskHung
    | TaskEnded
)


class Workers(Protocol):
    """Where attempts run. Calls return at once; what happens is told to the listener, from one thread."""

    @property
    def capacity(self) -> int:
        """How many tasks can run at once."""
        ...

    @property
    def missing_means(self) -> tuple[str, ...]:
        """What this platform lacks to end whole trees, a line each; empty where it has everything."""
        ...

    def start(self, listener: Callable[[WorkerEvent], None]) -> None:
        """Begin; `listener` must return quickly."""
        ...

    def run(self, assignment: Assignment) -> None:
        """Start the attempt; beyond `capacity`, when a worker is free, in order. Exactly one `TaskEnded` follows."""
        ...

    def deliver(self, task_id: str, stage: Stage) -> None:
        """Push a running task: each stage does what section 3, rule 6 of the contract says. Unknown ids are ignored."""
        ...

    def answer_permit(self, task_id: str, refused: str | None) -> None:
        """Answer the task's last `PermitAsked`: `None` permits, a reason refuses."""
        ...

    def close(self) -> None:
        """End every task and process that is left; when this returns none is alive."""
        ...


# ------------------------------------------------------------------ tables and time


@dataclass(frozen=True, slots=True)
class Settled:
    """What a table's log says of one task: the units that were committed, and whether that was all of it."""

    stats: TaskStats
    complete: bool


@dataclass(frozen=True, slots=True)
class Needed:
    """What must stay readable of a table, besides its newest version.

    Args:
        until: The first job, from the newest back, that cannot be rolled back any more; `None`: all can.
        pinned: Versions that running tasks read.
        holder: The task that writes the table now, if any: its files are not in the log yet.
        before: What was replaced, or left behind, later than this stays.
    """

    until: str | None
    pinned: tuple[int, ...]
    holder: str | None
    before: datetime


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """The data files that were removed, and their bytes."""

    files: int
    bytes: int


class Tables(Protocol):
    """The lake, as far as the core and the API look at it."""

    def settle(self, table: str, task_id: str, fence: Writer | None = None) -> Settled:
        """Read from the table's log what the task committed. A table that does not exist has nothing.

        Args:
            fence: Where a writer of the task may still be alive: the table is first moved on to this one's epoch, so
                that what is read is final.
        """
        ...

    def clean_up(self, table: str, task_id: str, attempt: int) -> None:
        """Remove the files that attempts of a task, this one and earlier, wrote and did not commit; they are dead."""
        ...

    def plan_rollback(self, table: str, job_id: str) -> TableRollback | None:
        """Return how to put a table back to its content before a job; `None`: the job changed nothing there.

        Raises: `JobNotRolledBackError`: another job or program has changed it since, or the old content is gone.
        """
        ...

    def roll_back(self, step: TableRollback, writer: Writer) -> None:
        """Put a table back, under the epoch that `writer` took. Done before, it is not done again."""
        ...

    def authors(self) -> Mapping[str, str | None]:
        """Return every table and the job that made what it holds; `None`: nothing yet, or another program did."""
        ...

    def undoable(self, table: str) -> Sequence[str]:
        """Return the jobs that could be rolled back one after another, newest first, by the table's log."""
        ...

    def vacuum(self, table: str, needed: Needed, *, dry_run: bool = False) -> Vacuumed:
        """Delete the files that neither the newest version nor a needed one has; with `dry_run` only count them."""
        ...

    def list_tables(self) -> list[dict[str, Any]]:
        """Return `name`, `version`, `row_count` and `columns` of each table."""
        ...

    def describe(self, table: str, *, limit: int, version: int | None) -> dict[str, Any]:
        """Return `name`, `schema`, `version`, `row_count`, `preview`. Raises: `TableNotFoundError`."""
        ...


class Clock(Protocol):
    """The time, in two kinds: instants to write down, and seconds to measure with."""

    def now(self) -> datetime:
        """The instant, aware, UTC. It may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow."""
        ...
