"""Workers on this machine: warm processes, one task at a time in each, ended as whole trees.

    this process ── guard (adopts and ends orphans) ── zygote (libraries loaded) ── workers ── what tasks start

One thread here listens to all of them. A worker that is not clean after its task is replaced; a guard or zygote that
dies is replaced with all below it. Sending is done by whoever calls, receiving only by that thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sluicegate.core.cancellation import Stage
from sluicegate.core.job import LogEntry, TableRollback, TaskInput, TaskProgress, TaskStats
from sluicegate.core.ports import (
    Assignment,
    CheckpointsPassed,
    Needed,
    PermitAsked,
    RemoteStopped,
    Settled,
    ShieldChanged,
    TaskBegan,
    TaskEnded,
    TaskHung,
    TaskLogged,
    TaskOpened,
    TaskProgressed,
    UnitCommitted,
    Vacuumed,
    WorkerEvent,
    Writer,
)
from sluicegate.errors import SluicegateError
from sluicegate.problems import LoadError, Problem
from sluicegate.spec import PipelineSpec
from sluicegate.workers.cgroup import open_cgroups
from sluicegate.workers.channel import Channel, ChannelClosedError, Message
from sluicegate.workers.process_tree import ProcessId, find, kill_tree, missing_means

log = logging.getLogger(__name__)

OUTPUT_BYTES: Final = 64 * 1024
LINE_BYTES_MAX: Final = 16 * 1024
CONGESTED_PAUSE_SECONDS: Final = 0.05
CLOSE_SECONDS: Final = 8.0
CALL_SECONDS: Final = 120.0
LOAD_SECONDS: Final = 300.0
RESPAWN_PAUSE_SECONDS: Final = 0.5
ASK_AGAIN_SECONDS: Final = 0.5
LAKE_MODULES: Final = (
    "sluicegate.lake.writer",
    "sluicegate.lake.inputs",
    "sluicegate.workers.lake_calls",
)


class WorkersUnavailableError(SluicegateError):
    """No worker process could be started, or the one that was asked died."""

    code = "workers_unavailable"


class LakeCallError(SluicegateError):
    """The lake could not be read; `code` is the one of the cause, e.g. `table_not_found`."""

    def __init__(self, facts: Mapping[str, str]) -> None:
        super().__init__(facts["what"], mend=facts["mend"])
        self.code = facts["code"]


@dataclass(slots=True, eq=False)
class _Output:
    """A worker's stdout or stderr: what was read of the line that is not finished yet."""

    worker: _Worker
    fd: int
    stream: str
    partial: bytearray = field(default_factory=bytearray)


@dataclass(slots=True, eq=False)
class _Worker:
    """One worker process, from its fork to the moment at which nothing of it is left."""

    number: int
    role: str
    channel: Channel
    outputs: list[_Output] = field(default_factory=list)
    process: ProcessId | None = None
    assignment: Assignment | None = None
    ended: Message | None = None
    stage: Stage | None = None
    exit_status: int | None = None
    closing: bool = False  # a kill or sweep was asked of the guard
    killed_so_far: int = 0
    left: int = 0  # processes of it that could not be ended yet
    killed: int | None = None  # and answered: nothing of it is left
    lost_guard: bool = False
    born_at: float = field(default_factory=time.monotonic)
    used: bool = False
    has_begun: bool = False  # a task: its pipelines are loaded
    specs: list[PipelineSpec] = field(default_factory=list)


