"""The tasks that workers have, alone: what is heard of each, when its time is up, and how it is made to end."""

from __future__ import annotations

import logging
from itertools import product

import pytest
from executor_world import spec
from fakes import T0, DirectLedger, FakeClock, FakeWorkers, MemoryStore

from sluicegate.cancel_policy import CancelPolicy
from sluicegate.core.agenda import GATHER_SECONDS, Agenda
from sluicegate.core.cancellation import Stage
from sluicegate.core.job import Job, JobStatus, StopMode, TaskRecord, TaskStatus
from sluicegate.core.job_run import JobRun
from sluicegate.core.pace import DELIVERY_SECONDS, NO_OUTLOOK, Outlook
from sluicegate.core.plan import Plan
from sluicegate.core.ports import (
    CheckpointsPassed,
    RemoteStopped,
    ShieldChanged,
    TaskBegan,
    TaskHung,
)
from sluicegate.core.receipt import Cause, RemoteStop
from sluicegate.core.running_tasks import (
    CONTACT_SECONDS,
    LOAD_SECONDS,
    MEAN_OF_TASKS,
    SHORTEST_SECONDS,
    RunningTask,
    RunningTasks,
)
from sluicegate.core.stops import TaskStopping

A, B = "bronze.a", "bronze.b"
POLICIES = {A: CancelPolicy(5, 10, 15), B: CancelPolicy(1, 2, 3)}
LOST_SECONDS = 15.0


class World:
    """Running tasks of one job, or of several, and the thread that looks after them."""

    def __init__(self) -> None:
        self.clock, self.workers = FakeClock(), FakeWorkers()
        self.lost: list[JobRun] = []
        ledger = DirectLedger(MemoryStore(), lambda _: None)
        self.agenda: Agenda[str] = Agenda(self.clock, ledger, lambda _: None, lambda _: None)
        self.tasks = RunningTasks(
            workers=self.workers,
            agenda=self.agenda,
            clock=self.clock,
            policy=POLICIES.__getitem__,
            lost=self.lost.append,
            lost_seconds=LOST_SECONDS,
        )
        self.run = self.new_run("j1")

    @staticmethod
    def new_run(job_id: str) -> JobRun:
        return JobRun(Job(job_id, "n", JobStatus.RUNNING, T0, 1), Plan(), [])

    def start(
        self, pipeline: str = A, *, run: JobRun | None = None, **declared: float | None
    ) -> RunningTask:
        """An attempt at a pipeline is started, as the third one."""
        run = run or self.run
        record = TaskRecord(
            f"{run.job.job_id}.{pipeline}", run.job.job_id, pipeline, TaskStatus.RUNNING, attempt=3
        )
        return self.tasks.add(run, record, spec(pipeline, **declared))

    def pass_(self, seconds: float) -> None:
        self.clock.pass_(seconds)
        self.agenda.do_what_is_due()
        self.tasks.climb()

    @property
    def delivered(self) -> list[tuple[str, Stage]]:
        """What workers were told since this was asked last."""
        delivered, self.workers.delivered = self.workers.delivered, []
        return delivered

    def stop_of(self, task: RunningTask) -> TaskStopping:
        """The attempt ends, and with it what is known of its stop."""
        found = self.tasks.remove(task.task_id)
        assert found is not None
        ended, stopping = found
        assert ended is task
        assert stopping is not None
        return stopping


@pytest.fixture
def world() -> World:
    return World()


# ------------------------------------------------------------------ come and go


def test_each_is_known_until_its_end(world: World) -> None:
    """By its id, and with the others of its job, as the job is run now: not those of an earlier holding."""
    again = world.new_run("j1")
    first, second, other = world.start(A), world.start(B), world.start(A, run=world.new_run("j2"))
    assert list(world.tasks) == [first, second, other]
    assert world.tasks.of(world.run) == [first, second]
    assert world.tasks.of(again) == []
    assert (first.run, first.pipeline, first.attempt) == (world.run, A, 3)
    assert (first.since, first.heard_at, first.has_begun) == (1000.0, 1000.0, False)
    assert world.tasks.remove(first.task_id) == (first, None)
    assert first.over
    assert world.tasks.get(first.task_id) is None
    assert world.tasks.get(second.task_id) is second
    assert len(world.tasks) == 2
    assert world.tasks.remove(first.task_id) is None


