"""What only PostgreSQL can get wrong: sessions that end, servers that go or say nothing, defaults of others."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from postgresql_server import LOCKED, PASSWORD, Programs, Server, server
from sluicegate.core.job import Event, Job, JobQuery, JobStatus
from sluicegate.core.ports import Accepted, Change
from sluicegate.core.store_errors import (
    StoreDriverMissingError,
    StoreTooNewError,
    StoreUnavailableError,
    UnknownStoreError,
)
from sluicegate.stores import open_store, postgresql
from sluicegate.stores.migrations import HEAD, upgrade
from sluicegate.stores.schema import METADATA
from sluicegate.stores.sql import SqlStore

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SOON_SECONDS = 30.0


@pytest.fixture
def database(postgresql_server: Server) -> Iterator[str]:
    """An empty database."""
    with postgresql_server.database() as name:
        yield name


@pytest.fixture
def url(postgresql_server: Server) -> Iterator[str]:
    """The URL of an empty store."""
    with postgresql_server.database(template="head") as name:
        yield postgresql_server.url(name)


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    opened = postgresql.open_postgresql(url)
    yield opened
    opened.close()


@pytest.fixture
def own_server(postgresql_programs: Programs) -> Iterator[Server]:
    """A server that can be killed: nobody else uses it."""
    with server(postgresql_programs) as one:
        yield one


def job(number: int, **fields: Any) -> Job:
    given: dict[str, Any] = {
        "job_id": f"0198-{number:06d}",
        "job_name": "n",
        "status": JobStatus.PENDING,
        "created_at": T0 + timedelta(minutes=number),
        "total_tasks": 1,
    }
    return Job(**given | fields)


def new(number: int) -> Change:
    return Change(job(number), 0, events=(Event("job.created", job(number).job_id, T0),))


def pid_of_writer(store: SqlStore) -> int:
    with store._write() as connection:
        return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar() or 0)


def failures_before(ask: Any, seconds: float = SOON_SECONDS) -> int:
    """How often `ask` found the store out of reach before it worked."""
    deadline = time.monotonic() + seconds
    for failures in range(10_000):
        try:
            ask()
        except StoreUnavailableError:
            assert time.monotonic() < deadline, "it does not work again"
            time.sleep(0.01)
        else:
            return failures
    raise AssertionError("it does not work again")


# ------------------------------------------------------------------ sessions


def test_a_session_sets_what_the_servers_defaults_may_have_otherwise(
    postgresql_server: Server, database: str
) -> None:
    """Durability hangs on these, and that no half transaction of a dead machine holds up all others."""
    for setting in (
        "synchronous_commit = off",
        "default_transaction_isolation = 'serializable'",
        "statement_timeout = 0",
        "default_transaction_read_only = on",
    ):
        postgresql_server.execute(f"ALTER DATABASE {database} SET {setting}")
    store = postgresql.open_postgresql(postgresql_server.url(database))
    for block, isolation, read_only in (
        (store._write, "read committed", "off"),
        (store._read, "repeatable read", "on"),
    ):
        with block() as connection:

            def shown(name: str, on: Any = connection) -> Any:
                return on.exec_driver_sql(f"SHOW {name}").scalar()

            assert shown("transaction_isolation") == isolation
            assert shown("transaction_read_only") == read_only
            assert shown("synchronous_commit") == "on"
            assert shown("statement_timeout") == shown("lock_timeout") == "10s"
            assert shown("idle_in_transaction_session_timeout") == "8s"
    store.close()


def test_a_stronger_durability_is_left_as_it_is(postgresql_server: Server, database: str) -> None:
    """Who has a standby may want each commit to be there as well."""
    postgresql_server.execute(f"ALTER DATABASE {database} SET synchronous_commit = remote_apply")
    store = postgresql.open_postgresql(postgresql_server.url(database))
    with store._write() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "remote_apply"
    store.close()


def test_a_block_of_reads_sees_one_state(store: SqlStore) -> None:
    """A page is made of several queries; a commit between two of them must not show in half of it."""
    store.commit([new(1)])
    with store._read() as connection:
        count = "SELECT count(*) FROM jobs"
        before = connection.exec_driver_sql(count).scalar()
        store.commit([new(2)])
        assert connection.exec_driver_sql(count).scalar() == before == 1
    assert len(store.list(JobQuery())) == 2


def test_who_sleeps_in_a_transaction_holds_nobody_up_for_long(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine may be paused anywhere; what it had begun is undone, and it is told when it comes back."""
    monkeypatch.setitem(postgresql._SESSION, "idle_in_transaction_session_timeout", 500)
    sleeper, other = open_store(url), open_store(url)
    assert isinstance(sleeper, SqlStore)

    def fall_asleep() -> None:
        with sleeper._write() as connection:
            sleeper._batches.hold_counters(connection)
            assert isinstance(other.commit([new(1)])[0], Accepted)
            connection.exec_driver_sql("UPDATE jobs SET error = 'late'")

    with pytest.raises(StoreUnavailableError):
        fall_asleep()
    assert failures_before(lambda: sleeper.commit([new(2)])) == 0
    assert {j.error for j in other.list(JobQuery())} == {None}
    sleeper.close()
    other.close()


