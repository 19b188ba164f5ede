"""Copies of records: the same as by `dataclasses.replace`, for every kind there is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
from fakes import T0

from sluicegate.core.job import Event, Job, JobStatus, LogEntry, TaskRecord, TaskStats, TaskStatus
from sluicegate.core.ports import Change, TaskEnded, Writer
from sluicegate.core.records import replace

JOB = Job("j", "n", JobStatus.RUNNING, T0, 3, labels={"team": "x"}, params={"day": 1})
TASK = TaskRecord("t", "j", "bronze.a", TaskStatus.RUNNING, started_at=T0)


@dataclass(frozen=True)
class Open:
    """Without slots."""

    a: int
    b: int = 2


@dataclass(frozen=True, slots=True)
class Child(LogEntry):
    """Its fields are partly those of another class."""

    more: int = 0


@dataclass(frozen=True, slots=True)
class Checked:
    """Does something when it is made."""

    a: int
    doubled: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "doubled", 2 * self.a)


CASES = [
    (JOB, {"status": JobStatus.SUCCESS, "running_tasks": 2, "version": 7}),
    (JOB, {}),
    (TASK, {"stats": TaskStats(rows=3), "attempt": 2, "completed_at": T0}),
    (Event("task.started", "j", T0, "t", {"a": 1}), {"event_id": 5}),
    (Writer("bronze.a"), {"epoch": 4, "job_id": "j"}),
    (Change(JOB, 3, tasks=(TASK,)), {"job": JOB}),
    (TaskEnded("t", "success"), {"outcome": "lost"}),
    (Open(1), {"b": 3}),
    (Child("j", T0, "m", more=1), {"message": "n"}),
    (Checked(1), {"a": 4}),
]


@pytest.mark.parametrize(
    ("record", "changes"), CASES, ids=[type(record).__name__ for record, _ in CASES]
)
def test_a_copy_is_as_the_library_makes_it(record: Any, changes: dict[str, Any]) -> None:
    """All fields, and the one that was copied stays as it was."""
    before = dataclasses.replace(record)
    copy = replace(record, **changes)
    assert copy == dataclasses.replace(record, **changes)
    assert type(copy) is type(record)
    assert copy is not record
    assert record == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(copy, dataclasses.fields(record)[0].name, 1)


def test_a_field_that_is_none_is_refused() -> None:
    """A name that was mistyped must not be lost."""
    with pytest.raises(KeyError, match="stauts"):
        replace(JOB, stauts=JobStatus.SUCCESS)
