"""What a crash has left of an attempt: its table's log is believed once the last writer is shut out of the table."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from executor_world import STATS, STEPS_MAX, Made, World, spec
from fakes import T0, DirectLedger, FakeClock, FakeTables, MemoryStore

from sluicegate.cancel_policy import DEFAULT_POLICY
from sluicegate.core.agenda import Agenda
from sluicegate.core.cancellation import Stage
from sluicegate.core.held_jobs import HeldJobs
from sluicegate.core.job import (
    Job,
    JobStatus,
    StopMode,
    TaskRecord,
    TaskStats,
    TaskStatus,
    TaskStopRequest,
)
from sluicegate.core.job_run import JobRun
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.ports import Change, Settled, TaskEnded, Writer
from sluicegate.core.receipt import Cause, Receipt
from sluicegate.core.recovery import (
    RECOVERIES_MAX,
    SETTLE_PAUSE_SECONDS,
    SETTLE_TRIES_MAX,
    Recovery,
    stopped_elsewhere,
)
from sluicegate.core.stops import TaskStopping
from sluicegate.core.table_book import TableBook
from sluicegate.core.transitions import Ended, TaskEvent

A = "bronze.a"
RUNNING = Job("j", "j", JobStatus.RUNNING, T0, 1, running_tasks=1, executor_id="e", lease=1)
STOPPED = replace(
    RUNNING,
    status=JobStatus.CANCELLED,
    cancellation=Receipt(T0, "timeout", Cause.TIMEOUT, "too long", "drain"),
)
STOPPED_ALONE = replace(
    RUNNING,
    task_stops={
        "t": TaskStopRequest(T0, "ann", "wrong day", StopMode.FORCE),
        "other": TaskStopRequest(T0, "ben"),
    },
)
TRIED_TOO_OFTEN = RECOVERIES_MAX + 1
AGO = TaskStats(rows=1, units=1, version=1)


class Home:
    """The recovery of one executor, which has a job whose task ran when another one died; what it is told is kept."""

    def __init__(self, job: Job = RUNNING, **fields: Any) -> None:
        self.clock, self.tables, self.store = FakeClock(), FakeTables(), MemoryStore()
        given: dict[str, Any] = {"epoch": 1, "permits": 1, "stats": AGO}
        self.record = TaskRecord("t", "j", A, TaskStatus.RUNNING, **given | fields)
        writer = Writer(A, 1, "j", "t")
        self.store.commit([Change(job, made_from=0, tasks=(self.record,), writers=(writer,))])
        self.agenda: Agenda[None] = Agenda(
            self.clock,
            DirectLedger(self.store, lambda _: None),
            act_on=lambda _: None,
            let_go=lambda _: None,
        )
        held = HeldJobs("e", self.clock, decided=lambda _: None, lost=lambda _: None)
        self.run = JobRun(self.store.get("j"), Plan((PlanStep(A),)), [self.record])
        held["j"] = self.run
        self.told: list[object] = []
        self.recovery = Recovery(
            tables=self.tables,
            book=TableBook(self.store),
            agenda=self.agenda,
            clock=self.clock,
            held=held,
            aside=lambda do: do(),
            conclude=lambda _, *what: self.told.append(what),
            end=lambda _, *what: self.told.append(what),
        )

    def settle(self) -> None:
        """Act on what has come until nothing is left to do at this instant."""
        for _ in range(STEPS_MAX):
            self.agenda.do_what_is_due()
            self.agenda.send_out()
            if not self.agenda.has_messages:
                return
            self.agenda.take(0)
        raise AssertionError("the agenda does not come to rest")

    def take_up(self) -> None:
        self.recovery.take_up(self.run, self.record)
        self.settle()


def crashed(made: Made) -> tuple[World, str]:
    """The task had a permit when its executor died; the next one has asked for the log, and waits for an answer."""
    world = made(spec(A))
    job_id = world.run()
    world.ask_permit(A)
    world.boot(recover=False)
    world.aside.held = True
    world.executor._agenda.post(world.executor._lease.scan)
    world.settle()
    return world, job_id


def go_on(world: World, *, once: bool = False) -> None:
    """What was read aside is told, and acted on."""
    world.aside.held = once
    world.aside.release()
    world.settle()


def test_the_last_writer_is_shut_out_durably_before_the_table_is(made: Made) -> None:
    """It may only be out of reach: were the table asked first, a crash would leave an epoch that nobody knows of."""
    world, job_id = crashed(made)
    assert world.tables.fences == {}
    go_on(world, once=True)
    [writer] = world.store.held_writers()
    assert (writer.epoch, world.task(job_id, A).epoch) == (2, 2)
    assert world.tables.fences == {}
    go_on(world)
    assert world.tables.fences == {A: 2}
    assert (world.live(A).epoch, world.live(A).attempt) == (3, 2)


def test_a_table_whose_epoch_was_raised_meanwhile_is_read_again_and_then_shut(made: Made) -> None:
    """A restored store learns the epochs from the lake; to go on with the old one would shut out nobody."""
    world, _ = crashed(made)
    world.store.raise_epochs({A: 7})
    go_on(world)
    assert world.tables.fences == {A: 8}
    assert (world.live(A).epoch, world.live(A).attempt) == (9, 2)


def test_who_loses_the_job_while_it_shuts_a_writer_out_leaves_the_table_alone(made: Made) -> None:
    """Another executor has the job and its table by the time that the decision is heard of."""
    world, job_id = crashed(made)
    world.ledger.held = True
    go_on(world)
    asked = list(world.tables.asked)
    world.executor.wake(job_id)
    world.ledger.held = False
    world.ledger.release()
    world.steal(job_id)
    world.settle()
    assert job_id not in world.executor._held
    assert world.tables.asked == asked
    assert world.tables.fences == {}


def test_who_has_lost_the_job_before_shuts_nobody_out(made: Made) -> None:
    """The log was slow, and the lease is another's: the table is that one's to take."""
    world, job_id = crashed(made)
    world.steal(job_id)
    go_on(world)
    [writer] = world.store.held_writers()
    assert (writer, world.tables.fences) == (
        Writer(A, 1, job_id, writer.task_id, revision=writer.revision),
        {},
    )
    assert job_id not in world.executor._held


# ------------------------------------------------------------------ what is made of it


def lost(outcome: str, stats: TaskStats, message: str | None = None) -> TaskEnded:
    return TaskEnded("t", outcome, stats, message, stage=Stage.KILL)


def test_a_task_that_is_not_in_its_table_yet_waits_for_another_attempt() -> None:
    """With what the log says is in: the log is newer than what was stored. What else it wrote is removed."""
    home = Home(attempt=2)
    home.tables.settled["t"] = Settled(STATS, complete=False)
    home.clock.pass_(5)
    home.take_up()
    fenced = replace(home.record, epoch=2)
    why = "taken up again after a crash"
    assert home.told == [(fenced, Ended(TaskEvent.WAIT, home.clock.now(), STATS, why))]
    assert (home.tables.fences, home.tables.cleaned) == ({A: 2}, [(A, "t", 2)])


def test_a_task_that_has_committed_all_has_succeeded_and_nobody_is_shut_out() -> None:
    """There is nothing left that a late writer could do."""
    home = Home(replace(RUNNING, recoveries=TRIED_TOO_OFTEN - 1))
    home.tables.settled["t"] = Settled(STATS, complete=True)
    home.take_up()
    assert home.told == [(home.record, lost("success", STATS), None)]
    assert (home.tables.fences, home.tables.asked) == ({}, ["t"])


def test_a_task_that_never_had_a_permit_has_committed_nothing_and_no_log_is_asked() -> None:
    """What is stored is all there is, and no table is taken for it."""
    home, told = Home(permits=0), list[Settled]()
    home.recovery.settle(home.record, told.append)
    assert told == [Settled(AGO, complete=False)]
    home.take_up()
    why = "taken up again after a crash"
    assert home.told == [(home.record, Ended(TaskEvent.WAIT, T0, AGO, why))]
    assert (home.tables.fences, home.tables.asked) == ({}, [])


@pytest.mark.parametrize("job", [STOPPED, STOPPED_ALONE], ids=["with its job", "alone"])
@pytest.mark.parametrize("recoveries", [0, TRIED_TOO_OFTEN])
def test_a_task_that_was_stopped_is_not_tried_again(job: Job, recoveries: int) -> None:
    """Its processes were killed with their server: that is how it stopped, and by whom it was asked to."""
    home = Home(replace(job, recoveries=recoveries))
    home.tables.settled["t"] = Settled(STATS, complete=False)
    home.take_up()
    exhausted = recoveries and job is STOPPED_ALONE
    message = "recoveries_exhausted" if exhausted else None
    stopping = stopped_elsewhere(home.run, home.record, Stage.KILL, home.clock.monotonic())
    assert stopping is not None
    assert home.told == [(replace(home.record, epoch=2), lost("failed", STATS, message), stopping)]


def test_a_task_whose_executors_died_too_often_is_not_tried_again() -> None:
    """It may be what kills them."""
    home = Home(replace(RUNNING, recoveries=TRIED_TOO_OFTEN))
    home.take_up()
    ended = lost("failed", TaskStats(), "recoveries_exhausted")
    assert home.told == [(replace(home.record, epoch=2), ended, None)]


def test_the_stop_of_a_task_that_ended_elsewhere_is_its_jobs_or_its_own() -> None:
    """Who asked, why and how is what was stored; since when is not known of this process's clock."""

    def stop_of(job: Job) -> TaskStopping | None:
        home = Home(job)
        return stopped_elsewhere(home.run, home.record, Stage.CHECKPOINT, 7.0)

    given: dict[str, Any] = {"delivered": Stage.CHECKPOINT, "seen_begin": False}
    alone = ("t", 7.0, DEFAULT_POLICY, StopMode.FORCE, Cause.USER, "ann", "wrong day")
    with_job = ("t", 7.0, DEFAULT_POLICY, StopMode.DRAIN, Cause.TIMEOUT, "timeout", "too long")
    assert stop_of(RUNNING) is None
    assert stop_of(STOPPED_ALONE) == TaskStopping(*alone, **given)
    assert stop_of(STOPPED) == TaskStopping(*with_job, **given)
    both = replace(STOPPED, task_stops=STOPPED_ALONE.task_stops)
    assert stop_of(both) == TaskStopping(*with_job, **given), "all of it comes first"


