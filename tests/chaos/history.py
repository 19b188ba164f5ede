"""A Delta table's whole history, replayed from the JSON entries of its log and the Parquet files that they name.

Imports nothing of Sluicegate, and no Delta library: what is told here was not told by the code under test.

Source: Delta Transaction Log Protocol, "Delta Log Entries", "Add File and Remove File", "Transaction Identifiers".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

APP_ID = "sluicegate"
"""The key of our metadata in a commit, and the application id of its writer's epoch. Part of the format."""

LAYERS = ("bronze", "silver", "gold")
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Commit:
    """One entry of a log. `facts` is what its writer says of it; empty in entries that are not ours."""

    version: int
    timestamp_ms: int
    operation: str
    epoch: int | None
    facts: dict[str, Any]
    added: dict[str, dict[str, Any]]
    removed: frozenset[str]
    brings_back: int | None

    @property
    def is_data(self) -> bool:
        """Whether a task has published a unit with it, or a rollback has emptied the table."""
        return self.facts.get("kind") == "data"

    @property
    def is_rollback(self) -> bool:
        """Whether it took back what a job had published."""
        return self.facts.get("kind") == "rollback" or bool(self.facts.get("rollback"))

    @property
    def is_unit(self) -> bool:
        """Whether it is a unit of a task."""
        return self.is_data and not self.is_rollback

    @property
    def replaces(self) -> bool:
        """Whether nothing of the content before it is left."""
        return self.is_data and self.facts.get("content") == "replace"


@dataclass(frozen=True)
class Content:
    """What a table's content was committed with: the files it was read from, and the saved state."""

    marks: dict[str, tuple[int, int]] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


class TableHistory:
    """All versions of one table. What cannot be read is told in `problems`, not raised."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.problems: list[str] = []
        self.commits = [*self._read()]
        self.files: list[frozenset[str]] = []
        """The active files of each version, as the log names them."""
        self.row_counts: dict[str, int] = {}
        """How many rows each file holds, by what the log says."""
        self.contents: list[Content] = []
        active: frozenset[str] = frozenset()
        content = Content()
        for commit in self.commits:
            if strangers := commit.removed - active:
                self._tell(commit, f"removes files that are not there: {sorted(strangers)}")
            active = (active - commit.removed) | commit.added.keys()
            for path, add in commit.added.items():
                self.row_counts[path] = int(json.loads(add["stats"])["numRecords"])
            content = self._after(content, commit)
            self.files.append(active)
            self.contents.append(content)

    def rows(self, version: int) -> Counter[Row]:
        """Every row of a version, as its values in the order of the columns' names, and how often it is there."""
        found: Counter[Row] = Counter()
        for name in self.files[version]:
            found.update(_rows_of(str(self.folder / unquote(name))))
        return found

    def row_count(self, version: int) -> int:
        """How many rows a version holds, by what the log says."""
        return sum(self.row_counts[path] for path in self.files[version])

    def walk(self) -> Iterator[tuple[Commit, Counter[Row], Counter[Row]]]:
        """Yield each commit with the rows before and after it."""
        before: Counter[Row] = Counter()
        active: frozenset[str] = frozenset()
        for commit, files in zip(self.commits, self.files, strict=True):
            after = Counter(before)
            for name in active - files:
                after.subtract(_rows_of(str(self.folder / unquote(name))))
            for name in files - active:
                after.update(_rows_of(str(self.folder / unquote(name))))
            after = +after
            yield commit, before, after
            before, active = after, files

    def units_of(self, task_id: str) -> list[Commit]:
        """The units that a task has published, in order."""
        return [c for c in self.commits if c.is_unit and c.facts["task_id"] == task_id]

    def version_of_epoch(self, epoch: int) -> int | None:
        """The last version that was written before a later writer came."""
        before = [c.version for c in self.commits if c.epoch is None or c.epoch <= epoch]
        return before[-1] if before else None

    def _read(self) -> list[Commit]:
        log = self.folder / "_delta_log"
        entries = sorted(p for p in log.glob("*.json") if p.stem.isdigit())
        found = []
        for number, path in enumerate(entries):
            if int(path.stem) != number:
                self.problems.append(f"{self.name}: its log has a gap before version {path.stem}")
                break
            try:
                found.append(_commit(number, path))
            except (ValueError, KeyError, TypeError) as error:
                self.problems.append(f"{self.name}@{number}: unreadable entry: {error!r}")
                break
        return found

    def _after(self, before: Content, commit: Commit) -> Content:
        """Marks and state after a commit; of a restore those of the version that it brought back."""
        if commit.brings_back is not None:
            if not 0 <= commit.brings_back < len(self.contents):
                self._tell(
                    commit, f"brings back version {commit.brings_back}, which is not before it"
                )
                return before
            return self.contents[commit.brings_back]
        if not commit.is_data:
            return before
        base = Content() if commit.replaces else before
        new = {path: (size, at) for path, size, at in commit.facts["marks"]}
        if len(new) != len(commit.facts["marks"]):
            self._tell(commit, "marks a file twice")
        for path in sorted(new.keys() & base.marks.keys()):
            self._tell(commit, f"ingests {path} again, which is part of its content already")
        marks = {**base.marks, **new}
        if commit.facts.get("rolled_up"):
            listed = {path: (size, at) for path, size, at in commit.facts["marks_all"]}
            if listed != marks:
                self._tell(
                    commit, f"lists other files than the commits before it: {_apart(listed, marks)}"
                )
        state = commit.facts["state"]
        return Content(marks, base.state if state is None else state)

    def _tell(self, commit: Commit, what: str) -> None:
        self.problems.append(f"{self.name}@{commit.version}: {what}")


def read_lake(root: Path) -> dict[str, TableHistory]:
    """Return every table of a lake by its name, `layer.name`."""
    return {
        f"{layer}.{folder.name}": TableHistory(f"{layer}.{folder.name}", folder)
        for layer in LAYERS
        for folder in sorted((root / layer).glob("*"))
        if any((folder / "_delta_log").glob("*.json"))
    }


def _commit(version: int, path: Path) -> Commit:
    info: dict[str, Any] = {}
    epoch = None
    added: dict[str, dict[str, Any]] = {}
    removed = set()
    for action in map(json.loads, path.read_text().splitlines()):
        match action:
            case {"commitInfo": found}:
                info = found
            case {"txn": {"appId": app, "version": number}} if app == APP_ID:
                epoch = int(number)
            case {"add": file}:
                added[file["path"]] = file
            case {"remove": file}:
                removed.add(file["path"])
    operation = str(info.get("operation", ""))
    parameters = info.get("operationParameters") or {}
    facts = json.loads(info[APP_ID]) if APP_ID in info else {}
    return Commit(
        version=version,
        timestamp_ms=int(info["timestamp"]),
        operation=operation,
        epoch=epoch,
        facts=facts,
        added=added,
        removed=frozenset(removed),
        brings_back=int(parameters["version"]) if operation == "RESTORE" else None,
    )


@cache
def _rows_of(path: str) -> Counter[Row]:
    try:
        table = pq.read_table(path)
    except (
        OSError,
        pa.ArrowInvalid,
    ):  # a file that is gone or torn, which `checker` tells, holds no row
        return Counter()
    columns = [table[name].to_pylist() for name in sorted(table.column_names)]
    return Counter(zip(*columns, strict=True)) if columns else Counter()


def _apart(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))
