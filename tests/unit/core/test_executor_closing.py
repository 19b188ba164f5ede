"""How jobs leave an executor: closed, handed back, dropped; and what an operator reads when that cannot be stored."""

from __future__ import annotations

import logging

import pytest
from executor_world import Made, World, spec
from fakes import DirectLedger

import sluicegate.core.pipeline_executor as module
from sluicegate.core.agenda import STORE_PAUSE_SECONDS
from sluicegate.core.cancellation import Stage
from sluicegate.core.job import JobStatus, StopMode
from sluicegate.core.job_manager import JobManager
from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.core.transitions import StopRequest
from sluicegate.errors import SluicegateError

A, B = "bronze.a", "bronze.b"
AWAY = "the store 'memory' cannot be used: it is away"


def close_elsewhere(world: World, job_id: str) -> None:
    """A process without an executor, as the command line is, stops a job and closes it on the spot."""
    other = JobManager(
        world.store, DirectLedger(world.store, lambda _: None), world.clock, world.catalog
    )
    other.cancel(job_id, StopRequest("ben"))
    assert world.job(job_id).is_over


def kinds(world: World, job_id: str) -> list[str]:
    return [event.type for event in world.store.events(job_id=job_id)]


# ------------------------------------------------------------------ closed elsewhere


def test_a_job_that_was_closed_elsewhere_is_not_closed_again(made: Made) -> None:
    """Its receipt is whole; a second end would be told to whoever follows."""
    world = made(spec(A), spec(B), capacity=1)
    world.run(A)
    job_id = world.run(B)
    close_elsewhere(world, job_id)
    stored = world.job(job_id)
    world.executor.wake(job_id)
    world.settle()
    assert world.job(job_id) == stored
    assert kinds(world, job_id) == ["job.created", "job.cancelled", "job.stopped"]
    world.end(A)
    assert world.handed == [A]
    world.is_idle()


def test_a_job_that_was_closed_elsewhere_is_not_handed_back(made: Made) -> None:
    """It is over, and nobody has heard of it here."""
    world = made(spec(A), spec(B), capacity=1)
    world.run(A)
    job_id = world.run(B)
    world.close()
    close_elsewhere(world, job_id)
    stored = world.job(job_id)
    world.end(A)
    assert world.executor._closed.is_set()
    assert world.job(job_id) == stored


def test_a_job_that_was_taken_over_is_not_handed_back_by_who_lost_it(made: Made) -> None:
    """It would be taken from whoever runs it now."""
    world = made(spec(A), spec(B), capacity=1)
    world.run(A)
    job_id = world.run(B)
    world.close()
    world.steal(job_id)
    stored = world.job(job_id)
    world.end(A)
    assert world.executor._closed.is_set()
    assert world.job(job_id) == stored


# ------------------------------------------------------------------ what waits between two attempts


def test_a_task_that_waits_ends_with_its_job_though_it_was_stopped_alone_before(made: Made) -> None:
    """Both are heard of at once: it ends one time, by the stop of its job."""
    world = made(spec(A, retries=1, retry_delay_seconds=60.0), spec(B))
    job_id = world.run()
    world.end(A, "failed", error="no")
    world.cancel_task_elsewhere(job_id, A)
    world.cancel_elsewhere(job_id)
    world.executor.wake(job_id)
    world.settle()
    world.end(B, "cancelled", stage=Stage.CHECKPOINT)
    stop, job = world.task(job_id, A).stop, world.job(job_id)
    assert stop is not None
    assert stop.reason == "enough"
    assert job.cancellation is not None
    assert [s.pipeline for s in job.cancellation.stopped] == [B, A]
    assert (job.status, job.cancelled_tasks) == (JobStatus.CANCELLED, 2)
    world.later(60)  # the pause is over, and begins nothing
    assert world.handed == [A, B]
    world.is_idle()


def test_a_task_that_is_stopped_in_its_pause_while_the_server_ends_is_left_to_the_next(
    made: Made,
) -> None:
    """A server that ends begins nothing new; the stop is in the header, and the next one acts on it."""
    world = made(spec(A, retries=1, retry_delay_seconds=60.0), spec(B))
    job_id = world.run()
    world.end(A, "failed", error="no")
    world.close()
    world.cancel_task_elsewhere(job_id, A)
    world.executor.wake(job_id)
    world.settle()
    assert world.tasks(job_id) == {A: "pending", B: "running"}
    world.end(B, "cancelled", stage=Stage.CHECKPOINT)
    world.boot()
    assert world.tasks(job_id) == {A: "cancelled", B: "running"}
    world.end(B)
    assert world.status(job_id) is JobStatus.PARTIAL


# ------------------------------------------------------------------ what may still be committed


