"""A copy of a store that is in use is whole, and can be put back although the lake has moved on."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable
from support import Here, environment

import warm_start
from sluicegate.app import open_local
from sluicegate.backup import back_up, restore
from sluicegate.config import Settings
from sluicegate.core.job import JobQuery, JobStatus, TaskStatus
from sluicegate.core.store_errors import (
    BackupFailedError,
    BackupUnsupportedError,
    StoreTooNewError,
    StoreUnavailableError,
)
from sluicegate.home import HomeInUseError
from sluicegate.stores import open_store

PIPELINES = """
from sluicegate import Task, bronze

@bronze(mode="append")
def orders(task: Task):
    last = task.state.get("last", 0)
    for n in range(last + 1, last + 4):
        task.state["last"] = n
        yield [{"n": n}]

@bronze
def later():
    return [{"n": 1}]

@bronze(mode="append")
def forever(task: Task):
    n = 0
    while True:
        n += 1
        task.state["last"] = n
        yield [{"n": n}]
"""
NOW = datetime(2026, 5, 17, 12, 30, tzinfo=UTC)


def rows(settings: Settings, table: str) -> list[int]:
    path = settings.lake / table.replace(".", "/")
    return sorted(row["n"] for row in DeltaTable(str(path)).to_pyarrow_table().to_pylist())


def is_whole(file: Path) -> bool:
    with closing(sqlite3.connect(file)) as connection:
        (found,) = connection.execute("PRAGMA integrity_check").fetchone()
    return bool(found == "ok")


def test_a_copy_that_was_made_while_jobs_ran_is_whole_and_goes_on_elsewhere(
    tmp_path: Path,
) -> None:
    """Each is of one instant: what its headers count are the tasks that it has."""
    with Here(tmp_path / "first", PIPELINES) as here:
        running = here.start("bronze.forever")
        copies = []
        for n in range(5):
            ended = here.run("bronze.orders")
            here.start("bronze.later")
            copies.append(tmp_path / f"copy{n}.db")
            assert back_up(here.settings, copies[-1]) == copies[-1].stat().st_size
        here.stop(running)
    for copy in copies:
        assert copy.stat().st_mode & 0o777 == 0o600
        assert is_whole(copy)
        store = open_store(f"sqlite:///{copy}")
        for job in store.list(JobQuery(limit=100)):
            found = Counter(task.status for task in store.tasks([job.job_id]))
            assert found[TaskStatus.RUNNING] == job.running_tasks
            assert found[TaskStatus.SUCCESS] == job.completed_tasks
            assert bool(job.completed_at) == job.is_terminal
            assert store.plan(job.job_id).pipelines
        assert store.get(running).status is JobStatus.RUNNING
        store.close()
    assert not list(tmp_path.glob(".*.partial"))

    # A new home with the last copy, and a lake that has moved on to the end of what ran.
    elsewhere = Here(tmp_path / "second", PIPELINES, lake=str(here.settings.lake), lease_seconds=3)
    restore(elsewhere.settings, copies[-1], NOW)
    with elsewhere:
        assert elsewhere.job(ended).status is JobStatus.SUCCESS
        elsewhere.stop(running, "force", 60)
        before = rows(elsewhere.settings, "bronze.orders")
        assert elsewhere.job(elsewhere.run("bronze.orders")).status is JobStatus.SUCCESS
    assert rows(elsewhere.settings, "bronze.orders") == [*range(1, len(before) + 4)]


def test_a_store_that_was_put_back_hands_out_no_epoch_twice(tmp_path: Path) -> None:
    """The lake knows writers that the copy does not: of tables that it knows, and of a new one."""
    copy = tmp_path / "copy.db"
    with Here(tmp_path, PIPELINES) as here:
        here.run("bronze.orders")
        back_up(here.settings, copy)
        lost = [here.run("bronze.orders") for _ in range(3)]
        here.run("bronze.later")
        with pytest.raises(HomeInUseError):
            restore(here.settings, copy, NOW)
    done = restore(here.settings, copy, NOW)
    assert done.tables == ("bronze.later", "bronze.orders")
    assert done.aside == here.settings.home / "jobs.db.before-restore-20260517T123000"
    assert is_whole(done.aside)
    with Here(tmp_path, PIPELINES) as here:
        assert here.service.store.get_many(lost) == {}
        for pipeline in ("bronze.orders", "bronze.later"):
            job = here.job(here.run(pipeline))
            assert job.status is JobStatus.SUCCESS, here.task(job.job_id).error
        assert here.service.manager.rollback(job.job_id, requested_by="ann").rollback is not None
    assert rows(here.settings, "bronze.orders") == [*range(1, 16)]
    assert restore(here.settings, None, NOW).tables == ()
    old = open_store(f"sqlite:///{done.aside}")
    assert len(old.get_many(lost)) == 3
    old.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An empty store of a home."""
    made = Settings.load({"home": str(tmp_path / "home")}, environ={}, folder=tmp_path)
    with open_local(made):
        return made


