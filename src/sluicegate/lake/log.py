"""The table's own log, read as the truth about who committed what.

Reads `_delta_log/<version>.json`, one entry at a time and only as many as a question needs. The
library's `history()` counts its version numbers down from the newest line that it finds, so that
they are off by one as soon as an entry has no commitInfo or another writer was quicker; whether
an entry changed data stands in its add and remove actions, not in the name of its operation.

Source:
    Delta Transaction Log Protocol, "Delta Log Entries", "Add File and Remove File", "Commit
    Provenance Information".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

APP_ID: Final = "sluicegate"
"""The application id of our transactions and the key of our metadata in a commit."""

Marks = dict[str, tuple[int, int]]
"""Ingested files: path -> (size in bytes, modification time in ns)."""

ROLLUP_AFTER_COMMITS: Final = 64
"""A walk that read more entries than this asks for a rollup in the next unit."""

MARKS_PER_ROLLUP_COMMIT: Final = 8
"""With many marks a rollup comes more rarely, so that it adds a constant to the mean commit."""


@dataclass(frozen=True)
class LogEntry:
    """One version of a table, as far as we care."""

    version: int
    operation: str
    parameters: dict[str, Any]
    timestamp_ms: int
    epoch: int | None
    ours: dict[str, Any] | None
    touches_data: bool
    added: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def changes_data(self) -> bool:
        """Whether this entry changed rows, marks or state; maintenance and fences do not."""
        if self.ours is not None:
            return self.ours.get("kind") == "data" or self.operation == "RESTORE"
        return self.touches_data or self.operation == "RESTORE"

    @property
    def replaces(self) -> bool:
        """Whether nothing of the content before this entry is left after it."""
        if self.ours is not None and self.operation != "RESTORE":
            return self.ours.get("kind") == "data" and self.ours.get("content") == "replace"
        if self.operation == "WRITE":
            mode = str(self.parameters.get("mode", "")).lower()
            return mode == "overwrite" and not self.parameters.get("predicate")
        return self.operation.startswith(("CREATE OR REPLACE", "REPLACE"))


@dataclass(frozen=True)
class Settled:
    """What one task has committed to its table, over all its attempts."""

    units: int = 0
    rows: int = 0
    bytes: int = 0
    files: int = 0
    version: int | None = None
    complete: bool = False


@dataclass(frozen=True)
class Content:
    """What the current content of a table was committed with."""

    marks: Marks = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    entries_read: int = 0

    @property
    def wants_rollup(self) -> bool:
        """Whether the next unit should repeat all marks, so that later walks end there."""
        limit = max(ROLLUP_AFTER_COMMITS, len(self.marks) // MARKS_PER_ROLLUP_COMMIT)
        return self.entries_read > limit


def entry_path(folder: Path, version: int) -> Path:
    """Return where the log keeps `version`."""
    return folder / "_delta_log" / f"{version:020d}.json"


def read_entry(folder: Path, version: int) -> LogEntry | None:
    """Return one entry of the log, or `None` where the log no longer (or not yet) has it."""
    try:
        lines = entry_path(folder, version).read_bytes().splitlines()
    except FileNotFoundError:
        return None
    info: dict[str, Any] = {}
    epoch: int | None = None
    touches_data = False
    added: list[str] = []
    removed: list[str] = []
    for action in map(json.loads, filter(None, lines)):
        if "commitInfo" in action:
            info = action["commitInfo"]
        elif "txn" in action and action["txn"]["appId"] == APP_ID:
            epoch = int(action["txn"]["version"])
        elif "add" in action:
            touches_data |= bool(action["add"]["dataChange"])
            added.append(action["add"]["path"])
        elif "remove" in action:
            touches_data |= bool(action["remove"]["dataChange"])
            removed.append(action["remove"]["path"])
    return LogEntry(
        version=version,
        operation=str(info.get("operation", "")),
        parameters=info.get("operationParameters") or {},
        timestamp_ms=int(info.get("timestamp") or 0),
        epoch=epoch,
        ours=_our_metadata(info.get(APP_ID)),
        touches_data=touches_data,
        added=tuple(added),
        removed=tuple(removed),
    )


def entries_back(folder: Path, version: int) -> Iterator[LogEntry]:
    """Yield the entries from `version` down to 0 or to where the log was cut off."""
    while version >= 0 and (entry := read_entry(folder, version)) is not None:
        yield entry
        version -= 1


def data_version(folder: Path, version: int) -> int | None:
    """Return the last version up to `version` that changed data; `None` if none did.

    Where the log was cut off before the answer, that is the oldest version still readable.
    """
    reached = version + 1
    for entry in entries_back(folder, version):
        if entry.changes_data:
            return entry.version
        reached = entry.version
    return None if reached == 0 else reached


def readable_version(folder: Path, version: int) -> int:
    """Return the newest version with the very content of `version`: after upkeep, fewer files."""
    best = version
    while (entry := read_entry(folder, version + 1)) is not None and not entry.changes_data:
        if entry.ours is not None and entry.ours["kind"] == "schema":
            break
        version += 1
        if entry.operation == "OPTIMIZE":
            best = version
    return best


def current_content(folder: Path, version: int) -> Content:
    """Return the marks and the state that hold for the content of `version`.

    Newest to oldest: an entry that replaced everything, or carries a rollup, ends the walk, its
    own marks included; a restore goes on at the version that it brought back.
    """
    marks: Marks = {}
    state: dict[str, Any] | None = None
    read = 0
    while version >= 0 and (entry := read_entry(folder, version)) is not None:
        read += 1
        if entry.operation == "RESTORE":
            version = restored_version(folder, entry)
            continue
        ours = entry.ours or {}
        if ours.get("kind") == "data":
            rolled_up = bool(ours.get("rolled_up"))
            for path, size, mtime_ns in ours["marks_all" if rolled_up else "marks"]:
                marks.setdefault(path, (size, mtime_ns))  # the newest reading of a path holds
            state = ours["state"] if state is None else state
            if rolled_up:
                break
        if entry.replaces:
            break
        version -= 1
    return Content(marks, state or {}, read)


def settled(folder: Path, version: int, task_id: str, *, since_epoch: int = 0) -> Settled:
    """Return what `task_id` has committed up to `version`.

    Each commit carries its task's totals, so that the newest one is the whole answer.

    Args:
        since_epoch: The epoch of the task's first attempt, if known: the walk ends before it.
    """
    for entry in entries_back(folder, version):
        ours = entry.ours or {}
        if ours.get("task_id") == task_id and ours.get("kind") == "data":
            total = ours["total"]
            return Settled(
                units=ours["unit"],
                rows=total["rows"],
                bytes=total["bytes"],
                files=total["files"],
                version=entry.version,
                complete=bool(ours["final"]),
            )
        if entry.epoch is not None and entry.epoch < since_epoch:
            break
    return Settled()


def _our_metadata(raw: object) -> dict[str, Any] | None:
    if not isinstance(raw, str):
        return None
    try:
        value = json.loads(raw)
    except ValueError:  # another program's key of the same name
        return None
    return value if isinstance(value, dict) and "kind" in value else None


def restored_version(folder: Path, restore: LogEntry) -> int:
    """Return the version that a RESTORE brought back; always an earlier one, so walks end."""
    raw = restore.parameters.get("version")
    if raw not in (None, "", "null"):
        return min(int(str(raw)), restore.version - 1)
    when = str(restore.parameters.get("datetime") or restore.parameters.get("timestamp") or "0")
    limit_ms = int(when) if when.isdigit() else int(datetime.fromisoformat(when).timestamp() * 1000)
    for entry in entries_back(folder, restore.version - 1):
        if entry.timestamp_ms <= limit_ms:
            return entry.version
    return -1
