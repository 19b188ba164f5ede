"""Where jobs are kept: `open_store` picks the back end by its URL and imports only that one."""

from __future__ import annotations

from sluicegate.core.ports import Store
from sluicegate.core.store_errors import StoreDriverMissingError, UnknownStoreError

__all__ = ["open_store"]

_FORMS = (
    "sqlite:///path/to/jobs.db",
    "postgresql://user:password@host/database",
    "firestore://project/database",
)


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
            path = url.removeprefix("sqlite:///")
            if path in ("", url, ":memory:"):
                raise UnknownStoreError(url, _FORMS)
            from sluicegate.stores.sqlite import open_sqlite

            return open_sqlite(path)
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
