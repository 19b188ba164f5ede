"""The executor, driven tick by tick: what starts when, what a stop reaches, what a crash leaves. No thread, no time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from executor_world import STATS, Made, World, spec
from fakes import T0

from sluicegate.core.agenda import STORE_PAUSE_SECONDS
from sluicegate.core.cancellation import Stage
from sluicegate.core.job import (
    Event,
    JobNotRunningError,
    JobStatus,
    StopMode,
    TaskInput,
    TaskProgress,
    TaskStats,
)
from sluicegate.core.lease import SCAN_AGAIN_SECONDS
from sluicegate.core.pipeline_executor import HAND_BACK_SECONDS
from sluicegate.core.ports import (
    Settled,
    ShieldChanged,
    TaskHung,
    TaskOpened,
    TaskProgressed,
    UnitCommitted,
)
from sluicegate.core.receipt import StopOutcome
from sluicegate.core.recovery import SETTLE_PAUSE_SECONDS, SETTLE_TRIES_MAX
from sluicegate.core.transitions import StopRequest

A, B, C = "bronze.a", "bronze.b", "bronze.c"
SA, GA = "silver.a", "gold.a"
REFUSED = "the job is cancelled"


# ------------------------------------------------------------------ order


def test_what_depends_starts_after_what_it_depends_on(made: Made) -> None:
    """Nobody may read a table that is not filled yet."""
    world = made()
    job_id = world.run()
    seen = []
    for pipeline in (A, SA, GA):
        seen.append(world.running)
        world.end(pipeline)
    assert seen == [[A], [SA], [GA]]
    job = world.job(job_id)
    assert (job.status, job.completed_tasks) == (JobStatus.SUCCESS, 3)
    assert job.completed_at is not None
    world.is_idle()


def test_a_full_run_holds_a_layer_back_until_the_one_before_has_ended(made: Made) -> None:
    """All of bronze, then all of silver, even where nothing depends on the slow one."""
    world = made(spec(A), spec(B), spec(SA, A))
    world.run()
    world.end(A)
    assert world.running == [B]
    world.end(B)
    assert world.running == [SA]


def test_a_subset_waits_only_for_what_it_depends_on(made: Made) -> None:
    """The layer barrier is for the full pipeline."""
    world = made(spec(A), spec(B), spec(SA, A))
    world.run(SA, B, with_dependencies=True)
    world.end(A)
    assert world.running == [B, SA]


def test_never_more_tasks_than_workers(made: Made) -> None:
    """A start that is on its way to the store takes its place already."""
    world = made(*(spec(f"bronze.p{n}") for n in range(9)), capacity=2)
    world.ledger.held = True
    job_id = world.run()
    world.executor.tick(0)
    world.ledger.release()
    world.ledger.held = False
    world.settle()
    assert world.running == ["bronze.p0", "bronze.p1"]
    for n in range(9):
        world.end(f"bronze.p{n}")
    assert world.status(job_id) is JobStatus.SUCCESS


def test_a_higher_priority_is_served_first_then_the_older_job(made: Made) -> None:
    """Who waits for a worker is served by what was asked for, not by luck."""
    world = made(spec(A), spec(B), spec(C), spec("bronze.d"), capacity=1)
    world.run(A)
    world.run(B)
    world.run(C)
    world.run("bronze.d", priority=5)
    for pipeline in (A, "bronze.d", B, C):
        assert world.running == [pipeline]
        world.end(pipeline)


def test_a_job_with_nothing_to_do_succeeds_at_once(made: Made) -> None:
    """Nothing left: it is success, without ever having run."""
    world = made()
    world.executor._manager.catalog = type(world.catalog)({}, "v1")
    job = world.job(world.run())
    assert (job.status, job.started_at) == (JobStatus.SUCCESS, None)
    world.is_idle()


def test_the_end_of_a_task_and_the_start_of_the_next_are_stored_in_few_steps(made: Made) -> None:
    """Ten thousand small tasks must not cost an fsync for each of their transitions."""
    world = made(*(spec(f"bronze.p{n}") for n in range(200)), capacity=100)
    world.run(settle=False)
    world.store.commits.clear()
    while world.executor._held or not world.workers.handed:
        for pipeline in list(world.running):
            world.end(pipeline, settle=False)
        world.executor.tick(0)
    assert len(world.store.commits) <= 10


# ------------------------------------------------------------------ failure


def test_a_failure_skips_what_depends_on_it_and_nothing_else(made: Made) -> None:
    """One broken source must not cost the others their night."""
    world = made(spec(A), spec(B), spec(SA, A), spec("silver.b", B), spec(GA, SA))
    job_id = world.run()
    world.end(A, "failed", error="ValueError: no")
    world.end(B)
    assert world.running == ["silver.b"]
    world.end("silver.b")
    assert world.tasks(job_id) == {A: "failed", B: "success", "silver.b": "success"}
    assert world.status(job_id) is JobStatus.PARTIAL
    assert world.task(job_id, A).error == "ValueError: no"


def test_a_job_in_which_all_failed_has_failed(made: Made) -> None:
    world = made()
    job_id = world.run()
    world.end(A, "failed", error="no")
    assert world.status(job_id) is JobStatus.FAILED
    world.is_idle()


def test_a_pipeline_that_is_gone_from_the_code_fails_its_task_and_no_worker_has_it(
    made: Made,
) -> None:
    """A recovered job may name what nobody can run any more."""
    world = made()
    job_id = world.run(settle=False)
    world.manager.catalog = type(world.catalog)({SA: world.catalog.specs[SA]}, "v2")
    world.settle()
    assert world.tasks(job_id) == {A: "failed"}
    assert "not in the code" in (world.task(job_id, A).error or "")
    assert (world.status(job_id), world.handed) == (JobStatus.FAILED, [])


# ------------------------------------------------------------------ retries and timeouts


def test_a_retry_comes_after_its_pause_and_counts(made: Made) -> None:
    """Policy tries again; the pause holds no worker."""
    world = made(spec(A, retries=1, retry_delay_seconds=30.0), spec(B), capacity=1)
    first, second = world.run(A), world.run(B)
    world.end(A, "failed", error="no")
    assert (world.tasks(first), world.running) == ({A: "pending"}, [B])
    world.end(B)
    world.later(29)
    assert world.running == []
    world.later(1)
    assert world.live(A).attempt == 2
    assert world.live(A).recovers
    world.end(A, "failed", error="again")
    assert (world.status(first), world.status(second)) == (JobStatus.FAILED, JobStatus.SUCCESS)
    assert (world.task(first, A).attempt, world.task(first, A).retries_used) == (2, 1)
    world.is_idle()


def test_a_new_attempt_shows_nothing_of_the_last_ones_stop(made: Made) -> None:
    """A running task that shows how it was stopped would be a riddle."""
    world = made(spec(A, retries=1, timeout_seconds=60.0))
    job_id = world.run()
    world.later(60)
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    task = world.task(job_id, A)
    assert (task.status.value, task.attempt, task.stop, task.error) == ("running", 2, None, None)


def test_a_task_out_of_its_time_climbs_the_ladder_and_fails(made: Made) -> None:
    """A task's own timeout is a failure, not a cancel, and says how it was stopped."""
    world = made(spec(A, timeout_seconds=60.0), spec(SA, A))
    job_id = world.run()
    task_id = world.live(A).task_id
    assert world.later(59).stages(task_id) == []
    world.later(1)
    world.later(5)
    world.later(5)
    world.later(5)
    assert world.stages(task_id) == list(Stage)
    world.end(A, "lost", stage=Stage.KILL, processes_killed=2)
    task = world.task(job_id, A)
    assert (task.status.value, task.error) == ("failed", "it ran longer than 60 s")
    assert task.stop is not None
    assert (task.stop.cause.__str__(), task.stop.stage, task.stop.latency_ms) == (
        "timeout",
        "kill",
        15000.0,
    )
    assert world.status(job_id) is JobStatus.FAILED
    assert world.job(job_id).cancellation is None
    world.is_idle()


