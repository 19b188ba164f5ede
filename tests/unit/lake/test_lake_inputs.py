"""Inputs in every form, at a fixed version, and SQL over them."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from sluicegate.errors import Cancelled
from sluicegate.input_kinds import KINDS
from sluicegate.lake.errors import InputKindError, InputMissingError
from sluicegate.lake.inputs import latest_version, load_input
from sluicegate.lake.sql import SqlFailedError, open_duckdb, run_sql
from sluicegate.lake.tables import Lake
from sluicegate.lake.writer import TableWriter, WriterIdentity

TYPES: dict[str, type] = {
    "polars.LazyFrame": pl.LazyFrame,
    "polars.DataFrame": pl.DataFrame,
    "pyarrow.Table": pa.Table,
    "pyarrow.RecordBatchReader": pa.RecordBatchReader,
    "duckdb.DuckDBPyRelation": duckdb.DuckDBPyRelation,
    "pandas.DataFrame": pd.DataFrame,
    "deltalake.DeltaTable": DeltaTable,
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(str(tmp_path))
    folder = str(made.path("bronze.flights"))
    write_deltalake(folder, pa.table({"n": [1, 2], "s": ["x", "y"]}))
    write_deltalake(folder, pa.table({"n": [3], "s": ["z"]}), mode="append")
    return made


def ids(value: Any) -> list[int]:
    if isinstance(value, pl.LazyFrame):
        value = value.collect()
    if isinstance(value, pl.DataFrame | pd.DataFrame):
        return sorted(
            value["n"].to_list() if isinstance(value, pl.DataFrame) else value["n"].tolist()
        )
    if isinstance(value, DeltaTable):
        value = value.to_pyarrow_table()
    if isinstance(value, duckdb.DuckDBPyRelation):
        return sorted(row[0] for row in value.fetchall())
    if isinstance(value, pa.RecordBatchReader):
        value = value.read_all()
    return sorted(value["n"].to_pylist())


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_comes_as_asked_for_at_its_version(lake: Lake, kind: str) -> None:
    """A commit after the task's start does not change what it reads."""
    pinned = latest_version(lake, "bronze.flights")
    before = load_input(lake, "bronze.flights", kind, 0)
    now = load_input(lake, "bronze.flights", kind, pinned)
    write_deltalake(
        str(lake.path("bronze.flights")), pa.table({"n": [9], "s": ["w"]}), mode="append"
    )
    assert isinstance(now, TYPES[kind])
    assert ids(before) == [1, 2]
    assert ids(now) == [1, 2, 3]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "Delta" not in kind])