def test_the_mean_is_of_the_last_tasks(world: World) -> None:
    """By it the executor knows whether tasks are so short that one more should wait at each worker."""
    for seconds, expected in ((1.0, 1.0), (9.0, 1.0 + 8 / MEAN_OF_TASKS), (0.0, 1.75)):
        task = world.start()
        world.pass_(seconds)
        world.tasks.remove(task.task_id)
        assert world.tasks.mean_seconds == pytest.approx(expected)


def test_only_a_young_task_among_short_ones_is_about_to_end(world: World) -> None:
    """By it the executor knows whether a moment's wait spares a commit."""
    world.start()
    assert not world.tasks.ends_soon, "the first tasks are not known to be short"
    world.tasks.mean_seconds = SHORTEST_SECONDS
    assert world.tasks.ends_soon
    world.pass_(GATHER_SECONDS)
    assert not world.tasks.ends_soon, "this one is not short"
    young = world.start(B)
    assert world.tasks.ends_soon
    world.tasks.mean_seconds = SHORTEST_SECONDS * 1.01
    assert not world.tasks.ends_soon
    world.tasks.mean_seconds = 0.0
    world.tasks.remove(young.task_id)
    assert not world.tasks.ends_soon
    world.tasks.remove(next(iter(world.tasks)).task_id)
    assert not world.tasks.ends_soon


def test_an_attempt_that_is_over_is_asked_nothing_more(world: World) -> None:
    """Whatever was to be done about it later: its own times, and the kill that is tried again."""
    task = world.start(timeout_seconds=5.0, stall_timeout_seconds=70.0)
    world.tasks.kill(task)
    world.tasks.remove(task.task_id)
    assert world.delivered == [(task.task_id, Stage.KILL)]
    assert world.agenda.is_at_rest
    world.pass_(100)
    assert world.delivered == []
    assert world.lost == []


def test_a_pipeline_that_is_not_declared_any_more_has_no_times(world: World) -> None:
    """It was started by the code of before."""
    record = TaskRecord("t1", "j1", "silver.gone", TaskStatus.RUNNING)
    world.tasks.add(world.run, record, None)
    assert world.agenda.is_at_rest


# ------------------------------------------------------------------ what is heard


def test_what_a_stop_would_cost_is_told_from_what_was_heard(world: World) -> None:
    """The work since it began or last committed, and up to the next checkpoint or interrupt; of this job alone."""
    task, other = world.start(A), world.start(B, run=world.new_run("j2"))
    world.clock.pass_(7)
    assert world.tasks.outlook("j1") == {task.task_id: NO_OUTLOOK}
    for of in (task, other):
        world.tasks.hear(TaskBegan(of.task_id))
    world.clock.pass_(3)
    for of in (task, other):
        world.tasks.hear(CheckpointsPassed(of.task_id, 3.0, 9.0))
    world.clock.pass_(1)
    stop = 2 + DELIVERY_SECONDS
    assert world.tasks.outlook("j1") == {task.task_id: Outlook(stop, 4 + stop)}
    stop = 1 + DELIVERY_SECONDS
    assert world.tasks.outlook("j2") == {other.task_id: Outlook(stop, 4 + stop)}


def test_work_counts_from_the_start_while_nothing_says_when_it_began(world: World) -> None:
    """More may be told as lost than is, never less."""
    task = world.start()
    world.clock.pass_(4)
    world.tasks.hear(CheckpointsPassed(task.task_id, 2.0, 4.0))
    stop = 2 + DELIVERY_SECONDS
    assert world.tasks.outlook("j1") == {task.task_id: Outlook(stop, 4 + stop)}