class LocalWorkers:
    """`core.ports.Workers` and `core.ports.Tables` by processes on this machine.

    Args:
        capacity: Tasks at once.
        settings: Handed to every worker: `target`, `lake`, `landing`.
        congested: Whether log lines should be left in their pipes for a moment.
    """

    def __init__(
        self,
        capacity: int,
        settings: Mapping[str, Any],
        congested: Callable[[], bool] = lambda: False,
    ) -> None:
        self._capacity, self._settings = capacity, dict(settings)
        self._congested = congested
        self._missing_means = missing_means()
        self._listener: Callable[[WorkerEvent], None] = lambda _: None
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, "wake")
        self._paused: list[_Output | _Worker] = []
        self._workers: dict[int, _Worker] = {}
        self._by_pid: dict[int, _Worker] = {}
        self._by_task: dict[str, _Worker] = {}
        self._idle: list[_Worker] = []
        self._waiting: deque[Assignment] = deque()
        self._numbers = iter(range(1, sys.maxsize))
        self._kills: dict[int, _Worker] = {}
        self._ask_again: list[tuple[float, int]] = []  # when, and which of the kills
        self._calls: dict[int, Future[Any]] = {}
        self._reader: _Worker | None = None
        self._loading: Future[list[PipelineSpec]] | None = None
        self._modules: list[str] = []
        self._pool_wanted = 0
        self._guard: subprocess.Popen[bytes] | None = None
        self._control: Channel | None = None
        self._zygote: Channel | None = None
        self._zygote_process: ProcessId | None = None
        self._started_at = 0.0
        self._closing = False
        self._restart_at: float | None = None
        self._refill_at: float | None = None
        self._start_guard()
        self._thread = threading.Thread(target=self._listen, name="workers", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------- the pipelines

    def load(self) -> list[PipelineSpec]:
        """Load the pipelines in a process of their own, and return what they declare.

        Raises: `LoadError` with all problems; `WorkersUnavailableError` when the code ended the process.
        """
        future: Future[list[PipelineSpec]] = Future()
        with self._lock:
            self._loading = future
            worker = self._spawn("loader")
        try:
            return future.result(LOAD_SECONDS)
        except TimeoutError:
            raise WorkersUnavailableError(
                f"loading {self._settings['target']!r} took longer than {LOAD_SECONDS:g} s",
                mend="move work from the top level of the file into a pipeline",
            ) from None
        finally:
            with self._lock:
                self._loading = None
                self._end(worker)

    # ---------------------------------------------------------------- core.ports.Workers

    @property
    def capacity(self) -> int:
        """How many tasks can run at once."""
        return self._capacity

    @property
    def missing_means(self) -> tuple[str, ...]:
        """What this platform lacks to end whole trees."""
        return self._missing_means

    def start(self, listener: Callable[[WorkerEvent], None]) -> None:
        """Fork the pool, libraries loaded."""
        self._listener = listener
        with self._lock:
            self._pool_wanted = self._capacity
            self._send_zygote({"preload": [*LAKE_MODULES, *self._modules]})
            self._fill_pool()

    def run(self, assignment: Assignment) -> None:
        """Hand the attempt to a warm worker, or to the next that is ready."""
        with self._lock:
            if self._idle:
                self._hand_over(self._idle.pop(), assignment)
            else:
                self._waiting.append(assignment)

    def deliver(self, task_id: str, stage: Stage) -> None:
        """Push a running task."""
        with self._lock:
            worker = self._by_task.get(task_id)
            if worker is None:
                self._deliver_waiting(task_id)
                return
            worker.stage = stage
            if stage is Stage.KILL:
                self._end(worker)
            elif stage is Stage.TERMINATE and worker.process is not None:
                self._send_control({"terminate": list(worker.process), "worker": worker.number})
            elif stage in (Stage.CHECKPOINT, Stage.INTERRUPT):
                assert worker.assignment is not None
                attempt = worker.assignment.attempt
                stop = {"task_id": task_id, "attempt": attempt, "stage": stage.value}
                self._tell(worker, {"kind": "stage", **stop})

    def answer_permit(self, task_id: str, refused: str | None) -> None:
        """Answer the task's last request to commit."""
        with self._lock:
            if worker := self._by_task.get(task_id):
                self._tell(worker, {"kind": "permit", "refused": refused})

    def close(self) -> None:
        """Let the guard end everything, and wait until it has."""
        with self._lock:
            self._closing = True
            guard = self._guard
            if self._control is not None:
                with contextlib.suppress(OSError):
                    self._control.sock.shutdown(socket.SHUT_RDWR)
        if guard is not None:
            try:
                guard.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._end_by_force(guard)
                self._cgroups.end_all()
        self._wake()
        self._thread.join(CLOSE_SECONDS)
        with self._lock:
            self._fail_calls()
        for worker in list(self._workers.values()):
            self._forget(worker)
        for fd in (self._wake_reader, self._wake_writer):
            os.close(fd)
        self._selector.close()
        for channel in (self._control, self._zygote):
            if channel is not None:
                channel.close()

    # ---------------------------------------------------------------- core.ports.Tables

    def settle(self, table: str, task_id: str, fence: Writer | None = None) -> Settled:
        """Read from the table's log what the task committed, after shutting out whoever may still write for it."""
        writer = None if fence is None else asdict(fence)
        found = self._call("settle", table=table, task_id=task_id, fence=writer)
        return Settled(TaskStats(**found["stats"]), found["complete"])

    def clean_up(self, table: str, task_id: str, attempt: int) -> None:
        """Remove the files that attempts of a task wrote and did not commit."""
        layer, _, name = table.partition(".")
        folder = Path(self._settings["lake"]) / layer / name
        # Mostly there is nothing, and no process is needed to say so.
        if any(folder.glob(f"*{task_id}*")) or any(folder.glob(f"_delta_log/*{task_id}*")):
            self._call("clean_up", table=table, task_id=task_id, attempt=attempt)

    def plan_rollback(self, table: str, job_id: str) -> TableRollback | None:
        """Return how to put a table back to its content before a job; `None`: the job changed nothing there."""
        step = self._call("plan_rollback", table=table, job_id=job_id)
        return None if step is None else TableRollback(**step)

    def roll_back(self, step: TableRollback, writer: Writer) -> None:
        """Put a table back, under the epoch that `writer` took."""
        self._call("roll_back", step=asdict(step), writer=asdict(writer))

    def authors(self) -> dict[str, str | None]:
        """Return every table and the job that made what it holds."""
        found: dict[str, str | None] = self._call("authors")
        return found

    def undoable(self, table: str) -> list[str]:
        """Return the jobs that could be rolled back one after another, newest first."""
        found: list[str] = self._call("undoable", table=table)
        return found

    def vacuum(self, table: str, needed: Needed, *, dry_run: bool = False) -> Vacuumed:
        """Delete the files of a table that nobody needs."""
        limits = asdict(needed) | {"before": needed.before.isoformat()}
        return Vacuumed(**self._call("vacuum", table=table, needed=limits, dry_run=dry_run))

    def list_tables(self) -> list[dict[str, Any]]:
        """Return `name`, `version`, `row_count` and `columns` of each table."""
        listed: list[dict[str, Any]] = self._call("list_tables")
        return listed

    def describe(self, table: str, *, limit: int, version: int | None) -> dict[str, Any]:
        """Return `name`, `schema`, `version`, `row_count`, `preview`."""
        described: dict[str, Any] = self._call(
            "describe", table=table, limit=limit, version=version
        )
        return described

    def _call(self, call: str, **arguments: Any) -> Any:
        """Ask the reader process. One that died (a broken file can do that) is replaced and asked once more."""
        for tries_left in (1, 0):
            future: Future[Any] = Future()
            with self._lock:
                if self._closing:
                    raise WorkersUnavailableError("the server is stopping", mend="start it again")
                if self._reader is None:
                    self._reader = self._spawn("reader")
                number = next(self._numbers)
                self._calls[number] = future
                self._tell(
                    self._reader,
                    {"kind": "call", "id": number, "call": call, "arguments": arguments},
                )
            try:
                return future.result(CALL_SECONDS)
            except WorkersUnavailableError:
                if not tries_left:
                    raise
            except TimeoutError:
                raise WorkersUnavailableError(
                    f"reading the lake took longer than {CALL_SECONDS:g} s",
                    mend="look whether its disk answers",
                ) from None
        raise AssertionError("unreachable")

    # ---------------------------------------------------------------- processes come

    def _start_guard(self) -> None:
        self._started_at = time.monotonic()
        control, guard_end = socket.socketpair()
        zygote, zygote_end = socket.socketpair()
        fds = (guard_end.fileno(), zygote_end.fileno())
        self._guard = subprocess.Popen(  # noqa: S603 - our own module
            # -P: a file of the user's folder must not take the place of a module of ours.
            [sys.executable, "-P", "-m", "sluicegate.workers.guard", *map(str, fds)],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._cgroups = open_cgroups(self._guard.pid)
        guard_end.close()
        zygote_end.close()
        self._control, self._zygote = Channel(control), Channel(zygote)
        self._selector.register(control, selectors.EVENT_READ, "control")
        self._selector.register(zygote, selectors.EVENT_READ, "zygote")

    def _fill_pool(self) -> None:
        while (
            sum(w.role == "pool" and not w.closing for w in self._workers.values())
            < self._pool_wanted
        ):
            self._spawn("pool")

    def _spawn(self, role: str) -> _Worker:
        ours, theirs = socket.socketpair()
        worker = _Worker(next(self._numbers), role, Channel(ours))
        ends = [theirs.fileno()]
        for stream in ("stdout", "stderr"):
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            worker.outputs.append(_Output(worker, reader, stream))
            ends.append(writer)
        self._workers[worker.number] = worker
        self._selector.register(ours, selectors.EVENT_READ, worker)
        for output in worker.outputs:
            self._selector.register(output.fd, selectors.EVENT_READ, output)
        self._send_zygote({"spawn": worker.number, "settings": self._settings}, tuple(ends))
        theirs.close()
        for fd in ends[1:]:
            os.close(fd)
        if role != "reader" and self._settings.get("target"):
            report = role == "loader"
            self._tell(
                worker, {"kind": "load", "target": self._settings["target"], "report": report}
            )
        if role == "pool":
            self._is_ready(worker)  # what it is sent waits in its socket until it has loaded
        return worker

    def _is_ready(self, worker: _Worker) -> None:
        if self._waiting:
            self._hand_over(worker, self._waiting.popleft())
        else:
            self._idle.append(worker)

    def _hand_over(self, worker: _Worker, assignment: Assignment) -> None:
        worker.assignment, worker.ended, worker.stage = assignment, None, None
        self._by_task[assignment.task_id] = worker
        worker.used = True
        # Until then it may be loading the pipelines, and says itself when a task begins.
        if worker.has_begun:
            self._listener(TaskBegan(assignment.task_id))
        self._tell(
            worker,
            {
                "kind": "run",
                "job_id": assignment.job_id,
                "task_id": assignment.task_id,
                "attempt": assignment.attempt,
                "pipeline": assignment.spec.pipeline_id,
                "epoch": assignment.epoch,
                "params": dict(assignment.params),
                "full_refresh": assignment.full_refresh,
                "recovers": assignment.recovers,
            },
        )

    def _deliver_waiting(self, task_id: str) -> None:
        """A stop of a task that no worker has yet: it ends here."""
        for assignment in self._waiting:
            if assignment.task_id == task_id:
                self._waiting.remove(assignment)
                self._listener(TaskEnded(task_id, "cancelled", stage=Stage.CHECKPOINT))
                return

    # ---------------------------------------------------------------- the listening thread

    def _listen(self) -> None:
        while True:
            ready = self._selector.select(self._pause_seconds())
            with self._lock:
                if self._closing and (self._guard is None or self._guard.poll() is not None):
                    return
                if self._restart_at is not None and time.monotonic() >= self._restart_at:
                    self._restart()
                if self._refill_at is not None and time.monotonic() >= self._refill_at:
                    self._refill_at = None
                    self._fill_pool()
                self._ask_again_when_due()
                self._resume_paused()
                for key, _ in ready:
                    # What was handled before may have closed it; its number may even be another's by now.
                    if self._selector.get_map().get(key.fd) is key:
                        self._handle_safely(key.data)

    def _pause_seconds(self) -> float | None:
        """How long nothing has to be done unless something is heard."""
        now = time.monotonic()
        waits = [at - now for at in (self._restart_at, self._refill_at) if at is not None]
        waits += [at - now for at, _ in self._ask_again]
        if self._paused:
            waits.append(CONGESTED_PAUSE_SECONDS)
        return max(0.0, min(waits)) if waits else None

    def _handle_safely(self, source: Any) -> None:
        try:
            self._handle(source)
        except Exception:
            # Without this thread no task would ever end: a mistake of ours costs one worker at most.
            log.exception("worker_message_failed")
            if isinstance(source, _Worker):
                self._lost_channel(source)

    def _handle(self, source: Any) -> None:
        try:
            if source == "wake":
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_reader, 4096)
            elif source == "control" and self._control is not None:
                for message in self._control.receive_ready():
                    self._from_guard(message)
            elif source == "zygote" and self._zygote is not None:
                for message in self._zygote.receive_ready():
                    self._from_zygote(message)
            elif isinstance(source, _Output):
                if not self._pauses(source, source.fd):
                    self._read_output(source, OUTPUT_BYTES)
            elif isinstance(source, _Worker) and not self._pauses(source, source.channel):
                self._from_worker(source)
        except ChannelClosedError:
            if source in ("control", "zygote"):
                self._lost_guard()
            else:
                self._lost_channel(source)

    def _lost_channel(self, worker: _Worker) -> None:
        """A worker closed its channel, or wrote what is no message of ours: nothing more can be heard from it."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(worker.channel)
        self._end(worker)

    def _from_guard(self, message: Message) -> None:
        if "zygote" in message:
            self._zygote_process = find(message["zygote"])
            return
        number = message["id"]
        worker = self._kills.get(number)
        if worker is None:
            return
        worker.killed_so_far += message["killed"]
        if message["left"]:
            # A task that has left a process is not stopped, and is not told as stopped.
            if not worker.left:
                log.warning("process_not_ended worker=%s left=%s", worker.number, message["left"])
            worker.left = message["left"]
            self._ask_again.append((time.monotonic() + ASK_AGAIN_SECONDS, number))
            return
        del self._kills[number]
        worker.killed = worker.killed_so_far
        self._finish(worker)

    def _from_zygote(self, message: Message) -> None:
        if "spawned" in message:
            worker = self._workers.get(message["spawned"])
            if worker is not None:
                worker.process = ProcessId(message["pid"], message["started"])
                self._by_pid[message["pid"]] = worker
                if worker.closing:
                    self._ask_guard(worker)
        elif (worker := self._by_pid.pop(message["exited"], None)) is not None:
            worker.exit_status = message["status"]
            with contextlib.suppress(ChannelClosedError, KeyError):
                self._from_worker(worker)  # what it still said before it died
            if not worker.closing:
                self._end(worker)
            self._finish(worker)

    def _from_worker(self, worker: _Worker) -> None:
        lines: list[LogEntry] = []
        for message in worker.channel.receive_ready():
            if message["kind"] == "log" and worker.assignment is not None:
                lines.append(_log_entry(worker.assignment, message))
            else:
                self._tell_entries(lines)
                self._said(worker, message)
        self._tell_entries(lines)

    def _tell_entries(self, lines: list[LogEntry]) -> None:
        """Pass on what a task logged, in one piece, and begin anew."""
        if lines:
            self._listener(TaskLogged(lines[0].task_id or "", tuple(lines)))
            lines.clear()

    def _said(self, worker: _Worker, message: Message) -> None:
        task = worker.assignment
        kind = message["kind"]
        if kind == "reply":
            self._replied(message)
        elif kind == "spec":
            worker.specs.append(PipelineSpec.from_dict(message["spec"]))
        elif kind == "loaded":
            self._loaded(worker, message)
        elif task is not None:
            if kind == "began":
                worker.has_begun = True
            if kind == "ended":
                self._attempt_ended(worker, message)
            elif (event := _event(task, message)) is not None:
                self._listener(event)

    def _loaded(self, worker: _Worker, message: Message) -> None:
        if self._loading is None or worker.role != "loader" or self._loading.done():
            return
        if problems := message.get("problems"):
            target = self._settings["target"]
            self._loading.set_exception(LoadError(target, [Problem(**p) for p in problems]))
        else:
            self._modules = message["modules"]
            self._loading.set_result(worker.specs)

    def _replied(self, message: Message) -> None:
        future = self._calls.pop(message["id"], None)
        if future is None:
            return
        if (facts := message.get("error")) is not None:
            future.set_exception(LakeCallError(facts))
        else:
            future.set_result(message["result"])

    def _attempt_ended(self, worker: _Worker, message: Message) -> None:
        """The worker says that the attempt is over: it is free again, or it is ended for what the task left in it."""
        worker.ended = message
        for output in worker.outputs:
            self._drain(output)
        if message["dirt"] is None and not worker.closing:
            self._report(worker, processes_killed=0)
            self._is_ready(worker)
        else:
            self._end(worker)

    # ---------------------------------------------------------------- processes go

    def _end(self, worker: _Worker) -> None:
        """Have the guard end the worker's tree, and whatever dead workers left; `_finish` follows its answer."""
        if worker.closing:
            return
        worker.closing = True
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.process is not None:
            self._ask_guard(worker)

    def _ask_guard(self, worker: _Worker) -> None:
        assert worker.process is not None
        number = next(self._numbers)
        self._kills[number] = worker
        self._send_control({"kill": list(worker.process), "worker": worker.number, "id": number})

    def _ask_again_when_due(self) -> None:
        """Have the guard try once more to end what a worker left."""
        now = time.monotonic()
        due = [number for at, number in self._ask_again if at <= now]
        self._ask_again = [one for one in self._ask_again if one[0] > now]
        for number in due:
            if (worker := self._kills.get(number)) is not None:
                assert worker.process is not None
                self._send_control(
                    {"sweep": list(worker.process), "worker": worker.number, "id": number}
                )

    def _finish(self, worker: _Worker) -> None:
        """Report a task's end once its worker has exited and nothing that it started is left."""
        if (
            worker.exit_status is None
            or worker.killed is None
            or worker.number not in self._workers
        ):
            return
        for output in worker.outputs:
            self._drain(output)
        self._forget(worker)
        if worker.assignment is not None:
            # A worker that was replaced after its task had ended by itself is none that the stop killed.
            spared = 1 if worker.ended is not None and worker.killed else 0
            self._report(worker, processes_killed=worker.killed - spared)
        self._after_exit(worker)

    def _after_exit(self, worker: _Worker) -> None:
        if worker is self._reader:
            self._reader = None
            self._fail_calls()
        if worker.role == "loader" and self._loading is not None and not self._loading.done():
            died = _death(worker)
            target = self._settings["target"]
            self._loading.set_exception(
                LoadError(
                    target,
                    [
                        Problem(
                            f"loading {target!r} ended its process: {died}",
                            "move what does that from the top level of the file into a pipeline",
                        )
                    ],
                )
            )
        if self._closing:
            return
        if worker.used or time.monotonic() - worker.born_at > RESPAWN_PAUSE_SECONDS:
            self._fill_pool()
        else:  # workers that die at once: a broken machine must not be kept busy with forking
            self._refill_at = time.monotonic() + RESPAWN_PAUSE_SECONDS

    def _report(self, worker: _Worker, processes_killed: int) -> None:
        """Tell how the attempt ended: as the worker said, or `lost` when it could not say."""
        task, said = worker.assignment, worker.ended
        assert task is not None
        worker.assignment = None
        self._by_task.pop(task.task_id, None)
        if said is None:
            killed = worker.stage in (Stage.KILL, Stage.TERMINATE)
            died = None if killed else f"its worker died: {_death(worker)}"
            self._listener(
                TaskEnded(
                    task.task_id,
                    "lost",
                    message=died,
                    stage=worker.stage,
                    processes_killed=processes_killed,
                )
            )
            return
        stage = said.get("stage")
        self._listener(
            TaskEnded(
                task.task_id,
                said["outcome"],
                stats=TaskStats(**said["stats"]),
                error=said.get("error"),
                stage=Stage(stage) if stage else None,
                where=tuple(said.get("where", ())),
                processes_killed=processes_killed,
                again=said.get("again", False),
            )
        )

    def _forget(self, worker: _Worker) -> None:
        self._workers.pop(worker.number, None)
        for output in worker.outputs:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(output.fd)
            with contextlib.suppress(OSError):
                os.close(output.fd)
        worker.outputs = []
        self._paused = [
            source
            for source in self._paused
            if source is not worker and getattr(source, "worker", None) is not worker
        ]
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(worker.channel)
        worker.channel.close()

    def _fail_calls(self) -> None:
        calls, self._calls = self._calls, {}
        for future in calls.values():
            future.set_exception(
                WorkersUnavailableError(
                    "the process that reads the lake died", mend="look at the table's files"
                )
            )

    def _lost_guard(self) -> None:
        """The guard or the zygote died: end what they watched from here, and build all of it anew."""
        if self._restart_at is not None:
            return
        for channel in (self._control, self._zygote):
            if channel is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(channel.sock)
        if self._closing:  # as it should be
            return
        log.error("guard_lost replacing it")
        for channel in (self._control, self._zygote):
            if channel is not None:
                channel.close()
        if self._guard is not None:
            self._end_by_force(self._guard)
        if self._zygote_process is not None:
            kill_tree(self._zygote_process)
            self._zygote_process = None
        self._kills.clear()
        self._by_pid.clear()
        for worker in list(self._workers.values()):
            if worker.process is not None:
                worker.killed = kill_tree(worker.process)
                worker.killed += self._cgroups.of(worker.number).end({worker.process}).killed
            worker.lost_guard = True
            self._idle = [idle for idle in self._idle if idle is not worker]
            for output in worker.outputs:
                self._drain(output)
            self._forget(worker)
            if worker.assignment is not None:
                self._report(worker, processes_killed=worker.killed or 0)
            if worker is self._reader:
                self._reader = None
        self._cgroups.end_all()
        self._fail_calls()
        if self._loading is not None and not self._loading.done():
            self._loading.set_exception(
                WorkersUnavailableError(
                    "the guard of the workers died while the pipelines were loaded",
                    mend="try again",
                )
            )
        again_at_once = time.monotonic() - self._started_at > RESPAWN_PAUSE_SECONDS
        self._restart_at = time.monotonic() + (0 if again_at_once else RESPAWN_PAUSE_SECONDS)

    def _restart(self) -> None:
        self._restart_at = None
        try:
            self._start_guard()
            self._send_zygote({"preload": [*LAKE_MODULES, *self._modules]})
            self._fill_pool()
        except OSError as error:
            log.error("guard_not_started error=%s", error)
            self._restart_at = time.monotonic() + RESPAWN_PAUSE_SECONDS

    @staticmethod
    def _end_by_force(guard: subprocess.Popen[bytes]) -> None:
        if (process := find(guard.pid)) is not None:
            kill_tree(process)
        guard.wait()

    # ---------------------------------------------------------------- output

    def _read_output(self, output: _Output, limit: int) -> bool:
        """Read what a task printed and tell it line by line. Returns whether there may be more."""
        try:
            data = os.read(output.fd, limit)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(output.fd)
            return False
        output.partial += data
        *lines, rest = bytes(output.partial).split(b"\n")
        while len(rest) > LINE_BYTES_MAX:
            lines.append(rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
        output.partial = bytearray(rest)
        self._tell_lines(output, lines)
        return True

    def _pauses(self, source: _Output | _Worker, fd: int | Channel) -> bool:
        """Leave what a worker says where it is for a moment, when the store cannot keep up with its lines."""
        if not self._congested():
            return False
        self._selector.unregister(fd)
        self._paused.append(source)
        return True

    def _drain(self, output: _Output) -> None:
        """Read what is left in the pipe: all that was written before the attempt ended."""
        for _ in range(64):
            if not self._read_output(output, OUTPUT_BYTES):
                break
        if output.partial:
            self._tell_lines(output, [bytes(output.partial)])
            output.partial.clear()

    def _tell_lines(self, output: _Output, lines: list[bytes]) -> None:
        task = output.worker.assignment
        if not lines:
            return
        texts = [
            line[start : start + LINE_BYTES_MAX].decode("utf-8", "replace")
            for line in lines
            for start in range(0, max(1, len(line)), LINE_BYTES_MAX)
        ]
        if task is None:
            for text in texts:
                log.info("worker_output stream=%s line=%s", output.stream, text)
            return
        now = datetime.now(UTC)
        level = "info" if output.stream == "stdout" else "warning"
        self._listener(
            TaskLogged(
                task.task_id,
                tuple(
                    LogEntry(task.job_id, now, text, task.task_id, level, output.stream)
                    for text in texts
                ),
            )
        )

    def _resume_paused(self) -> None:
        if self._paused and not self._congested():
            paused, self._paused = self._paused, []
            for source in paused:
                fd = source.fd if isinstance(source, _Output) else source.channel
                self._selector.register(fd, selectors.EVENT_READ, source)

    # ---------------------------------------------------------------- sending

    def _tell(self, worker: _Worker, message: Message) -> None:
        # A worker that is gone is noticed by its exit.
        with contextlib.suppress(ChannelClosedError):
            worker.channel.send(message)

    def _send_control(self, message: Message) -> None:
        # A guard that is gone is noticed by the end of its stream.
        with contextlib.suppress(ChannelClosedError):
            if self._control is not None:
                self._control.send(message)

    def _send_zygote(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        with contextlib.suppress(ChannelClosedError):
            if self._zygote is not None:
                self._zygote.send(message, fds)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_writer, b"x")


def _event(task: Assignment, message: Message) -> WorkerEvent | None:
    """What a worker said about its task, as the executor wants to hear it."""
    match message["kind"]:
        case "opened":
            inputs = tuple(TaskInput(one["table"], one["version"]) for one in message["inputs"])
            return TaskOpened(task.task_id, inputs)
        case "permit":
            return PermitAsked(task.task_id, message["rows"], message["bytes"])
        case "committed":
            return UnitCommitted(task.task_id, TaskStats(**message["stats"]))
        case "progress":
            progress = TaskProgress(message["done"], message["total"], message["unit"])
            return TaskProgressed(task.task_id, progress)
        case "began":
            return TaskBegan(task.task_id)
        case "checkpoints":
            return CheckpointsPassed(task.task_id, message["seconds"], message["squares"])
        case "shield":
            return ShieldChanged(task.task_id, message["seconds"])
        case "remote":
            what, outcome, tries = message["what"], message["outcome"], message["tries"]
            return RemoteStopped(task.task_id, message["id"], what, outcome, tries)
        case "hung":
            return TaskHung(task.task_id, tuple(message["where"]))
    return None


def _log_entry(task: Assignment, message: Message) -> LogEntry:
    at = datetime.fromtimestamp(message["at"], UTC)
    return LogEntry(task.job_id, at, message["message"], task.task_id, message["level"], "log")


def _death(worker: _Worker) -> str:
    """How a process died, in words."""
    if worker.lost_guard:
        return "it was ended because the process that watches over the workers was gone"
    status = worker.exit_status or 0
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        perhaps = ", perhaps by the kernel for want of memory" if number == signal.SIGKILL else ""
        return f"killed by {name}{perhaps}"
    return f"it exited with code {os.waitstatus_to_exitcode(status)}"