# ------------------------------------------------------------------ a lake on a bad day


def test_a_writer_is_shut_out_once_the_table_can_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """The first try has failed before it did: the next one must not read the log of an open table."""
    home, told = Home(), list[Settled]()
    home.tables.unreadable = 1
    home.tables.settled["t"] = Settled(STATS, complete=False)
    home.recovery.settle(home.record, told.append, Writer(A, 2, "j", "t"))
    home.settle()
    assert (told, home.tables.fences) == ([], {})
    assert [r.getMessage() for r in caplog.records] == [
        "settle_failed task_id=t error=the lake's disk is full"
    ]
    home.clock.pass_(SETTLE_PAUSE_SECONDS)
    home.settle()
    assert (told, home.tables.fences) == ([Settled(STATS, complete=False)], {A: 2})
    assert home.agenda.is_at_rest


def test_a_log_that_stays_unreadable_leaves_what_is_stored() -> None:
    """The job must not wait forever; what is in the log is found by the next attempt."""
    home, told = Home(), list[Settled]()
    home.tables.unreadable = SETTLE_TRIES_MAX
    home.recovery.settle(home.record, told.append)
    for _ in range(SETTLE_TRIES_MAX):
        assert told == []
        home.settle()
        home.clock.pass_(SETTLE_PAUSE_SECONDS)
    assert told == [Settled(AGO, complete=False)]
    assert len(home.tables.asked) == SETTLE_TRIES_MAX
    assert home.agenda.is_at_rest


def test_files_that_cannot_be_removed_are_told_and_hold_up_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are waste, and not worth a job."""

    def full(*_: object) -> None:
        raise OSError("the lake's disk is full")

    home = Home(permits=0)
    monkeypatch.setattr(home.tables, "clean_up", full)
    home.take_up()
    assert len(home.told) == 1
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.WARNING, "clean_up_failed task_id=t error=the lake's disk is full")
    ]
