"""What other processes commit is heard here, in order, and at least once. The store is in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from fakes import Memory, MemoryStore

from sluicegate.core.following import Follower
from sluicegate.core.hub import Hub
from sluicegate.core.job import Event, Job, JobStatus
from sluicegate.core.ports import Accepted, Change
from sluicegate.core.store_errors import StoreUnavailableError

T0 = datetime(2026, 1, 1, tzinfo=UTC)


class Heard:
    """A follower, what it handed on, and another process that writes to the same store."""

    def __init__(self) -> None:
        memory = Memory()
        self.store, self.other = MemoryStore(memory), MemoryStore(memory)
        self.hub = Hub()
        self.published: list[int] = []
        self.foreign: list[str] = []
        self.fails = 0
        self.failure: Exception = StoreUnavailableError("memory", "it is away", mend="wait")
        self.hub.watch(lambda events: self.published.extend(e.event_id for e in events))
        self.follower = Follower(self.store, self.hub)
        [created] = self.store.commit(
            [Change(Job("j", "j", JobStatus.PENDING, T0, 0), made_from=0)]
        )
        assert isinstance(created, Accepted)
        self.job = created.job

    def hear(self, events: Sequence[Event]) -> None:
        if self.fails:
            self.fails -= 1
            raise self.failure
        self.foreign += [event.type for event in events]

    def write(self, store: MemoryStore, *types: str) -> tuple[Event, ...]:
        events = tuple(Event(type_, "j", T0) for type_ in types)
        [outcome] = store.commit([Change(self.job, made_from=self.job.version, events=events)])
        assert isinstance(outcome, Accepted)
        self.job = outcome.job
        return outcome.events

    def own(self, *types: str) -> None:
        self.follower.wrote(self.write(self.store, *types))

    def until(self, fact: Callable[[], object]) -> None:
        for _ in range(2000):
            if fact():
                return
            time.sleep(0.01)
        raise AssertionError((self.foreign, self.published))


@pytest.fixture
def heard() -> Iterator[Heard]:
    one = Heard()
    one.write(one.other, "before")
    one.follower.start(one.hear)
    yield one
    one.follower.close()


def test_only_what_others_wrote_is_heard_and_all_is_published(heard: Heard) -> None:
    """Own decisions are acted on when they are made; watchers want everything."""
    heard.own("own 1", "own 2")
    heard.write(heard.other, "theirs 1")
    heard.own("own 3")
    heard.write(heard.other, "theirs 2", "theirs 3")
    heard.until(lambda: len(heard.foreign) >= 3)
    assert [t for t in heard.foreign if t.startswith("theirs")] == [
        "theirs 1",
        "theirs 2",
        "theirs 3",
    ]
    assert "before" not in heard.foreign
    heard.until(lambda: set(heard.published) >= {2, 3, 4, 5, 6, 7})


def test_own_events_do_not_pile_up(heard: Heard) -> None:
    """A server writes millions of them."""
    for n in range(50):
        heard.own(f"own {n}")
    assert not heard.follower._own
    heard.write(heard.other, "theirs")
    heard.until(lambda: "theirs" in heard.foreign)
    for n in range(50):
        heard.own(f"own {n}")
    heard.write(heard.other, "again")
    heard.until(lambda: "again" in heard.foreign)
    assert not heard.follower._own


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (
            StoreUnavailableError("memory", "it is away", mend="wait"),
            "store_unavailable error=the store 'memory' cannot be used: it is away",
        ),
        (RuntimeError("a mistake of ours"), "follower_failed"),
    ],
)
def test_what_could_not_be_handed_on_is_said_and_comes_again(
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    said: str,
) -> None:
    """The store went away while a job was read: a stop must not be lost by that, nor by a mistake of ours."""
    monkeypatch.setattr("sluicegate.core.following.RETRY_SECONDS", 0.01)
    heard.fails, heard.failure = 3, failure
    heard.write(heard.other, "theirs")
    heard.until(lambda: heard.foreign == ["theirs"])
    assert [record.getMessage() for record in caplog.records] == [said] * 3


def test_more_than_a_page_is_heard_whole(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicegate.core.following.PAGE_SIZE", 3)
    heard.write(heard.other, *[f"theirs {n}" for n in range(10)])
    heard.until(lambda: len(heard.foreign) == 10)
    assert heard.foreign == [f"theirs {n}" for n in range(10)]


def test_its_end_waits_for_who_is_being_told(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever closes takes away next what the listener uses."""
    entered, closed, done = threading.Event(), threading.Event(), threading.Event()

    def hear(_: Sequence[Event]) -> None:
        entered.set()
        closed.wait(0.1)  # never comes, where `close` waits
        done.set()

    monkeypatch.setattr(heard.follower, "_hear", hear)
    heard.write(heard.other, "theirs")
    assert entered.wait(10)
    heard.follower.close()
    was_done = done.is_set()
    closed.set()
    assert was_done


