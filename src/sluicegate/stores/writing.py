"""Write a judged batch: each row once, each statement compiled once, for one database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from operator import itemgetter
from typing import Any, Final, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Delete,
    Dialect,
    Insert,
    Select,
    Table,
    Update,
    bindparam,
    delete,
    select,
    update,
)

from sluicegate.core.job import Job, LogEntry
from sluicegate.core.ports import Change, Executor, Writer
from sluicegate.core.records import replace
from sluicegate.stores import codec
from sluicegate.stores.batch import Batch, Counters, Stored, number_logs
from sluicegate.stores.schema import (
    FIXED_COLUMNS,
    counters,
    events,
    executors,
    job_terms,
    jobs,
    logs,
    plans,
    tasks,
    writers,
)

# Fewer than any database's limit on the parameters of one statement.
_IN_MAX: Final = 5000

# One writer at a time, in every process: in SQLite the transaction is the only one that writes from
# its beginning on; in PostgreSQL `FOR UPDATE` on this row makes it so. There the row stays locked
# until the commit is visible: nobody who has seen an event will later see one with a smaller id.
_COUNTERS: Final = (
    select(counters.c.event_id, counters.c.log_id, counters.c.position)
    .where(counters.c.id == bindparam("one"))
    .with_for_update()
)

# What changes are judged by. A few keys are looked up by one statement that is compiled once, many by one of their own.
_VERSIONS: Final = jobs.c.job_id, jobs.c.version
_REVISIONS: Final = writers.c.table_name, writers.c.revision
_KEYS: Final = jobs.c.idempotency_key, jobs.c.job_id
_FEW: Final = 16
# Rows by one statement. The driver lets go of the interpreter for each step of a statement, and gets it back when the
# threads that run meanwhile let go of it: rows that share a step share that wait.
_ROWS_AT_ONCE: Final = 16, 4, 1

# Jobs whose version is remembered.
_KNOWN_MAX: Final = 10_000

_Item = TypeVar("_Item")


@dataclass(slots=True)
class _Known:
    """What is stored, as this connection left it. It holds for as long as no other one has committed since."""

    seen: Any = None
    counters: Counters | None = None
    versions: dict[str, int] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)


class BatchWriter:
    """What is written in bulk. Every method runs inside the caller's write transaction.

    Args:
        dialect: The database's.
        insert: The dialect's `insert`, which knows upserts.
        with_changes: A statement that is run along with each batch, or none.
        foreign: A statement that returns something else once another connection has committed; without one, what is
            stored is read for each batch.
    """

    def __init__(
        self,
        dialect: Dialect,
        insert: Callable[[Table], Any],
        with_changes: str = "",
        foreign: str = "",
    ) -> None:
        self._with_changes, self._foreign = with_changes, foreign
        self._known = _Known()

        def inserting(table: Table) -> _Prepared:
            return _Prepared(table.insert(), dialect, table.c.keys())

        def upserting(table: Table, key: str, *, fixed: Iterable[str] = ()) -> _Prepared:
            """Insert a row, or write all but `fixed` into the one that has the same `key`."""
            statement = insert(table)
            kept = {key, *fixed}
            written = {c.name: statement.excluded[c.name] for c in table.c if c.name not in kept}
            upsert = statement.on_conflict_do_update(index_elements=[key], set_=written)
            return _Prepared(upsert, dialect, table.c.keys())

        header = [column.name for column in jobs.c if column.name not in FIXED_COLUMNS]
        this_job = jobs.c.job_id == bindparam("job_id")
        self._update_job = _Prepared(
            update(jobs).where(this_job).values({name: bindparam(name) for name in header}),
            dialect,
            header,
        )
        self._insert_job = inserting(jobs)
        self._insert_term = inserting(job_terms)
        this_term = (
            job_terms.c.term == bindparam("term"),
            job_terms.c.job_id == bindparam("job_id"),
        )
        self._delete_term = _Prepared(
            delete(job_terms).where(*this_term), dialect, ["term", "job_id"]
        )
        self._insert_event = inserting(events)
        self._insert_log = inserting(logs)
        self._upsert_plan = upserting(plans, "job_id")
        self._upsert_task = upserting(tasks, "task_id", fixed={"position", "job_id", "pipeline"})
        self._upsert_writer = upserting(writers, "table_name")
        self._upsert_executor = upserting(executors, "executor_id", fixed={"started_at"})
        self._counters = _Prepared(_COUNTERS, dialect, ["one"])
        self._update_counters = _Prepared(
            update(counters).where(counters.c.id == bindparam("one")),
            dialect,
            ["event_id", "log_id", "position", "one"],
        )
        self._lookups = [
            _Lookup(key, value, dialect) for key, value in (_VERSIONS, _REVISIONS, _KEYS)
        ]

    def hold_counters(self, connection: Connection) -> Counters:
        """Return the last ids given out; until the transaction ends nobody else can write."""
        with _cursor(connection) as cursor:
            return self._hold_counters(cursor)

    def _hold_counters(self, cursor: Any) -> Counters:
        if self._foreign:
            (seen,) = cursor.execute(self._foreign).fetchone()
            if seen != self._known.seen or len(self._known.versions) > _KNOWN_MAX:
                self._known = _Known(seen)
        if self._known.counters is not None:
            return self._known.counters
        (row,) = self._counters.rows(cursor, {"one": 1})
        found = Counters(*row)
        if self._foreign:
            self._known.counters = found
        return found

    def forget(self) -> None:
        """What was written is not stored, or something else was: read again what is."""
        self._known = _Known()

    def read_stored(self, connection: Connection, changes: Sequence[Change]) -> Stored:
        """Read what the changes are judged by. The counters come first: they keep other writers out."""
        job_ids = {change.job.job_id: None for change in changes}
        job_ids |= {c.creates.job.job_id: None for c in changes if c.creates is not None}
        tables = {writer.table: None for change in changes for writer in change.writers}
        keys = {
            codec.encode_text(key): None
            for c in changes
            if c.made_from == 0 and (key := c.job.idempotency_key) is not None
        }
        versions, revisions, keys_in_use = self._lookups
        with _cursor(connection) as cursor:
            counters = self._hold_counters(cursor)
            known = self._known
            return Stored(
                counters,
                versions.find(connection, cursor, job_ids, known.versions),
                revisions.find(connection, cursor, tables, known.revisions),
                keys_in_use.find(connection, cursor, keys, {}),
            )

    def write(self, connection: Connection, batch: Batch) -> None:
        """Write all that the accepted changes came to."""
        with _cursor(connection) as cursor:
            self._write_counters(cursor, batch.counters)
            self._insert_job.run(cursor, map(codec.encode_job, batch.created.values()))
            self._update_job.run(cursor, map(codec.encode_job, batch.updated.values()))
            self._upsert_plan.run(cursor, _plan_rows(batch))
            self._insert_term.run(cursor, _term_rows(batch))
            self._upsert_task.run(cursor, _task_rows(batch))
            self._upsert_writer.run(cursor, map(codec.encode_writer, batch.writers.values()))
            self._insert_event.run(cursor, map(codec.encode_event, batch.events))
            self._insert_log.run(cursor, map(codec.encode_log, batch.logs))
            if self._with_changes:
                cursor.execute(self._with_changes)
        if self._foreign:
            known = self._known
            known.versions.update((job.job_id, job.version) for job in batch.created.values())
            known.versions.update((job.job_id, job.version) for job in batch.updated.values())
            known.revisions.update((w.table, w.revision) for w in batch.writers.values())

    def append_logs(self, connection: Connection, entries: Sequence[LogEntry]) -> None:
        """Write log lines and give them their ids."""
        with _cursor(connection) as cursor:
            numbered, after = number_logs(entries, self._hold_counters(cursor))
            self._write_counters(cursor, after)
            self._insert_log.run(cursor, map(codec.encode_log, numbered))

    def beat(self, connection: Connection, executor: Executor) -> None:
        """Write a heartbeat."""
        with _cursor(connection) as cursor:
            self._upsert_executor.run(cursor, [codec.encode_executor(executor)])

    def write_writers(self, connection: Connection, changed: Iterable[Writer]) -> None:
        """Write tables' writers, each with its revision raised."""
        raised = (replace(writer, revision=writer.revision + 1) for writer in changed)
        with _cursor(connection) as cursor:
            self._upsert_writer.run(cursor, map(codec.encode_writer, raised))

    def remove_terms(self, connection: Connection, of: Sequence[Job]) -> None:
        """Remove what jobs are found by: each term is named, since no index leads from a job to its terms."""
        for some in chunks(of):
            found = select(plans).where(plans.c.job_id.in_([job.job_id for job in some]))
            rows = connection.execute(found).mappings()
            known = {row["job_id"]: codec.decode_plan(row["plan"]) for row in rows}
            terms = (
                {"term": term, "job_id": job.job_id}
                for job in some
                for term in codec.encode_terms(job, known.get(job.job_id))
            )
            with _cursor(connection) as cursor:
                self._delete_term.run(cursor, terms)

    def _write_counters(self, cursor: Any, after: Counters) -> None:
        row = {"event_id": after.event_id, "log_id": after.log_id, "position": after.position}
        self._update_counters.run(cursor, [row | {"one": 1}])
        if self._foreign:
            self._known.counters = after


