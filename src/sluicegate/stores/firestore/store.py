"""The store in Firestore: what `core.ports.Store` promises, by documents and preconditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final

from sluicegate.core.job import (
    ApiKey,
    Event,
    Job,
    JobNotFoundError,
    JobQuery,
    LogEntry,
    TaskRecord,
    TaskStatus,
)
from sluicegate.core.plan import Plan
from sluicegate.core.ports import Change, Executor, Outcome, Writer
from sluicegate.core.store_errors import (
    KeyExistsError,
    KeyNotFoundError,
    StoreTooNewError,
    StoreUnavailableError,
)
from sluicegate.stores import codec
from sluicegate.stores.firestore.connection import Connection, Snapshot, WriteConflict, meets
from sluicegate.stores.firestore.documents import (
    COUNTERS,
    SCHEMA,
    Write,
    executor_path,
    from_document,
    idempotency_path,
    job_path,
    key_path,
    load_job,
    load_lines,
    load_plan,
    plan_path,
    to_document,
    writer_path,
    writer_write,
)
from sluicegate.stores.firestore.reading import ALTERNATIVES_MAX, chunks, find_jobs, walk
from sluicegate.stores.firestore.removing import Removing
from sluicegate.stores.firestore.watching import Watch
from sluicegate.stores.firestore.writing import Writing

# The layout of the documents that this version reads and writes.
SCHEMA_VERSION: Final = 1

_READ_MAX: Final = 300
_PAGE: Final = 500
_QUERIES_AT_ONCE: Final = 8


class FirestoreStore:
    """A whole back end (`core.ports.Store`). Safe from any thread.

    Args:
        project: The Google Cloud project.
        database: The database in it.
    """

    def __init__(self, project: str, database: str) -> None:
        self._where = f"firestore://{project}/{database}"
        self._connection = Connection(project, database, self._where)
        self._writing = Writing(self._connection)
        self._removing = Removing(self._connection)
        self._watches: list[Watch] = []
        try:
            self._lay_out()
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------- jobs

    def get(self, job_id: str) -> Job:
        """Return the job's header and version. Raises: `JobNotFoundError`."""
        found = self.get_many([job_id])
        if job_id not in found:
            raise JobNotFoundError(job_id)
        return found[job_id]

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return the headers of those of the jobs that there are, by id."""
        found: dict[str, Job] = {}
        for some in chunks(list(dict.fromkeys(job_ids)), _READ_MAX):
            for snapshot in self._connection.read(map(job_path, some)).values():
                job = load_job(snapshot.to_dict() or {})
                found[job.job_id] = job
        return found

    def plan(self, job_id: str) -> Plan:
        """Return the plan the job was created with, or an empty one. Raises: `JobNotFoundError`."""
        job, first = job_path(job_id), plan_path(job_id, 0)
        found = self._connection.read([job, first], ["job_id", "parts", "data"])
        if job not in found:
            raise JobNotFoundError(job_id)
        if first not in found:
            return Plan()
        rest = [plan_path(job_id, n) for n in range(1, found[first].get("parts"))]
        found |= self._connection.read(rest)
        return load_plan(found[path].to_dict() or {} for path in (first, *rest))

    def tasks(
        self, job_ids: Sequence[str], *, statuses: Sequence[TaskStatus] = ()
    ) -> list[TaskRecord]:
        """Return the task rows of these jobs in the order of their first start."""
        found: list[Snapshot] = []
        at_once = ALTERNATIVES_MAX // max(1, len(statuses))
        for some in chunks(list(dict.fromkeys(job_ids)), at_once):
            query = self._connection.group("tasks").where(filter=meets("job_id", "in", some))
            if statuses:
                values = [status.value for status in statuses]
                query = query.where(filter=meets("status", "in", values))
            found += walk(self._connection, query, "position", None, _PAGE)
        found.sort(key=lambda snapshot: int(snapshot.get("position")))
        return [_load_task(snapshot) for snapshot in found]

    def latest_tasks(self, pipelines: Sequence[str]) -> dict[str, TaskRecord]:
        """Return, for each pipeline that ever had one, the task that started last."""

        def latest(pipeline: str) -> TaskRecord | None:
            query = (
                self._connection.group("tasks")
                .where(filter=meets("pipeline", "==", pipeline))
                .order_by("started_at", direction="DESCENDING")
                .order_by("position", direction="DESCENDING")
                .limit(1)
            )
            tasks = [_load_task(snapshot) for snapshot in self._connection.run(query)]
            # One that never started is last of all.
            return tasks[0] if tasks and tasks[0].started_at is not None else None

        if not pipelines:
            return {}
        with ThreadPoolExecutor(min(_QUERIES_AT_ONCE, len(pipelines))) as pool:
            found = zip(pipelines, pool.map(latest, pipelines), strict=True)
            return {pipeline: task for pipeline, task in found if task is not None}

    def unfinished(self) -> list[Job]:
        """Return every job whose `completed_at` is not set, oldest first."""
        query = self._connection.collection("jobs").where(filter=meets("completed_at", "==", None))
        found = walk(self._connection, query, "job_id", None, _PAGE)
        return [load_job(snapshot.to_dict() or {}) for snapshot in found]

    def unclaimed(self, limit: int) -> list[Job]:
        """Return at most `limit` unfinished jobs that nobody holds: the highest priority first, then the oldest."""
        query = (
            self._connection.collection("jobs")
            .where(filter=meets("completed_at", "==", None))
            .where(filter=meets("executor_id", "==", None))
            .order_by("priority", direction="DESCENDING")
            .order_by("job_id")
            .limit(limit)
        )
        return [load_job(snapshot.to_dict() or {}) for snapshot in self._connection.run(query)]

    def find_idempotent(self, key: str) -> Job | None:
        """Return the job that was created with this idempotency key."""
        path = idempotency_path(codec.encode_text(key))
        found = self._connection.read([path])
        return self.get(found[path].get("job_id")) if path in found else None

    def writers(self, tables: Sequence[str]) -> dict[str, Writer]:
        """Return the writer row of each table; one that never had a writer is `Writer(table)`."""
        found = {table: Writer(table) for table in tables}
        for some in chunks(list(found), _READ_MAX):
            for snapshot in self._connection.read(map(writer_path, some)).values():
                writer = codec.decode_writer(from_document(snapshot.to_dict() or {}))
                found[writer.table] = writer
        return found

    def held_writers(self) -> list[Writer]:
        """Return the writer of each table that a task or a rollback holds."""
        query = self._connection.collection("writers").where(filter=meets("task_id", "!=", None))
        return [
            codec.decode_writer(from_document(snapshot.to_dict() or {}))
            for snapshot in self._connection.run(query)
        ]

    # ---------------------------------------------------------------- the one write of jobs

    def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """Write every change that was made from what is stored, durably.

        A change is written in one step with all that belongs to it. Many changes take several steps, which become
        visible in their order.

        Raises:
            RecordTooLargeError: a change does not fit in a document or a request; it was not written, nor what was
                derived from it. What the others came to is found by reading again.
            StoreUnavailableError: nothing was written, or it is found by reading again.
        """
        return self._writing.commit(changes) if changes else []

    def raise_epochs(self, epochs: Mapping[str, int]) -> list[str]:
        """Raise the epochs of tables' writers to at least these. Returns: the tables whose epoch was lower."""

        def raise_some(some: Sequence[str]) -> tuple[list[Write], list[str]]:
            known = self.writers(some)
            behind = [table for table in some if known[table].epoch < epochs[table]]
            raised = (
                replace(known[t], epoch=epochs[t], revision=known[t].revision + 1) for t in behind
            )
            return [writer_write(writer, None) for writer in raised], behind

        found: list[str] = []
        for some in chunks(sorted(epochs), _READ_MAX):
            found += self._writing.decide(partial(raise_some, some))
        return found

    def remove(self, groups: Sequence[Sequence[Job]]) -> list[bool]:
        """Remove each group of jobs whose versions are those that are stored, with all that belongs to them."""
        return [self._removing.remove(group) for group in groups]

    # ---------------------------------------------------------------- executors

    def beat(self, executor: Executor) -> None:
        """Write an executor's heartbeat; the first one makes it known."""
        document = to_document(codec.encode_executor(executor))
        self._writing.put(Write(executor_path(executor.executor_id), document))

    def executors(self) -> list[Executor]:
        """Return every executor that ever beat, oldest first."""
        found = [
            codec.decode_executor(from_document(snapshot.to_dict() or {}))
            for snapshot in self._connection.run(self._connection.collection("executors"))
        ]
        return sorted(found, key=lambda executor: (executor.started_at, executor.executor_id))

    def forget_executor(self, executor_id: str) -> None:
        """Let go of an executor that has ended, or was taken over."""
        self._connection.delete(executor_path(executor_id))

    # ---------------------------------------------------------------- journal

    def append_logs(self, entries: Sequence[LogEntry]) -> None:
        """Append log lines durably, in order; they get growing ids."""
        self._writing.append_logs(entries)

    def logs(
        self, job_id: str, *, task_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> list[LogEntry]:
        """Return the job's lines with an id above `after`, oldest first."""
        query = self._connection.collection(f"{job_path(job_id)}/logs")
        if task_id is not None:
            query = query.where(filter=meets("task_ids", "array_contains", task_id))
        found: list[LogEntry] = []
        # A document is named after its last line, and holds lines of several tasks.
        for snapshot in walk(self._connection, query, "log_id", after, min(limit, _PAGE)):
            found += (
                line
                for line in load_lines(snapshot.to_dict() or {})
                if line.log_id > after and task_id in (None, line.task_id)
            )
            if len(found) >= limit:
                break
        return found[:limit]

    def events(
        self, *, job_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> list[Event]:
        """Return events with an id above `after`, oldest first; of one job or of all."""
        if job_id is None:
            query = self._connection.group("events")
        else:
            query = self._connection.collection(f"{job_path(job_id)}/events")
        query = query.where(filter=meets("event_id", ">", after)).order_by("event_id").limit(limit)
        return [
            codec.decode_event(from_document(snapshot.to_dict() or {}))
            for snapshot in self._connection.run(query)
        ]

    def remove_journal(self, job_ids: Sequence[str], *, most: int) -> int:
        """Remove at most `most` documents of lines and events of jobs; return how many there were."""
        return self._removing.remove_journal(job_ids, most)

    def last_event_id(self) -> int:
        """Return the highest event id that was given out, 0 when there is none."""
        found = self._connection.read([COUNTERS])
        return int(found[COUNTERS].get("event_id")) if found else 0

    def watch(self, told: Callable[[], None]) -> Callable[[], None]:
        """Call `told` soon after anyone has committed, until what is returned is called."""
        watch = Watch(self._connection, told)
        self._watches.append(watch)
        return watch.end

    # ---------------------------------------------------------------- keys

    def add_key(self, key: ApiKey) -> None:
        """Store a key. Raises: `KeyExistsError` when a key that is not revoked has the name."""
        document = to_document(codec.encode_key(key))

        def add() -> tuple[list[Write], None]:
            if self._live_key(document["name"]) is not None:
                raise KeyExistsError(key.name)
            return [Write(key_path(key.key_hash), document, condition=False)], None

        self._writing.decide(add)

    def find_key(self, key_hash: str) -> ApiKey | None:
        """Return the key with this hash, revoked ones included."""
        for snapshot in self._connection.read([key_path(key_hash)]).values():
            return _load_key(snapshot)
        return None

    def list_keys(self) -> list[ApiKey]:
        """Return all keys, oldest first."""
        found = map(_load_key, self._connection.run(self._connection.collection("keys")))
        return sorted(found, key=lambda key: (key.created_at, key.name))

    def revoke_key(self, name: str, at: datetime) -> ApiKey:
        """Revoke the live key of this name. Raises: `KeyNotFoundError`."""

        def revoke() -> tuple[list[Write], ApiKey]:
            live = self._live_key(codec.encode_text(name))
            if live is None:
                raise KeyNotFoundError(name)
            document = (live.to_dict() or {}) | {"revoked_at": at}
            key = codec.decode_key(from_document(document))
            return [Write(key_path(key.key_hash), document)], key

        return self._writing.decide(revoke)

    def _live_key(self, name: str) -> Snapshot | None:
        query = self._connection.collection("keys").where(filter=meets("name", "==", name))
        found = self._connection.run(query)
        return next((one for one in found if one.get("revoked_at") is None), None)

    # ---------------------------------------------------------------- opening and closing

    def _lay_out(self) -> None:
        """Write the schema's version and the counters into an empty database, or check what is there."""
        empty = {"event_id": 0, "log_id": 0, "position": 0, "commits": 0, "token": ""}
        for _ in range(2):  # of several who open an empty database at once, one lays it out
            found = self._connection.read([SCHEMA, COUNTERS])
            if SCHEMA in found:
                version = int(found[SCHEMA].get("version"))
                if version > SCHEMA_VERSION:
                    raise StoreTooNewError(self._where, str(version), str(SCHEMA_VERSION))
                return
            try:
                self._connection.write(
                    [
                        Write(SCHEMA, {"version": SCHEMA_VERSION}, condition=False),
                        Write(COUNTERS, empty, condition=False),
                    ]
                )
            except WriteConflict:
                continue
            return
        raise StoreUnavailableError(
            self._where, f"its document {SCHEMA} is gone", mend="put it back from a backup"
        )

    def close(self) -> None:
        """Let go of the connection; nothing accepted is lost. May be called twice."""
        while self._watches:
            self._watches.pop().end()
        self._connection.close()

    # Last, since its name hides the type in the annotations of what follows.
    def list(self, query: JobQuery) -> list[Job]:
        """Return at most `query.limit` jobs before `query.before_job_id`, the highest id first.

        `created_after` is inclusive, `created_before` exclusive.
        """
        return find_jobs(self._connection, query, self.plan)


def _load_task(snapshot: Snapshot) -> TaskRecord:
    return codec.decode_task(from_document(snapshot.to_dict() or {}))


def _load_key(snapshot: Snapshot) -> ApiKey:
    return codec.decode_key(from_document(snapshot.to_dict() or {}))
