"""Proves that this installation stops what it runs: hostile tasks, real jobs, and a look at the process table.

It starts a runner of its own, with these settings and below this home, so that no other job is touched. Whether
anything is left is not asked of the runner: each task wrote down what it started, programs carry a mark in their
environment, and what else stands below the runner is counted, too.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sluicegate.app import RunningService, open_service
from sluicegate.config import Settings
from sluicegate.core.job import Job, JobNotRunningError, StopMode
from sluicegate.core.job_manager import RunRequest
from sluicegate.core.transitions import StopRequest
from sluicegate.errors import SluicegateError
from sluicegate.home import HomeUnusableError
from sluicegate.workers.process_tree import (
    ProcessId,
    children,
    command,
    descendants,
    is_alive,
    missing_means,
    send_signal,
    wait_gone,
    with_environment,
)

TARGET: Final = str(Path(__file__).with_name("hostile") / "pipelines.py")
MARK: Final = "SLUICEGATE_VERIFY"
READY_SECONDS: Final = 30.0
STOPPED_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.002
AT_ONCE_MAX: Final = 4
KILLED_STAGES: Final = ("terminate", "kill")


class UnknownTaskError(SluicegateError):
    """There is no hostile task of that name."""

    code = "unknown_task"


@dataclass(frozen=True, slots=True)
class Stop:
    """One task that was stopped, or was not.

    `took_ms` is what was waited from the request until the job said that nothing of it is left; `receipt_ms` is what
    its receipt says. `survivors` are processes that were alive then.
    """

    task: str
    mode: str
    stage: str | None
    took_ms: float | None
    receipt_ms: float | None
    processes_killed: int
    survivors: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def is_proven(self) -> bool:
        """Whether it stopped and left nothing behind."""
        return self.problem is None and not self.survivors


@dataclass(frozen=True, slots=True)
class Proof:
    """What all stops came to. `strays` are processes of no known task that were left at the end."""

    stops: tuple[Stop, ...]
    strays: tuple[str, ...]
    seconds: float
    missing_means: tuple[str, ...]

    @property
    def survivors(self) -> int:
        """How many processes outlived their task."""
        return sum(len(stop.survivors) for stop in self.stops) + len(self.strays)

    @property
    def is_whole(self) -> bool:
        """Whether everything stopped and nothing is left."""
        return not self.strays and all(stop.is_proven for stop in self.stops)


def verify(
    settings: Settings,
    *,
    only: Sequence[str] = (),
    modes: Sequence[StopMode] = (StopMode.GRACEFUL, StopMode.FORCE),
    on_stop: Callable[[Stop, int], None] = lambda stop, total: None,
) -> Proof:
    """Run hostile tasks, stop them, and count what is left. What survived is ended afterwards.

    Args:
        only: Names of tasks; all without one.
        on_stop: Told each stop as it is known, and how many there will be; one at a time, from any thread.

    Raises:
        UnknownTaskError, and what `open_service` raises; then nothing was run.
    """
    began = time.monotonic()
    with _folder(settings) as folder, open_trial(settings, folder) as trial:
        names = _chosen(trial.names, only)
        asked = [(name, mode) for mode in modes for name in names]
        told = threading.Lock()

        def check(one: tuple[str, StopMode]) -> Stop:
            stop = trial.check(*one)
            with told:
                on_stop(stop, len(asked))
            return stop

        # Each has a worker of its own; more would wait for a core, and that is no time of a stop.
        with ThreadPoolExecutor(min(settings.workers, AT_ONCE_MAX)) as several:
            stops = tuple(several.map(check, asked))
        strays = trial.end(trial.strays())
    return Proof(stops, strays, time.monotonic() - began, missing_means())


@contextlib.contextmanager
def open_trial(settings: Settings, folder: Path) -> Iterator[Trial]:
    """Start a runner of the hostile tasks with these settings, in a folder of its own; end it after the block."""
    token = secrets.token_hex(8)
    own = replace(
        settings,
        home=folder,
        store=f"sqlite:///{folder / 'jobs.db'}",
        lake=folder / "lake",
        landing=folder / "landing",
    )
    before = os.environ.get(MARK)
    os.environ[MARK] = token  # for as long as it lives: a guard can be replaced at any time
    try:
        with open_service(own, TARGET) as service:
            yield Trial(service, folder, token)
    finally:
        del os.environ[MARK]
        if before is not None:
            os.environ[MARK] = before


class Trial:
    """A runner that stops hostile tasks. Safe from any thread."""

    def __init__(self, service: RunningService, folder: Path, token: str) -> None:
        self._service, self._folder, self._token = service, folder, token

    @property
    def names(self) -> list[str]:
        """The tasks, in the order in which they are declared."""
        return [spec.name for spec in self._service.catalog.specs.values()]

    def check(self, name: str, mode: StopMode) -> Stop:
        """Run a task, stop it once it is ready, and look what is left of it."""
        key = f"{self._token}/{name}/{mode}/{secrets.token_hex(4)}"
        record = self._folder / f"{name}-{key.rpartition('/')[2]}.record"
        params = {"record": str(record), "mark": key}
        request = RunRequest(pipelines=(f"bronze.{name}",), params=params)
        job_id = self._service.manager.create(request, user_id="verify-stop", trigger="cli")[
            0
        ].job_id
        if not self._is_ready(job_id, record):
            with contextlib.suppress(JobNotRunningError):
                self._cancel(job_id, StopMode.FORCE)
            job = self._service.wait(job_id, STOPPED_SECONDS)
            return Stop(name, mode, None, None, None, 0, problem=self._why_not_ready(job))
        asked = time.monotonic()
        try:
            self._cancel(job_id, mode)
        except JobNotRunningError:
            job = self._service.manager.header(job_id)
            return Stop(name, mode, None, None, None, 0, problem=self._why_not_ready(job))
        job = self._service.wait(job_id, STOPPED_SECONDS)
        took_ms = (time.monotonic() - asked) * 1000
        survivors = self._survivors(key, record, self._stage(job))
        return self._told(name, mode, job, took_ms, self.end(survivors))

    def _told(
        self, name: str, mode: StopMode, job: Job, took_ms: float, survivors: tuple[str, ...]
    ) -> Stop:
        receipt = job.cancellation
        if not job.is_over or receipt is None:
            problem = f"it had not stopped after {STOPPED_SECONDS:g} s"
            with contextlib.suppress(JobNotRunningError):
                self._cancel(job.job_id, StopMode.FORCE)
            return Stop(name, mode, None, None, None, 0, survivors, problem)
        killed = sum(one.processes_killed for one in receipt.stopped)
        latency = receipt.latency_ms
        return Stop(name, mode, self._stage(job), round(took_ms, 1), latency, killed, survivors)

    @staticmethod
    def _stage(job: Job) -> str | None:
        """The stage that stopped the job's only task."""
        stopped = job.cancellation.stopped if job.cancellation is not None else ()
        return stopped[0].stage if stopped else None

    def _cancel(self, job_id: str, mode: StopMode) -> None:
        self._service.manager.cancel(job_id, StopRequest("verify-stop", "a trial", mode))

    def _is_ready(self, job_id: str, record: Path) -> bool:
        """Wait until the task says that it is in place."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                if "ready" in record.read_text().split("\n"):
                    return True
            if self._service.manager.header(job_id).is_over:
                return False
            time.sleep(POLL_SECONDS)
        return False

    def _why_not_ready(self, job: Job) -> str:
        tasks = self._service.manager.get(job.job_id).tasks
        errors = [task.error for task in tasks if task.error]
        return (
            f"it ended before it could be stopped: {errors[0]}" if errors else "it never was ready"
        )

    # ---------------------------------------------------------------- who is left

    def _survivors(self, key: str, record: Path, stage: str | None) -> list[ProcessId]:
        """What the task started and is alive: by what it wrote down, and by the mark of its programs."""
        worker, *started = _written(record)
        if stage in KILLED_STAGES:
            started.append(worker)  # otherwise its process is clean, and may run the next task
        alive = dict.fromkeys(process for process in started if is_alive(process))
        return [*(alive | dict.fromkeys(with_environment(MARK, key)))]

    def strays(self) -> list[ProcessId]:
        """Every process below the runner that is none of its own: neither guard, zygote nor worker. No task may run."""
        marked = set(with_environment(MARK, self._token))
        guards = [process for process in children(os.getpid()) if process in marked]
        below = {process for guard in guards for process in descendants(guard.pid)}
        own = set(guards)
        for guard in guards:
            # The guard starts the zygote before anything can be orphaned to it.
            for zygote in sorted(children(guard.pid), key=lambda p: (p.started, p.pid))[:1]:
                own |= {zygote, *children(zygote.pid)}
        return sorted((marked | below) - own)

    @staticmethod
    def end(survivors: Sequence[ProcessId]) -> tuple[str, ...]:
        """End what should not be there, and say of each what it was. One that is gone is not found again."""
        told = tuple(f"{process.pid} {command(process)}".strip() for process in survivors)
        for process in survivors:
            send_signal(process, signal.SIGKILL)
        wait_gone(list(survivors))
        return told


def _written(record: Path) -> list[ProcessId]:
    """The processes in a task's record; the first is its worker."""
    lines = (line.split() for line in record.read_text().splitlines())
    return [ProcessId(int(words[0]), int(words[1])) for words in lines if len(words) == 2]


def _chosen(names: Sequence[str], only: Sequence[str]) -> list[str]:
    unknown = [name for name in only if name not in names]
    if unknown:
        raise UnknownTaskError(
            f"there is no hostile task {unknown[0]!r}", mend=f"choose from {', '.join(names)}"
        )
    return [name for name in names if not only or name in only]


@contextlib.contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    """A folder below the home, on its disk; it is removed at the end."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(
            prefix="verify-stop-", dir=settings.home, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise HomeUnusableError(
            f"cannot use the home {str(settings.home)!r}: {error.strerror}",
            mend="make it writable, or set SLUICEGATE_HOME to a folder that is",
        ) from error
    with folder as path:
        yield Path(path)
