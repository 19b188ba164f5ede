"""How an executor keeps its lease, what it finds of those that lost theirs, and how it goes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from executor_world import LEASE_SECONDS
from fakes import T0, Aside, DirectLedger, FakeClock, MemoryStore

from sluicegate.core import lease
from sluicegate.core.agenda import Agenda
from sluicegate.core.job import Job, JobStatus
from sluicegate.core.lease import LeaseKeeper, Orphans
from sluicegate.core.ports import Change, Executor, Writer
from sluicegate.core.store_errors import StoreUnavailableError

WAIT_SECONDS = 10.0


class SlowStore(MemoryStore):
    """A store in which a beat is under way when the executor ends; it is held up until it would do harm."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.forgotten, self.beaten = (threading.Event() for _ in range(3))
        self.scans = 0
        self.asked_by = ""

    def beat(self, executor: Executor) -> None:
        self.asked_by = threading.current_thread().name
        self.begun.set()
        self.forgotten.wait(0.1)  # never comes before the beat, where `close` waits for it
        super().beat(executor)
        self.beaten.set()

    def forget_executor(self, executor_id: str) -> None:
        super().forget_executor(executor_id)
        self.forgotten.set()

    def unfinished(self) -> Sequence[Job]:
        self.scans += 1
        return super().unfinished()


def made_keeper(store: MemoryStore) -> LeaseKeeper:
    """One whose own thread looks at the store."""
    clock = FakeClock()
    agenda: Agenda[str] = Agenda(
        clock, DirectLedger(store, lambda _: None), lambda _: None, lambda _: None
    )
    return LeaseKeeper(
        Executor("e", "host", 1, T0),
        store=store,
        clock=clock,
        agenda=agenda,
        lease_seconds=LEASE_SECONDS,
        predecessors=(),
        lost=lambda: None,
        regained=lambda: None,
        found=lambda _: None,
        looked=lambda: None,
    )


def test_a_beat_that_is_under_way_does_not_outlive_its_executor() -> None:
    """It would make others wait a whole lease for nobody; and who ends looks for no jobs any more."""
    store = SlowStore()
    keeper = made_keeper(store)
    keeper.round()
    assert store.begun.wait(WAIT_SECONDS)
    keeper.scan()
    keeper.close()
    assert store.beaten.wait(WAIT_SECONDS)
    assert store.executors() == []
    assert store.scans == 0
    assert store.asked_by.startswith("lease"), "a dump of the threads cannot be read"


def test_who_goes_while_the_store_is_away_says_so_and_goes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Others find out by the lease; whoever reads the log knows why they waited for it."""
    store = MemoryStore()
    keeper = made_keeper(store)
    store.unavailable = True
    keeper.close()
    [said] = [record.getMessage() for record in caplog.records]
    assert said == "store_unavailable error=the store 'memory' cannot be used: it is away"


# ------------------------------------------------------------------ while it lives


AWAY = StoreUnavailableError("memory", "it is away", mend="wait")


class AskedStore(MemoryStore):
    """A store that can fail in ways of its own, and counts the looks at the others and for jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.mistake: Exception | None = None
        self.cannot_forget: set[str] = set()
        self.looks = self.scans = 0

    def executors(self) -> Sequence[Executor]:
        self.looks += 1
        self._fail()
        return super().executors()

    def unfinished(self) -> Sequence[Job]:
        self.scans += 1
        self._fail()
        return super().unfinished()

    def forget_executor(self, executor_id: str) -> None:
        if executor_id in self.cannot_forget:
            raise AWAY
        super().forget_executor(executor_id)

    def _fail(self) -> None:
        if self.mistake is not None:
            raise self.mistake