def test_what_became_of_work_elsewhere_is_kept_until_it_is_forgotten(world: World) -> None:
    """What is not called before the end stays unconfirmed."""
    task = world.start()
    for number, outcome, tries in (
        (1, "unconfirmed", 0),
        (2, "unconfirmed", 0),
        (2, "forgotten", 0),
        (3, "forgotten", 0),
        (1, "confirmed", 2),
    ):
        world.tasks.hear(RemoteStopped(task.task_id, number, "query", outcome, tries))
    assert task.remote == {1: RemoteStop("query", "confirmed", 2)}


def test_news_of_an_attempt_that_is_over_is_let_go(world: World) -> None:
    """It was on its way when the worker died."""
    for event in (
        TaskBegan("gone"),
        CheckpointsPassed("gone", 1.0, 1.0),
        TaskHung("gone", ("a.py:1",)),
        ShieldChanged("gone", 5.0),
        RemoteStopped("gone", 1, "query", "confirmed", 1),
    ):
        world.tasks.hear(event)
    assert len(world.tasks) == 0
    assert not world.tasks.is_stopping("gone")


# ------------------------------------------------------------------ its own time


def test_who_is_out_of_its_time_is_stopped_once_and_told_why(world: World) -> None:
    """To the second; the ladder begins then."""
    task = world.start(timeout_seconds=30.0)
    world.pass_(29.9)
    assert not world.tasks.is_stopping(task.task_id)
    world.pass_(0.1)
    assert world.delivered == [(task.task_id, Stage.CHECKPOINT)]
    assert world.stop_of(task) == TaskStopping(
        task.task_id,
        1030.0,
        POLICIES[A],
        StopMode.GRACEFUL,
        Cause.TIMEOUT,
        reason="it ran longer than 30 s",
        delivered=Stage.CHECKPOINT,
    )


@pytest.mark.parametrize(("begins", "allowed"), [(True, 10.0), (False, LOAD_SECONDS)])
def test_who_is_not_heard_of_is_stopped_and_told_why(
    world: World, begins: bool, allowed: float
) -> None:
    """To the second; while its worker loads the pipelines it has a minute at least."""
    task = world.start(stall_timeout_seconds=10.0)
    if begins:
        world.pass_(3)
        world.tasks.hear(TaskBegan(task.task_id))
    since = world.clock.monotonic()
    world.pass_(allowed - 0.5)
    assert not world.tasks.is_stopping(task.task_id)
    world.pass_(0.5)
    assert world.stop_of(task) == TaskStopping(
        task.task_id,
        since + allowed,
        POLICIES[A],
        StopMode.GRACEFUL,
        Cause.STALL,
        reason=f"it passed no checkpoint and made no progress for {allowed:g} s",
        delivered=Stage.CHECKPOINT,
    )


def test_a_shield_puts_a_stall_off_to_its_end_or_to_when_it_is_left(world: World) -> None:
    """Its own timeout bounds it; and from then on the task has its whole time again."""
    task = world.start(stall_timeout_seconds=10.0)
    world.tasks.hear(TaskBegan(task.task_id))
    world.tasks.hear(ShieldChanged(task.task_id, 60.0))
    world.pass_(50)
    world.tasks.hear(ShieldChanged(task.task_id, None))
    world.pass_(9)
    world.tasks.hear(ShieldChanged(task.task_id, 20.0))
    world.pass_(29)
    assert not world.tasks.is_stopping(task.task_id)
    world.pass_(1)
    assert world.tasks.is_stopping(task.task_id)


def test_the_first_cause_of_a_stop_stays(world: World) -> None:
    """A task that is out of its time is not heard of while it stops; that is no stall."""
    task = world.start(timeout_seconds=12.0, stall_timeout_seconds=15.0)
    world.tasks.hear(TaskBegan(task.task_id))
    world.pass_(12)
    world.pass_(3)
    assert world.stop_of(task).cause is Cause.TIMEOUT
    task = world.start(timeout_seconds=15.0, stall_timeout_seconds=12.0)
    world.tasks.hear(TaskBegan(task.task_id))
    world.pass_(12)
    world.pass_(3)
    assert world.stop_of(task).cause is Cause.STALL


