"""A manager without an executor: what it stores, and whom it wakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from executor_world import spec
from fakes import T0, DirectLedger, FakeClock, FakeTables, MemoryStore

from sluicegate.core.job import Event, Job, JobQuery, JobStatus, LogEntry, TaskRecord, TaskStatus
from sluicegate.core.job_manager import Catalog, JobManager
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.ports import Change

CATALOG = Catalog(
    {s.pipeline_id: s for s in (spec("bronze.a"), spec("silver.a", "bronze.a"))}, "v1"
)
PLAN = Plan((PlanStep("bronze.a"), PlanStep("silver.a", ("bronze.a",))))


class Managed:
    """A manager whose wake-ups are written down."""

    def __init__(self, *, awake: bool = True) -> None:
        self.store, self.clock, self.tables = MemoryStore(), FakeClock(), FakeTables()
        self.woken: list[str] = []
        ledger = DirectLedger(self.store, lambda _: None)
        wake = (lambda job_id, _job: self.woken.append(job_id)) if awake else None
        self.manager = JobManager(self.store, ledger, self.clock, CATALOG, wake, self.tables)

    def told(self) -> tuple[list[Event], list[LogEntry]]:
        """The events and the lines of all jobs, without the ids that the store gives."""
        events, lines = self.store.memory.events, self.store.memory.logs
        return [replace(e, event_id=0) for e in events], [replace(e, log_id=0) for e in lines]

    def limits_asked(self) -> list[int]:
        """How many jobs each listing from now on asks the store for."""
        limits: list[int] = []
        read = self.store.list

        def listed(query: JobQuery) -> Sequence[Job]:
            limits.append(query.limit)
            return read(query)

        self.store.list = listed  # type: ignore[method-assign]
        return limits

    def stored(self, *tasks: TaskRecord, **fields: Any) -> Job:
        job = Job(
            **{
                "job_id": "j",
                "job_name": "j",
                "status": JobStatus.RUNNING,
                "created_at": T0,
                "total_tasks": 2,
            }
            | fields
        )
        self.store.commit([Change(job, made_from=0, plan=PLAN, tasks=tasks)])
        return job


def task(pipeline: str, status: TaskStatus, **fields: Any) -> TaskRecord:
    return TaskRecord(f"t-{pipeline}", "j", pipeline, status, **fields)
