"""Tables that are busy, starts that are refused, and what is tried again: nobody waits for what is free."""

from __future__ import annotations

from typing import Any

import pytest
from executor_world import STATS, Made, World, spec
from fakes import DirectLedger

import sluicegate.core.pipeline_executor as module
from sluicegate.core.agenda import STORE_PAUSE_SECONDS
from sluicegate.core.job import Job, JobStatus, TableRollback
from sluicegate.core.job_manager import Catalog, JobManager, RunRequest
from sluicegate.core.ports import UnitCommitted
from sluicegate.core.store_errors import StoreUnavailableError

A, B = "bronze.a", "bronze.b"


def test_a_retry_that_finds_its_table_busy_keeps_what_was_committed(made: Made) -> None:
    """Another job took the table in the pause: the task fails, and its first unit stays in its record."""
    world = made(spec(A, on_conflict="reject", retries=1, retry_delay_seconds=30.0))
    job_id = world.run()
    world.workers.tell(UnitCommitted(world.ask_permit(A), STATS))
    world.end(A, "failed", error="no", stats=STATS)
    other = world.run()
    world.later(30)
    task = world.task(job_id, A)
    assert (task.status.value, task.attempt, task.stats) == ("failed", 2, STATS)
    assert world.status(job_id) is JobStatus.FAILED
    world.end(A)
    assert world.status(other) is JobStatus.SUCCESS


