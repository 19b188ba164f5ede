"""What costs a start and serves all: one PostgreSQL and one Firestore emulator for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from firestore_emulator import HOST_VARIABLE, Emulator, what_is_missing
from postgresql_server import Programs, Server, programs, server

settings.register_profile("untimed", deadline=None)  # the machine may be busy with other tests
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def postgresql_programs() -> Iterator[Programs]:
    """What a test needs that starts a server of its own, to kill it."""
    with programs() as found:
        yield found


@pytest.fixture(scope="session")
def postgresql_server(postgresql_programs: Programs) -> Iterator[Server]:
    """A server that is there for all; each test makes its own database."""
    with server(postgresql_programs) as one:
        yield one


@pytest.fixture
def postgresql_database(postgresql_server: Server) -> Iterator[str]:
    """The URL of a database of this test's own, empty and at head."""
    with postgresql_server.database(template="head") as name:
        yield postgresql_server.url(name)


@pytest.fixture(scope="session")
def _emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    if (missing := what_is_missing()) and not os.environ.get("CI"):
        pytest.skip(f"no test of Firestore: {missing}")  # CI has it, and fails without
    emulator = Emulator(tmp_path_factory.mktemp("firestore") / "log")
    try:
        emulator.start()
        yield emulator
    finally:
        emulator.kill()


@pytest.fixture
def firestore_emulator(_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Google's emulator, started once for all tests that ask for it. A test's own project in it is empty."""
    monkeypatch.setenv(HOST_VARIABLE, _emulator.host)
    return _emulator