def test_the_timeout_of_an_attempt_that_is_over_stops_no_later_one(made: Made) -> None:
    """Each attempt has its own time."""
    world = made(spec(A, timeout_seconds=60.0, retries=1))
    world.run()
    world.later(50)
    task_id = world.end(A, "failed", error="no")
    world.later(50)
    assert (world.running, world.stages(task_id)) == ([A], [])
    world.later(10)
    assert world.stages(task_id) == [Stage.CHECKPOINT]


def test_a_job_out_of_its_time_is_cancelled_with_a_receipt(made: Made) -> None:
    """Counted from its start, by whoever runs it; the cause is in the receipt."""
    world = made()
    job_id = world.run(timeout_seconds=100.0)
    world.later(99.5)
    assert world.status(job_id) is JobStatus.RUNNING
    world.later(0.5)
    receipt = world.job(job_id).cancellation
    assert receipt is not None
    assert (receipt.cause.value, receipt.reason) == ("timeout", "it ran longer than 100 s")
    world.end(A, "cancelled")
    assert world.job(job_id).is_over
    world.is_idle()


def test_a_jobs_time_counts_from_its_first_start(made: Made) -> None:
    """Waiting for a worker is not running."""
    world = made(capacity=1)
    world.run(A)
    job_id = world.run(SA, timeout_seconds=100.0)
    world.later(1000)
    world.end(A)
    assert world.running == [SA]
    world.later(99)
    assert world.status(job_id) is JobStatus.RUNNING
    world.later(1)
    assert world.status(job_id) is JobStatus.CANCELLED


@pytest.mark.parametrize("jump", [-100_000.0, 100_000.0])
def test_a_wrong_clock_ends_no_job(made: Made, jump: float) -> None:
    """Timeouts run on monotonic clocks: a wall clock that jumps must stop nothing, and delay no stop."""
    world = made()
    job_id = world.run(timeout_seconds=100.0)
    world.clock.jump(jump)
    world.later(99)
    assert world.status(job_id) is JobStatus.RUNNING
    world.later(1)
    assert world.status(job_id) is JobStatus.CANCELLED


def test_a_timeout_while_the_store_is_away_is_stored_when_it_is_back(made: Made) -> None:
    """A limit that was reached must not be forgotten for a full disk."""
    world = made()
    job_id = world.run(timeout_seconds=100.0)
    world.store.unavailable = True
    world.later(100)
    world.store.unavailable = False
    world.later(STORE_PAUSE_SECONDS)
    assert world.status(job_id) is JobStatus.CANCELLED


def test_a_job_that_is_over_is_not_kept_for_its_timeout(made: Made) -> None:
    """A day's timeout must not keep a day's jobs in memory."""
    world = made(spec(A, timeout_seconds=1e6))
    world.run(timeout_seconds=1e6)
    world.end(A)
    world.is_idle()


# ------------------------------------------------------------------ cancel at every edge


def test_a_pending_job_is_stopped_before_it_ever_starts(made: Made) -> None:
    """Created and stopped before the executor has looked: nothing runs, the receipt is whole."""
    world = made()
    job_id = world.run(settle=False)
    world.cancel(job_id)
    job = world.job(job_id)
    assert (job.status, job.is_over, job.started_at) == (JobStatus.CANCELLED, True, None)
    assert job.cancellation is not None
    assert job.cancellation.not_started == (A, SA, GA)
    assert job.cancellation.outcome is StopOutcome.STOPPED
    assert world.handed == []
    world.is_idle()


def test_a_cancel_before_a_start_is_stored_wins(made: Made) -> None:
    """The start is decided, not yet durable; the stop comes first: no worker ever hears of it."""
    world = made()
    job_id = world.run(settle=False)
    world.ledger.held = True
    world.executor.tick(
        0
    )  # claims nothing: the job is its own from the start; decides the start of A
    outgoing = world.ledger._queue.get()
    world.ledger.held = False
    world.cancel(job_id, settle=False)
    world.ledger._queue.put(outgoing)
    world.ledger.release()
    world.settle()
    assert (world.tasks(job_id), world.handed) == ({}, [])
    assert world.job(job_id).is_over
    assert world.store.writers([A])[A].is_free
    world.is_idle()


@pytest.mark.parametrize("mode", StopMode)
def test_a_task_whose_start_is_stored_before_a_stop_that_is_heard_of_goes_to_no_worker(
    made: Made, mode: StopMode
) -> None:
    """Both are stored before the executor hears of either: what has not begun must not begin."""
    world = made()
    job_id = world.run(settle=False)
    world.ledger.held = True
    world.executor.tick(0)
    world.ledger.held = False
    world.cancel(job_id, mode)
    assert (world.handed, world.tasks(job_id)) == ([], {A: "cancelled"})
    receipt = world.job(job_id).cancellation
    assert receipt is not None
    assert [s.stage for s in receipt.stopped] == ["checkpoint"]
    assert world.job(job_id).is_over
    world.is_idle()


@pytest.mark.parametrize("mode", StopMode)
def test_nothing_starts_after_the_decision(made: Made, mode: StopMode) -> None:
    """Rule 3, whatever the mode, and though the running task ends well."""
    world = made()
    job_id = world.run()
    world.cancel(job_id, mode)
    world.end(A)
    assert world.handed == [A]
    job = world.job(job_id)
    assert (job.status, job.is_over) == (JobStatus.CANCELLED, True)
    assert world.tasks(job_id) == {A: "success"}
    assert job.cancellation is not None
    assert job.cancellation.not_started == (SA, GA)
    world.is_idle()


