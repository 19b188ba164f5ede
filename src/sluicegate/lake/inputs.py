"""Hand an upstream table over in the form that a pipeline asked for, at a version that is fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from sluicegate.input_kinds import DEFAULT_KIND, KINDS
from sluicegate.lake import commits, log
from sluicegate.lake.batches import ROWS_MAX
from sluicegate.lake.errors import InputKindError, InputMissingError, TableNotFoundError
from sluicegate.lake.tables import Lake, dataset_of


def latest_version(lake: Lake, table: str) -> int:
    """Return the version to pin an input to: its last change of data.

    Raises:
        InputMissingError: The table has no data yet.
    """
    try:
        version = lake.data_version(table)
    except TableNotFoundError as error:
        raise InputMissingError(table) from error
    if version is None or commits.schema_of(lake.load(table, version)) is None:
        raise InputMissingError(table)  # the second: it holds a state, and no columns yet
    return version


def load_input(
    lake: Lake,
    table: str,
    kind: str = DEFAULT_KIND,
    version: int | None = None,
    columns: list[str] | None = None,
    *,
    connection: Any = None,
    checkpoint: Callable[[], None] = lambda: None,
) -> Any:
    """Return `table` as an object of type `kind`; lazy kinds and readers have read nothing yet.

    Args:
        kind: One of `KINDS`.
        version: Log version; without it, that of the last change of data.
        columns: Only these; ignored for a `DeltaTable`.
        connection: For DuckDB: relations can be joined only within one connection
            (`sql.open_duckdb`), so give all inputs of a task the same one.
        checkpoint: Called between the batches of a kind that is loaded whole; may raise `Cancelled`.

    Raises:
        InputMissingError: The table has no data yet.
        InputKindError: An unknown kind, or its library is not installed.
        TableVersionNotFoundError: There is no such version.
    """
    if kind not in KINDS:
        raise InputKindError(
            f"cannot hand over input {table!r} as {kind!r}",
            mend="annotate the parameter with one of " + ", ".join(KINDS),
        )
    try:
        return _convert(pinned(lake, table, version), kind, columns, connection, checkpoint)
    except ModuleNotFoundError as error:
        raise InputKindError(
            f"cannot hand over input {table!r} as {kind!r}: {error.name} is not installed",
            mend=f"install {error.name}, or annotate the parameter with pyarrow.Table",
        ) from error


def pinned(lake: Lake, table: str, version: int | None = None) -> DeltaTable:
    """Return the table with exactly the content of `version`, from as few files as there are."""
    wanted = latest_version(lake, table) if version is None else version
    try:
        lake.load(table, wanted)
    except TableNotFoundError as error:
        raise InputMissingError(table) from error
    return lake.load(table, log.readable_version(lake.path(table), wanted))


def _convert(
    table: DeltaTable,
    kind: str,
    columns: list[str] | None,
    connection: Any,
    checkpoint: Callable[[], None],
) -> Any:
    library = kind.partition(".")[0]
    if library == "deltalake":
        return table
    if kind == "polars.LazyFrame":
        import polars as pl

        frame = pl.scan_delta(table)
        return frame if columns is None else frame.select(columns)
    dataset = dataset_of(table)
    if library == "duckdb":
        from sluicegate.lake.sql import open_duckdb

        relation = (connection or open_duckdb()).from_arrow(dataset)
        return relation if columns is None else relation.select(*(f'"{item}"' for item in columns))
    if kind == DEFAULT_KIND:
        return batch_reader(dataset, columns)
    arrow = _whole(dataset, columns, checkpoint)
    if library == "polars":
        import polars as pl

        return pl.from_arrow(arrow)
    return arrow.to_pandas() if library == "pandas" else arrow


def _whole(dataset: Any, columns: list[str] | None, checkpoint: Callable[[], None]) -> pa.Table:
    """Read a dataset into memory, so that a stop does not have to wait for the end of it."""
    scanner = dataset.scanner(columns=columns, batch_size=ROWS_MAX)
    batches = []
    checkpoint()
    for batch in scanner.to_batches():
        checkpoint()
        batches.append(batch)
    return pa.Table.from_batches(batches, scanner.projected_schema)


def batch_reader(dataset: Any, columns: list[str] | None = None) -> pa.RecordBatchReader:
    """Return a stream over a dataset that reads only a little ahead."""
    scanner = dataset.scanner(columns=columns, batch_readahead=2, fragment_readahead=1)
    return scanner.to_reader()
