"""`mode="merge"`: which rows a unit replaces, found by key; files with such rows are written anew without them.

The keys of a unit are held in memory, and those of one stored file at a time; rows go by in batches. Nothing here
touches the log.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from sluicegate.lake.batches import ROWS_MAX
from sluicegate.lake.commits import RemovedFile
from sluicegate.lake.data_files import DataFiles
from sluicegate.lake.errors import MergeKeysError
from sluicegate.lake.schema import conform

SHOWN_ROWS_MAX: Final = 5
LARGE_ROWS: Final = 1_000_000
CHECK_EVERY_SECONDS: Final = 0.05

Checkpoint = Callable[[], None]
T = TypeVar("T")


class UnitKeys:
    """The keys of the rows that wait for a commit: of whole units, and of the one that is being written.

    Args:
        keys: The columns that tell one row from another.
        checkpoint: Called while it computes; may raise `Cancelled`.
    """

    def __init__(self, table: str, keys: Sequence[str], checkpoint: Checkpoint) -> None:
        self._table, self._keys, self._checkpoint = table, tuple(keys), checkpoint
        # As they are, to be shown; and as they are compared.
        self._part: list[pa.RecordBatch] = []
        self._part_coded: list[Any] = []
        self._sealed: list[tuple[Any, Bounds]] = []

    def require_columns(self, output: pa.Schema) -> None:
        """Look whether an output has the keys, of types that can be compared. Raises: `MergeKeysError`."""
        for name in self._keys:
            index = output.get_field_index(name)
            if index < 0:
                raise MergeKeysError(
                    f"cannot merge into table {self._table!r}: the output has no column {name!r}",
                    mend=f"return the column, or correct keys=; it has {', '.join(output.names)}",
                )
            kind = output.field(index).type
            if pa.types.is_nested(kind):
                raise MergeKeysError(
                    f"cannot merge into table {self._table!r}: key {name!r} is of type {kind}",
                    mend="use a column of plain values as key, or turn it into text",
                )

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the keys of rows that were written to the unit in hand."""
        if batch.num_rows:
            self._part.append(batch.select(list(self._keys)))
            self._part_coded.append(_coded(self._part[-1]))

    def check(self) -> None:
        """Look at the unit in hand, which is whole. Raises: `MergeKeysError` for null or duplicate keys."""
        if not self._part:
            return
        part, coded = pa.Table.from_batches(self._part), self.in_hand()
        _refuse_null(part, self._table)
        distinct = _stoppable(lambda: len(pc.unique(coded)), part.num_rows, self._checkpoint)
        if distinct < part.num_rows:
            counted = pc.value_counts(coded)
            twice = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
            first = [pc.index(coded, one).as_py() for one in twice[: SHOWN_ROWS_MAX + 1]]
            raise MergeKeysError(
                f"cannot merge into table {self._table!r}: {len(twice)} keys are there more than "
                f"once in one unit: {_shown(part.take(first))}",
                mend='keep one row of each, for example with frame.unique("id"), or correct keys=',
            )

    def overlap(self) -> bool:
        """Whether the unit in hand has keys of whole units that wait for the same commit."""
        if not self._sealed or not self._part:
            return False
        coded = self.in_hand()
        bounds = Bounds(coded)
        before = [column for column, other in self._sealed if other.meet(bounds)]
        return any(
            _stoppable(lambda column=column: _any_in(coded, column), len(column), self._checkpoint)  # type: ignore[misc]
            for column in before
        )

    def seal(self) -> None:
        """The unit in hand is whole: it waits for the commit now."""
        if self._part:
            coded = self.in_hand()
            self._sealed.append((coded, Bounds(coded)))
        self.drop()

    def drop(self) -> None:
        """Forget the unit in hand."""
        self._part, self._part_coded = [], []

    def forget(self) -> None:
        """The units that waited are committed."""
        self._sealed = []

    def in_hand(self) -> Any:
        """The keys of the unit in hand, as one column."""
        return pa.chunked_array(self._part_coded or [[]])

    def waiting(self) -> Any:
        """The keys of all whole units, as one column."""
        chunks = [chunk for column, _ in self._sealed for chunk in column.chunks]
        return pa.chunked_array(chunks) if chunks else pa.chunked_array([[]])


def rewrite_matching(
    files: Iterable[tuple[str, int]],
    folder: Path,
    wanted: Any,
    keys: Sequence[str],
    target: pa.Schema,
    leftover: DataFiles,
    name: str,
    checkpoint: Checkpoint,
) -> list[RemovedFile]:
    """Write all rows but those with `wanted` keys to `leftover`, from every file that holds any of these.

    Args:
        files: Path, as the log has it, and size in bytes.
        wanted: Keys, as `UnitKeys` gives them.

    Returns: the files that hold such rows. Most others are left alone by the bounds in their footers.
    """
    if not len(wanted):
        return []
    bounds = Bounds(wanted)
    removed = []
    for path, size in files:
        checkpoint()
        with _opened(folder / unquote(path)) as file:
            present = file.schema_arrow.names
            if any(key not in present for key in keys):
                continue  # written before the column was there: its keys are null
            if len(keys) == 1 and bounds.exclude(file, keys[0]):
                continue
            replaced = _replaced(file, keys, target, wanted, name, checkpoint)
            if replaced is None:
                continue
            first = 0
            for batch in file.iter_batches(ROWS_MAX):
                checkpoint()
                gone = replaced.slice(first, batch.num_rows).combine_chunks()
                first += batch.num_rows
                left = batch.filter(pc.invert(gone))
                if left.num_rows:
                    leftover.write(conform(left, target, name))
        removed.append(RemovedFile(path, size))
    return removed