def test_a_stop_climbs_the_ladder_each_stage_once_and_in_order(made: Made) -> None:
    """A polite word first, then harder; never the same twice."""
    world = made()
    job_id = world.run()
    task_id = world.live(A).task_id
    world.cancel(job_id)
    for _ in range(40):
        world.later(0.5)
    assert world.stages(task_id) == list(Stage)
    world.workers.tell(TaskHung(task_id, ("a.py:1 f", "b.py:2 g")))
    world.end(A, "lost", stage=Stage.KILL, processes_killed=3)
    receipt = world.job(job_id).cancellation
    assert receipt is not None
    [stopped] = receipt.stopped
    assert (stopped.stage, stopped.processes_killed, stopped.where) == (
        "kill",
        3,
        ("a.py:1 f", "b.py:2 g"),
    )
    assert stopped.latency_ms == 20_000.0


def test_force_kills_at_once(made: Made) -> None:
    world = made()
    job_id = world.run()
    world.cancel(job_id, StopMode.FORCE)
    assert world.stages(world.live(A).task_id) == [Stage.KILL]


@pytest.mark.parametrize("first", [StopMode.GRACEFUL, StopMode.DRAIN])
def test_force_escalates_a_stop_under_way(made: Made, first: StopMode) -> None:
    """Stop now: whoever loses patience is heard, under a shield too."""
    world = made()
    job_id = world.run()
    task_id = world.live(A).task_id
    world.workers.tell(ShieldChanged(task_id, 60.0))
    world.cancel(job_id, first)
    world.cancel(job_id, StopMode.FORCE)
    assert world.stages(task_id)[-1] is Stage.KILL
    assert world.stages(task_id).count(Stage.KILL) == 1
    world.end(A, "lost", stage=Stage.KILL)
    assert world.tasks(job_id) == {A: "cancelled"}
    world.is_idle()


def test_a_stop_that_was_decided_in_another_process_is_acted_on_with_the_next_word(
    made: Made,
) -> None:
    """A command line may write to the store of a server; the task's next write brings the news."""
    world = made()
    job_id = world.run()
    world.cancel_elsewhere(job_id)
    task_id = world.live(A).task_id
    world.workers.tell(UnitCommitted(task_id, STATS))
    world.settle()
    assert world.stages(task_id) == [Stage.CHECKPOINT]


def test_the_shield_defers_every_stage_and_the_flag_is_set_once(made: Made) -> None:
    """An upload may finish; what it deferred is added to the rest of the ladder."""
    world = made()
    job_id = world.run()
    task_id = world.live(A).task_id
    world.workers.tell(ShieldChanged(task_id, 60.0))
    world.cancel(job_id)
    world.later(20)
    assert world.stages(task_id) == [Stage.CHECKPOINT]
    world.workers.tell(ShieldChanged(task_id, None))
    world.settle()
    world.later(4)
    assert world.stages(task_id) == [Stage.CHECKPOINT]
    world.later(1)
    assert world.stages(task_id) == [Stage.CHECKPOINT, Stage.INTERRUPT]


def test_a_cancel_in_the_pause_before_a_retry_ends_the_job_at_once(made: Made) -> None:
    """Nothing runs: there is nothing to wait for, least of all the pause."""
    world = made(spec(A, retries=3, retry_delay_seconds=3600.0))
    job_id = world.run()
    world.end(A, "failed", error="no", stats=STATS)
    world.cancel(job_id)
    job, task = world.job(job_id), world.task(job_id, A)
    assert (job.is_over, task.status.value, task.stats) == (True, "cancelled", STATS)
    assert task.stop is not None
    assert job.cancellation is not None
    assert [s.pipeline for s in job.cancellation.stopped] == [A]
    world.later(4000)
    assert world.handed == [A]


def test_a_cancel_while_a_retry_waits_for_a_worker_leaves_no_task_waiting(made: Made) -> None:
    """A job that is over has no task that is not."""
    world = made(spec(A, retries=3), spec(B), capacity=1)
    job_id, other = world.run(A), world.run(B, priority=9)
    world.end(A, "failed", error="no")
    assert (world.running, world.tasks(job_id)) == ([B], {A: "pending"})
    world.cancel(job_id)
    assert world.job(job_id).is_over
    assert world.tasks(job_id) == {A: "cancelled"}
    world.end(B)
    assert world.status(other) is JobStatus.SUCCESS
    world.is_idle()


def test_a_cancel_without_an_executor_leaves_no_task_waiting(made: Made) -> None:
    """The command line stops a job that was handed back between two attempts."""
    world = made(spec(A, retries=3, retry_delay_seconds=60.0))
    job_id = world.run()
    world.end(A, "failed", error="no")
    world.close()
    world.manager.wake = None
    world.cancel(job_id, settle=False)
    assert world.job(job_id).is_over
    assert world.tasks(job_id) == {A: "cancelled"}


def test_a_cancel_that_meets_the_end_of_the_last_task_has_one_winner(made: Made) -> None:
    """Both orders: who is stored first decides, and the other is told."""
    world = made(spec(A))
    first = world.run()
    world.end(A, settle=False)
    world.cancel(first)
    assert (world.status(first), world.job(first).is_over) == (JobStatus.CANCELLED, True)
    receipt = world.job(first).cancellation
    assert receipt is not None
    assert receipt.outcome is StopOutcome.FINISHED
    second = world.run()
    world.end(A)
    with pytest.raises(JobNotRunningError):
        world.cancel(second)
    assert world.status(second) is JobStatus.SUCCESS
    world.is_idle()


def test_a_task_that_ends_well_though_it_was_killed_is_a_success(made: Made) -> None:
    """Statuses tell the truth: the table's log says that all of it is committed."""
    world = made()
    job_id = world.run()
    task_id = world.ask_permit(A)
    world.cancel(job_id, StopMode.FORCE)
    world.tables.settled[task_id] = Settled(STATS, complete=True)
    world.end(A, "lost", stage=Stage.KILL)
    task = world.task(job_id, A)
    assert (task.status.value, task.stats, task.stop) == ("success", STATS, None)


def test_whatever_a_task_raises_after_a_stop_it_is_cancelled(made: Made) -> None:
    """A broken pipe in user code is what a stop looks like from inside."""
    world = made(spec(A, retries=5))
    job_id = world.run()
    world.cancel(job_id)
    world.end(A, "failed", error="BrokenPipeError")
    task = world.task(job_id, A)
    assert (task.status.value, task.error) == ("cancelled", None)


def test_a_cancel_wakes_an_executor_that_is_closing_the_job_without_harm(made: Made) -> None:
    """Force is asked for while the last write of the stop is on its way."""
    world = made(spec(A), spec(B), capacity=1)
    world.run(B)
    job_id = world.run(A)
    world.ledger.held = True
    world.manager.cancel(job_id, StopRequest("ann"))
    world.ledger.held = True
    world.executor.tick(0)  # decides the close; it waits in the ledger
    world.executor.wake(job_id)
    world.executor.tick(0)  # the job is stopping as far as the store knows
    world.executor.wake(job_id)
    world.executor.tick(0)
    world.ledger.held = False
    world.ledger.release()
    world.settle()
    assert world.job(job_id).is_over
    world.end(B)
    world.is_idle()


