"""Fakes of the core's ports: a store in memory, a clock that is told the time, workers that only write down.

`MemoryStore` passes tests/conformance like any back end. The ledger is the real one without its thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sluicegate.core.cancellation import Stage
from sluicegate.core.job import (
    ApiKey,
    Event,
    Job,
    JobNotFoundError,
    JobQuery,
    LogEntry,
    TableRollback,
    TaskRecord,
    TaskStats,
    TaskStatus,
)
from sluicegate.core.ledger import Decide, Done, Ledger, Written, _Creation, _Urgent
from sluicegate.core.plan import Plan
from sluicegate.core.ports import (
    Accepted,
    Assignment,
    Change,
    Executor,
    Needed,
    Outcome,
    Refused,
    Settled,
    Vacuumed,
    WorkerEvent,
    Writer,
)
from sluicegate.core.store_errors import KeyExistsError, KeyNotFoundError, StoreUnavailableError
from sluicegate.errors import SluicegateError

T0 = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """Both kinds of time; they pass when told to. `jump` moves the instant alone, as a wrong clock does."""

    def __init__(self) -> None:
        self._now, self._monotonic = T0, 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock wrong."""
        self._now += timedelta(seconds=seconds)


# ------------------------------------------------------------------ the store


@dataclass
class Memory:
    """What a `MemoryStore` keeps; it outlives the store like a file."""

    jobs: dict[str, Job] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    writers: dict[str, Writer] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    logs: list[LogEntry] = field(default_factory=list)
    executors: dict[str, Executor] = field(default_factory=dict)
    watchers: list[Callable[[], None]] = field(default_factory=list)
    keys: list[ApiKey] = field(default_factory=list)
    last_event_id: int = 0
    last_log_id: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)


