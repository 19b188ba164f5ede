"""SQL pipelines: one query on DuckDB over tables of the lake at fixed versions."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from sluicegate.errors import SluicegateError
from sluicegate.lake.batches import ROWS_MAX
from sluicegate.lake.inputs import pinned
from sluicegate.lake.tables import Lake, dataset_of
from sluicegate.spec import LAYERS

THREADS_MAX: Final = 4


class SqlFailedError(SluicegateError):
    """DuckDB refused a query."""

    code = "sql_failed"


@dataclass(frozen=True)
class SqlResult:
    """A running query.

    Args:
        reader: Its rows, computed as they are read.
        interrupt: Stops it, from any thread; the reader then raises.
    """

    reader: pa.RecordBatchReader
    interrupt: Callable[[], None]
    connection: Any


def open_duckdb() -> Any:
    """Return a private in-memory connection: UTC, bounded threads, nothing is ever downloaded."""
    import duckdb

    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "threads": str(min(THREADS_MAX, os.cpu_count() or 1)),
            "temp_directory": tempfile.gettempdir(),
        },
    )
    connection.execute("set TimeZone = 'UTC'")
    return connection


def run_sql(
    lake: Lake,
    query: str,
    inputs: Mapping[str, int | None],
    *,
    on_start: Callable[[Callable[[], None]], None] = lambda interrupt: None,
) -> SqlResult:
    """Start `query`; its tables are called `layer.name`, as they are in the lake.

    Args:
        inputs: Table name -> the version to read; `None`: that of the last change of data.
        on_start: Handed `interrupt` before the query is planned, for a stop that comes early.

    Raises:
        InputMissingError: A table has no data yet.
        SqlFailedError: DuckDB refused the query, or it is none.
    """
    import duckdb

    connection = open_duckdb()
    on_start(connection.interrupt)
    for layer in LAYERS:
        connection.execute(f"create schema {layer}")
    for number, (table, version) in enumerate(inputs.items()):
        dataset = dataset_of(pinned(lake, table, version))
        layer, _, name = table.partition(".")
        source = f"_input_{number}"
        connection.register(source, dataset)
        connection.execute(f'create view {layer}."{name}" as select * from temp."{source}"')  # noqa: S608 - both names were checked by the lake
    try:
        statements = connection.extract_statements(query)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise SqlFailedError(
                f"cannot use {query!r} as a pipeline: it is not one statement that returns rows",
                mend="write one select; the runner writes the table",
            )
        relation = connection.sql(query)
        return SqlResult(relation.to_arrow_reader(ROWS_MAX), connection.interrupt, connection)
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        raise SqlFailedError(
            f"cannot run the query: {error}", mend="correct the query; its tables are layer.name"
        ) from error
