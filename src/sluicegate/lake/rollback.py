"""Put a table back to its content before a job. Rows, marks and state go back together.

Delta's RESTORE brings files and columns back, but no application transactions, and no metadata of ours. That suits us:
the epoch only grows, and `log.current_content` goes on at the version that a RESTORE brought back.

Source: Delta Transaction Log Protocol; tried with deltalake 1.6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable

from sluicegate.lake import commits, log
from sluicegate.lake.commits import WriterIdentity
from sluicegate.lake.errors import ContentGoneError, StaleWriterError, TableChangedError

RESTORE: Final = "RESTORE"


@dataclass(frozen=True, slots=True)
class Step:
    """The version a table has now, and the one whose content it should get back; `None`: no rows."""

    from_version: int
    to_version: int | None


def plan(folder: Path, table: str, job_id: str) -> Step | None:
    """Return how to take back what a job has committed to a table; `None` when it is not there any more, or never was.

    Raises:
        TableChangedError: Another job or program has changed the data after the job's first commit.
        ContentGoneError: The files or the log of the content before the job were removed.
    """
    loaded = commits.load(folder)
    if loaded is None:
        return None
    latest = loaded.version()
    newest = log.data_version(folder, latest)
    last = _content_entry(folder, latest)
    if newest is None or last is None:
        return None
    if _job_of(last) != job_id:
        if (last.ours or {}).get("job_id") == job_id:
            return None  # it was emptied when the job was rolled back
        if _has_commit_of(folder, last.version, job_id):
            raise TableChangedError(table, job_id, _who(last), last.version)
        return None
    first = last
    for entry in log.entries_back(folder, last.version - 1):
        if not entry.changes_data:
            continue
        if _unit(first) == 1:
            break
        if _job_of(entry) != job_id:
            raise TableChangedError(table, job_id, _who(entry), entry.version)
        first = entry
    if _unit(first) != 1:
        raise ContentGoneError(table, job_id)
    to_version = log.data_version(folder, first.version - 1)
    if to_version is not None:
        _check_files(folder, table, job_id, to_version)
    return Step(newest, to_version)


def author(folder: Path, version: int) -> str | None:
    """Return the job that made the content of `version`, an emptying rollback included; `None`: another program did."""
    entry = _content_entry(folder, version)
    return None if entry is None else (entry.ours or {}).get("job_id")


def undoable(folder: Path, version: int) -> Iterator[tuple[str, int | None]]:
    """Yield the jobs that could be rolled back one after another, newest first, and the version before each.

    It ends where another program, or a commit that no job made alone, is in the way; or where the log was cut off.
    """
    while (last := _content_entry(folder, version)) is not None:
        job_id, first = _job_of(last), last
        if job_id is None:
            return
        for entry in log.entries_back(folder, last.version - 1):
            if _unit(first) == 1 or (entry.changes_data and _job_of(entry) != job_id):
                break
            if entry.changes_data:
                first = entry
        if _unit(first) != 1:
            return
        before = log.data_version(folder, first.version - 1)
        yield job_id, before
        if before is None:
            return
        version = before


def apply(folder: Path, table: str, step: Step, who: WriterIdentity) -> None:
    """Put the table back, under the writer's epoch. When its log says that this writer has done it, nothing is done.

    Raises: `StaleWriterError`: a later writer has the table.
    """
    loaded = commits.load(folder)
    assert loaded is not None
    current = commits.epoch_of(loaded)
    if current > who.epoch:
        raise StaleWriterError(table, who.epoch, current)
    if current == who.epoch:
        return
    if step.to_version is None:
        _empty(loaded, folder, who)
    else:
        facts = who.facts("rollback", job=who.job_id, to_version=step.to_version)
        loaded.restore(
            log.readable_version(folder, step.to_version),
            commit_properties=commits.properties(who, facts),
        )
        commits.flush_entry(folder, loaded.version())


def _empty(loaded: DeltaTable, folder: Path, who: WriterIdentity) -> None:
    facts = who.facts(
        "data",
        writer=who.task_id,
        unit=1,
        rows=0,
        bytes=0,
        files=0,
        final=True,
        marks=[],
        state=None,
        content="replace",
        total={"rows": 0, "bytes": 0, "files": 0},
        rollback=True,
    )
    schema = pa.schema(loaded.schema())
    commits.add(loaded, folder, schema, [], who, facts, replace=True)


def _content_entry(folder: Path, version: int) -> log.LogEntry | None:
    """Return the entry that made the content of `version`, through any RESTORE."""
    while version >= 0 and (entry := log.read_entry(folder, version)) is not None:
        if entry.operation == RESTORE:
            version = log.restored_version(folder, entry)
        elif entry.changes_data:
            return entry
        else:
            version -= 1
    return None


def _has_commit_of(folder: Path, version: int, job_id: str) -> bool:
    return any(
        entry.changes_data and _job_of(entry) == job_id
        for entry in log.entries_back(folder, version)
    )


def _job_of(entry: log.LogEntry) -> str | None:
    ours = entry.ours or {}
    return None if ours.get("rollback") else ours.get("job_id")


def _unit(entry: log.LogEntry) -> int | None:
    return (entry.ours or {}).get("unit")


def _who(entry: log.LogEntry) -> str:
    job_id = (entry.ours or {}).get("job_id")
    return f"job {job_id}" if job_id else "another program"


def _check_files(folder: Path, table: str, job_id: str, version: int) -> None:
    """A decided rollback must not find out halfway that its files were vacuumed."""
    try:
        before = DeltaTable(str(folder), version=log.readable_version(folder, version))
        actions = pa.table(before.get_add_actions(flatten=True))
        paths = actions["path"].to_pylist()
    except Exception as error:
        raise ContentGoneError(table, job_id) from error
    if not all((folder / unquote(path)).exists() for path in paths):
        raise ContentGoneError(table, job_id)