def test_a_copy_never_replaces_a_file(settings: Settings, tmp_path: Path) -> None:
    """Last night's must not go because of a slip of the pen."""
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(BackupFailedError, match="is there already"):
        back_up(settings, target)
    assert target.read_text() == "precious"
    with pytest.raises(BackupFailedError, match="No such file"):
        back_up(settings, tmp_path / "nowhere" / "copy.db")
    assert not list(tmp_path.glob(".*"))


def test_there_must_be_a_store_to_copy(tmp_path: Path) -> None:
    """A copy of the wrong home would be an empty one, and found out too late."""
    nothing = Settings.load({"home": str(tmp_path / "home")}, environ={}, folder=tmp_path)
    with pytest.raises(StoreUnavailableError, match="there is none yet"):
        back_up(nothing, tmp_path / "copy.db")
    assert not nothing.home.exists()


def test_a_damaged_store_is_not_copied(settings: Settings, tmp_path: Path) -> None:
    """A backup that holds the damage is none."""
    path = settings.home / "jobs.db"
    content = bytearray(path.read_bytes())
    content[4096 * 2 :] = b"\x55" * (len(content) - 4096 * 2)
    path.write_bytes(content)
    with pytest.raises((StoreUnavailableError, BackupFailedError)) as caught:
        back_up(settings, tmp_path / "copy.db")
    assert caught.value.mend
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize(
    ("url", "tool"),
    [("postgresql://u@h/d", "pg_dump"), ("firestore://p", "gcloud firestore export")],
)
def test_databases_of_a_server_name_their_own_tools(
    settings: Settings, tmp_path: Path, url: str, tool: str
) -> None:
    """No connection is made for that."""
    elsewhere = replace(settings, store=url)
    for call in (
        lambda: back_up(elsewhere, tmp_path / "copy.db"),
        lambda: restore(elsewhere, tmp_path / "copy.db", NOW),
    ):
        with pytest.raises(BackupUnsupportedError) as caught:
            call()
        assert tool in caught.value.mend
        assert "sluicegate restore" in caught.value.mend


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 1000, "half", "another"])
def test_what_is_no_whole_copy_is_not_put_back(
    settings: Settings, tmp_path: Path, content: bytes | str | None
) -> None:
    """The store that is there stays, whatever is wrong with the copy."""
    copy = tmp_path / "copy.db"
    back_up(settings, copy)
    if content == "half":
        copy.write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])
    elif content == "another":
        copy.unlink()
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("CREATE TABLE jobs (job_id TEXT)")
    elif content is None:
        copy.unlink()
    else:
        assert isinstance(content, bytes)
        copy.write_bytes(content)
    before = (settings.home / "jobs.db").read_bytes()
    with pytest.raises(BackupFailedError) as caught:
        restore(settings, copy, NOW)
    assert str(copy) in caught.value.what
    assert (settings.home / "jobs.db").read_bytes() == before
    assert not list(settings.home.glob("*before*"))


def test_a_copy_of_a_newer_version_is_not_put_back(settings: Settings, tmp_path: Path) -> None:
    """It would be found out only when the store that works is gone."""
    copy = tmp_path / "copy.db"
    back_up(settings, copy)
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(StoreTooNewError, match=r"copy\.db"):
        restore(settings, copy, NOW)
    assert (settings.home / "jobs.db").exists()
    assert not list(settings.home.glob("*before*"))
    assert not list(settings.home.glob(".*partial*"))


def test_the_commands_say_what_they_did(settings: Settings, tmp_path: Path) -> None:
    """And a restore is not done without being asked or told."""

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return warm_start.run(arguments, cwd=tmp_path, env=environment(tmp_path, "backup"))

    done = command("backup", "copy.db", "--json")
    assert json.loads(done.stdout)["bytes"] == (tmp_path / "copy.db").stat().st_size
    again = command("backup", "copy.db")
    assert (again.returncode, len(again.stderr.splitlines())) == (1, 2)
    refused = command("restore", "copy.db")
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    began = time.time()
    done = command("restore", "copy.db", "--yes")
    assert done.returncode == 0, done.stderr
    assert "the store is in place and fits the lake" in done.stdout
    [aside] = settings.home.glob("jobs.db.before-restore-*")
    assert aside.stat().st_mtime <= began + 1
