"""Tasks that do not want to stop, each in its own way. They harm nobody: memory, forks and time are bounded.

Each writes down every process that it starts (pid and start time) in the file `params["record"]`, and says there that
it is ready. Programs that it starts carry `params["mark"]` in their environment. So whoever stops it can look whether
anything is left, without asking whoever stopped it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import importlib.util
import itertools
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sluicegate import CancelPolicy, Task, bronze
from sluicegate.declare import Pipeline
from sluicegate.workers.process_tree import find

MARK: Final = "SLUICEGATE_VERIFY"
POLICY: Final = CancelPolicy(interrupt_after="0.3s", terminate_after="0.8s", kill_after="1.5s")
LONG_SECONDS: Final = 600
FOREVER: Final = ["sleep", str(LONG_SECONDS)]
MEMORY_BYTES: Final = 256 * 1024 * 1024
GENERATIONS_MAX: Final = 2000
# Every signal that a handler can be set for, ours included.
CATCHABLE: Final = sorted(
    signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGSEGV}
)

Body = Callable[[Task, "Record"], None]


class Record:
    """The file in which a task writes what it starts. It is opened for each line: tasks close descriptors."""

    def __init__(self, task: Task) -> None:
        self._path = Path(task.params["record"])
        os.environ[MARK] = task.params["mark"]
        self.started(os.getpid())

    def started(self, pid: int) -> int:
        """Write down a process, by pid and start time."""
        if (process := find(pid)) is not None:
            self._write(f"{process.pid} {process.started}")
        return pid

    def ready(self) -> None:
        """Say that everything is in place: now it can be stopped."""
        self._write("ready")

    def _write(self, line: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)

    def program(self, *argv: str, new_session: bool = False) -> subprocess.Popen[bytes]:
        """Start a program."""
        process = subprocess.Popen(argv, start_new_session=new_session)  # noqa: S603 - our own words
        self.started(process.pid)
        return process

    def fork(self, child: Callable[[], object]) -> int:
        """Run `child` in a forked process, which ends after it."""
        if pid := os.fork():
            return self.started(pid)
        with contextlib.suppress(BaseException):
            self.started(os.getpid())
            child()
        os._exit(0)


def hostile(body: Body) -> Pipeline:
    """Declare a task under the name of `body`, with a ladder that is climbed within two seconds."""

    def run(task: Task) -> None:
        body(task, Record(task))

    run.__doc__ = body.__doc__
    return bronze(name=body.__name__, cancel=POLICY)(run)


def insist(step: Callable[[], object]) -> None:
    """Do a step again and again, whatever is raised; for ten minutes, for what nobody stops must end one day."""
    end = time.monotonic() + LONG_SECONDS
    while time.monotonic() < end:
        try:
            while time.monotonic() < end:
                step()
        except BaseException:  # noqa: BLE001, S112 - that is the point
            continue


def stay() -> None:
    """Do nothing, and stay."""
    insist(lambda: time.sleep(LONG_SECONDS))


def turn_deaf() -> None:
    """Ignore what asks a process politely to end."""
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_IGN)


# ------------------------------------------------------------------ code that waits or computes


@hostile
def busy_loop(task: Task, record: Record) -> None:
    """Computes for minutes in Python."""
    record.ready()
    for _ in range(10**11):
        pass


@hostile
def long_sleep(task: Task, record: Record) -> None:
    """Sleeps for ten minutes."""
    record.ready()
    time.sleep(LONG_SECONDS)


@hostile
def lock_never_released(task: Task, record: Record) -> None:
    """Waits for a lock that nobody gives back."""
    lock = threading.Lock()
    lock.acquire()
    record.ready()
    lock.acquire()


@hostile
def silent_socket(task: Task, record: Record) -> None:
    """Reads from a server that accepts and never answers."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()[:2]) as connection,
    ):
        record.ready()
        connection.recv(1)


@hostile
def waits_for_program(task: Task, record: Record) -> None:
    """Waits for a program of ten minutes."""
    program = record.program(*FOREVER)
    record.ready()
    program.wait()


@hostile
def holds_the_interpreter(task: Task, record: Record) -> None:
    """Computes for minutes in C without letting any other Python code run."""
    record.ready()
    sum(itertools.repeat(1, 10**12))


@hostile
def deadlock_in_c(task: Task, record: Record) -> None:
    """Waits for ever in C, holding the interpreter's lock: no signal gets it out."""
    library = ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(256)
    library.pthread_mutex_init(mutex, None)
    library.pthread_mutex_lock(mutex)
    record.ready()
    library.pthread_mutex_lock(mutex)


if importlib.util.find_spec("duckdb") is not None:

    @hostile
    def duckdb_query(task: Task, record: Record) -> None:
        """Runs a query of minutes."""
        import duckdb

        with duckdb.connect(config={"threads": 1}) as connection:
            record.ready()
            connection.sql(
                "select sum(a.range * b.range) from range(10000000) a, range(10000000) b"
            ).fetchall()


# ------------------------------------------------------------------ code that refuses


@hostile
def swallows_everything(task: Task, record: Record) -> None:
    """Catches `BaseException` in a loop."""
    record.ready()
    stay()


