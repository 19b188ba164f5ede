"""How units share commits: real tables, a permit that is answered here, and no worker."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from sluicegate.declare import bronze
from sluicegate.errors import Cancelled
from sluicegate.lake.errors import TableMovedError
from sluicegate.lake.tables import Lake
from sluicegate.task import Task
from sluicegate.workers import units as units_module
from sluicegate.workers.units import StateModeError, StateValueError, Units, state_text

TABLE = "bronze.rows"


class Nobody:
    """A runtime that nobody listens to."""

    def progress(self, done: float, total: float | None, unit: str) -> None: ...

    def checkpoints(self, *seconds: float) -> None: ...

    def state(self) -> dict[str, Any]:
        return {}

    def shield(self, seconds: float | None) -> None: ...

    def remote(self, number: int, what: str, outcome: str, tries: int) -> None: ...

    def failed_callback(self, what: str) -> None: ...

    def uninterrupted(self) -> AbstractContextManager[None]:
        return nullcontext()


class Made:
    """Units of one attempt; every permit is given unless `refuse` is set."""

    def __init__(
        self, folder: Path, epoch: int = 1, *, full_refresh: bool = False, **options: Any
    ) -> None:
        options = {"mode": "append", **options}

        @bronze(name="rows", **options)
        def rows() -> None: ...

        self.order = {
            "job_id": "job", "task_id": f"task{epoch}", "attempt": 1, "epoch": epoch,
            "recovers": False, "full_refresh": full_refresh,
        }  # fmt: skip
        self.task = Task(
            job_id="job",
            task_id=f"task{epoch}",
            attempt=1,
            params={},
            log=logging.getLogger("test_units"),
            runtime=Nobody(),
        )
        self.lake = Lake(str(folder))
        self.refuse: str | None = None
        self.commits = 0
        self.units = Units(
            self.order, rows.spec, self.task, {"lake": str(folder)}, self.told, nullcontext
        )

    def told(self, message: dict[str, Any]) -> None:
        if message["kind"] == "permit":
            self.units.answer_permit(self.refuse)
        else:
            assert message["kind"] == "committed"
            self.commits += 1

    def unit(self, n: int) -> None:
        """Write one row, and end its unit as a saved state does."""
        self.units.state()["last"] = n
        self.units.write([{"n": n}])
        assert self.units.state_changed
        self.units.end_unit()
        assert not self.units.state_changed

    def rows(self) -> list[int]:
        return sorted(row["n"] for row in self.lake.load(TABLE).to_pyarrow_table().to_pylist())


def watchers() -> list[threading.Thread]:
    """Threads that would keep a worker from being used again."""
    return [thread for thread in threading.enumerate() if thread.name == "units"]


def until(fact: Any, what: str) -> None:
    deadline = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


@pytest.fixture
def no_free_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if commits had taken too much of the time already."""
    monkeypatch.setattr(units_module, "COMMIT_FREE_SECONDS", -1.0)
    monkeypatch.setattr(units_module, "COMMIT_SHARE_MAX", 0.0)


def test_a_unit_is_committed_where_it_ends_while_commits_are_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the yield comes back, its rows are in the table."""
    monkeypatch.setattr(units_module, "COMMIT_FREE_SECONDS", 1000.0)
    made = Made(tmp_path)
    for n in range(5):
        made.unit(n)
        assert made.rows() == list(range(n + 1))
    made.units.finish()
    assert made.commits == 5, "nothing is left to be published at the end"
    assert made.units.stats()["units"] == 5


def test_tiny_units_share_commits_where_commits_would_take_the_time(tmp_path: Path) -> None:
    """Three hundred pages of nothing must not take three hundred commits; rows and state are the same."""
    made = Made(tmp_path)
    for n in range(300):
        made.unit(n)
    made.units.finish()
    assert made.rows() == list(range(300))
    assert made.commits < 200
    assert Made(tmp_path, 2).units.state() == {"last": 299}
    assert not watchers()


@pytest.mark.usefixtures("no_free_commits")
def test_a_group_is_committed_when_it_is_old_or_large_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever comes first; here each alone."""
    monkeypatch.setattr(units_module, "UNIT_SECONDS", 3600.0)
    made = Made(tmp_path)
    made.unit(1)
    made.unit(2)
    assert made.commits == 0
    monkeypatch.setattr(units_module, "UNIT_BYTES", 24)
    made.unit(3)
    assert (made.commits, made.rows()) == (1, [1, 2, 3])
    made.unit(4)
    assert made.commits == 1
    monkeypatch.setattr(units_module, "UNIT_SECONDS", 0.0)
    made.unit(5)
    assert (made.commits, made.rows()) == (2, [1, 2, 3, 4, 5])
    made.units.abort()


