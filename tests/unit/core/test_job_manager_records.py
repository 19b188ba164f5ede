"""What the manager's verbs leave behind for whoever looks later: whole headers, events and lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fakes import T0
from managed import CATALOG, PLAN, Managed, task

from sluicegate.core.job import (
    Event,
    Job,
    JobStatus,
    LogEntry,
    Rollback,
    StopMode,
    TableRollback,
    TaskNotFoundError,
    TaskNotRunningError,
    TaskStats,
    TaskStatus,
    TaskStopRequest,
)
from sluicegate.core.job_manager import JobManager, RunRequest, StopRequest
from sluicegate.core.plan import PipelineNotFoundError, Plan, PlanStep
from sluicegate.core.ports import Change

NOW = T0 + timedelta(seconds=60)
LATER = NOW + timedelta(seconds=60)
ASKED: dict[str, Any] = {
    "job_name": "nightly",
    "params": {"day": 1},
    "labels": {"team": "x"},
    "priority": 3,
    "timeout_seconds": 60.0,
    "full_refresh": True,
}
DONE = task("bronze.a", TaskStatus.SUCCESS)
BROKEN = task("silver.a", TaskStatus.FAILED)

owners = pytest.mark.parametrize(("owner", "lease"), [("here", 1), (None, 0)])


@pytest.fixture
def world() -> Managed:
    """A manager, a minute after the jobs were created that a test stores."""
    world = Managed()
    world.clock.pass_(60)
    return world


def failed(world: Managed) -> Job:
    """A job of before that has failed, under an older version of the code."""
    counts = {"completed_tasks": 1, "failed_tasks": 1}
    old: dict[str, Any] = {"user_id": "ann", "code_version": "v0", "completed_at": T0}
    return world.stored(DONE, BROKEN, status=JobStatus.FAILED, **ASKED, **counts, **old)


def created(job_id: str) -> Event:
    return Event("job.created", job_id, NOW, data={"status": "pending"})


# ------------------------------------------------------------------ new jobs


@owners
def test_a_new_job_is_all_that_was_asked_for(world: Managed, owner: str | None, lease: int) -> None:
    """Whose it is from the start spares a claim; without an owner the first to see it claims it."""
    world.manager.owner = lambda: owner
    request = RunRequest(("silver.a",), with_dependencies=True, **ASKED)
    job, _ = world.manager.create(request, user_id="ann", trigger="cli", idempotency_key="k")
    assert job == Job(
        job_id=job.job_id,
        status=JobStatus.PENDING,
        created_at=NOW,
        total_tasks=2,
        user_id="ann",
        trigger="cli",
        code_version="v1",
        idempotency_key="k",
        executor_id=owner,
        lease=lease,
        version=1,
        **ASKED,
    )
    assert world.store.plan(job.job_id) == PLAN
    assert world.told() == ([created(job.job_id)], [])


@owners
@pytest.mark.parametrize(
    ("verb", "left"), [("rerun", PLAN), ("resume", Plan((PlanStep("silver.a"),)))]
)
def test_a_job_that_is_run_again_is_asked_for_as_before(
    world: Managed, verb: str, left: Plan, owner: str | None, lease: int
) -> None:
    """But by whoever asks now, and with the code of now."""
    world.manager.owner = lambda: owner
    before = failed(world)
    job = getattr(world.manager, verb)("j", user_id="ben")
    assert job == Job(
        job_id=job.job_id,
        status=JobStatus.PENDING,
        created_at=NOW,
        total_tasks=len(left.steps),
        user_id="ben",
        trigger=verb,
        resumed_from="j" if verb == "resume" else None,
        code_version="v1",
        executor_id=owner,
        lease=lease,
        version=1,
        **ASKED,
    )
    assert world.store.get(job.job_id) == job
    assert world.store.plan(job.job_id) == left
    assert world.woken == [job.job_id]
    if verb == "rerun":
        assert world.store.get("j") == replace(before, version=1)
        assert world.told() == ([created(job.job_id)], [])
    else:
        assert world.store.get("j") == replace(before, resumed_by=job.job_id, version=2)
        assert world.told() == (
            [Event("job.resumed", "j", NOW, data={"resumed_by": job.job_id}), created(job.job_id)],
            [LogEntry("j", NOW, f"resumed by ben as job {job.job_id}")],
        )


def test_a_resume_that_has_nothing_to_do_belongs_to_nobody(world: Managed) -> None:
    """It is over when it is created: an executor that were named would have to let go of it."""
    world.manager.owner = lambda: "here"
    finished = replace(BROKEN, status=TaskStatus.SUCCESS)
    world.stored(DONE, finished, status=JobStatus.CANCELLED, completed_at=T0)
    job = world.manager.resume("j", user_id="ben")
    assert (job.status, job.completed_at, job.executor_id) == (JobStatus.SUCCESS, NOW, None)
    events, _ = world.told()
    assert events[1:] == [
        created(job.job_id),
        Event("job.finished", job.job_id, NOW, data={"status": "success"}),
    ]


@pytest.mark.parametrize("verb", [JobManager.rerun, JobManager.resume])
def test_what_is_not_in_the_code_any_more_is_named(
    world: Managed, verb: Callable[..., Job]
) -> None:
    """Nothing is created; where no code was loaded, whoever executes it has to know."""
    failed(world)
    gone = {id_: spec for id_, spec in CATALOG.specs.items() if id_ != "silver.a"}
    world.manager.catalog = replace(CATALOG, specs=gone, target="pipelines.py")
    with pytest.raises(PipelineNotFoundError) as refused:
        verb(world.manager, "j", user_id="ben")
    assert refused.value.pipeline == "silver.a"
    assert list(world.store.memory.jobs) == ["j"]
    world.manager.catalog = replace(CATALOG, specs=gone)
    assert verb(world.manager, "j", user_id="ben").total_tasks


# ------------------------------------------------------------------ stops and rollbacks


def test_a_stop_of_one_task_tells_who_stopped_what_and_why(world: Managed) -> None:
    """The job goes on, so its own status will not tell; and an escalation keeps who stopped it first."""
    world.stored(task("bronze.a", TaskStatus.RUNNING), running_tasks=1)
    stop = TaskStopRequest(NOW, "ann", "wrong day")
    details = world.manager.cancel_task("j", "t-bronze.a", StopRequest("ann", "wrong day"))
    assert details.job.task_stops == {"t-bronze.a": stop}
    world.clock.pass_(60)
    force = StopRequest("ben", mode=StopMode.FORCE)
    details = world.manager.cancel_task("j", "t-bronze.a", force)
    assert details.job.task_stops == {"t-bronze.a": replace(stop, mode=StopMode.FORCE)}
    who = {"cause": "user", "pipeline": "bronze.a"}
    first = who | {"requested_by": "ann", "reason": "wrong day", "mode": "graceful"}
    second = who | {"requested_by": "ben", "reason": None, "mode": "force"}
    line = "bronze.a: stop (graceful) requested by ann: wrong day"
    assert world.told() == (
        [
            Event("task.stopping", "j", NOW, "t-bronze.a", first),
            Event("task.stopping", "j", LATER, "t-bronze.a", second),
        ],
        [
            LogEntry("j", NOW, line, "t-bronze.a"),
            LogEntry("j", LATER, "bronze.a: stop (force) requested by ben", "t-bronze.a"),
        ],
    )
    assert world.woken == ["j", "j"]


@pytest.mark.parametrize("ended", [TaskStatus.SUCCESS, TaskStatus.CANCELLED])
def test_a_task_that_ends_as_its_stop_is_stored_was_stopped_or_was_not(
    world: Managed, ended: TaskStatus
) -> None:
    """Its last commit had been permitted: who is told that it was stopped would not look at its table."""
    running = task("bronze.a", TaskStatus.RUNNING)
    world.stored(running, running_tasks=1)

    def end(_job_id: str, job: Job | None) -> None:
        assert job is not None
        over = replace(running, status=ended)
        world.store.commit(
            [Change(replace(job, running_tasks=0), made_from=job.version, tasks=(over,))]
        )

    world.manager.wake = end
    if ended is TaskStatus.CANCELLED:
        [stopped] = world.manager.cancel_task("j", running.task_id, StopRequest("ann")).tasks
        assert stopped.status is ended
    else:
        with pytest.raises(TaskNotRunningError) as refused:
            world.manager.cancel_task("j", running.task_id, StopRequest("ann"))
        assert (refused.value.task_id, refused.value.status) == (running.task_id, ended)


def test_a_stop_of_a_task_that_is_not_there_changes_nothing(world: Managed) -> None:
    """A task of another job is none of this one."""
    world.stored(task("bronze.a", TaskStatus.RUNNING), running_tasks=1)
    other = world.stored(job_id="other", running_tasks=1)
    with pytest.raises(TaskNotFoundError) as refused:
        world.manager.cancel_task("other", "t-bronze.a", StopRequest("ann"))
    assert (refused.value.job_id, refused.value.task_id) == ("other", "t-bronze.a")
    assert world.store.get("other") == replace(other, version=1)
    assert world.woken == []


def test_a_rollback_is_kept_with_who_asked_for_it(world: Managed) -> None:
    """It takes away what others may have read."""
    changed = replace(DONE, stats=TaskStats(rows=1, units=1, version=3))
    world.stored(changed, status=JobStatus.FAILED, completed_at=T0)
    world.tables.rollbacks = {"bronze.a": TableRollback("bronze.a", 3, 2)}
    rollback = world.manager.rollback("j", requested_by="root").rollback
    assert rollback is not None
    steps = (TableRollback("bronze.a", 3, 2),)
    assert rollback == Rollback(rollback.rollback_id, NOW, "root", steps, finished_at=NOW)
