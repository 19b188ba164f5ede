"""What only SQLite can get wrong: pragmas, query plans, deaths, damaged files, full disks."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, event

from sluicegate.core.job import (
    Event,
    Job,
    JobQuery,
    JobStatus,
    LogEntry,
    TaskRecord,
    TaskStatus,
)
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.ports import Accepted, Change, Refused, Writer
from sluicegate.core.store_errors import StoreTooNewError, StoreUnavailableError
from sluicegate.stores import open_store, sqlite
from sluicegate.stores.migrations import HEAD, upgrade
from sluicegate.stores.schema import METADATA
from sluicegate.stores.sql import SqlStore

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqlStore]:
    opened = sqlite.open_sqlite(str(path))
    yield opened
    opened.close()


def job(number: int, **fields: Any) -> Job:
    given: dict[str, Any] = {
        "job_id": f"0198-{number:06d}",
        "job_name": "n",
        "status": JobStatus.PENDING,
        "created_at": T0 + timedelta(minutes=number),
        "total_tasks": 1,
    }
    return Job(**given | fields)


# ------------------------------------------------------------------ connections


def test_the_pragmas_are_really_set(store: SqlStore) -> None:
    """A pragma that is refused says nothing; durability hangs on these."""
    for connect, query_only in ((store._write, 0), (store._reading.connect, 1)):
        with connect() as connection:

            def pragma(name: str, on: Any = connection) -> Any:
                return on.exec_driver_sql(f"PRAGMA {name}").scalar()

            assert pragma("journal_mode") == "wal"
            assert pragma("synchronous") == 2  # FULL
            assert pragma("busy_timeout") == 10_000
            assert pragma("foreign_keys") == 0
            assert pragma("query_only") == query_only


def test_readers_and_a_writer_do_not_wait_for_each_other(store: SqlStore) -> None:
    """The page must show a stop while a large batch is written, and never half of it."""
    store.commit([Change(job(1), 0)])
    with store._write() as connection:
        connection.exec_driver_sql("UPDATE jobs SET error = 'half'")
        seen: list[str | None] = []
        reader = threading.Thread(target=lambda: seen.append(store.get(job(1).job_id).error))
        reader.start()
        reader.join(5)
        assert seen == [None]
    assert store.get(job(1).job_id).error == "half"


def test_a_store_that_another_process_holds_is_unavailable(store: SqlStore, path: Path) -> None:
    with store._write() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="locked") as caught:
        store.commit([Change(job(1), 0)])
    assert "another process" in caught.value.mend
    holder.execute("ROLLBACK")
    holder.close()
    assert store.list(JobQuery()) == []
    assert isinstance(store.commit([Change(job(1), 0)])[0], Accepted)


def test_a_full_disk_leaves_nothing_half_written(store: SqlStore) -> None:
    """Then the batch can be tried again as it was."""
    store.commit([Change(job(0), 0)])
    with store._write() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    batch = [
        Change(
            job(n, idempotency_key=f"k{n}"),
            0,
            plan=Plan((PlanStep("bronze.a"),)),
            events=(Event("job.created", job(n).job_id, T0),),
            logs=(LogEntry(job(n).job_id, T0, "x" * 1000),),
        )
        for n in range(1, 50)
    ]
    with pytest.raises(StoreUnavailableError, match="full") as caught:
        store.commit(batch)
    assert caught.value.code == "store_unavailable"
    assert "free some space" in caught.value.mend
    assert [j.job_id for j in store.list(JobQuery())] == [job(0).job_id]
    assert store.events() == []
    assert store.last_event_id() == 0
    assert store.find_idempotent("k1") is None

    with store._write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")
    assert all(isinstance(outcome, Accepted) for outcome in store.commit(batch))
    assert len(store.events()) == 49


# ------------------------------------------------------------------ what a store remembers


def test_what_another_process_has_committed_is_seen(store: SqlStore, path: Path) -> None:
    """A store remembers what it has written, for as long as nobody else has written since."""
    other = sqlite.open_sqlite(str(path))
    said = Event("job.created", job(1).job_id, T0)
    held = Writer("bronze.a", epoch=1, job_id=job(1).job_id, task_id="t")
    first = Change(job(1), 0, writers=(held,), events=(said,))
    assert isinstance(store.commit([first])[0], Accepted)
    elsewhere = Change(replace(job(1), status=JobStatus.RUNNING), 1, events=(said,))
    assert isinstance(other.commit([elsewhere])[0], Accepted)

    assert store.commit([Change(job(1), 1)]) == [Refused(replace(elsewhere.job, version=2))]
    freed = replace(held, job_id=None, task_id=None, revision=1)
    assert isinstance(other.commit([Change(job(2), 0, writers=(freed,))])[0], Accepted)
    assert isinstance(store.commit([Change(job(3), 0, writers=(freed,))])[0], Refused)
    [accepted] = store.commit([Change(job(1), 2, events=(said,))])
    assert isinstance(accepted, Accepted)
    assert [one.event_id for one in accepted.events] == [3]
    assert [one.event_id for one in store.events()] == [1, 2, 3]
    other.close()


def test_what_a_store_has_removed_itself_is_not_remembered(store: SqlStore) -> None:
    """Its version says nothing about one that is made anew."""
    [made] = store.commit([Change(job(1), 0)])
    assert isinstance(made, Accepted)
    store.commit([Change(job(1), 1)])
    assert store.remove([[replace(job(1), version=2)]]) == [True]
    assert store.commit([Change(job(1), 2)]) == [Refused(None)]
    assert isinstance(store.commit([Change(job(1), 0)])[0], Accepted)


def test_what_was_undone_is_not_remembered(store: SqlStore) -> None:
    """An error after the rows were written: the same change is accepted the next time."""
    said = Event("job.created", job(1).job_id, T0)
    change = Change(job(1), 0, writers=(Writer("bronze.a", epoch=1),), events=(said,))
    write = store._batches.write

    def fail(*given: Any) -> None:
        write(*given)
        raise RuntimeError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._batches, "write", fail)
        with pytest.raises(RuntimeError):
            store.commit([change])
    [accepted] = store.commit([change])
    assert isinstance(accepted, Accepted)
    assert [one.event_id for one in accepted.events] == [1]


def test_a_batch_costs_few_statements(store: SqlStore) -> None:
    """For each the driver gives the interpreter to others and waits for its turn: they are what a small task costs."""
    running = replace(job(1), status=JobStatus.RUNNING)
    store.commit([Change(running, 0, plan=Plan((PlanStep("bronze.a"),)))])

    def batch(version: int, revision: int) -> list[Change]:
        """Four tasks that start, each on a table of its own."""
        return [
            Change(
                replace(running, version=version + n + 1),
                version + n,
                tasks=(TaskRecord(f"t{n}", running.job_id, f"bronze.n{n}", TaskStatus.RUNNING),),
                writers=(Writer(f"bronze.n{n}", epoch=1, revision=revision),),
                events=(Event("task.started", running.job_id, T0, f"t{n}"),),
            )
            for n in range(4)
        ]

    assert all(isinstance(one, Accepted) for one in store.commit(batch(1, 0)))
    seen: list[str] = []
    assert store._writer is not None
    driver: Any = store._writer.connection.driver_connection
    driver.set_trace_callback(seen.append)
    assert all(isinstance(one, Accepted) for one in store.commit(batch(5, 1)))
    driver.set_trace_callback(None)
    assert [" ".join(statement.split()[:3]) for statement in seen] == [
        "BEGIN IMMEDIATE",
        "PRAGMA data_version",
        "UPDATE counters SET",
        "UPDATE jobs SET",
        "INSERT INTO tasks",
        "INSERT INTO writers",
        "INSERT INTO events",
        "COMMIT",
    ]


# ------------------------------------------------------------------ query plans


QUERIES = {
    "newest": JobQuery(),
    "next page": JobQuery(before_job_id="0198-000900"),
    "status": JobQuery(statuses=(JobStatus.SUCCESS, JobStatus.PENDING)),
    "pipeline": JobQuery(pipelines=("silver.flights",)),
    "layer": JobQuery(layers=("silver", "gold"), before_job_id="0198-000900"),
    "label": JobQuery(labels=(("team", "core"),)),
    "user": JobQuery(user_ids=("ann",)),
    "trigger": JobQuery(triggers=("api",), before_job_id="0198-000900"),
    "time": JobQuery(created_after=T0, created_before=T0 + timedelta(days=1)),
    "all": JobQuery(
        statuses=(JobStatus.SUCCESS,),
        pipelines=("silver.flights", "bronze.a"),
        layers=("silver",),
        labels=(("team", "core"),),
        user_ids=("ann",),
        triggers=("api",),
        created_after=T0,
        before_job_id="0198-000900",
    ),
}


def plans_of(store: SqlStore, ask: Any) -> list[str]:
    """The query plan of each statement that `ask` runs."""
    ran: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        if sql.startswith("SELECT"):
            ran.append((sql, parameters))

    event.listen(store._reading, "before_cursor_execute", note)
    with store._write() as connection:
        writing: Any = connection.connection.driver_connection
    # What is written goes to the driver directly: only SQLite itself sees all of it.
    writing.set_trace_callback(lambda sql: note(None, None, sql, ()))
    ask()
    event.remove(store._reading, "before_cursor_execute", note)
    writing.set_trace_callback(None)
    assert ran
    with store._reading.connect() as connection:
        return [
            "\n".join(
                row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", given)
            )
            for sql, given in ran
        ]


@pytest.mark.parametrize("name", QUERIES)
def test_history_is_served_by_an_index(store: SqlStore, name: str) -> None:
    """With a million jobs a page must cost what it shows: no scan, and no sort but by time."""
    plans = plans_of(store, lambda: store.list(QUERIES[name]))
    for plan in plans:
        # The first page of all jobs walks the primary key from its end and stops at the limit.
        steps = [s for s in plan.split("\n") if "sqlite_autoindex_jobs_1" not in s]
        assert not any(re.match(r"SCAN (jobs|job_\w+|other_\w+)", step) for step in steps), plan
        if name != "time":
            assert "TEMP B-TREE" not in plan, plan


def test_other_reads_are_served_by_an_index(store: SqlStore) -> None:
    """Executors and streams ask these again and again."""
    asked = {
        "get": lambda: store.get(job(1).job_id),
        "plan": lambda: store.plan(job(1).job_id),
        "tasks": lambda: store.tasks(["a", "b"], statuses=[TaskStatus.RUNNING]),
        "latest": lambda: store.latest_tasks(["bronze.a"]),
        "unfinished": store.unfinished,
        "idempotent": lambda: store.find_idempotent("k"),
        "writers": lambda: store.writers(["bronze.a", "bronze.b"]),
        "events": lambda: store.events(after=3),
        "job's events": lambda: store.events(job_id="a", after=3),
        "logs": lambda: store.logs("a", after=3),
        "task's logs": lambda: store.logs("a", task_id="t", after=3),
        "key": lambda: store.find_key("h"),
        "commit": lambda: store.commit([Change(job(1), 1), Change(job(2, idempotency_key="k"), 0)]),
    }
    store.commit([Change(job(1), 0)])
    for name, ask in asked.items():
        for plan in plans_of(store, ask):
            if name == "unfinished":
                assert plan == "SCAN jobs USING INDEX jobs_unfinished"
            else:
                assert "SCAN" not in plan, (name, plan)
                assert "TEMP B-TREE" not in plan, (name, plan)


# ------------------------------------------------------------------ a process that dies


WRITER = """
import sys
from dataclasses import replace
from datetime import UTC, datetime
from sluicegate.core.job import Event, Job, JobStatus, LogEntry, TaskRecord, TaskStatus
from sluicegate.core.ports import Change
from sluicegate.stores import open_store

