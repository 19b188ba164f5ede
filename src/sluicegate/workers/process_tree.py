"""Find and end every descendant of a process, also those that left its group or session, or fork while dying.

A process is named by its pid and the instant at which it started, so that a pid that was given to another process is
never hit. On Linux signals go through a pidfd that was checked against that instant.

Source: pidfd_open(2), pidfd_send_signal(2), proc(5), prctl(2) PR_SET_CHILD_SUBREAPER.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

IS_LINUX: Final = sys.platform == "linux"
FREEZE_ROUNDS_MAX: Final = 100
SWEEP_SECONDS: Final = 5.0
GONE_WITHIN_SECONDS: Final = 5.0
PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36


class ProcessId(NamedTuple):
    """A process that cannot be mistaken for another: `started` is its start time in clock ticks since boot."""

    pid: int
    started: int


class Swept(NamedTuple):
    """What a sweep came to: how many were killed, and whether nothing was left at its end."""

    killed: int
    is_clean: bool


def find(pid: int) -> ProcessId | None:
    """Return the identity of a live process; a zombie counts as gone."""
    stat = _stat(pid)
    return None if stat is None or stat.state == "Z" else ProcessId(pid, stat.started)


def is_alive(process: ProcessId) -> bool:
    """Whether this very process still runs (or is stopped)."""
    return find(process.pid) == process


def descendants(root: int) -> list[ProcessId]:
    """Return every live process below `root`, parents before children. Zombies are left out, not their children."""
    below: dict[int, list[tuple[ProcessId, str]]] = defaultdict(list)
    for pid, stat in _all_stats():
        below[stat.parent].append((ProcessId(pid, stat.started), stat.state))
    found: list[ProcessId] = []
    queue, seen = [root], {root}
    while queue:
        for process, state in below[queue.pop()]:
            if process.pid not in seen:
                seen.add(process.pid)
                queue.append(process.pid)
                if state != "Z":
                    found.append(process)
    return found


def children(parent: int) -> list[ProcessId]:
    """Return the live processes that `parent` started or adopted."""
    return [
        ProcessId(pid, stat.started)
        for pid, stat in _all_stats()
        if stat.parent == parent and stat.state != "Z"
    ]


def with_environment(name: str, prefix: str) -> dict[ProcessId, str]:
    """Return every live process of this user that was started with this variable, and the variable's value.

    Args:
        prefix: How the value begins. A process that changes its own environment still shows what it was started with.
    """
    wanted = f"{name}={prefix}"
    found: dict[ProcessId, str] = {}
    for pid, stat in _all_stats():
        if stat.state == "Z":
            continue
        for entry in _environment(pid):
            if entry.startswith(wanted):
                found[ProcessId(pid, stat.started)] = entry.partition("=")[2]
    return found


def missing_means() -> tuple[str, ...]:
    """Return, in words for the receipt, which means of stopping whole trees this platform lacks; none on Linux."""
    if IS_LINUX:
        missing = []
        if not Path("/proc/self/stat").exists():
            missing.append("no /proc: no process below a task can be found")
        if not hasattr(os, "pidfd_open"):
            missing.append("no pidfd: a process is looked at just before it is signalled, not held")
        return tuple(missing)
    return (
        "no subreaper: a process that left its task's tree before the stop may live on",
        "no pidfd: a process is looked at just before it is signalled, not held",
    )


def send_signal(process: ProcessId, signum: int) -> bool:
    """Signal this very process. Returns whether it was there."""
    if not IS_LINUX:
        return is_alive(process) and _kill(process.pid, signum)
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(pidfd)


def signal_tree(root: ProcessId, signum: int) -> set[ProcessId]:
    """Signal `root` and everything below it once. Stopped ones are woken, or they could not act on it.

    Returns: all that was found, whether the signal still reached it or not.
    """
    found = [root, *descendants(root.pid)]
    for process in found:
        if send_signal(process, signum):
            send_signal(process, signal.SIGCONT)
    return set(found)


def kill_tree(root: ProcessId, *, within_seconds: float = GONE_WITHIN_SECONDS) -> int:
    """End `root` and everything below it; when this returns none of it is alive. Returns how many were killed.

    Only what waits in the kernel for a disk, say, cannot die at once: it is waited for so long, and may live on.

    The tree is frozen first, from the root downwards and again until no new member is found: a process that is
    stopped cannot fork, and `root`, which adopts its orphans, is still there to find them by. Then all are killed.
    """
    if not is_alive(root):
        return 0
    frozen: dict[ProcessId, None] = {}
    for _ in range(FREEZE_ROUNDS_MAX):
        # The quick look is fast enough to catch who forks and vanishes; only the thorough one is complete.
        fresh = [p for p in (root, *_descendants_quickly(root.pid)) if p not in frozen]
        fresh = fresh or [p for p in descendants(root.pid) if p not in frozen]
        if not fresh:
            break
        for process in fresh:
            frozen[process] = None
            if send_signal(process, signal.SIGSTOP):
                _freeze_group(process.pid, {known.pid for known in frozen})
    killed = [process for process in frozen if send_signal(process, signal.SIGKILL)]
    wait_gone(killed, within_seconds)
    return len(killed)


def kill_below(root: int, *, spare: frozenset[int] = frozenset()) -> Swept:
    """End every tree below the process `root`, which is this one, except those rooted in `spare`.

    Orphans come to `root` while it works, when it adopts them. It goes on until a look finds none, and no new dead
    one either: a chain, where each process forks the next and ends, shows little else. At most `SWEEP_SECONDS`.
    """
    killed = 0
    known_dead: set[int] = set()
    deadline = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < deadline:
        # All of them before any is looked into: who forks and vanishes does not wait.
        fresh = [pid for pid in _child_pids(root) if pid not in spare and pid not in known_dead]
        for pid in reversed(fresh):  # the newest first
            if (child := find(pid)) is not None:
                send_signal(child, signal.SIGSTOP)
            _freeze_group(pid, fresh)
        trees = [child for pid in fresh if (child := find(pid)) is not None]
        known_dead.update(set(fresh) - {tree.pid for tree in trees})
        trees = trees or [child for child in children(root) if child.pid not in spare]
        if not trees and not fresh:
            return Swept(killed, is_clean=True)
        for tree in trees:
            killed += kill_tree(tree)
    return Swept(killed, is_clean=False)


def _freeze_group(pid: int, ours: Collection[int]) -> None:
    """Stop the whole group of a process that is stopped or not reaped, in one step that no fork can slip through.

    A worker begins a session, so whoever is below it, in a session other than ours, was started by its task; and so
    was the rest of its group, for a group is of one session. A group whose leader lives is left alone unless the
    leader is in `ours`: a task may have sent a process of its worker's group here.
    """
    with contextlib.suppress(OSError):
        stat, group, session = _stat(pid), os.getpgid(pid), os.getsid(pid)
        is_foreign = group not in ours and find(group) is not None
        if session != os.getsid(0) and not is_foreign and stat == _stat(pid):
            os.killpg(group, signal.SIGSTOP)


def wait_gone(processes: list[ProcessId], within_seconds: float = GONE_WITHIN_SECONDS) -> bool:
    """Wait until all of these are gone. Returns whether they are, after at most so long."""
    deadline = time.monotonic() + within_seconds
    for process in processes:
        while is_alive(process):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            _wait_exit(process, left)
    return True


def become_subreaper() -> bool:
    """Adopt orphaned descendants from now on. Returns whether the platform can."""
    return IS_LINUX and _libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def signal_with_parent(signum: int) -> None:
    """Be signalled when the parent process dies. Linux only; look for the parent after this call."""
    if IS_LINUX:
        _libc().prctl(PR_SET_PDEATHSIG, int(signum), 0, 0, 0)


def has_children() -> bool:
    """Whether this process has any child, living or not yet reaped; costs one system call."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