def active_files(table: DeltaTable) -> Iterator[tuple[str, int]]:
    """Yield the path and the size in bytes of each file of a table."""
    actions = pa.table(table.get_add_actions(flatten=True))
    yield from zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True)


def read_files(folder: Path, files: Iterable[tuple[str, int]]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of some files of a table, in bounded batches; `files` as `active_files` gives them."""
    for path, _ in files:
        with _opened(folder / unquote(path)) as file:
            yield from file.iter_batches(ROWS_MAX)


def _replaced(
    file: Any, keys: Sequence[str], target: pa.Schema, wanted: Any, name: str, check: Checkpoint
) -> Any | None:
    """Return, for each row of a file, whether the unit replaces it; `None` where it replaces none."""
    schema = pa.schema([target.field(key) for key in keys])
    batches = []
    for batch in file.iter_batches(ROWS_MAX, columns=list(keys)):
        check()
        batches.append(_coded(conform(batch, schema, name)))
    if not batches:
        return None
    coded = pa.chunked_array(batches)
    rows = max(len(coded), len(wanted))
    replaced = _stoppable(lambda: pc.is_in(coded, value_set=wanted), rows, check)
    return replaced if pc.any(replaced).as_py() else None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    file = pq.ParquetFile(path, coerce_int96_timestamp_unit="us")
    try:
        yield file
    finally:
        file.close(force=True)


class Bounds:
    """The least and the greatest of some keys, to leave alone what cannot hold one of them."""

    def __init__(self, coded: Any) -> None:
        self._least: Any = None
        self._greatest: Any = None
        if len(coded) and not pa.types.is_floating(coded.type):
            with contextlib.suppress(ValueError, OverflowError):  # an instant after the year 9999
                found = pc.min_max(coded).as_py()
                self._least, self._greatest = found["min"], found["max"]

    def meet(self, other: Bounds) -> bool:
        """Whether two sets of keys can have one in common."""
        if self._least is None or other._least is None:
            return True
        return bool(self._least <= other._greatest and other._least <= self._greatest)

    def exclude(self, file: Any, key: str) -> bool:
        """Whether no row group of a file can hold one of the keys."""
        if self._least is None:
            return False
        footer = file.metadata
        columns = [footer.schema.column(n).path for n in range(footer.num_columns)]
        index = columns.index(key)
        for number in range(footer.num_row_groups):
            stats = footer.row_group(number).column(index).statistics
            if stats is None or not stats.has_min_max:
                return False
            try:
                if stats.min <= self._greatest and self._least <= stats.max:
                    return False
            except TypeError:  # another program's idea of the type
                return False
        return True


def _coded(keys: pa.RecordBatch) -> Any:
    """Return keys as one column: a single one as it is, several as one text for each row.

    Each value stands there with its length, so that none is taken for the end of another.
    """
    # Minus zero is zero, and is another value to a hash table.
    columns = [
        pc.add(column, 0.0) if pa.types.is_floating(column.type) else column
        for column in keys.columns
    ]
    if len(columns) == 1:
        return columns[0]
    parts: list[Any] = []
    for column in columns:
        text = column if pa.types.is_binary(column.type) else column.cast(pa.string())
        length = pc.binary_length(text).cast(pa.string())
        parts += [length.cast(pa.large_binary()), text.cast(pa.large_binary())]
    return pc.binary_join_element_wise(*parts, pa.scalar(b":", pa.large_binary()))


def _any_in(values: Any, among: Any) -> bool:
    return bool(pc.any(pc.is_in(values, value_set=among)).as_py())


def _refuse_null(part: pa.Table, table: str) -> None:
    for name, column in zip(part.column_names, part.columns, strict=True):
        null = pc.is_null(column, nan_is_null=True)
        if pc.any(null).as_py():
            rows = part.filter(null)
            raise MergeKeysError(
                f"cannot merge into table {table!r}: key {name!r} is null in {rows.num_rows} rows: "
                f"{_shown(rows)}",
                mend="leave these rows out, or give each a key",
            )


def _shown(rows: pa.Table) -> str:
    """Return a few keys as a person reads them."""
    listed = [
        "(" + ", ".join(f"{name}={value!r}" for name, value in row.items()) + ")"
        for row in rows.slice(0, SHOWN_ROWS_MAX).to_pylist()
    ]
    return ", ".join(listed) + (", …" if rows.num_rows > SHOWN_ROWS_MAX else "")


def _stoppable(work: Callable[[], T], rows: int, checkpoint: Checkpoint) -> T:
    """Do a computation that nothing can interrupt; a long one on a thread that a stop leaves behind.

    The worker of such a task is not used again, so that the thread ends with it.
    """
    checkpoint()
    if rows < LARGE_ROWS:
        return work()
    outcome: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=run, name="merge", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(CHECK_EVERY_SECONDS)
        checkpoint()
    if errors:
        raise errors[0]
    return outcome[0]
