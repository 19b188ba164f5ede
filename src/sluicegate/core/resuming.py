"""What a resume runs again and what it keeps. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sluicegate.core.job import Job, TaskRecord, TaskStatus
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.receipt import Kept


@dataclass(frozen=True, slots=True)
class RunAgain:
    """A pipeline that a resume would run. `after`: what it committed and goes on after; `None`: it starts over."""

    pipeline: str
    after: Kept | None = None


@dataclass(frozen=True, slots=True)
class ResumePreview:
    """What a resume would do: outputs that stay as they are, and pipelines that run, in plan order."""

    kept: tuple[Kept, ...]
    runs: tuple[RunAgain, ...]


def what_is_left(job: Job, plan: Plan, tasks: Sequence[TaskRecord]) -> Plan:
    """Return the part of a plan that did not succeed, or whose tables were put back since."""
    done = {
        task.pipeline
        for task in tasks
        if task.status is TaskStatus.SUCCESS and task.pipeline not in job.rolled_back
    }
    return Plan(
        tuple(
            PlanStep(step.pipeline, tuple(d for d in step.depends_on if d not in done))
            for step in plan.steps
            if step.pipeline not in done
        ),
        by_layer=plan.by_layer,
    )


def preview(job: Job, plan: Plan, tasks: Sequence[TaskRecord]) -> ResumePreview:
    """Return what a resume of an ended job would do."""
    left = what_is_left(job, plan, tasks)
    published = {
        task.pipeline: Kept(task.pipeline, task.stats.version, task.stats.rows)
        for task in tasks
        if task.stats.version is not None and task.pipeline not in job.rolled_back
    }
    return ResumePreview(
        kept=tuple(kept for table, kept in published.items() if table not in left.pipelines),
        runs=tuple(
            # In a full refresh the one commit is the last: there is nothing to go on after.
            RunAgain(pipeline, None if job.full_refresh else published.get(pipeline))
            for pipeline in left.pipelines
        ),
    )
