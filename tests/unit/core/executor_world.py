"""An executor that a test drives tick by tick: fake clock, store in memory, ledger without a thread, fake workers."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from fakes import Aside, DirectLedger, FakeClock, FakeTables, FakeWorkers, MemoryStore

from sluicegate.core.cancellation import Stage
from sluicegate.core.following import Follower
from sluicegate.core.hub import Hub
from sluicegate.core.job import Job, JobStatus, StopMode, TaskRecord, TaskStats, TaskStatus
from sluicegate.core.job_manager import Catalog, JobManager, RunRequest, StopRequest
from sluicegate.core.lease import SCAN_AGAIN_SECONDS
from sluicegate.core.pipeline_executor import PipelineExecutor
from sluicegate.core.ports import Assignment, Change, PermitAsked, TaskEnded
from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.spec import PipelineSpec

STEPS_MAX = 200
LEASE_SECONDS = 15.0


def spec(pipeline: str, *depends_on: str, **options: Any) -> PipelineSpec:
    """A pipeline that retries at once unless told otherwise."""
    layer, _, name = pipeline.partition(".")
    return PipelineSpec(pipeline, layer, name, "python", depends_on=depends_on, **options)


class Failures(logging.Handler):
    """Errors that the executor swallows to go on; a test must not."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class World:
    """One home: its store outlives the executors that work on it.

    Args:
        beside: Another home, whose store, tables and clock this one shares.
    """

    def __init__(
        self, *specs: PipelineSpec, capacity: int = 4, beside: World | None = None
    ) -> None:
        self.catalog = Catalog({one.pipeline_id: one for one in specs}, code_version="v1")
        self.capacity = capacity
        self.store = MemoryStore(beside.store.memory if beside else None)
        self.clock = beside.clock if beside else FakeClock()
        self.tables = beside.tables if beside else FakeTables()
        self.failures = beside.failures if beside else Failures()
        self.predecessors: list[str] = []
        self.keeps_lease = False
        self.boot()

    def boot(self, *, recover: bool = True) -> None:
        """Start an executor, as after a crash of the one before: what that one had in memory is gone."""
        hub = Hub()
        self.follower = Follower(self.store, hub)
        self.ledger = DirectLedger(self.store, self.follower.wrote)
        self.manager = JobManager(
            self.store, self.ledger, self.clock, self.catalog, tables=self.tables
        )
        self.workers = FakeWorkers(self.capacity)
        self.executor = PipelineExecutor(
            store=self.store,
            ledger=self.ledger,
            manager=self.manager,
            workers=self.workers,
            tables=self.tables,
            hub=hub,
            clock=self.clock,
            lease_seconds=LEASE_SECONDS,
            predecessors=self.predecessors,
        )
        self.predecessors = [*self.predecessors, self.executor.executor_id]
        self.follower._hear = self.executor.hear
        self.follower._position = len(self.store.memory.events)
        self.executor._lease._aside = cast(Any, Aside())
        self.executor._lease.members.renewed(math.inf)  # until `keep_lease`
        self.aside = self.executor._side = cast(Any, Aside())
        self.manager.wake, self.manager.owner = self.executor.wake, self.executor.owner_of_new
        self.manager.outlook = self.executor.outlook
        self.manager.rollbacks.freed = self.executor.tables_freed
        self.workers.start(self.executor._agenda.put)
        if recover:
            self.executor._agenda.post(self.executor._lease.scan)
            self.settle()

    def keep_lease(self) -> World:
        """Beat, and look at the others, from now on."""
        self.keeps_lease = True
        self.executor._lease.members.renewed(self.clock.monotonic() - LEASE_SECONDS / 3)
        self.executor._agenda.post(self.executor._lease.round)
        return self.settle()

    def follow(self) -> World:
        """Hear what others have committed."""
        with contextlib.suppress(StoreUnavailableError):
            while self.follower._read_page():
                pass
        return self.settle()

    # ---------------------------------------------------------------- driving

    def settle(self) -> World:
        """Tick until nothing is left to do at this instant."""
        for _ in range(STEPS_MAX):
            self.executor.tick(0)
            if not self.executor._agenda.has_messages and self.executor._next_in() != 0:
                return self
        raise AssertionError("the executor does not come to rest")

    def later(self, seconds: float) -> World:
        self.clock.pass_(seconds)
        return self.settle()

    def run(self, *pipelines: str, settle: bool = True, **options: Any) -> str:
        """Create a job and let it start what can start."""
        job, _ = self.manager.create(RunRequest(pipelines, **options), user_id="ann")
        if settle:
            self.settle()
        return job.job_id

    def cancel(
        self, job_id: str, mode: StopMode = StopMode.GRACEFUL, *, settle: bool = True
    ) -> None:
        self.manager.cancel(job_id, StopRequest("ann", "enough", mode))
        if settle:
            self.settle()

    def cancel_elsewhere(self, job_id: str, mode: StopMode = StopMode.GRACEFUL) -> None:
        """Another process stops the job; nobody is woken here."""
        ledger = DirectLedger(self.store, lambda _: None)
        other = JobManager(self.store, ledger, self.clock, self.catalog, wake=lambda *_: None)
        other.cancel(job_id, StopRequest("ann", "enough", mode))

    def cancel_task_elsewhere(self, job_id: str, pipeline: str) -> None:
        """Another process stops one task of the job; nobody is woken here."""
        ledger = DirectLedger(self.store, lambda _: None)
        other = JobManager(self.store, ledger, self.clock, self.catalog, wake=lambda *_: None)
        other.cancel_task(job_id, self.task(job_id, pipeline).task_id, StopRequest("ann"))

    def steal(self, job_id: str) -> None:
        """Another executor takes the job over."""
        seen = self.store.get(job_id)
        taken = replace(seen, executor_id="other", lease=seen.lease + 1)
        self.store.commit([Change(taken, made_from=seen.version)])

    def ask_permit(self, pipeline: str, *, settle: bool = True) -> str:
        """The task that runs `pipeline` asks to commit. Returns its id."""
        task_id = self.live(pipeline).task_id
        self.workers.tell(PermitAsked(task_id, 1, 1))
        if settle:
            self.settle()
        return task_id

    def ask_permit_of(self, task_id: str) -> None:
        self.workers.tell(PermitAsked(task_id, 1, 1))

    def end(
        self,
        pipeline: str,
        outcome: str = "success",
        *,
        settle: bool = True,
        job_id: str | None = None,
        **fields: Any,
    ) -> str:
        """The attempt at `pipeline` is over. Returns the task's id."""
        task_id = self.live(pipeline, job_id).task_id
        del self.workers.live[task_id]
        self.workers.tell(TaskEnded(task_id, outcome, **fields))
        if settle:
            self.settle()
        return task_id

    def close(self) -> None:
        """What `PipelineExecutor.close` asks of the loop."""
        self.executor._agenda.post(self.executor._begin_closing)
        self.settle()

    # ---------------------------------------------------------------- looking

    def live(self, pipeline: str, job_id: str | None = None) -> Assignment:
        [found] = [
            a
            for a in self.workers.live.values()
            if a.spec.pipeline_id == pipeline and job_id in (None, a.job_id)
        ]
        return found

    @property
    def running(self) -> list[str]:
        """What workers have, in the order in which they were handed it."""
        return [a.spec.pipeline_id for a in self.workers.live.values()]

    @property
    def handed(self) -> list[str]:
        """What workers were ever handed."""
        return [a.spec.pipeline_id for a in self.workers.handed]

    def job(self, job_id: str) -> Job:
        return self.store.get(job_id)

    def status(self, job_id: str) -> JobStatus:
        return self.job(job_id).status

    def task(self, job_id: str, pipeline: str) -> TaskRecord:
        [found] = [t for t in self.store.tasks([job_id]) if t.pipeline == pipeline]
        return found

    def tasks(self, job_id: str) -> dict[str, str]:
        return {t.pipeline: t.status.value for t in self.store.tasks([job_id])}

    def stages(self, task_id: str) -> list[Stage]:
        """The stages that were delivered to a task, in order."""
        return [stage for of, stage in self.workers.delivered if of == task_id]

    def is_sound(self) -> None:
        """What must hold of any home at rest, whatever has happened to it."""
        assert not self.failures.records, [r.getMessage() for r in self.failures.records]
        for job in self.store.memory.jobs.values():
            tasks = self.store.tasks([job.job_id])
            by_status = {s: sum(t.status is s for t in tasks) for s in TaskStatus}
            counted = (
                job.running_tasks,
                job.completed_tasks,
                job.failed_tasks,
                job.cancelled_tasks,
            )
            assert counted == (
                by_status[TaskStatus.RUNNING],
                by_status[TaskStatus.SUCCESS],
                by_status[TaskStatus.FAILED],
                by_status[TaskStatus.CANCELLED],
            )
            assert len({t.pipeline for t in tasks}) == len(tasks)
            if job.is_over:
                assert all(t.is_terminal for t in tasks)
            held = [w for w in self.store.memory.writers.values() if w.job_id == job.job_id]
            running = {t.task_id for t in tasks if t.status is TaskStatus.RUNNING}
            assert {w.task_id for w in held} == running

    def is_idle(self) -> None:
        """That nothing of what is over is kept in memory."""
        self.later(
            SCAN_AGAIN_SECONDS
        )  # an executor that has ended is forgotten once nothing of it is left
        executor = self.executor
        live: Sequence[Any] = [
            executor._held,
            executor._running._tasks,
            executor._starting,
            executor._running._stops,
            executor._timeouts,
            executor.cancelled_jobs,
            executor._book.waiting,
        ]
        assert not any(live), live
        if self.keeps_lease:
            [beat] = [timer for *_, timer in executor._agenda._timers if timer.do is not None]
            beat.cancel()
        assert executor._agenda.is_at_rest


STATS = TaskStats(rows=10, bytes=100, files=1, units=1, version=3)
Made = Callable[..., World]
