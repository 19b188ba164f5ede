"""The lake: which tables there are, what is in them, and what their logs say.

Read-only, but for `remove_orphans` and `vacuum`. Layout: one Delta table per `<root>/<layer>/<name>`.
"""

from __future__ import annotations

import base64
import math
import re
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from sluicegate.core.ports import Needed
from sluicegate.lake import commits, log, rollback
from sluicegate.lake.errors import (
    LakeUnsupportedError,
    TableNotFoundError,
    TableVersionNotFoundError,
)
from sluicegate.lake.vacuum import unneeded
from sluicegate.spec import LAYERS

_NAME: Final = re.compile(r"(bronze|silver|gold)\.(\w[\w-]*)", re.ASCII)


class Lake:
    """All tables below one folder.

    Args:
        root: The folder; it need not exist yet.

    Raises:
        LakeUnsupportedError: It is an address, not a folder.
    """

    def __init__(self, root: str) -> None:
        if "://" in root:
            raise LakeUnsupportedError(root)
        self.root = Path(root)

    def path(self, table: str) -> Path:
        """Return the folder of `layer.name`, whether it exists or not."""
        match = _NAME.fullmatch(table)
        if match is None:
            raise TableNotFoundError(
                table, "a table is named layer.name, the layer one of " + ", ".join(LAYERS)
            )
        return self.root / match[1] / match[2]

    def list_tables(self) -> list[str]:
        """Return the names of all tables, by layer, then by name."""
        return [
            f"{layer}.{folder.name}"
            for layer in LAYERS
            for folder in sorted((self.root / layer).glob("*"))
            if _NAME.fullmatch(f"{layer}.{folder.name}") and (folder / "_delta_log").is_dir()
        ]

    def load(self, table: str, version: int | None = None) -> DeltaTable:
        """Return the table, at its newest log version or at a given one.

        Raises:
            TableNotFoundError: There is no such table.
            TableVersionNotFoundError: It has no such version, or it is no longer kept.
        """
        loaded = commits.load(self.path(table))
        if loaded is None:
            raise TableNotFoundError(table)
        latest = loaded.version()
        if version is None or version == latest:
            return loaded
        if not 0 <= version <= latest:
            raise TableVersionNotFoundError(
                table, version, latest, f"its newest version is {latest}"
            )
        try:
            loaded.load_as_version(version)
        except DeltaError as error:
            raise TableVersionNotFoundError(
                table, version, latest, "its log entries were removed"
            ) from error
        return loaded

    def data_version(self, table: str, version: int | None = None) -> int | None:
        """Return the version of the last change of data (up to `version`); `None` before the first.

        Raises:
            TableNotFoundError: There is no such table.
        """
        at = self.load(table).version() if version is None else version
        return log.data_version(self.path(table), at)

    def describe(self, table: str, limit: int = 50, version: int | None = None) -> dict[str, Any]:
        """Return what a table is and its first rows, as plain JSON values.

        Returns:
            `name`, `schema` (`[{"name", "type", "nullable"}]`, Arrow's names of types), `version`
            (last change of data, `None` before the first), `row_count`, `preview` (at most `limit`
            rows; instants as RFC 3339, decimals and non-finite floats as text, bytes as base64).

        Raises:
            TableNotFoundError: There is no such table.
            TableVersionNotFoundError: It has no such version, or its files were removed.
        """
        loaded = self.load(table, version)
        at = loaded.version()
        schema = commits.schema_of(loaded)
        try:
            rows = [] if schema is None else _first_rows(loaded, limit)
            count = 0 if schema is None else _count_rows(loaded)
        except FileNotFoundError as error:
            latest = self.load(table).version()
            raise TableVersionNotFoundError(table, at, latest, "its files were removed") from error
        return {
            "name": table,
            "schema": [
                {"name": item.name, "type": str(item.type), "nullable": item.nullable}
                for item in schema or ()
            ],
            "version": log.data_version(self.path(table), at),
            "row_count": count,
            "preview": [{name: json_safe(value) for name, value in row.items()} for row in rows],
        }

    def settle(self, table: str, task_id: str, *, since_epoch: int = 0) -> log.Settled:
        """Return what a task that died has committed, by the table's log.

        It is final only once no writer of the task can come back: fence the table first (open a
        `TableWriter` with `fence`), or be sure that the writer is dead.
        """
        loaded = commits.load(self.path(table))
        if loaded is None:
            return log.Settled()
        return log.settled(self.path(table), loaded.version(), task_id, since_epoch=since_epoch)

    def remove_orphans(
        self, table: str, task_id: str, *, before_attempt: int | None = None
    ) -> list[str]:
        """Delete data files of a task that no version of the table names; return their names.

        Only for a task whose writers are surely dead: a live one has files that are not in the
        log yet.

        Args:
            before_attempt: Leave the files of this attempt and later ones alone.
        """
        folder = self.path(table)
        pattern = re.compile(rf"part-\d{{5}}-{re.escape(task_id)}-(\d+)-[0-9a-f]{{8}}\.parquet")
        orphans = {
            file.name
            for file in folder.glob("part-*.parquet")
            if (match := pattern.fullmatch(file.name))
            and (before_attempt is None or int(match[1]) < before_attempt)
        }
        loaded = commits.load(folder) if orphans else None
        if loaded is not None:
            actions = pa.table(loaded.get_add_actions(flatten=True))
            orphans -= set(actions["path"].to_pylist())
            for entry in log.entries_back(folder, loaded.version()):
                if not orphans:
                    break
                orphans -= set(entry.added)
        drafts = re.compile(
            rf"{re.escape(commits.DRAFT_PREFIX)}{re.escape(task_id)}-(\d+)-[0-9a-f]{{8}}"
        )
        orphans |= {
            f"_delta_log/{file.name}"
            for file in (folder / "_delta_log").glob(f"{commits.DRAFT_PREFIX}*")
            if (match := drafts.fullmatch(file.name))
            and (before_attempt is None or int(match[1]) < before_attempt)
        }
        for name in orphans:
            (folder / name).unlink(missing_ok=True)
        return sorted(orphans)

    def author(self, table: str) -> str | None:
        """Return the job that made what a table holds; `None`: nothing, or another program did."""
        loaded = commits.load(self.path(table))
        return None if loaded is None else rollback.author(self.path(table), loaded.version())

    def epoch(self, table: str) -> int:
        """Return the epoch of a table's last writer; 0 before the first."""
        return commits.epoch_of(commits.load(self.path(table)))

    def undoable(self, table: str) -> list[str]:
        """Return the jobs that could be rolled back one after another, newest first."""
        loaded = commits.load(self.path(table))
        if loaded is None:
            return []
        return [job_id for job_id, _ in rollback.undoable(self.path(table), loaded.version())]

    def vacuum(self, table: str, needed: Needed, *, dry_run: bool = False) -> dict[str, int]:
        """Delete the files of a table that nobody needs; return them with their sizes in bytes.

        Interrupted, it has deleted some of them: no version that is needed loses any.
        """
        folder = self.path(table)
        found = unneeded(folder, needed)
        for name in () if dry_run else found:
            (folder / name).unlink(missing_ok=True)
        return found


