"""Putting a table back: rows, marks and state, whose change it is, and doing it once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from sluicegate.lake import log, rollback
from sluicegate.lake.errors import ContentGoneError, StaleWriterError, TableChangedError
from sluicegate.lake.rollback import Step
from sluicegate.lake.tables import Lake
from sluicegate.lake.writer import TableWriter, WriterIdentity

TABLE = "bronze.rows"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def opened(lake: Lake, job: str, epoch: int, mode: str = "append", **options: Any) -> TableWriter:
    identity = WriterIdentity(job, f"task-{job}", options.pop("attempt", 1), epoch)
    made = TableWriter(lake, TABLE, identity, mode=mode, permit=lambda _: None, **options)  # type: ignore[arg-type]
    made.open()
    return made


def put(lake: Lake, job: str, epoch: int, *rows: dict[str, Any], **options: Any) -> None:
    made = opened(lake, job, epoch, **options)
    made.write(list(rows))
    made.commit(final=True)


def numbers(lake: Lake) -> list[int]:
    return sorted(row["n"] for row in lake.load(TABLE).to_pyarrow_table().to_pylist())


def plan(lake: Lake, job: str) -> Step | None:
    return rollback.plan(lake.path(TABLE), TABLE, job)


def back(lake: Lake, job: str, epoch: int) -> Step:
    step = plan(lake, job)
    assert step is not None
    rollback.apply(lake.path(TABLE), TABLE, step, WriterIdentity(job, "rollback", 1, epoch))
    return step


def test_rows_marks_and_state_go_back_together(lake: Lake) -> None:
    """What the job ingested counts as not ingested again."""
    first = opened(lake, "a", 1)
    first.write([{"n": 1}])
    first.commit([("one.csv", 1, 1)], {"last": 1}, final=True)
    second = opened(lake, "b", 2)
    for n in (2, 3):
        second.write([{"n": n}])
        second.commit([(f"{n}.csv", 1, 1)], {"last": n}, final=n == 3)

    assert back(lake, "b", 3) == Step(2, 0)

    assert numbers(lake) == [1]
    after = opened(lake, "c", 4)
    assert after.marks == {"one.csv": (1, 1)}
    assert after.state == {"last": 1}
    assert lake.describe(TABLE)["version"] == 3


def test_a_table_that_the_job_created_becomes_empty(lake: Lake) -> None:
    """Its columns stay; its rows, marks and state do not."""
    made = opened(lake, "a", 1)
    made.write([{"n": 1}])
    made.commit([("one.csv", 1, 1)], {"last": 1}, final=True)

    assert back(lake, "a", 2) == Step(0, None)

    assert numbers(lake) == []
    after = opened(lake, "b", 3)
    assert (after.marks, after.state) == ({}, {})
    assert plan(lake, "a") is None, "nothing of it is left to take back"


def test_an_overwrite_goes_back_to_what_it_replaced(lake: Lake) -> None:
    """The files of the version before are still there."""
    put(lake, "a", 1, {"n": 1}, {"n": 2}, mode="overwrite")
    put(lake, "b", 2, {"n": 3}, mode="overwrite")
    back(lake, "b", 3)
    assert numbers(lake) == [1, 2]


def test_new_columns_go_as_well(lake: Lake) -> None:
    """A job that widened the table leaves it as narrow as it was."""
    put(lake, "a", 1, {"n": 1})
    put(lake, "b", 2, {"n": 2, "extra": "x"}, schema_mode="evolve")
    back(lake, "b", 3)
    assert [c["name"] for c in lake.describe(TABLE)["schema"]] == ["n"]
    put(lake, "c", 4, {"n": 4})
    assert numbers(lake) == [1, 4]


def test_fences_and_upkeep_do_not_count(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only changes of data do; the content before may meanwhile lie in fewer files."""
    monkeypatch.setattr("sluicegate.lake.writer.COMPACT_AFTER_FILES", 1)
    put(lake, "a", 1, {"n": 1})
    put(lake, "b", 2, {"n": 2})
    upkeep = opened(lake, "c", 3, fence=True)
    assert upkeep.maintain()
    put(lake, "d", 4, {"n": 4})
    assert back(lake, "d", 5).to_version == 1
    assert numbers(lake) == [1, 2]
    assert back(lake, "b", 6).to_version == 0
    assert numbers(lake) == [1]
    assert back(lake, "a", 7).to_version is None
    assert numbers(lake) == []


@pytest.mark.parametrize("other", ["job", "program"])
def test_a_later_change_by_another_is_not_taken_back_with_it(lake: Lake, other: str) -> None:
    """Nobody's rows go along unasked."""
    put(lake, "a", 1, {"n": 1})
    if other == "job":
        put(lake, "b", 2, {"n": 2})
    else:
        write_deltalake(str(lake.path(TABLE)), pa.table({"n": [2]}), mode="append")
    with pytest.raises(TableChangedError, match="b" if other == "job" else "another program"):
        plan(lake, "a")


def test_a_change_between_two_units_of_the_job_is_not_taken_back_with_it(lake: Lake) -> None:
    """Another job can come between two attempts."""
    first = opened(lake, "a", 1)
    first.write([{"n": 1}])
    first.commit()
    put(lake, "b", 2, {"n": 2})
    again = opened(lake, "a", 3, attempt=2)
    again.write([{"n": 3}])
    again.commit(final=True)
    with pytest.raises(TableChangedError, match="job b"):
        plan(lake, "a")


def test_it_is_done_once_under_its_epoch(lake: Lake) -> None:
    """A crash between the table's log and the record must not put it back twice."""
    put(lake, "a", 1, {"n": 1})
    put(lake, "b", 2, {"n": 2})
    step = back(lake, "b", 3)
    folder, who = lake.path(TABLE), WriterIdentity("b", "rollback", 1, 3)
    version = lake.load(TABLE).version()
    rollback.apply(folder, TABLE, step, who)
    assert lake.load(TABLE).version() == version
    put(lake, "c", 4, {"n": 4})
    with pytest.raises(StaleWriterError):
        rollback.apply(folder, TABLE, step, who)
    assert numbers(lake) == [1, 4]


def test_content_that_was_vacuumed_is_told_before_anything_is_decided(lake: Lake) -> None:
    """RESTORE would fail halfway."""
    put(lake, "a", 1, {"n": 1}, mode="overwrite")
    put(lake, "b", 2, {"n": 2}, mode="overwrite")
    [old] = set(log.read_entry(lake.path(TABLE), 0).added)  # type: ignore[union-attr]
    (lake.path(TABLE) / old).unlink()
    with pytest.raises(ContentGoneError):
        plan(lake, "b")


def test_a_job_that_changed_nothing_has_nothing_to_take_back(lake: Lake) -> None:
    """Neither where there is no table."""
    assert plan(lake, "a") is None
    put(lake, "a", 1, {"n": 1})
    assert plan(lake, "b") is None
