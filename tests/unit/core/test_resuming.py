"""What a resume runs again and what it keeps."""

from __future__ import annotations

import pytest
from fakes import T0

from sluicegate.core.job import Job, JobStatus, TaskRecord, TaskStatus
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.resuming import what_is_left

A, B, SA, GA = "bronze.a", "bronze.b", "silver.a", "gold.a"
STEPS = (PlanStep(A), PlanStep(B), PlanStep(SA, (A, B)), PlanStep(GA, (SA,)))


@pytest.mark.parametrize("by_layer", [True, False])
@pytest.mark.parametrize(
    ("succeeded", "left"),
    [
        ([], STEPS),
        ([A], (PlanStep(B), PlanStep(SA, (B,)), PlanStep(GA, (SA,)))),
        ([A, B], (PlanStep(SA), PlanStep(GA, (SA,)))),
        ([A, B, SA, GA], ()),
    ],
)
def test_what_is_left_waits_for_what_is_left(
    succeeded: list[str], left: tuple[PlanStep, ...], by_layer: bool
) -> None:
    """In the order of before, layer after layer if it was so: a step must not overtake what it reads."""
    job = Job("j", "j", JobStatus.FAILED, T0, len(STEPS))
    tasks = [TaskRecord(f"t-{p}", "j", p, TaskStatus.SUCCESS) for p in succeeded]
    tasks += [TaskRecord("t", "j", GA, TaskStatus.FAILED)] if left else []
    assert what_is_left(job, Plan(STEPS, by_layer), tasks) == Plan(left, by_layer)
