"""Where jobs are kept: `open_store` picks the back end by its URL and imports only that one."""

from __future__ import annotations

from sluicegate.core.ports import Store
from sluicegate.core.store_errors import UnknownStoreError

__all__ = ["open_store"]

_FORMS = ("sqlite:///path/to/jobs.db",)


def open_store(url: str) -> Store:
    """Open the store behind `url`, creating it or bringing its schema up to date when needed.

    Args:
        url: `sqlite:///relative/path` or `sqlite:////absolute/path`.

    Raises:
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
        case _:
            raise UnknownStoreError(url, _FORMS)
