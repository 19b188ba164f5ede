"""A task that was killed and of which nothing is heard: the receipt says so, and what became of it later."""

from __future__ import annotations

import pytest
from executor_world import STATS, Made, World, spec

from sluicegate.core.cancellation import Stage
from sluicegate.core.job import (
    JobNotResumableError,
    JobNotRolledBackError,
    JobStatus,
    StopMode,
    TaskStatus,
)
from sluicegate.core.ports import Settled
from sluicegate.core.receipt import Kept, Receipt, StopOutcome

A, B = "bronze.a", "bronze.b"
LEASE_SECONDS = 15.0


def receipt_of(world: World, job_id: str) -> Receipt:
    receipt = world.job(job_id).cancellation
    assert receipt is not None
    return receipt


def out_of_reach(world: World) -> str:
    """A job of two tasks, stopped by force; one of them says nothing any more."""
    job_id = world.run()
    world.ask_permit(A)
    world.cancel(job_id, StopMode.FORCE)
    world.end(B, "lost", stage=Stage.KILL)
    world.later(LEASE_SECONDS + 1.9)
    return job_id


def test_a_stop_that_is_not_confirmed_says_so_in_time(made: Made) -> None:
    """`completed_at` is set the lease time plus 2 s after contact was lost; the task stays `running`."""
    world = made(spec(A), spec(B))
    job_id = out_of_reach(world)
    job, receipt = world.job(job_id), receipt_of(world, job_id)
    assert job.completed_at is not None
    assert not job.stopping
    assert receipt.outcome is StopOutcome.UNCONFIRMED
    assert receipt.confirmed_at is None
    assert world.tasks(job_id) == {A: "running", B: "cancelled"}
    with pytest.raises(JobNotResumableError, match="out of reach"):
        world.manager.resume(job_id, user_id="ann")
    with pytest.raises(JobNotRolledBackError, match="out of reach"):
        world.manager.rollback(job_id, requested_by="root")
    world.end(A, "lost", stage=Stage.KILL)


def test_the_stop_goes_on_being_tried_until_it_is_confirmed(made: Made) -> None:
    """Then the receipt says when, and its table is free again."""
    world = made(spec(A), spec(B))
    job_id = out_of_reach(world)
    task_id = world.task(job_id, A).task_id
    tried = world.stages(task_id).count(Stage.KILL)
    world.later(LEASE_SECONDS + 1)
    assert world.stages(task_id).count(Stage.KILL) > tried
    world.tables.settled[task_id] = Settled(STATS, complete=False)
    world.end(A, "lost", stage=Stage.KILL)
    receipt = receipt_of(world, job_id)
    assert receipt.outcome is StopOutcome.UNCONFIRMED, "what was said is not unsaid"
    assert receipt.confirmed_at is not None
    assert receipt.kept == (Kept(A, 3, 10),), "its table's log has told what it had committed"
    assert world.task(job_id, A).status is TaskStatus.CANCELLED
    assert {s.pipeline for s in receipt.stopped} == {A, B}
    assert (A, task_id, 1) in world.tables.cleaned, "what it wrote and did not commit is waste"
    types = [e.type for e in world.store.events(job_id=job_id)]
    assert types[-1] == "job.confirmed"
    world.run(A)
    assert world.running == [A]
    world.end(A)
    world.is_idle()


def test_the_next_server_settles_what_the_last_could_not_reach(made: Made) -> None:
    """The job is over, its task is not: it is found by the table that it holds."""
    world = made(spec(A), spec(B))
    job_id = out_of_reach(world)
    world.boot()
    job, receipt = world.job(job_id), receipt_of(world, job_id)
    assert job.status is JobStatus.CANCELLED
    assert job.running_tasks == 0
    assert receipt.confirmed_at is not None
    world.is_idle()


def test_the_receipt_says_what_the_platform_lacks(made: Made) -> None:
    """Who reads it must know how far it can be believed."""
    world = made(spec(A))
    world.workers.missing_means = ("children that left the tree are not found",)
    job_id = world.run()
    world.cancel(job_id)
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    assert receipt_of(world, job_id).missing_means == world.workers.missing_means


def test_a_clock_that_jumps_does_not_change_how_long_a_stop_took(made: Made) -> None:
    """Neither of the task nor of the job, in either direction."""
    for seconds in (86_400.0, -86_400.0):
        world = made(spec(A))
        job_id = world.run()
        world.cancel(job_id)
        world.clock.jump(seconds)
        world.later(2)
        world.end(A, "cancelled", stage=Stage.CHECKPOINT)
        receipt = receipt_of(world, job_id)
        assert receipt.latency_ms == pytest.approx(2000, abs=50)
        assert receipt.stopped[0].latency_ms == pytest.approx(2000, abs=50)


def test_an_end_in_the_last_moment_is_an_ordinary_stop(made: Made) -> None:
    """The end and the closing as unconfirmed may be stored together."""
    world = made(spec(A), spec(B))
    job_id = world.run()
    world.cancel(job_id, StopMode.FORCE)
    world.end(B, "lost", stage=Stage.KILL)
    world.ledger.held = True
    world.end(A, "lost", stage=Stage.KILL, settle=False)
    world.executor.tick(0)
    world.later(LEASE_SECONDS + 1.9)
    world.ledger.held = False
    world.ledger.release()
    world.settle()
    assert receipt_of(world, job_id).outcome is StopOutcome.STOPPED
    world.is_idle()
