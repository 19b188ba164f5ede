"""Copying a store that is in use, and putting a copy back. Below `cli`, beside `app`.

A store that was put back is behind its lake: writers have had epochs since that it does not know of, and would hand out
once more. So it is brought up to what the tables' logs say before anything runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sluicegate.config import Settings
from sluicegate.home import ASIDE, locked
from sluicegate.stores import back_up_store, open_store, put_store_back


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. `aside`: where the store is that was there before; `tables`: those the copy was behind of."""

    aside: Path | None
    tables: tuple[str, ...]


def back_up(settings: Settings, target: Path) -> int:
    """Write a consistent copy of the store to a new file. Servers and runs go on meanwhile. Returns: its bytes.

    Raises: `BackupUnsupportedError`, `BackupFailedError`, `StoreUnavailableError`; then there is no such file.
    """
    return back_up_store(settings.store, target)


def restore(settings: Settings, source: Path | None, now: datetime) -> Restored:
    """Put a copy in the store's place, and bring the store up to its lake.

    Args:
        source: The copy; `None` where the store was put back by its own tools.

    Raises:
        HomeInUseError: A server or a run lives on this home.
        BackupUnsupportedError, BackupFailedError, StoreTooNewError: Nothing was changed.
        StoreUnavailableError: The store is there, and may be behind its lake yet: do it again without a copy.
    """
    from sluicegate.workers.lake_calls import LakeTables

    with locked(settings.home):
        aside = None
        if source is not None:
            aside = put_store_back(settings.store, source, f"{ASIDE}-{now:%Y%m%dT%H%M%S}")
        store = open_store(settings.store)
        try:
            behind = store.raise_epochs(LakeTables(str(settings.lake)).epochs())
        finally:
            store.close()
    return Restored(aside, tuple(behind))
