"""SQLite: how its connections are made and what its errors mean. All else is in `sql`.

One connection writes; readers have their own and, by the write-ahead log, neither wait for the
writer nor hold it up.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.dialects.sqlite import insert

from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.stores.sql import SqlStore

_READERS_MAX: Final = 8
_BUSY_SECONDS: Final = 10
# What matters at once is told within the process; this is for others, a command line say.
_WATCH_SECONDS: Final = 0.5

_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",  # a commit that was answered survives a loss of power
    "PRAGMA foreign_keys = OFF",  # rows that belong together are written together
    "PRAGMA cache_size = -16000",  # KiB
    "PRAGMA journal_size_limit = 67108864",  # bytes that the log keeps after a burst
)

_MENDS: Final = (
    ("locked", "another process is writing to it for long; stop that one, or try again"),
    ("full", "free some space on its disk, then try again"),
    ("readonly", "let this user write to the file and to its folder"),
    ("unable to open", "check that its folder exists and that this user may write to it"),
    (
        "not a database",
        "the file is damaged or not a store: put a backup in its place or move it away",
    ),
    ("malformed", "the file is damaged: put a backup in its place or move it away"),
)
_OUR_MISTAKES: Final = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)


def open_sqlite(path: str) -> SqlStore:
    """Open the database file at `path`; it and its folder are made when missing."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailableError(
            path, f"its folder cannot be made: {error.strerror}", mend="choose another folder"
        ) from error
    with contextlib.suppress(OSError):  # what is wrong with it is said when it is opened
        # Parameters and logs are this user's own; SQLite gives its other files the same rights.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    if Path(path).exists() and not os.access(path, os.W_OK):
        # SQLite would say so only at the first write.
        raise StoreUnavailableError(path, "it is readonly", mend=dict(_MENDS)["readonly"])
    return SqlStore(
        where=path,
        writing=_engine(path, connections_max=1),
        reading=_reading_engine(path),
        begin=lambda connection: connection.execute("BEGIN IMMEDIATE"),
        foreign="PRAGMA data_version",
        insert=insert,
        mend=_mend,
        watch=lambda told: _watch(path, told),
    )


def _watch(path: str, told: Callable[[], None]) -> Callable[[], None]:
    """Call `told` when the database has changed. SQLite tells nobody of a commit, so it is asked, twice a second.

    Source: sqlite.org, `PRAGMA data_version`: it differs once another connection has committed.
    """
    ended = threading.Event()

    def look() -> None:
        connection: sqlite3.Connection | None = None
        seen: int | None = None
        while not ended.wait(_WATCH_SECONDS):
            try:
                if connection is None:
                    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
                (version,) = connection.execute("PRAGMA data_version").fetchone()
            except sqlite3.Error:
                continue  # it is looked at again, and what came meanwhile is a change
            if version != seen:
                seen = version
                told()
        if connection is not None:
            connection.close()

    thread = threading.Thread(target=look, name="store-watch", daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        if thread is not threading.current_thread():
            thread.join()

    return end


def _reading_engine(path: str) -> Engine:
    engine = _engine(path, connections_max=_READERS_MAX, also=("PRAGMA query_only = ON",))

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:
        # By the driver: SQLAlchemy's own execution would cost more than all else that begins a transaction.
        connection.connection.driver_connection.execute("BEGIN")

    return engine


def _engine(path: str, *, connections_max: int, also: tuple[str, ...] = ()) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=path),
        pool_size=connections_max,
        max_overflow=0,
        # The driver must begin nothing by itself: it would begin deferred, and find another writer
        # only half-way.
        connect_args={
            "isolation_level": None,
            "timeout": _BUSY_SECONDS,
            "check_same_thread": False,
        },
    )

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, _record: Any) -> None:
        mode = _set_write_ahead(connection)
        for pragma in (*_PRAGMAS, *also):
            connection.execute(pragma)
        if mode != "wal":
            raise StoreUnavailableError(
                path,
                "its file system allows no write-ahead log",
                mend="keep the store on a local disk",
            )

    return engine


def _set_write_ahead(connection: sqlite3.Connection) -> str:
    """Return the journal mode, which is `wal` now unless the file system cannot have it.

    Among several who open a new file at once, SQLite refuses all but one without waiting, whatever
    the busy timeout says: where waiting could be a deadlock, it does not call the busy handler.

    Source: sqlite.org, C interface, `sqlite3_busy_handler()`.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return str(mode)


def mend_of(error: Exception) -> str:
    """Return what a user can do about what SQLite says of a file."""
    words = str(error)
    return next(
        (mend for word, mend in _MENDS if word in words), "look at the file and at its disk"
    )


def _mend(error: Exception) -> str | None:
    return None if isinstance(error, _OUR_MISTAKES) else mend_of(error)