# ------------------------------------------------------------------ its end


def test_a_stop_climbs_the_ladder_of_its_own_pipeline(world: World) -> None:
    """Each as it is declared, from when it is asked for; and the executor wakes up for the next stage."""
    slow, quick = world.start(A), world.start(B)
    assert world.tasks.next_in is None
    for task in (slow, quick):
        world.tasks.stop(task, StopMode.GRACEFUL, Cause.USER, "ann", "enough")
        assert world.tasks.is_stopping(task.task_id)
    seen = []
    for _ in range(16):
        seen.append(([(t, s) for t, s in world.delivered], world.tasks.next_in))
        world.pass_(1)
    a, b = slow.task_id, quick.task_id
    assert seen[0] == ([], 1.0)
    assert seen[1] == ([(a, Stage.CHECKPOINT), (b, Stage.INTERRUPT)], 1.0)
    assert seen[2:4] == [([(b, Stage.TERMINATE)], 1.0), ([(b, Stage.KILL)], 2.0)]
    assert seen[5] == ([(a, Stage.INTERRUPT)], 5.0)
    assert seen[10] == ([(a, Stage.TERMINATE)], 5.0)
    assert seen[15] == ([(a, Stage.KILL)], None)


def test_the_log_says_which_stages_were_needed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """That it was asked to stop goes without saying; that it had to be pushed does not."""
    caplog.set_level(logging.INFO)
    task = world.start(B)
    world.tasks.stop(task, StopMode.GRACEFUL, Cause.USER, "ann", None)
    world.tasks.climb()
    for _ in range(3):
        world.pass_(1)
    assert [record.getMessage() for record in caplog.records] == [
        f"task_stop_stage task_id={task.task_id} stage={stage}"
        for stage in ("interrupt", "terminate", "kill")
    ]


@pytest.mark.parametrize(("first", "second"), list(product(StopMode, StopMode)))
def test_only_force_makes_a_stop_another_ones(
    world: World, first: StopMode, second: StopMode
) -> None:
    """It is never made milder, and the receipt names who has decided how it went."""
    task = world.start()
    world.tasks.stop(task, first, Cause.USER, "ann", "enough")
    world.clock.pass_(1)
    world.tasks.stop(task, second, Cause.SUPERSEDED, "ben", "at once")
    escalates = second is StopMode.FORCE and first is not StopMode.FORCE
    mode, cause, by, reason = (
        (StopMode.FORCE, Cause.SUPERSEDED, "ben", "at once")
        if escalates
        else (first, Cause.USER, "ann", "enough")
    )
    assert world.stop_of(task) == TaskStopping(
        task.task_id, 1000.0, POLICIES[A], mode, cause, by, reason
    )


@pytest.mark.parametrize("mode", list(StopMode))
def test_a_stop_by_somebody_takes_the_place_of_its_own_timeout(
    world: World, mode: StopMode
) -> None:
    """Then it is cancelled, not failed; the ladder goes on where it is."""
    task = world.start(timeout_seconds=1.0)
    world.pass_(1)
    world.clock.pass_(2)
    world.tasks.stop(task, mode, Cause.USER, "ann", "enough")
    assert world.stop_of(task) == TaskStopping(
        task.task_id,
        1001.0,
        POLICIES[A],
        mode,
        Cause.USER,
        "ann",
        "enough",
        delivered=Stage.CHECKPOINT,
    )


