"""Several executors on one store: who runs what, who takes over when, and who is refused. A fake clock, no process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from executor_world import LEASE_SECONDS, STATS, World, spec

from sluicegate.core.cancellation import Stage
from sluicegate.core.job import Event, JobStatus, StopMode, TaskStatus
from sluicegate.core.ports import Change, PermitAsked, Settled, TaskEnded

A, B, C, SA = "bronze.a", "bronze.b", "bronze.c", "silver.a"
SPECS = (spec(A), spec(B), spec(C), spec(SA, A))
MARGIN_SECONDS = 2.0
T0 = datetime(2026, 1, 1, tzinfo=UTC)


class Two:
    """Two homes on one store. `pass_` lets time pass for those that live."""

    def __init__(self, capacity: int = 2) -> None:
        self.first = World(*SPECS, capacity=capacity)
        self.second = World(*SPECS, capacity=capacity, beside=self.first)
        self.alive = [self.first, self.second]
        for world in self.alive:
            world.keep_lease()
        self.pass_(2)

    def pass_(self, seconds: float) -> None:
        step = 0.5
        while seconds > 0:
            self.first.clock.pass_(min(step, seconds))
            seconds -= step
            self.rest()

    def rest(self) -> None:
        """Everyone hears of everything, and does what it can."""
        for _ in range(3):
            for world in self.alive:
                world.follow()

    def kill(self, world: World) -> None:
        """It does nothing any more; its processes die with it."""
        self.alive.remove(world)
        world.workers.live.clear()


@pytest.fixture(autouse=True)
def nothing_goes_wrong(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """An executor says its mistakes and goes on; a test must not."""
    yield
    assert [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR] == []


@pytest.fixture
def two() -> Two:
    """Two executors that know each other."""
    return Two()


def test_a_job_is_its_creators_while_that_one_has_room(two: Two) -> None:
    """No claim is written, and nobody waits for one."""
    job_id = two.first.run(A)
    two.rest()
    assert two.first.running == [A]
    assert two.second.running == []
    assert two.first.job(job_id).executor_id == two.first.executor.executor_id


def test_a_stop_that_another_server_decides_reaches_the_task_at_once(two: Two) -> None:
    """Any of them can stop any job."""
    job_id = two.first.run(A)
    two.second.cancel(job_id)
    two.first.follow()
    task_id = two.first.live(A).task_id
    assert two.first.stages(task_id) == [Stage.CHECKPOINT]
    two.first.end(A, "cancelled")
    assert two.second.job(job_id).is_over
    assert two.second.status(job_id) is JobStatus.CANCELLED


def test_a_stop_is_made_force_from_another_server(two: Two) -> None:
    job_id = two.first.run(A)
    two.second.cancel(job_id)
    two.first.follow()
    two.second.cancel(job_id, StopMode.FORCE)
    two.first.follow()
    assert two.first.stages(two.first.live(A).task_id) == [Stage.CHECKPOINT, Stage.KILL]


def test_one_task_is_stopped_from_another_server(two: Two) -> None:
    from sluicegate.core.transitions import StopRequest

    job_id = two.first.run(A, B)
    task_id = two.first.live(A).task_id
    two.second.manager.cancel_task(job_id, task_id, StopRequest("ann"))
    two.first.follow()
    assert two.first.stages(task_id) == [Stage.CHECKPOINT]
    assert two.first.stages(two.first.live(B).task_id) == []


def test_a_commit_after_a_stop_elsewhere_is_refused_though_nobody_was_told(two: Two) -> None:
    """The store judges, not the news."""
    job_id = two.first.run(A)
    two.second.cancel(job_id)
    two.first.ask_permit(A)
    assert [refused for _, refused in two.first.workers.permits] == ["the job is cancelled"]


def test_jobs_beyond_the_room_are_shared(two: Two) -> None:
    """One server was given all of them; the other one's workers do not stand idle."""
    ids = [two.first.run(A if n % 2 else B, settle=False) for n in range(12)]
    two.pass_(3)
    for _ in range(60):
        for world in two.alive:
            for pipeline in world.running:
                world.end(pipeline)
        two.pass_(1.5)
        if all(two.first.job(job_id).is_over for job_id in ids):
            break
    assert {two.first.status(job_id) for job_id in ids} == {JobStatus.SUCCESS}
    assert two.first.handed
    assert two.second.handed
    assert {two.first.job(job_id).recoveries for job_id in ids} == {0}


def giving_away() -> tuple[World, World, list[str]]:
    """One that has waiting jobs sees a second one come; its letting go of some of them is on the way to the store."""
    first = World(*SPECS, capacity=1).keep_lease()
    ids = [first.run(pipeline) for pipeline in (A, B, C, B, C)]
    second = World(*SPECS, capacity=1, beside=first).keep_lease()
    first.ledger.held = True
    for _ in range(20):
        if any(run.is_leaving for run in first.executor._held.values()):
            return first, second, ids
        first.later(0.5)
        second.settle()
    raise AssertionError("nothing is given away")


