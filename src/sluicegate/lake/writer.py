"""One attempt's way into its table: rows into files, then permit, then one entry in the log.

Until that entry is there nothing shows; after it everything does. The entry is a tiny separate step
from the very snapshot that was judged, so that a writer that was paused anywhere before it finds
the table moved on and is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from sluicegate.lake import commits
from sluicegate.lake.batches import bounded, to_reader
from sluicegate.lake.commits import WriterIdentity
from sluicegate.lake.data_files import DataFile, DataFiles
from sluicegate.lake.errors import (
    SchemaMismatchError,
    StaleWriterError,
    TableMovedError,
    TableUnsupportedError,
)
from sluicegate.lake.log import Content, LogEntry, Settled, current_content, read_entry, settled
from sluicegate.lake.schema import conform, differences, storable_schema, target_schema
from sluicegate.lake.tables import Lake

COMMIT_TRIES_MAX: Final = 5
COMPACT_AFTER_FILES: Final = 64
SMALL_FILE_BYTES: Final = 16 * 1024 * 1024

Mark = tuple[str, int, int]
"""One ingested file: its path, size in bytes, modification time in ns."""


@dataclass(frozen=True)
class UnitStats:
    """One unit: what it holds, and, once it is in the log, in which version."""

    unit: int
    rows: int
    bytes: int
    files: int
    version: int | None = None


class TableWriter:
    """Writes the units of one attempt: `open`, then `write` and `commit` in turn; else `abort`.

    Args:
        permit: Asked before every try to write the log entry; raises to refuse it.
        fence: A predecessor of this task may still be alive: `open` shuts it out first.
        full_refresh: All that is written replaces the table's content, in one commit at the end.
        schema_mode: What to do about new columns; `strict` refuses them.
        checkpoint: Called between record batches; may raise `Cancelled`.
    """

    def __init__(
        self,
        lake: Lake,
        table: str,
        identity: WriterIdentity,
        *,
        mode: Literal["append", "overwrite"],
        permit: Callable[[UnitStats], None],
        fence: bool = False,
        full_refresh: bool = False,
        schema_mode: Literal["strict", "evolve"] = "strict",
        checkpoint: Callable[[], None] = lambda: None,
    ) -> None:
        self._lake, self._name, self._who = lake, table, identity
        self._folder: Path = lake.path(table)
        self._replaces = full_refresh or mode == "overwrite"
        self._full_refresh, self._evolve = full_refresh, schema_mode == "evolve"
        self._permit, self._fence, self._checkpoint = permit, fence, checkpoint
        self._table: DeltaTable | None = None
        self._target: pa.Schema | None = None
        self._files = DataFiles(self._folder, identity.task_id, identity.attempt)
        self._rows = 0
        self._token = secrets.token_hex(8)  # in each entry, so that we know our own again
        self._in_doubt: int | None = None
        self._content = Content()
        self._settled = Settled()

    @property
    def settled(self) -> Settled:
        """What this task has committed so far, earlier attempts included."""
        return self._settled

    @property
    def marks(self) -> dict[str, tuple[int, int]]:
        """Files that the current content was made of: path -> (size, mtime_ns)."""
        return {} if self._full_refresh else dict(self._content.marks)

    @property
    def state(self) -> dict[str, Any]:
        """What the current content was committed with; empty in a full refresh."""
        return {} if self._full_refresh else dict(self._content.state)

    @property
    def rows_in_unit(self) -> int:
        """How many rows were written since the last commit."""
        return self._rows

    @property
    def version(self) -> int | None:
        """The log version that the next commit builds on."""
        return None if self._table is None else self._table.version()

    def open(self) -> None:
        """Read where the table is; with `fence`, first make sure that no predecessor can write.

        Raises:
            StaleWriterError: A later writer has the table.
            TableUnsupportedError: Our files would break a feature that another program gave it.
        """
        self._load()
        if self._fence:
            self._shut_out_predecessors()
        if self._table is None:
            return
        version = self._table.version()
        if self._fence or self._who.attempt > 1:
            self._settled = settled(self._folder, version, self._who.task_id)
        self._content = current_content(self._folder, version)

    def write(self, data: Any) -> int:
        """Add rows to the unit in hand and return how many. Nothing shows before `commit`.

        Args:
            data: Anything with the Arrow PyCapsule interface, a `LazyFrame`, or a list of dicts.

        Raises:
            OutputTypeError: It is nothing like that, or a column cannot be stored.
            SchemaMismatchError: Its columns are not the table's.
        """
        reader = to_reader(data)
        if reader is None:
            return 0
        stored = storable_schema(reader.schema)
        self._target = target_schema(stored, self._known_schema(), self._name, evolve=self._evolve)
        rows = 0
        for batch in reader:
            for part in bounded(batch):
                self._checkpoint()
                self._files.write(conform(part, self._target, self._name))
                rows += part.num_rows
                self._rows += part.num_rows
        self._checkpoint()
        return rows

    def commit(
        self,
        marks: Iterable[Mark] = (),
        state: dict[str, Any] | None = None,
        *,
        final: bool = False,
    ) -> UnitStats | None:
        """Publish what was written since the last commit as one unit, marks and state with it.

        Where the output replaces the content (overwrite, full refresh), call it once, with `final`.

        Args:
            state: JSON-serialisable; `None` leaves it as it is.
            final: All of the task's output is in the table after this.

        Returns:
            The unit with its version. `None` where there was nothing to publish: no `write` that
            brought columns (0 rows with columns do count) and no marks or state for a table that
            exists; the table is as before then.

        Raises:
            Exception: Whatever `permit` raised.
            StaleWriterError: A later writer has the table.
            TableMovedError: Another program changed the data of a table that we add to.

            In all these cases, and in any other, what was not committed is removed.
        """
        if self._replaces and not final:
            raise ValueError("an output that replaces the table is one unit: commit it with final")
        listed = [list(mark) for mark in marks]
        try:
            files = self._files.finish()
            if self._is_nothing(listed, state):
                return None
            stats = UnitStats(
                unit=self._settled.units + 1,
                rows=sum(item.rows for item in files),
                bytes=sum(item.bytes for item in files),
                files=len(files),
            )
            stats = self._publish(files, stats, self._facts(stats, listed, state, final))
        except BaseException:
            self.abort()
            raise
        self._take_in(stats, listed, state, final)
        return stats

    def abort(self) -> None:
        """Remove what was written and not committed. Files that the log names are left alone."""
        if self._in_doubt is not None and self._find_own(self._in_doubt) is not None:
            self._settle_doubt()
        self._in_doubt = None
        self._files.discard()

    def maintain(self) -> bool:
        """Write small files together when many have piled up, so that a commit stays cheap.

        Returns:
            Whether it did. A conflict with another writer is no error; it is left for later.
        """
        if self._table is None:
            return False
        sizes = pa.table(self._table.get_add_actions(flatten=True))["size_bytes"].to_pylist()
        if sum(size < SMALL_FILE_BYTES for size in sizes) <= COMPACT_AFTER_FILES:
            return False
        try:
            commits.compact(self._table, self._who)
        except (CommitFailedError, DeltaError):
            return False
        return True

    def _load(self) -> None:
        self._table = commits.load(self._folder)
        current = commits.epoch_of(self._table)
        if current > self._who.epoch:
            raise StaleWriterError(self._name, self._who.epoch, current)
        if self._table is not None:
            if self._table.metadata().partition_columns:
                raise TableUnsupportedError(self._name, "partitions")
            if (
                self._table.metadata().configuration.get("delta.columnMapping.mode", "none")
                != "none"
            ):
                raise TableUnsupportedError(self._name, "column mapping")

    def _shut_out_predecessors(self) -> None:
        """Move the table on by an entry with our epoch, so that any older snapshot is refused."""
        for tries_left in reversed(range(COMMIT_TRIES_MAX)):
            try:
                if self._table is None:
                    facts = self._who.facts("fence")
                    commits.create(self._folder, None, [], self._who, facts)
                    self._load()
                else:
                    commits.fence(self._table, self._folder, self._who)
                return
            except (CommitFailedError, DeltaError):
                before = self.version
                self._load()
                if tries_left == 0 or self.version == before:
                    raise

    def _known_schema(self) -> pa.Schema | None:
        """Return the columns that an output has to agree with; `None`: it defines them."""
        if self._target is not None or self._full_refresh:
            return self._target
        return commits.schema_of(self._table)

    def _is_nothing(self, marks: list[Any], state: dict[str, Any] | None) -> bool:
        if self._target is not None and (
            self._replaces or self._rows or commits.schema_of(self._table) is None
        ):
            return False
        if self._replaces:
            return True
        return self._table is None or not (marks or state not in (None, self._content.state))

    def _facts(
        self, stats: UnitStats, marks: list[Any], state: dict[str, Any] | None, final: bool
    ) -> dict[str, Any]:
        facts = self._who.facts(
            "data",
            writer=self._token,
            unit=stats.unit,
            rows=stats.rows,
            bytes=stats.bytes,
            files=stats.files,
            final=final,
            marks=marks,
            state=state,
            content="replace" if self._replaces else "add",
            total={
                "rows": self._settled.rows + stats.rows,
                "bytes": self._settled.bytes + stats.bytes,
                "files": self._settled.files + stats.files,
            },
        )
        if self._content.wants_rollup and not self._replaces:
            every = {**self._content.marks, **{path: (size, at) for path, size, at in marks}}
            facts["marks_all"] = [[path, size, at] for path, (size, at) in every.items()]
            facts["rolled_up"] = True
            facts["state"] = self._content.state if state is None else state
        return facts

    def _publish(self, files: list[DataFile], stats: UnitStats, facts: dict[str, Any]) -> UnitStats:
        """Ask for the permit and write the entry; both again if only upkeep came between."""
        for tries_left in reversed(range(COMMIT_TRIES_MAX)):
            self._permit(stats)
            seen = self._in_doubt = self._seen()
            try:
                self._write_entry(files, facts)
                self._settle_doubt()
                return replace(stats, version=self.version)
            except (CommitFailedError, DeltaError, OSError):
                if (own := self._find_own(seen)) is not None:  # it failed after the entry was there
                    self._table = DeltaTable(str(self._folder), version=own.version)
                    self._settle_doubt()
                    return replace(stats, version=own.version)
                self._in_doubt = None
                self._judge_move(seen)
                if tries_left == 0 or self._seen() == seen:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    def _settle_doubt(self) -> None:
        """The entry is in the log: let go of its files first, a stop may come between any lines."""
        self._files.forget()
        self._in_doubt = None

    def _seen(self) -> int:
        return -1 if self._table is None else self._table.version()

    def _write_entry(self, files: list[DataFile], facts: dict[str, Any]) -> None:
        if self._table is None:
            assert self._target is not None
            commits.create(self._folder, self._target, files, self._who, facts)
            self._table = DeltaTable(str(self._folder), version=0)
            return
        blank = commits.schema_of(self._table) is None
        schema = pa.schema(self._table.schema()) if self._target is None else self._target
        commits.prepare_columns(
            self._table, schema, self._who, add_new=not (self._replaces or blank)
        )
        commits.add(
            self._table,
            self._folder,
            schema,
            files,
            self._who,
            facts,
            replace=self._replaces or blank,
        )

    def _find_own(self, after: int) -> LogEntry | None:
        """Return the entry of the unit in hand if it did reach the log after version `after`."""
        version = after + 1
        while (entry := read_entry(self._folder, version)) is not None:
            ours = entry.ours or {}
            if (
                ours.get("writer") == self._token
                and ours["kind"] == "data"
                and ours["unit"] == self._settled.units + 1
            ):
                return entry
            version += 1
        return None

    def _judge_move(self, seen: int) -> None:
        """Reload after a refused entry; raise unless the unit may be tried on what is there now."""
        self._load()  # raises where a later writer has come
        version = seen + 1
        while (entry := read_entry(self._folder, version)) is not None:
            if entry.changes_data and not self._replaces:
                by = f"task {entry.ours['task_id']}" if entry.ours else "another program"
                raise TableMovedError(self._name, version, seen, by)
            version += 1
        known = commits.schema_of(self._table)
        if self._target is None or self._full_refresh or known is None:
            return
        if lines := differences(self._target, known, evolve=self._evolve):
            raise SchemaMismatchError(self._name, lines)

    def _take_in(
        self, stats: UnitStats, marks: list[Any], state: dict[str, Any] | None, final: bool
    ) -> None:
        """Count the published unit and make ready for the next one."""
        self._rows = 0
        done = self._settled
        self._settled = Settled(
            units=stats.unit,
            rows=done.rows + stats.rows,
            bytes=done.bytes + stats.bytes,
            files=done.files + stats.files,
            version=stats.version,
            complete=final,
        )
        before = {} if self._replaces else self._content.marks
        rolled_up = self._content.wants_rollup
        self._content = Content(
            marks={**before, **{path: (size, at) for path, size, at in marks}},
            state=(({} if self._replaces else self._content.state) if state is None else state),
            entries_read=1 if self._replaces or rolled_up else self._content.entries_read + 1,
        )
        self._target = None if self._replaces else self._target
