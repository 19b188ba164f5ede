"""What costs a start and serves all: one PostgreSQL for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from postgresql_server import Programs, Server, programs, server


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