def test_the_executors_verb_says_whether_there_was_something_to_stop(made: Made) -> None:
    world = made()
    job_id = world.run()
    assert world.executor.cancel_job(job_id)
    assert not world.executor.cancel_job(job_id)
    assert not world.executor.cancel_job("nope")
    assert job_id in world.executor.cancelled_jobs or world.settle()
    world.end(A, "cancelled")
    assert world.executor.cancelled_jobs == set()


def test_the_executors_verb_hands_on_who_why_and_how(made: Made) -> None:
    """The receipt of a stop from code names what was told; without a name it is whoever is at the machine."""
    world = made(spec(A))
    receipts = []
    for fields in ({}, {"requested_by": "ann", "reason": "why", "mode": StopMode.FORCE}):
        job_id = world.run()
        assert world.executor.cancel_job(job_id, **fields)
        world.settle()
        world.end(A, "lost", stage=Stage.KILL)
        receipts.append(world.job(job_id).cancellation)
    assert [r and (r.requested_by, r.reason, r.mode) for r in receipts] == [
        ("local", None, "graceful"),
        ("ann", "why", "force"),
    ]


# ------------------------------------------------------------------ drain


def test_drain_lets_running_tasks_finish_and_commit(made: Made) -> None:
    """Nothing is pushed, permits are granted, nothing more starts."""
    world = made(spec(A), spec(B), spec(SA, A))
    job_id = world.run()
    world.cancel(job_id, StopMode.DRAIN)
    task_id = world.ask_permit(A)
    world.later(1000)
    assert world.workers.permits == [(task_id, None)]
    assert world.workers.delivered == []
    world.end(A, stats=STATS)
    world.end(B, "failed", error="its own")
    assert world.tasks(job_id) == {A: "success", B: "failed"}
    job = world.job(job_id)
    assert (job.is_over, job.status) == (True, JobStatus.CANCELLED)
    assert job.cancellation is not None
    assert [k.table for k in job.cancellation.kept] == [A]
    world.is_idle()


def test_drain_retries_nothing(made: Made) -> None:
    """Another attempt would be a start."""
    world = made(spec(A, retries=5))
    job_id = world.run()
    world.cancel(job_id, StopMode.DRAIN)
    world.end(A, "failed", error="no")
    assert (world.handed, world.tasks(job_id)) == ([A], {A: "failed"})


@pytest.mark.parametrize("drain_first", [True, False])
def test_a_tasks_own_time_ends_it_while_its_job_drains(made: Made, drain_first: bool) -> None:
    """A drain must not make a task immortal that hangs; what ended it is its time, so it failed."""
    world = made(spec(A, timeout_seconds=60.0, retries=3))
    job_id = world.run()
    task_id = world.live(A).task_id
    if drain_first:
        world.cancel(job_id, StopMode.DRAIN)
    world.later(60)
    if not drain_first:
        world.cancel(job_id, StopMode.DRAIN)
    world.ask_permit(A)
    for _ in range(3):
        world.later(5)
    assert world.stages(task_id) == list(Stage)
    assert world.workers.permits == [(task_id, "the task is being stopped")]
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    assert (world.tasks(job_id), world.job(job_id).is_over) == ({A: "failed"}, True)


def test_permits_are_refused_once_a_drain_escalates(made: Made) -> None:
    world = made()
    job_id = world.run()
    world.cancel(job_id, StopMode.DRAIN)
    world.cancel(job_id, StopMode.FORCE)
    task_id = world.ask_permit(A)
    assert world.workers.permits == [(task_id, REFUSED)]


# ------------------------------------------------------------------ permits


def test_a_permit_is_answered_only_when_it_is_durable(made: Made) -> None:
    """It is what a stop races with: an answer before the write would be a guess."""
    world = made()
    job_id = world.run()
    world.ledger.held = True
    task_id = world.ask_permit(A)
    assert world.workers.permits == []
    world.ledger.release()
    world.settle()
    assert world.workers.permits == [(task_id, None)]
    assert world.task(job_id, A).permits == 1


@pytest.mark.parametrize("cancel_first", [True, False])
def test_of_a_permit_and_a_cancel_the_one_that_is_stored_first_wins(
    made: Made, cancel_first: bool
) -> None:
    """After the stop is durable no unit becomes visible that was not permitted before."""
    world = made()
    job_id = world.run()
    world.ledger.held = True
    task_id = world.ask_permit(A, settle=False)
    if not cancel_first:
        world.executor.tick(0)  # the permit is on its way to the store before the stop
    world.manager.cancel(job_id, StopRequest("ann"))
    world.ledger.held = False
    world.settle()
    assert world.workers.permits == [(task_id, REFUSED if cancel_first else None)]


def test_a_task_whose_permit_was_refused_by_a_stop_is_cancelled_though_nobody_has_told_us_yet(
    made: Made,
) -> None:
    """The refusal is the first that the executor hears of the stop; the task ends before the wake-up comes."""
    world = made(spec(A, retries=3))
    job_id = world.run()
    world.cancel_elsewhere(job_id)
    world.ask_permit(A, settle=False)
    world.executor.tick(0)
    world.executor.tick(0)
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    assert world.workers.permits[0][1] == REFUSED
    assert world.tasks(job_id) == {A: "cancelled"}
    receipt = world.job(job_id).cancellation
    assert receipt is not None
    assert len(receipt.stopped) == 1


def test_a_stop_between_permit_and_commit_is_told_from_the_tables_log(made: Made) -> None:
    """The worker was killed after it was permitted: only the log knows whether the unit is in."""
    world = made()
    job_id = world.run()
    task_id = world.ask_permit(A)
    world.tables.settled[task_id] = Settled(STATS, complete=False)
    world.cancel(job_id, StopMode.FORCE)
    world.end(A, "lost", stage=Stage.KILL)
    task = world.task(job_id, A)
    assert (task.status.value, task.stats) == ("cancelled", STATS)
    receipt = world.job(job_id).cancellation
    assert receipt is not None
    assert receipt.kept[0].rows == STATS.rows


def test_a_permit_is_refused_when_the_job_was_taken_over(made: Made) -> None:
    """Two executors, one table: only the lease holder's task may commit, even once it has heard of it."""
    world = made()
    job_id = world.run()
    world.steal(job_id)
    task_id = world.ask_permit(A)
    assert world.workers.permits == [(task_id, "another executor has taken the job over")]
    assert world.stages(task_id) == [Stage.KILL]


def test_a_permit_is_refused_after_the_executor_heard_of_the_takeover(made: Made) -> None:
    """It knows the new lease then; that must not make the lease its own."""
    world = made()
    job_id = world.run()
    world.steal(job_id)
    world.executor.wake(job_id)
    world.settle()
    task_id = world.ask_permit(A)
    [(asked_by, refused)] = world.workers.permits
    assert asked_by == task_id
    assert refused is not None