@pytest.mark.usefixtures("no_free_commits")
def test_a_group_is_committed_while_nobody_comes_back_and_leaves_what_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline waits for its source: what ended before is published, what has just begun is not."""
    monkeypatch.setattr(units_module, "UNIT_SECONDS", 0.2)
    made = Made(tmp_path)
    made.unit(1)
    made.units.write([{"n": 2}])
    until(lambda: made.commits, "the group to be committed")
    assert made.rows() == [1]
    made.units.finish()
    assert made.rows() == [1, 2]
    assert not watchers()


@pytest.mark.usefixtures("no_free_commits")
@pytest.mark.parametrize("refused", [True, False])
def test_what_goes_wrong_meanwhile_is_raised_when_the_pipeline_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """Nobody may go on and write to a table that has refused its rows."""
    monkeypatch.setattr(units_module, "UNIT_SECONDS", 0.2)
    first = Made(tmp_path, 2)
    first.unit(1)
    first.units.finish()
    made = Made(tmp_path, 3)
    made.unit(2)
    if refused:
        made.refuse = "the job was cancelled"
    else:
        write_deltalake(str(made.lake.path(TABLE)), pa.table({"n": [9]}), mode="append")
    watcher = made.units._watcher
    assert watcher is not None
    until(lambda: not watcher.is_alive(), "the commit to fail")
    with pytest.raises(Cancelled if refused else TableMovedError):
        made.units.write([{"n": 3}])
    assert made.units.refused is refused
    made.units.abort()
    assert made.rows() == ([1] if refused else [1, 9])
    assert not watchers()


@pytest.mark.usefixtures("no_free_commits")
def test_a_failed_pipeline_keeps_its_whole_units(tmp_path: Path) -> None:
    """And nothing of the one that it was at."""
    made = Made(tmp_path)
    made.unit(1)
    made.units.state()["last"] = 2
    made.units.write([{"n": 2}])
    made.units.keep_whole()
    made.units.abort()
    assert made.rows() == [1]
    assert Made(tmp_path, 2).units.state() == {"last": 1}
    assert {file.name for file in made.lake.path(TABLE).glob("*.parquet")} == {
        Path(uri).name for uri in made.lake.load(TABLE).file_uris()
    }


def test_after_a_commit_that_failed_no_state_claims_its_rows(tmp_path: Path) -> None:
    """The rows are gone; a state or a mark without them would leave them out for ever."""
    made = Made(tmp_path)
    made.unit(1)
    write_deltalake(str(made.lake.path(TABLE)), pa.table({"n": [9]}), mode="append")
    with pytest.raises(TableMovedError):
        made.unit(2)
    assert made.units.commit_failed
    made.units.keep_whole()
    made.units.abort()
    assert made.rows() == [1, 9]
    assert Made(tmp_path, 2).units.state() == {"last": 1}


def test_a_full_refresh_is_one_commit_and_keeps_nothing_when_it_fails(tmp_path: Path) -> None:
    """It replaces everything, or nothing."""
    before = Made(tmp_path)
    before.unit(1)
    before.units.finish()
    failed = Made(tmp_path, 2, full_refresh=True)
    assert failed.units.state() == {}
    failed.unit(5)
    failed.units.keep_whole()
    failed.units.abort()
    assert before.rows() == [1]
    made = Made(tmp_path, 3, full_refresh=True)
    made.unit(6)
    made.unit(7)
    assert made.commits == 0
    made.units.finish()
    assert (made.commits, made.rows()) == (1, [6, 7])
    assert Made(tmp_path, 4).units.state() == {"last": 7}


def test_a_full_refresh_that_finds_nothing_but_a_state_empties_the_table(tmp_path: Path) -> None:
    """The source, read anew, has no rows; the position says that it was read."""
    before = Made(tmp_path)
    before.unit(1)
    before.units.finish()
    made = Made(tmp_path, 2, full_refresh=True)
    made.units.state()["last"] = 9
    made.units.finish()
    assert made.rows() == []
    assert Made(tmp_path, 3).units.state() == {"last": 9}


def test_the_state_is_a_copy_that_changes_nothing_until_it_is_committed(tmp_path: Path) -> None:
    """Also deep inside; and it is read anew by the next attempt."""
    made = Made(tmp_path)
    made.units.state()["seen"] = {"ids": [1]}
    made.units.write([{"n": 1}])
    made.units.finish()
    later = Made(tmp_path, 2)
    later.units.state()["seen"]["ids"].append(2)
    assert later.units.state_changed
    assert later.units.open().state == {"seen": {"ids": [1]}}
    later.units.abort()
    assert Made(tmp_path, 3).units.state() == {"seen": {"ids": [1]}}


def test_a_state_under_overwrite_is_refused_before_the_table_is_touched(tmp_path: Path) -> None:
    """The pipeline has to be declared otherwise; nothing of it may have happened."""
    with pytest.raises(StateModeError):
        Made(tmp_path, mode="overwrite").units.state()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({1: 2}, "its key 1 is no text"),
        ({"deep": [{"er": {2.5: 1}}]}, "its key 2.5 is no text"),
        (float("inf"), "inf is no JSON number"),
        ([1, (2, float("nan"))], "nan is no JSON number"),
        (b"x", "b'x' is of type bytes"),
        ({1, 2}, "{1, 2} is of type set"),
    ],
)
def test_a_value_that_would_not_come_back_is_named_by_its_key(value: Any, why: str) -> None:
    """JSON would refuse it without saying where, or give something else back."""
    with pytest.raises(StateValueError) as caught:
        state_text({"fine": 1, "here": value})
    assert caught.value.what == f"task.state['here'] cannot be kept: {why}"
    with pytest.raises(StateValueError, match="no text"):
        state_text({1: "x"})  # type: ignore[dict-item]


def test_the_same_state_is_the_same_text() -> None:
    """Whatever the order in which it was filled: else an unchanged state would end a unit."""
    kept = {"a": [1, 2.5, None, True, "ü", {"x": {}}], "b": 2**70}
    assert state_text(kept) == state_text(dict(reversed(kept.items())))
    with pytest.raises(StateValueError, match=r"most of it is task\.state\['large'\]"):
        state_text({"large": "x" * units_module.STATE_CHARS_MAX, "small": 1})
