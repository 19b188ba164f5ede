"""`GET /api/events`: nothing lost, nothing twice, whoever writes and whenever the line breaks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from api_world import DEADLINE_SECONDS, World, served, wait_for

from sluicegate.api import close_event_streams
from sluicegate.api.event_feed import QUEUED_MAX, EventFeed, Subscription
from sluicegate.core.job import Event, Job
from sluicegate.core.job_manager import Catalog, JobManager, RunRequest
from sluicegate.core.ledger import Ledger
from sluicegate.core.ports import Change, Journal
from sluicegate.stores import open_store


class Stream:
    """One connection to the stream: its messages, and the id that a browser would remember."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.last_id: str | None = None
        self.comments = 0
        self._lines = answer.iter_lines()

    def open(self) -> Stream:
        """Read on until the server has said where the stream begins."""
        line = next(self._lines)
        assert line.startswith("id: ")
        self.last_id = line.removeprefix("id: ")
        assert next(self._lines) == ""
        return self

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield each message's data, with the id it came with under `"id"`."""
        event_id, data = None, None
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "id":
                event_id = self.last_id = value
            elif name == "data":
                data = json.loads(value)
            elif line.startswith(":"):
                self.comments += 1
            elif data is not None:
                yield {**data, "id": event_id}
                event_id, data = None, None