def let_go(first: World) -> None:
    first.ledger.held = False
    first.ledger.release()
    first.settle()


def test_who_has_more_than_its_share_lets_go_of_what_comes_last() -> None:
    """And of nothing else: a job that is anybody's is not this one's any more, and the timeline says when."""
    first, second, ids = giving_away()
    let_go(first)
    count = len(first.executor._held)
    kept, given = ids[:count], ids[count:]
    assert set(first.executor._held) == set(kept)
    assert {first.job(job_id).executor_id for job_id in given} == {None}
    released = [e for e in first.store.events() if e.type == "job.released"]
    assert sorted(e.job_id for e in released) == given
    assert {e.at for e in released} == {first.clock.now()}
    second.follow()
    assert set(second.executor._held) == set(given[:2])


def test_a_job_that_is_stopped_while_it_is_given_away_is_closed_by_who_holds_it() -> None:
    """The stop was first: to let go of it would leave its end to whoever comes by."""
    first, _, ids = giving_away()
    first.cancel_elsewhere(ids[-1])
    let_go(first)
    job = first.job(ids[-1])
    assert (job.status, job.is_over) == (JobStatus.CANCELLED, True)
    assert job.executor_id == first.executor.executor_id
    types = [e.type for e in first.store.events(job_id=ids[-1])]
    assert types == ["job.created", "job.cancelled", "job.stopped"]
    assert ids[-1] not in first.executor._held


def test_a_job_that_is_taken_over_while_it_is_given_away_is_its_new_holders() -> None:
    """A late release must not take it from who holds it now."""
    first, _, ids = giving_away()
    first.steal(ids[-1])
    let_go(first)
    assert first.job(ids[-1]).executor_id == "other"
    assert ids[-1] not in first.executor._held


def test_a_table_that_another_server_frees_is_taken_by_who_waits(two: Two) -> None:
    """One writer at a time; and the next is told."""
    first = two.first.run(A)
    second = two.second.run(A)
    assert two.second.running == []
    two.first.end(A, stats=STATS)
    two.second.follow()
    assert two.second.running == [A]
    two.second.end(A, stats=STATS)
    assert {two.first.status(j) for j in (first, second)} == {JobStatus.SUCCESS}


def test_what_a_dead_executor_ran_is_taken_over_in_the_lease_and_two_seconds(two: Two) -> None:
    """Not before: it may only be slow. Finished tasks stay finished, and the recovery is counted."""
    job_id = two.first.run(SA, with_dependencies=True)
    two.first.end(A, stats=STATS)
    assert two.first.running == [SA]
    two.kill(two.first)
    two.pass_(LEASE_SECONDS * 2 / 3 - 1)
    assert two.second.running == []
    two.pass_(LEASE_SECONDS / 3 + 1 + MARGIN_SECONDS)
    assert two.second.running == [SA]
    assert two.second.job(job_id).recoveries == 1
    two.second.end(SA, stats=STATS)
    assert two.second.status(job_id) is JobStatus.SUCCESS
    assert [e.executor_id for e in two.second.store.executors()] == [
        two.second.executor.executor_id
    ]


def test_what_waits_at_a_dead_executor_is_taken_over_without_counting(two: Two) -> None:
    """Nothing of it ran: that is no recovery."""
    jobs = [two.first.run(A) for _ in range(3)]
    two.kill(two.first)
    two.pass_(LEASE_SECONDS + MARGIN_SECONDS)
    assert two.second.running == [A]
    assert sorted(two.second.job(job_id).recoveries for job_id in jobs) == [0, 0, 1]


def test_a_stop_of_a_dead_executors_job_ends_with_the_takeover(two: Two) -> None:
    """`completed_at` is set at latest the lease and two seconds later."""
    job_id = two.first.run(A)
    two.kill(two.first)
    two.second.cancel(job_id)
    assert two.second.job(job_id).stopping
    two.pass_(LEASE_SECONDS + MARGIN_SECONDS)
    job = two.second.job(job_id)
    assert job.is_over
    assert job.status is JobStatus.CANCELLED
    assert two.second.handed == []


def test_what_a_dead_executor_had_committed_stays_committed(two: Two) -> None:
    """The table's log decides, never a guess."""
    job_id = two.first.run(A)
    task_id = two.first.ask_permit(A)
    two.first.tables.settled[task_id] = Settled(STATS, complete=True)
    two.kill(two.first)
    two.pass_(LEASE_SECONDS + MARGIN_SECONDS)
    assert two.second.handed == []
    assert two.second.status(job_id) is JobStatus.SUCCESS