class _Stat(NamedTuple):
    parent: int
    state: str
    started: int


def _stat(pid: int) -> _Stat | None:
    if not IS_LINUX:
        return _stat_by_psutil(pid)
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name is in parentheses and may hold anything, parentheses too: fields count from the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    state, threads = fields[0].decode(), int(fields[17])
    if state == "Z" and threads > 1:
        state = "S"  # only its first thread has ended: it runs on, and its children are its own
    return _Stat(int(fields[1]), state, int(fields[19]))


def _all_stats() -> list[tuple[int, _Stat]]:
    if not IS_LINUX:
        return _all_stats_by_psutil()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - 5 x faster
    return [(pid, stat) for pid in pids if (stat := _stat(pid)) is not None]


def _child_pids(pid: int) -> list[int]:
    """The children of a process, dead ones too, by one small file a thread. Those of a process that runs may be missed.

    Source: proc(5), /proc/pid/task/tid/children.
    """
    found: list[int] = []
    with contextlib.suppress(OSError):  # it is gone, or this kernel or platform has no such file
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - 5 x faster
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
    return found


def _descendants_quickly(root: int) -> list[ProcessId]:
    """Live processes below `root`, as many as a quick look finds; parents before children."""
    found: list[ProcessId] = []
    queue, seen = [root], {root}
    while queue:
        for pid in _child_pids(queue.pop()):
            if pid not in seen and (process := find(pid)) is not None:
                seen.add(pid)
                queue.append(pid)
                found.append(process)
    return found


def _stat_by_psutil(pid: int) -> _Stat | None:
    import psutil

    try:
        process = psutil.Process(pid)
        state = "Z" if process.status() == psutil.STATUS_ZOMBIE else "R"
        return _Stat(process.ppid(), state, int(process.create_time() * 100))
    except psutil.Error:
        return None


def _all_stats_by_psutil() -> list[tuple[int, _Stat]]:
    import psutil

    return [(pid, stat) for pid in psutil.pids() if (stat := _stat_by_psutil(pid)) is not None]


def _environment(pid: int) -> list[str]:
    """The variables that a process was started with; none where they may not be read."""
    if IS_LINUX:
        try:
            text = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return []
        return text.decode(errors="replace").split("\0")
    import psutil

    try:
        return [f"{name}={value}" for name, value in psutil.Process(pid).environ().items()]
    except psutil.Error:
        return []


def command(process: ProcessId) -> str:
    """How the process was called, for people to read; empty when it is gone."""
    if IS_LINUX:
        try:
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return ""
        return b" ".join(words).decode(errors="replace").strip()
    import psutil

    try:
        return " ".join(psutil.Process(process.pid).cmdline())
    except psutil.Error:
        return ""


def _kill(pid: int, signum: int) -> bool:
    try:
        os.kill(pid, signum)
    except OSError:
        return False
    return True


def _wait_exit(process: ProcessId, seconds: float) -> None:
    """Wait for an exit, short enough to look again: a zombie that nobody reaps is gone for us."""
    if IS_LINUX:
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(process.pid)
            try:
                select.select([pidfd], [], [], min(seconds, 0.05))
            finally:
                os.close(pidfd)
            return
    time.sleep(min(seconds, 0.01))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
