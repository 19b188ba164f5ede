"""What goes wrong meanwhile: processes are killed or paused, disks are full. Each fault ends after its time."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from chaos.schedule import Step
from chaos.survivors import Process
from chaos.world import HOMES, Disk, Server, children, send
from postgresql_server import Server as Database

START_AGAIN_SECONDS = 1.0
DATABASE_SECONDS = 60.0
TREE = ("server", "guard", "zygote", "worker", "other")


class Faults:
    """The steps of `schedule.FAULTS`. Each returns what it did, `None` where there was nobody to do it to.

    Args:
        note: Told of what was done later on.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        database: Database,
        disks: Mapping[str, Disk],
        note: Callable[[str, object], None],
    ) -> None:
        self._servers, self._database, self._disks, self._note = servers, database, disks, note
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._paused: set[Process] = set()
        self._paused_database: list[int] = []
        self._ended: set[tuple[str, int]] = set()  # incarnations whose end was seen or caused
        self.problems: list[str] = []
        """Servers that ended by themselves after they had been ready."""

    @property
    def acts(self) -> dict[str, Callable[[Step], str | None]]:
        """The steps by name."""
        return {
            "kill_server": partial(self._end_server, signal.SIGKILL),
            "end_server": partial(self._end_server, signal.SIGTERM),
            "kill_guard": partial(self._kill, "guard"),
            "kill_zygote": partial(self._kill, "zygote"),
            "kill_worker": partial(self._kill, "worker"),
            "pause_server": partial(self._pause, ("server",)),
            "pause_tree": partial(self._pause, TREE),
            "pause_worker": partial(self._pause, ("worker",), only_one=True),
            "pause_guard": partial(self._pause, ("guard",)),
            "kill_database": self._kill_database,
            "pause_database": self._pause_database,
            "fill_lake": partial(self._fill, "lake"),
            "fill_home": partial(self._fill, HOMES[1]),
        }

    def look_after(self) -> None:
        """Take back what is due, and start again what has ended."""
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()
        for server in self._servers:
            now = (server.home, server.incarnation)
            if server.url is not None or server.is_running or now in self._ended:
                continue
            self._ended.add(now)
            assert server.process is not None
            told = (
                f"server {now[0]}-{now[1]} ended with {server.process.returncode}: {server.said()}"
            )
            self._note("  ended", told)
            if server.was_ready:
                self.problems.append(f"nobody had ended it: {told}")
            self._do_later(START_AGAIN_SECONDS, self._starter(server))

    def take_all_back(self) -> None:
        """Everything goes on, and is started again, now."""
        while self._later:
            heapq.heappop(self._later)[2]()
            time.sleep(0.05)
        self._resume([*self._paused])
        self.resume_database()
        for disk in self._disks.values():
            disk.free()

    def resume_database(self) -> None:
        """Let PostgreSQL go on, what is left of it too."""
        for pid in self._paused_database:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._paused_database = []

    # ---------------------------------------------------------------- servers

    def _end_server(self, signum: int, step: Step) -> str | None:
        """Kill it, or tell it to end. It is started again, sooner or later than its lease ends."""
        server = self._server(step)
        found = server.tree()["server"]
        if not found:
            return None
        self._ended.add((server.home, server.incarnation))
        send(found[0], signum)
        self._do_later(step.lasts_seconds, self._starter(server))
        return f"{server.home} for {step.lasts_seconds} s"

    def _starter(self, server: Server) -> Callable[[], None]:
        """Starts a server again, once: when the incarnation that it has now is gone."""
        before = server.incarnation

        def start() -> None:
            if server.incarnation != before:
                return
            if server.is_running:  # told to end, and not done yet
                self._do_later(START_AGAIN_SECONDS, start)
                return
            server.start()
            self._note("  started", f"{server.home}-{server.incarnation}")

        return start

    def _kill(self, kind: str, step: Step) -> str | None:
        server = self._server(step)
        found = server.tree()[kind]
        if not found:
            return None
        target = found[int(step.other * len(found))]
        send(target, signal.SIGKILL)
        return f"{server.home} {target.pid}"

    def _pause(self, kinds: Sequence[str], step: Step, *, only_one: bool = False) -> str | None:
        server = self._server(step)
        tree = server.tree()
        found = [process for kind in kinds for process in tree[kind]]
        if only_one and found:
            found = [found[int(step.other * len(found))]]
        stopped = [p for p in found if p not in self._paused and send(p, signal.SIGSTOP)]
        if not stopped:
            return None
        self._paused.update(stopped)
        self._do_later(step.lasts_seconds, lambda: self._resume(stopped))
        pids = [process.pid for process in stopped]
        return f"{server.home} {pids} for {step.lasts_seconds} s"

    def _resume(self, processes: Sequence[Process]) -> None:
        for process in reversed(
            processes
        ):  # the server last: what its workers tried is there before it looks
            self._paused.discard(process)
            send(process, signal.SIGCONT)
        if processes:
            self._note("  resumed", [process.pid for process in processes])

    # ---------------------------------------------------------------- PostgreSQL, disks

    def _kill_database(self, step: Step) -> str | None:
        """SIGKILL of its first process; it is started again on the same data and socket."""
        process = self._database.process
        if process is None:
            return None
        process.kill()
        process.wait()
        self._database.process = None
        self.resume_database()  # its children end when they see that it is gone
        seconds = step.lasts_seconds / 2
        self._do_later(seconds, self._start_database)
        return f"for {seconds:.2f} s"

    def _start_database(self) -> None:
        """Start it again; what is left of the one before keeps it from that for a moment."""
        deadline = time.monotonic() + DATABASE_SECONDS
        while True:
            try:
                self._database.start()
            except AssertionError:
                self._database.process = None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                self._note("  started", "database")
                return

    def _pause_database(self, step: Step) -> str | None:
        process = self._database.process
        if process is None or self._paused_database:
            return None
        self._paused_database = [process.pid, *children(process.pid)]
        for pid in self._paused_database:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        self._do_later(step.lasts_seconds, self.resume_database)
        return f"for {step.lasts_seconds} s"

    def _fill(self, name: str, step: Step) -> str | None:
        disk = self._disks[name]
        if disk.refused is not None:
            return None
        disk.fill()
        self._do_later(step.lasts_seconds, disk.free)
        return f"{name} for {step.lasts_seconds} s"

    # ---------------------------------------------------------------- how

    def _server(self, step: Step) -> Server:
        return self._servers[int(step.pick * len(self._servers))]

    def _do_later(self, seconds: float, act: Callable[[], None]) -> None:
        due = time.monotonic() + seconds
        heapq.heappush(self._later, (due, next(self._numbers), act))


def log_to(path: Path) -> Callable[[str, object], None]:
    """Return what writes a line for everything that was done, with its time in seconds."""
    began = time.monotonic()

    def note(act: str, told: object) -> None:
        with path.open("a") as lines:
            lines.write(f"{time.monotonic() - began:8.3f} {act:15} {told}\n")

    return note
