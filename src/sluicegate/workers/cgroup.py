"""A cgroup for each worker, where one can be made: what its task starts is in it, also what is below no task.

A process that was made with `clone(CLONE_PARENT)` is its worker's sibling, and no walk from the worker finds it.
Nothing depends on a cgroup: it comes beside the walk, and where none can be made (no cgroup2, read-only, not delegated
to this user, too deep) everything else works as it does with one.

Only folders that we made are touched. What is in them is our workers and what these started, unless somebody moved
another process there: that one is ended too.

Source: the kernel's Documentation/admin-guide/cgroup-v2.rst; cgroups(7); proc_pid_mountinfo(5).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sluicegate.workers.process_tree import (
    GONE_WITHIN_SECONDS,
    ProcessId,
    Swept,
    find,
    is_alive,
    kill_tree,
    send_signal,
    wait_gone,
)

# The guard whose worker it is, as pid and start time, and the worker's number.
NAME: Final = re.compile(r"sluicegate\.(\d+)\.(\d+)\.(\d+)")
TRIAL_SECONDS: Final = 10.0
FOLDER_LINKS: Final = 2


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One worker's. `path` is `None` where there is none; then it is empty."""

    path: Path | None

    def has_others(self) -> bool:
        """Whether a live process but this one is in it; a dead one that nobody reaped is none."""
        return bool(self._pids() - {os.getpid()})

    def members(self) -> set[ProcessId]:
        """Return every live process in it."""
        found = {process for pid in self._pids() if (process := find(pid)) is not None}
        # A pid can have become another's before it was looked up: that one is not in here.
        still = self._pids() if found else set()
        return {process for process in found if process.pid in still}

    def signal_outside(self, tree: AbstractSet[ProcessId], signum: int) -> None:
        """Signal once what is in it and not in `tree`. Stopped ones are woken, or they could not act on it."""
        for process in self.members() - tree:
            if send_signal(process, signum):
                send_signal(process, signal.SIGCONT)

    def end(
        self,
        known: AbstractSet[ProcessId] = frozenset(),
        within_seconds: float = GONE_WITHIN_SECONDS,
    ) -> Swept:
        """End all that is in it. What is `known` is neither counted nor waited for.

        What cannot die yet is not counted, so that whoever asks again counts it once.
        """
        seen: set[ProcessId] = set()
        deadline = time.monotonic() + within_seconds
        while members := self.members() - known:
            seen |= members
            self._kill(members)
            if not wait_gone(list(members), max(0.0, deadline - time.monotonic())):
                return Swept(sum(not is_alive(one) for one in seen), is_clean=False)
        return Swept(len(seen), is_clean=True)

    def remove(self) -> bool:
        """Remove it, and what a task made in it, if it is empty. Returns whether it is gone."""
        for folder in reversed(self._folders()):
            with contextlib.suppress(OSError):
                folder.rmdir()
        return not self._folders()

    def _kill(self, members: set[ProcessId]) -> None:
        try:
            _write(
                self._folders()[0] / "cgroup.kill", "1"
            )  # in one step that no fork can slip through
        except (OSError, IndexError):  # before Linux 5.14, or it is gone by now
            for process in members:
                kill_tree(process, within_seconds=0)

    def _pids(self) -> set[int]:
        found: set[int] = set()
        for folder in self._folders():
            with contextlib.suppress(OSError):
                found.update(map(int, (folder / "cgroup.procs").read_bytes().split()))
        return found

    def _folders(self) -> list[Path]:
        """It and those that a task made in it, parents before children; none when it is gone."""
        if self.path is None:
            return []
        with contextlib.suppress(OSError):
            # As always: a folder without folders has two links, and is not read; reading takes 10 x longer.
            if self.path.stat().st_nlink == FOLDER_LINKS:
                return [self.path]
        return [Path(path) for path, _, _ in os.walk(self.path)]


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Those of all workers of one guard, `owner`, below its own cgroup `folder`; none without both."""

    folder: Path | None
    owner: ProcessId | None

    def of(self, number: int) -> Cgroup:
        """Return the one of a worker; it need not be there."""
        if self.folder is None or self.owner is None:
            return Cgroup(None)
        name = f"sluicegate.{self.owner.pid}.{self.owner.started}.{number}"
        return Cgroup(self.folder / name)

    def enter(self, number: int) -> Cgroup:
        """Make the one of a worker, which is this process, and go into it. Returns: none where that cannot be.

        Going in takes the kernel 5 to 15 ms, mostly of waiting.
        """
        cgroup = self.of(number)
        if cgroup.path is None:
            return cgroup
        try:
            cgroup.path.mkdir()
            _write(cgroup.path / "cgroup.procs", "0")
        except OSError:
            cgroup.remove()
            return Cgroup(None)
        return cgroup

    def end_all(self) -> None:
        """End all that is in any of them, and remove them."""
        for owner, cgroup in self._found():
            if owner == self.owner:
                cgroup.end()
                cgroup.remove()

    def remove_leftovers(self) -> None:
        """Remove those of guards that are dead, if they are empty."""
        for owner, cgroup in self._found():
            if not is_alive(owner):
                cgroup.remove()

    def _found(self) -> list[tuple[ProcessId, Cgroup]]:
        if self.folder is None:
            return []
        try:
            paths = list(self.folder.iterdir())
        except OSError:
            return []
        matches = [(path, match) for path in paths if (match := NAME.fullmatch(path.name))]
        return [(ProcessId(int(match[1]), int(match[2])), Cgroup(path)) for path, match in matches]


def open_cgroups(guard: int) -> Cgroups:
    """Return those of a guard that lives in the same cgroup as this process."""
    return Cgroups(own_folder(), find(guard))


def own_folder(proc: Path = Path("/proc/self")) -> Path | None:
    """Return the folder of this process's own cgroup, wherever cgroup2 is mounted; `None`: it cannot be seen.

    Args:
        proc: Where `cgroup` and `mountinfo` are read.
    """
    try:
        lines = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return None
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
    for mount in mounts:
        # Six fields and any number of optional ones, a hyphen, then the type: the 4th is what of it is mounted.
        fields, _, kind = mount.partition(" - ")
        root, point = map(_unescaped, fields.split()[3:5])
        inside = own == root or own.startswith(f"{root.rstrip('/')}/")
        if kind.startswith("cgroup2 ") and inside:
            folder = Path(point) / own.removeprefix(root).lstrip("/")
            if (folder / "cgroup.procs").exists():
                return folder
    return None


def is_usable() -> bool:
    """Whether workers that are started by this process get one; tried with a process of its own."""
    cgroup = Cgroups(own_folder(), find(os.getpid())).of(0)
    if cgroup.path is None:
        return False
    enter = "import sys; open(sys.argv[1], 'w').write('0')"
    try:
        cgroup.path.mkdir()
        procs = str(cgroup.path / "cgroup.procs")
        entered = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-I", "-S", "-c", enter, procs],
            capture_output=True,
            timeout=TRIAL_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    else:
        return entered.returncode == 0
    finally:
        cgroup.remove()


def _write(file: Path, text: str) -> None:
    fd = os.open(file, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _unescaped(text: str) -> str:
    r"""A path of mountinfo: a space is there as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
