"""Firestore: jobs as documents that a person can read in the console, decided by version like everywhere.

`documents` says what is stored where, `connection` is the only module that talks to the driver, `writing`
decides and writes, `reading` finds jobs, `removing` removes them, `watching` hears of what others commit, `store` is
all of it together.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sluicegate.core.store_errors import UnknownStoreError

if TYPE_CHECKING:  # the driver is imported when a store is opened
    from sluicegate.stores.firestore.store import FirestoreStore

FORM: Final = "firestore://project/database"
DEFAULT_DATABASE: Final = "(default)"

_URL: Final = re.compile(
    r"firestore://(?P<project>[A-Za-z0-9][A-Za-z0-9.:-]*)(/(?P<database>\(default\)|[a-z][a-z0-9-]*)?)?"
)


def parse_url(url: str) -> tuple[str, str] | None:
    """Return the project and the database of `firestore://<project>[/<database>]`, `None` if it is none."""
    found = _URL.fullmatch(url)
    return None if found is None else (found["project"], found["database"] or DEFAULT_DATABASE)


def open_firestore(url: str) -> FirestoreStore:
    """Open the database, laying it out when it is empty. Where `FIRESTORE_EMULATOR_HOST` is set, in that emulator.

    Raises:
        UnknownStoreError: the URL names no database.
        StoreTooNewError: a newer version wrote it; nothing was changed.
        StoreUnavailableError: it cannot be reached or written.
    """
    place = parse_url(url)
    if place is None:
        raise UnknownStoreError(url, (FORM,))
    from sluicegate.stores.firestore.store import FirestoreStore

    return FirestoreStore(*place)
