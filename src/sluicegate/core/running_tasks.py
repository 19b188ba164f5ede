"""The tasks that workers have: what is heard of them, how long they may take, and how those end that should.

All on the executor's thread. Nothing is stored from here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sluicegate.cancel_policy import CancelPolicy
from sluicegate.core.agenda import GATHER_SECONDS, Agenda, Timer
from sluicegate.core.cancellation import Stage
from sluicegate.core.job import StopMode, TaskRecord
from sluicegate.core.job_run import JobRun
from sluicegate.core.pace import Outlook, Pace
from sluicegate.core.ports import (
    CheckpointsPassed,
    Clock,
    RemoteStopped,
    ShieldChanged,
    TaskBegan,
    TaskHung,
    Workers,
)
from sluicegate.core.receipt import Cause, RemoteStop
from sluicegate.core.stops import TaskStopping
from sluicegate.spec import PipelineSpec

log = logging.getLogger(__name__)

CONTACT_SECONDS: Final = 1.0
LOAD_SECONDS: Final = 60.0
MEAN_OF_TASKS: Final = 8
SHORTEST_SECONDS: Final = 0.004

Heard = TaskBegan | CheckpointsPassed | TaskHung | ShieldChanged | RemoteStopped


@dataclass(slots=True)
class RunningTask:
    """A task that a worker has."""

    run: JobRun
    task_id: str
    pipeline: str
    attempt: int
    since: float
    pace: Pace
    heard_at: float  # when it last passed a checkpoint or made progress
    has_begun: bool = False  # before that its worker loads the pipelines
    timer: Timer | None = None
    stall_seconds: float | None = None
    stall_timer: Timer | None = None
    was_shielded: bool = False  # when its stall timer was last set
    lost_timer: Timer | None = None
    is_lost: bool = False  # it was killed, and nothing was heard of it since
    shielded_until: float | None = None
    remote: dict[int, RemoteStop] = field(default_factory=dict)
    progress_stored: float = 0.0
    progress_told: float = 0.0
    over: bool = False  # nothing that was asked while it ran may be stored after its end
    given_up: bool = False  # it is ended because the lease could not be renewed

    @property
    def record(self) -> TaskRecord:
        """What is known of it."""
        return self.run.records[self.pipeline]


class RunningTasks:
    """All of one executor's, by their ids, and the ladder of each that is being stopped.

    Args:
        policy: How the tasks of a pipeline are stopped.
        lost: Told of a task that was killed and of which nothing was heard for `lost_seconds`.
    """

    def __init__(
        self,
        *,
        workers: Workers,
        agenda: Agenda[Any],
        clock: Clock,
        policy: Callable[[str], CancelPolicy],
        lost: Callable[[JobRun], None],
        lost_seconds: float,
    ) -> None:
        self._workers, self._agenda, self._clock = workers, agenda, clock
        self._policy, self._lost, self._lost_seconds = policy, lost, lost_seconds
        self._tasks: dict[str, RunningTask] = {}
        self._stops: dict[str, TaskStopping] = {}
        # Of the last tasks, with the newest weighing most.
        self.mean_seconds = 1.0

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[RunningTask]:
        """What runs now; it may change meanwhile."""
        return iter(list(self._tasks.values()))

    def get(self, task_id: str) -> RunningTask | None:
        """Return a task, `None` when it is not running here."""
        return self._tasks.get(task_id)

    @property
    def ends_soon(self) -> bool:
        """Whether one is likely to end within the time that a commit takes."""
        if not self._tasks or self.mean_seconds > SHORTEST_SECONDS:
            return False
        youngest = next(reversed(self._tasks.values()))
        return self._clock.monotonic() - youngest.since < GATHER_SECONDS

    def of(self, run: JobRun) -> list[RunningTask]:
        """Return those of a job, as it is run here."""
        return [task for task in self._tasks.values() if task.run is run]

    def outlook(self, job_id: str) -> dict[str, Outlook]:
        """Return what a graceful stop of each task of a job would cost now. May be called from any thread."""
        now = self._clock.monotonic()
        return {
            task.task_id: task.pace.outlook(now, self._policy(task.pipeline))
            for task in self
            if task.run.job.job_id == job_id
        }

    # ---------------------------------------------------------------- come and go

    def add(self, run: JobRun, record: TaskRecord, spec: PipelineSpec | None) -> RunningTask:
        """An attempt was started; its time runs from now."""
        now = self._clock.monotonic()
        task = RunningTask(
            run, record.task_id, record.pipeline, record.attempt, now, Pace(now), heard_at=now
        )
        self._tasks[task.task_id] = task
        if spec is not None and (limit := spec.timeout_seconds) is not None:
            task.timer = self._agenda.later(limit, lambda: self._out_of_time(task, limit))
        if spec is not None and spec.stall_timeout_seconds is not None:
            task.stall_seconds = spec.stall_timeout_seconds
            self._watch_stall(task)
        return task

    def remove(self, task_id: str) -> tuple[RunningTask, TaskStopping | None] | None:
        """No process of an attempt is left. Returns what was known of it, and of its stop."""
        task, stopping = self._tasks.pop(task_id, None), self._stops.pop(task_id, None)
        if task is None:
            return None
        task.over = True
        lasted = self._clock.monotonic() - task.since
        self.mean_seconds += (lasted - self.mean_seconds) / MEAN_OF_TASKS
        for timer in (task.timer, task.stall_timer, task.lost_timer):
            if timer is not None:
                timer.cancel()
        return task, stopping

    # ---------------------------------------------------------------- what is heard

    def heard_of(self, task_id: str) -> RunningTask | None:
        """It is alive and at work: this is no stall."""
        if (task := self._tasks.get(task_id)) is not None:
            task.heard_at = self._clock.monotonic()
        return task

    def hear(self, event: Heard) -> None:
        """Keep what a worker says of a task."""
        match event:
            case TaskBegan(task_id):
                if task := self.heard_of(task_id):
                    task.has_begun = True
                    task.pace.committed(task.heard_at)
                    self._watch_stall(task)
            case CheckpointsPassed(task_id, seconds, squares):
                if task := self.heard_of(task_id):
                    task.pace.passed(task.heard_at, seconds, squares)
            case TaskHung(task_id, where):
                if stopping := self._stops.get(task_id):
                    stopping.where = where
            case ShieldChanged(task_id, until_seconds):
                self._shield(task_id, until_seconds)
            case RemoteStopped():
                self._remote_stopped(event)

    def _shield(self, task_id: str, until_seconds: float | None) -> None:
        if task := self.heard_of(task_id):
            task.shielded_until = None if until_seconds is None else task.heard_at + until_seconds
            if until_seconds is None and task.was_shielded:
                task.was_shielded = False
                self._watch_stall(task)  # it was put off to the end of the shield
        if stopping := self._stops.get(task_id):
            stopping.shield(self._clock.monotonic(), until_seconds)

    def _remote_stopped(self, event: RemoteStopped) -> None:
        """Keep what became of work elsewhere; what is not called before the task is gone stays unconfirmed."""
        if (task := self._tasks.get(event.task_id)) is None:
            return
        if event.outcome == "forgotten":
            task.remote.pop(event.number, None)
        else:
            task.remote[event.number] = RemoteStop(event.what, event.outcome, event.tries)

    # ---------------------------------------------------------------- its own time

    def _watch_stall(self, task: RunningTask) -> None:
        """Stop an attempt that passes no checkpoint and makes no progress; a shield is no stall."""
        if (stall_seconds := task.stall_seconds) is None:
            return
        if task.stall_timer is not None:
            task.stall_timer.cancel()

        def look() -> None:
            if task.over or task.task_id in self._stops:
                return
            now = self._clock.monotonic()
            allowed = stall_seconds if task.has_begun else max(stall_seconds, LOAD_SECONDS)
            left = max(task.heard_at, task.shielded_until or 0.0) + allowed - now
            if left > 0:
                task.was_shielded = task.shielded_until is not None
                task.stall_timer = self._agenda.later(left, look)
                return
            reason = f"it passed no checkpoint and made no progress for {allowed:g} s"
            self.stop(task, StopMode.GRACEFUL, Cause.STALL, None, reason)

        task.stall_timer = self._agenda.later(stall_seconds, look)

    def _out_of_time(self, task: RunningTask, timeout_seconds: float) -> None:
        if not task.over and task.task_id not in self._stops:
            reason = f"it ran longer than {timeout_seconds:g} s"
            self.stop(task, StopMode.GRACEFUL, Cause.TIMEOUT, None, reason)

    # ---------------------------------------------------------------- its end

    def is_stopping(self, task_id: str) -> bool:
        """Whether it was told to stop, or will be in this round."""
        return task_id in self._stops

    def stop(
        self,
        task: RunningTask,
        mode: StopMode,
        cause: Cause,
        requested_by: str | None,
        reason: str | None,
    ) -> None:
        """Have a task stop, or tell the stop that is under way of a stronger one; it is never made milder."""
        if (stopping := self._stops.get(task.task_id)) is not None:
            escalates = mode is StopMode.FORCE and stopping.mode is not StopMode.FORCE
            if stopping.is_own_timeout or escalates:
                stopping.mode = mode
                stopping.cause, stopping.requested_by = cause, requested_by
                stopping.reason = reason
            return
        # It is of this process's own life, so the ladder begins now: wall clocks may lie.
        now = self._clock.monotonic()
        policy = self._policy(task.pipeline)
        stopping = TaskStopping(task.task_id, now, policy, mode, cause, requested_by, reason)
        if task.shielded_until is not None:
            stopping.shield(now, task.shielded_until - now)
            if mode is not StopMode.FORCE:
                # The flag does no harm under a shield: the worker raises when the shield ends.
                stopping.delivered = Stage.CHECKPOINT
                self._workers.deliver(task.task_id, Stage.CHECKPOINT)
        self._stops[task.task_id] = stopping

    def kill(self, task: RunningTask) -> None:
        """End it, and see that it ends."""
        self._workers.deliver(task.task_id, Stage.KILL)
        self._expect_end(task)

    def abandon(self, run: JobRun) -> None:
        """End those of a job that is somebody else's now; what becomes of them is not told."""
        for task in self.of(run):
            task.over = True
            self._workers.deliver(task.task_id, Stage.KILL)

    def climb(self) -> None:
        """Deliver the stages of the ladder that are due."""
        now = self._clock.monotonic()
        for stopping in self._stops.values():
            if (stage := stopping.due(now)) is not None:
                if stage is not Stage.CHECKPOINT:
                    log.info("task_stop_stage task_id=%s stage=%s", stopping.task_id, stage)
                self._workers.deliver(stopping.task_id, stage)
                if stage is Stage.KILL:
                    self._expect_end(self._tasks[stopping.task_id])

    @property
    def next_in(self) -> float | None:
        """Seconds until a stage of a ladder is due, or `None`."""
        now = self._clock.monotonic()
        waits = (stopping.next_in(now) for stopping in self._stops.values())
        return min((wait for wait in waits if wait is not None), default=None)

    def _expect_end(self, task: RunningTask) -> None:
        """It was killed. When nothing is heard for the lease time it is out of reach; the kill is tried again."""
        if task.lost_timer is not None:
            return

        def look() -> None:
            if self._tasks.get(task.task_id) is task:
                task.is_lost = True
                self._lost(task.run)
                self._workers.deliver(task.task_id, Stage.KILL)
                task.lost_timer = self._agenda.later(self._lost_seconds, look)

        task.lost_timer = self._agenda.later(self._lost_seconds + CONTACT_SECONDS, look)