@contextmanager
def follow(url: str, world: World, key: str = "viewer", **options: Any) -> Iterator[Stream]:
    headers = {"Authorization": f"Bearer {world.keys[key]}", **options.pop("headers", {})}
    timeout = httpx.Timeout(DEADLINE_SECONDS)
    with (
        httpx.Client(base_url=url, headers=headers, timeout=timeout) as client,
        client.stream("GET", "/api/events", **options) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield Stream(answer).open()


def take(stream: Stream, count: int) -> list[dict[str, Any]]:
    messages = stream.messages()
    return [next(messages) for _ in range(count)]


def write_events(world: World, job_id: str, count: int) -> None:
    """Write so many events of a job in one step."""

    def decide(job: Job) -> Change:
        events = tuple(
            Event("task.noted", job_id, world.clock.now(), data={"n": n}) for n in range(count)
        )
        return Change(job, made_from=job.version, events=events)

    assert world.ledger.write(job_id, decide).changed


def test_a_message_is_an_event_of_the_timeline(world: World) -> None:
    """The default message type, the id, and the same JSON as the timeline's."""
    with served(world.app) as url, follow(url, world) as stream:
        job_id = world.run("bronze.flights")
        (message,) = take(stream, 1)
    (event,) = world.client().get(f"/api/jobs/{job_id}/events").json()["events"]
    assert message.pop("id") == str(event["event_id"])
    assert message == event


def test_a_stream_without_an_id_begins_now(world: World) -> None:
    """A page reads the jobs by itself; what was before is in there."""
    world.run("bronze.flights")
    with served(world.app) as url, follow(url, world) as stream:
        job_id = world.run("bronze.weather")
        assert [one["job_id"] for one in take(stream, 1)] == [job_id]


@pytest.mark.parametrize("how", ["headers", "params"])
def test_a_stream_with_an_id_begins_after_it(world: World, how: str) -> None:
    """By header as browsers do, by parameter for those who cannot send one."""
    jobs = [world.run("bronze.flights") for _ in range(3)]
    name = "Last-Event-ID" if how == "headers" else "last_event_id"
    with (
        served(world.app) as url,
        follow(url, world, **{how: {name: "1"}}) as stream,
    ):
        jobs.append(world.run("bronze.flights"))
        assert [one["job_id"] for one in take(stream, 3)] == jobs[1:]


def test_a_stream_of_one_job_has_only_its_events(world: World) -> None:
    """`?job_id=`, live and resumed."""
    mine = world.run("bronze.flights")
    params = {"job_id": mine, "last_event_id": 0}
    with served(world.app) as url, follow(url, world, params=params) as stream:
        world.run("bronze.weather")
        world.client().post(f"/api/jobs/{mine}/cancel")
        assert [(one["job_id"], one["type"]) for one in take(stream, 2)] == [
            (mine, "job.created"),
            (mine, "job.cancelled"),
        ]


def test_an_id_from_another_store_begins_now(world: World) -> None:
    """A home that was replaced counts from one again; its old number may never come."""
    with (
        served(world.app) as url,
        follow(url, world, headers={"Last-Event-ID": "999999"}) as stream,
    ):
        job_id = world.run("bronze.flights")
        assert [one["job_id"] for one in take(stream, 1)] == [job_id]


def test_progress_passes_by_without_an_id(world: World) -> None:
    """It is not stored, so that no one may resume from it."""
    with served(world.app) as url, follow(url, world) as stream:
        start = stream.last_id
        progress = Event("task.progress", "j", world.clock.now(), "t", {"done": 1, "total": None})
        world.service.hub.publish((progress,))
        (message,) = take(stream, 1)
        assert (message["type"], message["event_id"], message["id"]) == ("task.progress", 0, None)
        assert stream.last_id == start


def test_nothing_is_lost_or_sent_twice_when_lines_break_while_many_write(world: World) -> None:
    """`Last-Event-ID` resumes without loss. Here lines break after every few messages."""
    writers, each = 4, 60
    seen: list[int] = []

    def write() -> None:
        manager = world.service.manager
        for _ in range(each):
            manager.create(RunRequest(("bronze.flights",)), user_id="writer")

    threads = [threading.Thread(target=write) for _ in range(writers)]
    with served(world.app) as url:
        with follow(url, world) as stream:
            last = stream.last_id
        for thread in threads:
            thread.start()
        while len(seen) < writers * each:
            with follow(url, world, headers={"Last-Event-ID": str(last)}) as stream:
                wanted = min(7 + len(seen) % 5, writers * each - len(seen))
                for message in take(stream, wanted):
                    seen.append(message["event_id"])
                    last = message["id"]
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
    assert seen == [event.event_id for event in world.store.events(limit=10_000)]
    assert len(set(seen)) == writers * each


def test_a_line_that_breaks_before_its_first_message_resumes_from_where_it_began(
    world: World,
) -> None:
    """That is why the stream begins with an id."""
    world.run("bronze.flights")
    with served(world.app) as url:
        with follow(url, world) as stream:
            last = stream.last_id
        job_id = world.run("bronze.weather")
        with follow(url, world, headers={"Last-Event-ID": str(last)}) as stream:
            assert [one["job_id"] for one in take(stream, 1)] == [job_id]


class WritesBefore(Journal):
    """A journal in which something happens just before a read, or just after it."""

    def __init__(self, inner: Journal) -> None:
        self._inner = inner
        self.before: list[Any] = []
        self.after: list[Any] = []

    def _run(self, hooks: list[Any]) -> None:
        if hooks:
            hooks.pop(0)()

    def events(self, **options: Any) -> list[Event]:
        self._run(self.before)
        found = self._inner.events(**options)
        self._run(self.after)
        return found

    def last_event_id(self) -> int:
        self._run(self.before)
        found = self._inner.last_event_id()
        self._run(self.after)
        return found


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("read", [0, 1, 2])
def test_an_event_that_comes_while_the_stream_opens_is_sent_once(
    world: World, moment: str, read: int
) -> None:
    """The reads of an opening stream: the feed's position, the stream's, the first page."""
    first = world.run("bronze.flights")
    journal = WritesBefore(world.store)
    world.app.state.feed = EventFeed(world.service.hub, journal)
    made: list[str] = []
    hooks = [lambda: None] * read + [lambda: made.append(world.run("bronze.weather"))]
    setattr(journal, moment, hooks)
    with (
        served(world.app) as url,
        follow(url, world, headers={"Last-Event-ID": "0"}) as stream,
    ):
        wait_for("the write in between", lambda: bool(made))
        made.append(world.run("silver.flights"))
        assert [one["job_id"] for one in take(stream, 3)] == [first, *made]


def test_events_that_another_process_wrote_are_sent_in_order(world: World, tmp_path: Any) -> None:
    """The hub knows one process; a gap in the ids, or silence, makes the feed read the store."""
    store = open_store(f"sqlite:///{tmp_path / 'jobs.db'}")
    ledger = Ledger(store, lambda events: None)
    catalog = Catalog(world.service.manager.catalog.specs)
    other = JobManager(store, ledger, world.clock, catalog, wake=lambda job_id, job: None)
    try:
        with served(world.app) as url, follow(url, world) as stream:
            for _ in range(3):
                other.create(RunRequest(("bronze.flights",)), user_id="other")
            world.run("bronze.weather")
            other.create(RunRequest(("bronze.flights",)), user_id="other")
            seen = [one["event_id"] for one in take(stream, 5)]
    finally:
        ledger.close()
        store.close()
    assert seen == [event.event_id for event in world.store.events()]


def test_more_than_a_stream_may_queue_is_read_from_the_store(world: World) -> None:
    """A slow reader costs a bounded queue, and misses nothing."""
    job_id = world.run("bronze.flights")
    with served(world.app) as url, follow(url, world) as stream:
        write_events(world, job_id, 3 * QUEUED_MAX)
        assert [one["data"]["n"] for one in take(stream, 3 * QUEUED_MAX)] == list(
            range(3 * QUEUED_MAX)
        )


def test_a_reader_that_does_not_read_holds_nobody_up(world: World) -> None:
    """Its own line waits; writers and other readers do not notice."""
    job_id = world.run("bronze.flights")
    with served(world.app) as url, follow(url, world) as idle, follow(url, world) as busy:
        for _ in range(20):
            write_events(world, job_id, QUEUED_MAX // 2)
        messages = busy.messages()
        assert len([next(messages) for _ in range(10 * QUEUED_MAX)]) == 10 * QUEUED_MAX
        assert world.client().post(f"/api/jobs/{job_id}/cancel").status_code == 200
        assert len(take(idle, 10 * QUEUED_MAX)) == 10 * QUEUED_MAX


def test_a_queue_that_overflows_asks_for_the_store(world: World) -> None:
    """The bound itself: what does not fit is dropped whole, and the reader is told."""

    async def overflow() -> list[tuple[int, bool]]:
        subscription = Subscription("j", queued_max=2)
        event = Event("x", "j", world.clock.now(), event_id=1)
        subscription.offer([event, event])
        first = await subscription.take(0)
        subscription.offer([event, event, event])
        subscription.offer([event])
        second = await subscription.take(0)
        subscription.offer([Event("x", "other", world.clock.now())])
        third = await subscription.take(0)
        return [(len(events), lagged) for events, lagged in (first, second, third)]

    assert world.portal.call(overflow) == [(2, False), (0, True), (0, False)]


def test_a_stream_ends_with_its_key(world: World) -> None:
    """Who may not read any more is not told any more."""
    with served(world.app) as url, follow(url, world) as stream:
        assert world.client("admin").delete("/api/keys/viewer").status_code == 200
        world.run("bronze.flights")
        assert list(stream.messages()) == []


def test_streams_end_at_once_when_the_server_shuts_down(world: World) -> None:
    """uvicorn waits for its connections before it lets anything else go on."""
    with served(world.app) as url, follow(url, world) as stream:
        began = time.monotonic()
        close_event_streams(world.app)
        assert list(stream.messages()) == []
        assert time.monotonic() - began < 2
        with follow(url, world) as late:
            assert list(late.messages()) == []


def test_nobody_watches_when_nobody_streams(world: World) -> None:
    """The last one to leave takes the watcher away."""
    with served(world.app) as url:
        with follow(url, world) as stream:
            world.run("bronze.flights")
            take(stream, 1)
            assert world.service.hub._watchers
        wait_for("the watcher to be gone", lambda: not world.service.hub._watchers)
