"""Tells whoever watches of events as they become durable. One writer, any number of watchers, nobody waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from sluicegate.core.job import Event

Watcher = Callable[[Sequence[Event]], None]


class Hub:
    """A list of watchers. They are called on the writer thread, must not block, and must not raise."""

    def __init__(self) -> None:
        self._watchers: tuple[Watcher, ...] = ()
        self._lock = threading.Lock()

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Add a watcher; call what is returned to take it away."""
        with self._lock:
            self._watchers = (*self._watchers, watcher)

        def unwatch() -> None:
            with self._lock:
                self._watchers = tuple(w for w in self._watchers if w is not watcher)

        return unwatch

    def publish(self, events: Sequence[Event]) -> None:
        """Tell every watcher."""
        for watcher in self._watchers:
            watcher(events)
