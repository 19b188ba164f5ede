"""Fixtures of the API's tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from api_world import SPECS, MakeWorld, OneTable, StepClock, World

from sluicegate.api import Service, create_api
from sluicegate.core.hub import Hub
from sluicegate.core.job_manager import Catalog, JobManager
from sluicegate.core.keys import create_key
from sluicegate.core.ledger import Ledger
from sluicegate.stores import open_store


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def make_world(tmp_path: Path, portal: BlockingPortal) -> Iterator[MakeWorld]:
    """Return a function that makes worlds over one store; keywords change its `Service`."""
    store, hub, clock = open_store(f"sqlite:///{tmp_path / 'jobs.db'}"), Hub(), StepClock()
    ledger = Ledger(store, hub.publish)
    catalog, lake = Catalog(SPECS, "c0de", "pipelines.py"), OneTable()
    manager = JobManager(store, ledger, clock, catalog, wake=lambda job_id, job: None, tables=lake)
    roles = ("viewer", "operator", "admin")
    keys = {role: create_key(store, clock, role, role)[1] for role in roles}

    def make(**changes: Any) -> World:
        service = Service(manager, store, lake, hub, clock, version="0.1.0")
        service = replace(service, **changes)
        return World(service, ledger, create_api(service), clock, portal, keys)

    yield make
    ledger.close()
    store.close()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()
