"""`Task`: what pipeline code is given to look at its job, to say how far it is, and to stop well."""

from __future__ import annotations

import contextlib
import logging
import math
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

from sluicegate.durations import Duration, parse_duration
from sluicegate.errors import Cancelled, SluicegateError

PROGRESS_EVERY_SECONDS: Final = 0.05


class StateNotAvailableError(SluicegateError):
    """`task.state` was asked for, which this release does not keep yet."""

    code = "state_not_available"


class Runtime(Protocol):
    """What a task asks of the worker that runs it."""

    def progress(self, done: float, total: float | None, unit: str) -> None:
        """Say how far the task is."""
        ...

    def shield(self, seconds: float | None) -> None:
        """Say that a shield began, with its longest duration, or ended (`None`)."""
        ...

    def failed_callback(self, what: str) -> None:
        """Say that an `on_cancel` callback raised."""
        ...


class Task:
    """One attempt at a pipeline, seen from its code. Use it from the thread that it was given to.

    `checkpoint`, `cancelled` and `on_cancel` may be used from any thread.
    """

    def __init__(
        self,
        *,
        job_id: str,
        task_id: str,
        attempt: int,
        params: Mapping[str, Any],
        log: logging.Logger,
        runtime: Runtime,
    ) -> None:
        self.job_id, self.task_id, self.attempt = job_id, task_id, attempt
        self.params: Mapping[str, Any] = MappingProxyType(dict(params))
        self.log = log
        self._runtime = runtime
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self._shields: list[float] = []
        self._progress: tuple[float, float | None, str] | None = None
        self._progress_told = 0.0

    @property
    def cancelled(self) -> bool:
        """Whether a stop of this task was asked for."""
        return self._stop.is_set()

    @property
    def shielded(self) -> bool:
        """Whether the task is in a shield whose time has not run out."""
        return bool(self._shields) and time.monotonic() < max(self._shields)

    @property
    def state(self) -> dict[str, Any]:
        """The table's own state. Raises: `StateNotAvailableError`; it comes with a later release."""
        raise StateNotAvailableError(
            "task.state is not available in this release",
            mend="use files= for incremental ingestion, or keep the position in your table",
        )

    def checkpoint(self) -> None:
        """Stop here if a stop was asked for. Raises: `Cancelled`."""
        if self._stop.is_set() and not self.shielded:
            raise Cancelled

    def progress(self, done: float, total: float | None = None, unit: str = "rows") -> None:
        """Say how far the task is; shown live, a few times a second at most.

        Raises: `ValueError` or `TypeError` for what is no finite number.
        """
        now = time.monotonic()
        self._progress = (_finite(done), None if total is None else _finite(total), str(unit))
        if now - self._progress_told >= PROGRESS_EVERY_SECONDS:
            self.flush_progress()
            self._progress_told = now

    def flush_progress(self) -> None:
        """Tell the last progress that was held back."""
        if self._progress is not None:
            self._runtime.progress(*self._progress)
            self._progress = None

    @contextlib.contextmanager
    def shield(self, timeout: Duration = "60s") -> Iterator[None]:
        """Let a stretch finish before a stop takes effect: an upload, say.

        A stop waits until the block ends, at most `timeout`; only `force` does not wait.

        Raises:
            Cancelled: at the end of the block, when a stop came meanwhile.
        """
        seconds = parse_duration(timeout)
        self._shields.append(time.monotonic() + seconds)
        self._runtime.shield(seconds)
        try:
            yield
        finally:
            self._shields.pop()
            left = max(self._shields, default=0.0) - time.monotonic()
            self._runtime.shield(left if left > 0 else None)
            if self.cancelled and left <= 0:
                self._call_all()
        self.checkpoint()

    def on_cancel(self, stop: Callable[[], object]) -> None:
        """Have `stop` called, from another thread, once a stop comes: to end work elsewhere.

        When the stop has come already it is called at once, here. A shield defers it as it defers the stop.
        """
        with self._lock:
            if not self._stop.is_set() or self.shielded:
                self._callbacks.append(stop)
                return
        self._call(stop)

    def run(self, argv: Sequence[str], **popen: Any) -> subprocess.CompletedProcess[Any]:
        """Run a program; it ends with the task. Options are those of `subprocess.Popen`.

        Returns: its exit code, and its output where `stdout` or `stderr` is a pipe.
        Raises: `subprocess.CalledProcessError` when it exits with anything but 0.
        """
        with subprocess.Popen(list(argv), **popen) as process:  # noqa: S603 - that is what it is for
            self.on_cancel(process.terminate)
            try:
                output, errors = process.communicate()
            except BaseException:
                process.kill()
                raise
        self.checkpoint()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, list(argv), output, errors)
        return subprocess.CompletedProcess(list(argv), 0, output, errors)

    def request_stop(self) -> None:
        """Set the flag that `checkpoint` reads, and call what was registered with `on_cancel`.

        Under a shield the callbacks wait until it ends, or until its time has run out.
        """
        with self._lock:
            if self._stop.is_set():
                return
            self._stop.set()
        self._call_all()

    def _call_all(self) -> None:
        left = max(self._shields, default=0.0) - time.monotonic()
        if left > 0:
            waiting = threading.Timer(left, self._call_all)
            waiting.daemon = True
            waiting.start()
            return
        with self._lock:
            callbacks, self._callbacks = self._callbacks, []
        for stop in callbacks:
            threading.Thread(target=self._call, args=(stop,), daemon=True).start()

    def _call(self, stop: Callable[[], object]) -> None:
        try:
            stop()
        except Exception as error:  # noqa: BLE001 - a failing callback must not end the stop
            self._runtime.failed_callback(f"{getattr(stop, '__qualname__', stop)!s}: {error!r}")


def _finite(number: float) -> float:
    """The number as one that JSON knows, also when it is of numpy or a decimal."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"progress must be a finite number, got {number!r}")
    return int(value) if value.is_integer() else value
