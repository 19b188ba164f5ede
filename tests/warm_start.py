"""`sluicegate` in processes that start warm: forked from one that has imported it, as the product forks its workers.

A server's start is 1.5 s of imports, and hundreds of tests need one. What is forked is a process like any other: its
own arguments, folder, environment, descriptors and exit code, and nothing has run in it before. Cold starts are seen by
the tests of the first start (`tests/cli`), of a refused server and of a killed prune, and by chaos.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NoReturn, Self

MODULES: Final = (
    "sluicegate.cli.commands",
    "sluicegate.cli.report",
    "sluicegate.app",
    "sluicegate.api",
    "sluicegate.client",
    "sluicegate.workers.local",
    "sqlalchemy.dialects.sqlite",
    "uvicorn.protocols.http.httptools_impl",
)
# In the environment of all that a test starts, for `/proc` to show. The kernel shows the memory that the process was
# started with, so there must be room for it there.
MARK: Final = "ATTACK_MARK"
NO_MARK: Final = "0" * 32
TOLD_BYTES_MAX: Final = 128 * 1024


class Warm:
    """As `subprocess.Popen` of `python -m sluicegate ...`, as far as tests use it. Text comes as UTF-8, stdin is empty.

    Args:
        arguments: What follows `sluicegate`.
        stderr: A file to write to; a pipe unless given.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stderr: IO[Any] | None = None,
    ) -> None:
        self.returncode: int | None = None
        self._channel, theirs = socket.socketpair()
        out, out_end = os.pipe()
        self.stdout: IO[str] = os.fdopen(out, encoding="utf-8")
        self.stderr: IO[str] | None = None
        if stderr is None:
            errors, errors_end = os.pipe()
            self.stderr = os.fdopen(errors, encoding="utf-8")
        else:
            errors_end = os.dup(stderr.fileno())
        told = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": dict(env)}).encode()
        socket.send_fds(_launcher(), [told], [theirs.fileno(), out_end, errors_end])
        theirs.close()
        os.close(out_end)
        os.close(errors_end)
        self.pid = int(self._receive())

    def _receive(self) -> str:
        answer = self._channel.recv(64).decode()
        assert answer, "the process that forks servers is gone"
        return answer

    def poll(self) -> int | None:
        """Return the exit code, or `None` while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it is gone. Raises: `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            readable, _, _ = select.select([self._channel], [], [], timeout)
            if not readable:
                raise subprocess.TimeoutExpired("sluicegate", timeout or 0)
            self.returncode = int(self._receive())
            self._channel.close()
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Signal it, unless it is known to be gone."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Read both pipes to their ends and wait. Raises: `subprocess.TimeoutExpired`."""
        deadline = time.monotonic() + timeout
        files = [file for file in (self.stdout, self.stderr) if file is not None]
        texts: dict[IO[str], str] = dict.fromkeys(files, "")

        def read(file: IO[str]) -> None:
            texts[file] = file.read()

        readers = [threading.Thread(target=read, args=(file,), daemon=True) for file in files]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(max(0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired("sluicegate", timeout)
        self.wait(max(0, deadline - time.monotonic()))
        out, *err = texts.values()
        return out, "".join(err)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()
        self.wait()


def run(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `subprocess.run` does. Raises: `subprocess.TimeoutExpired`; then it was killed."""
    with Warm(arguments, cwd=cwd, env=env) as command:
        try:
            out, err = command.communicate(timeout)
        finally:
            command.kill()
    return subprocess.CompletedProcess(list(arguments), command.wait(), out, err)


def bare_environment() -> dict[str, str]:
    """The environment of these tests without what would configure Sluicegate."""
    return {k: v for k, v in os.environ.items() if not k.startswith("SLUICEGATE_")}


def unmarked() -> dict[str, str]:
    """The environment for what serves many tests, whichever of them runs while it is started."""
    return {k: v for k, v in os.environ.items() if k != MARK}


def dying_with_us() -> list[str]:
    """The prefix of a command that ends also when the tests are killed; it keeps its pid."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


@cache
def _launcher() -> socket.socket:
    """Start the process that forks, once for this one; it and all that it has forked end with this one."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        env=os.environ | {MARK: NO_MARK},
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait(10)

    atexit.register(end)
    return ours


# ---------------------------------------------------------------- the process that forks


def launch(control: socket.socket) -> None:
    """Fork until nobody is left to ask for it, then end what runs; return in each child, ready to be the command."""
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    wake, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    while True:
        readable, _, _ = select.select([control, wake], [], [])
        if wake in readable:
            os.read(wake, 4096)
            _tell_exits(running)
        if control in readable:
            told, fds, _, _ = socket.recv_fds(control, TOLD_BYTES_MAX, 3)
            if not told:
                for pid in running:  # none of them is reaped yet, so each pid is still its own
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            if not (pid := os.fork()):
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for inherited in (control, *running.values()):
                    inherited.detach()
                _become(json.loads(told), fds)
                return
            channel = socket.socket(fileno=fds[0])
            os.close(fds[1])
            os.close(fds[2])
            channel.sendall(str(pid).encode())
            running[pid] = channel


def _tell_exits(running: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with running.pop(pid) as channel, contextlib.suppress(OSError):
                channel.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def _become(told: dict[str, Any], fds: list[int]) -> None:
    """Be as if started by itself: of the process that forked, nothing is left but what it has imported."""
    os.dup2(fds[1], 1)
    os.dup2(fds[2], 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    if mark := told["env"].get(MARK):
        _show_mark(mark)
    os.environ.clear()
    os.environ.update(told["env"])
    time.tzset()
    os.chdir(told["cwd"])
    sys.path[0:0] = [told["cwd"]]
    sys.argv = ["sluicegate", *told["arguments"]]


def _show_mark(mark: str) -> None:
    """Write the mark where `/proc` shows the environment of a process."""
    assert len(mark) <= len(NO_MARK), "there is no room for such a mark"
    # `env_start` is the 50th field, and the second is a name in brackets. Source: proc(5).
    stat = Path("/proc/self/stat").read_text()
    start = int(stat.rpartition(")")[2].split()[50 - 3])
    shown = Path("/proc/self/environ").read_bytes()
    at = shown.index(f"{MARK}={NO_MARK}\0".encode()) + len(MARK) + 1
    ctypes.memmove(start + at, mark.encode().ljust(len(NO_MARK), b"\0"), len(NO_MARK))


def main() -> NoReturn:
    """Run as `python warm_start.py CONTROL_FD`."""
    launch(socket.socket(fileno=int(sys.argv[1])))
    from sluicegate.cli import main as run

    run()
    sys.exit()


if __name__ == "__main__":
    main()
