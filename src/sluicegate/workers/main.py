"""What a worker process runs: one task at a time in its main thread, and a control thread that hears the executor.

Messages in: `run`, `stage` (checkpoint, interrupt), `permit`, `load`, `call` (a request to read the lake).
Messages out: `loaded`, `began`, `opened`, `permit`, `committed`, `checkpoints`, `progress`, `log`, `shield`, `remote`,
`hung`, `ended`, `reply`.
"""

from __future__ import annotations

import _thread
import contextlib
import contextvars
import gc
import io
import logging
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time

# Those of `signal` wrap each answer in an enum, which for all signals costs as much as the rest of a task.
from _signal import getsignal  # type: ignore[import-not-found]
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

from sluicegate import declare, stop_callbacks
from sluicegate import task as task_module
from sluicegate.errors import Cancelled, SluicegateError
from sluicegate.registry import LoadError, Registry, load
from sluicegate.task import Task
from sluicegate.workers import attempt
from sluicegate.workers.attempt import Attempt
from sluicegate.workers.cgroup import Cgroup
from sluicegate.workers.channel import Channel, ChannelClosedError, Message
from sluicegate.workers.process_tree import become_subreaper, find, has_children, kill_below

# A signal that programs do not use, so that a task's own handlers stay its own.
INTERRUPT_SIGNAL: Final = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
PRELOADABLE: Final = ("pyarrow", "deltalake", "polars", "duckdb", "pandas", "numpy")
STACK_DEPTH_MAX: Final = 40
# What stands below or above a pipeline's code in its stack says nothing about where it hung.
_OUR_FILES: Final = (
    declare.__file__,
    task_module.__file__,
    stop_callbacks.__file__,
    f"{Path(__file__).parent}{os.sep}",
)
MEMORY_GROWTH_BYTES_MAX: Final = 2 * 1024**3


def run_worker(fds: list[int], settings: dict[str, Any], cgroup: Cgroup) -> None:
    """Become a worker. It ends when the executor closes the channel."""
    channel_fd, stdout_fd, stderr_fd = fds
    os.setsid()  # a task that signals its own group hits nobody else, and no terminal reaches it
    become_subreaper()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (stdout_fd, 1), (stderr_fd, 2)):
        os.dup2(source, target)
        os.close(source)
    sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - descriptors, not files
    sys.stdout = _text(1)
    sys.stderr = _text(2)
    Worker(Channel(socket.socket(fileno=channel_fd)), settings, cgroup).serve()


def _text(fd: int) -> io.TextIOWrapper:
    """A line-buffered text stream: a line is seen at once, and is one write, so that two never mix."""
    raw = open(fd, "wb", closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)