def test_who_sleeps_within_a_command_holds_nobody_up_for_long(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused with half a batch sent, as PostgreSQL's own limits do not see: no takeover would ever come through."""
    monkeypatch.setitem(postgresql._SESSION, "idle_in_transaction_session_timeout", 0)
    monkeypatch.setitem(postgresql._SESSION, "lock_timeout", 300)
    monkeypatch.setattr(postgresql, "_IDLE_SECONDS", 0.1)
    sleeper, other = open_store(url), open_store(url)
    assert isinstance(sleeper, SqlStore)

    failures = []
    with contextlib.suppress(StoreUnavailableError), sleeper._write() as connection:
        sleeper._batches.hold_counters(connection)
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with driver.pipeline(), contextlib.suppress(AssertionError):
            driver.execute("SELECT 1")
            driver.pgconn.flush()  # and not what ends a batch
            failures.append(failures_before(lambda: other.commit([new(1)])))
    assert failures == [1], "it came through, at the first attempt after it had waited in vain"
    assert failures_before(lambda: sleeper.commit([new(2)])) <= 1
    sleeper.close()
    other.close()


def test_a_writer_that_is_held_up_for_long_is_told(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked for a stop hears that it was not stored, in place of hanging."""
    monkeypatch.setitem(postgresql._SESSION, "lock_timeout", 200)
    holder, other = open_store(url), open_store(url)
    assert isinstance(holder, SqlStore)
    with holder._write() as connection:
        holder._batches.hold_counters(connection)
        with pytest.raises(StoreUnavailableError, match="lock timeout") as caught:
            other.commit([new(1)])
        assert "another process" in caught.value.mend
    assert failures_before(lambda: other.commit([new(1)])) == 0
    holder.close()
    other.close()


# ------------------------------------------------------------------ lines that are cut, servers that are silent


def test_a_writer_whose_session_was_ended_fails_once_at_most(
    postgresql_server: Server, store: SqlStore
) -> None:
    """The connection that writes is held for good; a dead one must not be."""
    store.commit([new(1)])
    postgresql_server.execute(f"SELECT pg_terminate_backend({pid_of_writer(store)}, 5000)")
    assert failures_before(lambda: store.commit([new(2)])) <= 1
    assert [j.job_id for j in store.list(JobQuery())] == [job(2).job_id, job(1).job_id]


def test_a_session_that_ends_in_the_middle_of_a_commit_leaves_nothing(
    postgresql_server: Server, store: SqlStore
) -> None:
    """And what is said is why, not that some connection is closed."""
    pid = pid_of_writer(store)

    def end_in_the_middle() -> None:
        with store._write() as connection:
            store._batches.hold_counters(connection)
            postgresql_server.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
            store._batches.hold_counters(connection)

    with pytest.raises(StoreUnavailableError, match="terminating connection"):
        end_in_the_middle()
    assert failures_before(lambda: store.commit([new(1)])) == 0


def test_readers_whose_sessions_were_ended_do_not_fail(
    postgresql_server: Server, store: SqlStore
) -> None:
    """A server that was restarted must not cost the page one error for each connection."""
    pids = []
    with store._read() as first, store._read() as second:
        for connection in (first, second):
            pids.append(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar())
    for pid in pids:
        postgresql_server.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
    for _ in range(3):
        assert store.list(JobQuery()) == []


def test_a_server_that_was_killed_and_started_again_is_used_again(own_server: Server) -> None:
    """Everything that was answered is there; who watches is told, for something may have been missed."""
    store = open_store(own_server.url("head"))
    told = threading.Event()
    store.watch(told.set)
    assert told.wait(SOON_SECONDS)
    store.commit([new(1)])
    own_server.stop()
    with pytest.raises(StoreUnavailableError):
        store.commit([new(2)])
    with pytest.raises(StoreUnavailableError) as caught:
        store.list(JobQuery())
    assert "check that the server runs" in caught.value.mend
    told.clear()
    own_server.start()
    assert failures_before(lambda: store.commit([new(2)])) <= 1
    assert [j.job_id for j in store.list(JobQuery())] == [job(2).job_id, job(1).job_id]
    assert told.wait(SOON_SECONDS), "the listener has not come back"
    store.close()


def test_closing_is_prompt_while_the_server_is_gone(own_server: Server) -> None:
    """Ctrl-C must not wait for a server that does not answer."""
    store = open_store(own_server.url("head"))
    store.watch(lambda: None)
    own_server.stop()
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 8


def test_a_server_that_hangs_is_given_up(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system of a process that hangs goes on answering for it; a stop must not wait for ever."""
    store.commit([new(1)])
    pid = pid_of_writer(store)
    monkeypatch.setattr(postgresql, "_SILENCE_SECONDS", 0.5)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailableError, match="did not answer") as caught:
            store.commit([new(2)])
        assert "check that the server runs" in caught.value.mend
        monkeypatch.setattr(postgresql, "_SILENCE_SECONDS", SOON_SECONDS)
        assert failures_before(lambda: store.commit([new(3)])) == 0
    finally:
        os.kill(pid, signal.SIGCONT)


# ------------------------------------------------------------------ watching


def test_a_commit_wakes_who_watches_though_nobody_polls(store: SqlStore, url: str) -> None:
    """A stop that another server has decided takes effect here at once."""
    other = open_store(url)
    told = threading.Event()
    store.watch(told.set)
    assert told.wait(SOON_SECONDS)
    told.clear()
    seen = job(1)
    waited = []
    for version in range(5):
        told.clear()
        change = Change(replace(seen, version=version), version)
        began = time.monotonic()
        assert isinstance(other.commit([change])[0], Accepted)
        assert told.wait(SOON_SECONDS)
        waited.append(time.monotonic() - began)
        assert store.get(seen.job_id).version == version + 1
    assert min(waited) < 5
    other.close()


def test_a_refused_commit_wakes_nobody(store: SqlStore) -> None:
    """Nothing has changed."""
    told = threading.Event()
    store.watch(told.set)
    assert told.wait(SOON_SECONDS)
    store.commit([new(1)])
    assert told.wait(SOON_SECONDS)
    time.sleep(0.2)  # not a wait: what the first one may still cause
    told.clear()
    store.commit([new(1)])
    assert not told.wait(0.5)


def test_a_listener_whose_session_was_ended_comes_back_and_tells(
    postgresql_server: Server, store: SqlStore, url: str
) -> None:
    """What was committed while nobody listened is told by the call that says: I listen again."""
    told = threading.Event()
    store.watch(told.set)
    assert told.wait(SOON_SECONDS)
    database = url.split("/")[3].split("?")[0]
    listeners = postgresql_server.execute(
        f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE 'LISTEN%'"
    )
    assert len(listeners) == 1
    told.clear()
    postgresql_server.execute(f"SELECT pg_terminate_backend({listeners[0][0]}, 5000)")
    assert told.wait(SOON_SECONDS), "the listener has not come back"
    told.clear()
    store.commit([new(1)])
    assert told.wait(SOON_SECONDS)


def test_a_listener_can_be_ended_twice_and_by_whom_it_tells(store: SqlStore) -> None:
    """Whoever waits for one thing ends it from within."""
    ended = threading.Event()

    def end() -> None:
        unwatch()
        ended.set()

    ready = threading.Event()
    unwatch = store.watch(lambda: ready.wait(SOON_SECONDS) and end())
    ready.set()
    assert ended.wait(SOON_SECONDS)
    unwatch()


# ------------------------------------------------------------------ the schema


OPEN = "import sys; from sluicegate.stores import open_store; open_store(sys.argv[1]).close()"


def test_processes_that_open_a_new_database_at_once_all_find_it_made(
    postgresql_server: Server, database: str
) -> None:
    """Two servers start together; neither may find the other's half of a schema."""
    url = postgresql_server.url(database)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, url], env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in started:
        _, said = process.communicate(timeout=100)
        assert process.returncode == 0, said
    store = open_store(url)
    assert isinstance(store.commit([new(1)])[0], Accepted)
    store.close()