def test_a_rejection_that_can_never_be_stored_gives_its_worker_back(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot lost for each mistake would end in a service that runs nothing."""
    world = made(spec(A, on_conflict="reject"), spec(B), capacity=2)
    world.run(A)

    def fail(*_: object) -> None:
        raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(module, "end_lines", fail)
        world.run(A)
    assert [r.getMessage().split()[0] for r in world.failures.records] == ["decision_failed"]
    world.failures.records.clear()
    world.run(B)
    assert world.running == [A, B]
    for pipeline in (A, B):
        world.end(pipeline)


def test_a_start_that_can_never_be_stored_leaves_its_table_to_who_waits_for_it(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job is let go of; nobody must wait for a writer that never was one."""
    world = made(spec(A), capacity=3)
    start = module.start_task
    broken = world.run(settle=False)
    waiting = world.run(settle=False)

    def fail(job: Job, *rest: Any) -> object:
        if job.job_id == broken:
            raise KeyError
        return start(job, *rest)

    monkeypatch.setattr(module, "start_task", fail)
    world.settle()
    assert [r.getMessage() for r in world.failures.records] == [f"decision_failed job_id={broken}"]
    world.failures.records.clear()
    assert world.live(A).job_id == waiting
    world.end(A)


def test_a_start_that_is_refused_leaves_its_table_to_who_waits_for_it(made: Made) -> None:
    """The task was stopped alone while its retry was on the way to the store; its job goes on with the rest."""
    world = made(spec(A, retries=1), spec(B), capacity=3)
    first = world.run(A, B)
    world.end(A, "failed", error="no", settle=False)
    world.executor.tick(0)  # the end is stored
    world.ledger.held = True
    world.executor.tick(0)  # the retry takes the table, as far as is known here
    elsewhere = DirectLedger(world.store, lambda _: None)
    other = JobManager(world.store, elsewhere, world.clock, world.catalog, wake=world.executor.wake)
    other.owner = world.executor.owner_of_new
    second, _ = other.create(RunRequest((A,)), user_id="ben")
    world.executor.tick(0)  # and this one waits for it
    world.cancel_task_elsewhere(first, A)
    world.ledger.held = False
    world.ledger.release()
    world.settle()
    assert world.tasks(first) == {A: "cancelled", B: "running"}
    assert world.live(A).job_id == second.job_id
    for pipeline in (A, B):
        world.end(pipeline)
    world.is_idle()


def test_a_table_whose_writer_cannot_be_read_is_asked_for_again(made: Made) -> None:
    """The store is away for a moment, in which a worker becomes free: what was about to start starts afterwards."""
    world = made(spec(A), spec(B), capacity=1)
    first, second = world.run(B), world.run(A)
    world.executor.tables_freed([A])  # what is known of its writer is read anew
    world.settle()
    world.store.unavailable = True
    world.end(B)
    world.store.unavailable = False
    world.later(STORE_PAUSE_SECONDS)
    assert (world.status(first), world.running) == (JobStatus.SUCCESS, [A])
    world.end(A)
    assert world.status(second) is JobStatus.SUCCESS
    world.is_idle()


@pytest.mark.parametrize("outcome", ["success", "failed"])
def test_an_end_whose_table_cannot_be_read_is_stored_once_the_store_is_back(
    made: Made, outcome: str
) -> None:
    """No worker says a second time how it ended."""
    world = made(spec(A), spec(B, A))
    job_id = world.run()
    world.executor.tables_freed([A])  # what is known of its writer is read anew
    world.settle()
    world.store.unavailable = True
    world.end(A, outcome)
    world.store.unavailable = False
    world.later(STORE_PAUSE_SECONDS)
    assert world.tasks(job_id)[A] == outcome
    for pipeline in world.running:
        world.end(pipeline)
    assert world.job(job_id).is_over
    world.is_sound()
    world.is_idle()


def test_a_pipeline_that_is_gone_from_the_code_takes_its_turn_like_any_other(made: Made) -> None:
    """How it would meet a busy table is not known any more: it waits, and fails once it can start."""
    world = made(spec(A, on_conflict="reject"))
    first = world.run()
    second = world.run(settle=False)
    world.manager.catalog = Catalog({}, "v2")
    world.settle()
    assert world.tasks(second) == {}
    world.end(A)
    assert world.tasks(second) == {A: "failed"}
    assert (world.status(first), world.handed) == (JobStatus.SUCCESS, [A])
    world.is_idle()


def test_a_pipeline_that_leaves_the_code_between_two_attempts_keeps_what_was_committed(
    made: Made,
) -> None:
    """Its second attempt fails before a worker has it; the unit of the first one stays in its record."""
    world = made(spec(A, retries=1, retry_delay_seconds=30.0))
    job_id = world.run()
    world.workers.tell(UnitCommitted(world.ask_permit(A), STATS))
    world.end(A, "failed", error="no", stats=STATS)
    world.manager.catalog = Catalog({}, "v2")
    world.later(30)
    task = world.task(job_id, A)
    assert (task.status.value, task.attempt, task.stats) == ("failed", 2, STATS)
    assert world.handed == [A]


def test_a_second_attempt_that_is_stopped_before_a_worker_has_it_keeps_what_was_committed(
    made: Made,
) -> None:
    """Its start and the stop are both stored before either is heard of."""
    world = made(spec(A, retries=1))
    job_id = world.run()
    world.workers.tell(UnitCommitted(world.ask_permit(A), STATS))
    world.end(A, "failed", error="no", stats=STATS, settle=False)
    world.executor.tick(0)  # the end is stored
    world.ledger.held = True
    world.executor.tick(0)  # the second start is on its way
    world.ledger.held = False
    world.cancel(job_id)
    task = world.task(job_id, A)
    assert (task.status.value, task.attempt, task.stats) == ("cancelled", 2, STATS)
    assert world.handed == [A]
    receipt = world.job(job_id).cancellation
    assert receipt is not None
    assert [s.stage for s in receipt.stopped] == ["checkpoint"]


def test_a_task_that_is_stopped_in_its_pause_frees_no_table_of_another_job(made: Made) -> None:
    """It let go of its table when the attempt ended, and another one has it now."""
    world = made(spec(A, retries=1, retry_delay_seconds=30.0), spec(B))
    job_id = world.run()
    world.end(A, "failed", error="no")
    other = world.run(A)
    world.cancel_task_elsewhere(job_id, A)
    world.executor.wake(job_id)
    world.settle()
    assert world.tasks(job_id) == {A: "cancelled", B: "running"}
    assert world.store.writers([A])[A].job_id == other
    third = world.run(A)
    assert world.tasks(third) == {}, "it waits for its turn"
    for pipeline in (A, B, A):
        world.end(pipeline)
    world.later(30)
    world.is_idle()


def test_an_end_is_stored_though_the_writer_of_its_table_was_changed_elsewhere(made: Made) -> None:
    """As when a store from a backup catches up with its tables: the row is read anew, and the pause stays."""
    world = made(spec(A, retries=1, retry_delay_seconds=30.0))
    job_id = world.run()
    world.store.raise_epochs({A: 7})
    world.end(A, "failed", error="no")
    assert world.tasks(job_id) == {A: "pending"}
    assert world.store.writers([A])[A].is_free
    world.later(29)
    assert world.running == []
    world.later(1)
    assert (world.running, world.live(A).epoch) == ([A], 8)
    world.store.raise_epochs({A: 9})
    world.end(A)
    assert world.status(job_id) is JobStatus.SUCCESS
    world.is_idle()


def test_a_retry_does_not_wait_out_its_pause_for_a_stop_that_is_heard_of_with_it(
    made: Made,
) -> None:
    """The end of the attempt and the stop meet in the store: the task ends then and there."""
    world = made(spec(A, retries=1, retry_delay_seconds=30.0), spec(B))
    job_id = world.run()
    world.cancel_task_elsewhere(job_id, A)
    world.end(A, "failed", error="no")
    assert world.tasks(job_id) == {A: "cancelled", B: "running"}
    world.end(B)
    assert world.status(job_id) is JobStatus.PARTIAL
    world.is_idle()


def test_a_job_that_nobody_told_of_is_found_by_the_next_look(made: Made) -> None:
    """It is this executor's by the store, but the word of it was lost, as while the lease was in doubt."""
    world = made(spec(A))
    world.manager.wake = lambda *_: None
    job_id = world.run()
    assert world.running == []
    world.executor._agenda.post(world.executor._lease.scan)
    world.settle()
    assert world.live(A).job_id == job_id
    world.executor._agenda.post(world.executor._lease.scan)
    world.settle()
    world.end(A)
    assert world.handed == [A]


# ------------------------------------------------------------------ rollbacks


def cut_off(world: World) -> None:
    """A rollback that was decided and not carried out, for the lake was away."""
    job_id = world.run(A)
    world.end(A, stats=STATS)
    world.tables.rollbacks[A] = TableRollback(A, 3, None)
    world.tables.broken = True
    with pytest.raises(StoreUnavailableError):
        world.manager.rollback(job_id, requested_by="root")


def test_a_rollback_is_carried_on_as_soon_as_the_store_is_back(made: Made) -> None:
    """The server starts while the store or the lake is away: its tables must not stay held for that."""
    world = made(spec(A))
    cut_off(world)
    world.executor._finish_rollbacks_aside()
    world.settle()
    assert world.tables.rolled_back == []
    world.tables.broken = False
    world.later(1)
    assert world.tables.rolled_back == [(A, 2)]
    assert world.store.held_writers() == []


# ------------------------------------------------------------------ a job's time


@pytest.mark.parametrize("ran", [0.0, 60.0, 99.5])
def test_the_time_before_a_crash_counts(made: Made, ran: float) -> None:
    """A job's limit is from its first start, whoever runs it."""
    world = made(spec(A))
    job_id = world.run(timeout_seconds=100.0)
    world.later(ran)
    world.boot()
    world.later(99.5 - ran)
    assert world.status(job_id) is JobStatus.RUNNING
    world.later(0.5)
    assert world.status(job_id) is JobStatus.CANCELLED
    world.end(A, "cancelled")
    world.is_idle()


def test_a_job_whose_time_ran_out_while_nobody_was_there_is_stopped_at_once(made: Made) -> None:
    """It gets no second for free, and no second attempt."""
    world = made(spec(A))
    job_id = world.run(timeout_seconds=100.0)
    world.clock.pass_(500)
    world.boot()
    assert world.status(job_id) is JobStatus.CANCELLED
    while world.running:
        world.end(A, "cancelled")
    assert world.job(job_id).is_over
