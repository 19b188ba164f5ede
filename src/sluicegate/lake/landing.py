"""The landing zone: putting files in, listing them, knowing which are new."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sluicegate.lake.durable import flush_to_disk
from sluicegate.lake.errors import LandingPathError

PARTIAL = ".partial"


@dataclass(frozen=True, order=True)
class LandedFile:
    """One file of the landing zone; `path` is relative to its root, with forward slashes."""

    path: str
    size: int
    mtime_ns: int


@contextmanager
def atomic_write(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Put one file into the landing zone: readers see all of it or nothing new.

    On a clean exit the partial file is flushed to disk and given its final name. On any
    exception before that, `Cancelled` included, it is removed and `path` is untouched.

    Args:
        path: Final location. Its parent directory must exist.
        replace: Allow an existing file to be replaced.

    Yields:
        An unused path beside it, named `.<name>.<8 hex digits>.partial`.

    Raises:
        FileExistsError: `path` exists and `replace` is false.
        OSError: The disk refused; `path` holds the old or the new file, never a mix.

    Source:
        POSIX.1-2017: link() fails if the name exists; rename() replaces it atomically.
    """
    if not replace and path.exists():  # early, before a long upload; link() below decides
        raise FileExistsError(f"{path.name!r} exists")
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield partial
        flush_to_disk(partial)
        if replace:
            partial.rename(path)
        else:
            path.hardlink_to(partial)
    finally:
        partial.unlink(missing_ok=True)
    flush_to_disk(path.parent)


def landing_path(root: Path, path: str) -> Path:
    """Return where `path` is below `root`.

    Raises:
        LandingPathError: It is absolute, leads out of the landing zone, or has a hidden part.
    """
    return root / _checked(path)


def list_files(root: Path, pattern: str = "**/*") -> list[LandedFile]:
    """Return the files that match, sorted by path; hidden and partial ones do not count.

    Args:
        pattern: As `weather/*.csv` or `**/*.parquet`, relative to `root`.

    Raises:
        LandingPathError: The pattern is absolute or leads out of the landing zone.
    """
    inside = root.resolve()
    found = []
    for file in root.glob(str(_checked(pattern))):
        relative = file.relative_to(root)
        if any(part.startswith(".") for part in relative.parts) or file.name.endswith(PARTIAL):
            continue
        try:
            facts = file.stat()
        except FileNotFoundError:  # removed meanwhile, or a dangling link
            continue
        if file.is_file() and file.resolve().is_relative_to(inside):
            found.append(LandedFile(relative.as_posix(), facts.st_size, facts.st_mtime_ns))
    return sorted(found)


def new_files(
    listed: Iterable[LandedFile], marks: Mapping[str, tuple[int, int]]
) -> tuple[list[LandedFile], list[LandedFile]]:
    """Split what is listed: files never ingested, and ingested ones that have changed since.

    Args:
        marks: Path -> (size, mtime_ns) of what the table's current content was made of.

    Returns:
        `(new, changed)`; the changed ones are for reporting, only a full refresh reads them again.
    """
    new, changed = [], []
    for file in listed:
        mark = marks.get(file.path)
        if mark is None:
            new.append(file)
        elif tuple(mark) != (file.size, file.mtime_ns):
            changed.append(file)
    return new, changed


def _checked(path: str) -> PurePosixPath:
    checked = PurePosixPath(path)
    if not checked.parts or checked.is_absolute() or "\0" in path or "\\" in path:
        raise LandingPathError(
            f"cannot use landing path {path!r}: it is empty, absolute or not written with '/'",
            mend="give a path relative to the landing zone, for example weather/2013-01.csv",
        )
    if any(part == ".." or part.startswith(".") for part in checked.parts):
        raise LandingPathError(
            f"cannot use landing path {path!r}: a part of it starts with a dot",
            mend="use plain names below the landing zone",
        )
    return checked