def test_the_revisions_make_what_the_statements_are_written_for(
    postgresql_server: Server, url: str
) -> None:
    """The same as a new database has, to the last index and collation."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
        assert context.get_current_revision() == HEAD
        made = definitions(connection)
    engine.dispose()
    with postgresql_server.database() as name:
        engine = create_engine(
            postgresql_server.url(name).replace("postgresql:", "postgresql+psycopg:")
        )
        with engine.begin() as connection:
            upgrade(connection, name, None)
            assert made == definitions(connection)
            assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        engine.dispose()


def definitions(connection: Any) -> tuple[set[Any], set[Any]]:
    columns = connection.exec_driver_sql(
        "SELECT table_name, column_name, data_type, is_nullable, collation_name, column_default"
        " FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name <> 'alembic_version'"
    )
    indexes = connection.exec_driver_sql(
        "SELECT indexdef FROM pg_indexes"
        " WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
    )
    return set(map(tuple, columns)), set(map(tuple, indexes))


def test_every_text_is_ordered_by_its_bytes(store: SqlStore) -> None:
    """In the locale of many servers `a-1` comes after `a0`, and `B` after `a`; a page would skip jobs there."""
    with store._read() as connection:
        columns, _ = definitions(connection)
    texts = {(row[0], row[1]): row[4] for row in columns if row[2] == "text"}
    assert len(texts) > 40
    assert set(texts.values()) == {"C"}


def test_ids_of_any_characters_are_paged_by_their_bytes(store: SqlStore) -> None:
    """Whatever the database's locale is; in this one it cannot be seen, but nothing else may reorder them either."""
    names = ["a0", "a-1", "B", "b", "_", "é", "Z", "a 1"]
    store.commit([Change(replace(job(1), job_id=name), 0) for name in names])
    found: list[str] = []
    while page := store.list(JobQuery(limit=3, before_job_id=found[-1] if found else None)):
        found += [j.job_id for j in page]
    assert found == sorted(names, key=str.encode, reverse=True)


