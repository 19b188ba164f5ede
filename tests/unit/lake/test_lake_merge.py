"""Merging by key within one process: what is replaced, what is refused, and what is left on the disk."""

from __future__ import annotations

import json
import random
import threading
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from sluicegate.errors import Cancelled
from sluicegate.lake import batches, commits, data_files, log, merging, rollback
from sluicegate.lake.errors import (
    MergeKeysError,
    SchemaMismatchError,
    StaleWriterError,
    TableMovedError,
    TableUnsupportedError,
)
from sluicegate.lake.tables import Lake, dataset_of
from sluicegate.lake.writer import TableWriter, UnitStats, WriterIdentity

TABLE = "silver.rows"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def opened(
    lake: Lake, epoch: int = 1, keys: tuple[str, ...] = ("id",), **options: Any
) -> TableWriter:
    identity = WriterIdentity(options.pop("job", "job"), f"task{epoch}", 1, epoch)
    options = {"mode": "merge", "permit": lambda stats: None, **options}
    made = TableWriter(lake, TABLE, identity, keys=keys, **options)
    made.open()
    return made


def put(lake: Lake, epoch: int, rows: Any, **options: Any) -> UnitStats:
    made = opened(lake, epoch, **options)
    made.write(rows)
    stats = made.commit(final=True)
    assert stats is not None
    return stats


def pairs(lake: Lake) -> dict[Any, Any]:
    """id -> v, each id once."""
    rows = lake.load(TABLE).to_pyarrow_table().to_pylist()
    found = {row["id"]: row["v"] for row in rows}
    assert len(found) == len(rows), "a key is in the table twice"
    return found


def frame(**pairs: Any) -> pl.DataFrame:
    return pl.DataFrame({"id": list(pairs), "v": list(pairs.values())})


def numbered(ids: range, v: int) -> pa.Table:
    return pa.table({"id": pa.array(ids), "v": pa.array([v] * len(ids), pa.int64())})


def on_disk(lake: Lake) -> set[str]:
    """Every file below the table that no version of its log names."""
    folder = lake.path(TABLE)
    named = {name for entry in log.entries_back(folder, 10_000_000) for name in entry.added}
    latest = lake.load(TABLE).version() if (folder / "_delta_log").is_dir() else -1
    for entry in log.entries_back(folder, latest):
        named |= set(entry.added)
    loose = {file.name for file in folder.glob("*.parquet")} - named
    return loose | {file.name for file in (folder / "_delta_log").glob(".*")}


# -- what is replaced --------------------------------------------------------------------------


def test_rows_replace_those_with_the_same_key_in_one_commit(lake: Lake) -> None:
    """One entry carries the rows, what they replace, the epoch, marks and state: none is there without the rest."""
    put(lake, 1, frame(a=1, b=2, c=3))
    made = opened(lake, 2)
    made.write(frame(b=20, d=40))
    stats = made.commit([("x.csv", 1, 1)], {"last": 7}, final=True)
    assert pairs(lake) == {"a": 1, "b": 20, "c": 3, "d": 40}
    assert stats is not None
    assert (stats.rows, stats.unit, stats.version) == (2, 1, 1)
    entry = log.read_entry(lake.path(TABLE), 1)
    assert entry is not None
    assert (entry.operation, entry.epoch, entry.changes_data, entry.replaces) == (
        "MERGE",
        2,
        True,
        False,
    )
    after = opened(lake, 3)
    assert (after.marks, after.state) == ({"x.csv": (1, 1)}, {"last": 7})
    assert lake.settle(TABLE, "task2") == made.settled
    assert on_disk(lake) == set()


def test_every_reader_sees_the_same_after_a_merge(lake: Lake) -> None:
    """The entry is of our own making, so others must be able to read it, filters included."""
    put(lake, 1, frame(a=1, b=2, c=3))
    put(lake, 2, frame(b=20))
    put(lake, 3, frame(e=5))
    table = lake.load(TABLE)
    wanted = {"a": 1, "b": 20, "c": 3, "e": 5}
    ours = dataset_of(table)
    assert ours.count_rows() == 4
    shown = [
        dict(zip(*pl.scan_delta(table).collect().to_dict(as_series=False).values(), strict=True)),
        dict(duckdb.sql("select id, v from ours").fetchall()),
        pairs(lake),
    ]
    assert shown == [wanted] * 3
    assert pl.scan_delta(table).filter(pl.col("v") > 4).collect().height == 2
    assert lake.describe(TABLE)["row_count"] == 4
    add = next(
        json.loads(line)["add"]
        for line in log.entry_path(lake.path(TABLE), 1).read_text().splitlines()
        if '"add"' in line
    )
    assert json.loads(add["stats"]).keys() == {"numRecords"}, "bounds of some columns hide rows"


