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


@dataclass(frozen=True)
class DataFile:
    """One finished file below the table's folder.

    `stats` holds the number of rows and no bounds of columns: for a file with bounds of some
    columns, deltalake 1.6 (`to_pyarrow_dataset`) takes those of all others for null, and hides rows
    from a filter on them. Readers skip by the bounds in the Parquet footer instead.
    """

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

    def take(self, other: DataFiles) -> None:
        """Take over all that was written to `other`, which is empty then. Few rows share a file with those before."""
        if other._path is None and not other._finished:
            for batch in other._waiting:
                self.write(batch)
            other._waiting = []
            other._waiting_rows = other._waiting_bytes = 0
            other._schema = None
        else:
            other._close_file()
            self._finished += other._finished
            other._finished = []

    def remove(self, names: set[str]) -> None:
        """Take finished files out again, and off the disk."""
        self._finished = [item for item in self._finished if item.name not in names]
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

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
            self._sink,
            self._schema,
            compression="zstd",
            write_statistics=[
                item.name
                for item in self._schema or ()
                if not pa.types.is_floating(item.type)  # readers lose NaN by its bounds
            ],
            metadata_collector=self._metadata,
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
                stats=json.dumps({"numRecords": metadata.num_rows}),
            )
        )
        self._path = self._sink = self._writer = None
