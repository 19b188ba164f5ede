"""One executor's side of sharing, alone: what a claim stores, what is looked for when, and what is let go of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from fakes import T0, Aside, DirectLedger, FakeClock, MemoryStore

from sluicegate.core.agenda import STORE_PAUSE_SECONDS, Agenda
from sluicegate.core.held_jobs import HeldJobs
from sluicegate.core.job import Event, Job, JobStatus
from sluicegate.core.job_run import JobRun
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.ports import Accepted, Change
from sluicegate.core.sharing import AHEAD_OF_OTHERS, RELEASED_AT_ONCE_MAX, Sharing

PLAN = Plan((PlanStep("bronze.a"),))


class AskedStore(MemoryStore):
    """A store that notes how many jobs it was asked for that nobody holds."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def unclaimed(self, limit: int) -> Sequence[Job]:
        self.asked.append(limit)
        return super().unclaimed(limit)


class World:
    """Its neighbours, its workers and whether it is leaving are as a test says; what it holds it was told to hold."""

    def __init__(self) -> None:
        self.store, self.clock, self.aside = AskedStore(), FakeClock(), Aside()
        self.others, self.busy, self.is_leaving = {"other"}, (0, 4), False
        self.claimed: list[Job] = []
        self.given: list[JobRun] = []
        self.let_go: list[str] = []
        self.decided: list[JobRun] = []
        self.lost: list[str] = []
        self.ledger = DirectLedger(self.store, lambda _: None)
        self.agenda: Agenda[str] = Agenda(
            self.clock, self.ledger, lambda _: None, self.let_go.append
        )
        self.held = HeldJobs("me", self.clock, self.decided.append, self.lost.append)
        self.sharing = Sharing(
            "me",
            store=self.store,
            agenda=self.agenda,
            clock=self.clock,
            held=self.held,
            aside=self.aside.submit,
            is_leaving=lambda: self.is_leaving,
            others=lambda: self.others,
            busy=lambda: self.busy,
            claimed=self.claimed.append,
            given=self.given.append,
        )

    def job(self, job_id: str = "j1", executor_id: str | None = None, **fields: Any) -> Job:
        given: dict[str, Any] = {"status": JobStatus.PENDING, "total_tasks": 1} | fields
        job = Job(job_id, "n", created_at=T0, executor_id=executor_id, **given)
        return self.stored(Change(job, made_from=0, plan=PLAN))

    def hold(self, job_id: str = "j1", **fields: Any) -> JobRun:
        """A job of this executor, which waits for a worker here."""
        run = JobRun(self.job(job_id, "me", lease=1, **fields), PLAN, [])
        self.held[job_id] = run
        return run

    def change(self, job_id: str, **fields: Any) -> Job:
        """Another process writes the job."""
        seen = self.store.get(job_id)
        return self.stored(Change(replace(seen, **fields), made_from=seen.version))

    def stored(self, change: Change) -> Job:
        [outcome] = self.store.commit([change])
        assert isinstance(outcome, Accepted)
        return outcome.job

    def rest(self) -> None:
        """Store what was decided, and act on all that comes of it."""
        self.agenda.do_what_is_due()
        self.agenda.send_out()
        while self.agenda.has_messages:
            self.agenda.take(0)
            self.agenda.send_out()

    def look(self) -> None:
        self.sharing.take_offers()
        self.rest()

    @property
    def events(self) -> list[Event]:
        return [replace(event, event_id=0) for event in self.store.events()]


@pytest.fixture
def world() -> World:
    return World()


# ------------------------------------------------------------------ a claim