def test_a_file_without_a_matching_row_is_left_alone(lake: Lake) -> None:
    """A merge of a few rows must not write a large table anew."""
    for epoch, first in enumerate((0, 100, 200), start=1):
        put(lake, epoch, numbered(range(first, first + 50), 0))
    before = set(lake.load(TABLE).file_uris())
    put(lake, 4, pl.DataFrame({"id": [110, 120, 999], "v": [1, 1, 1]}))
    after = set(lake.load(TABLE).file_uris())
    assert len(before & after) == 2
    assert len(after) == 4
    assert pairs(lake)[110] == 1
    assert len(pairs(lake)) == 151


def test_a_file_of_which_every_row_is_replaced_is_gone(lake: Lake) -> None:
    """Nothing is left of it to be written."""
    put(lake, 1, frame(a=1, b=2))
    put(lake, 2, frame(b=20, a=10))
    assert len(lake.load(TABLE).file_uris()) == 1
    assert pairs(lake) == {"a": 10, "b": 20}


def test_several_keys_are_compared_each_for_itself(lake: Lake) -> None:
    """No two different keys may look the same once they are put together."""
    texts = ["", "a", ":", "1:a", "a:", ":a", "1", "11", "ä", "a:1:b"]
    rows = [{"x": x, "y": y, "n": 0} for x in texts for y in texts]
    put(lake, 1, rows, keys=("x", "y"))
    changed = [{"x": x, "y": y, "n": 1} for x in texts[::2] for y in texts[1::3]]
    put(lake, 2, changed, keys=("x", "y"))
    found = lake.load(TABLE).to_pyarrow_table().to_pylist()
    assert len(found) == 100
    assert {(r["x"], r["y"]) for r in found if r["n"]} == {(r["x"], r["y"]) for r in changed}


@pytest.mark.parametrize(
    "values",
    [
        [1, -2, 2**60],
        [0.0, 1.5, -7.25],
        ["", "a", "ä" * 100],
        [b"", b"\x00", b"a\xff"],
        [True, False],
        [date(1, 1, 1), date(2020, 2, 29), date(9999, 12, 31)],
        [datetime(1970, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, 0, 0, 0, 1, tzinfo=UTC)],
        [datetime(1970, 1, 1), datetime(2020, 1, 1, 0, 0, 0, 1)],
        [Decimal("1.10"), Decimal("-0.01"), Decimal("99.99")],
    ],
    ids=lambda values: type(values[0]).__name__,
)
@pytest.mark.parametrize("keys", [("id",), ("id", "part")])
def test_keys_of_every_plain_type_match(
    lake: Lake, values: list[Any], keys: tuple[str, ...]
) -> None:
    """What was written must be found again, whatever it went through on its way."""
    for epoch in (1, 2):
        put(lake, epoch, [{"id": v, "part": 1, "v": epoch} for v in values], keys=keys)
    put(lake, 3, [{"id": values[0], "part": 2, "v": 3}], keys=keys)
    wanted = dict.fromkeys(values, 2)
    rows = lake.load(TABLE).to_pyarrow_table().to_pylist()
    if keys == ("id",):
        assert pairs(lake) == wanted | {values[0]: 3}
    else:
        assert len(rows) == len(values) + 1


@pytest.mark.parametrize("keys", [("id",), ("id", "part")])
def test_minus_zero_is_zero(lake: Lake, keys: tuple[str, ...]) -> None:
    """They are equal, and two different values to a hash table."""
    put(lake, 1, [{"id": 0.0, "part": 1, "v": 1}], keys=keys)
    put(lake, 2, [{"id": -0.0, "part": 1, "v": 2}], keys=keys)
    assert list(pairs(lake).values()) == [2]


def test_random_merges_leave_what_a_dict_would_hold(lake: Lake) -> None:
    """Whatever the sizes, overlaps and files: the last row of each key, once."""
    chance = random.Random(7)
    model: dict[int, int] = {}
    for epoch in range(1, 25):
        made = opened(lake, epoch)
        for unit in range(chance.randint(1, 4)):
            fresh = {chance.randrange(60): epoch * 10 + unit for _ in range(chance.randint(0, 25))}
            made.write(
                pa.table(
                    {"id": pa.array(fresh, pa.int64()), "v": pa.array(fresh.values(), pa.int64())}
                )
            )
            made.seal()
            model |= fresh
        made.commit(final=True)
        assert pairs(lake) == model
    assert on_disk(lake) == set()


