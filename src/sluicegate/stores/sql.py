"""The store in a SQL database, through SQLAlchemy Core: one set of statements for every database.

What differs between databases (connections, pragmas, upserts, the meaning of errors) is handed in
by the module of the database, `sqlite` for one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, bindparam, delete, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

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
from sluicegate.core.store_errors import KeyExistsError, KeyNotFoundError, StoreUnavailableError
from sluicegate.stores import codec
from sluicegate.stores.batch import judge
from sluicegate.stores.history import find_job_ids
from sluicegate.stores.migrations import HEAD, bring_to_head, current_revision
from sluicegate.stores.schema import (
    api_keys,
    counters,
    events,
    executors,
    jobs,
    logs,
    plans,
    tasks,
    writers,
)
from sluicegate.stores.writing import BatchWriter, chunks

_SOME_JOBS: Final = select(jobs).where(jobs.c.job_id.in_(bindparam("job_ids", expanding=True)))
_LATEST_TASK: Final = (
    select(tasks)
    .where(tasks.c.pipeline == bindparam("pipeline"), tasks.c.started_at.is_not(None))
    .order_by(tasks.c.started_at.desc(), tasks.c.position.desc())
    .limit(1)
)
_FIND_KEY: Final = select(api_keys).where(api_keys.c.key_hash == bindparam("key_hash"))
_LAST_EVENT_ID: Final = select(counters.c.event_id).where(counters.c.id == 1)


class SqlStore:
    """A whole back end (`core.ports.Store`). Safe from any thread.

    Args:
        where: The database as users know it, without credentials; for errors.
        writing: Makes the one connection that writes.
        reading: Makes the connections that read; each transaction sees one state of the database.
        insert: The dialect's `insert`, which knows upserts.
        mend: What a user can do about an error of the driver; `None` where the mistake is ours.
        watch: Does what `core.ports.Journal.watch` says.
        begin: Begins a transaction that writes, where the driver does not do it by itself.
        with_changes: A statement that goes with each commit of changes, for those who watch.
        foreign: A statement that returns something else once another connection has committed, where there is one.
        before_migrating: A statement that keeps others out while the schema is made, where writing does not.
        after_error: Told what the driver raised, once its transaction is over; it may clear the way for the next try.
    """

    def __init__(
        self,
        *,
        where: str,
        writing: Engine,
        reading: Engine,
        insert: Callable[[Table], Any],
        mend: Callable[[Exception], str | None],
        watch: Callable[[Callable[[], None]], Callable[[], None]],
        begin: Callable[[Any], object] = lambda _: None,
        with_changes: str = "",
        foreign: str = "",
        before_migrating: str = "",
        after_error: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._where, self._mend, self._watch = where, mend, watch
        self._begin, self._after_error = begin, after_error
        self._unwatch: list[Callable[[], None]] = []
        self._writing, self._reading = writing, reading
        self._write_lock = threading.Lock()
        self._writer: Connection | None = None
        self._closed = False
        self._batches = BatchWriter(writing.dialect, insert, with_changes, foreign)
        self._driver: Any = writing.dialect.import_dbapi()
        try:
            with self._read() as connection:
                is_at_head = current_revision(connection) == HEAD
            if not is_at_head:
                with self._write() as connection:
                    connection.begin()  # or the migrations would commit theirs
                    if before_migrating:
                        connection.exec_driver_sql(before_migrating)
                    bring_to_head(connection, where)
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------- jobs

    def get(self, job_id: str) -> Job:
        """Return the job's header and version. Raises: `JobNotFoundError`."""
        with self._read() as connection:
            found = _jobs(connection, [job_id])
        if job_id not in found:
            raise JobNotFoundError(job_id)
        return found[job_id]

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return the headers of those of the jobs that there are, by id."""
        with self._read() as connection:
            return _jobs(connection, job_ids)

    def plan(self, job_id: str) -> Plan:
        """Return the plan the job was created with, or an empty one. Raises: `JobNotFoundError`."""
        joined = jobs.outerjoin(plans, plans.c.job_id == jobs.c.job_id)
        statement = select(plans.c.plan).select_from(joined).where(jobs.c.job_id == job_id)
        with self._read() as connection:
            row = connection.execute(statement).first()
        if row is None:
            raise JobNotFoundError(job_id)
        return Plan() if row.plan is None else codec.decode_plan(row.plan)

    def tasks(
        self, job_ids: Sequence[str], *, statuses: Sequence[TaskStatus] = ()
    ) -> list[TaskRecord]:
        """Return the task rows of these jobs in the order of their first start."""
        found: list[Any] = []
        with self._read() as connection:
            for some in chunks(job_ids):
                statement = select(tasks).where(tasks.c.job_id.in_(some))
                if statuses:
                    statement = statement.where(tasks.c.status.in_([s.value for s in statuses]))
                found += connection.execute(statement).mappings()
        found.sort(key=lambda row: row["position"])
        return [codec.decode_task(row) for row in found]

    def latest_tasks(self, pipelines: Sequence[str]) -> dict[str, TaskRecord]:
        """Return, for each pipeline that ever had one, the task that started last."""
        found = {}
        with self._read() as connection:
            for pipeline in pipelines:
                row = connection.execute(_LATEST_TASK, {"pipeline": pipeline}).mappings().first()
                if row is not None:
                    found[pipeline] = codec.decode_task(row)
        return found

    def unfinished(self) -> list[Job]:
        """Return every job whose `completed_at` is not set, oldest first."""
        statement = select(jobs).where(jobs.c.completed_at.is_(None)).order_by(jobs.c.job_id)
        with self._read() as connection:
            return [codec.decode_job(row) for row in connection.execute(statement).mappings()]

    def unclaimed(self, limit: int) -> list[Job]:
        """Return at most `limit` unfinished jobs that nobody holds: the highest priority first, then the oldest."""
        statement = (
            select(jobs)
            .where(jobs.c.completed_at.is_(None), jobs.c.executor_id.is_(None))
            .order_by(jobs.c.priority.desc(), jobs.c.job_id)
            .limit(limit)
        )
        with self._read() as connection:
            return [codec.decode_job(row) for row in connection.execute(statement).mappings()]

    def find_idempotent(self, key: str) -> Job | None:
        """Return the job that was created with this idempotency key."""
        statement = select(jobs).where(jobs.c.idempotency_key == codec.encode_text(key))
        with self._read() as connection:
            row = connection.execute(statement).mappings().first()
        return None if row is None else codec.decode_job(row)

    def writers(self, tables: Sequence[str]) -> dict[str, Writer]:
        """Return the writer row of each table; one that never had a writer is `Writer(table)`."""
        with self._read() as connection:
            return _writers(connection, tables)

    def held_writers(self) -> list[Writer]:
        """Return the writer of each table that a task or a rollback holds."""
        statement = select(writers).where(writers.c.task_id.is_not(None))
        with self._read() as connection:
            return [codec.decode_writer(row) for row in connection.execute(statement).mappings()]

    # ---------------------------------------------------------------- the one write of jobs

    def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """Write every change that was made from what is stored, durably, in one step.

        What a job is found by (its plan, labels, user, trigger, idempotency key and creation time)
        is stored when the job is created; a later header does not change it.

        Raises: `StoreUnavailableError`; then nothing was written, or it is found by reading again.
        """
        if not changes:
            return []
        with self._write(remembers=True) as connection:
            batch = judge(changes, self._batches.read_stored(connection, changes))
            refused = _jobs(connection, batch.unread())
            if len(batch.unread()) < len(changes):
                self._batches.write(connection, batch)
        return batch.outcomes(refused)

    def raise_epochs(self, epochs: Mapping[str, int]) -> list[str]:
        """Raise the epochs of tables' writers to at least these. Returns: the tables whose epoch was lower."""
        with self._write() as connection:
            self._batches.hold_counters(connection)  # keeps other writers out
            known = _writers(connection, list(epochs))
            behind = sorted(table for table, epoch in epochs.items() if known[table].epoch < epoch)
            raised = (replace(known[table], epoch=epochs[table]) for table in behind)
            self._batches.write_writers(connection, raised)
        return behind

    def remove(self, groups: Sequence[Sequence[Job]]) -> list[bool]:
        """Remove each group of jobs whose versions are those that are stored, with all that belongs to them."""
        job_ids = [job.job_id for group in groups for job in group]
        if not job_ids:
            return []
        with self._write() as connection:
            self._batches.hold_counters(connection)  # keeps other writers out
            stored = _jobs(connection, job_ids)
            removed = [
                all(j.job_id in stored and stored[j.job_id].version == j.version for j in group)
                for group in groups
            ]
            fit = [
                job.job_id
                for group, is_removed in zip(groups, removed, strict=True)
                for job in group
                if is_removed
            ]
            self._batches.remove_terms(connection, [stored[job_id] for job_id in fit])
            for some in chunks(fit):
                for table in (logs, events, tasks, plans, jobs):
                    connection.execute(delete(table).where(table.c.job_id.in_(some)))
        return removed

    # ---------------------------------------------------------------- executors

    def beat(self, executor: Executor) -> None:
        """Write an executor's heartbeat; the first one makes it known."""
        with self._write(remembers=True) as connection:
            self._batches.beat(connection, executor)

    def executors(self) -> list[Executor]:
        """Return every executor that ever beat, oldest first."""
        order = (executors.c.started_at, executors.c.executor_id)
        with self._read() as connection:
            rows = connection.execute(select(executors).order_by(*order)).mappings()
            return [codec.decode_executor(row) for row in rows]

    def forget_executor(self, executor_id: str) -> None:
        """Let go of an executor that has ended, or was taken over."""
        with self._write() as connection:
            connection.execute(delete(executors).where(executors.c.executor_id == executor_id))

    # ---------------------------------------------------------------- journal

    def append_logs(self, entries: Sequence[LogEntry]) -> None:
        """Append log lines durably, in order; they get growing ids."""
        if not entries:
            return
        with self._write(remembers=True) as connection:
            self._batches.append_logs(connection, entries)

    def logs(
        self, job_id: str, *, task_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> list[LogEntry]:
        """Return the job's lines with an id above `after`, oldest first."""
        statement = select(logs).where(logs.c.job_id == job_id, logs.c.log_id > after)
        if task_id is not None:
            statement = statement.where(logs.c.task_id == task_id)
        statement = statement.order_by(logs.c.log_id).limit(limit)
        with self._read() as connection:
            return [codec.decode_log(row) for row in connection.execute(statement).mappings()]

    def events(
        self, *, job_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> list[Event]:
        """Return events with an id above `after`, oldest first; of one job or of all."""
        statement = select(events).where(events.c.event_id > after)
        if job_id is not None:
            statement = statement.where(events.c.job_id == job_id)
        statement = statement.order_by(events.c.event_id).limit(limit)
        with self._read() as connection:
            return [codec.decode_event(row) for row in connection.execute(statement).mappings()]

    def remove_journal(self, job_ids: Sequence[str], *, most: int) -> int:
        """Remove at most `most` of the lines and events of jobs, in one step; return how many there were."""
        count = 0
        with self._write() as connection:
            for table, row_id in ((logs, logs.c.log_id), (events, events.c.event_id)):
                for some in chunks(job_ids):
                    found = select(row_id).where(table.c.job_id.in_(some)).limit(most - count)
                    count += connection.execute(delete(table).where(row_id.in_(found))).rowcount
        return count

    def last_event_id(self) -> int:
        """Return the highest event id that was given out, 0 when there is none."""
        with self._read() as connection:
            return connection.scalar(_LAST_EVENT_ID) or 0

    def watch(self, told: Callable[[], None]) -> Callable[[], None]:
        """Call `told` soon after anyone has committed, until what is returned is called."""
        unwatch = self._watch(told)
        self._unwatch.append(unwatch)
        return unwatch

    # ---------------------------------------------------------------- keys

    def add_key(self, key: ApiKey) -> None:
        """Store a key. Raises: `KeyExistsError` when a key that is not revoked has the name."""
        row = codec.encode_key(key)
        with self._write() as connection:
            self._batches.hold_counters(connection)  # keeps other writers out
            if connection.execute(select(api_keys).where(*_live(row["name"]))).first() is not None:
                raise KeyExistsError(key.name)
            connection.execute(api_keys.insert(), row)

    def find_key(self, key_hash: str) -> ApiKey | None:
        """Return the key with this hash, revoked ones included."""
        with self._read() as connection:
            row = connection.execute(_FIND_KEY, {"key_hash": key_hash}).mappings().first()
        return None if row is None else codec.decode_key(row)

    def list_keys(self) -> list[ApiKey]:
        """Return all keys, oldest first."""
        statement = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.name)
        with self._read() as connection:
            return [codec.decode_key(row) for row in connection.execute(statement).mappings()]

    def revoke_key(self, name: str, at: datetime) -> ApiKey:
        """Revoke the live key of this name. Raises: `KeyNotFoundError`."""
        live = _live(codec.encode_text(name))
        with self._write() as connection:
            self._batches.hold_counters(connection)  # keeps other writers out
            row = connection.execute(select(api_keys).where(*live)).mappings().first()
            if row is None:
                raise KeyNotFoundError(name)
            revoked_at = codec.encode_instant(at)
            connection.execute(update(api_keys).where(*live).values(revoked_at=revoked_at))
        return codec.decode_key({**row, "revoked_at": revoked_at})

    # ---------------------------------------------------------------- connections

    def close(self) -> None:
        """Let go of files and connections; nothing accepted is lost. May be called twice."""
        while self._unwatch:
            self._unwatch.pop()()
        with self._write_lock:
            self._closed = True
            if self._writer is not None:
                self._writer.close()
            self._reading.dispose()
            self._writing.dispose()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database for as long as it is held."""
        with self._translated(), self._reading.connect() as connection:
            yield connection

    @contextmanager
    def _write(self, *, remembers: bool = False) -> Iterator[Connection]:
        """The connection that writes: durable when the block ends, undone when it raises.

        Args:
            remembers: Whether what the block writes is noted by what writes it.
        """
        with self._write_lock, self._translated():
            # Held for good: taking it from the pool and giving it back costs as much as a small commit.
            if self._writer is None or self._writer.closed:
                self._writer = self._writing.connect()
            writer = self._writer
            # By the driver. SQLAlchemy begins its own when it runs something, at the price of a commit.
            driver = writer.connection.driver_connection
            assert driver is not None
            if not remembers:
                self._batches.forget()
            try:
                self._begin(driver)
                yield writer
                (writer if writer.in_transaction() else driver).commit()
            except BaseException as error:
                self._undo(writer, driver, error)
                raise

    def _undo(self, writer: Connection, driver: Any, error: BaseException) -> None:
        """Roll back; where the server is gone, or has ended the session, let go of the connection."""
        self._batches.forget()
        try:
            (writer if writer.in_transaction() else driver).rollback()
        except (DBAPIError, self._driver.Error) as second:
            error = second
        lost = isinstance(error, self._driver.Error) and self._writing.dialect.is_disconnect(
            error, driver, None
        )
        if lost and not writer.invalidated:  # it does not see what is run by the driver itself
            writer.invalidate(error)
        if writer.invalidated:
            writer.close()
            self._writer = None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the driver says of the world into our error; leave our own mistakes."""
        if self._closed:
            raise StoreUnavailableError(self._where, "it was closed", mend="open it again")
        try:
            yield
        except (DBAPIError, PoolTimeoutError, self._driver.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if not isinstance(cause, Exception) or (mend := self._mend(cause)) is None:
                raise
            self._after_error(cause)
            why = " ".join(str(cause).split())  # a driver's message may have several lines
            raise StoreUnavailableError(self._where, why, mend=mend) from error

    # Last, since its name hides the type in the annotations of what follows.
    def list(self, query: JobQuery) -> list[Job]:
        """Return at most `query.limit` jobs before `query.before_job_id`, the highest id first.

        `created_after` is inclusive, `created_before` exclusive.
        """
        with self._read() as connection:
            job_ids = find_job_ids(connection, query)
            found = _jobs(connection, job_ids)
        return [found[job_id] for job_id in job_ids]


def _jobs(connection: Connection, job_ids: Iterable[str]) -> dict[str, Job]:
    found = {}
    for some in chunks(job_ids):
        for row in connection.execute(_SOME_JOBS, {"job_ids": some}).mappings():
            found[row["job_id"]] = codec.decode_job(row)
    return found


def _writers(connection: Connection, tables: Sequence[str]) -> dict[str, Writer]:
    found = {table: Writer(table) for table in tables}
    for some in chunks(tables):
        statement = select(writers).where(writers.c.table_name.in_(some))
        for row in connection.execute(statement).mappings():
            writer = codec.decode_writer(row)
            found[writer.table] = writer
    return found


def _live(name: str) -> tuple[Any, Any]:
    return api_keys.c.name == name, api_keys.c.revoked_at.is_(None)
