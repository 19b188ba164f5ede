"""Events on their way to `GET /api/events`: every durable one, in order, exactly once.

The hub tells what this process wrote, on the writer's thread. One pump on the event loop takes that
over, reads from the store what the hub did not tell (another process wrote it, or too much came at
once), and gives each stream its copy. A stream that does not keep up loses its copy, not the
events: it reads the store again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from anyio import to_thread

from sluicegate.core.hub import Hub
from sluicegate.core.job import Event
from sluicegate.core.ports import Journal
from sluicegate.core.store_errors import StoreUnavailableError

logger = logging.getLogger("sluicegate.api")

QUEUED_MAX: Final = 1000
INBOX_MAX: Final = 10_000
PAGE_SIZE: Final = 500
POLL_SECONDS: Final = 1.0


class Subscription:
    """One stream's queue of events. Lives on the event loop, and is touched only there."""

    def __init__(self, job_id: str | None, queued_max: int = QUEUED_MAX) -> None:
        self.job_id = job_id
        self._queue: list[Event] = []
        self._queued_max = queued_max
        self._changed = asyncio.Event()
        self._lagging = False
        self.closed = False

    def offer(self, events: Sequence[Event]) -> None:
        """Queue the events that this stream wants, or note that it lags behind."""
        wanted = [e for e in events if self.job_id is None or e.job_id == self.job_id]
        if not wanted or self._lagging:
            return
        if len(self._queue) + len(wanted) > self._queued_max:
            self._queue.clear()
            self._lagging = True
        else:
            self._queue += wanted
        self._changed.set()

    async def take(self, timeout_seconds: float) -> tuple[list[Event], bool]:
        """Wait for events; return them, and whether the stream lagged and must read the store.

        After `close`, and after the timeout, it returns with nothing.
        """
        if not self._changed.is_set():
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._changed.wait()
            except TimeoutError:
                return [], False
        taken, lagged = self._queue, self._lagging
        self._queue, self._lagging = [], False
        if not self.closed:
            self._changed.clear()
        return taken, lagged

    def close(self) -> None:
        """End the stream: `take` returns at once from now on."""
        self.closed = True
        self._changed.set()


class EventFeed:
    """Hands events to the streams of one event loop. Idle while there is no stream."""

    def __init__(self, hub: Hub, journal: Journal) -> None:
        self._hub, self._journal = hub, journal
        self._subscriptions: set[Subscription] = set()
        self._pump: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @asynccontextmanager
    async def subscribed(self, job_id: str | None) -> AsyncIterator[Subscription]:
        """Lend a subscription that is given every event the store has not yet, and some it has.

        Raises: `StoreUnavailableError`.
        """
        subscription = Subscription(job_id)
        self._subscriptions.add(subscription)
        try:
            await self._start()
            if self._closed:
                subscription.close()
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            if not self._subscriptions and self._pump is not None:
                pump, self._pump = self._pump, None
                pump.cancel()

    def close(self) -> None:
        """End all streams, now and later: the server shuts down. Safe from any thread."""
        self._closed = True
        if self._loop is not None:
            _call_soon(self._loop, self._close_all)

    async def read(self, job_id: str | None, after: int) -> list[Event]:
        """Read a page of the store, off the event loop."""
        return await to_thread.run_sync(
            lambda: self._journal.events(job_id=job_id, after=after, limit=PAGE_SIZE)
        )

    async def last_event_id(self) -> int:
        """Return the highest event id of the store, off the event loop."""
        return await to_thread.run_sync(self._journal.last_event_id)

    def _close_all(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()

    def _offer(self, events: Sequence[Event]) -> None:
        for subscription in self._subscriptions:
            subscription.offer(events)

    async def _start(self) -> None:
        """Start the pump. It watches before it reads its position: nothing falls between."""
        async with self._starting:
            if self._pump is not None or self._closed:
                return
            self._loop = asyncio.get_running_loop()
            inbox = _Inbox(self._loop)
            unwatch = self._hub.watch(inbox.put)
            try:
                position = await self.last_event_id()
            except BaseException:
                unwatch()
                raise
            self._pump = self._loop.create_task(self._run(inbox, unwatch, position))

    async def _run(self, inbox: _Inbox, unwatch: Callable[[], None], position: int) -> None:
        """The pump: pass on what was told, or, where that has gaps, what the store has."""
        try:
            while True:
                told, complete = await inbox.take()
                try:
                    position = await self._pass_on(told, position, complete=complete)
                except StoreUnavailableError as error:
                    # The events are in the store or nowhere; a later turn reads on from `position`.
                    logger.warning("event_feed_waits why=%s", error.what)
        finally:
            unwatch()
            if self._pump is asyncio.current_task():  # It failed: clients come again, and resume.
                self._pump = None
                self._close_all()

    async def _pass_on(self, told: Sequence[Event], position: int, *, complete: bool) -> int:
        """Give the streams what follows `position`; return the new position."""
        durable = [event for event in told if event.event_id > position]
        passing = [event for event in told if not event.event_id]
        follows = range(position + 1, position + 1 + len(durable))
        if complete and [event.event_id for event in durable] == list(follows):
            self._offer(told)
            return position + len(durable)
        while page := await self.read(None, position):
            self._offer(page)
            position = page[-1].event_id
            if len(page) < PAGE_SIZE:
                break
        self._offer(passing)
        return position


class _Inbox:
    """Takes events over from the writer's thread, and wakes the loop once for however many came."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._complete = True
        self._woken = asyncio.Event()
        self._waking = False

    def put(self, events: Sequence[Event]) -> None:
        """The hub's watcher: any thread, never blocks, never raises."""
        with self._lock:
            if len(self._events) + len(events) > INBOX_MAX:
                self._events.clear()
                self._complete = False
            else:
                self._events += events
            if self._waking:
                return
            self._waking = True
        _call_soon(self._loop, self._woken.set)

    async def take(self) -> tuple[list[Event], bool]:
        """Wait for events, a poll's time at most; return them, and whether they are all there is.

        A poll that met silence is not complete either: another process may have written.
        """
        quiet = False
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._woken.wait()
        except TimeoutError:
            quiet = True
        with self._lock:
            events, complete = self._events, self._complete
            self._events, self._complete, self._waking = [], True, False
            self._woken.clear()
        return events, complete and not quiet


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # The loop is closed: nobody listens any more.
        loop.call_soon_threadsafe(callback)
