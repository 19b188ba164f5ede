"""A wall clock that jumps while a job stops: the ladder runs on the monotonic clock, and the receipt stays sane."""

from __future__ import annotations

import pytest
from executor_world import World, spec

from sluicegate.core.cancellation import Stage
from sluicegate.core.job import JobStatus, TaskStatus

A = "bronze.a"
DAY_SECONDS = 86_400.0
JUMPS = [-DAY_SECONDS, -3.0, 3.0, DAY_SECONDS]
# The default ladder, in seconds from the stop.
LADDER = {0.0: Stage.CHECKPOINT, 5.0: Stage.INTERRUPT, 10.0: Stage.TERMINATE, 15.0: Stage.KILL}


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("jump_at", [0.0, 4.5, 9.5])
def test_the_ladder_is_climbed_at_its_pace(jump: float, jump_at: float) -> None:
    """A jump forward must not kill a task that was about to clean up; one backward must not let it run on."""
    world = World(spec(A))
    job_id = world.run()
    task_id = world.live(A).task_id
    world.cancel(job_id)
    reached = []
    for half_second in range(31):
        if half_second / 2 == jump_at:
            world.clock.jump(jump)
        world.settle()
        reached.append((half_second / 2, world.stages(task_id)[-1]))
        world.later(0.5)
    first = {stage: at for at, stage in reversed(reached)}
    assert first == {stage: at for at, stage in LADDER.items()}
    assert world.stages(task_id) == list(Stage)


@pytest.mark.parametrize("jump", JUMPS)
def test_the_receipt_of_a_stop_over_a_jump_holds_no_negative_time(jump: float) -> None:
    """Nobody stops before he was asked."""
    world = World(spec(A))
    job_id = world.run()
    world.cancel(job_id)
    world.later(0.5)
    world.clock.jump(jump)
    world.later(0.5)
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    job = world.job(job_id)
    assert (job.status, job.stopping) == (JobStatus.CANCELLED, False)
    assert job.cancellation is not None
    assert (job.cancellation.latency_ms or 0.0) >= 0.0
    [stopped] = job.cancellation.stopped
    assert stopped.latency_ms >= 0.0


@pytest.mark.parametrize("jump", JUMPS)
def test_a_tasks_own_time_is_not_shortened_or_stretched(jump: float) -> None:
    """`timeout=` counts what passes, not what a clock shows; and so does the pause before a retry."""
    world = World(spec(A, timeout_seconds=100.0, retries=1, retry_delay_seconds=50.0))
    job_id = world.run()
    first = world.live(A).task_id
    world.clock.jump(jump)
    world.later(99)
    assert world.stages(first) == []
    world.later(1)
    assert world.stages(first) == [Stage.CHECKPOINT]
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    assert world.task(job_id, A).status is TaskStatus.PENDING
    world.clock.jump(-2 * jump)
    world.later(49)
    assert world.task(job_id, A).status is TaskStatus.PENDING
    world.later(1)
    assert world.task(job_id, A).status is TaskStatus.RUNNING