@pytest.mark.parametrize(
    ("executor_id", "status", "running_tasks", "recoveries"),
    [
        (None, JobStatus.PENDING, 0, 1),
        (None, JobStatus.RUNNING, 1, 1),  # it was handed back, and its tasks with it
        ("dead", JobStatus.PENDING, 0, 1),
        ("dead", JobStatus.RUNNING, 0, 1),  # it died between two tasks
        ("dead", JobStatus.RUNNING, 2, 2),
        ("dead", JobStatus.CANCELLED, 2, 1),  # nothing of it starts again
    ],
)
def test_a_claim_raises_the_lease_and_counts_only_a_death_among_running_tasks(
    world: World, executor_id: str | None, status: JobStatus, running_tasks: int, recoveries: int
) -> None:
    """From then on nothing of the old holder is accepted; and three recoveries a job are all there are."""
    seen = world.job(
        "j1", executor_id, status=status, running_tasks=running_tasks, recoveries=1, lease=4
    )
    world.clock.pass_(7)
    world.sharing.claim(seen)
    world.rest()
    expected = replace(seen, executor_id="me", lease=5, recoveries=recoveries, version=2)
    assert world.store.get("j1") == expected
    assert world.claimed == [expected]
    assert world.events == [Event("job.claimed", "j1", world.clock.now())]


@pytest.mark.parametrize(
    "before",
    [
        {"executor_id": "other", "lease": 5},  # another one was first
        {"status": JobStatus.CANCELLED, "completed_at": T0},  # it was stopped and closed
    ],
)
def test_a_claim_that_comes_late_changes_nothing(world: World, before: dict[str, Any]) -> None:
    """Of two who found it one wins, and the other one is told of nothing."""
    seen = world.job(lease=4)
    stored = world.change("j1", **before)
    world.sharing.claim(seen)
    world.rest()
    assert world.store.get("j1") == stored
    assert (world.claimed, world.events) == ([], [])


def test_what_is_over_but_not_settled_is_claimed(world: World) -> None:
    """Somebody has to find out what became of its task."""
    over = {"status": JobStatus.CANCELLED, "completed_at": T0, "running_tasks": 1}
    seen = world.job("j1", "dead", **over)
    world.sharing.claim(seen)
    world.rest()
    assert [job.job_id for job in world.claimed] == ["j1"]


def test_a_job_that_came_here_while_it_was_claimed_is_run_once(world: World) -> None:
    """Both ways to it may be open for a moment."""
    seen = world.job()
    world.ledger.held = True
    world.sharing.claim(seen)
    world.rest()
    world.held["j1"] = JobRun(seen, PLAN, [])
    world.ledger.held = False
    world.ledger.release()
    world.rest()
    assert world.store.get("j1").executor_id == "me"
    assert world.claimed == []


# ------------------------------------------------------------------ what is looked for


@pytest.mark.parametrize(
    ("others", "busy", "room"),
    [
        (set(), (100, 4), RELEASED_AT_ONCE_MAX),  # nobody else would do it
        ({"other"}, (0, 4), AHEAD_OF_OTHERS * 4),
        ({"other"}, (3, 4), AHEAD_OF_OTHERS * 4 - 3),
        ({"other"}, (8, 4), 0),
        ({"other"}, (11, 4), -3),
    ],
)
def test_room_is_for_twice_the_workers_where_there_are_others(
    world: World, others: set[str], busy: tuple[int, int], room: int
) -> None:
    """Enough that no worker here waits for the next claim, and no more than that."""
    world.others, world.busy = others, busy
    assert world.sharing.room == room


def test_offers_are_taken_as_far_as_there_is_room_and_looked_for_until_there_are_none(
    world: World,
) -> None:
    """The most urgent first; and nobody asks the store each round for what is not there."""
    for n in range(3):
        world.job(f"j{n}", priority=n)
    world.job("held elsewhere", "other")
    world.busy = (6, 4)
    world.look()
    assert world.store.asked == [], "nobody has said that there are any"
    world.sharing.offered()
    world.look()
    assert [job.job_id for job in world.claimed] == ["j2", "j1"]
    world.busy = (8, 4)
    world.look()
    assert world.store.asked == [2]
    world.busy = (7, 4)
    world.look()
    world.look()
    assert [job.job_id for job in world.claimed] == ["j2", "j1", "j0"]
    world.look()
    world.look()
    assert world.store.asked == [2, 1, 1], "until there are fewer than there is room for"


