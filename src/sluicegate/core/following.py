"""Hears what other processes have committed, and hands it on to whoever watches here, and to the executor.

A thread of its own waits for the store's hint and reads the events that this process did not write itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from sluicegate.core.hub import Hub
from sluicegate.core.job import Event
from sluicegate.core.ports import Journal
from sluicegate.core.store_errors import StoreUnavailableError

log = logging.getLogger(__name__)

PAGE_SIZE: Final = 500
RETRY_SECONDS: Final = 1.0


class Follower:
    """What others commit, in order, each event at least once.

    Args:
        hub: Told of every event, foreign ones after they were read.
    """

    def __init__(self, journal: Journal, hub: Hub) -> None:
        self._journal, self._hub = journal, hub
        self._hear: Callable[[Sequence[Event]], None] = lambda _: None
        self._lock = threading.Lock()
        self._own: set[int] = set()  # written here, beyond `_position`
        self._position: int | None = None
        self._hint = threading.Event()
        self._closed = False
        self._unwatch: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self, hear: Callable[[Sequence[Event]], None]) -> None:
        """Begin. What was committed before is not told. Raises: `StoreUnavailableError`.

        Args:
            hear: Told of foreign events, on the follower's thread.
        """
        self._hear = hear
        self._unwatch = self._journal.watch(self._hint.set)
        self._position = self._journal.last_event_id()
        self._thread.start()

    def wrote(self, events: Sequence[Event]) -> None:
        """This process has committed events; the ledger says so, in order, on its thread."""
        with self._lock:
            for event in events:
                if self._position is not None and event.event_id == self._position + 1:
                    self._position += 1
                else:
                    self._own.add(event.event_id)
        self._hub.publish(events)

    def close(self) -> None:
        """End; nothing is told any more."""
        self._closed = True
        self._unwatch()
        self._hint.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        pause: float | None = None
        while not self._closed:
            self._hint.wait(pause)
            self._hint.clear()
            pause = None
            try:
                while not self._closed and self._read_page():
                    pass
            except StoreUnavailableError as error:
                log.warning("store_unavailable error=%s", error.what)
                pause = RETRY_SECONDS
            except Exception:
                log.exception("follower_failed")
                pause = RETRY_SECONDS

    def _read_page(self) -> bool:
        """Hand on a page of what is new. Returns whether there may be more."""
        after = self._position or 0
        page = self._journal.events(after=after, limit=PAGE_SIZE)
        if not page:
            return False
        with self._lock:
            known = max(after, self._position or 0)  # own ones may have come meanwhile
            foreign = [e for e in page if e.event_id > known and e.event_id not in self._own]
        if foreign:
            # Before the position moves: what could not be handed on comes again.
            self._hub.publish(foreign)
            self._hear(foreign)
        with self._lock:
            self._position = max(self._position or 0, page[-1].event_id)
            self._own = {number for number in self._own if number > self._position}
        return len(page) == PAGE_SIZE
