"""Which files of a table nobody needs any more, by its log. Deletes nothing itself.

Delta Lake's own VACUUM judges by age alone. Ours also knows the versions that a rollback would bring back, and tells a
writer that is alive from one that was killed. It writes no log entry: the log stays as it is, and with it all marks,
state and epochs.

Source: Delta Transaction Log Protocol, "Add File and Remove File"; tried with deltalake 1.6.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable

from sluicegate.core.ports import Needed
from sluicegate.lake import commits, log, rollback

_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OURS: Final = re.compile(r"part-\d{5}-(.+)-\d+-[0-9a-f]{8}\.parquet", re.ASCII)
_DRAFT: Final = re.compile(rf"{re.escape(commits.DRAFT_PREFIX)}(.+)-\d+-[0-9a-f]{{8}}", re.ASCII)
# What deltalake writes for us: files of a compaction, and a log entry before it gets its name.
_COMPACTED: Final = re.compile(rf"part-\d{{5}}-{_UUID}-c\d{{3}}(?:\.\w+)?\.parquet", re.ASCII)
_UNNAMED: Final = re.compile(
    rf"(?:\d{{20}}\.(?:json|checkpoint\.parquet)#\d+|_commit_{_UUID}\.json\.tmp)", re.ASCII
)


def unneeded(folder: Path, needed: Needed) -> dict[str, int]:
    """Return the files of a table that may be removed: paths below its folder, with their sizes in bytes."""
    table = commits.load(folder)
    if table is None:
        return {}
    entries = list(log.entries_back(folder, table.version()))[::-1]
    names = _superseded(folder, entries, _versions(folder, table.version(), needed), needed.before)
    known = {unquote(path) for entry in entries for path in (*entry.added, *entry.removed)}
    names += (name for name in _left_behind(folder, needed) if name not in known | _active(table))
    return dict(_sizes(folder, names))


def _versions(folder: Path, latest: int, needed: Needed) -> list[int]:
    """The versions that must stay readable, in order."""
    versions = set()
    for job_id, before in rollback.undoable(folder, latest):
        if job_id == needed.until:
            break
        if before is not None:
            versions.add(log.readable_version(folder, before))
    for version in needed.pinned:
        # It may be read as it was at any upkeep since.
        versions.update(range(version, log.readable_version(folder, version) + 1))
    return sorted(versions)


def _superseded(
    folder: Path, entries: list[log.LogEntry], versions: list[int], before: datetime
) -> list[str]:
    """The files that the table had once, in none of the versions, and for long not any more."""
    limit_ms = int(before.timestamp() * 1000)
    since: dict[str, int] = {}  # from which version on an active file is
    gone: dict[str, bool] = {}  # whether a file that is not active may go
    for entry in entries:
        old = _written_ms(folder, entry) < limit_ms
        for path in entry.removed:
            added = since.pop(path, 0)
            at = bisect_left(versions, added)
            wanted = at < len(versions) and versions[at] < entry.version
            gone[path] = gone.get(path, True) and old and not wanted
        since.update(dict.fromkeys(entry.added, entry.version))
    return [unquote(path) for path, may_go in gone.items() if may_go and path not in since]


def _written_ms(folder: Path, entry: log.LogEntry) -> int:
    if entry.timestamp_ms:
        return entry.timestamp_ms
    return log.entry_path(folder, entry.version).stat().st_mtime_ns // 1_000_000


def _left_behind(folder: Path, needed: Needed) -> Iterator[str]:
    """Old files of killed writers by their names; that the log does not know them is still to be seen."""
    logs = folder / "_delta_log"
    for file in (*folder.glob("part-*.parquet"), *logs.glob(".*"), *logs.glob("*")):
        found = _OURS.fullmatch(file.name) or _DRAFT.fullmatch(file.name)
        if found is not None:
            is_dead = found[1] != needed.holder
        else:  # these do not say whose they are
            strange = _COMPACTED.fullmatch(file.name) or _UNNAMED.fullmatch(file.name)
            is_dead = strange is not None and needed.holder is None
        try:
            if is_dead and file.stat().st_mtime < needed.before.timestamp():
                yield file.relative_to(folder).as_posix()
        except FileNotFoundError:  # its writer has removed it itself
            continue


def _active(table: DeltaTable) -> set[str]:
    """The files of the newest version; where the log was cut off, no entry names them."""
    actions = pa.table(table.get_add_actions(flatten=True))
    return {unquote(path) for path in actions["path"].to_pylist()}


def _sizes(folder: Path, names: list[str]) -> Iterator[tuple[str, int]]:
    for name in dict.fromkeys(names):
        if "://" in name or name.startswith("/") or ".." in name.split("/"):
            continue  # another program's, elsewhere
        try:
            yield name, (folder / name).stat().st_size
        except FileNotFoundError:
            continue
