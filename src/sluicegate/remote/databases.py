"""Queries of databases: DuckDB in this process, PostgreSQL anywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sluicegate.remote.work import RemoteNotStoppableError, RemoteWork
from sluicegate.task import Task

CANCEL_SECONDS: Final = 5.0


def duckdb(task: Task, connection: Any) -> RemoteWork:
    """End what runs on a DuckDB connection when the task stops: `connection.interrupt()`.

    Each connection, and each `cursor()` of it, is interrupted by itself. It is called again until the block is left:
    an interrupt that comes just before a query starts does nothing.

    Raises: `RemoteNotStoppableError`.
    """
    interrupt = _method(connection, "interrupt", "a connection of DuckDB")
    return RemoteWork(task, task.callbacks.add(interrupt, "duckdb query", until_over=True))


def postgresql(task: Task, connection: Any) -> RemoteWork:
    """End what runs on a PostgreSQL connection when the task stops; the connection stays usable.

    With psycopg 3 by `cancel_safe`, with an asynchronous connection, psycopg 2 or psycopg before 3.2 by `cancel`. It is
    called again until the block is left: a cancel that comes just before a query starts does nothing.

    Raises: `RemoteNotStoppableError`.

    Source: psycopg's documentation of `Connection.cancel_safe`; PostgreSQL's of canceling queries in progress.
    """
    cancel_safe = getattr(connection, "cancel_safe", None)
    if cancel_safe is not None and not inspect.iscoroutinefunction(cancel_safe):
        cancel: Callable[[], object] = partial(cancel_safe, timeout=CANCEL_SECONDS)
    else:
        cancel = _method(connection, "cancel", "a connection of psycopg")
    pid = getattr(getattr(connection, "info", None), "backend_pid", None)
    what = "postgresql query" if pid is None else f"postgresql backend {pid}"
    return RemoteWork(task, task.callbacks.add(cancel, what, until_over=True))


def _method(connection: Any, name: str, wanted: str) -> Callable[[], object]:
    method = getattr(connection, name, None)
    if not callable(method):
        kind = type(connection)
        raise RemoteNotStoppableError(
            f"cannot stop what runs on {kind.__module__}.{kind.__qualname__}: it has no {name}()",
            mend=f"hand over {wanted} itself, or register your own function with task.on_cancel",
        )
    return method  # type: ignore[no-any-return]