def test_only_the_columns_that_are_wanted(lake: Lake, kind: str) -> None:
    """A narrow input of a wide table reads little."""
    value = load_input(lake, "bronze.flights", kind, columns=["n"])
    if kind == "polars.LazyFrame":
        names = value.collect_schema().names()
    elif kind.startswith("pyarrow"):
        names = value.schema.names
    else:
        names = list(value.columns)
    assert names == ["n"]
    assert ids(value) == [1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_table_has_its_columns(tmp_path: Path, kind: str) -> None:
    """An empty result is a result for those downstream, too."""
    lake = Lake(str(tmp_path))
    writer = TableWriter(
        lake,
        "silver.none",
        WriterIdentity("job", "task", 1, 1),
        mode="overwrite",
        permit=lambda stats: None,
    )
    writer.open()
    writer.write(pl.DataFrame(schema={"n": pl.Int64}))
    writer.commit(final=True)
    assert ids(load_input(lake, "silver.none", kind)) == []


def test_a_missing_or_only_fenced_input_says_what_to_run(tmp_path: Path) -> None:
    """The usual first mistake."""
    lake = Lake(str(tmp_path))
    with pytest.raises(InputMissingError, match=r"(?s)'bronze\.flights'.*run it first"):
        load_input(lake, "bronze.flights", "pyarrow.Table")
    identity = WriterIdentity("job", "task", 2, 1)
    TableWriter(
        lake, "bronze.flights", identity, mode="append", permit=lambda stats: None, fence=True
    ).open()
    with pytest.raises(InputMissingError):
        latest_version(lake, "bronze.flights")


def test_a_table_that_holds_only_a_state_has_no_data_yet(tmp_path: Path) -> None:
    """Its one column is ours, and must not reach a pipeline."""
    lake = Lake(str(tmp_path))
    identity = WriterIdentity("job", "task", 1, 1)
    writer = TableWriter(lake, "bronze.flights", identity, mode="append", permit=lambda stats: None)
    writer.open()
    assert writer.commit(state={"last": 1}, final=True) is not None
    with pytest.raises(InputMissingError):
        load_input(lake, "bronze.flights")
    again = TableWriter(
        lake,
        "bronze.flights",
        WriterIdentity("job", "later", 1, 2),
        mode="append",
        permit=lambda stats: None,
    )
    again.open()
    assert again.state == {"last": 1}
    again.write([{"n": 1}])
    again.commit(state={"last": 2}, final=True)
    assert ids(load_input(lake, "bronze.flights")) == [1]


@pytest.mark.parametrize(
    ("kind", "whole"), [(kind, kind.endswith(("Table", "DataFrame"))) for kind in KINDS[:6]]
)
def test_a_stop_while_an_input_is_loaded_comes_at_the_next_batch(
    lake: Lake, kind: str, whole: bool
) -> None:
    """A table that fills the memory takes minutes; the lazy kinds have read nothing when they are handed over."""
    write_deltalake(
        str(lake.path("bronze.flights")),
        pa.table({"n": range(300_000)}),
        mode="overwrite",
        schema_mode="overwrite",
    )
    passed = 0

    def count() -> None:
        nonlocal passed
        passed += 1

    assert len(ids(load_input(lake, "bronze.flights", kind, checkpoint=count))) == 300_000
    assert (passed >= 3) is whole
    stop_at = passed - 1

    def stop() -> None:
        nonlocal passed
        passed += 1
        if passed > stop_at:
            raise Cancelled

    passed = 0
    if whole:
        with pytest.raises(Cancelled):
            load_input(lake, "bronze.flights", kind, checkpoint=stop)
        assert passed == stop_at + 1


def test_a_frame_has_the_types_of_its_lazy_form(lake: Lake) -> None:
    """A pipeline that is made lazy later must not get other columns."""
    now = datetime(2020, 1, 1, tzinfo=UTC)
    row = {
        "i": 1, "f": 1.5, "t": "x", "b": b"x", "o": True, "d": date(2020, 1, 1), "u": now,
        "p": now.replace(tzinfo=None), "m": Decimal("1.10"), "l": [1], "s": {"a": "x", "b": [1.0]},
    }  # fmt: skip
    writer = TableWriter(
        lake,
        "silver.types",
        WriterIdentity("j", "t", 1, 1),
        mode="append",
        permit=lambda stats: None,
    )
    writer.open()
    writer.write([row])
    writer.commit(final=True)
    lazy = load_input(lake, "silver.types", "polars.LazyFrame").collect()
    whole = load_input(lake, "silver.types", "polars.DataFrame")
    assert whole.schema == lazy.schema
    assert whole.equals(lazy)


def test_an_unknown_kind_names_the_known_ones(lake: Lake) -> None:
    """The annotation is the user's to mend."""
    with pytest.raises(InputKindError, match=r"(?s)'numpy\.ndarray'.*polars\.LazyFrame"):
        load_input(lake, "bronze.flights", "numpy.ndarray")


def test_upkeep_after_the_pinned_version_is_used(lake: Lake) -> None:
    """Vacuum may remove the files of before the compaction; the content is the same."""
    table = lake.load("bronze.flights")
    table.optimize.compact()
    lake.load("bronze.flights").vacuum(0, enforce_retention_duration=False, dry_run=False)
    assert ids(load_input(lake, "bronze.flights", "pyarrow.Table", 1)) == [1, 2, 3]


def test_relations_of_one_connection_can_be_joined(lake: Lake) -> None:
    """Two inputs are usually there to be joined."""
    connection = open_duckdb()
    kind = "duckdb.DuckDBPyRelation"
    a = load_input(lake, "bronze.flights", kind, connection=connection)
    b = load_input(lake, "bronze.flights", kind, 0, connection=connection)
    assert len(a.set_alias("a").join(b.set_alias("b"), "a.n = b.n").fetchall()) == 2


def test_sql_reads_the_pinned_versions_by_their_names(lake: Lake) -> None:
    """The query that a user tries at a prompt is the query that runs."""
    query = "select count(*) as c, max(n) as m from bronze.flights"
    assert run_sql(lake, query, {"bronze.flights": None}).reader.read_all().to_pylist() == [
        {"c": 3, "m": 3}
    ]
    assert run_sql(lake, query, {"bronze.flights": 0}).reader.read_all().to_pylist() == [
        {"c": 2, "m": 2}
    ]


def test_sql_runs_in_utc_and_downloads_nothing(lake: Lake) -> None:
    """The same query gives the same table on every machine."""
    settings = "select current_setting('TimeZone') as zone, current_setting('threads') as threads"
    (row,) = run_sql(lake, settings, {}).reader.read_all().to_pylist()
    assert row["zone"] == "UTC"
    assert row["threads"] <= 4
    names = ("autoinstall_known_extensions", "autoload_known_extensions")
    for name in names:
        query = f"select current_setting('{name}') as value"
        assert run_sql(lake, query, {}).reader.read_all().to_pylist() == [{"value": False}]


def test_sql_computes_rows_as_they_are_read(lake: Lake) -> None:
    """A result larger than memory goes through, and every batch is a checkpoint."""
    reader = run_sql(lake, "select range as n from range(1000000000000)", {}).reader
    assert 0 < reader.read_next_batch().num_rows <= 128 * 1024


@pytest.mark.parametrize(
    "query",
    [
        "selec 1",
        "select nope from bronze.flights",
        "create table x (a int)",
        "select 1; select 2",
        "",
    ],
)
def test_a_query_that_cannot_run_is_an_error_with_a_mend(lake: Lake, query: str) -> None:
    """DuckDB's own words, and what a query is."""
    with pytest.raises(SqlFailedError):
        run_sql(lake, query, {"bronze.flights": None})


def test_a_running_query_can_be_interrupted_from_another_thread(lake: Lake) -> None:
    """How a stop reaches a query that has not yielded a row yet."""
    handles: list[Any] = []
    started = threading.Event()

    def on_start(interrupt: Any) -> None:
        handles.append(interrupt)
        started.set()

    def stop() -> None:
        assert started.wait(10)
        while not done.wait(0.05):
            handles[0]()

    done = threading.Event()
    stopper = threading.Thread(target=stop)
    stopper.start()
    query = "select sum(a.range * b.range) as s from range(1000000) a, range(1000000) b"
    try:
        with pytest.raises((duckdb.InterruptException, pa.ArrowException, OSError)):
            run_sql(lake, query, {}, on_start=on_start).reader.read_all()
    finally:
        done.set()
        stopper.join()