def test_a_permit_of_an_attempt_that_is_over_is_not_answered_to_the_next_one(made: Made) -> None:
    """A stale yes in the next attempt's hands would be a commit that nobody permitted."""
    world = made(spec(A, retries=1))
    job_id = world.run()
    world.store.unavailable = True
    world.ask_permit(A)
    world.store.unavailable = False
    world.end(A, "failed", error="no")
    assert world.live(A).attempt == 2
    world.later(STORE_PAUSE_SECONDS)
    assert world.workers.permits == []
    assert world.task(job_id, A).status.value == "running"


# ------------------------------------------------------------------ what is told of a running task


def test_what_a_task_says_is_stored(made: Made) -> None:
    """Inputs, units and progress: a page that is opened later shows them, and the timeline what was committed."""
    world = made()
    job_id = world.run()
    task_id = world.live(A).task_id
    inputs = (TaskInput("bronze.x", 3),)
    world.workers.tell(TaskOpened(task_id, inputs))
    world.workers.tell(UnitCommitted(task_id, STATS))
    world.workers.tell(TaskProgressed(task_id, TaskProgress(3, 10)))
    world.settle()
    task = world.task(job_id, A)
    assert (task.inputs, task.stats, task.progress) == (inputs, STATS, TaskProgress(3, 10))
    *before, told = world.store.events(job_id=job_id)
    assert [e.type for e in before] == ["job.created", "job.started", "task.started"]
    expected = Event("task.committed", job_id, world.clock.now(), task_id, {"rows": 10})
    assert replace(told, event_id=0) == expected


def test_progress_is_stored_again_after_a_whole_second(made: Made) -> None:
    """A page that asks sees no older state than that, also where nothing is committed."""
    world = made()
    job_id = world.run()
    task_id = world.live(A).task_id
    seen = []
    for n, pause in enumerate((0.0, 0.5, 0.5)):
        world.later(pause)
        world.workers.tell(TaskProgressed(task_id, TaskProgress(n, 9)))
        world.settle()
        seen.append(world.task(job_id, A).progress)
    assert seen == [TaskProgress(0, 9), TaskProgress(0, 9), TaskProgress(2, 9)]


def test_who_watches_is_told_of_progress_ten_times_a_second_at_most(made: Made) -> None:
    """A bar that moves; and a task that tells of every row must not drown who watches."""
    world = made()
    job_id = world.run()
    task_id = world.live(A).task_id
    told: list[Event] = []
    world.follower._hub.watch(lambda e: told.extend(o for o in e if o.type == "task.progress"))
    for n in range(100):
        world.workers.tell(TaskProgressed(task_id, TaskProgress(n, 100, "files")))
        world.settle()
        world.later(0.03)
    facts = {"done": 0, "total": 100, "unit": "files"}
    assert told[0] == Event("task.progress", job_id, T0, task_id, facts)
    assert [e.data["done"] for e in told] == [*range(0, 100, 4)]


def test_progress_is_stored_once_a_second_at_most(made: Made) -> None:
    world = made()
    world.run()
    task_id = world.live(A).task_id
    world.store.commits.clear()
    for n in range(100):
        world.workers.tell(TaskProgressed(task_id, TaskProgress(n, 100)))
        world.later(0.05)
    assert len(world.store.commits) <= 6


@pytest.mark.parametrize("part", [0.5, 1.0])
def test_what_a_task_said_before_its_end_never_overwrites_the_end(made: Made, part: float) -> None:
    """The store was away for a moment: the report that is tried again must not bring a dead task back to life."""
    world = made()
    job_id = world.run()
    task_id = world.live(A).task_id
    world.store.unavailable = True
    world.workers.tell(UnitCommitted(task_id, STATS))
    world.ask_permit(A)
    world.store.unavailable = False
    world.clock.pass_(STORE_PAUSE_SECONDS * part)  # the whole: both are stored in one step
    world.end(A, stats=STATS)
    world.later(STORE_PAUSE_SECONDS)
    assert world.tasks(job_id) == {A: "success", SA: "running"}


def test_a_report_of_who_has_lost_the_job_is_not_stored(made: Made) -> None:
    """Only the holder of the lease says what is true of a task; nobody was told yet that it is another's."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.live(A).task_id
    world.steal(job_id)
    world.workers.tell(UnitCommitted(task_id, STATS))
    world.settle()
    assert world.task(job_id, A).stats == TaskStats()
    assert "task.committed" not in [e.type for e in world.store.events(job_id=job_id)]
    assert world.stages(task_id) == [Stage.KILL]


def test_a_report_that_is_tried_again_does_not_forget_a_permit(made: Made) -> None:
    """`permits` tells a later reader whether the table's log has to be read."""
    world = made()
    job_id = world.run()
    task_id = world.live(A).task_id
    world.store.unavailable = True
    world.workers.tell(UnitCommitted(task_id, STATS))
    world.settle()
    world.store.unavailable = False
    world.later(STORE_PAUSE_SECONDS / 2)
    world.ask_permit(A)
    world.later(STORE_PAUSE_SECONDS)
    assert world.task(job_id, A).permits == 1


# ------------------------------------------------------------------ tables


def test_a_table_that_another_job_fills_is_waited_for_without_a_worker(made: Made) -> None:
    """In the order of job creation; who waits holds no slot."""
    world = made(spec(A), spec(B), capacity=2)
    jobs = [world.run(A) for _ in range(3)]
    assert world.running == [A]
    last = world.run(B)
    assert world.running == [A, B]
    served = []
    for _ in range(3):
        served.append(world.live(A).job_id)
        world.end(A)
    assert served == jobs
    world.end(B)
    assert {world.status(j) for j in [*jobs, last]} == {JobStatus.SUCCESS}
    world.is_idle()


def test_each_start_at_a_table_has_its_own_epoch(made: Made) -> None:
    """A writer that comes back late is refused by the table, by its epoch."""
    world = made(spec(A))
    epochs = []
    for _ in range(3):
        world.run()
        epochs.append(world.live(A).epoch)
        world.end(A)
    assert epochs == [1, 2, 3]


def test_a_stop_of_the_job_whose_turn_it_is_passes_the_turn_on(made: Made) -> None:
    """The table is free, the next in line was told, waits for a worker and is stopped: the others must not wait on."""
    world = made(spec(A), spec(B), capacity=1)
    world.run(A)
    second = world.run(A)
    third = world.run(A)
    # Let both queue up at the table: they can only ask for it when a worker is free.
    world.workers.capacity = 2
    world.executor.wake(second)
    world.settle()
    world.workers.capacity = 1
    world.run(B, priority=9)
    world.end(A)
    assert world.running == [B]
    world.cancel(second)
    assert world.job(second).is_over
    world.end(B)
    assert world.running == [A]
    assert world.live(A).job_id == third
    world.end(A)
    world.is_idle()