store = open_store(sys.argv[1])
now = datetime.now(UTC)
jobs = [Job(f"job-{n}", "n", JobStatus.RUNNING, now, 1) for n in range(20)]
jobs = [outcome.job for outcome in store.commit([Change(job, 0) for job in jobs])]
while True:
    # The header, the task, the event and the line of one change carry the same number.
    changes = [
        Change(
            replace(job, lease=job.version),
            job.version,
            tasks=(TaskRecord(f"t-{job.job_id}", job.job_id, "bronze.a", TaskStatus.RUNNING,
                              started_at=now, epoch=job.version),),
            events=(Event(str(job.version), job.job_id, now),),
            logs=(LogEntry(job.job_id, now, str(job.version)),),
        )
        for job in jobs
    ]
    jobs = [outcome.job for outcome in store.commit(changes)]
    print(jobs[0].version, flush=True)
"""


def test_a_killed_writer_keeps_every_answered_commit_and_no_half_one(path: Path) -> None:
    """After SIGKILL the store holds all that was answered, and of each change all or nothing."""
    for delay_ms in (0, 3, 7, 20):
        path.unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, f"sqlite:///{path}"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout is not None
        answered = 0
        for line in process.stdout:
            answered = int(line)
            if answered >= 15:
                break
        time.sleep(delay_ms / 1000)  # not a wait: it only moves the kill within the next commits
        process.send_signal(signal.SIGKILL)
        for line in process.stdout:
            answered = int(line)
        process.stdout.close()
        assert process.wait(10) == -signal.SIGKILL

        store = open_store(f"sqlite:///{path}")
        jobs = store.list(JobQuery(limit=100))
        tasks = store.tasks([j.job_id for j in jobs])
        assert len(jobs) == len(tasks) == 20
        [version] = {j.version for j in jobs}  # the batch is one step
        assert version >= answered
        assert {j.lease for j in jobs} == {t.epoch for t in tasks} == {version - 1}
        for j in jobs:
            numbers = [str(n) for n in range(1, version)]
            assert [e.type for e in store.events(job_id=j.job_id)] == numbers
            assert [entry.message for entry in store.logs(j.job_id)] == numbers
        assert store.last_event_id() == 20 * (version - 1)
        store.close()


# ------------------------------------------------------------------ migrations and files


@pytest.mark.parametrize("by_revisions", [False, True])
def test_a_database_matches_the_schema(path: Path, by_revisions: bool) -> None:
    """A new one, and one that the revisions made, have exactly what the statements are written for."""
    engine = create_engine(f"sqlite:///{path}")
    if by_revisions:
        with engine.begin() as connection:
            upgrade(connection, str(path), None)
    else:
        open_store(f"sqlite:///{path}").close()
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
        assert context.get_current_revision() == HEAD
    engine.dispose()


def test_the_revisions_make_what_a_new_database_has(path: Path) -> None:
    """To the last index and the first row."""
    open_store(f"sqlite:///{path}").close()
    other = path.with_name("by-revisions.db")
    engine = create_engine(f"sqlite:///{other}")
    with engine.begin() as connection:
        upgrade(connection, str(other), None)
    engine.dispose()
    assert _definitions(path) == _definitions(other)
    found = []
    for database in (path, other):
        with closing(sqlite3.connect(database)) as connection:
            tables = sorted(_definitions(database).keys() & {"alembic_version", *METADATA.tables})
            found.append({t: connection.execute(f"SELECT * FROM {t}").fetchall() for t in tables})
    assert found[0] == found[1]
    assert found[0]["counters"] == [(1, 0, 0, 0)]


def _definitions(path: Path) -> dict[str, str]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    found = {name: "".join(sql.split()) for name, sql in rows}
    connection.close()
    return found


KILLED_AT = """
import os, signal, sys
from sqlalchemy import Engine, event
from sluicegate.stores import open_store