def test_an_executor_that_is_told_to_end_hands_over_at_once(two: Two) -> None:
    """Neither a recovery nor a retry; and nobody waits for a lease."""
    job_id = two.first.run(A)
    two.first.close()
    two.first.end(A, "cancelled")
    assert two.first.executor._closed.is_set()
    two.first.executor._lease.close()
    two.alive.remove(two.first)
    two.pass_(1)
    assert two.second.running == [A]
    job, task = two.second.job(job_id), two.second.task(job_id, A)
    assert (job.recoveries, task.retries_used, task.attempt) == (0, 0, 2)
    assert len(two.second.store.executors()) == 1


def test_one_that_was_paused_longer_than_its_lease_comes_back_to_nothing(two: Two) -> None:
    """It ends what it ran, and reports on none of it: the job is another's, and so is the table."""
    job_id = two.first.run(A)
    paused = two.first
    two.alive.remove(paused)
    two.pass_(LEASE_SECONDS + MARGIN_SECONDS)
    assert two.second.running == [A]
    task_id = paused.live(A).task_id
    paused.workers.tell(PermitAsked(task_id, 1, 1))
    paused.settle()
    assert all(refused for _, refused in paused.workers.permits)
    assert Stage.KILL in paused.stages(task_id)
    two.alive.append(paused)
    two.rest()
    del paused.workers.live[task_id]
    paused.workers.tell(TaskEnded(task_id, "lost"))
    two.rest()
    assert two.second.task(job_id, A).status is TaskStatus.RUNNING
    two.second.end(A, stats=STATS)
    assert two.second.status(job_id) is JobStatus.SUCCESS
    two.pass_(2)
    assert len(two.second.store.executors()) == 2, "it is one of the living again"


def test_one_that_cannot_renew_ends_its_tasks_and_takes_them_up_again(two: Two) -> None:
    """Before others could start them; that is a hand-back, neither a recovery nor a retry."""
    job_id = two.first.run(A)
    task_id = two.first.live(A).task_id
    two.first.store.unavailable = True
    two.pass_(LEASE_SECONDS * 2 / 3 - 6)
    assert two.first.stages(task_id) == []
    two.alive.remove(two.second)  # nobody takes over: all of them have lost the store
    two.pass_(6)
    assert two.first.stages(task_id) == [Stage.KILL]
    two.first.end(A, "lost")
    two.first.store.unavailable = False
    two.pass_(3)
    assert two.first.running == [A]
    job, task = two.first.job(job_id), two.first.task(job_id, A)
    assert (job.recoveries, task.retries_used, task.attempt) == (0, 0, 2)


def test_nothing_starts_and_nothing_is_committed_out_of_touch(two: Two) -> None:
    """What another one may run by now must not run here."""
    two.first.run(A)
    two.alive.remove(two.second)
    two.first.store.unavailable = True
    two.pass_(LEASE_SECONDS)
    assert two.first.executor._lease.out_of_touch
    task_id = two.first.ask_permit(A)
    two.first.store.unavailable = False
    before = list(two.first.handed)
    two.first.executor._agenda.do_what_is_due()
    two.first.settle()
    refusals = [refused for of, refused in two.first.workers.permits if of == task_id]
    assert refusals in ([], ["the task is being stopped"])
    assert two.first.handed == before


def test_a_start_that_is_stored_while_the_lease_is_lost_is_handed_back(two: Two) -> None:
    """It never ran here; that is no failure of the task."""
    job_id = two.first.run(A, settle=False)
    two.first.ledger.held = True
    two.first.executor.tick(0)
    two.first.executor._lease.out_of_touch = True
    two.first.ledger.held = False
    two.first.ledger.release()
    two.first.settle()
    assert two.first.handed == []
    task = two.first.task(job_id, A)
    assert (task.status, task.retries_used) == (TaskStatus.PENDING, 0)
    two.pass_(2)
    assert two.first.running == [A]


def test_a_start_that_was_stored_before_a_long_pause_is_not_handed_over_after_it(two: Two) -> None:
    """Whoever wakes up notices first that its time is over; the task runs elsewhere by now."""
    two.first.run(A, settle=False)
    two.first.ledger.held = True
    two.first.executor.tick(0)
    two.first.ledger.held = False
    two.first.ledger.release()
    two.alive.remove(two.first)
    two.pass_(LEASE_SECONDS + MARGIN_SECONDS)
    assert two.second.running == [A]
    two.first.settle()
    assert two.first.handed == []