def test_what_is_held_or_being_claimed_is_not_claimed_again(world: World) -> None:
    """It is in the list until its claim is stored; to look on for nothing else would never end."""
    seen = [world.job(f"j{n}") for n in range(4)]
    world.held["j0"] = JobRun(seen[0], PLAN, [])
    world.ledger.held = True
    world.sharing.claim(seen[1])
    world.rest()
    world.busy = (6, 4)
    world.sharing.offered()
    world.look()
    world.look()
    assert world.store.asked == [2], "the two of the list are known"
    world.ledger.held = False
    world.ledger.release()
    world.rest()
    assert [job.job_id for job in world.claimed] == ["j1"]
    world.sharing.offered()
    world.look()
    assert [job.job_id for job in world.claimed] == ["j1", "j2"]


def test_a_job_that_comes_back_can_be_claimed_again(world: World) -> None:
    """It was handed back, or given away, since."""
    seen = world.job()
    world.sharing.claim(seen)
    world.rest()
    world.change("j1", executor_id=None)
    world.sharing.offered()
    world.look()
    assert [job.lease for job in world.claimed] == [1, 2]


def test_a_claim_that_cannot_be_stored_keeps_nobody_from_the_next(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake that is over the next time must not lose the job for as long as this process lives."""
    seen = world.job()

    def fail() -> None:
        raise RuntimeError

    world.store.before_commit = fail
    world.sharing.claim(seen)
    world.rest()
    assert world.let_go == ["j1"]
    assert [record.getMessage() for record in caplog.records] == ["decision_failed job_id=j1"]
    world.store.before_commit = lambda: None
    world.sharing.offered()
    world.look()
    assert [job.job_id for job in world.claimed] == ["j1"]


def test_nobody_looks_twice_at_once(world: World) -> None:
    """A store that is slow would be asked the same again in each round."""
    world.job()
    world.aside.held = True
    world.sharing.offered()
    for _ in range(3):
        world.look()
    world.aside.held = False
    world.aside.release()
    assert world.store.asked == [8]
    world.rest()
    assert [job.job_id for job in world.claimed] == ["j1"]


def test_a_store_that_is_away_is_said_and_left_alone_for_a_while(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Each round would ask it again."""
    world.store.unavailable = True
    world.sharing.offered()
    world.look()
    world.clock.pass_(STORE_PAUSE_SECONDS - 0.1)
    world.look()
    assert len(world.store.asked) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "store_unavailable error=the store 'memory' cannot be used: it is away"
    ]
    world.clock.pass_(0.1)
    world.rest()
    world.store.unavailable = False
    world.job()
    world.sharing.offered()
    world.look()
    assert [job.job_id for job in world.claimed] == ["j1"]


def test_offers_that_could_not_be_read_are_looked_for_when_the_store_is_back(world: World) -> None:
    """They were told of once."""
    world.job()
    world.store.unavailable = True
    world.sharing.offered()
    world.look()
    world.store.unavailable = False
    world.clock.pass_(STORE_PAUSE_SECONDS)
    world.rest()
    world.look()
    assert [job.job_id for job in world.claimed] == ["j1"]


def test_who_is_leaving_takes_nothing(world: World) -> None:
    """Also not what it was looking for when it was told to end."""
    world.job()
    world.sharing.offered()
    world.is_leaving = True
    world.look()
    assert world.store.asked == []
    world.is_leaving = False
    world.aside.held = True
    world.look()
    world.is_leaving = True
    world.aside.release()
    world.rest()
    assert world.store.asked == [8]
    assert world.store.get("j1").executor_id is None


# ------------------------------------------------------------------ what is let go of


