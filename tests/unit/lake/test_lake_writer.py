"""The table writer within one process: units, marks, state, refusals, upkeep."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from deltalake import write_deltalake
from deltalake.exceptions import CommitFailedError
from pyarrow.dataset import field

from sluicegate.core.ports import Settled, Writer
from sluicegate.errors import Cancelled
from sluicegate.lake import commits, log
from sluicegate.lake import writer as writer_module
from sluicegate.lake.errors import (
    OutputTypeError,
    SchemaMismatchError,
    StaleWriterError,
    TableMovedError,
    TableUnsupportedError,
)
from sluicegate.lake.tables import Lake, dataset_of
from sluicegate.lake.writer import TableWriter, UnitStats, WriterIdentity
from sluicegate.workers.lake_calls import LakeTables

TABLE = "bronze.rows"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def opened(
    lake: Lake, epoch: int = 1, *, mode: str = "append", task: str | None = None, **options: Any
) -> TableWriter:
    attempt = options.pop("attempt", 1)
    identity = WriterIdentity("job", task or f"task{epoch}", attempt, epoch)
    options.setdefault("permit", lambda stats: None)
    made = TableWriter(lake, TABLE, identity, mode=mode, **options)  # type: ignore[arg-type]
    made.open()
    return made


def rows(lake: Lake) -> list[dict[str, Any]]:
    return lake.load(TABLE).to_pyarrow_table().to_pylist()


def numbers(lake: Lake) -> list[int]:
    return sorted(row["n"] for row in rows(lake))


def put(lake: Lake, n: int, epoch: int, **options: Any) -> UnitStats | None:
    made = opened(lake, epoch, **options)
    made.write([{"n": n}])
    return made.commit(final=True)


def data_files(lake: Lake) -> set[str]:
    return {file.name for file in lake.path(TABLE).glob("*.parquet")}


def foreign(lake: Lake, n: int, mode: str = "append") -> None:
    write_deltalake(str(lake.path(TABLE)), pa.table({"n": [n]}), mode=mode)  # type: ignore[call-overload]


class Refused(Exception):
    """What a permit raises in these tests."""


# -- units, marks, state ---------------------------------------------------------------------


def test_units_carry_marks_and_state_and_the_next_task_finds_them(lake: Lake) -> None:
    """What was ingested is known by the table alone, whatever became of the job store."""
    first = opened(lake)
    first.write([{"n": 1}])
    first.commit([("a.csv", 10, 111)], {"last": 1})
    first.write([{"n": 2}])
    stats = first.commit([("b.csv", 20, 222)])
    assert stats is not None
    assert (stats.unit, stats.rows, stats.files, stats.version) == (2, 1, 1, 1)
    assert first.settled.units == 2

    second = opened(lake, 2)
    assert second.marks == {"a.csv": (10, 111), "b.csv": (20, 222)}
    assert second.state == {"last": 1}
    assert lake.settle(TABLE, "task1") == first.settled
    assert opened(lake, 3, full_refresh=True).marks == {}
    assert opened(lake, 3, full_refresh=True).state == {}


def test_a_later_attempt_learns_what_earlier_ones_committed(lake: Lake) -> None:
    """After a crash the log decides, not a guess: the units go on counting."""
    first = opened(lake)
    first.write([{"n": 1}])
    first.commit(state={"at": 1})
    again = opened(lake, 2, task="task1", attempt=2, fence=True)
    assert (again.settled.units, again.settled.rows, again.settled.complete) == (1, 1, False)
    again.write([{"n": 2}])
    stats = again.commit(final=True)
    assert stats is not None
    assert stats.unit == 2
    done = lake.settle(TABLE, "task1")
    assert (done.units, done.rows, done.complete, done.version) == (2, 2, True, stats.version)


def test_an_overwrite_starts_marks_and_state_anew(lake: Lake) -> None:
    """Marks hold only while their commit is part of the current content."""
    made = opened(lake)
    made.write([{"n": 1}])
    made.commit([("a.csv", 1, 1)], {"last": 1})
    fresh = opened(lake, 2, full_refresh=True)
    fresh.write([{"n": 9}])
    fresh.commit([("b.csv", 2, 2)], final=True)
    after = opened(lake, 3)
    assert (after.marks, after.state) == ({"b.csv": (2, 2)}, {})
    foreign(lake, 5, "overwrite")
    after = opened(lake, 4)
    assert (after.marks, after.state) == ({}, {})


def test_a_restore_brings_marks_and_state_of_its_version_back(lake: Lake) -> None:
    """What a rolled-back job ingested counts as not done again."""
    made = opened(lake)
    for n in (1, 2, 3):
        made.write([{"n": n}])
        made.commit([(f"{n}.csv", n, n)], {"last": n})
    lake.load(TABLE).restore(0)
    after = opened(lake, 2)
    assert (set(after.marks), after.state) == ({"1.csv"}, {"last": 1})
    after.write([{"n": 4}])
    after.commit([("4.csv", 4, 4)])
    assert set(opened(lake, 3).marks) == {"1.csv", "4.csv"}
    lake.load(TABLE).restore(2)
    assert set(opened(lake, 4).marks) == {"1.csv", "2.csv", "3.csv"}


def test_a_restore_by_time_finds_its_version(lake: Lake) -> None:
    """Other tools restore by time; the walk must not guess then."""
    made = opened(lake)
    for n in (1, 2):
        made.write([{"n": n}])
        made.commit([(f"{n}.csv", n, n)])
    entry = log.entry_path(lake.path(TABLE), 1)
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    first = log.read_entry(lake.path(TABLE), 0)
    assert first is not None
    for action in actions:
        if "commitInfo" in action:
            action["commitInfo"]["timestamp"] = first.timestamp_ms + 10_000
    entry.write_text("\n".join(map(json.dumps, actions)))
    restore = {
        "timestamp": first.timestamp_ms + 20_000,
        "operation": "RESTORE",
        "operationParameters": {"datetime": str(first.timestamp_ms + 5_000)},
    }
    log.entry_path(lake.path(TABLE), 2).write_text(json.dumps({"commitInfo": restore}))
    assert set(log.current_content(lake.path(TABLE), 2).marks) == {"1.csv"}


def test_many_commits_are_rolled_up_so_that_later_walks_are_short(lake: Lake) -> None:
    """Without it, each start would read the whole history of the table."""
    made = opened(lake)
    for n in range(log.ROLLUP_AFTER_COMMITS + 10):
        made.write([{"n": n}])
        made.commit([(f"{n}.csv", n, n)], {"last": n})
    after = opened(lake, 2)
    assert len(after.marks) == log.ROLLUP_AFTER_COMMITS + 10
    assert after.state == {"last": log.ROLLUP_AFTER_COMMITS + 9}
    content = log.current_content(lake.path(TABLE), lake.load(TABLE).version())
    assert content.entries_read < log.ROLLUP_AFTER_COMMITS


def test_marks_alone_are_a_unit(lake: Lake) -> None:
    """A file without rows was ingested all the same, or it would be read for ever."""
    put(lake, 1, 1)
    made = opened(lake, 2)
    assert made.commit() is None
    stats = made.commit([("empty.csv", 0, 1)])
    assert stats is not None
    assert stats.rows == 0
    assert set(opened(lake, 3).marks) == {"empty.csv"}
    assert numbers(lake) == [1]


def test_nothing_written_changes_nothing_but_no_rows_with_columns_do(lake: Lake) -> None:
    """An empty result is a result; a pipeline that yields nothing has none."""
    made = opened(lake, mode="overwrite")
    assert made.commit(final=True) is None
    assert not lake.path(TABLE).exists()
    made.write(pl.DataFrame(schema={"n": pl.Int64}))
    stats = made.commit(final=True)
    assert stats is not None
    assert (stats.rows, stats.files, stats.version) == (0, 0, 0)
    assert lake.describe(TABLE)["schema"] == [{"name": "n", "type": "int64", "nullable": True}]
    put(lake, 1, 2, mode="overwrite")
    emptied = opened(lake, 3, mode="overwrite")
    emptied.write(pl.LazyFrame(schema={"n": pl.Int64}))
    assert emptied.commit(final=True) is not None
    assert rows(lake) == []
    assert lake.data_version(TABLE) == 2


# -- permits and refusals --------------------------------------------------------------------


def test_a_refused_permit_leaves_nothing(lake: Lake) -> None:
    """Nothing half-done shows, and nothing lies around."""

    def refuse(stats: UnitStats) -> None:
        assert (stats.rows, stats.version) == (1, None)
        assert len(data_files(lake)) == 1, "the files are on the disk before the permit is asked"
        raise Refused

    made = opened(lake, permit=refuse)
    made.write([{"n": 1}])
    with pytest.raises(Refused):
        made.commit()
    assert data_files(lake) == set()
    assert lake.list_tables() == []


def test_a_checkpoint_that_raises_stops_between_batches(lake: Lake) -> None:
    """Each batch is a checkpoint, also inside one long stream."""
    calls = []

    def checkpoint() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled

    made = opened(lake, checkpoint=checkpoint)
    stream = pa.RecordBatchReader.from_batches(
        pa.schema([("n", pa.int64())]), (pa.record_batch({"n": [n]}) for n in range(100))
    )
    with pytest.raises(Cancelled):
        made.write(stream)
    made.abort()
    assert data_files(lake) == set()


def test_an_older_epoch_is_refused_at_open(lake: Lake) -> None:
    """A writer that starts late learns it before it works."""
    put(lake, 1, 5)
    with pytest.raises(StaleWriterError, match="writer 4 was replaced by writer 5"):
        opened(lake, 4)


def test_upkeep_between_permit_and_entry_asks_a_new_permit(lake: Lake) -> None:
    """A setting changes no data: the unit goes on, but never on an old permit."""
    put(lake, 1, 1)
    asked = []

    def permit(stats: UnitStats) -> None:
        asked.append(stats.unit)
        if len(asked) == 1:
            lake.load(TABLE).alter.set_table_properties({"delta.checkpointInterval": "90"})

    made = opened(lake, 2, permit=permit)
    made.write([{"n": 2}])
    assert made.commit() is not None
    assert asked == [1, 1]
    assert numbers(lake) == [1, 2]


def test_endless_upkeep_is_given_up(lake: Lake) -> None:
    """Every loop has a bound."""
    put(lake, 1, 1)
    asked = []

    def permit(stats: UnitStats) -> None:
        asked.append(stats.unit)
        lake.load(TABLE).alter.set_table_properties(
            {"delta.checkpointInterval": str(100 + len(asked))}
        )

    made = opened(lake, 2, permit=permit)
    made.write([{"n": 2}])
    with pytest.raises(CommitFailedError):
        made.commit()
    assert len(asked) == writer_module.COMMIT_TRIES_MAX
    assert numbers(lake) == [1]


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_a_foreign_change_of_data_between_permit_and_entry(lake: Lake, mode: str) -> None:
    """What we add to must be what we read; what we replace need not."""
    put(lake, 1, 1)
    asked = []

    def permit(stats: UnitStats) -> None:
        asked.append(1)
        if len(asked) == 1:
            foreign(lake, 50)

    made = opened(lake, 2, mode=mode, permit=permit)
    made.write([{"n": 2}])
    if mode == "append":
        with pytest.raises(TableMovedError, match="another program changed its data in version 1"):
            made.commit()
        assert numbers(lake) == [1, 50]
        assert len(data_files(lake)) == 2, "the refused file is removed"
    else:
        made.commit(final=True)
        assert len(asked) == 2
        assert numbers(lake) == [2]


def test_an_error_after_the_entry_was_written_is_no_failure(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that fails after the commit must not make us write the unit twice."""
    put(lake, 1, 1)
    real = commits.add

    def add(*args: Any, **options: Any) -> None:
        real(*args, **options)
        raise OSError("no space left for a checkpoint")

    monkeypatch.setattr(commits, "add", add)
    made = opened(lake, 2)
    made.write([{"n": 2}])
    stats = made.commit()
    assert stats is not None
    assert stats.version == 1
    assert numbers(lake) == [1, 2]