class World:
    """A keeper that is driven second by second; what it looks up aside is done at once, or waits while `held`."""

    def __init__(self, aside: Aside, predecessors: Sequence[str]) -> None:
        self.store, self.clock, self.aside = AskedStore(), FakeClock(), aside
        self.told: list[str] = []
        self.found: list[tuple[list[str], list[str], list[str]]] = []
        ledger = DirectLedger(self.store, lambda _: None)
        self.agenda: Agenda[str] = Agenda(self.clock, ledger, lambda _: None, lambda _: None)
        self.keeper = LeaseKeeper(
            Executor("e", "host", 1, T0),
            store=self.store,
            clock=self.clock,
            agenda=self.agenda,
            lease_seconds=LEASE_SECONDS,
            predecessors=predecessors,
            lost=lambda: self.told.append("lost"),
            regained=lambda: self.told.append("regained"),
            found=self._found,
            looked=lambda: self.told.append("looked"),
        )

    def _found(self, orphans: Orphans) -> None:
        self.told.append("found")
        left, unclaimed, own = (
            [job.job_id for job in jobs] for jobs in (orphans.left, orphans.unclaimed, orphans.own)
        )
        self.found.append((left, unclaimed, own))

    def rest(self) -> None:
        """Do all that has come and is due."""
        self.agenda.do_what_is_due()
        while self.agenda.has_messages:
            self.agenda.take(0)

    def begin(self) -> None:
        self.keeper.round()
        self.rest()

    def pass_(self, seconds: int, each: Callable[[], object] = lambda: None) -> None:
        for _ in range(seconds):
            self.clock.pass_(1)
            each()
            self.rest()

    def job(self, job_id: str, executor_id: str | None, **fields: Any) -> Job:
        given: dict[str, Any] = {"status": JobStatus.RUNNING, "total_tasks": 1} | fields
        job = Job(job_id, "n", created_at=T0, executor_id=executor_id, **given)
        writer = Writer(f"bronze.{job_id}", 1, job_id, "t")
        self.store.commit([Change(job, made_from=0, writers=(writer,))])
        return job

    @property
    def beats(self) -> dict[str, int]:
        """The heartbeats as they are stored."""
        return {one: executor.beat for one, executor in self.store.memory.executors.items()}


Worlds = Callable[..., World]


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> Worlds:
    """Makes worlds whose keepers have no thread of their own."""

    def make(*predecessors: str) -> World:
        aside = Aside()
        monkeypatch.setattr(lease, "ThreadPoolExecutor", lambda **_: aside)
        return World(aside, predecessors)

    return make


def other(beat: int) -> Executor:
    return Executor("other", "host", 2, T0, beat)


def test_it_beats_at_once_and_then_three_times_a_lease(worlds: Worlds) -> None:
    """And looks at the others each second; whoever is alone looks for jobs once."""
    world = worlds()
    world.begin()
    seen = [world.beats["e"]]
    world.pass_(15, lambda: seen.append(world.beats["e"]))
    assert seen == [1] * 6 + [2] * 5 + [3] * 5
    assert world.told == ["looked", "found"] + ["looked"] * 15


def test_a_store_that_hangs_is_asked_once(worlds: Worlds) -> None:
    """Or all that waited meanwhile would be asked of it when it is back."""
    world = worlds()
    world.aside.held = True
    world.begin()
    world.keeper.scan()
    world.keeper.scan()
    world.pass_(5)
    world.aside.held = False
    world.aside.release()
    world.rest()
    assert (world.store.looks, world.store.scans) == (2, 1), "a look, and one for the jobs"
    world.pass_(1)
    assert world.store.looks == 3


