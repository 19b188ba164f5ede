"""Whole SQLite files: a copy of one that is in use, and a copy put in its place."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from sluicegate.core.store_errors import (
    BackupFailedError,
    StoreTooNewError,
    StoreUnavailableError,
)
from sluicegate.stores.sqlite import mend_of, open_sqlite

_BUSY_SECONDS: Final = 10
# The log of what is not in the file yet, and its index, beside the file.
_BESIDE: Final = ("-wal", "-shm")


def back_up(path: str, target: Path) -> int:
    """Copy a database to a new file, as of one instant; readers and writers of it do not wait. Returns: its bytes.

    It is written anew page by page, so that it has no free room in it; and it is checked before it gets its name.

    Source: sqlite.org, VACUUM, "VACUUM with an INTO clause": it is consistent, and not flushed to the disk.
    """
    if not Path(path).exists():
        raise StoreUnavailableError(path, "there is none yet", mend="look at HOME and STORE")
    with _draft_of(target) as draft:
        try:
            with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
                connection.execute("VACUUM INTO ?", (str(draft),))
        except sqlite3.Error as error:
            raise StoreUnavailableError(
                path, f"it cannot be copied: {error}", mend=mend_of(error)
            ) from error
        check(draft)
        return draft.stat().st_size


def put_back(path: str, source: Path, aside: str) -> Path | None:
    """Put a copy in a database's place, brought up to date. Nobody may have that open.

    Returns: where the one that was there is now; `None`: there was none.
    """
    check(source)
    target = Path(path)
    moved = target.with_name(f"{target.name}.{aside}") if target.exists() else None
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        shutil.copyfile(source, draft)
        draft.chmod(0o600)
        _bring_up_to_date(draft, source)
        _flush(draft)
        # From here on a file without its log must not be taken for the store.
        for ending in ("", *_BESIDE):
            with contextlib.suppress(FileNotFoundError):
                beside = target.with_name(target.name + ending)
                beside.rename(target.with_name(f"{target.name}.{aside}{ending}"))
        draft.rename(target)
        _flush(target.parent)
    except OSError as error:
        raise BackupFailedError(
            f"cannot put {str(source)!r} back as {path!r}: {error.strerror}",
            mend="make room or mend the permissions, then do it again",
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return moved


def _bring_up_to_date(draft: Path, source: Path) -> None:
    """Before it takes the place of a store that works."""
    try:
        open_sqlite(str(draft)).close()
    except StoreTooNewError as error:
        raise StoreTooNewError(str(source), error.revision, error.known) from None


def check(path: Path) -> None:
    """See that a file is a whole store of ours. Raises: `BackupFailedError`."""
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            connection.execute("SELECT version_num FROM alembic_version").fetchone()
            connection.execute("SELECT job_id FROM jobs LIMIT 1").fetchone()
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise BackupFailedError(
            f"{str(path)!r} is no whole store: {found}", mend="name another copy of the store"
        )


@contextlib.contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    """A file to fill, that gets its name when the block has ended well. Raises: `BackupFailedError`."""
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        if target.exists():
            raise FileExistsError
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        yield draft
        _flush(draft)
        os.link(draft, target)
        _flush(target.parent)
    except FileExistsError as error:
        raise BackupFailedError(
            f"cannot write {str(target)!r}: it is there already", mend="choose another name"
        ) from error
    except OSError as error:
        raise BackupFailedError(
            f"cannot write {str(target)!r}: {error.strerror}",
            mend="choose a folder that is there, can be written and has room",
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