@event.listens_for(Engine, "before_cursor_execute")
def look(connection, cursor, statement, *more):
    if sys.argv[2] in statement:
        os.kill(os.getpid(), signal.SIGKILL)

open_store(sys.argv[1])
"""


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE events", "INSERT INTO counters", "INSERT INTO alembic_version"]
)
def test_a_first_start_that_is_killed_leaves_no_half_schema(path: Path, statement: str) -> None:
    """Half of it would be refused by every later start."""
    command = [sys.executable, "-c", KILLED_AT, f"sqlite:///{path}", statement]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert _definitions(path) == {}
    store = open_store(f"sqlite:///{path}")
    assert isinstance(store.commit([Change(job(1), 0)])[0], Accepted)
    store.close()


def test_many_who_open_a_new_database_at_once_all_find_it_made(path: Path) -> None:
    """A server and the commands of its user start together."""
    errors: list[BaseException] = []
    gate = threading.Barrier(6)

    def open_it() -> None:
        gate.wait(timeout=30)
        try:
            open_store(f"sqlite:///{path}").close()
        except BaseException as error:  # noqa: BLE001 - judged below
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    store = open_store(f"sqlite:///{path}")
    assert isinstance(store.commit([Change(job(1), 0)])[0], Accepted)
    store.close()


def test_opening_at_head_does_not_import_alembic(path: Path) -> None:
    """Every command opens the store; Alembic would cost it a third of a second."""
    open_store(f"sqlite:///{path}").close()
    code = (
        "import sys; from sluicegate.stores import open_store; "
        "open_store(sys.argv[1]).close(); sys.exit('alembic' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, f"sqlite:///{path}"], check=True, env=environment)


def test_a_schema_from_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    open_store(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = _definitions(path)
    with pytest.raises(StoreTooNewError, match="'9999'") as caught:
        open_store(f"sqlite:///{path}")
    assert caught.value.code == "store_too_new"
    assert "upgrade sluicegate" in caught.value.mend
    assert _definitions(path) == before
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()


@pytest.mark.parametrize(
    "content", [b"this is no database " * 500, b"SQLite format 3\0" + b"x" * 9000]
)
def test_a_damaged_file_is_said_to_be_one_and_kept(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreUnavailableError) as caught:
        open_store(f"sqlite:///{path}")
    assert str(path) in caught.value.what
    assert "backup" in caught.value.mend
    assert path.read_bytes() == content


def test_damage_that_shows_later_is_said_too(path: Path) -> None:
    """A file can be opened whose tables are garbage further on."""
    store = sqlite.open_sqlite(str(path))
    store.commit([Change(job(n, error="x" * 2000), 0) for n in range(50)])
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * (size - 4096 * 2))
    with pytest.raises(StoreUnavailableError, match="malformed"):
        _use(path)


def _use(path: Path) -> None:
    store = open_store(f"sqlite:///{path}")
    try:
        store.list(JobQuery())
        store.commit([Change(job(99), 0)])
    finally:
        store.close()


def test_a_place_that_cannot_hold_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError, match="its folder cannot be made"):
        open_store(f"sqlite:///{tmp_path}/file/below/jobs.db")
    with pytest.raises(StoreUnavailableError, match="unable to open") as caught:
        open_store(f"sqlite:///{tmp_path}")
    assert caught.value.mend


def test_a_file_that_cannot_be_written_is_said_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not at the first stop, an hour later."""
    open_store(f"sqlite:///{path}").close()
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root
    with pytest.raises(StoreUnavailableError, match="readonly"):
        open_store(f"sqlite:///{path}")


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    """Folders have names that mean something in URLs; a missing folder is made."""
    path = tmp_path / "50% done?" / "my jobs.db"
    open_store(f"sqlite:///{path}").close()
    assert path.is_file()


def test_a_task_row_keeps_its_job_when_it_is_written_again(store: SqlStore) -> None:
    """What the indexes of a task are built from is written once."""
    seen = job(1)
    row = TaskRecord("t", seen.job_id, "bronze.a", TaskStatus.RUNNING, started_at=T0)
    store.commit([Change(seen, 0, tasks=(row,))])
    ended = replace(row, status=TaskStatus.SUCCESS, completed_at=T0)
    store.commit([Change(seen, 1, tasks=(ended,))])
    assert store.tasks([seen.job_id]) == [ended]