class Worker:
    """The process's two threads and what they share: the running attempt."""

    def __init__(self, channel: Channel, settings: dict[str, Any], cgroup: Cgroup) -> None:
        self._channel, self._settings, self._cgroup = channel, settings, cgroup
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._registry: Registry | None = None
        self._unloaded: str | None = None
        self._has_begun = False
        self._task: Task | None = None
        self._handing_over = threading.Lock()
        # Attempts: the last that has ended, and those whose order waits yet and that were stopped before they began.
        self._over: tuple[str, int] | None = None
        self._revoked: set[tuple[str, int]] = set()
        self._attempt: Attempt | None = None
        self._interruptible = False
        self._interrupt_due = False
        self._settling = False
        self._stage: str | None = None
        self._where: list[str] = []
        self._main_thread, self._pid = threading.get_ident(), os.getpid()
        self._pristine: _Pristine | None = None

    def serve(self) -> None:
        """Do what the executor says until it closes the channel."""
        signal.signal(INTERRUPT_SIGNAL, self._on_interrupt)
        threading.Thread(target=self._listen, name="control", daemon=True).start()
        while (message := self._inbox.get()) is not None:
            try:
                match message["kind"]:
                    case "run":
                        self._run(message)
                    case "load":
                        self._load(message)
                    case "call":
                        self._reply(message)
            except ChannelClosedError:
                self._end_all()

    # ---------------------------------------------------------------- the control thread

    def _listen(self) -> None:
        try:
            while True:
                message = self._channel.receive()
                match message["kind"]:
                    case "stage":
                        self._deliver(message)
                    case "permit":
                        if self._attempt is not None:
                            self._attempt.answer_permit(message["refused"])
                    case _:
                        self._inbox.put(message)
        except ChannelClosedError:
            self._end_all()

    def _end_all(self) -> NoReturn:
        """The executor is gone or has let go of us. The guard ends our tree, unless it is gone as well.

        Whichever thread notices does it: if this process ended first, nobody would know what it has left.
        """
        kill_below(os.getpid())
        self._cgroup.end({own} if (own := find(os.getpid())) else set())
        os.kill(os.getpid(), signal.SIGKILL)
        os._exit(70)  # not reached

    def _deliver(self, message: Message) -> None:
        which = message["task_id"], message["attempt"]
        with self._handing_over:
            task = self._task
            if which == self._over or which in self._revoked:
                return
            if task is None or (task.task_id, task.attempt) != which:
                # Its order waits behind a load: nothing of it has begun, and nothing will.
                self._revoked.add(which)
                self._send(_ended(which[0], "cancelled", stats={}, stage="checkpoint", where=[]))
                return
        self._stage = message["stage"]
        task.request_stop()
        if message["stage"] == "interrupt":
            hangs = task.callbacks.hanging() if self._settling else [self._main_thread]
            self._where = [line for thread in hangs for line in self._stack(thread)]
            self._send({"kind": "hung", "where": self._where})
            self._interrupt_due = True
            signal.pthread_kill(self._main_thread, INTERRUPT_SIGNAL)
            task.callbacks.give_up()

    def _stack(self, thread: int) -> list[str]:
        """Where a thread stands: code positions only, never values; outermost last."""
        frame = sys._current_frames().get(thread)
        where: list[str] = []
        while frame is not None and len(where) < STACK_DEPTH_MAX:
            code = frame.f_code
            if code.co_filename in (attempt.__file__, stop_callbacks.__file__):
                break  # from here outwards it is our own code
            where.append(f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}")
            frame = frame.f_back
        return [line for line in where if not line.startswith(_OUR_FILES)]

    # ---------------------------------------------------------------- the main thread

    def _on_interrupt(self, *_: object) -> None:
        task = self._task
        if task is None or not task.cancelled or task.shielded:
            return  # meant for an earlier task, or to be tried again when the shield ends
        if self._interruptible and self._interrupt_due:
            self._interrupt_due = False
            raise Cancelled

    @contextlib.contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """A stretch of our own code below the pipeline's: an interrupt waits until it ends."""
        before = self._interruptible
        if not before or threading.get_ident() != self._main_thread:
            yield
            return
        self._interruptible = False
        try:
            yield
        finally:
            self._interruptible = True
        self._on_interrupt()

    @contextlib.contextmanager
    def _user_code(self) -> Iterator[None]:
        """A stretch of the pipeline's own code: here an interrupt may raise `Cancelled` anywhere."""
        try:
            self._interruptible = True
            self._on_interrupt()
            yield
        finally:
            self._interruptible = False

    def _load(self, message: Message) -> None:
        try:
            self._registry = load(message["target"])
        except LoadError as error:
            self._unloaded = f"the pipelines cannot be loaded any more: {error}"
            problems = [problem_dict(problem) for problem in error.problems]
            self._send({"kind": "loaded", "problems": problems})
            return
        finally:
            # Whatever the user's files started at import belongs to this worker, not to a task.
            self._pristine = _Pristine()
        if not message["report"]:
            return
        for pipeline in self._registry.pipelines.values():
            self._send({"kind": "spec", "spec": pipeline.spec.to_dict()})
        modules = [name for name in PRELOADABLE if name in sys.modules]
        self._send({"kind": "loaded", "modules": modules})

    def _run(self, order: Message) -> None:
        which = order["task_id"], order["attempt"]
        if self._pristine is None:
            self._pristine = _Pristine()
        pipeline = self._registry.pipelines.get(order["pipeline"]) if self._registry else None
        if pipeline is None:
            with self._handing_over:
                if self._is_revoked(which):
                    return
                self._over = which
            error = self._unloaded or f"pipeline {order['pipeline']!r} is not in the code any more"
            ended: Message = {"outcome": "failed", "error": error, "stats": {}}
        else:
            log = _logger(order["task_id"], self._send)
            task = Task(
                job_id=order["job_id"],
                task_id=order["task_id"],
                attempt=order["attempt"],
                params=order["params"],
                log=log,
                runtime=self,
            )
            self._stage, self._where, self._interrupt_due = None, [], False
            self._attempt = Attempt(
                order, pipeline, task, self._settings, self._send, self._user_code
            )
            with self._handing_over:
                if self._is_revoked(which):
                    return
                self._task = task
            if (
                not self._has_begun
            ):  # later ones begin as soon as they are handed over, which the executor knows
                self._has_begun = True
                self._send({"kind": "began"})
            ended = contextvars.copy_context().run(self._attempt.run)
            if os.getpid() != self._pid:
                _leave_fork()  # a child that the task forked came back from the pipeline, too
            self._settle(task, ended["outcome"])
            with self._handing_over:
                self._task = self._attempt = None
                self._over = which
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        dirt = self._pristine.restore()
        if dirt is None and self._cgroup.has_others():
            dirt = "a process that is not its child is still running"
        signal.signal(INTERRUPT_SIGNAL, self._on_interrupt)
        if ended["outcome"] == "cancelled":
            ended |= {"stage": self._stage or "checkpoint", "where": self._where}
        self._send(_ended(order["task_id"], dirt=dirt, **ended))

    def _is_revoked(self, which: tuple[str, int]) -> bool:
        """Whether its end was told before it began. Several can wait behind one load, each stopped at once."""
        if which not in self._revoked:
            return False
        self._revoked.remove(which)
        self._attempt = None
        return True

    def _settle(self, task: Task, outcome: str) -> None:
        """Before the end is told: wait for those that end the task's work elsewhere, until it is interrupted."""
        if outcome == "cancelled":
            task.request_stop()  # its commit was refused before the stop itself was heard of
        self._settling = True
        try:
            task.callbacks.settle(succeeded=outcome == "success")
        finally:
            self._settling = False

    def _reply(self, message: Message) -> None:
        """Answer a question about the lake."""
        from sluicegate.lake.errors import LakeUnreadableError
        from sluicegate.workers.lake_calls import answer

        try:
            result = answer(self._settings, message["call"], message["arguments"])
            self._send({"kind": "reply", "id": message["id"], "result": result})
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            told = error if isinstance(error, SluicegateError) else LakeUnreadableError(error)
            facts = {"code": told.code, "what": told.what, "mend": told.mend}
            self._send({"kind": "reply", "id": message["id"], "error": facts})

    def _send(self, message: Message) -> None:
        if os.getpid() != self._pid:
            # A child that the task forked: the channel is not its own, but what it logs is not lost.
            if message["kind"] == "log":
                os.write(2, f"{message['message']}\n".encode(errors="backslashreplace"))
            return
        # Half a message would be the last that the executor understands.
        with self.uninterrupted():
            self._channel.send(message)

    # ---------------------------------------------------------------- what a task asks of its runtime

    def progress(self, done: float, total: float | None, unit: str) -> None:
        """Tell the executor how far the task is."""
        self._send({"kind": "progress", "done": done, "total": total, "unit": unit})

    def checkpoints(self, seconds: float, squares: float) -> None:
        """Tell the executor that a checkpoint was passed just now."""
        self._send({"kind": "checkpoints", "seconds": seconds, "squares": squares})

    def state(self) -> dict[str, Any]:
        """Return the state of the task's table."""
        attempt = self._attempt
        assert attempt is not None
        with self.uninterrupted():
            return attempt.state()

    def shield(self, seconds: float | None) -> None:
        """Tell the executor that a shield began or ended."""
        self._send({"kind": "shield", "seconds": seconds})

    def remote(self, number: int, what: str, outcome: str, tries: int) -> None:
        """Tell the executor what is known of work elsewhere."""
        found = {"id": number, "what": what, "outcome": outcome, "tries": tries}
        self._send({"kind": "remote", **found})

    def failed_callback(self, what: str) -> None:
        """Tell the executor that an `on_cancel` callback raised."""
        self._send(_log_message("warning", f"on_cancel callback failed: {what}"))