def test_a_stop_while_waiting_for_a_table_ends_the_job_at_once(made: Made) -> None:
    world = made(spec(A))
    world.run()
    job_id = world.run()
    world.cancel(job_id)
    assert world.job(job_id).is_over
    world.end(A)
    world.is_idle()


def test_a_table_that_was_taken_elsewhere_is_asked_for_again(made: Made) -> None:
    """What is known here of the table's writer was out of date; the start is refused, the job goes on."""
    world = made(spec(A))
    writer = world.store.writers([A])[A]
    job_id = world.run(settle=False)
    world.executor._book.read([A])
    world.store.memory.writers[A] = replace(writer, epoch=7, revision=7)
    world.settle()
    assert world.live(A).epoch == 8
    world.end(A)
    assert world.status(job_id) is JobStatus.SUCCESS
    world.is_idle()


def test_a_pipeline_waits_in_line_for_its_table_once(made: Made) -> None:
    """Twice in line would be twice started, or a turn lost for those behind."""
    world = made(spec(A, retries=1), spec(B), spec(C), capacity=3)
    first = world.run(A)
    second = world.run(A)
    third = world.run(A)
    world.end(A, "failed", error="no")  # its retry stands in line again, by its job first
    assert world.live(A).job_id == second or world.live(A).job_id == first
    for _ in range(3):
        world.end(A)
    assert {world.status(j) for j in (first, second, third)} == {JobStatus.SUCCESS}
    assert len(world.workers.handed) == 4
    world.is_idle()


# ------------------------------------------------------------------ crashes


def test_a_running_task_is_taken_up_again_after_a_crash(made: Made) -> None:
    """Finished tasks stay finished, unfinished ones run again with the next attempt."""
    world = made()
    job_id = world.run()
    world.end(A)
    world.boot()
    again = world.live(SA)
    assert (world.running, again.attempt, again.recovers) == ([SA], 2, True)
    assert (world.job(job_id).recoveries, world.job(job_id).lease) == (1, 2)
    world.end(SA)
    world.end(GA)
    assert world.status(job_id) is JobStatus.SUCCESS
    world.is_idle()


def test_a_crash_between_two_tasks_counts_as_no_recovery(made: Made) -> None:
    """Nothing was lost, nothing runs again."""
    world = made()
    job_id = world.run(settle=False)
    world.boot()
    assert (world.running, world.job(job_id).recoveries) == ([A], 0)


def test_the_fourth_crash_exhausts_the_recoveries(made: Made) -> None:
    """A task that kills its machine must not do so forever."""
    world = made()
    job_id = world.run()
    for _ in range(3):
        world.boot()
        assert world.running == [A]
    world.boot()
    assert world.running == []
    assert (world.status(job_id), world.task(job_id, A).error) == (
        JobStatus.FAILED,
        "recoveries_exhausted",
    )
    world.is_idle()


def test_a_crash_after_everything_was_committed_is_a_success_when_no_try_is_left(
    made: Made,
) -> None:
    """The table's log decides, never a guess."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.ask_permit(A)
    for _ in range(3):
        world.boot()
    world.tables.settled[task_id] = Settled(STATS, complete=True)
    world.boot()
    assert (world.status(job_id), world.task(job_id, A).stats) == (JobStatus.SUCCESS, STATS)


def test_a_crash_while_stopping_closes_the_receipt_at_the_next_start(made: Made) -> None:
    """A crash is no cancel, and a cancel survives the crash: nothing of the job starts again."""
    world = made()
    job_id = world.run()
    world.cancel(job_id)
    world.boot()
    job = world.job(job_id)
    assert (job.is_over, job.recoveries, world.running) == (True, 0, [])
    assert world.tasks(job_id) == {A: "cancelled"}
    assert job.cancellation is not None
    assert len(job.cancellation.stopped) == 1
    world.is_idle()


def test_a_crash_right_after_the_cancel_of_a_job_in_a_retry_pause_leaves_nothing_waiting(
    made: Made,
) -> None:
    world = made(spec(A, retries=3, retry_delay_seconds=60.0))
    job_id = world.run()
    world.end(A, "failed", error="no")
    world.cancel_elsewhere(job_id)
    world.boot()
    assert (world.tasks(job_id), world.job(job_id).is_over) == ({A: "cancelled"}, True)


def test_a_crash_right_after_the_last_commit_is_a_success_without_another_attempt(
    made: Made,
) -> None:
    """The table's log says that all of it is there: to run again would be waste."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.ask_permit(A)
    world.tables.settled[task_id] = Settled(STATS, complete=True)
    world.boot()
    assert (world.status(job_id), world.running) == (JobStatus.SUCCESS, [])
    assert world.task(job_id, A).stats == STATS


def test_units_that_were_committed_just_before_a_crash_are_in_the_stats_of_what_waits(
    made: Made,
) -> None:
    """The crash came before the commit was told; the stop before the next attempt could look."""
    world = made(spec(A), spec(B), capacity=1)
    job_id = world.run(A)
    task_id = world.ask_permit(A)
    world.tables.settled[task_id] = Settled(STATS, complete=False)
    world.run(B, priority=9)
    world.boot()
    assert (world.running, world.tasks(job_id)) == ([B], {A: "pending"})
    world.cancel(job_id)
    assert world.task(job_id, A).stats == STATS


def test_an_earlier_attempts_commits_are_remembered_when_the_later_one_dies_early(
    made: Made,
) -> None:
    """The log could not be read at the crash; attempt 2 is killed before it has looked or asked for anything."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.ask_permit(A)
    world.boot()
    assert world.live(A).attempt == 2
    world.tables.settled[task_id] = Settled(STATS, complete=True)
    world.cancel(job_id, StopMode.FORCE)
    world.end(A, "lost", stage=Stage.KILL)
    task = world.task(job_id, A)
    assert (task.status.value, task.stats) == ("success", STATS)


@pytest.mark.parametrize("outcome", ["cancelled", "failed"])
def test_an_attempt_that_never_looked_does_not_hide_what_earlier_ones_committed(
    made: Made, outcome: str
) -> None:
    """A stop of a task that no worker has taken up yet knows no units; the table's log does."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.ask_permit(A)
    world.tables.settled[task_id] = Settled(STATS, complete=False)
    world.boot()
    world.cancel(job_id)
    world.end(A, outcome)
    assert world.task(job_id, A).stats == STATS