def test_a_stop_right_after_the_entry_keeps_the_files(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clean-up must never remove a file that the log names."""
    put(lake, 1, 1)
    real = commits.add

    def add(*args: Any, **options: Any) -> None:
        real(*args, **options)
        raise Cancelled

    monkeypatch.setattr(commits, "add", add)
    made = opened(lake, 2)
    made.write([{"n": 2}])
    with pytest.raises(Cancelled):
        made.commit()
    assert numbers(lake) == [1, 2]
    assert lake.settle(TABLE, "task2").units == 1


def test_a_change_right_behind_our_entry_is_met_by_the_next_unit(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes between our commit and our look at the table must not pass for our own."""
    put(lake, 1, 1)
    real = commits.flush_entry

    def flush(folder: Path, version: int) -> None:
        real(folder, version)
        foreign(lake, 50)

    made = opened(lake, 2)
    made.write([{"n": 2}])
    monkeypatch.setattr(commits, "flush_entry", flush)
    stats = made.commit()
    monkeypatch.undo()
    assert stats is not None
    assert stats.version == 1
    made.write([{"n": 3}])
    with pytest.raises(TableMovedError, match="version 2"):
        made.commit()


def test_a_full_disk_fails_the_unit_and_nothing_shows(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log did not move, so that the error is the world's, and it is not tried again."""
    put(lake, 1, 1)

    def add(*args: Any, **options: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(commits, "add", add)
    made = opened(lake, 2)
    made.write([{"n": 2}])
    with pytest.raises(OSError, match="no space left"):
        made.commit()
    assert numbers(lake) == [1]
    assert len(data_files(lake)) == 1


@pytest.mark.parametrize("has_content", [False, True])
@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_what_was_settled_behind_a_fence_is_final(lake: Lake, mode: str, has_content: bool) -> None:
    """The writer was paused between its permit and its log entry; its job was ended elsewhere, and then it wakes."""
    if has_content:
        put(lake, 0, 1)
    seen: list[Settled] = []

    def elsewhere(_: object) -> None:
        fence = Writer(TABLE, epoch=3, job_id="job", task_id="task2")
        seen.append(LakeTables(str(lake.root)).settle(TABLE, "task2", fence))

    late = opened(lake, 2, mode=mode, permit=elsewhere)
    late.write([{"n": 1}])
    with pytest.raises((StaleWriterError, TableMovedError)):
        late.commit(final=True)
    [settled] = seen
    assert (settled.complete, settled.stats.units) == (False, 0)
    assert (numbers(lake) if has_content else []) == ([0] if has_content else [])
    assert lake.settle(TABLE, "task2").units == 0
    again = LakeTables(str(lake.root)).settle(TABLE, "task2", Writer(TABLE, 3, "job", "task2"))
    assert again == settled, "it may be done twice"
    put(lake, 4, 4)
    late = LakeTables(str(lake.root)).settle(TABLE, "task2", Writer(TABLE, 3, "job", "task2"))
    assert late == settled, "and after somebody later has the table"


def test_fence_entries_do_not_count_as_data(lake: Lake) -> None:
    """A table's version is that of its last change of data."""
    put(lake, 1, 1)
    opened(lake, 2, fence=True)
    assert lake.load(TABLE).version() == 1
    assert lake.data_version(TABLE) == 0
    assert commits.epoch_of(lake.load(TABLE)) == 2


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_a_fenced_absent_table_takes_the_columns_of_its_first_content(
    lake: Lake, mode: str
) -> None:
    """The placeholder of the fence never shows."""
    made = opened(lake, 2, fence=True, mode=mode)
    described = lake.describe(TABLE)
    assert (described["schema"], described["version"], described["preview"]) == ([], None, [])
    made.write(pl.DataFrame({"n": [1], "at": [pd.Timestamp("2013-01-01")]}))
    made.commit([("a", 1, 1)], final=True)
    described = lake.describe(TABLE)
    assert [item["name"] for item in described["schema"]] == ["n", "at"]
    assert described["row_count"] == 1
    assert set(opened(lake, 3).marks) == {"a"}
    assert pl.scan_delta(str(lake.path(TABLE))).collect().height == 1


def test_a_partitioned_table_of_another_program_is_refused(lake: Lake) -> None:
    """Our files would have no partition values."""
    write_deltalake(str(lake.path(TABLE)), pa.table({"n": [1], "p": [1]}), partition_by="p")
    with pytest.raises(TableUnsupportedError, match="partitions"):
        opened(lake)


def test_an_output_that_replaces_is_one_unit(lake: Lake) -> None:
    """Half a replacement would be half an output."""
    made = opened(lake, mode="overwrite")
    made.write([{"n": 1}])
    with pytest.raises(ValueError, match="one unit"):
        made.commit()


# -- what may be written ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: pl.DataFrame({"n": [1, 2]}),
        lambda: pl.LazyFrame({"n": [1, 2]}),
        lambda: pa.table({"n": [1, 2]}),
        lambda: pa.record_batch({"n": [1, 2]}),
        lambda: pa.table({"n": [1, 2]}).to_reader(),
        lambda: pd.DataFrame({"n": [1, 2]}, index=["x", "y"]),
        lambda: duckdb.sql("select unnest([1, 2])::bigint as n"),
        lambda: [{"n": 1}, {"n": 2}],
    ],
    ids=["polars", "lazy", "table", "batch", "reader", "pandas", "duckdb", "dicts"],
)
def test_every_kind_of_output_is_written(lake: Lake, make: Callable[[], Any]) -> None:
    """A pipeline uses the library that it likes."""
    made = opened(lake)
    assert made.write(make()) == 2
    made.commit()
    assert numbers(lake) == [1, 2]
    assert lake.describe(TABLE)["schema"] == [{"name": "n", "type": "int64", "nullable": True}]


@pytest.mark.parametrize(
    "output", [5, "text", {"n": [1]}, object(), [1, 2], pa.array([1]), pl.Series([1])]
)
def test_anything_else_is_refused_and_named(lake: Lake, output: Any) -> None:
    """The error says what came and what is allowed."""
    with pytest.raises(OutputTypeError, match=r"(?s)cannot write .*: got .*list of dicts"):
        opened(lake).write(output)


def test_dicts_may_lack_keys_but_not_mix_types(lake: Lake) -> None:
    """Web APIs leave out what is null."""
    made = opened(lake)
    made.write([{"n": 1}, {"n": 2, "s": "x"}])
    made.commit()
    assert {"n": 1, "s": None} in rows(lake)
    with pytest.raises(OutputTypeError, match="column 'n'"):
        made.write([{"n": 1, "s": ""}, {"n": "one", "s": ""}])


def test_types_without_a_place_in_delta_are_stored_as_the_nearest(lake: Lake) -> None:
    """Values survive, whichever library made them."""
    frame = pl.DataFrame(
        {
            "category": pl.Series(["x", "y"], dtype=pl.Categorical),
            "fixed": pl.Series(["x", None], dtype=pl.Enum(["x"])),
            "unsigned": pl.Series([1, 2], dtype=pl.UInt32),
            "nanos": pl.Series([1_000_000_001, 2], dtype=pl.Datetime("ns", "Europe/Paris")),
            "millis": pl.Series([1, 2], dtype=pl.Datetime("ms")),
            "list": [["x"], ["y"]],
            "struct": [{"a": b"1"}, {"a": b"2"}],
        }
    )
    made = opened(lake)
    made.write(frame)
    made.commit()
    types = {item["name"]: item["type"] for item in lake.describe(TABLE)["schema"]}
    assert types["category"] == types["fixed"] == "string"
    assert types["unsigned"] == "int64"
    assert (types["nanos"], types["millis"]) == ("timestamp[us, tz=UTC]", "timestamp[us]")
    first = min(rows(lake), key=lambda row: row["unsigned"])
    assert (first["category"], first["list"], first["struct"]) == ("x", ["x"], {"a": b"1"})
    assert first["nanos"].microsecond == 0
    assert first["nanos"].second == 1


@pytest.mark.parametrize(
    ("kind", "mend"),
    [(pa.duration("us"), "integer"), (pa.time64("us"), "text"), (pa.list_(pa.null()), "cast it")],
)
def test_types_that_cannot_be_stored_name_column_and_mend(lake: Lake, kind: Any, mend: str) -> None:
    """The reader of the error knows which line to change."""
    with pytest.raises(OutputTypeError, match=rf"(?s)column 'wait.*{mend}"):
        opened(lake).write(pa.table({"wait": pa.array([None], kind)}))


def test_an_unsigned_number_that_does_not_fit_is_an_error(lake: Lake) -> None:
    """Never a wrong number in silence."""
    with pytest.raises(OutputTypeError, match="column 'n'"):
        opened(lake).write(pa.table({"n": pa.array([2**63], pa.uint64())}))


def test_a_column_of_nulls_needs_a_type_from_the_table(lake: Lake) -> None:
    """The first file may happen to be empty in one column; later ones may, too."""
    with pytest.raises(OutputTypeError, match="only nulls"):
        opened(lake).write([{"n": None}])
    put(lake, 1, 1)
    made = opened(lake, 2)
    made.write([{"n": None}])
    made.commit()
    assert len(rows(lake)) == 2


def test_column_names_that_differ_in_case_only_are_refused(lake: Lake) -> None:
    """Delta Lake readers could not tell them apart."""
    with pytest.raises(OutputTypeError, match="'n' and 'N'"):
        opened(lake).write([{"n": 1, "N": 2}])


# -- schema ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_strict_shows_the_difference_line_by_line(lake: Lake, mode: str) -> None:
    """Whoever reads it sees at once what the source changed."""
    made = opened(lake, mode=mode)
    made.write(pa.table({"a": [1], "b": ["x"], "c": [1.5]}))
    made.commit(final=True)
    with pytest.raises(SchemaMismatchError) as caught:
        opened(lake, 2, mode=mode).write(pa.table({"d": [1], "a": ["x"], "c": [2.5]}))
    assert caught.value.differences == (
        "added    d: int64",
        "changed  a: int64 -> string",
        "missing  b: string",
    )
    again = opened(lake, 2, mode=mode, full_refresh=True)
    again.write(pa.table({"d": [1]}))
    again.commit(final=True)
    assert rows(lake) == [{"d": 1}]


def test_order_and_lossless_types_do_not_matter(lake: Lake) -> None:
    """A smaller integer or another order is no change of the table."""
    made = opened(lake)
    made.write(pa.table({"a": pa.array([1], pa.int64()), "b": [1.5]}))
    made.write(pa.table({"b": pa.array([2], pa.int32()), "a": pa.array([2], pa.int8())}))
    made.commit()
    assert rows(lake) == [{"a": 1, "b": 1.5}, {"a": 2, "b": 2.0}]


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_evolve_adds_columns_and_fills_missing_ones(lake: Lake, mode: str) -> None:
    """Old rows have null in new columns. A plain timestamp needs a table feature."""
    put(lake, 1, 1)
    made = opened(lake, 2, mode=mode, schema_mode="evolve")
    made.write(pa.table({"n": [2], "at": pa.array([0], pa.timestamp("us"))}))
    made.write(pa.table({"at": pa.array([1], pa.timestamp("us")), "more": ["x"]}))
    made.commit(final=True)
    found = pl.scan_delta(str(lake.path(TABLE))).collect()
    assert found.columns == ["n", "at", "more"]
    assert sorted(found["n"].to_list(), key=str) == (
        [1, 2, None] if mode == "append" else [2, None]
    )
    assert lake.data_version(TABLE) == lake.load(TABLE).version()
    with pytest.raises(SchemaMismatchError, match="changed  n: int64 -> string"):
        opened(lake, 3, schema_mode="evolve").write([{"n": "x"}])


# -- files, memory, upkeep -------------------------------------------------------------------


def test_no_reader_loses_rows_to_statistics(lake: Lake) -> None:
    """deltalake takes bounds that are absent for null and hides the rows: write and leave none."""
    long = "z" * 100
    stamps = pa.array([1, 1_356_998_400_123_456], pa.timestamp("us", "UTC"))
    made = opened(lake)
    for frame in (
        pa.table({"n": [1, 5], "s": ["a", long], "f": [1.0, float("nan")], "t": stamps}),
        pa.table({"n": [7, None], "s": ["b", None], "f": [None, -0.0], "t": stamps}),
    ):
        made.write(frame)
        made.commit()
    for _ in ("as written", "compacted"):
        table = lake.load(TABLE)
        for dataset in (dataset_of(table), table.to_pyarrow_dataset()):
            for matches, count in (
                (field("s") == long, 1),
                (field("n") > 5, 1),
                (field("n").is_null(), 1),
                (field("t") >= stamps[1], 2),
            ):
                assert dataset.to_table(filter=matches).num_rows == count
        relation = duckdb.connect().from_arrow(dataset_of(table))
        for matches_sql in ("isnan(f)", "f > 9"):  # NaN is above all numbers in SQL
            assert len(relation.filter(matches_sql).select("f").fetchall()) == 1
        scan = pl.scan_delta(table)
        assert scan.filter(pl.col("s") == long).collect().height == 1
        assert scan.filter(pl.col("t") == stamps[1].as_py()).collect().height == 2
        assert table.count() == 4
        table.optimize.compact()


def test_memory_does_not_grow_with_the_output(lake: Lake) -> None:
    """A table may be larger than the machine."""
    batch_bytes = 8 * 50_000 * 4

    def batches() -> Iterator[pa.RecordBatch]:
        for n in range(100):
            values = pa.array(range(n, n + 50_000), pa.int64())
            yield pa.record_batch(dict.fromkeys("abcd", values))

    peak = 0

    def checkpoint() -> None:
        nonlocal peak
        peak = max(peak, pa.total_allocated_bytes())

    before = pa.total_allocated_bytes()
    made = opened(lake, checkpoint=checkpoint)
    schema = pa.schema([(name, pa.int64()) for name in "abcd"])
    made.write(pa.RecordBatchReader.from_batches(schema, batches()))
    stats = made.commit()
    assert stats is not None
    assert stats.rows == 5_000_000
    assert peak - before < 30 * batch_bytes, "160 MB went through, less than 48 MB at once"


def test_large_outputs_roll_over_and_row_groups_are_bounded(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One huge frame becomes files that readers can take side by side."""
    monkeypatch.setattr("sluicegate.lake.data_files.FILE_BYTES_MAX", 500_000)
    made = opened(lake)
    made.write(pl.DataFrame({"n": pl.int_range(600_000, eager=True).shuffle(seed=1)}))
    stats = made.commit()
    assert stats is not None
    assert stats.files > 2
    assert len(numbers(lake)) == 600_000
    file = next(iter(lake.path(TABLE).glob("part-00000-task1-1-*.parquet")))
    assert pa.parquet.ParquetFile(file).metadata.row_group(0).num_rows <= 128 * 1024


@pytest.mark.proof
def test_many_small_units_stay_cheap(lake: Lake) -> None:
    """A unit must not cost more the more units were before it: counted, not timed."""
    made = opened(lake)
    active, sizes = [], []
    for n in range(300):
        made.write([{"n": n}])
        stats = made.commit([(f"{n}.csv", n, n)], {"last": n})
        assert stats is not None
        assert stats.version is not None
        sizes.append(log.entry_path(lake.path(TABLE), stats.version).stat().st_size)
        made.maintain()
        active.append(len(made._table.file_uris()))  # type: ignore[union-attr]
    assert max(active) <= writer_module.COMPACT_AFTER_FILES + 1
    assert sorted(sizes)[150] < 1.2 * sizes[1], "the usual entry stays as small as the first"
    assert sum(sizes) < 300 * 2 * sizes[1], "rollups included, the mean stays flat"
    assert numbers(lake) == list(range(300))
    after = opened(lake, 2)
    assert len(after.marks) == 300, "marks survive compaction"
    assert commits.epoch_of(lake.load(TABLE)) == 1


def test_a_conflict_in_upkeep_is_left_for_later(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upkeep is never worth an error."""
    monkeypatch.setattr(writer_module, "COMPACT_AFTER_FILES", 1)
    made = opened(lake)
    for n in (1, 2):
        made.write([{"n": n}])
        made.commit()
    lake.load(TABLE).delete("n = 1")
    assert made.maintain() is False
    assert numbers(lake) == [2]


def test_a_late_compaction_is_refused_and_leaves_no_file(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was paused in its upkeep and replaced meanwhile must not write to the table any more."""
    monkeypatch.setattr(writer_module, "COMPACT_AFTER_FILES", 1)
    late = opened(lake)
    for n in (1, 2, 3):
        late.write([{"n": n}])
        late.commit()
    opened(lake, 2, fence=True)
    before, files = lake.load(TABLE).version(), data_files(lake)
    assert late.maintain() is False
    assert lake.load(TABLE).version() == before
    assert data_files(lake) == files
    assert numbers(lake) == [1, 2, 3]


def test_a_compaction_carries_the_epoch_and_changes_no_row(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every entry of ours does, so that the log says whose turn it was."""
    monkeypatch.setattr(writer_module, "COMPACT_AFTER_FILES", 1)
    made = opened(lake, 7)
    for n in (1, 2, 3):
        made.write([{"n": n, "half": n / 2}])
        made.commit()
    assert made.maintain()
    entry = log.read_entry(lake.path(TABLE), 3)
    assert entry is not None
    assert (entry.operation, entry.epoch, entry.changes_data) == ("OPTIMIZE", 7, False)
    assert not entry.touches_data
    assert len(lake.load(TABLE).file_uris()) == 1
    assert numbers(lake) == [1, 2, 3]


def test_a_compaction_that_failed_after_its_entry_keeps_its_files(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log names them: to remove them would lose every row."""
    monkeypatch.setattr(writer_module, "COMPACT_AFTER_FILES", 1)
    made = opened(lake)
    for n in (1, 2, 3):
        made.write([{"n": n}])
        made.commit()

    def full(path: Path) -> None:
        if path.name == "_delta_log":
            raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(commits, "flush_to_disk", full)
        assert made.maintain()
    assert numbers(lake) == [1, 2, 3]
    made.write([{"n": 4}])
    made.commit()
    assert numbers(lake) == [1, 2, 3, 4]


def test_orphans_of_this_attempt_can_be_spared(lake: Lake) -> None:
    """A successor may have begun to write when the dead writer's files are cleared away."""
    put(lake, 1, 1, task="t")
    committed = data_files(lake)
    dead = lake.path(TABLE) / "part-00000-t-1-deadbeef.parquet"
    live = lake.path(TABLE) / "part-00000-t-2-deadbeef.parquet"
    for file in (dead, live):
        file.write_bytes(b"")
    assert lake.remove_orphans(TABLE, "t", before_attempt=2) == [dead.name]
    assert data_files(lake) == committed | {live.name}