@pytest.mark.parametrize(
    ("leaves", "refused"),
    [
        ("closing", "the task is being stopped"),
        ("closing while it drains", None),
        ("out of touch", "the task is being stopped"),
        ("taken over", "the attempt is over"),
    ],
)
def test_whose_executor_leaves_commits_no_more_unless_it_was_let_finish(
    made: Made, leaves: str, refused: str | None
) -> None:
    """The next attempt may have begun elsewhere; a drain was told that it may finish, and has its 8 seconds."""
    world = made(spec(A)).keep_lease()
    job_id = world.run()
    match leaves:
        case "closing":
            world.close()
        case "closing while it drains":
            world.cancel(job_id, StopMode.DRAIN)
            world.close()
        case "out of touch":
            world.store.unavailable = True
            for _ in range(10):
                world.later(1)
            world.store.unavailable = False
        case "taken over":
            world.steal(job_id)
            world.executor.wake(job_id)
            world.settle()
    task_id = world.ask_permit(A)
    assert world.workers.permits == [(task_id, refused)]


# ------------------------------------------------------------------ what an operator reads


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """What the executor itself has logged."""
    return [(r.levelno, r.getMessage()) for r in caplog.records if r.name == module.__name__]


def test_a_job_that_cannot_be_handed_back_is_named(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    """The next server of this home takes it up; one of another home has to wait for the lease."""
    world = made(spec(A, retries=1, retry_delay_seconds=60.0))
    job_id = world.run()
    world.end(A, "failed")
    world.store.unavailable = True
    world.close()
    world.store.unavailable = False
    assert said(caplog) == [(logging.WARNING, f"store_unavailable job_id={job_id} error={AWAY}")]


def test_a_hand_back_that_goes_wrong_is_named_and_spoils_no_other(
    made: Made, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One job whose row is broken must not keep the others from going on elsewhere."""
    world = made(spec(A, retries=1, retry_delay_seconds=60.0), spec(B, retries=1))
    broken, other = world.run(A), world.run(A)
    world.end(A, "failed", job_id=broken)
    write = world.ledger.write

    def refuse(job_id: str, *rest: object) -> object:
        if job_id == broken:
            raise SluicegateError("its row is broken")
        return write(job_id, *rest)

    monkeypatch.setattr(world.ledger, "write", refuse)
    world.close()
    world.end(A, "cancelled", job_id=other, stage=Stage.CHECKPOINT)
    assert said(caplog) == [(logging.ERROR, f"hand_back_failed job_id={broken}")]
    world.failures.records.clear()
    assert world.job(other).executor_id is None
    assert world.executor._closed.is_set()


def test_a_timeout_that_cannot_be_stored_is_said(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    """Each time that it is tried, until the store is back."""
    world = made(spec(A))
    job_id = world.run(timeout_seconds=100.0)
    world.store.unavailable = True
    world.later(100)
    world.later(STORE_PAUSE_SECONDS)
    world.store.unavailable = False
    world.later(STORE_PAUSE_SECONDS)
    line = f"store_unavailable job_id={job_id} error={AWAY}"
    assert said(caplog) == [(logging.WARNING, line)] * 2
    assert world.status(job_id) is JobStatus.CANCELLED


def test_a_timeout_that_goes_wrong_is_named_and_ends_no_service(
    made: Made, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job runs on, and a person can stop it."""
    world = made(spec(A))
    job_id = world.run(timeout_seconds=100.0)

    def refuse(*_: object, **__: object) -> None:
        raise SluicegateError("its row is broken")

    with monkeypatch.context() as patch:
        patch.setattr(world.manager, "cancel", refuse)
        world.later(100)
    assert said(caplog) == [(logging.ERROR, f"timeout_stop_failed job_id={job_id}")]
    world.failures.records.clear()
    world.cancel(job_id, StopMode.FORCE)
    world.end(A, "lost", stage=Stage.KILL)
    assert world.job(job_id).is_over


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (
            StoreUnavailableError("lake", "its disk is full", mend="make room"),
            "store_unavailable error=the store 'lake' cannot be used: its disk is full",
        ),
        (SluicegateError("the log ends early"), "rollback_unfinished error=the log ends early"),
    ],
)
def test_a_rollback_that_cannot_be_carried_on_is_said(
    made: Made,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    wrong: SluicegateError,
    line: str,
) -> None:
    """Its tables are held until it can be: whoever waits for them must be able to learn why."""
    world = made(spec(A))
    job_id = world.run()
    world.end(A)

    def refuse(*_: object) -> None:
        raise wrong

    monkeypatch.setattr(world.manager.rollbacks, "finish", refuse)
    world.executor._finish_rollbacks_aside()
    world.settle()
    assert said(caplog) == [(logging.WARNING, line)]
    assert world.status(job_id) is JobStatus.SUCCESS