def test_one_that_wakes_up_takes_nothing_before_its_lease_is_renewed(two: Two) -> None:
    """It may have been forgotten by all: if it died now, nobody would look for what it holds."""
    two.alive.remove(two.first)
    two.pass_(LEASE_SECONDS)
    assert two.first.executor.owner_of_new() is None
    job_id = two.first.run(A, settle=False)
    assert two.first.job(job_id).executor_id is None
    two.alive.append(two.first)
    two.pass_(2)
    assert two.first.running + two.second.running == [A]


def test_jobs_of_one_that_nobody_knows_are_found(two: Two) -> None:
    """It was forgotten too late, when it had come back, and died before it beat again."""
    job_id = two.first.run(A)
    two.first.store.forget_executor(two.first.executor.executor_id)
    two.kill(two.first)
    two.pass_(LEASE_SECONDS + MARGIN_SECONDS)
    assert two.second.running == [A]
    assert two.second.job(job_id).recoveries == 1


def test_a_table_that_a_start_of_ours_asks_for_is_shut_to_its_last_writer(two: Two) -> None:
    """The start will be refused; until then what is known of the table is not what is stored."""
    taken_over = two.first.run(A)
    two.first.ask_permit(A)
    two.kill(two.first)
    waiting = two.second.run(A)
    assert two.second.running == []
    # As if it had read the table just before the first took it.
    writer = two.second.executor._book.writer(A)
    two.second.executor._book.stored(replace(writer, job_id=waiting, task_id="on its way"))
    two.pass_(LEASE_SECONDS + MARGIN_SECONDS)
    assert two.second.running == [A]
    assert two.second.task(taken_over, A).epoch > writer.epoch
    assert not two.second.failures.records


def test_a_whole_fleet_that_was_paused_judges_nobody(two: Two) -> None:
    """The machine slept: both missed the beats of the other."""
    job_id = two.first.run(A)
    two.first.clock.pass_(600)
    two.rest()
    two.pass_(3)
    assert two.second.handed == []
    job = two.first.job(job_id)
    assert job.executor_id == two.first.executor.executor_id


def test_a_clock_that_jumps_on_another_machine_changes_nothing(two: Two) -> None:
    """Leases are judged by beats that stop changing, measured here."""
    job_id = two.first.run(A)
    two.first.clock.jump(-86_400)
    two.pass_(LEASE_SECONDS)
    two.first.clock.jump(2 * 86_400)
    two.pass_(LEASE_SECONDS)
    assert two.second.handed == []
    assert two.first.job(job_id).lease == 1


def test_the_next_server_of_a_home_waits_for_no_lease(two: Two) -> None:
    """The home was free, so the one before has ended."""
    job_id = two.first.run(A)
    two.first.workers.live.clear()
    two.first.boot()
    assert two.first.running == [A]
    assert two.first.job(job_id).recoveries == 1
    assert two.second.handed == []


def test_a_job_that_comes_back_waits_until_its_task_of_before_is_gone(two: Two) -> None:
    """It was taken over and handed back while the kill of its first task is still under way here."""
    job_id = two.first.run(A)
    task_id = two.first.live(A).task_id
    seen = two.first.job(job_id)
    gone = replace(seen, executor_id=None, lease=seen.lease + 1)
    two.first.store.commit(
        [Change(gone, made_from=seen.version, events=(Event("job.released", job_id, T0),))]
    )
    two.first.executor.wake(job_id)
    two.first.settle()
    assert two.first.stages(task_id) == [Stage.KILL]
    two.alive.remove(two.second)
    two.pass_(3)
    assert len(two.first.handed) == 1
    two.first.end(A, "lost")
    two.pass_(2)
    assert two.first.handed == [A, A]


def test_a_server_of_another_home_takes_nothing_from_a_living_one(two: Two) -> None:
    """A third one starts in the middle."""
    job_id = two.first.run(A)
    third = World(*SPECS, beside=two.first).keep_lease()
    two.alive.append(third)
    two.pass_(LEASE_SECONDS)
    assert third.handed == []
    assert two.first.job(job_id).lease == 1


def test_jobs_of_one_that_nobody_knows_any_more_are_found(two: Two) -> None:
    """Its row was removed, and a job of it came after that."""
    lost = two.first.run(A, settle=False)
    seen = two.first.store.memory.jobs[lost]
    two.first.store.memory.jobs[lost] = replace(seen, executor_id="nobody")
    third = World(*SPECS, beside=two.first)
    assert third.running == [A]


def test_a_job_that_nobody_holds_is_closed_by_whoever_hears_of_its_stop(two: Two) -> None:
    """It never began, and waits for a worker that nobody has."""
    two.first.manager.owner = lambda: None
    blockers = [two.first.run(p) for p in (A, B)] + [two.second.run(p) for p in (C,)]
    two.rest()
    waiting = two.first.run(C)
    two.first.cancel(waiting)
    two.rest()
    assert two.first.job(waiting).is_over
    assert blockers
