"""Hear of what others commit: a stream about `meta/counters`, which every commit writes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.stores.firestore.connection import (
    STREAM_ERRORS,
    STREAM_IS_OLD,
    Connection,
    is_refused,
)
from sluicegate.stores.firestore.documents import COUNTERS

log = logging.getLogger(__name__)

# Between a broken stream and the next one. What was committed meanwhile is told when it begins.
_PAUSE_SECONDS: Final = 1.0


class Watch:
    """One who watches, on a thread of its own, until `end`."""

    def __init__(self, connection: Connection, told: Callable[[], None]) -> None:
        self._connection, self._told = connection, told
        self._ended = threading.Event()
        # Held while somebody is told, so that nobody is after the end. Who is told may end it.
        self._telling = threading.RLock()
        self._stream: Any = None
        threading.Thread(target=self._run, name="store-watch", daemon=True).start()

    def end(self) -> None:
        """Tell nobody any more."""
        with self._telling:
            self._ended.set()
            if self._stream is not None:
                self._stream.cancel()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._listen()
            except (*STREAM_ERRORS, StoreUnavailableError) as error:
                if isinstance(error, STREAM_IS_OLD):
                    continue
                if not self._ended.is_set():
                    log.info("store_watch_broken error=%s", error)
            self._ended.wait(_PAUSE_SECONDS)

    def _listen(self) -> None:
        """Tell of each change until the stream breaks; a new stream begins with the document as it is."""
        is_over = threading.Event()
        stream: Any = None
        try:
            stream = self._connection.listen(COUNTERS, is_over)
            with self._telling:
                self._stream = stream
            for response in stream:
                with self._telling:
                    if self._ended.is_set() or is_refused(response):
                        return
                    if "document_change" in response:
                        self._told()
        finally:
            is_over.set()
            if stream is not None:
                stream.cancel()
