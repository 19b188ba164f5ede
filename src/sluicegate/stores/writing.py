"""Write a judged batch: each row once, each statement compiled once, for one database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, Final, TypeVar

from sqlalchemy import (
    BindParameter,
    Connection,
    Dialect,
    Insert,
    Select,
    Table,
    Update,
    bindparam,
    select,
    update,
)

from sluicegate.core.job import LogEntry
from sluicegate.core.ports import Change, Executor
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
_COUNTERS: Final = select(counters).where(counters.c.id == 1).with_for_update()
_UPDATE_COUNTERS: Final = update(counters).where(counters.c.id == 1)

# What changes are judged by. Built once: building a statement costs more than running it.
_WANTED: Final[BindParameter[Any]] = bindparam("wanted", expanding=True)
_VERSIONS: Final = select(jobs.c.job_id, jobs.c.version).where(jobs.c.job_id.in_(_WANTED))
_REVISIONS: Final = select(writers.c.table_name, writers.c.revision).where(
    writers.c.table_name.in_(_WANTED)
)
_KEYS: Final = select(jobs.c.idempotency_key, jobs.c.job_id).where(
    jobs.c.idempotency_key.in_(_WANTED)
)

_Item = TypeVar("_Item")


class BatchWriter:
    """What is written in bulk. Every method runs inside the caller's write transaction.

    Args:
        dialect: The database's.
        insert: The dialect's `insert`, which knows upserts.
    """

    def __init__(self, dialect: Dialect, insert: Callable[[Table], Any]) -> None:
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
        self._insert_event = inserting(events)
        self._insert_log = inserting(logs)
        self._upsert_plan = upserting(plans, "job_id")
        self._upsert_task = upserting(tasks, "task_id", fixed={"position", "job_id", "pipeline"})
        self._upsert_writer = upserting(writers, "table_name")
        self._upsert_executor = upserting(executors, "executor_id", fixed={"started_at"})

    def write(self, connection: Connection, batch: Batch) -> None:
        """Write all that the accepted changes came to."""
        _write_counters(connection, batch.counters)
        self._insert_job.run(connection, map(codec.encode_job, batch.created.values()))
        self._update_job.run(connection, map(codec.encode_job, batch.updated.values()))
        self._upsert_plan.run(connection, _plan_rows(batch))
        self._insert_term.run(connection, _term_rows(batch))
        self._upsert_task.run(connection, _task_rows(batch))
        self._upsert_writer.run(connection, map(codec.encode_writer, batch.writers.values()))
        self._insert_event.run(connection, map(codec.encode_event, batch.events))
        self._insert_log.run(connection, map(codec.encode_log, batch.logs))

    def append_logs(self, connection: Connection, entries: Sequence[LogEntry]) -> None:
        """Write log lines and give them their ids."""
        numbered, after = number_logs(entries, hold_counters(connection))
        _write_counters(connection, after)
        self._insert_log.run(connection, map(codec.encode_log, numbered))

    def beat(self, connection: Connection, executor: Executor) -> None:
        """Write a heartbeat."""
        self._upsert_executor.run(connection, [codec.encode_executor(executor)])


class _Prepared:
    """A statement that is run for many rows at once, compiled at its first use.

    SQLAlchemy's own `execute` spends more time on the parameters of a row than the database spends
    on writing it. So rows must need no conversion by column type, which `codec` sees to.
    """

    def __init__(self, statement: Insert | Update, dialect: Dialect, names: Sequence[str]) -> None:
        self._statement, self._dialect, self._names = statement, dialect, list(names)
        self._sql = ""
        self._arguments: Callable[[dict[str, Any]], Any] = dict

    def run(self, connection: Connection, rows: Iterable[dict[str, Any]]) -> None:
        """Run it once for each row, if there is any."""
        rows = list(rows)
        if not rows:
            return
        if not self._sql:
            self._compile()
        connection.exec_driver_sql(self._sql, [self._arguments(row) for row in rows])

    def _compile(self) -> None:
        compiled = self._statement.compile(dialect=self._dialect, column_keys=self._names)
        if compiled.positiontup:
            self._arguments = itemgetter(*compiled.positiontup)
        self._sql = str(compiled)


def hold_counters(connection: Connection) -> Counters:
    """Return the last ids given out; until the transaction ends nobody else can write."""
    row = connection.execute(_COUNTERS).one()
    return Counters(row.event_id, row.log_id, row.position)


def read_stored(connection: Connection, changes: Sequence[Change]) -> Stored:
    """Read what the changes are judged by. The counters come first: they keep other writers out."""
    before = hold_counters(connection)
    job_ids = {change.job.job_id: None for change in changes}
    tables = {writer.table: None for change in changes for writer in change.writers}
    keys = {
        codec.encode_text(key): None
        for c in changes
        if c.made_from == 0 and (key := c.job.idempotency_key) is not None
    }
    return Stored(
        before,
        _pairs(connection, _VERSIONS, job_ids),
        _pairs(connection, _REVISIONS, tables),
        _pairs(connection, _KEYS, keys),
    )


def chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Cut a list of parameters into pieces that one statement can take."""
    remaining = iter(items)
    while some := list(islice(remaining, _IN_MAX)):
        yield some


def _pairs(
    connection: Connection, statement: Select[tuple[Any, Any]], wanted: Iterable[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for some in chunks(wanted):
        found.update((row[0], row[1]) for row in connection.execute(statement, {"wanted": some}))
    return found


def _write_counters(connection: Connection, after: Counters) -> None:
    connection.execute(
        _UPDATE_COUNTERS,
        {"event_id": after.event_id, "log_id": after.log_id, "position": after.position},
    )


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
