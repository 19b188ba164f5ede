"""Which version of the code a job ran: a hash of its content, and the git commit it belongs to."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sluicegate.spec import PipelineSpec
from sluicegate.targets import find_target

GIT_TIMEOUT_SECONDS = 5.0


def code_version(target: str, specs: Mapping[str, PipelineSpec]) -> dict[str, str | None]:
    """Return `{"hash": ..., "git": ...}` for what `target` holds now.

    `hash` covers the files of the target, helpers (`_*.py`) included, under their paths relative to
    it, and each pipeline's own source: it is the same on every machine. `git` is the commit, with
    `-dirty` after it when a file of the target differs from it, or `None` outside of a repository.

    Raises:
        TargetNotFoundError: the target is gone.
    """
    found = find_target(target)
    digest = hashlib.sha256()
    for file in found.code:
        _add(digest, file.relative_to(found.root).as_posix(), file.read_bytes())
    for pipeline_id in sorted(specs):
        _add(digest, pipeline_id, specs[pipeline_id].source_hash.encode())
    return {"hash": digest.hexdigest(), "git": _commit(found.root, found.code)}


def _add(digest: hashlib._Hash, name: str, content: bytes) -> None:
    """Add one named part; lengths go first, so that no two lists of parts read the same."""
    for part in (name.encode(), content):
        digest.update(len(part).to_bytes(8, "big") + part)


def _commit(root: Path, files: tuple[Path, ...]) -> str | None:
    names = [str(file) for file in files]
    commit = _git(root, "rev-parse", "HEAD")
    if not commit or not _git(root, "ls-files", "--", *names):
        return None
    changed = _git(root, "status", "--porcelain", "--", *names)
    return commit if changed == "" else f"{commit}-dirty"


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what a git command prints, or `None` where git or a repository is missing."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed words and paths of the target
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - git is found where it is installed
            capture_output=True,
            check=True,
            text=True,
            timeout=GIT_TIMEOUT_SECONDS,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # reading must not block a commit
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