def test_a_schema_from_a_newer_version_is_refused_and_left_alone(
    postgresql_server: Server, url: str
) -> None:
    store = postgresql.open_postgresql(url)
    with store._write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(StoreTooNewError, match="'9999'"):
        open_store(url)


# ------------------------------------------------------------------ what cannot be opened


def shown(error: BaseException | None) -> str:
    """All that a log would hold of an error and of what it came from, without its traceback."""
    found = []
    while error is not None:
        found.append(f"{error!s} {error!r}")
        error = error.__cause__
    return "\n".join(found)


def test_a_password_is_in_no_error(
    postgresql_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors are logged, and pasted into tickets."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    secret = "hunter2"
    place = postgresql_server.url("head", f"{LOCKED}:{secret}")
    with pytest.raises(StoreUnavailableError, match="password authentication failed") as caught:
        open_store(place)
    assert secret not in shown(caught.value)
    assert caught.value.where.startswith(f"postgresql://{LOCKED}@/head?host=/")
    assert "check the user and the password" in caught.value.mend
    for malformed in (
        f"postgresql://me:{secret}@host:port:7/jobs",
        f"postgresql://me:{secret}@host/jobs?nosuch=1",
        f"postgresql://me:{secret}@host",
        f"postgresql://host/?password={secret}",
        f"postgresql://me:%{secret}@host/jobs",
        f"postgresql://me:a/{secret}@host/jobs",
        f"postgresql://me:5/{secret}@host/jobs",
        f"postgresql://me:a@{secret}@host/jobs",
        f"postgres://me:{secret}@[host/jobs",
    ):
        with pytest.raises(UnknownStoreError) as unknown:
            open_store(malformed)
        assert secret not in shown(unknown.value), malformed


def test_a_password_with_any_characters_is_taken(postgresql_server: Server) -> None:
    """It is written as in any URL."""
    account = f"{LOCKED}:{PASSWORD.replace(' ', '%20')}"
    with pytest.raises(StoreUnavailableError, match="permission denied") as caught:
        open_store(postgresql_server.url("head", account)).list(JobQuery())
    assert "GRANT" in caught.value.mend  # it came in, and has no rights there


def test_what_is_in_the_way_is_said_with_its_mend(postgresql_server: Server, database: str) -> None:
    secret = PASSWORD.replace(" ", "%20")
    postgresql_server.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 0")
    with postgresql_server.database(template="template0", more="ENCODING 'SQL_ASCII'") as narrow:
        for place, words, mend in (
            (postgresql_server.url("nosuch"), "does not exist", "create it"),
            ("postgresql://me@/jobs?host=/nowhere", "No such file", "check that the server runs"),
            ("postgresql://me@127.0.0.1:1/jobs", "refused", "check that the server runs"),
            (postgresql_server.url(narrow), "SQL_ASCII", "ENCODING 'UTF8'"),
            (
                postgresql_server.url(database, f"{LOCKED}:{secret}"),
                "too many connections",
                "max_connections",
            ),
        ):
            with pytest.raises(StoreUnavailableError) as caught:
                open_store(place)
            assert words in caught.value.why
            assert "\n" not in caught.value.what
            assert mend in caught.value.mend


def test_a_missing_driver_is_said_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: most stores are files."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "sluicegate.stores.postgresql")
    monkeypatch.delitem(sys.modules, "sluicegate.stores.postgresql_watch")
    with pytest.raises(StoreDriverMissingError) as caught:
        open_store("postgresql://me@host/jobs")
    assert caught.value.mend == "pip install 'sluicegate[postgresql]'"


def test_other_stores_do_not_load_the_driver(tmp_path: Path) -> None:
    """Every command opens the store."""
    code = (
        "import sys; from sluicegate.stores import open_store; "
        "open_store(sys.argv[1]).close(); sys.exit('psycopg' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/jobs.db"]
    subprocess.run(command, check=True, env=environment)
