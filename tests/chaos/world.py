"""What chaos happens to: two servers of different homes on one PostgreSQL and one lake, and disks that can be filled.

Signals go to processes by identity, through a pidfd, and only to those that carry the mark of this run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx

from chaos.survivors import MARK, Process, survivors

PIPELINES = Path(__file__).with_name("pipelines.py")
DISK_BYTES = 256 * 1024 * 1024
HOMES = ("one", "two")
WORKERS = 2
CALL_SECONDS = 2.0
T = TypeVar("T")


def send(process: Process, signum: int) -> bool:
    """Signal a process, if it is still the one that was found. Returns whether it was."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if any(found == process for found in _again(process)):
            signal.pidfd_send_signal(handle, signum)
            return True
        return False
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def _again(process: Process) -> Iterator[Process]:
    """The process as it is now; its state does not matter, and an orphan has got another parent."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{process.pid}/stat").read_bytes()
        if int(stat[stat.rindex(b")") + 2 :].split()[19]) == process.started_ticks:
            yield process


@dataclass
class Server:
    """`sluicegate serve` on a home of its own; each start is an incarnation with a mark of its own."""

    run: str
    folder: Path
    home: str
    settings: dict[str, str]
    target: Path = PIPELINES
    incarnation: int = 0
    process: subprocess.Popen[bytes] | None = None
    marks: list[str] = field(default_factory=list)
    was_ready: bool = False

    @property
    def path(self) -> Path:
        return self.folder / self.home

    @property
    def errors(self) -> Path:
        return self.folder / f"{self.home}-{self.incarnation}.err"

    def start(self) -> None:
        """Start it; whether it gets ready is seen by `url`."""
        self.incarnation += 1
        self.was_ready = False
        self.marks.append(f"{self.run}-{self.home}-{self.incarnation}")
        bare = {k: v for k, v in os.environ.items() if not k.startswith("SLUICEGATE_")}
        own = {f"SLUICEGATE_{k.upper()}": v for k, v in self.settings.items()}
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "sluicegate",
                    "serve",
                    str(self.target),
                    "--json",
                    "--port",
                    "0",
                ],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=self.folder,
                env={**bare, **own, MARK: self.marks[-1], "SLUICEGATE_HOME": str(self.path)},
            )

    def said(self) -> str:
        """The end of what it wrote to stderr."""
        return self.errors.read_text(errors="replace")[-2000:]

    @property
    def is_running(self) -> bool:
        """Whether its process lives; one that has ended is collected."""
        return self.process is not None and self.process.poll() is None

    @property
    def url(self) -> str | None:
        """Where it listens, once it does."""
        if self.process is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            stated = json.loads((self.path / "server.json").read_bytes())
            if stated["pid"] == self.process.pid:
                self.was_ready = True
                return str(stated["url"])
        return None

    def tree(self) -> dict[str, list[Process]]:
        """Its living processes by what they are: `server`, `guard`, `zygote`, `worker`, `other`."""
        found: dict[str, list[Process]] = {
            k: [] for k in ("server", "guard", "zygote", "worker", "other")
        }
        if self.process is None:
            return found
        living = survivors(self.marks[-1])
        kind = {self.process.pid: "server"}
        # A parent is older than its children, but its pid need not be lower.
        for one in sorted(living, key=lambda p: p.started_ticks):
            above = kind.get(one.parent)
            if one.pid != self.process.pid:
                below = {"server": "guard", "zygote": "worker"}.get(above or "", "other")
                if above == "guard" and not any(kind.get(p.pid) == "zygote" for p in living):
                    below = "zygote"
                kind[one.pid] = below
            found[kind[one.pid]].append(one)
        return found


@dataclass
class Disk:
    """A file system of its own, if this user may mount one."""

    folder: Path
    refused: str | None = None

    def mount(self) -> None:
        """Mount it, or keep why that cannot be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0:
            self.refused = "only root can mount a tmpfs"
            return
        done = subprocess.run(
            [
                "mount",
                "-t",
                "tmpfs",
                "-o",
                f"size={DISK_BYTES},mode=755",
                "chaos",
                str(self.folder),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        self.refused = done.stderr.strip() if done.returncode else None

    def fill(self) -> None:
        """Leave not a byte free."""
        with (self.folder / ".filler").open("wb") as filler, contextlib.suppress(OSError):
            left = os.statvfs(self.folder)
            os.posix_fallocate(filler.fileno(), 0, left.f_bavail * left.f_frsize)

    def free(self) -> None:
        (self.folder / ".filler").unlink(missing_ok=True)

    def unmount(self) -> None:
        if self.refused is None:
            subprocess.run(["umount", str(self.folder)], check=True)


class Api:
    """Calls of any of the servers, each with its key. Whatever does not answer in time is an answer, too."""

    def __init__(self, key: str) -> None:
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"}, timeout=httpx.Timeout(CALL_SECONDS)
        )

    def call(self, server: Server, method: str, path: str, **more: object) -> httpx.Response | None:
        """Return the answer, or `None` where none came."""
        if (url := server.url) is None:
            return None
        try:
            return self._client.request(method, url + path, **more)  # type: ignore[arg-type]
        except httpx.HTTPError:
            return None

    def close(self) -> None:
        self._client.close()


def children(pid: int) -> list[int]:
    """The pids of a process's children, whatever marks they carry."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def until(fact: Callable[[], T], what: str, seconds: float) -> T:
    """Wait until `fact` is truthy, and return it. Raises: `TimeoutError`, that says what it waited for."""
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)
    return found
