"""The demo without Sluicegate: the same functions, called in order in one process, and the same writes by deltalake.

Nothing here can be watched, stopped, resumed or run twice. Prints the seconds that it took, imports left out.
Usage: `python -m bench.bare_flights LANDING LAKE`
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import deltalake
import duckdb
import polars as pl
import pyarrow as pa

from sluicegate.declare import Pipeline
from sluicegate.demo import pipelines_path
from sluicegate.lake.reading import read_file
from sluicegate.registry import load

COMMIT_SECONDS = 1.0  # a commit costs some 20 ms, so small files share one


def main(landing: Path, lake: Path) -> None:
    """Run all, in an order in which each finds what it needs."""
    pipelines = load(str(pipelines_path())).pipelines
    began = time.perf_counter()
    done: set[str] = set()
    while waiting := [one for name, one in pipelines.items() if name not in done]:
        for pipeline in waiting:
            if done.issuperset(pipeline.spec.depends_on):
                run(pipeline, landing, lake)
                done.add(pipeline.spec.pipeline_id)
    print(f"{time.perf_counter() - began:.3f}")


def run(pipeline: Pipeline, landing: Path, lake: Path) -> None:
    """Call one function, for each file or once, and write what it returns."""
    spec = pipeline.spec
    path = str(lake / spec.pipeline_id.replace(".", "/"))
    given: dict[str, Any] = {}
    if spec.takes_task:
        given[spec.takes_task] = SimpleNamespace(
            params={}, log=logging.getLogger(), checkpoint=lambda: None
        )
    if spec.files is not None:
        waiting, since = [], time.perf_counter()
        for file in sorted(landing.glob(spec.files)):
            parameter = spec.file_parameter
            assert parameter is not None
            rows = read_file(landing, str(file.relative_to(landing)), parameter.kind)
            waiting.append(table_of(pipeline(**{parameter.parameter: rows}, **given)))
            if time.perf_counter() - since >= COMMIT_SECONDS:
                deltalake.write_deltalake(path, pa.concat_tables(waiting), mode="append")
                waiting, since = [], time.perf_counter()
        if waiting:
            deltalake.write_deltalake(path, pa.concat_tables(waiting), mode="append")
        return
    if spec.query is not None:
        connection = duckdb.connect()
        connection.execute("set timezone = 'UTC'")
        for table in spec.depends_on:
            layer, _, name = table.partition(".")
            connection.register(f"input_{layer}_{name}", dataset(lake, table))
            connection.execute(f"create schema if not exists {layer}")
            connection.execute(f"create view {table} as select * from input_{layer}_{name}")
        output: Any = connection.sql(spec.query)
    else:
        for one in spec.inputs:
            given[one.parameter] = as_kind(one.kind, lake, one.table or "")
        output = pipeline(**given)
    deltalake.write_deltalake(path, table_of(output), mode="overwrite")


def dataset(lake: Path, table: str) -> Any:
    """A table as Arrow reads it."""
    return deltalake.DeltaTable(str(lake / table.replace(".", "/"))).to_pyarrow_dataset()


def as_kind(kind: str, lake: Path, table: str) -> Any:
    """A table in the form that a function asks for."""
    if kind == "polars.LazyFrame":
        return pl.scan_delta(str(lake / table.replace(".", "/")))
    if kind == "polars.DataFrame":
        return pl.read_delta(str(lake / table.replace(".", "/")))
    if kind == "pyarrow.Table":
        return dataset(lake, table).to_table()
    if kind == "pyarrow.RecordBatchReader":
        return dataset(lake, table).scanner().to_reader()
    raise ValueError(f"{table} as {kind}")


def table_of(output: Any) -> pa.Table:
    """What a function returned or yielded, as one table."""
    if isinstance(output, pl.LazyFrame):
        output = output.collect()
    if isinstance(output, pl.DataFrame):
        return output.to_arrow()
    if isinstance(output, duckdb.DuckDBPyRelation):
        return output.to_arrow_table()
    if isinstance(output, pa.Table):
        return output
    if isinstance(output, pa.RecordBatch):
        return pa.Table.from_batches([output])
    if isinstance(output, list):
        return pa.Table.from_pylist(output)
    return pa.concat_tables([table_of(part) for part in output])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