def _cursor(connection: Connection) -> closing[Any]:
    """The driver's cursor, for all that one call has to do."""
    return closing(connection.connection.cursor())


class _Prepared:
    """A statement that is compiled at its first use and run by the driver itself.

    SQLAlchemy's own `execute` costs several times what the database takes for a row. So rows must need
    no conversion by column type, which `codec` sees to, and errors are the driver's.
    """

    def __init__(
        self,
        statement: Insert | Update | Delete | Select[Any],
        dialect: Dialect,
        names: Sequence[str],
    ) -> None:
        self._statement, self._dialect, self._names = statement, dialect, list(names)
        self._sql = ""
        self._arguments: Callable[[dict[str, Any]], Any] = dict
        self._joined: dict[int, str] = {}  # by how many rows it writes at once

    def run(self, cursor: Any, rows: Iterable[dict[str, Any]]) -> None:
        """Run it for each row, if there is any."""
        rows = list(rows)
        if not rows:
            return
        if not self._sql:
            self._compile()
        arguments = [self._arguments(row) for row in rows]
        if not self._joined:
            cursor.executemany(self._sql, arguments)
            return
        done = 0
        for count, sql in self._joined.items():
            while len(arguments) - done >= count:
                cursor.execute(sql, [*chain.from_iterable(arguments[done : done + count])])
                done += count

    def rows(self, cursor: Any, arguments: dict[str, Any]) -> list[Any]:
        """Return the rows that it finds."""
        if not self._sql:
            self._compile()
        cursor.execute(self._sql, self._arguments(arguments))
        return list(cursor.fetchall())

    def _compile(self) -> None:
        names = None if isinstance(self._statement, Select) else self._names
        compiled = self._statement.compile(dialect=self._dialect, column_keys=names)
        self._sql = str(compiled)
        if positions := compiled.positiontup:
            single = itemgetter(*positions)
            self._arguments = single if len(positions) > 1 else lambda row: (single(row),)
            if isinstance(self._statement, Insert):
                row = f"({', '.join('?' * len(positions))})"
                head, values, tail = self._sql.partition(f"VALUES {row}")
                assert values, self._sql
                for count in _ROWS_AT_ONCE:
                    self._joined[count] = f"{head}VALUES {', '.join([row] * count)}{tail}"