class MemoryStore:
    """`core.ports.Store` in memory.

    `unavailable` makes every call raise, as a full disk or a lost connection does. `commits` are the sizes of the
    commits that were asked for.
    """

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory or Memory()
        self.unavailable = False
        self.before_commit: Callable[[], None] = lambda: None
        self.accepted: Callable[[Change], None] = lambda _: None
        self.commits: list[int] = []
        self.log_appends: list[int] = []
        self.reads = 0
        self._closed = False

    # ---------------------------------------------------------------- jobs

    def get(self, job_id: str) -> Job:
        with self._open() as kept:
            self.reads += 1
            return self._found(kept.jobs, job_id)

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        with self._open() as kept:
            self.reads += 1
            return {job_id: kept.jobs[job_id] for job_id in job_ids if job_id in kept.jobs}

    def plan(self, job_id: str) -> Plan:
        with self._open() as kept:
            self._found(kept.jobs, job_id)
            return kept.plans.get(job_id, Plan())

    def tasks(
        self, job_ids: Sequence[str], *, statuses: Sequence[TaskStatus] = ()
    ) -> Sequence[TaskRecord]:
        with self._open() as kept:
            return [
                task
                for task in kept.tasks.values()
                if task.job_id in job_ids and (not statuses or task.status in statuses)
            ]

    def latest_tasks(self, pipelines: Sequence[str]) -> dict[str, TaskRecord]:
        with self._open() as kept:
            latest: dict[str, TaskRecord] = {}
            for task in sorted(kept.tasks.values(), key=lambda t: t.started_at or T0):
                if task.pipeline in pipelines:
                    latest[task.pipeline] = task
            return latest

    def list(self, query: JobQuery) -> Sequence[Job]:
        with self._open() as kept:
            newest_first = sorted(kept.jobs.values(), key=lambda j: j.job_id, reverse=True)
            return [j for j in newest_first if self._meets(j, query)][: query.limit]

    def unfinished(self) -> Sequence[Job]:
        with self._open() as kept:
            return sorted(
                (j for j in kept.jobs.values() if j.completed_at is None), key=lambda j: j.job_id
            )

    def unclaimed(self, limit: int) -> Sequence[Job]:
        free = [job for job in self.unfinished() if job.executor_id is None]
        return sorted(free, key=lambda j: (-j.priority, j.job_id))[:limit]

    def find_idempotent(self, key: str) -> Job | None:
        with self._open() as kept:
            return next((j for j in kept.jobs.values() if j.idempotency_key == key), None)

    def writers(self, tables: Sequence[str]) -> dict[str, Writer]:
        with self._open() as kept:
            return {table: kept.writers.get(table, Writer(table)) for table in tables}

    def held_writers(self) -> Sequence[Writer]:
        with self._open() as kept:
            return [writer for writer in kept.writers.values() if not writer.is_free]

    def commit(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        self.before_commit()
        with self._open() as kept:
            self.commits.append(len(changes))
            spoiled: set[str] = set()
            outcomes = [self._judge(kept, change, spoiled) for change in changes]
        for told in list(self.memory.watchers):
            told()
        return outcomes

    def raise_epochs(self, epochs: Mapping[str, int]) -> list[str]:
        with self._open() as kept:
            known = {table: kept.writers.get(table, Writer(table)) for table in sorted(epochs)}
            behind = [table for table, writer in known.items() if writer.epoch < epochs[table]]
            for table in behind:
                revision = known[table].revision + 1
                kept.writers[table] = replace(known[table], epoch=epochs[table], revision=revision)
            return behind

    def remove(self, groups: Sequence[Sequence[Job]]) -> Sequence[bool]:
        with self._open() as kept:
            return [self._remove(kept, group) for group in groups]

    def beat(self, executor: Executor) -> None:
        with self._open() as kept:
            known = kept.executors.get(executor.executor_id, executor)
            kept.executors[executor.executor_id] = replace(executor, started_at=known.started_at)

    def executors(self) -> Sequence[Executor]:
        with self._open() as kept:
            return sorted(kept.executors.values(), key=lambda e: e.started_at)

    def forget_executor(self, executor_id: str) -> None:
        with self._open() as kept:
            kept.executors.pop(executor_id, None)

    def close(self) -> None:
        self._closed = True

    # ---------------------------------------------------------------- journal

    def append_logs(self, entries: Sequence[LogEntry]) -> None:
        with self._open() as kept:
            self.log_appends.append(len(entries))
            self._keep_logs(kept, entries)

    def logs(
        self, job_id: str, *, task_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> list[LogEntry]:
        with self._open() as kept:
            return [
                entry
                for entry in kept.logs
                if entry.job_id == job_id
                and task_id in (None, entry.task_id)
                and entry.log_id > after
            ][:limit]

    def events(
        self, *, job_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> list[Event]:
        with self._open() as kept:
            return [e for e in kept.events if job_id in (None, e.job_id) and e.event_id > after][
                :limit
            ]

    def remove_journal(self, job_ids: Sequence[str], *, most: int) -> int:
        with self._open() as kept:
            before = len(kept.logs) + len(kept.events)
            found = [entry for entry in kept.logs if entry.job_id in job_ids][:most]
            kept.logs = [entry for entry in kept.logs if entry not in found]
            room = most - len(found)
            gone = [event for event in kept.events if event.job_id in job_ids][:room]
            kept.events = [event for event in kept.events if event not in gone]
            return before - len(kept.logs) - len(kept.events)

    def last_event_id(self) -> int:
        with self._open() as kept:
            return kept.last_event_id

    def watch(self, told: Callable[[], None]) -> Callable[[], None]:
        def end() -> None:
            if told in self.memory.watchers:
                self.memory.watchers.remove(told)

        self.memory.watchers.append(told)
        return end

    # ---------------------------------------------------------------- keys

    def add_key(self, key: ApiKey) -> None:
        with self._open() as kept:
            if any(k.name == key.name and k.revoked_at is None for k in kept.keys):
                raise KeyExistsError(key.name)
            kept.keys.append(key)

    def find_key(self, key_hash: str) -> ApiKey | None:
        with self._open() as kept:
            return next((key for key in kept.keys if key.key_hash == key_hash), None)

    def list_keys(self) -> list[ApiKey]:
        with self._open() as kept:
            return sorted(kept.keys, key=lambda key: key.created_at)

    def revoke_key(self, name: str, at: datetime) -> ApiKey:
        with self._open() as kept:
            for n, key in enumerate(kept.keys):
                if key.name == name and key.revoked_at is None:
                    kept.keys[n] = replace(key, revoked_at=at)
                    return kept.keys[n]
            raise KeyNotFoundError(name)

    # ---------------------------------------------------------------- inside

    def _open(self) -> _Held:
        if self.unavailable or self._closed:
            raise StoreUnavailableError("memory", "it is away", mend="wait")
        return _Held(self.memory)

    @staticmethod
    def _found(jobs: dict[str, Job], job_id: str) -> Job:
        if job_id not in jobs:
            raise JobNotFoundError(job_id)
        return jobs[job_id]

    def _judge(self, kept: Memory, change: Change, spoiled: set[str]) -> Outcome:
        job_id = change.job.job_id
        stored = kept.jobs.get(job_id)
        duplicate = None
        if change.made_from == 0 and change.job.idempotency_key is not None:
            first = self.find_idempotent(change.job.idempotency_key)
            duplicate = first.job_id if first is not None and first.job_id != job_id else None
        fits = (stored.version if stored else 0) == change.made_from and all(
            kept.writers.get(w.table, Writer(w.table)).revision == w.revision
            for w in change.writers
        )
        fits = fits and (change.creates is None or change.creates.job.job_id not in kept.jobs)
        if job_id in spoiled or duplicate is not None or not fits:
            spoiled.add(job_id)
            return Refused(stored, duplicate)
        self.accepted(change)
        job = replace(change.job, version=change.made_from + 1)
        kept.jobs[job_id] = job
        if change.plan is not None:
            kept.plans[job_id] = change.plan
        kept.tasks.update((task.task_id, task) for task in change.tasks)
        kept.writers.update((w.table, replace(w, revision=w.revision + 1)) for w in change.writers)
        first_id = kept.last_event_id + 1
        events = tuple(replace(e, event_id=n) for n, e in enumerate(change.events, first_id))
        kept.last_event_id += len(events)
        kept.events += events
        self._keep_logs(kept, change.logs)
        if change.creates is not None:
            created = self._judge(kept, change.creates, set())
            assert isinstance(created, Accepted)
            events += created.events
        return Accepted(job, events)

    def _remove(self, kept: Memory, group: Sequence[Job]) -> bool:
        ids = {job.job_id for job in group}
        if any(
            j.job_id not in kept.jobs or kept.jobs[j.job_id].version != j.version for j in group
        ):
            return False
        for job_id in ids:
            del kept.jobs[job_id]
            kept.plans.pop(job_id, None)
        kept.tasks = {key: task for key, task in kept.tasks.items() if task.job_id not in ids}
        kept.logs = [entry for entry in kept.logs if entry.job_id not in ids]
        kept.events = [event for event in kept.events if event.job_id not in ids]
        return True

    @staticmethod
    def _keep_logs(kept: Memory, entries: Sequence[LogEntry]) -> None:
        for number, entry in enumerate(entries, kept.last_log_id + 1):
            text = "".join(
                "\ufffd" if c == "\0" or 0xD800 <= ord(c) <= 0xDFFF else c for c in entry.message
            )
            kept.logs.append(replace(entry, log_id=number, message=text))
        kept.last_log_id += len(entries)

    def _meets(self, job: Job, query: JobQuery) -> bool:
        pipelines = self.memory.plans.get(job.job_id, Plan()).pipelines
        layers = {p.partition(".")[0] for p in pipelines}
        return (
            (not query.statuses or job.status in query.statuses)
            and (not query.pipelines or bool(set(query.pipelines) & set(pipelines)))
            and (not query.layers or bool(set(query.layers) & layers))
            and all(
                job.labels.get(name) in [v for k, v in query.labels if k == name]
                for name, _ in query.labels
            )
            and (not query.user_ids or job.user_id in query.user_ids)
            and (not query.triggers or job.trigger in query.triggers)
            and (query.created_after is None or job.created_at >= query.created_after)
            and (query.created_before is None or job.created_at < query.created_before)
            and (query.before_job_id is None or job.job_id < query.before_job_id)
        )

    @staticmethod
    def _has_labels(job: Job, query: JobQuery) -> bool:
        wanted: dict[str, set[str]] = {}
        for name, value in query.labels:
            wanted.setdefault(name, set()).add(value)
        return all(job.labels.get(name) in values for name, values in wanted.items())


class _Held:
    """The memory while nobody else may touch it."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def __enter__(self) -> Memory:
        self._memory.lock.acquire()
        return self._memory

    def __exit__(self, *_: object) -> None:
        self._memory.lock.release()


# ------------------------------------------------------------------ the ledger


class DirectLedger(Ledger):
    """The ledger on the caller's thread. While `held`, decisions wait; `release` stores them in one batch."""

    held = False

    def _begin(self) -> None:
        """No thread: whoever asks does the writing."""

    def submit_all(self, asked: Sequence[tuple[str, Decide, Done]]) -> None:
        super().submit_all(asked)
        self._work()

    def write_soon(
        self, job_id: str, decide: Decide, then: Callable[[Job], None] = lambda _: None
    ) -> Future[Written]:
        future = super().write_soon(job_id, decide, then)
        self.release()
        return future

    def write_all(self, asked: Sequence[tuple[str, Decide]]) -> list[Written | BaseException]:
        results: list[Written | BaseException] = []
        for job_id, decide in asked:
            try:
                results.append(self.write(job_id, decide))
            except SluicegateError as error:
                results.append(error)
        return results

    def create(self, change: Change) -> Accepted | Refused:
        future: Future[Accepted | Refused] = Future()
        self._queue.put(_Urgent([_Creation(change, future)]))
        self.release()
        return future.result()

    def log(self, entries: Sequence[LogEntry]) -> None:
        super().log(entries)
        self._work()

    def release(self) -> None:
        """Store all that waits."""
        while self._waiting or not self._queue.empty():
            self._write_some()

    def close(self) -> None:
        self.release()

    def _work(self) -> None:
        if not self.held:
            self.release()


# ------------------------------------------------------------------ workers and tables


class FakeWorkers:
    """`core.ports.Workers` that write down what they are handed; a test says what becomes of it."""

    def __init__(self, capacity: int = 4) -> None:
        self.capacity = capacity
        self.missing_means: tuple[str, ...] = ()
        self.ahead = 0  # how many more may wait for a worker
        self.handed: list[Assignment] = []
        self.live: dict[str, Assignment] = {}
        self.delivered: list[tuple[str, Stage]] = []
        self.permits: list[tuple[str, str | None]] = []
        self.closed = False
        self.on_run: Callable[[Assignment], None] = lambda _: None
        self._listener: Callable[[WorkerEvent], None] = lambda _: None

    def start(self, listener: Callable[[WorkerEvent], None]) -> None:
        self._listener = listener

    def run(self, assignment: Assignment) -> None:
        assert assignment.task_id not in self.live, "one task, twice at once"
        self.on_run(assignment)
        self.handed.append(assignment)
        self.live[assignment.task_id] = assignment
        assert len(self.live) <= self.capacity + self.ahead, "more tasks than workers"

    def deliver(self, task_id: str, stage: Stage) -> None:
        self.delivered.append((task_id, stage))

    def answer_permit(self, task_id: str, refused: str | None) -> None:
        self.permits.append((task_id, refused))

    def close(self) -> None:
        self.closed = True

    def tell(self, event: WorkerEvent) -> None:
        """What a worker says."""
        self._listener(event)


class FakeTables:
    """`core.ports.Tables` that know only what their logs say of tasks."""

    def __init__(self) -> None:
        self.settled: dict[str, Settled] = {}
        self.asked: list[str] = []
        self.fences: dict[str, int] = {}  # by table: writers of an earlier epoch are refused
        self.rollbacks: dict[str, TableRollback] = {}
        self.rolled_back: list[tuple[str, int]] = []
        self.broken = False
        self.unreadable = 0  # how often a log cannot be read
        self.cleaned: list[tuple[str, str, int]] = []
        self.made_by: dict[str, list[str]] = {}  # by table, newest first
        self.vacuumed: list[tuple[str, Needed, bool]] = []

    def settle(self, table: str, task_id: str, fence: Writer | None = None) -> Settled:
        self.asked.append(task_id)
        if self.unreadable:
            self.unreadable -= 1
            raise OSError("the lake's disk is full")
        if fence is not None:
            self.fences[table] = max(fence.epoch, self.fences.get(table, 0))
        return self.settled.get(task_id, Settled(TaskStats(), complete=False))

    def clean_up(self, table: str, task_id: str, attempt: int) -> None:
        self.cleaned.append((table, task_id, attempt))

    def plan_rollback(self, table: str, job_id: str) -> TableRollback | None:
        del job_id
        return self.rollbacks.get(table)

    def roll_back(self, step: TableRollback, writer: Writer) -> None:
        if self.broken:
            raise StoreUnavailableError("lake", "its disk is full", mend="make room")
        if (step.table, writer.epoch) not in self.rolled_back:
            self.rolled_back.append((step.table, writer.epoch))

    def authors(self) -> dict[str, str | None]:
        return {table: jobs[0] if jobs else None for table, jobs in self.made_by.items()}

    def undoable(self, table: str) -> list[str]:
        return self.made_by[table]

    def vacuum(self, table: str, needed: Needed, *, dry_run: bool = False) -> Vacuumed:
        self.vacuumed.append((table, needed, dry_run))
        return Vacuumed(1, 10)

    def list_tables(self) -> list[dict[str, Any]]:
        return []

    def describe(self, table: str, *, limit: int, version: int | None) -> dict[str, Any]:
        raise NotImplementedError


class Aside:
    """An executor's side pool: what is handed to it is done at once, or waits while `held`."""

    def __init__(self) -> None:
        self.held = False
        self._waiting: list[Callable[[], object]] = []

    def submit(self, do: Callable[..., object], *arguments: object) -> None:
        self._waiting.append(lambda: do(*arguments))
        if not self.held:
            self.release()

    def release(self) -> None:
        """Do what waits."""
        waiting, self._waiting = self._waiting, []
        for do in waiting:
            do()

    def shutdown(self, **_: object) -> None:
        self.release()