def json_safe(value: Any) -> Any:
    """Return `value` as something that every JSON reader takes back without an error."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return value


def dataset_of(table: DeltaTable) -> Any:
    """Return a lazy pyarrow dataset of the table's files that any filter may be pushed into.

    Not `to_pyarrow_dataset()` where it can be helped: see `DataFile.stats`.
    """
    import pyarrow.dataset as ds

    settings = table.metadata()
    mapped = settings.configuration.get("delta.columnMapping.mode", "none") != "none"
    vectors = "deletionVectors" in (table.protocol().reader_features or [])
    if settings.partition_columns or mapped or vectors:
        return table.to_pyarrow_dataset()
    schema = pa.schema(table.schema())
    files = table.file_uris()
    if not files:
        return ds.dataset(schema.empty_table())
    options = ds.ParquetReadOptions(coerce_int96_timestamp_unit="us")
    return ds.dataset(files, schema=schema, format=ds.ParquetFileFormat(read_options=options))


def _first_rows(table: DeltaTable, limit: int) -> list[dict[str, Any]]:
    head = dataset_of(table).head(limit, batch_size=max(limit, 1))
    try:
        rows: list[dict[str, Any]] = head.to_pylist()
    except (ValueError, OverflowError):  # an instant that Python's datetime cannot hold
        columns = [
            column.cast(pa.string()) if pa.types.is_temporal(column.type) else column
            for column in head.columns
        ]
        rows = pa.table(columns, names=head.column_names).to_pylist()
    return rows


def _count_rows(table: DeltaTable) -> int:
    """Return the exact number of rows, from the log where each file's count stands there."""
    actions = pa.table(table.get_add_actions(flatten=True))
    if "num_records" in actions.column_names:
        counts = actions["num_records"].to_pylist()
        if all(count is not None for count in counts):
            return sum(counts)
    return int(dataset_of(table).count_rows())