class _Lookup:
    """Finds the values of one column by keys of another."""

    def __init__(self, key: Column[Any], value: Column[Any], dialect: Dialect) -> None:
        self._names = [f"wanted_{n}" for n in range(_FEW)]
        few = select(key, value).where(key.in_([bindparam(name) for name in self._names]))
        self._few = _Prepared(few, dialect, self._names)
        self._many = select(key, value).where(key.in_(bindparam("wanted", expanding=True)))

    def find(
        self,
        connection: Connection,
        cursor: Any,
        wanted: Collection[str],
        known: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return key to value for those of `wanted` that are stored; what is `known` is not read."""
        found = {key: known[key] for key in wanted if key in known}
        unread = [key for key in wanted if key not in found] if len(found) < len(wanted) else []
        if len(unread) > _FEW:
            for some in chunks(unread):
                rows = connection.execute(self._many, {"wanted": some})
                found.update((row[0], row[1]) for row in rows)
        elif unread:
            arguments = dict(zip_longest(self._names, unread))  # NULL is in no list
            found.update(self._few.rows(cursor, arguments))
        return found


def chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Cut a list of parameters into pieces that one statement can take."""
    remaining = iter(items)
    while some := list(islice(remaining, _IN_MAX)):
        yield some


def _plan_rows(batch: Batch) -> Iterator[dict[str, Any]]:
    for job_id, plan in batch.plans.items():
        yield {"job_id": job_id, "plan": codec.encode_plan(plan)}


def _term_rows(batch: Batch) -> Iterator[dict[str, Any]]:
    for job in batch.created.values():
        for term in codec.encode_terms(job, batch.plans.get(job.job_id)):
            yield {"term": term, "job_id": job.job_id}


def _task_rows(batch: Batch) -> Iterator[dict[str, Any]]:
    """The task rows with their positions, which only a new row takes."""
    first = batch.counters.position - len(batch.tasks) + 1
    for position, task in enumerate(batch.tasks.values(), first):
        yield {"position": position, **codec.encode_task(task)}
