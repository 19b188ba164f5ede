"""A store of the first revision, with all that users have in it, is brought to the newest: no fact is lost.

`stores/0001-*.sql` is never changed. A new revision that reshapes what was there has to change `brought_to_head`, and
with it say what becomes of the old facts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from support import Here

from postgresql_server import Server
from sluicegate.core.job import JobQuery, JobStatus, TaskInput, TaskStatus
from sluicegate.core.plan import Plan
from sluicegate.core.ports import Accepted, Change, Store
from sluicegate.core.receipt import Cause, Kept, RemoteStop
from sluicegate.stores import open_store
from sluicegate.stores.migrations import HEAD
from sluicegate.stores.schema import METADATA

STORES = Path(__file__).parent / "stores"
ADDED = {"jobs": {"task_stops", "rollback"}}  # columns that later revisions have added, all null
T0 = datetime(2026, 10, 3, 6, 0, 0, 123456, tzinfo=UTC)
PIPELINES = """
from sluicegate import bronze, gold, silver

@bronze
def orders(): return [{"n": 1}]

@silver
def orders(): return [{"n": 1}]

@gold
def daily(): return [{"n": 1}]
"""


def script(database: str) -> str:
    return "".join((STORES / f"0001-{name}.sql").read_text() for name in (database, "rows"))


@pytest.fixture(params=["sqlite", "postgresql"])
def old_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a store as the first version has left it."""
    if request.param == "sqlite":
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
            connection.executescript(script("sqlite"))
        yield f"sqlite:///{tmp_path}/jobs.db"
        return
    server: Server = request.getfixturevalue("postgresql_server")
    with server.database() as name:
        with psycopg.connect(server.address.replace("dbname=postgres", f"dbname={name}")) as opened:
            opened.execute(script("postgresql").encode())
        yield server.url(name)


def facts(url: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, in an order of their own."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    found = {}
    with engine.connect() as connection:
        for table in ("alembic_version", *METADATA.tables):
            rows = connection.execute(text(f"SELECT * FROM {table}")).mappings()
            found[table] = sorted(map(dict, rows), key=lambda row: str(sorted(row.items())))
    engine.dispose()
    return found


def brought_to_head(before: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What the old rows should be in the newest schema."""
    expected = {
        table: [row | dict.fromkeys(ADDED.get(table, ())) for row in rows]
        for table, rows in before.items()
    }
    expected["alembic_version"] = [{"version_num": HEAD}]
    return {
        table: sorted(rows, key=lambda row: str(sorted(row.items())))
        for table, rows in expected.items()
    }


def test_every_row_is_kept_as_it_was(old_store: str) -> None:
    """To the last digit of a time and the last letter of a line; and doing it again changes nothing."""
    before = facts(old_store)
    assert {row["status"] for row in before["jobs"]} == {*JobStatus}
    assert all(before.values()), "the fixture has something of everything"
    for _ in range(2):
        open_store(old_store).close()
        assert facts(old_store) == brought_to_head(before)


@pytest.fixture
def store(old_store: str) -> Iterator[Store]:
    opened = open_store(old_store)
    yield opened
    opened.close()


def test_the_application_reads_all_of_it(store: Store) -> None:
    """Each record becomes what the code works with, and is found by what it was found by."""
    jobs = store.list(JobQuery())
    assert {job.status for job in jobs} == set(JobStatus)
    assert len(store.tasks([job.job_id for job in jobs])) == 11
    assert {task.status for task in store.tasks([job.job_id for job in jobs])} == set(TaskStatus)
    assert len(store.unfinished()) == 4
    [pending] = store.unclaimed(10)
    assert (pending.status, pending.priority) == (JobStatus.PENDING, -3)
    assert [job.stopping for job in store.unfinished()] == [False, False, False, True]

    [success] = store.list(JobQuery(statuses=(JobStatus.SUCCESS,), labels=(("batch", "night"),)))
    assert success == store.find_idempotent("nightly-2026-10-03")
    assert success.params["deep"] == {"list": [1, 2.5, None, True, "Zürich"]}
    assert (success.timeout_seconds, success.priority) == (3600.5, 5)
    assert success.completed_at == T0 + timedelta(minutes=1, seconds=9)
    assert (success.rollback, success.task_stops) == (None, {})
    tasks = store.tasks([success.job_id])
    assert [task.pipeline for task in tasks] == ["bronze.orders", "silver.orders", "gold.daily"]
    assert tasks[2].inputs == (TaskInput("silver.orders", 1),)
    assert tasks[1].stats.rows == 2000
    lines = [line.message for line in store.logs(success.job_id)]
    assert lines[0] == "read 1,000 rows from 'Köln' \u2013 ok ✓"
    assert [event.type for event in store.events(job_id=success.job_id)][-1] == "job.finished"

    [partial] = store.list(JobQuery(statuses=(JobStatus.PARTIAL,)))
    [failed] = store.list(JobQuery(statuses=(JobStatus.FAILED,), user_ids=("ben",)))
    assert (failed.resumed_by, partial.resumed_from) == (partial.job_id, failed.job_id)
    assert partial.full_refresh
    stop = store.tasks([partial.job_id])[1].stop
    assert stop is not None
    assert (stop.stage, stop.where) == ("terminate", ("a.py:1 f", "b.py:2 g"))

    [cancelled] = store.list(JobQuery(user_ids=("zoë",)))
    receipt = cancelled.cancellation
    assert receipt is not None
    assert (receipt.cause, receipt.latency_ms) == (Cause.USER, 1000.125)
    assert receipt.kept == (Kept("bronze.orders", 1, 7),)
    assert receipt.remote == (RemoteStop("query_job.cancel", "confirmed", 2),)

    assert [(key.name, key.revoked_at is None) for key in store.list_keys()] == [
        ("admin", True),
        ("dashboards", False),
        ("dashboards", True),
    ]
    assert [executor.beat for executor in store.executors()] == [42]
    assert {writer.table for writer in store.held_writers()} == {"bronze.orders", "gold.daily"}


def test_what_is_written_next_goes_on_from_there(store: Store) -> None:
    """Ids, versions and epochs follow those that were given out before."""
    last = store.last_event_id()
    [job] = store.list(JobQuery(statuses=(JobStatus.PENDING,)))
    [outcome] = store.commit([Change(job, made_from=job.version)])
    assert isinstance(outcome, Accepted)
    assert outcome.job.version == job.version + 1
    assert last == max(event.event_id for event in store.events())
    assert store.plan(job.job_id) != Plan()


def test_a_server_takes_up_what_the_first_version_left(tmp_path: Path) -> None:
    """Running and pending jobs end, the stop is closed, and what had ended can be resumed."""
    home = tmp_path / "home"
    home.mkdir()
    with closing(sqlite3.connect(home / "jobs.db")) as connection:
        connection.executescript(script("sqlite"))
        # Its executor ran on this home, and has ended with the old version.
        (executor,) = connection.execute("SELECT executor_id FROM executors").fetchone()
    (home / "executors.json").write_text(f'["{executor}"]')
    with Here(tmp_path, PIPELINES) as here:
        jobs = here.service.store.list(JobQuery())
        ended = [here.wait(job.job_id, 60) for job in jobs]
        statuses = sorted(job.status.value for job in ended)
        assert statuses == [*["cancelled"] * 2, "failed", "partial", *["success"] * 4]
        [partial] = [job for job in ended if job.status is JobStatus.PARTIAL]
        resumed = here.service.manager.resume(partial.job_id, user_id="ann")
        assert here.wait(resumed.job_id).status is JobStatus.SUCCESS
