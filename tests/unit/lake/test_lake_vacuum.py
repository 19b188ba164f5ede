"""Which files of a table may go: never one that the table, a rollback, a reader or a live writer needs."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from sluicegate.core.ports import Needed
from sluicegate.lake import log, rollback
from sluicegate.lake.errors import ContentGoneError
from sluicegate.lake.tables import Lake
from sluicegate.lake.writer import TableWriter, WriterIdentity

TABLE = "silver.rows"
NOW = datetime.now(UTC)
LONG_AGO = NOW + timedelta(days=1)  # as of tomorrow all that was done here is old


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def opened(
    lake: Lake, job: str, epoch: int, mode: str = "overwrite", **options: Any
) -> TableWriter:
    identity = WriterIdentity(job, f"task-{job}", 1, epoch)
    made = TableWriter(lake, TABLE, identity, mode=mode, permit=lambda _: None, **options)  # type: ignore[arg-type]
    made.open()
    return made


def put(lake: Lake, job: str, epoch: int, n: int, mode: str = "overwrite") -> None:
    made = opened(lake, job, epoch, mode, keys=("n",) if mode == "merge" else ())
    made.write([{"n": n}])
    made.commit(final=True)


def needed(
    until: str | None = None, *, pinned: tuple[int, ...] = (), holder: str | None = None
) -> Needed:
    return Needed(until, pinned, holder, LONG_AGO)


def rows(lake: Lake, version: int | None = None) -> list[int]:
    """The rows of a version, read from its files."""
    return sorted(row["n"] for row in lake.load(TABLE, version).to_pyarrow_table().to_pylist())


def files(lake: Lake) -> set[str]:
    return {file.name for file in lake.path(TABLE).glob("*.parquet")}


def test_versions_that_kept_jobs_go_back_to_stay(lake: Lake) -> None:
    """Of five overwrites the last two jobs are kept: what was before each of them must be there."""
    for n in range(5):
        put(lake, f"job-{n}", n + 1, n)
    assert lake.undoable(TABLE) == [f"job-{n}" for n in (4, 3, 2, 1, 0)]
    found = lake.vacuum(TABLE, needed(until="job-2"))
    assert len(found) == 2
    assert all(size > 0 for size in found.values())
    assert (rows(lake), rows(lake, 3), rows(lake, 2)) == ([4], [3], [2])
    for version in (0, 1):
        with pytest.raises(FileNotFoundError):
            rows(lake, version)
    for job, epoch in (("job-4", 6), ("job-3", 7)):
        step = rollback.plan(lake.path(TABLE), TABLE, job)
        assert step is not None
        rollback.apply(lake.path(TABLE), TABLE, step, WriterIdentity(job, "r", 1, epoch))
    assert rows(lake) == [2]
    with pytest.raises(ContentGoneError):
        rollback.plan(lake.path(TABLE), TABLE, "job-2")
    assert lake.vacuum(TABLE, needed(until="job-2")).keys().isdisjoint(found)


def test_when_all_jobs_are_kept_nothing_goes(lake: Lake) -> None:
    """And a dry run removes nothing, whatever it counts."""
    for n in range(3):
        put(lake, f"job-{n}", n + 1, n)
    before = files(lake)
    assert lake.vacuum(TABLE, needed()) == {}
    assert len(lake.vacuum(TABLE, needed(until="job-2"), dry_run=True)) == 2
    assert files(lake) == before


def test_what_was_replaced_lately_stays(lake: Lake) -> None:
    """A reader may have begun just before."""
    for n in range(3):
        put(lake, f"job-{n}", n + 1, n)
    recent = Needed("job-2", (), None, NOW - timedelta(hours=1))
    assert lake.vacuum(TABLE, recent) == {}


def test_a_version_that_a_running_task_reads_stays(lake: Lake) -> None:
    """However long it reads already, and also as it is after a compaction."""
    for n in range(4):
        put(lake, f"job-{n}", n + 1, n)
    lake.vacuum(TABLE, needed(until="job-3", pinned=(1,)))
    assert (rows(lake), rows(lake, 1)) == ([3], [1])
    with pytest.raises(FileNotFoundError):
        rows(lake, 2)


def test_rows_that_are_still_in_the_table_stay_however_old(lake: Lake) -> None:
    """An append table is made of files of all times, a merged one of some of them."""
    for n in range(3):
        put(lake, f"job-{n}", n + 1, n, mode="append")
    put(lake, "job-3", 4, 1, mode="merge")
    assert len(lake.vacuum(TABLE, needed(until="job-3"))) == 1
    assert rows(lake) == [0, 1, 2]


def test_what_a_rollback_brought_back_is_in_the_table_again(lake: Lake) -> None:
    """Its files were removed once, by the log, and are not any more."""
    put(lake, "job-0", 1, 0)
    put(lake, "job-1", 2, 1)
    step = rollback.plan(lake.path(TABLE), TABLE, "job-1")
    assert step is not None
    rollback.apply(lake.path(TABLE), TABLE, step, WriterIdentity("job-1", "r", 1, 3))
    assert lake.author(TABLE) == "job-0"
    assert len(lake.vacuum(TABLE, needed(until="job-0"))) == 1
    assert rows(lake) == [0]


def test_marks_and_state_survive_with_the_log(lake: Lake) -> None:
    """The log is our memory: a vacuum removes no entry of it, and adds none."""
    for n in range(3):
        made = opened(lake, f"job-{n}", n + 1, "append")
        made.write([{"n": n}])
        made.commit([(f"{n}.csv", 1, 1)], {"last": n}, final=True)
    version = lake.load(TABLE).version()
    lake.vacuum(TABLE, needed(until="job-2"))
    after = opened(lake, "job-3", 4, "append")
    assert (len(after.marks), after.state) == (3, {"last": 2})
    assert lake.load(TABLE).version() == version
    assert after.settled.units == 0


def test_files_of_a_killed_writer_go_and_those_of_a_live_one_stay(lake: Lake) -> None:
    """Neither is in the log; the store says who lives."""
    put(lake, "job-0", 1, 0)
    folder = lake.path(TABLE)
    names = {
        task: [
            f"part-00000-{task}-1-0123abcd.parquet",
            f"_delta_log/.sluicegate-{task}-1-0123abcd",
        ]
        for task in ("dead", "live")
    }
    compaction = "part-00001-0198c0de-0000-4000-8000-000000000000-c000.zstd.parquet"
    stranger = "of-another-program.parquet"
    for name in (*names["dead"], *names["live"], compaction, stranger):
        (folder / name).write_bytes(b"half")
    assert lake.vacuum(TABLE, needed(holder="live")).keys() == set(names["dead"])
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left > {*names["live"], compaction, stranger}
    assert lake.vacuum(TABLE, needed()).keys() == {*names["live"], compaction}
    assert (folder / stranger).exists()
    assert rows(lake) == [0]


def test_a_fresh_file_of_nobody_stays(lake: Lake) -> None:
    """Its writer may have started a moment after the store was asked."""
    put(lake, "job-0", 1, 0)
    file = lake.path(TABLE) / "part-00000-new-1-0123abcd.parquet"
    file.write_bytes(b"half")
    hour = Needed(None, (), None, NOW - timedelta(hours=1))
    assert lake.vacuum(TABLE, hour) == {}
    os.utime(file, (0, 0))
    assert lake.vacuum(TABLE, hour).keys() == {file.name}


def test_a_table_whose_log_another_program_cut_off_loses_no_row(lake: Lake) -> None:
    """What the oldest entries named is known from a checkpoint alone."""
    for n in range(4):
        put(lake, f"job-{n}", n + 1, n, mode="append")
    folder = lake.path(TABLE)
    lake.load(TABLE).create_checkpoint()
    for version in range(2):
        log.entry_path(folder, version).unlink()
    os.utime(folder, (0, 0))
    lake.vacuum(TABLE, needed(until="job-3"))
    assert rows(lake) == [0, 1, 2, 3]


def test_a_path_that_leads_out_of_the_table_is_never_touched(lake: Lake, tmp_path: Path) -> None:
    """Another program may name files elsewhere: a clone does."""
    for n in range(2):
        put(lake, f"job-{n}", n + 1, n)
    outside = tmp_path / "outside.parquet"
    outside.write_bytes(b"data")
    entry = log.entry_path(lake.path(TABLE), 1)
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    for path in (str(outside), "../../../outside.parquet"):
        actions.append({"remove": {"path": path, "dataChange": True, "deletionTimestamp": 1}})
    entry.write_text("\n".join(json.dumps(action) for action in actions) + "\n")
    assert len(lake.vacuum(TABLE, needed(until="job-1"))) == 1
    assert outside.exists()


def test_what_another_program_wrote_has_no_author(lake: Lake) -> None:
    """Whoever prunes must know whose it is."""
    assert lake.author(TABLE) is None
    put(lake, "job-0", 1, 0)
    assert lake.author(TABLE) == "job-0"
    write_deltalake(str(lake.path(TABLE)), pa.table({"n": [9]}), mode="append")
    assert lake.author(TABLE) is None
    assert lake.undoable(TABLE) == []