@pytest.mark.parametrize("recovered", [False, True])
def test_a_log_that_cannot_be_read_is_asked_again_and_not_guessed(
    made: Made, recovered: bool
) -> None:
    """A full disk or a share that is away for a moment: what was committed is no failure."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.ask_permit(A)
    world.tables.settled[task_id] = Settled(STATS, complete=True)
    world.tables.unreadable = 3
    if recovered:
        world.boot()
    else:
        world.end(A, "lost", stage=Stage.KILL)
    assert world.tasks(job_id) == {A: "running"}
    for _ in range(3):
        world.later(SETTLE_PAUSE_SECONDS)
    task = world.task(job_id, A)
    assert (task.status.value, task.stats) == ("success", STATS)
    world.is_idle()


def test_a_log_that_stays_unreadable_does_not_hold_the_job_forever(made: Made) -> None:
    """After a minute what is stored is all that can be told."""
    world = made(spec(A))
    job_id = world.run()
    world.ask_permit(A)
    world.tables.unreadable = 1_000
    world.end(A, "lost", stage=Stage.KILL)
    for _ in range(SETTLE_TRIES_MAX - 1):
        assert world.tasks(job_id) == {A: "running"}
        world.later(SETTLE_PAUSE_SECONDS)
    assert world.tasks(job_id) == {A: "failed"}
    world.is_idle()


def test_a_server_ends_also_while_a_log_cannot_be_read(made: Made) -> None:
    """The next one asks."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.ask_permit(A)
    world.tables.settled[task_id] = Settled(STATS, complete=True)
    world.tables.unreadable = 2
    world.end(A, "lost", stage=Stage.KILL)
    world.close()
    assert world.executor._closed.is_set()
    world.boot()
    world.later(SETTLE_PAUSE_SECONDS)
    assert world.task(job_id, A).status.value == "success"


def test_a_worker_that_dies_fails_its_attempt_only(made: Made) -> None:
    """Out of memory in one task is nobody else's trouble, and retries apply."""
    world = made(spec(A, retries=1), spec(B))
    job_id = world.run()
    world.end(A, "lost", message="its worker died: killed by SIGKILL")
    assert sorted(world.running) == [A, B]
    world.end(A, "lost", message="its worker died: killed by SIGKILL")
    world.end(B)
    assert world.status(job_id) is JobStatus.PARTIAL
    assert world.task(job_id, A).error == "its worker died: killed by SIGKILL"


def test_a_job_that_is_created_while_the_executor_starts_is_run_once(made: Made) -> None:
    """It is seen twice: among the unfinished, and by its own wake-up."""
    world = made(spec(A))
    world.boot(recover=False)
    world.executor._agenda.post(world.executor._lease.scan)
    job_id = world.run()
    assert world.running == [A]
    world.end(A)
    assert (world.status(job_id), world.handed) == (JobStatus.SUCCESS, [A])
    world.is_idle()


def test_a_job_made_by_a_process_without_an_executor_is_claimed(made: Made) -> None:
    """Handed over by whoever wakes us."""
    world = made(spec(A))
    world.manager.owner = lambda: None
    job_id = world.run()
    world.executor.wake(job_id)
    world.end(A)
    assert (world.status(job_id), world.job(job_id).recoveries) == (JobStatus.SUCCESS, 0)


# ------------------------------------------------------------------ the lease


def test_who_lost_the_lease_ends_its_tasks_and_reports_nothing(made: Made) -> None:
    """Only the lease holder reports on a task; an old number is refused."""
    world = made()
    job_id = world.run()
    world.steal(job_id)
    before = world.job(job_id)
    world.end(A, "failed", error="no")
    assert world.job(job_id) == before
    assert world.tasks(job_id) == {A: "running"}
    assert world.executor._held == {}


def test_a_task_of_a_lost_job_is_killed_and_asked_nothing_more(made: Made) -> None:
    """Its own time is no concern of this executor any more: a milder stage after the kill would make no sense."""
    world = made(spec(A, timeout_seconds=60.0))
    job_id = world.run()
    task_id = world.live(A).task_id
    world.steal(job_id)
    world.executor.wake(job_id)
    world.settle()
    world.later(60)
    world.later(15)
    assert world.stages(task_id) == [Stage.KILL]


def test_what_was_known_of_a_lost_jobs_tables_is_forgotten(made: Made) -> None:
    """Another executor has freed them since; the next job at such a table must not wait for one that is gone."""
    world = made(spec(A))
    job_id = world.run()
    other = World(spec(A), beside=world)
    other.end(A, stats=STATS)
    assert other.status(job_id) is JobStatus.SUCCESS
    world.executor.wake(job_id)
    world.settle()
    again = world.run(A)
    assert [one.job_id for one in world.workers.live.values()] == [job_id, again]


def test_a_lost_lease_while_a_start_is_on_its_way_starts_nothing(made: Made) -> None:
    world = made()
    job_id = world.run(settle=False)
    world.ledger.held = True
    world.executor.tick(0)
    world.steal(job_id)
    world.ledger.held = False
    world.ledger.release()
    world.settle()
    assert (world.handed, world.tasks(job_id)) == ([], {})
    world.is_idle()


def test_a_dropped_job_that_was_stopped_spoils_no_other(made: Made) -> None:
    """To close what is not held any more must not cost the rest of the tick."""
    world = made(spec(A), spec(B))
    second = world.run(B)
    first = world.run(A, settle=False)
    world.ledger.held = True
    world.executor.tick(0)  # decides the start of A
    world.end(B, settle=False)
    world.executor.tick(0)
    world.steal(first)
    world.cancel_elsewhere(first)
    world.ledger.held = False
    world.ledger.release()
    world.settle()
    assert world.status(second) is JobStatus.SUCCESS
    assert world.handed == [B]
    world.is_idle()


# ------------------------------------------------------------------ the store is away


def test_everything_goes_on_when_the_store_is_back(made: Made) -> None:
    """A full disk for a minute: nothing is lost, nothing is done twice."""
    world = made()
    job_id = world.run()
    for pipeline in (A, SA, GA):
        world.store.unavailable = True
        world.end(pipeline)
        world.later(10)
        assert world.running == []
        world.store.unavailable = False
        world.later(STORE_PAUSE_SECONDS)
    assert (world.status(job_id), world.handed) == (JobStatus.SUCCESS, [A, SA, GA])
    world.is_idle()


def test_a_wake_up_while_the_store_is_away_is_not_lost(made: Made) -> None:
    """A job that was created durably a moment before must run, not wait for the next restart."""
    world = made(spec(A))
    job_id = world.run(settle=False)
    world.store.unavailable = True
    world.settle()
    world.store.unavailable = False
    world.later(STORE_PAUSE_SECONDS)
    assert world.running == [A]
    world.end(A)
    assert world.status(job_id) is JobStatus.SUCCESS


def test_recovery_while_the_store_is_away_is_not_lost(made: Made) -> None:
    world = made()
    world.run()
    world.store.unavailable = True
    world.boot()
    world.store.unavailable = False
    world.later(SCAN_AGAIN_SECONDS)
    assert world.running == [A]