def test_a_shield_that_is_entered_while_it_stops_defers_what_remains(world: World) -> None:
    """By so long as it lasts."""
    task = world.start()
    world.tasks.stop(task, StopMode.GRACEFUL, Cause.USER, "ann", None)
    world.pass_(1)
    world.tasks.hear(ShieldChanged(task.task_id, 10.0))
    assert world.delivered == [(task.task_id, Stage.CHECKPOINT)]
    world.pass_(7)
    assert world.tasks.next_in == 3.0
    world.tasks.hear(ShieldChanged(task.task_id, None))
    world.pass_(3.9)
    assert world.delivered == []
    world.pass_(0.1)
    assert world.delivered == [(task.task_id, Stage.INTERRUPT)]


def test_under_a_shield_the_flag_is_set_at_once_and_the_rest_waits(world: World) -> None:
    """The task raises when its shield ends, at latest; what is deferred is counted from the stop."""
    task = world.start()
    world.tasks.hear(ShieldChanged(task.task_id, 10.0))
    world.pass_(2)
    world.tasks.stop(task, StopMode.GRACEFUL, Cause.USER, "ann", None)
    assert world.delivered == [(task.task_id, Stage.CHECKPOINT)]
    assert world.tasks.next_in == 8.0
    world.pass_(8)
    world.pass_(4.9)
    assert world.delivered == []
    world.pass_(0.1)
    assert world.delivered == [(task.task_id, Stage.INTERRUPT)]


def test_a_shield_keeps_nobody_from_a_kill(world: World) -> None:
    """Force is force; nothing milder is told before."""
    task = world.start()
    world.tasks.hear(ShieldChanged(task.task_id, 10.0))
    world.tasks.stop(task, StopMode.FORCE, Cause.USER, "ann", None)
    world.tasks.climb()
    assert world.delivered == [(task.task_id, Stage.KILL)]


def test_where_it_hung_is_part_of_its_stop(world: World) -> None:
    """The receipt shows the line that did not come to a checkpoint."""
    task = world.start()
    world.tasks.hear(TaskHung(task.task_id, ("early.py:1",)))  # no stop: nobody asks
    world.tasks.stop(task, StopMode.GRACEFUL, Cause.USER, "ann", None)
    world.tasks.hear(TaskHung(task.task_id, ("a.py:1", "b.py:2")))
    assert world.stop_of(task).where == ("a.py:1", "b.py:2")


@pytest.mark.parametrize("by", ["kill", "ladder"])
def test_a_kill_that_nothing_comes_of_is_told_after_the_lease_time_and_tried_on(
    world: World, by: str
) -> None:
    """Out of reach is not dead: the receipt says `unconfirmed`, and its table is not given to another."""
    task = world.start()
    if by == "kill":
        world.tasks.kill(task)
        world.tasks.kill(task)  # it waits for one end, however often it is killed
    else:
        world.tasks.stop(task, StopMode.FORCE, Cause.USER, "ann", None)
        world.tasks.climb()
    assert set(world.delivered) == {(task.task_id, Stage.KILL)}
    world.pass_(LOST_SECONDS + CONTACT_SECONDS - 0.1)
    assert (world.lost, task.is_lost) == ([], False)
    world.pass_(0.1)
    assert (world.lost, task.is_lost) == ([world.run], True)
    assert world.delivered == [(task.task_id, Stage.KILL)]
    world.pass_(LOST_SECONDS)
    assert world.delivered == [(task.task_id, Stage.KILL)]
    world.tasks.remove(task.task_id)
    world.pass_(10 * LOST_SECONDS)
    assert world.delivered == []


def test_those_of_a_job_that_was_lost_are_killed_and_nothing_else_is_done_about_them(
    world: World,
) -> None:
    """The job is somebody else's now, with all that is told of it; the others are not touched."""
    task = world.start(A, timeout_seconds=5.0, stall_timeout_seconds=5.0)
    other = world.start(A, run=world.new_run("j2"))
    world.tasks.abandon(world.run)
    assert world.delivered == [(task.task_id, Stage.KILL)]
    assert (task.over, other.over) == (True, False)
    world.pass_(200)
    assert world.delivered == []
    assert not world.tasks.is_stopping(task.task_id)
