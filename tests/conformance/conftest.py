"""One fixture per port, parametrised by back end: what joins here is held to the whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sluicegate.core.ports import Store
from sluicegate.stores import open_store


@pytest.fixture(params=["sqlite"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of each back end."""
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path}/jobs.db"
        case unknown:
            raise AssertionError(unknown)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An empty store of each back end."""
    opened = open_store(store_url)
    yield opened
    opened.close()
