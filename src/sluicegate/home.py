"""The home folder: one server at a time, and the small files that its commands find it by."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sluicegate.errors import SluicegateError

LOCK_NAME: Final = "lock"
SERVER_NAME: Final = "server.json"
ADMIN_KEY_NAME: Final = "admin.key"
SESSION_KEY_NAME: Final = "session.key"
ASIDE: Final = "before-restore"  # behind the name of a store that a restore has moved away
EXECUTORS_NAME: Final = "executors.json"
EXECUTORS_MAX: Final = 100
OWNER_ONLY: Final = 0o600


class HomeInUseError(SluicegateError):
    """Another server, or a run in the foreground, lives on this home."""

    code = "home_in_use"


class HomeUnusableError(SluicegateError):
    """The home folder cannot be made or written."""

    code = "home_unusable"


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the home. The lock dies with this process, and no process that it starts inherits it.

    Raises:
        HomeInUseError: somebody else holds it.
        HomeUnusableError: the folder cannot be made or written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        # Not inheritable: a worker that outlived us must not keep the home locked.
        lock = os.open(home / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
    except OSError as error:
        raise HomeUnusableError(
            f"cannot use the home {str(home)!r}: {error.strerror}",
            mend="make it writable, or set SLUICEGATE_HOME to a folder that is",
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeInUseError(
                f"the home {str(home)!r} is in use by process {_holder(lock)}",
                mend="use that server, stop it, or set SLUICEGATE_HOME to another folder",
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def announced(home: Path, url: str, started_at: str) -> Iterator[None]:
    """Say where the server listens for as long as the block lasts, to commands of this user."""
    path = home / SERVER_NAME
    stated = {"url": url, "pid": os.getpid(), "started_at": started_at}
    write_private(path, json.dumps(stated).encode())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def succeeded(home: Path, executor_id: str) -> list[str]:
    """Write down who executes on this home from now on. Returns who did before, and has ended: the home is held.

    A store that several homes share does not say which of its executors were of this one.
    """
    path = home / EXECUTORS_NAME
    try:
        before = [str(one) for one in json.loads(path.read_bytes())]
    except (FileNotFoundError, ValueError):
        before = []
    write_private(path, json.dumps([*before, executor_id][-EXECUTORS_MAX:]).encode())
    return before


def has_executed(home: Path) -> bool:
    """Whether a server or a run has lived on this home, and opened its store."""
    return (home / EXECUTORS_NAME).exists()


def session_secret(home: Path) -> bytes:
    """Return the secret that signs session cookies; it is made once."""
    path = home / SESSION_KEY_NAME
    if path.exists():
        return path.read_bytes()
    secret = secrets.token_bytes(32)
    write_private(path, secret)
    return secret


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read; readers see all of it or none."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(path)


def _holder(lock: int) -> str:
    return os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
