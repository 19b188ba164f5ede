"""A pipeline that is a program: run it, hand on what it prints, and end all of it at a stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from sluicegate.errors import SluicegateError
from sluicegate.spec import PipelineSpec
from sluicegate.task import Task
from sluicegate.workers.process_tree import descendants, send_signal

CHUNK_BYTES: Final = 64 * 1024
TAIL_BYTES_MAX: Final = 4096
TAIL_LINES_MAX: Final = 10
OUTPUT_WITHIN_SECONDS: Final = 1.0
"""How long the output of a program that has ended is waited for; what it left behind may hold it open."""

LOOK_EVERY_SECONDS: Final = 0.02

UserCode = Callable[[], contextlib.AbstractContextManager[None]]


class CommandFailedError(SluicegateError):
    """A command could not be started, or ended with another code than 0."""

    code = "command_failed"


def run_command(spec: PipelineSpec, task: Task, user_code: UserCode) -> None:
    """Run a command to its end; its output lands in the job's logs.

    It finds `SLUICEGATE_PARAMS` (the job's parameters as JSON), `SLUICEGATE_JOB_ID` and `SLUICEGATE_TASK_ID` in its
    environment. At a stop it and all that it started get SIGTERM at once; who does not heed that meets the ladder.

    Raises:
        CommandFailedError: It cannot be started, or its exit code is not 0.
        Cancelled: The task was stopped.
    """
    with user_code():
        process = _started(spec, task)
        try:
            lines = _Lines(task)
            output = [_Output(process.stdout, 1, lines), _Output(process.stderr, 2, lines)]
            with task.callbacks.add(_terminate_all, is_remote=False):
                process.wait()
                while task.cancelled and descendants(os.getpid()):
                    time.sleep(
                        LOOK_EVERY_SECONDS
                    )  # they were told to end, and may need a moment for it
            for one in output:
                one.thread.join(OUTPUT_WITHIN_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
            raise
    task.checkpoint()
    if process.returncode:
        raise _failed(spec, process.returncode, b"".join(one.tail for one in output))


def _started(spec: PipelineSpec, task: Task) -> subprocess.Popen[bytes]:
    told = {
        "SLUICEGATE_PARAMS": json.dumps(dict(task.params)),
        "SLUICEGATE_JOB_ID": task.job_id,
        "SLUICEGATE_TASK_ID": task.task_id,
    }
    try:
        return subprocess.Popen(  # noqa: S603 - that is what it is for
            list(spec.command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **told},
        )
    except OSError as error:
        raise CommandFailedError(
            f"cannot start {spec.command[0]!r}: {error.strerror}",
            mend="install it, or give its path; it is looked for in the PATH of the server",
        ) from error


def _terminate_all() -> None:
    """SIGTERM to every process below this worker: only the command and what it started is there."""
    for process in descendants(os.getpid()):
        send_signal(process, signal.SIGTERM)


class _Lines:
    """Counts the lines of all output as the task's progress: a program that prints has not stalled."""

    def __init__(self, task: Task) -> None:
        self._task, self._count, self._lock = task, 0, threading.Lock()

    def add(self, chunk: bytes) -> None:
        with self._lock:
            self._count += chunk.count(b"\n")
            self._task.progress(self._count, unit="lines")


class _Output:
    """Hands on one stream as it comes, and keeps the end of it."""

    def __init__(self, pipe: Any, fd: int, lines: _Lines) -> None:
        self.tail = b""
        self._pipe, self._fd, self._lines = pipe, fd, lines
        self.thread = threading.Thread(target=self._run, name="output", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), CHUNK_BYTES):
                self.tail = (self.tail + chunk)[-TAIL_BYTES_MAX:]
                self._lines.add(chunk)
                while chunk:
                    chunk = chunk[os.write(self._fd, chunk) :]


def _failed(spec: PipelineSpec, code: int, output: bytes) -> CommandFailedError:
    how = f"ended with exit code {code}"
    if code < 0:
        with contextlib.suppress(ValueError):
            how = f"was ended by {signal.Signals(-code).name}"
    lines = output.decode(errors="backslashreplace").splitlines()[-TAIL_LINES_MAX:]
    shown = "".join(f"\n  {line}" for line in lines)
    return CommandFailedError(
        f"{spec.command[0]!r} {how}{shown}", mend="see its output in the job's logs"
    )