def test_a_mistake_in_one_message_spoils_no_other(made: Made) -> None:
    """The loop goes on, and what was decided in the same tick is stored."""
    world = made(spec(A))

    def fail() -> None:
        raise KeyError

    job_id = world.run(settle=False)
    world.executor._agenda.post(fail)
    world.executor.tick(0)
    world.settle()
    assert world.running == [A]
    [record] = world.failures.records
    assert record.getMessage() == "executor_step_failed"
    world.failures.records.clear()
    world.end(A)
    assert world.status(job_id) is JobStatus.SUCCESS


def test_a_start_that_can_never_be_stored_gives_its_worker_and_table_back(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot lost for each mistake would end in a service that runs nothing."""
    import sluicegate.core.pipeline_executor as module

    world = made(spec(A), capacity=1)

    def fail(*_: object) -> None:
        raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(module, "start_task", fail)
        world.run()
    assert [r.getMessage().split()[0] for r in world.failures.records] == ["decision_failed"]
    world.failures.records.clear()
    world.run()
    assert world.running == [A]
    world.end(A)


# ------------------------------------------------------------------ closing


def test_a_hand_back_counts_as_neither_recovery_nor_retry(made: Made) -> None:
    """SIGTERM to a server: tasks are asked to stop, their jobs go on at the next start."""
    world = made()
    job_id = world.run()
    world.close()
    assert world.stages(world.live(A).task_id) == [Stage.CHECKPOINT]
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    assert world.executor._closed.is_set()
    job = world.job(job_id)
    assert (job.status, job.executor_id, world.tasks(job_id)) == (
        JobStatus.RUNNING,
        None,
        {A: "pending"},
    )
    world.boot()
    task = world.task(job_id, A)
    assert (world.running, task.attempt, task.retries_used) == ([A], 2, 0)
    assert world.job(job_id).recoveries == 0


def test_a_task_that_does_not_stop_in_time_is_ended_at_closing(made: Made) -> None:
    world = made()
    world.run()
    world.close()
    world.later(HAND_BACK_SECONDS)
    assert world.stages(world.live(A).task_id) == [Stage.CHECKPOINT, Stage.KILL]
    world.end(A, "lost", stage=Stage.KILL)
    assert world.executor._closed.is_set()


def test_a_task_whose_start_was_on_its_way_at_closing_goes_to_no_worker(made: Made) -> None:
    """Otherwise the server would wait its 8 seconds out for a task that was never asked to stop."""
    world = made()
    job_id = world.run(settle=False)
    world.ledger.held = True
    world.executor.tick(0)
    world.close()
    assert not world.executor._closed.is_set()
    world.ledger.held = False
    world.ledger.release()
    world.settle()
    assert world.executor._closed.is_set()
    assert (world.handed, world.tasks(job_id)) == ([], {A: "pending"})
    assert world.job(job_id).executor_id is None


def test_a_store_that_is_away_at_closing_keeps_the_jobs_for_the_next_server(made: Made) -> None:
    """They cannot be handed back; that is no mistake of ours, and loses nothing."""
    world = made(spec(A, retries=1, retry_delay_seconds=60.0))
    job_id = world.run()
    world.end(A, "failed")
    world.store.unavailable = True
    world.close()
    assert world.executor._closed.is_set()
    world.store.unavailable = False
    assert world.job(job_id).executor_id == world.executor.executor_id
    world.boot()
    assert world.running == [A]
    world.end(A, stats=STATS)


@pytest.mark.parametrize("slow", ["ledger", "settling"])
def test_a_stop_is_closed_before_the_server_goes(made: Made, slow: str) -> None:
    """A cancelled job whose last task is gone must not stay `stopping` until the next start."""
    world = made()
    job_id = world.run()
    world.ask_permit(A)
    world.cancel(job_id)
    world.close()
    world.ledger.held, world.aside.held = slow == "ledger", slow == "settling"
    world.end(A, "lost", stage=Stage.KILL)
    assert not world.executor._closed.is_set()
    world.ledger.held = world.aside.held = False
    world.ledger.release()
    world.aside.release()
    world.settle()
    assert world.executor._closed.is_set()
    assert world.job(job_id).is_over
    assert world.tasks(job_id) == {A: "cancelled"}


def test_a_stop_that_is_heard_of_only_at_the_hand_back_is_closed_too(made: Made) -> None:
    """Nothing of the job runs: it must not stay `stopping` until the next start."""
    world = made(spec(A), spec(B), capacity=1)
    world.run(A)
    job_id = world.run(B)
    world.close()
    world.cancel_elsewhere(job_id)
    world.end(A)
    assert world.job(job_id).is_over


def test_a_success_is_stored_as_the_end_of_its_job_at_closing(made: Made) -> None:
    """A job that is done is done, not handed back."""
    world = made(spec(A))
    job_id = world.run()
    world.close()
    world.end(A)
    assert world.status(job_id) is JobStatus.SUCCESS


def test_a_drained_task_that_is_ended_by_closing_is_cancelled(made: Made) -> None:
    """Its job may not start it again; it did not fail by itself."""
    world = made()
    job_id = world.run()
    world.cancel(job_id, StopMode.DRAIN)
    world.close()
    world.later(HAND_BACK_SECONDS)
    world.end(A, "lost", stage=Stage.KILL)
    assert (world.tasks(job_id), world.job(job_id).is_over) == ({A: "cancelled"}, True)


def test_nothing_starts_while_closing(made: Made) -> None:
    world = made(spec(A), spec(B), capacity=1)
    world.run(A)
    second = world.run(B)
    world.close()
    world.end(A)
    third = world.run(A)
    assert world.handed == [A]
    assert {world.status(second), world.status(third)} == {JobStatus.PENDING}
    assert world.job(second).executor_id is None


# ------------------------------------------------------------------ heartbeat


def test_the_heart_beats_three_times_a_lease_and_survives_the_store(made: Made) -> None:
    """Others judge it by whether it still changes."""
    world = made()
    world.keep_lease()
    for _ in range(14):
        world.later(1)
    [seen] = world.store.executors()
    assert seen.beat == 3
    world.later(1)
    world.store.unavailable = True
    world.later(5)
    world.store.unavailable = False
    world.later(1)
    [seen] = world.store.executors()
    assert seen.beat >= 5, "after a failure it is tried again at once"


def test_short_tasks_are_started_ahead_only_where_many_wait(made: Made) -> None:
    """A commit lasts longer than they do; but a long task that waits must not be told as running."""
    world = made(*(spec(f"bronze.n{n}") for n in range(100)), capacity=2)
    job_id = world.run()
    assert len(world.workers.live) == 2
    for _ in range(60):
        world.workers.ahead = 2
        world.clock.pass_(0.003)
        world.end(next(iter(world.workers.live.values())).spec.pipeline_id)
    assert len(world.workers.live) == 4
    for _ in range(20):
        world.clock.pass_(0.003)
        world.end(next(iter(world.workers.live.values())).spec.pipeline_id)
    assert len(world.workers.live) == 2
    world.cancel(job_id)
