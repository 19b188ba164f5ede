"""One task stopped alone, a table that is busy, a task that stalls, work elsewhere: the executor tick by tick."""

from __future__ import annotations

import pytest
from executor_world import STATS, Made, World, spec

from sluicegate.core.cancellation import Stage
from sluicegate.core.job import (
    JobNotRunningError,
    JobStatus,
    StopMode,
    TaskNotFoundError,
    TaskNotRunningError,
    TaskProgress,
    TaskStatus,
)
from sluicegate.core.ports import (
    CheckpointsPassed,
    RemoteStopped,
    Settled,
    ShieldChanged,
    TaskBegan,
    TaskProgressed,
    UnitCommitted,
)
from sluicegate.core.receipt import Cause, RemoteStop
from sluicegate.core.transitions import StopRequest

A, B, SA, SB = "bronze.a", "bronze.b", "silver.a", "silver.b"


def stop_task(world: World, job_id: str, pipeline: str, mode: StopMode = StopMode.GRACEFUL) -> str:
    task_id = world.task(job_id, pipeline).task_id
    world.manager.cancel_task(job_id, task_id, StopRequest("ben", "wrong day", mode))
    world.settle()
    return task_id


# ------------------------------------------------------------------ one task alone


def test_one_task_is_stopped_and_what_depends_on_it_does_not_run(made: Made) -> None:
    """The rest of the job goes on, and its end says that a part is missing."""
    world = made(spec(A), spec(B), spec(SA, A), spec(SB, B))
    job_id = world.run()
    task_id = stop_task(world, job_id, A)
    assert world.stages(task_id) == [Stage.CHECKPOINT]
    assert world.status(job_id) is JobStatus.RUNNING
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    world.end(B)
    assert world.running == [SB]
    world.end(SB)
    job = world.job(job_id)
    assert (job.status, job.cancelled_tasks, job.completed_tasks) == (JobStatus.PARTIAL, 1, 2)
    stop = world.task(job_id, A).stop
    assert stop is not None
    assert (stop.cause, stop.requested_by, stop.reason) == ("user", "ben", "wrong day")
    assert job.cancellation is None
    world.is_idle()


def test_a_job_whose_tasks_were_only_stopped_alone_is_cancelled(made: Made) -> None:
    """Section 1 of the contract: nothing succeeded, nothing failed."""
    world = made(spec(A), spec(SA, A))
    job_id = world.run()
    stop_task(world, job_id, A)
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    assert world.status(job_id) is JobStatus.CANCELLED
    assert world.job(job_id).completed_at is not None


