"""The questions that are asked about a job and a task."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fakes import T0

from sluicegate.core.job import Job, JobStatus, TaskRecord, TaskStatus


@pytest.mark.parametrize(
    ("started", "completed", "seconds"),
    [
        (None, None, None),
        (None, 40, None),
        (10, None, 50.0),
        (10, 40, 30.0),
        (40, 10, 0.0),
    ],
)
def test_time_counts_from_the_start_to_the_end_or_to_now(
    started: float | None, completed: float | None, seconds: float | None
) -> None:
    """What never started took no time; and where two clocks disagree, nothing takes less than none."""
    started_at, completed_at = (
        None if after is None else T0 + timedelta(seconds=after) for after in (started, completed)
    )
    times: dict[str, Any] = {"started_at": started_at, "completed_at": completed_at}
    job = Job("j", "j", JobStatus.RUNNING, T0, 1, **times)
    task = TaskRecord("t", "j", "bronze.a", TaskStatus.RUNNING, **times)
    now = T0 + timedelta(seconds=60)
    assert (job.duration_seconds(now), task.duration_seconds(now)) == (seconds, seconds)
