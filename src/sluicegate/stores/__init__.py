"""Where jobs are kept: `open_store` picks the back end by its URL and imports only that one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sluicegate.core.ports import Store
from sluicegate.core.store_errors import (
    BackupUnsupportedError,
    StoreDriverMissingError,
    UnknownStoreError,
)

__all__ = ["back_up_store", "open_store", "put_store_back"]

_FORMS = (
    "sqlite:///path/to/jobs.db",
    "postgresql://user:password@host/database",
    "firestore://project/database",
)
# Their own tools copy a database that is in use, each better than we could.
_OWN_TOOLS: Final = {
    "postgresql": "use PostgreSQL's own: pg_dump, or pg_basebackup with its log",
    "postgres": "use PostgreSQL's own: pg_dump, or pg_basebackup with its log",
    "firestore": "use Google's own: gcloud firestore export, or scheduled backups",
}


def open_store(url: str) -> Store:
    """Open the store behind `url`, creating it or bringing its schema up to date when needed.

    Args:
        url: `sqlite:///relative/path`, `sqlite:////absolute/path`, `postgresql://` and what libpq takes, or
            `firestore://project[/database]`.

    Raises:
        StoreDriverMissingError: what its back end needs is not installed.
        UnknownStoreError: no back end has this scheme, or the URL names no place.
        StoreTooNewError: a newer version wrote it; nothing was changed.
        StoreUnavailableError: it cannot be read or written.
    """
    scheme, _, _ = url.partition("://")
    match scheme:
        case "sqlite":
            from sluicegate.stores.sqlite import open_sqlite

            return open_sqlite(_path_of(url))
        case "postgresql" | "postgres":
            try:
                from sluicegate.stores.postgresql import open_postgresql
            except ImportError as error:  # the driver, or the C library below it
                raise StoreDriverMissingError("postgresql", str(error)) from error

            return open_postgresql(url)
        case "firestore":
            from sluicegate.stores.firestore import open_firestore

            try:
                return open_firestore(url)
            except ImportError as error:
                raise StoreDriverMissingError("firestore", str(error)) from error
        case _:
            raise UnknownStoreError(url, _FORMS)


def back_up_store(url: str, target: Path) -> int:
    """Copy an SQLite store to a new file, as of one instant, while it is in use. Returns: its bytes.

    Raises: `BackupUnsupportedError`, `BackupFailedError`, `StoreUnavailableError`, `UnknownStoreError`; then there is
        no such file.
    """
    from sluicegate.stores.sqlite_files import back_up

    return back_up(_path_to_copy(url, "copied"), target)


def put_store_back(url: str, source: Path, aside: str) -> Path | None:
    """Put a copy in the place of an SQLite store, which nobody has open.

    Args:
        aside: What is put behind the name of the store that was there.

    Returns: where that one is now; `None`: there was none.

    Raises: `BackupUnsupportedError`, `BackupFailedError`, `StoreTooNewError`, `UnknownStoreError`.
    """
    from sluicegate.stores.sqlite_files import put_back

    return put_back(_path_to_copy(url, "put back"), source, aside)


def _path_to_copy(url: str, what: str) -> str:
    scheme = url.partition("://")[0]
    if scheme in _OWN_TOOLS:
        raise BackupUnsupportedError(scheme, what, _OWN_TOOLS[scheme])
    return _path_of(url)


def _path_of(url: str) -> str:
    path = url.removeprefix("sqlite:///")
    if path in ("", url, ":memory:"):
        raise UnknownStoreError(url, _FORMS)
    return path