def _ended(task_id: str, outcome: str, dirt: str | None = None, **facts: Any) -> Message:
    """The last message of an attempt. `dirt`: why no other task may run in this process."""
    return {"kind": "ended", "task_id": task_id, "outcome": outcome, "dirt": dirt, **facts}


def _leave_fork() -> NoReturn:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


class _Pristine:
    """What a task may change in its process, as it was before; and whether it could be put back."""

    def __init__(self) -> None:
        self._threads, self._thread_count = _threads(), _thread._count()
        self._handlers = {number: getsignal(number) for number in _SIGNALS}
        self._environ = dict(_ENVIRON)
        self._cwd = os.getcwd()  # noqa: PTH109 - a path costs ten times as much
        self._umask = _umask()
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._descriptors = [_identity(fd) for fd in (0, 1, 2)]
        self._fixed = _fixed()
        self._path = list(sys.path)
        self._log_level, self._log_handlers = logging.root.level, list(logging.root.handlers)
        self._log_disabled = logging.root.manager.disable
        self._memory = _peak_bytes()

    def restore(self) -> str | None:
        """Put everything back. Returns what could not be: then no other task may run here."""
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        for number, handler in self._handlers.items():
            if getsignal(number) is not handler:
                if handler is None:
                    return "a signal handler was replaced"
                signal.signal(number, handler)
        self._restore_interpreter()
        os.umask(self._umask)
        try:
            if os.getcwd() != self._cwd:  # noqa: PTH109
                os.chdir(self._cwd)
        except OSError:
            return "its working directory is gone"
        return self._dirt()

    def _restore_interpreter(self) -> None:
        if self._environ != _ENVIRON:
            os.environb.clear()
            os.environb.update(self._environ)
            time.tzset()
        sys.stdin, sys.stdout, sys.stderr = self._streams
        sys.path[:] = self._path
        logging.root.handlers[:] = self._log_handlers
        if logging.root.level != self._log_level:  # either forgets what every logger has found out
            logging.root.setLevel(self._log_level)
        if logging.root.manager.disable != self._log_disabled:
            logging.disable(self._log_disabled)

    def _dirt(self) -> str | None:
        """What a task has left here that cannot be put back."""
        if [_identity(fd) for fd in (0, 1, 2)] != self._descriptors or any(
            stream.closed for stream in self._streams
        ):
            return "its standard streams were replaced"
        for what, value in _fixed().items():
            if value != self._fixed[what]:
                return f"its {what} changed"
        if _threads() - self._threads or _thread._count() > self._thread_count:
            return "a thread is still running"
        _reap_finished()
        if has_children():
            return "a child process is still running"
        if _peak_bytes() - self._memory > MEMORY_GROWTH_BYTES_MAX:
            return "it has grown too large"
        return None