def test_its_commit_is_refused_from_the_decision_on(made: Made) -> None:
    """Also when the executor has not heard of the decision yet."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.task(job_id, A).task_id
    world.manager.wake = lambda *_: None
    world.manager.cancel_task(job_id, task_id, StopRequest("ben"))
    world.ask_permit(A)
    assert world.workers.permits == [(task_id, "the task is being stopped")]
    assert world.stages(task_id) == [Stage.CHECKPOINT], "it is heard of with the permit"


def test_a_retry_does_not_bring_it_back(made: Made) -> None:
    """Whatever it raised: it is over."""
    world = made(spec(A, retries=3))
    job_id = world.run()
    stop_task(world, job_id, A)
    world.end(A, "failed", error="ValueError: closed")
    assert world.tasks(job_id) == {A: "cancelled"}
    assert world.handed == [A]


def test_a_task_that_was_stopped_in_its_pause_is_ended_once(made: Made) -> None:
    """Its end is on its way to a slow store when the pause is over and the next stop is heard of: it counts once."""
    world = made(spec(A, retries=3, retry_delay_seconds=5.0), spec(B), capacity=1)
    job_id = world.run()
    world.end(A, "failed", error="no")
    assert world.running == [B]
    world.manager.cancel_task(job_id, world.task(job_id, A).task_id, StopRequest("ben"))
    world.ledger.held = True
    world.settle()  # decides the end of A
    world.later(5)  # the pause is over
    world.cancel_task_elsewhere(job_id, B)
    world.executor.wake(job_id, world.job(job_id))
    world.settle()
    world.ledger.held = False
    world.ledger.release()
    world.settle()
    world.end(B, "cancelled", stage=Stage.CHECKPOINT)
    job = world.job(job_id)
    assert (job.status, job.cancelled_tasks) == (JobStatus.CANCELLED, 2)
    world.is_sound()
    world.is_idle()


def test_a_stop_in_the_pause_before_a_retry_ends_it_there(made: Made) -> None:
    """No worker has it; nobody must wait for the pause."""
    world = made(spec(A, retries=3, retry_delay_seconds=60.0), spec(B))
    job_id = world.run()
    world.end(A, "failed", error="ValueError: closed")
    assert world.tasks(job_id)[A] == "pending"
    stop_task(world, job_id, A)
    assert world.tasks(job_id)[A] == "cancelled"
    world.end(B)
    assert world.status(job_id) is JobStatus.PARTIAL
    world.later(61)
    assert world.handed == [A, B]
    world.is_idle()


def test_a_stop_in_the_pause_is_acted_on_once_the_store_is_back(made: Made) -> None:
    """It is heard of once. What the end of the task needs to know of its table can only be read later."""
    world = made(spec(A, retries=3, retry_delay_seconds=60.0))
    job_id = world.run()
    world.end(A, "failed", error="ValueError: closed")
    world.executor.tables_freed([A])  # as when others have written it
    world.settle()
    world.manager.cancel_task(job_id, world.task(job_id, A).task_id, StopRequest("ben"))
    world.store.unavailable = True
    world.settle()
    world.store.unavailable = False
    assert world.tasks(job_id) == {A: "pending"}
    world.later(5)
    assert world.tasks(job_id) == {A: "cancelled"}
    assert world.status(job_id) is JobStatus.CANCELLED
    world.is_sound()
    world.later(60)  # the pause is over
    world.is_idle()


def test_a_stop_while_its_retry_is_on_the_way_to_the_store(made: Made) -> None:
    """The start loses, and the task ends all the same."""
    world = made(spec(A, retries=3))
    job_id = world.run()
    world.end(A, "failed", error="x", settle=False)
    world.executor.tick(0)  # its end is stored; the next attempt is about to be
    world.ledger.held = True
    world.executor.tick(0)
    task_id = world.task(job_id, A).task_id
    world.ledger.held = False
    world.manager.cancel_task(job_id, task_id, StopRequest("ben"))
    world.settle()
    if world.running:
        world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    assert world.tasks(job_id) == {A: "cancelled"}
    world.is_idle()


def test_force_kills_it_at_once_and_escalates(made: Made) -> None:
    """A graceful stop that takes too long can be made a kill; never the other way round."""
    world = made(spec(A))
    job_id = world.run()
    task_id = stop_task(world, job_id, A)
    with pytest.raises(TaskNotRunningError, match="being stopped already"):
        stop_task(world, job_id, A)
    stop_task(world, job_id, A, StopMode.FORCE)
    assert world.stages(task_id) == [Stage.CHECKPOINT, Stage.KILL]
    world.cancel(job_id)
    assert world.executor._running._stops[task_id].mode is StopMode.FORCE
    world.end(A, "lost", stage=Stage.KILL)
    assert world.tasks(job_id) == {A: "cancelled"}


def test_what_cannot_be_stopped_alone_says_why(made: Made) -> None:
    """No such task, ended, or the whole job stopped."""
    world = made(spec(A), spec(B))
    job_id = world.run()
    with pytest.raises(TaskNotFoundError):
        world.manager.cancel_task(job_id, "nothing", StopRequest("ben"))
    world.end(A)
    with pytest.raises(TaskNotRunningError, match="success"):
        stop_task(world, job_id, A)
    world.cancel(job_id)
    with pytest.raises(JobNotRunningError):
        stop_task(world, job_id, B)
    world.end(B, "cancelled", stage=Stage.CHECKPOINT)


def test_a_stop_alone_survives_a_crash(made: Made) -> None:
    """It is in the header: whoever takes the job up ends the task instead of running it again."""
    world = made(spec(A), spec(B))
    job_id = world.run()
    stop_task(world, job_id, A)
    world.boot()
    assert world.tasks(job_id)[A] == "cancelled"
    assert world.running == [B]
    world.end(B)
    assert world.status(job_id) is JobStatus.PARTIAL


def test_all_committed_before_it_took_effect_is_a_success(made: Made) -> None:
    """Statuses tell the truth."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.ask_permit(A)
    world.tables.settled[task_id] = Settled(STATS, complete=True)
    stop_task(world, job_id, A, StopMode.FORCE)
    world.end(A, "lost", stage=Stage.KILL)
    assert world.status(job_id) is JobStatus.SUCCESS