def test_files_larger_than_memory_allows_are_rolled_and_merged(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several files and row groups on both sides, of which each row counts once."""
    monkeypatch.setattr(data_files, "FILE_BYTES_MAX", 2_000)
    monkeypatch.setattr(data_files, "ROWS_MAX", 500)
    monkeypatch.setattr(batches, "ROWS_MAX", 500)
    monkeypatch.setattr(merging, "ROWS_MAX", 300)
    put(lake, 1, numbered(range(5000), 0))
    assert len(lake.load(TABLE).file_uris()) > 3
    put(lake, 2, numbered(range(1, 6000, 3), 1))
    found = pairs(lake)
    assert len(found) == 5000 + len([n for n in range(1, 6000, 3) if n >= 5000])
    assert sum(found.values()) == 2000


def test_a_full_refresh_replaces_everything(lake: Lake) -> None:
    """It reprocesses all, so nothing of before may stay."""
    put(lake, 1, frame(a=1, b=2))
    put(lake, 2, frame(b=20), full_refresh=True)
    assert pairs(lake) == {"b": 20}


# -- several units in one commit ---------------------------------------------------------------


@pytest.mark.parametrize("full_refresh", [False, True])
def test_the_later_unit_of_a_commit_replaces_rows_of_the_earlier(
    lake: Lake, full_refresh: bool
) -> None:
    """Units share a commit by chance of timing; what the table holds must not depend on it."""
    put(lake, 1, frame(a=0, x=0))
    made = opened(lake, 2, full_refresh=full_refresh)
    for rows in (frame(a=1, b=1), frame(b=2, c=2), frame(a=3)):
        made.write(rows)
        made.seal()
    stats = made.commit(final=True)
    assert stats is not None
    assert stats.rows == 3, "the rows that are in the table, not those that were superseded"
    assert pairs(lake) == {"a": 3, "b": 2, "c": 2} | ({} if full_refresh else {"x": 0})
    assert on_disk(lake) == set()


def test_a_unit_that_is_dropped_leaves_the_others_whole(lake: Lake) -> None:
    """A bad file after good ones: the good ones are published, nothing of it is."""
    made = opened(lake)
    made.write(frame(a=1))
    made.seal()
    made.write(frame(b=2))
    made.write(frame(b=3))
    with pytest.raises(MergeKeysError):
        made.seal()
    made.drop()
    made.commit(final=True)
    assert pairs(lake) == {"a": 1}
    assert on_disk(lake) == set()


def test_a_commit_can_leave_the_unit_in_hand_for_later(lake: Lake) -> None:
    """The group before it is old enough; its own rows are not whole yet."""
    made = opened(lake)
    made.write(frame(a=1))
    made.seal()
    made.write(frame(a=2, b=2))
    made.commit(seal=False)
    assert pairs(lake) == {"a": 1}
    made.commit(final=True)
    assert pairs(lake) == {"a": 2, "b": 2}


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (
            [{"id": 1, "v": 1}, {"id": None, "v": 2}, {"id": None, "v": 3}],
            "key 'id' is null in 2 rows: (id=None)",
        ),
        (
            [{"id": 1.5, "v": 1}, {"id": float("nan"), "v": 2}],
            "key 'id' is null in 1 rows: (id=nan)",
        ),
        (
            [{"id": n % 7, "v": n} for n in range(20)],
            "7 keys are there more than once in one unit: (id=0), (id=1)",
        ),
        ([{"v": 1}], "the output has no column 'id'"),
        ([{"id": [1], "v": 1}], "key 'id' is of type list"),
    ],
    ids=["null", "nan", "twice", "missing", "nested"],
)
def test_rows_that_no_key_tells_apart_are_refused(lake: Lake, rows: Any, what: str) -> None:
    """Some of them are shown, with what to do; the table stays as it was."""
    put(lake, 1, [{"id": 1.0, "v": 0}] if "nan" in what else [{"id": 1, "v": 0}])
    made = opened(lake, 2)

    def merge() -> None:
        made.write(rows)
        made.commit(final=True)

    with pytest.raises(MergeKeysError) as caught:
        merge()
    assert what in caught.value.what
    assert caught.value.mend
    made.abort()
    assert pairs(lake) == {1: 0}
    assert on_disk(lake) == set()


def test_a_key_is_twice_also_over_several_batches_of_one_unit(lake: Lake) -> None:
    """A unit is all that was yielded up to its end."""
    made = opened(lake, keys=("id", "day"))
    for day in (1, 2, 1):
        made.write([{"id": "x", "day": day}])
    with pytest.raises(MergeKeysError, match=r"1 keys .*: \(id='x', day=1\)"):
        made.commit(final=True)


@pytest.mark.parametrize("mode", ["merge", "append"])
def test_changed_columns_are_shown_and_new_ones_added_on_request(lake: Lake, mode: str) -> None:
    """The same rules for each way to add rows."""
    put(lake, 1, frame(a=1), mode=mode)
    changed = pl.DataFrame({"id": ["a", "b"], "v": ["x", "y"], "w": [1.5, None]})
    with pytest.raises(SchemaMismatchError) as caught:
        opened(lake, 2, mode=mode).write(changed)
    assert caught.value.differences == ("changed  v: int64 -> string", "added    w: double")
    with pytest.raises(SchemaMismatchError) as caught:
        opened(lake, 2, mode=mode).write(pl.DataFrame({"id": ["a"]}))
    assert caught.value.differences == ("missing  v: int64",)
    with pytest.raises(SchemaMismatchError) as caught:
        opened(lake, 2, mode=mode, schema_mode="evolve").write(changed)
    assert caught.value.differences == ("changed  v: int64 -> string",)
    wider = pl.DataFrame({"id": ["a", "b"], "v": [10, 20], "w": [1.5, None]})
    put(lake, 3, wider, mode=mode, schema_mode="evolve")
    put(lake, 4, pl.DataFrame({"id": ["c"], "v": [3]}), mode=mode, schema_mode="evolve")
    rows = lake.load(TABLE).to_pyarrow_table().sort_by([("id", "ascending"), ("v", "ascending")])
    wanted = [
        {"id": "a", "v": 10, "w": 1.5},
        {"id": "b", "v": 20, "w": None},
        {"id": "c", "v": 3, "w": None},
    ]
    before = [{"id": "a", "v": 1, "w": None}] if mode == "append" else []
    assert rows.to_pylist() == before + wanted


def test_rows_from_before_a_key_was_a_column_match_nothing(lake: Lake) -> None:
    """Their key is null, and null is equal to nothing."""
    put(lake, 1, [{"v": 1}], mode="append")
    put(lake, 2, [{"v": 2, "id": "a"}], mode="append", schema_mode="evolve")
    put(lake, 3, [{"v": 3, "id": "a"}], schema_mode="evolve")
    rows = lake.load(TABLE).to_pyarrow_table().sort_by("v").to_pylist()
    assert rows == [{"v": 1, "id": None}, {"v": 3, "id": "a"}]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("delta.appendOnly", "the property delta.appendOnly"),
        ("delta.enableChangeDataFeed", "the property delta.enableChangeDataFeed"),
    ],
)
def test_a_table_whose_features_a_merge_would_break_is_refused(
    lake: Lake, name: str, told: str
) -> None:
    """Whoever turned it on relies on it."""
    put(lake, 1, frame(a=1))
    lake.load(TABLE).alter.set_table_properties({name: "true"})
    with pytest.raises(TableUnsupportedError) as caught:
        put(lake, 2, frame(a=2))
    assert told in caught.value.what
    assert pairs(lake) == {"a": 1}


# -- permit, writers, stops ----------------------------------------------------------------------


def test_a_refused_permit_leaves_the_table_and_the_disk_as_they_were(lake: Lake) -> None:
    """Both the rows and what was left of the replaced files are waste then."""

    class Refused(Exception):
        pass

    def refuse(stats: UnitStats) -> None:
        assert stats.rows == 1
        raise Refused

    put(lake, 1, frame(a=1, b=2))
    with pytest.raises(Refused):
        put(lake, 2, frame(a=3), permit=refuse)
    assert pairs(lake) == {"a": 1, "b": 2}
    assert on_disk(lake) == set()


def test_a_writer_that_was_paused_after_its_permit_is_refused_by_the_table(lake: Lake) -> None:
    """The next attempt has moved the table on; the old one must not take its rows out again."""
    put(lake, 1, frame(a=1, b=2))

    def overtaken(stats: UnitStats) -> None:
        opened(lake, 3, fence=True)

    with pytest.raises(StaleWriterError):
        put(lake, 2, frame(a=2), permit=overtaken)
    assert pairs(lake) == {"a": 1, "b": 2}
    assert on_disk(lake) == set()


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_a_table_that_another_program_changed_is_not_merged_into(lake: Lake, mode: Any) -> None:
    """A row of the same key may have come; the attempt is done again from what is there."""
    put(lake, 1, frame(a=1, b=2))
    foreign = pa.table({"id": ["a"], "v": [9]})
    made = opened(
        lake, 2, permit=lambda stats: write_deltalake(str(lake.path(TABLE)), foreign, mode=mode)
    )
    made.write(frame(a=2))
    with pytest.raises(TableMovedError, match="another program"):
        made.commit(final=True)
    assert on_disk(lake) == set()


def test_upkeep_that_rewrote_the_files_meanwhile_means_doing_it_again(lake: Lake) -> None:
    """The files to be removed are not in the table any more: their rows would be there twice."""
    for epoch in (1, 2, 3):
        put(lake, epoch, frame(**{f"k{epoch}": epoch}))
    done = []

    def compact(stats: UnitStats) -> None:
        if not done:
            done.append(True)
            DeltaTable(str(lake.path(TABLE))).optimize.compact()

    with pytest.raises(TableMovedError):
        put(lake, 4, frame(k1=10), permit=compact)
    assert pairs(lake) == {"k1": 1, "k2": 2, "k3": 3}
    done.clear()
    put(lake, 5, frame(k9=9), permit=lambda stats: opened(lake, 5) and None)
    assert pairs(lake) == {"k1": 1, "k2": 2, "k3": 3, "k9": 9}


def test_upkeep_does_not_disturb_a_merge_that_replaces_nothing(lake: Lake) -> None:
    """It removes no file, so that it can go on from the newer version, with a new permit."""
    for epoch in (1, 2, 3):
        put(lake, epoch, frame(**{f"k{epoch}": epoch}))
    asked: list[UnitStats] = []

    def compact(stats: UnitStats) -> None:
        asked.append(stats)
        if len(asked) == 1:
            DeltaTable(str(lake.path(TABLE))).optimize.compact()

    put(lake, 4, frame(k9=9), permit=compact)
    assert len(asked) == 2
    assert pairs(lake) == {"k1": 1, "k2": 2, "k3": 3, "k9": 9}


def test_an_error_after_the_entry_is_there_does_not_undo_it(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log decides: what is in it is published, and its files must stay."""
    put(lake, 1, frame(a=1, b=2))
    flush, calls = commits.flush_to_disk, []

    def fails_once(path: Path) -> None:
        flush(path)
        if path.name == "_delta_log" and not calls:
            calls.append(path)
            raise OSError("the disk went away for a moment")

    monkeypatch.setattr(commits, "flush_to_disk", fails_once)
    stats = put(lake, 2, frame(a=10))
    assert calls
    assert stats.version == 1
    assert pairs(lake) == {"a": 10, "b": 2}
    assert on_disk(lake) == set()


def test_a_draft_of_a_killed_writer_is_removed_with_its_files(lake: Lake) -> None:
    """It has not got its name yet, and never will."""
    put(lake, 1, frame(a=1))
    draft = lake.path(TABLE) / "_delta_log" / f"{commits.DRAFT_PREFIX}task2-1-0123abcd"
    other = draft.with_name(f"{commits.DRAFT_PREFIX}task3-1-0123abcd")
    for file in (draft, other):
        file.write_text("{}")
    assert pairs(lake) == {"a": 1}, "readers pass it by"
    assert lake.remove_orphans(TABLE, "task2", before_attempt=1) == []
    assert lake.remove_orphans(TABLE, "task2") == [f"_delta_log/{draft.name}"]
    assert other.exists()


def test_a_stop_comes_through_at_every_step(lake: Lake) -> None:
    """Reading, comparing and rewriting: none of it may go on for long once the stop is there."""
    put(lake, 1, numbered(range(1000), 0))
    passed = 0
    while True:
        left = passed

        def checkpoint() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Cancelled

        made = opened(lake, 2, checkpoint=checkpoint)
        try:
            made.write(pl.DataFrame({"id": [1], "v": [1]}))
            made.commit(final=True)
            break
        except Cancelled:
            made.abort()
            assert pairs(lake)[1] == 0
            assert on_disk(lake) == set()
        passed += 1
    assert passed >= 6, "write, its end, null and duplicate keys, each file, its keys, its rows"
    assert pairs(lake)[1] == 1


def test_a_long_comparison_does_not_hold_up_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be interrupted, so that it is left behind on a thread."""
    monkeypatch.setattr(merging, "LARGE_ROWS", 10)
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(30)

    def checkpoint() -> None:
        if begun.is_set():
            raise Cancelled

    try:
        with pytest.raises(Cancelled):
            merging._stoppable(work, 10, checkpoint)
    finally:
        go_on.set()
    assert merging._stoppable(lambda: 3, 10, lambda: None) == 3
    with pytest.raises(ZeroDivisionError):
        merging._stoppable(lambda: 1 / 0, 10, lambda: None)


# -- the log -----------------------------------------------------------------------------------------


def test_our_entries_are_checkpointed_like_those_of_the_library(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it each reader would read the log from its beginning."""
    monkeypatch.setattr(commits, "CHECKPOINT_EVERY_VERSIONS", 2)
    for epoch in (1, 2, 3):
        put(lake, epoch, frame(a=epoch))
    folder = lake.path(TABLE) / "_delta_log"
    assert json.loads((folder / "_last_checkpoint").read_text())["version"] == 2
    assert pairs(lake) == {"a": 3}


def test_a_checkpoint_that_fails_fails_no_commit(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are in the table by then."""

    def fail(table: DeltaTable) -> None:
        raise DeltaError("no")

    monkeypatch.setattr(commits, "CHECKPOINT_EVERY_VERSIONS", 1)
    monkeypatch.setattr(DeltaTable, "create_checkpoint", fail)
    put(lake, 1, frame(a=1))
    assert put(lake, 2, frame(a=2)).version == 1


def test_a_restore_brings_replaced_rows_back(lake: Lake) -> None:
    """A roll-back of the job that merged must find what it replaced."""
    put(lake, 1, frame(a=1, b=2))
    put(lake, 2, frame(a=10, c=30))
    lake.load(TABLE).restore(0)
    assert pairs(lake) == {"a": 1, "b": 2}
    put(lake, 3, frame(b=20))
    assert pairs(lake) == {"a": 1, "b": 20}


def test_rolling_a_merge_back_brings_rows_and_state_back(lake: Lake) -> None:
    """Over several units, of which later ones replaced rows of the earlier."""
    first = opened(lake, 1, job="a")
    first.write(frame(a=1, b=2))
    first.commit(state={"last": 1}, final=True)
    second = opened(lake, 2, job="b")
    for n, rows in enumerate((frame(a=10, c=30), frame(a=11, d=40)), start=2):
        second.write(rows)
        second.commit(state={"last": n})
    step = rollback.plan(lake.path(TABLE), TABLE, "b")
    assert step == rollback.Step(2, 0)
    rollback.apply(lake.path(TABLE), TABLE, step, WriterIdentity("b", "rollback", 1, 3))
    assert pairs(lake) == {"a": 1, "b": 2}
    assert opened(lake, 4).state == {"last": 1}
    put(lake, 4, frame(b=20, e=5))
    assert pairs(lake) == {"a": 1, "b": 20, "e": 5}


def test_a_merged_table_can_be_compacted(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small merges leave many small files."""
    from sluicegate.lake import writer as writer_module

    monkeypatch.setattr(writer_module, "COMPACT_AFTER_FILES", 3)
    for epoch in range(1, 7):
        made = opened(lake, epoch)
        made.write(frame(**{f"k{epoch}": epoch, "same": epoch}))
        made.commit(final=True)
        made.maintain()
    assert len(lake.load(TABLE).file_uris()) <= 4
    assert pairs(lake) == {**{f"k{n}": n for n in range(1, 7)}, "same": 6}


def test_a_table_of_another_program_is_merged_into(lake: Lake) -> None:
    """Its files have other names, statistics and types that are narrower than ours."""
    folder = lake.path(TABLE)
    folder.mkdir(parents=True)
    write_deltalake(str(folder), pa.table({"id": pa.array([1, 2], pa.int32()), "v": [1.0, 2.0]}))
    put(lake, 1, pa.table({"id": pa.array([2, 3], pa.int32()), "v": [20.0, 30.0]}))
    assert pairs(lake) == {1: 1.0, 2: 20.0, 3: 30.0}
    for file in folder.glob("part-*.parquet"):
        pq.read_metadata(file)