_SIGNALS: Final = tuple(
    number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)
)
# What `os.environ` and `os.environb` are made of: reading all through either costs as much as the rest of a task.
_ENVIRON: Final[dict[bytes, bytes]] = os.environb._data  # type: ignore[attr-defined]
_LIMITS: Final = tuple(
    getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")
)
_TIMERS: Final = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


def _fixed() -> dict[str, object]:
    """What is not put back: a task that changes it spends its worker."""
    return {
        "resource limits were": [resource.getrlimit(limit) for limit in _LIMITS],
        "signal mask was": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "user was": (os.getuid(), os.geteuid(), os.getgid(), os.getegid()),
        "priority was": os.getpriority(os.PRIO_PROCESS, 0),
        "recursion limit was": sys.getrecursionlimit(),
        "tracing was": (sys.gettrace(), sys.getprofile()),
        "garbage collector was": gc.isenabled(),
        "default socket timeout was": socket.getdefaulttimeout(),
    }


def _threads() -> set[int]:
    """Every thread that runs Python code; `_thread._count` counts those too that run none."""
    return set(sys._current_frames())


def _umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reap_finished() -> None:
    """Reap children and adopted orphans that have exited."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


class _TaskLogHandler(logging.Handler):
    """Sends records to the job's logs."""

    def __init__(self, send: Any) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(_log_message(record.levelname.lower(), self.format(record)))
        except Exception:  # noqa: BLE001 - as in every handler: a bad log call fails no task
            self.handleError(record)


def _logger(task_id: str, send: Any) -> logging.Logger:
    log = logging.Logger(f"sluicegate.task.{task_id}", logging.DEBUG)
    log.addHandler(_TaskLogHandler(send))
    return log


def _log_message(level: str, line: str) -> Message:
    return {"kind": "log", "at": time.time(), "level": level, "message": line}


def problem_dict(problem: Any) -> dict[str, Any]:
    """A load problem as it crosses processes."""
    from dataclasses import asdict

    return asdict(problem)