# ------------------------------------------------------------------ a table that is busy


def test_reject_fails_with_table_busy_and_holds_no_worker(made: Made) -> None:
    """It neither waits nor writes."""
    world = made(spec(A, on_conflict="reject"), spec(SA, A))
    first = world.run(A)
    second = world.run(A, SA)
    task = world.task(second, A)
    assert task.status is TaskStatus.FAILED
    assert (task.error or "").startswith(f"table_busy: {A} is being written by job {first}")
    assert world.status(second) is JobStatus.FAILED
    assert world.running == [A]
    world.end(A)
    assert world.status(first) is JobStatus.SUCCESS
    world.is_idle()


def test_a_rejected_task_with_retries_tries_again(made: Made) -> None:
    """Retries are for what passes, and a busy table does."""
    world = made(spec(A, on_conflict="reject", retries=1, retry_delay_seconds=30.0))
    world.run(A)
    second = world.run(A)
    assert world.tasks(second) == {A: "pending"}
    world.end(A)
    world.later(31)
    world.end(A)
    assert world.tasks(second) == {A: "success"}


def test_cancel_running_stops_the_whole_other_job(made: Made) -> None:
    """Its receipt says by whom and why; the newer one starts when the table is free."""
    world = made(spec(A, on_conflict="cancel_running"), spec(B))
    first = world.run(A, B)
    second = world.run(A)
    old = world.job(first)
    assert old.status is JobStatus.CANCELLED
    receipt = old.cancellation
    assert receipt is not None
    assert (receipt.cause, receipt.requested_by) == (Cause.SUPERSEDED, "ann")
    assert second in (receipt.reason or "")
    world.end(A, "cancelled", job_id=first, stage=Stage.CHECKPOINT)
    world.end(B, "cancelled", job_id=first, stage=Stage.CHECKPOINT)
    assert world.running == [A]
    world.end(A)
    assert world.status(second) is JobStatus.SUCCESS
    world.is_idle()


# ------------------------------------------------------------------ a task that stalls


def test_no_checkpoint_and_no_progress_is_a_stall(made: Made) -> None:
    """The attempt fails with the cause, and a retry follows."""
    world = made(spec(A, stall_timeout_seconds=10.0, retries=1))
    job_id = world.run()
    task_id = world.live(A).task_id
    world.later(59)  # its worker still loads the pipelines
    world.workers.tell(TaskBegan(task_id))
    world.settle()
    for beat in (
        CheckpointsPassed(task_id, 0.1, 0.01),
        TaskProgressed(task_id, TaskProgress(1)),
        UnitCommitted(task_id, STATS),
    ):
        world.later(9)
        world.workers.tell(beat)
        world.settle()
    assert world.stages(task_id) == []
    world.later(9.9)
    assert world.stages(task_id) == []
    world.later(0.2)
    assert world.stages(task_id) == [Stage.CHECKPOINT]
    world.later(20)
    world.end(A, "lost", stage=Stage.KILL)
    assert world.task(job_id, A).attempt == 2
    world.workers.tell(TaskBegan(task_id))
    world.settle()
    world.later(11)
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    task = world.task(job_id, A)
    assert (task.status, task.stop and task.stop.cause) == (TaskStatus.FAILED, "stall")
    assert task.error == "it passed no checkpoint and made no progress for 10 s"
    world.is_idle()


def test_a_worker_that_loads_for_ever_is_a_stall_too(made: Made) -> None:
    """Its pipelines may hang at import; they get a minute."""
    world = made(spec(A, stall_timeout_seconds=10.0))
    job_id = world.run()
    world.later(59)
    assert world.stages(world.live(A).task_id) == []
    world.later(2)
    assert world.stages(world.live(A).task_id) == [Stage.CHECKPOINT]
    world.end(A, "lost", stage=Stage.KILL)
    assert world.status(job_id) is JobStatus.FAILED


