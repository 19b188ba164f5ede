"""How an executor goes: others hear of it at once, and from nobody that it lives."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from executor_world import LEASE_SECONDS
from fakes import T0, DirectLedger, FakeClock, MemoryStore

from sluicegate.core.agenda import Agenda
from sluicegate.core.job import Job
from sluicegate.core.lease import LeaseKeeper
from sluicegate.core.ports import Executor

WAIT_SECONDS = 10.0


class SlowStore(MemoryStore):
    """A store in which a beat is under way when the executor ends; it is held up until it would do harm."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.forgotten, self.beaten = (threading.Event() for _ in range(3))
        self.scans = 0

    def beat(self, executor: Executor) -> None:
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