def test_a_listener_may_end_it(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    """A thread that waited for itself would wait for ever."""
    heard.follower._hear = lambda _: heard.follower.close()
    heard.write(heard.other, "theirs")
    heard.follower._thread.join(10)
    assert not heard.follower._thread.is_alive()
    assert caplog.records == []


def test_after_its_end_nothing_is_heard(heard: Heard) -> None:
    heard.follower.close()
    heard.write(heard.other, "theirs")
    assert heard.foreign == []
    assert replace(heard.job).job_id == "j"


# ------------------------------------------------------------------ page by page, without the thread


@pytest.fixture
def still() -> Heard:
    """A follower of a store that has no event yet, whose pages the test reads."""
    one = Heard()
    one.follower._hear, one.follower._position = one.hear, one.store.last_event_id()
    return one


def test_the_first_event_of_a_store_is_heard(still: Heard) -> None:
    still.write(still.other, "theirs")
    assert not still.follower._read_page()
    assert still.foreign == ["theirs"]


def test_own_events_between_those_of_others_are_not_heard_and_not_kept(still: Heard) -> None:
    """They were published when they were written; once the pages have passed them nobody asks for them again."""
    still.write(still.other, "theirs 1")
    still.own("own 1")
    still.write(still.other, "theirs 2")
    still.own("own 2")
    still.follower._read_page()
    assert still.foreign == ["theirs 1", "theirs 2"]
    assert sorted(still.published) == [1, 2, 3, 4]
    assert not still.follower._own


@pytest.mark.parametrize("more", [(), ("own 2",)])
def test_own_events_that_are_told_of_while_a_page_is_read_are_not_heard(
    still: Heard, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """The page has the first of them already; the next page begins behind the last."""
    still.write(still.other, "theirs")
    still.follower._read_page()
    events = still.write(still.store, "own 1")
    read = still.store.events

    def and_meanwhile(**asked: Any) -> list[Event]:
        page = read(**asked)
        monkeypatch.setattr(still.store, "events", read)
        still.follower.wrote((*events, *still.write(still.store, *more)))
        return page

    monkeypatch.setattr(still.store, "events", and_meanwhile)
    still.follower._read_page()
    still.follower._read_page()
    assert still.foreign == ["theirs"]
    assert still.published == [1, 2, 3][: 2 + len(more)]


def test_no_page_is_longer_than_its_bound(still: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was away for long must not read all of it into memory at once."""
    monkeypatch.setattr("sluicegate.core.following.PAGE_SIZE", 3)
    still.write(still.other, *map(str, range(4)))
    assert still.follower._read_page()
    assert still.foreign == ["0", "1", "2"]
    assert not still.follower._read_page()
    assert still.foreign == ["0", "1", "2", "3"]


def test_one_that_never_began_can_be_closed() -> None:
    """A server whose start failed closes what it has."""
    Follower(MemoryStore(), Hub()).close()
