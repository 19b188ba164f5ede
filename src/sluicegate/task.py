"""`Task`: what pipeline code is given to look at its job, to say how far it is, and to stop well."""

from __future__ import annotations

import contextlib
import logging
import math
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

from sluicegate.durations import Duration, parse_duration
from sluicegate.errors import Cancelled
from sluicegate.stop_callbacks import Reporter, StopCallback, StopCallbacks

PROGRESS_EVERY_SECONDS: Final = 0.05
CHECKPOINTS_EVERY_SECONDS: Final = 0.1
"""Checkpoints that come faster are told together; as in `core.pace`."""


class Runtime(Reporter, Protocol):
    """What a task asks of the worker that runs it."""

    def progress(self, done: float, total: float | None, unit: str) -> None:
        """Say how far the task is."""
        ...

    def checkpoints(self, seconds: float, squares: float) -> None:
        """Say that a checkpoint was passed just now: the intervals since this was said, summed, and their squares."""
        ...

    def state(self) -> dict[str, Any]:
        """The table's own state."""
        ...

    def shield(self, seconds: float | None) -> None:
        """Say that a shield began, with its longest duration, or ended (`None`)."""
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
        self._shields: list[float] = []
        # For the runner and `sluicegate.remote`; pipelines use `on_cancel`.
        self.callbacks = StopCallbacks(runtime, self._shielded_seconds)
        self._progress: tuple[float, float | None, str] | None = None
        self._progress_told = 0.0
        self._passed_at: float | None = None
        self._passed_told = 0.0
        self._passed_squares = 0.0

    @property
    def cancelled(self) -> bool:
        """Whether a stop of this task was asked for."""
        return self.callbacks.stopping

    @property
    def shielded(self) -> bool:
        """Whether the task is in a shield whose time has not run out."""
        return self._shielded_seconds() > 0

    @property
    def state(self) -> dict[str, Any]:
        """The table's own state: a dict to go on from, saved with the rows that it stands for. Main thread only.

        It starts as what the table's current content was committed with. A yield after it changed ends a unit, rows and
        state in one commit. Values are those of JSON.

        Raises: `StateModeError`: every run replaces the whole table.
        """
        return self._runtime.state()

    def checkpoint(self) -> None:
        """Stop here if a stop was asked for. Raises: `Cancelled`."""
        if self.callbacks.stopping and not self.shielded:
            raise Cancelled
        self._passed(time.monotonic())

    def _passed(self, now: float) -> None:
        """Keep how long checkpoints are apart; told together where they come fast."""
        if self._passed_at is None:
            self._passed_at = self._passed_told = now
            return
        self._passed_squares += (now - self._passed_at) ** 2
        self._passed_at = now
        since_told = now - self._passed_told
        if since_told >= CHECKPOINTS_EVERY_SECONDS:
            self._runtime.checkpoints(since_told, self._passed_squares)
            self._passed_told, self._passed_squares = now, 0.0

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
            self.callbacks.look_again()
        self.checkpoint()

    def on_cancel(self, stop: Callable[[], object], *, what: str | None = None) -> StopCallback:
        """Have `stop` called, from another thread, once a stop comes: to end work elsewhere.

        While it raises it is called again, after 0.1 s and then ever later, up to every 2 s; until the task is
        interrupted, or ended. The receipt says whether it returned. When the stop has come already it is called at
        once. A shield defers it as it defers the stop.

        Args:
            what: Its name in the receipt; that of the function when it is not given.

        Returns: call it, or use it as a `with` block, to forget `stop` when the work elsewhere is over.
        """
        return self.callbacks.add(stop, what)

    def run(self, argv: Sequence[str], **popen: Any) -> subprocess.CompletedProcess[Any]:
        """Run a program; it ends with the task. Options are those of `subprocess.Popen`.

        Returns: its exit code, and its output where `stdout` or `stderr` is a pipe.
        Raises: `subprocess.CalledProcessError` when it exits with anything but 0.
        """
        with subprocess.Popen(list(argv), **popen) as process:  # noqa: S603 - that is what it is for
            try:
                with self.callbacks.add(process.terminate, is_remote=False):
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
        self.callbacks.stop()

    def _shielded_seconds(self) -> float:
        """For how long yet a shield holds back a stop; 0 without one."""
        return max(0.0, max(self._shields, default=0.0) - time.monotonic())


def _finite(number: float) -> float:
    """The number as one that JSON knows, also when it is of numpy or a decimal."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"progress must be a finite number, got {number!r}")
    return int(value) if value.is_integer() else value