def test_what_is_beyond_the_room_is_anybodys_from_the_end_of_the_line(world: World) -> None:
    """And those who hear of it may find something for this one, too, when it has room again."""
    runs = [world.hold(f"j{n}", priority=n % 2) for n in range(4)]
    world.busy = (10, 4)
    world.clock.pass_(7)
    world.sharing.share_out(runs)
    assert [run.job.job_id for run in runs if run.is_leaving] == ["j0", "j2"]
    world.rest()
    assert world.given == [runs[2], runs[0]]
    for n in (0, 2):
        expected = replace(runs[n].job, executor_id=None, version=2)
        assert world.store.get(f"j{n}") == expected
    assert {world.store.get(f"j{n}").executor_id for n in (1, 3)} == {"me"}
    assert world.events == [
        Event("job.released", job_id, world.clock.now()) for job_id in ("j2", "j0")
    ]
    world.busy = (0, 4)
    world.look()
    assert world.store.asked == [8]


@pytest.mark.parametrize(
    ("others", "is_leaving", "waiting"),
    [(set(), False, 10), ({"other"}, True, 10), ({"other"}, False, 8)],
)
def test_nothing_is_given_away_without_a_reason(
    world: World, others: set[str], is_leaving: bool, waiting: int
) -> None:
    """Nobody is there; all of it is handed back anyway; or there is room for it."""
    run = world.hold()
    world.others, world.is_leaving, world.busy = others, is_leaving, (waiting, 4)
    world.sharing.share_out([run])
    world.rest()
    assert (run.is_leaving, world.given) == (False, [])
    assert world.store.get("j1").executor_id == "me"


def test_only_what_is_held_and_untouched_is_given_away(world: World) -> None:
    """What has begun stays where its tasks are; and to give a job twice would be one write too many."""
    begun, taken, leaving, free = (world.hold(f"j{n}") for n in range(4))
    begun.job = replace(begun.job, started_at=T0)
    taken.take()
    leaving.is_leaving = True
    dropped = JobRun(world.job("j9", "other"), PLAN, [])
    world.busy = (100, 4)
    world.sharing.share_out([begun, taken, leaving, free, dropped])
    world.rest()
    assert world.given == [free]


def test_so_many_at_most_are_given_away_at_once(world: World) -> None:
    """A backlog of thousands goes in several looks, between which others get their turn at the store."""
    runs = [world.hold(f"j{n:03}") for n in range(RELEASED_AT_ONCE_MAX + 2)]
    world.busy = (10_000, 4)
    world.sharing.share_out(runs)
    world.rest()
    assert world.given == runs[:1:-1]


@pytest.mark.parametrize(
    ("meanwhile", "still_held"),
    [
        ({"status": JobStatus.RUNNING}, True),
        ({"status": JobStatus.CANCELLED}, True),
        ({"executor_id": "other", "lease": 2}, False),
        ({"lease": 2}, False),
    ],
)
def test_a_job_that_changed_while_it_was_given_away_stays_with_who_holds_it(
    world: World, meanwhile: dict[str, Any], still_held: bool
) -> None:
    """Its own holder learns what it is now, and goes on with it; or that it is somebody else's."""
    run = world.hold()
    stored = world.change("j1", **meanwhile)
    world.busy = (100, 4)
    world.sharing.share_out([run])
    world.rest()
    assert world.store.get("j1") == stored
    assert run.is_leaving is False
    assert world.given == []
    assert world.lost == ([] if still_held else ["j1"])
    assert (run.job == stored) is still_held


def test_a_job_that_was_dropped_while_it_was_given_away_is_not_told_of(world: World) -> None:
    """Whoever dropped it has said so already."""
    run = world.hold()
    world.busy = (100, 4)
    world.ledger.held = True
    world.sharing.share_out([run])
    world.rest()
    del world.held["j1"]
    world.ledger.held = False
    world.ledger.release()
    world.rest()
    assert (world.given, world.lost) == ([], [])
    assert run.is_leaving is False