def test_who_cannot_renew_for_two_thirds_of_a_lease_is_told_once_and_again_when_it_can(
    worlds: Worlds, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing may run here meanwhile; and afterwards all is looked at that others may have taken, or left."""
    world = worlds()
    world.begin()
    world.told.clear()
    world.store.unavailable = True
    world.pass_(9)
    assert not world.keeper.is_in_doubt
    world.clock.pass_(1)
    assert world.keeper.is_in_doubt, "before anybody was told"
    assert not world.keeper.out_of_touch
    world.rest()
    world.pass_(20)
    assert world.told == ["lost"]
    assert world.keeper.out_of_touch
    said = [record.getMessage() for record in caplog.records]
    assert said.count("lease_lost executor_id=e") == 1
    assert set(said) - {"lease_lost executor_id=e"} == {
        "heartbeat_failed error=the store 'memory' cannot be used: it is away"
    }
    world.store.unavailable = False
    world.pass_(1)
    assert world.told == ["lost", "regained", "looked", "found"]
    assert not world.keeper.is_in_doubt
    assert world.beats["e"] > 1


def test_a_renewal_counts_from_when_it_was_begun(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may have seen the old beat until then: a write that took two thirds of a lease renews nothing."""
    world = worlds()
    beat = world.store.beat

    def slow(executor: Executor) -> None:
        beat(executor)
        world.clock.pass_(LEASE_SECONDS * 2 / 3)

    monkeypatch.setattr(world.store, "beat", slow)
    world.begin()
    assert world.told == ["lost", "looked", "found"]
    monkeypatch.undo()
    world.pass_(1)
    assert world.told[3:] == ["regained", "looked", "found"]


def test_an_executor_that_was_found_dead_is_looked_after_until_nothing_of_it_is_left(
    worlds: Worlds, caplog: pytest.LogCaptureFixture
) -> None:
    """What it left is told again each second, until it is somebody's; then it is forgotten."""
    world = worlds()
    left = world.job("j1", "other")
    world.store.beat(other(1))
    world.begin()
    world.pass_(14)
    assert world.found == [([], [], [])]
    world.pass_(1)
    assert world.found[1:] == [(["j1"], [], [])]
    assert [r.getMessage() for r in caplog.records] == ["executor_lost executor_id=other"]
    world.pass_(2)
    assert world.found[1:] == [(["j1"], [], [])] * 3
    assert set(world.beats) == {"e", "other"}
    world.store.commit([Change(replace(left, executor_id="e", version=1), made_from=1)])
    world.pass_(1)
    assert world.found[4:] == [([], [], ["j1"])]
    assert set(world.beats) == {"e"}
    assert world.keeper.members.ended == set(), "it would be forgotten again after each look"
    world.pass_(5)
    assert len(world.found) == 5


def test_whoever_is_not_known_any_more_is_found_by_a_look_each_lease(worlds: Worlds) -> None:
    """It was forgotten too late, and died when it had come back; who has always been alone need not look."""
    world = worlds()
    world.store.beat(other(1))
    world.begin()
    world.pass_(1)
    world.store.forget_executor("other")
    world.job("j1", "other")
    world.pass_(13)
    assert len(world.found) == 1
    world.pass_(1)
    assert world.found[1:] == [(["j1"], [], [])]


def test_a_look_tells_whose_jobs_may_have_nobody(worlds: Worlds) -> None:
    """Those that are not settled: also what has ended while a task of it was out of reach, as its table is held yet."""
    world = worlds("before")
    over: dict[str, Any] = {"status": JobStatus.CANCELLED, "completed_at": T0}
    for job_id, executor_id in {
        "a1": "before",
        "a2": "nobody knows",
        "a3": None,
        "a4": "e",
        "a5": "other",
    }.items():
        world.job(job_id, executor_id)
        world.job(job_id.replace("a", "b"), executor_id, running_tasks=1, **over)
        world.job(job_id.replace("a", "c"), executor_id, **over)
    world.store.beat(other(1))
    world.begin()
    [(left, unclaimed, own)] = world.found
    assert sorted(left) == ["a1", "a2", "b1", "b2"]
    assert sorted(unclaimed) == ["a3", "b3"]
    assert sorted(own) == ["a4", "b4"]


def test_who_ended_before_and_left_nothing_is_forgotten(
    worlds: Worlds, caplog: pytest.LogCaptureFixture
) -> None:
    """Its row is of no use. Where the store is away just then it stays, and does no harm."""
    world = worlds("before", "long before")
    for name in ("before", "long before"):
        world.store.beat(Executor(name, "host", 2, T0, 7))
    world.store.cannot_forget = {"before"}
    world.begin()
    assert set(world.beats) == {"e", "before"}
    assert [record.getMessage() for record in caplog.records] == [
        "store_unavailable error=the store 'memory' cannot be used: it is away"
    ]
    world.pass_(1)
    assert world.told == ["looked", "found", "looked"]


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (
            AWAY,
            {
                "heartbeat_failed error=the store 'memory' cannot be used: it is away",
                "store_unavailable error=the store 'memory' cannot be used: it is away",
            },
        ),
        (RuntimeError("ours"), {"heartbeat_failed", "scan_failed"}),
    ],
)
def test_a_look_that_fails_is_made_again_a_second_later(
    worlds: Worlds, caplog: pytest.LogCaptureFixture, mistake: Exception, said: set[str]
) -> None:
    """Whatever it was: an executor that looks at nobody any more would lose its lease without a reason."""
    world = worlds()
    world.store.mistake = mistake
    world.begin()
    world.keeper.scan()
    world.rest()
    world.pass_(2)
    assert (world.store.looks, world.store.scans) == (3, 3)
    assert world.beats["e"] == 3, "a renewal of which nothing was heard is made again"
    assert {record.getMessage() for record in caplog.records} == said
    assert world.told == []
    world.store.mistake = None
    world.pass_(1)
    assert set(world.told) == {"looked", "found"}
