"""One attempt's way into its table: rows into files, then permit, then one entry in the log.

Until that entry is there nothing shows; after it everything does. The entry is a tiny separate step
from the very snapshot that was judged, so that a writer that was paused anywhere before it finds
the table moved on and is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from sluicegate.lake import commits
from sluicegate.lake.batches import bounded, to_reader
from sluicegate.lake.commits import RemovedFile, WriterIdentity
from sluicegate.lake.data_files import DataFile, DataFiles
from sluicegate.lake.errors import (
    SchemaMismatchError,
    StaleWriterError,
    TableMovedError,
    TableUnsupportedError,
)
from sluicegate.lake.log import Content, LogEntry, Settled, current_content, read_entry, settled
from sluicegate.lake.merging import UnitKeys, active_files, read_files, rewrite_matching
from sluicegate.lake.schema import conform, differences, storable_schema, target_schema
from sluicegate.lake.tables import Lake

COMMIT_TRIES_MAX: Final = 5
COMPACT_AFTER_FILES: Final = 64
SMALL_FILE_BYTES: Final = 16 * 1024 * 1024

_NO_UPKEEP: Final = (CommitFailedError, DeltaError, SchemaMismatchError, pa.ArrowException)

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

    Several units can share a commit: `seal` ends one, `drop` forgets the one in hand.

    Args:
        mode: `merge`: rows replace those with the same `keys`, others are added.
        permit: Asked before every try to write the log entry; raises to refuse it.
        fence: A predecessor of this task may still be alive: `open` shuts it out first.
        full_refresh: All that is written replaces the table's content, in one commit at the end.
        schema_mode: What to do about new columns; `strict` refuses them.
        checkpoint: Called between record batches; may raise `Cancelled`.
        user_code: A context for what may run the pipeline's own code: the next batch of what it returned.
    """

    def __init__(
        self,
        lake: Lake,
        table: str,
        identity: WriterIdentity,
        *,
        mode: Literal["append", "overwrite", "merge"],
        keys: Sequence[str] = (),
        permit: Callable[[UnitStats], None],
        fence: bool = False,
        full_refresh: bool = False,
        schema_mode: Literal["strict", "evolve"] = "strict",
        checkpoint: Callable[[], None] = lambda: None,
        user_code: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._lake, self._name, self._who = lake, table, identity
        self._folder: Path = lake.path(table)
        self._replaces = full_refresh or mode == "overwrite"
        self._full_refresh, self._evolve = full_refresh, schema_mode == "evolve"
        self._permit, self._fence, self._checkpoint = permit, fence, checkpoint
        self._user_code = user_code
        self._table: DeltaTable | None = None
        self._keys = tuple(keys) if mode == "merge" else ()
        self._waiting = UnitKeys(table, self._keys, checkpoint)
        # Columns: of all that was written, and of the whole units among it.
        self._target: pa.Schema | None = None
        self._sealed_target: pa.Schema | None = None
        # Rows of the unit in hand; of whole units; and those that a merge leaves of the files that it replaces.
        self._part, self._files, self._leftover = (
            DataFiles(self._folder, identity.task_id, identity.attempt) for _ in range(3)
        )
        self._part_rows = self._rows = self._bytes = 0
        self._token = secrets.token_hex(8)  # in each entry, so that we know our own again
        self._in_doubt: int | None = None
        self._aborted = False
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
    def bytes_waiting(self) -> int:
        """How much was written since the last commit, as bytes in memory."""
        return self._bytes

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
            MergeKeysError: It has not the columns to merge by.
        """
        reader = to_reader(data)
        if reader is None:
            return 0
        stored = storable_schema(reader.schema)
        self._waiting.require_columns(stored)
        self._target = target_schema(stored, self._known_schema(), self._name, evolve=self._evolve)
        rows = 0
        for batch in self._read(reader):
            for part in bounded(batch):
                self._checkpoint()
                conformed = conform(part, self._target, self._name)
                self._part.write(conformed)
                if self._keys:
                    self._waiting.add(conformed)
                rows += part.num_rows
                self._part_rows += part.num_rows
                self._bytes += conformed.nbytes
        self._checkpoint()
        return rows

    def _read(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """Step through a stream: behind it may be the pipeline's own code."""
        while True:
            with self._user_code():
                batch = next(reader, None)
            if batch is None:
                return
            yield batch

    def seal(self) -> None:
        """End the unit in hand: it is whole, and goes into the next commit. Of a key in two units the later row holds.

        Raises:
            MergeKeysError: A key in it is null, or there twice. It is still in hand: `drop` it.
        """
        if self._keys:
            self._waiting.check()
            if self._waiting.overlap():
                self._supersede()
            self._waiting.seal()
        self._files.take(self._part)
        self._rows += self._part_rows
        self._part_rows, self._sealed_target = 0, self._target

    def drop(self) -> None:
        """Forget what was written since the last unit was whole."""
        self._part.discard()
        self._waiting.drop()
        self._part_rows, self._target = 0, self._sealed_target

    def commit(
        self,
        marks: Iterable[Mark] = (),
        state: dict[str, Any] | None = None,
        *,
        final: bool = False,
        seal: bool = True,
    ) -> UnitStats | None:
        """Publish what was written since the last commit as one unit, marks and state with it.

        Where the output replaces the content (overwrite, full refresh), call it once, with `final`.

        Args:
            state: JSON-serialisable; `None` leaves it as it is.
            final: All of the task's output is in the table after this.
            seal: The unit in hand is whole; pass false to leave it for a later commit.

        Returns:
            The unit with its version. `None` where there was nothing to publish: no `write` that
            brought columns (0 rows with columns do count) and no marks or state for a table that
            exists; the table is as before then.

        Raises:
            Exception: Whatever `permit` raised.
            StaleWriterError: A later writer has the table.
            TableMovedError: Another program changed the data of a table that we add to or merge into.
            MergeKeysError: A key is null, or twice in the unit in hand.

            In all these cases, and in any other, what was not committed is removed.
        """
        if self._replaces and not final:
            raise ValueError("an output that replaces the table is one unit: commit it with final")
        # What was sealed before is gone: marks or a state would claim rows that are not there.
        assert not self._aborted
        listed = [list(mark) for mark in marks]
        try:
            if seal:
                self.seal()
            files = self._files.finish()
            if self._is_nothing(listed, state):
                return None
            removed = self._take_out()
            left = self._leftover.finish()
            stats = UnitStats(
                unit=self._settled.units + 1,
                rows=sum(item.rows for item in files),
                bytes=sum(item.bytes for item in files),
                files=len(files),
            )
            facts = self._facts(stats, listed, state, final)
            stats = self._publish([*files, *left], removed, stats, facts)
        except BaseException:
            self.abort()
            raise
        self._take_in(stats, listed, state, final)
        return stats

    def abort(self) -> None:
        """Remove what was written and not committed. Files that the log names are left alone."""
        if self._in_doubt is not None and self._find_own(self._in_doubt) is not None:
            self._settle_doubt()
        self._in_doubt, self._aborted = None, True
        for files in (self._part, self._files, self._leftover):
            files.discard()

    def maintain(self) -> bool:
        """Write small files together when many have piled up, so that a commit stays cheap.

        Returns:
            Whether it did. A conflict with another writer is no error; it is left for later.
        """
        if self._table is None or commits.schema_of(self._table) is None:
            return False
        small = [one for one in active_files(self._table) if one[1] < SMALL_FILE_BYTES]
        if len(small) <= COMPACT_AFTER_FILES or commits.unsupported_feature(self._table):
            return False
        together = DataFiles(self._folder, self._who.task_id, self._who.attempt)
        seen = self._seen()
        try:
            schema = pa.schema(self._table.schema())
            for batch in read_files(self._folder, small):
                together.write(conform(batch, schema, self._name))
            commits.replace_files(
                self._table,
                self._folder,
                together.finish(),
                [RemovedFile(*one) for one in small],
                self._who,
                self._who.facts("maintenance", writer=self._token),
                same_rows=True,
            )
        except (*_NO_UPKEEP, OSError):
            return self._settle_upkeep(together, seen)
        return True

    def _settle_upkeep(self, together: DataFiles, seen: int) -> bool:
        """A compaction failed: remove its files, unless it is in the log after all."""
        entry = read_entry(self._folder, seen + 1)
        ours = (entry.ours or {}) if entry is not None else {}
        if (ours.get("kind"), ours.get("writer")) != ("maintenance", self._token):
            together.discard()
            return False
        self._table = DeltaTable(str(self._folder), version=seen + 1)
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
        if self._sealed_target is not None and (
            self._replaces or self._rows or commits.schema_of(self._table) is None
        ):
            return False
        if self._replaces:  # a state alone says that the source, read anew, holds no rows
            return not state
        if self._table is None:
            return not state
        return not (marks or state not in (None, self._content.state))

    def _take_out(self) -> list[RemovedFile]:
        """Write anew what a merge leaves of the files that hold its keys. Returns: the files to remove."""
        if not self._keys or self._replaces or self._table is None or not self._rows:
            return []
        if commits.schema_of(self._table) is None:
            return []
        if feature := commits.unsupported_feature(self._table):
            raise TableUnsupportedError(self._name, feature)
        return self._rewrite(active_files(self._table), self._waiting.waiting(), self._leftover)

    def _supersede(self) -> None:
        """Take the rows that the unit in hand replaces out of our own files, which wait for the same commit."""
        own = [(item.name, item.bytes) for item in self._files.finish()]
        left = DataFiles(self._folder, self._who.task_id, self._who.attempt)
        try:
            removed = self._rewrite(own, self._waiting.in_hand(), left)
        except BaseException:
            left.discard()
            raise
        self._files.remove({item.path for item in removed})
        self._files.take(left)

    def _rewrite(
        self, files: Iterable[tuple[str, int]], wanted: Any, leftover: DataFiles
    ) -> list[RemovedFile]:
        assert self._target is not None
        return rewrite_matching(
            files,
            self._folder,
            wanted,
            self._keys,
            self._target,
            leftover,
            self._name,
            self._checkpoint,
        )

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

    def _publish(
        self,
        files: list[DataFile],
        removed: list[RemovedFile],
        stats: UnitStats,
        facts: dict[str, Any],
    ) -> UnitStats:
        """Ask for the permit and write the entry; both again if only upkeep came between."""
        for tries_left in reversed(range(COMMIT_TRIES_MAX)):
            self._permit(stats)
            seen = self._in_doubt = self._seen()
            try:
                self._write_entry(files, removed, facts)
                self._settle_doubt()
                return replace(stats, version=self.version)
            except (CommitFailedError, DeltaError, OSError):
                if (own := self._find_own(seen)) is not None:  # it failed after the entry was there
                    self._table = DeltaTable(str(self._folder), version=own.version)
                    self._settle_doubt()
                    return replace(stats, version=own.version)
                self._in_doubt = None
                self._judge_move(seen, removed)
                if tries_left == 0 or self._seen() == seen:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    def _settle_doubt(self) -> None:
        """The entry is in the log: let go of its files first, a stop may come between any lines."""
        self._files.forget()
        self._leftover.forget()
        self._in_doubt = None

    def _seen(self) -> int:
        return -1 if self._table is None else self._table.version()

    def _write_entry(
        self, files: list[DataFile], removed: list[RemovedFile], facts: dict[str, Any]
    ) -> None:
        if self._table is None:
            commits.create(self._folder, self._sealed_target, files, self._who, facts)
            self._table = DeltaTable(str(self._folder), version=0)
            return
        blank = commits.schema_of(self._table) is None
        schema = self._sealed_target or pa.schema(self._table.schema())
        commits.prepare_columns(
            self._table, schema, self._who, add_new=not (self._replaces or blank)
        )
        if removed:
            commits.replace_files(self._table, self._folder, files, removed, self._who, facts)
            return
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

    def _judge_move(self, seen: int, removed: list[RemovedFile]) -> None:
        """Reload after a refused entry; raise unless the unit may be tried on what is there now."""
        self._load()  # raises where a later writer has come
        version = seen + 1
        while (entry := read_entry(self._folder, version)) is not None:
            # What a merge replaces it found in files; upkeep that has written others may have moved it.
            moved = entry.changes_data or (removed and entry.operation == "OPTIMIZE")
            if moved and not self._replaces:
                by = f"task {entry.ours['task_id']}" if entry.ours else "another program"
                raise TableMovedError(self._name, version, seen, by)
            version += 1
        known = commits.schema_of(self._table)
        if self._sealed_target is None or self._full_refresh or known is None:
            return
        if lines := differences(self._sealed_target, known, evolve=self._evolve):
            raise SchemaMismatchError(self._name, lines)

    def _take_in(
        self, stats: UnitStats, marks: list[Any], state: dict[str, Any] | None, final: bool
    ) -> None:
        """Count the published unit and make ready for the next one."""
        self._rows = self._bytes = 0
        self._waiting.forget()
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
        if self._replaces:
            self._target = self._sealed_target = None
