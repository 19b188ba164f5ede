"""Parquet files of one attempt: a stream in, flushed files out, none of them in the log yet."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from sluicegate.lake.batches import BYTES_MAX, ROWS_MAX
from sluicegate.lake.durable import flush_to_disk

FILE_BYTES_MAX: Final = 192 * 1024 * 1024
TEXT_BOUND_MAX: Final = 32
"""Longer text is left out of the statistics: a cut-off maximum would hide rows from readers."""


@dataclass(frozen=True)
class DataFile:
    """One finished file below the table's folder."""

    name: str
    rows: int
    bytes: int
    stats: str


class DataFiles:
    """Writes batches of one schema at a time into files that roll over.

    Memory: what waits for the next row group, at most `ROWS_MAX` rows or about `BYTES_MAX`.
    """

    def __init__(self, folder: Path, task_id: str, attempt: int) -> None:
        self._folder, self._task_id, self._attempt = folder, task_id, attempt
        self._finished: list[DataFile] = []
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0
        self._number = 0
        self._path: Path | None = None
        self._sink: Any = None
        self._writer: Any = None
        self._schema: pa.Schema | None = None
        self._metadata: list[Any] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; a batch of another schema than before starts another file."""
        if self._schema is not None and batch.schema != self._schema:
            self._close_file()
        self._schema = batch.schema
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes
        if self._waiting_rows >= ROWS_MAX or self._waiting_bytes >= BYTES_MAX:
            self._write_row_group()

    def finish(self) -> list[DataFile]:
        """Close and return all files; their content and names are on the disk."""
        self._close_file()
        if self._finished:
            flush_to_disk(self._folder)
            flush_to_disk(self._folder.parent)  # the folder itself may be new
        return list(self._finished)

    def forget(self) -> None:
        """Start a new unit: the finished files belong to the log now."""
        self._finished = []

    def discard(self) -> None:
        """Remove every file that was not forgotten, the unfinished one included."""
        self._waiting = []
        if self._sink is not None:
            self._sink.close()
        for name in [
            *(item.name for item in self._finished),
            *([self._path.name] if self._path else []),
        ]:
            (self._folder / name).unlink(missing_ok=True)
        self._finished, self._path, self._sink, self._writer = [], None, None, None
        self._waiting_rows = self._waiting_bytes = 0

    def _write_row_group(self) -> None:
        if not self._waiting_rows:
            self._waiting = []
            return
        if self._writer is None:
            self._open_file()
        self._writer.write_table(pa.Table.from_batches(self._waiting), row_group_size=ROWS_MAX)
        self._waiting = []
        self._waiting_rows = self._waiting_bytes = 0
        if self._sink.tell() >= FILE_BYTES_MAX:
            self._close_file()

    def _open_file(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / (
            f"part-{self._number:05d}-{self._task_id}-{self._attempt}-{secrets.token_hex(4)}.parquet"
        )
        self._number += 1
        self._metadata = []
        self._sink = pa.OSFile(str(self._path), "wb")
        self._writer = pq.ParquetWriter(
            self._sink, self._schema, compression="zstd", metadata_collector=self._metadata
        )

    def _close_file(self) -> None:
        self._write_row_group()
        if self._path is None:
            return
        self._writer.close()
        self._sink.close()
        flush_to_disk(self._path)
        metadata = self._metadata[0]
        self._finished.append(
            DataFile(
                name=self._path.name,
                rows=metadata.num_rows,
                bytes=self._path.stat().st_size,
                stats=json.dumps(file_statistics(metadata, self._schema)),
            )
        )
        self._path = self._sink = self._writer = None


def file_statistics(metadata: Any, schema: pa.Schema | None) -> dict[str, Any]:
    """Return what readers may use to skip a file; in doubt a column is left out.

    Left out: nested columns, floats (NaN has no place in an order), decimals, text over
    `TEXT_BOUND_MAX` characters, and whatever Parquet itself kept no bounds of.

    Source:
        Delta Transaction Log Protocol, "Per-file Statistics".
    """
    lowest: dict[str, Any] = {}
    highest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    leaves = metadata.row_group(0).num_columns if metadata.num_row_groups else 0
    for index in range(leaves):
        name = metadata.row_group(0).column(index).path_in_schema
        position = schema.get_field_index(name) if schema is not None else -1
        if schema is None or position < 0 or pa.types.is_nested(schema.field(position).type):
            continue
        groups = [
            metadata.row_group(number).column(index).statistics
            for number in range(metadata.num_row_groups)
        ]
        if any(group is None or not group.has_null_count for group in groups):
            continue
        nulls[name] = sum(group.null_count for group in groups)
        bounded = [group for group in groups if group.num_values]
        if not bounded or not all(group.has_min_max for group in bounded):
            continue
        kind = schema.field(position).type
        try:
            low = _bound(min(group.min for group in bounded), kind)
            high = _bound(max(group.max for group in bounded), kind)
        except (ValueError, OverflowError):  # a date before year 1 or after 9999
            continue
        if low is not None:
            lowest[name] = low
        if high is not None:
            highest[name] = high
    return {
        "numRecords": metadata.num_rows,
        "minValues": lowest,
        "maxValues": highest,
        "nullCount": nulls,
    }


def _bound(value: Any, kind: Any) -> Any:
    """Return a bound as the log spells it, or `None` to leave it out."""
    if pa.types.is_integer(kind):
        return int(value)
    if pa.types.is_date32(kind):
        return value.isoformat()
    if pa.types.is_timestamp(kind):
        return value.replace(tzinfo=None).isoformat(timespec="microseconds") + (
            "Z" if kind.tz else ""
        )
    if pa.types.is_string(kind) and len(value) <= TEXT_BOUND_MAX:
        return value
    return None