@hostile
def ignores_signals(task: Task, record: Record) -> None:
    """Ignores SIGTERM and SIGINT, and so does its program."""
    turn_deaf()
    record.program(*FOREVER)
    record.ready()
    stay()


@hostile
def own_handlers(task: Task, record: Record) -> None:
    """Has a handler of its own for every signal."""
    for signum in CATCHABLE:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(signum, lambda *_: None)
    record.ready()
    stay()


@hostile
def blocks_signals(task: Task, record: Record) -> None:
    """Blocks every signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    record.ready()
    stay()


@hostile
def hangs_in_finally(task: Task, record: Record) -> None:
    """Is interrupted, and hangs where it should clean up."""
    try:
        record.ready()
        time.sleep(LONG_SECONDS)
    finally:
        time.sleep(LONG_SECONDS)


@hostile
def closes_descriptors(task: Task, record: Record) -> None:
    """Closes every file, ours too, once it is interrupted; and stays."""
    turn_deaf()
    try:
        record.ready()
        time.sleep(LONG_SECONDS)
    finally:
        os.closerange(0, 4096)
        stay()


@hostile
def fills_stdout(task: Task, record: Record) -> None:
    """Prints without end, and does not stop for anything."""
    turn_deaf()
    record.ready()
    line = "x" * 100 + "\n"
    insist(lambda: sys.stdout.write(line))


@hostile
def hoards_memory(task: Task, record: Record) -> None:
    """Takes all memory that it can get (256 MB more, by its own limit), and asks for more."""
    used = Path("/proc/self/statm")
    pages = int(used.read_text().split()[0]) if used.exists() else 0
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    hoard: list[bytearray] = []

    def take() -> None:
        if len(hoard) * 2**20 < MEMORY_BYTES:
            hoard.append(bytearray(2**20))
        else:
            bytearray(2**40)

    record.ready()
    insist(take)


@hostile
def segfaults(task: Task, record: Record) -> None:
    """Crashes when it is interrupted, and leaves a child behind."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    record.program(*FOREVER, new_session=True)
    try:
        record.ready()
        time.sleep(LONG_SECONDS)
    finally:
        ctypes.string_at(0)


# ------------------------------------------------------------------ trees of processes


@hostile
def grandchildren(task: Task, record: Record) -> None:
    """Starts programs that start programs, all of which ignore SIGTERM."""
    inner = f"trap '' TERM; {' '.join(FOREVER)} & {' '.join(FOREVER)} & wait"
    record.program("sh", "-c", f'trap \'\' TERM; sh -c "{inner}" & sh -c "{inner}" & wait')
    record.ready()
    time.sleep(LONG_SECONDS)


@hostile
def own_sessions(task: Task, record: Record) -> None:
    """Starts children in sessions of their own."""
    for _ in range(3):
        record.program(*FOREVER, new_session=True)
    record.ready()
    time.sleep(LONG_SECONDS)


@hostile
def daemons(task: Task, record: Record) -> None:
    """Starts daemons by the book: fork, new session, fork; one runs a program, one stays as it is."""

    def detach(last: Callable[[], object]) -> Callable[[], object]:
        def middle() -> None:
            os.setsid()
            record.fork(last)

        return middle

    turn_deaf()
    for last in (stay, lambda: os.execvp(FOREVER[0], FOREVER)):  # noqa: S606 - fixed words
        middle = record.fork(detach(last))
        os.waitpid(middle, 0)
    record.ready()
    time.sleep(LONG_SECONDS)


@hostile
def stopped_children(task: Task, record: Record) -> None:
    """Starts children that are stopped by SIGSTOP, one in a session of its own."""
    for new_session in (False, True):
        os.kill(record.program(*FOREVER, new_session=new_session).pid, signal.SIGSTOP)
    record.ready()
    time.sleep(LONG_SECONDS)


@hostile
def forks_while_killed(task: Task, record: Record) -> None:
    """Keeps four children alive that fork a successor and vanish, without end."""

    def storm() -> None:
        turn_deaf()
        os.setsid()
        for _ in range(GENERATIONS_MAX):
            if os.fork():
                os._exit(0)
            time.sleep(0.002)
        stay()

    for _ in range(4):
        os.waitpid(record.fork(storm), 0)
    record.ready()
    stay()


@hostile
def forks_on_sigterm(task: Task, record: Record) -> None:
    """Answers each SIGTERM with a new child, in a session of its own."""
    left = iter(range(20))

    def child() -> None:
        os.setsid()
        turn_deaf()
        stay()

    def answer(*_: object) -> None:
        if next(left, None) is not None:
            record.fork(child)

    signal.signal(signal.SIGTERM, answer)
    record.ready()
    stay()


@hostile
def process_pool(task: Task, record: Record) -> None:
    """Waits for a pool of processes."""
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        waiting = [pool.submit(time.sleep, LONG_SECONDS) for _ in range(2)]
        for child in multiprocessing.active_children():
            record.started(child.pid or 0)
        record.ready()
        concurrent.futures.wait(waiting)


@hostile
def thread_pool(task: Task, record: Record) -> None:
    """Waits for a pool of threads."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(time.sleep, LONG_SECONDS) for _ in range(4)]
        record.ready()
        concurrent.futures.wait(waiting)
