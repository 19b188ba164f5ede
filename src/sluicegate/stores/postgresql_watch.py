"""Hear from PostgreSQL that others have committed: LISTEN, on a connection and a thread of its own.

Whoever stores changes says so inside the transaction, and the server passes it on when that commit can be
seen: so nobody polls, and nobody is told too soon.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

import psycopg

from sluicegate.core.store_errors import StoreUnavailableError

# Databases of one server do not hear each other. Without a payload, several in one transaction are one.
ANNOUNCE: Final = "NOTIFY sluicegate"
_LISTEN: Final = "LISTEN sluicegate"

# A line that was silent for so long is tried: it may be dead without our having heard of it.
_QUIET_SECONDS: Final = 10
_PAUSE_SECONDS: Final = 0.1
_PAUSE_SECONDS_MAX: Final = 5.0
# Its thread may be connecting to a host that does not answer; it then ends by itself.
_END_SECONDS: Final = 1.0


def watch(
    connect: Callable[[], psycopg.Connection[Any]], told: Callable[[], None]
) -> Callable[[], None]:
    """Call `told` whenever a commit was announced, and each time that listening has begun (again).

    Args:
        connect: Makes a connection in autocommit.

    Returns: ends it; may be called twice, and by `told`.
    """
    listener = _Listener(connect, told)
    listener.thread.start()
    return listener.end


class _Listener:
    def __init__(
        self, connect: Callable[[], psycopg.Connection[Any]], told: Callable[[], None]
    ) -> None:
        self._connect, self._told = connect, told
        self._ended = threading.Event()
        # Held while `told` is called, so that it is over when `end` returns.
        self._telling = threading.RLock()
        self._woken, self._waker = socket.socketpair()
        self.thread = threading.Thread(target=self._listen, name="store-watch", daemon=True)

    def end(self) -> None:
        with self._telling:
            self._ended.set()
        with contextlib.suppress(OSError):  # its thread has ended and closed it
            self._waker.send(b"\0")
        if self.thread is not threading.current_thread():
            self.thread.join(_END_SECONDS)

    def _listen(self) -> None:
        pause = _PAUSE_SECONDS
        with self._woken, self._waker:
            while not self._ended.is_set():
                with (
                    contextlib.suppress(psycopg.Error, OSError, StoreUnavailableError),
                    contextlib.closing(self._connect()) as connection,
                ):
                    connection.execute(_LISTEN)
                    pause = _PAUSE_SECONDS
                    self._tell()  # of what was committed while nobody listened
                    self._hear(connection)
                self._ended.wait(pause)
                pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    def _hear(self, connection: psycopg.Connection[Any]) -> None:
        """Tell of each announcement, until the end. Raises: `psycopg.Error`: the line is cut."""
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._ended.is_set():
                if not selector.select(_QUIET_SECONDS):
                    connection.execute("SELECT 1")
                # Also after that: what arrived along with its answer waits in the driver.
                if list(connection.notifies(timeout=0)):
                    self._tell()

    def _tell(self) -> None:
        with self._telling:
            if not self._ended.is_set():
                self._told()