def test_a_shield_is_no_stall(made: Made) -> None:
    """An upload has no checkpoints; its own timeout bounds it."""
    world = made(spec(A, stall_timeout_seconds=10.0))
    world.run()
    task_id = world.live(A).task_id
    world.workers.tell(TaskBegan(task_id))
    world.workers.tell(ShieldChanged(task_id, 60.0))
    world.settle()
    world.later(50)
    assert world.stages(task_id) == []
    world.workers.tell(ShieldChanged(task_id, None))
    world.settle()
    world.later(9)
    assert world.stages(task_id) == []
    world.later(2)
    assert world.stages(task_id) == [Stage.CHECKPOINT]
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)


# ------------------------------------------------------------------ work elsewhere


def test_what_became_of_work_elsewhere_is_in_the_receipt(made: Made) -> None:
    """What was never called stays unconfirmed; what was over before is not named."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.live(A).task_id
    world.workers.tell(RemoteStopped(task_id, 1, "query", "unconfirmed", 0))
    world.workers.tell(RemoteStopped(task_id, 2, "upload", "unconfirmed", 0))
    world.workers.tell(RemoteStopped(task_id, 3, "done", "unconfirmed", 0))
    world.workers.tell(RemoteStopped(task_id, 3, "done", "forgotten", 0))
    world.workers.tell(RemoteStopped(task_id, 4, "quick", "forgotten", 0))  # never told of before
    world.cancel(job_id)
    world.workers.tell(RemoteStopped(task_id, 1, "query", "unconfirmed", 1))
    world.workers.tell(RemoteStopped(task_id, 1, "query", "confirmed", 2))
    world.settle()
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    receipt = world.job(job_id).cancellation
    assert receipt is not None
    expected = (RemoteStop("query", "confirmed", 2), RemoteStop("upload", "unconfirmed", 0))
    assert receipt.remote == expected
    stop = world.task(job_id, A).stop
    assert stop is not None
    assert stop.remote == expected
    lines = [entry.message for entry in world.store.logs(job_id)]
    assert "remote work upload: stop unconfirmed, tries: 0" in lines


# ------------------------------------------------------------------ what a stop would cost


def test_a_dry_run_tells_from_observed_checkpoints(made: Made) -> None:
    """Nothing observed, nothing told; then the rest of the interval, and the work since the last commit."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.live(A).task_id
    preview = world.manager.preview_cancel(job_id)
    assert preview.expected_stop_ms == {task_id: None}
    assert preview.lost_work_seconds is None
    world.later(3)
    world.workers.tell(CheckpointsPassed(task_id, 3.0, 9.0))
    world.settle()
    world.later(1)
    preview = world.manager.preview_cancel(job_id)
    assert preview.expected_stop_ms[task_id] == pytest.approx(2000, abs=20)
    assert preview.lost_work_seconds == pytest.approx(6, abs=0.1)
    world.workers.tell(UnitCommitted(task_id, STATS))
    world.settle()
    assert world.manager.preview_cancel(job_id).lost_work_seconds == pytest.approx(2, abs=0.1)
    forced = world.manager.preview_cancel(job_id, StopMode.FORCE)
    assert forced.expected_stop_ms == {task_id: None}
    world.end(A)


@pytest.mark.parametrize(("cancel", "after"), [({}, 5), ({"interrupt_after": 1.0}, 1)])
def test_a_dry_run_knows_that_the_ladder_bounds_a_stop(
    made: Made, cancel: dict[str, float], after: int
) -> None:
    """Who waits for a checkpoint for minutes is interrupted long before, and as its pipeline declares."""
    world = made(spec(A, cancel=cancel))
    job_id = world.run()
    task_id = world.live(A).task_id
    world.later(100)
    world.workers.tell(CheckpointsPassed(task_id, 100.0, 1e4))
    world.settle()
    expected = world.manager.preview_cancel(job_id).expected_stop_ms[task_id]
    assert expected == pytest.approx(after * 1000, abs=20)
    world.end(A)
