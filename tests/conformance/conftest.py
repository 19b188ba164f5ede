"""One fixture per port, parametrised by back end: what joins here is held to the whole suite."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from sluicegate.core.ports import Store
from sluicegate.stores import open_store

sys.path.append(str(Path(__file__).parents[1] / "unit" / "core"))
from fakes import Memory, MemoryStore


@pytest.fixture(params=["sqlite", "postgresql", "firestore", "memory"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Opens the one store of this test, empty at first, of each back end."""
    match request.param:
        case "sqlite":
            return lambda: open_store(f"sqlite:///{tmp_path}/jobs.db")
        case "postgresql":
            url = request.getfixturevalue("postgresql_database")
            return lambda: open_store(url)
        case "firestore":
            request.getfixturevalue("firestore_emulator")
            url = f"firestore://p-{uuid4().hex[:20]}"
            return lambda: open_store(url)
        case "memory":
            memory = Memory()
            return lambda: MemoryStore(memory)
        case unknown:
            raise AssertionError(unknown)


@pytest.fixture
def store(open_again: Callable[[], Store]) -> Iterator[Store]:
    """An empty store of each back end."""
    opened = open_again()
    yield opened
    opened.close()
