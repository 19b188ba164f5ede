"""Taking back what a job has published: decided in one write that holds all its tables, then carried out.

From the decision on nobody else can write these tables, and no crash leaves some of them back and some not: whoever
starts next carries it on. A table's log says whether it was put back already, by the epoch that the decision took.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from sluicegate.core.ids import new_id
from sluicegate.core.job import (
    Event,
    Job,
    JobNotRolledBackError,
    LogEntry,
    Rollback,
    TableRollback,
    TaskRecord,
)
from sluicegate.core.ledger import Ledger
from sluicegate.core.ports import Change, Clock, Store, Tables
from sluicegate.core.transitions import check_rollback, decide_rollback
from sluicegate.errors import SluicegateError


class Rollbacks:
    """The rollbacks of a store's jobs.

    Args:
        tables: The lake; without it nothing can be rolled back here.
    """

    def __init__(self, store: Store, ledger: Ledger, clock: Clock, tables: Tables | None) -> None:
        self._store, self._ledger, self._clock, self._tables = store, ledger, clock, tables
        self._one_at_a_time = threading.Lock()
        # Told of tables that a rollback has let go of.
        self.freed: Callable[[Sequence[str]], None] = lambda _: None

    def preview(self, job: Job, tasks: Sequence[TaskRecord]) -> tuple[TableRollback, ...]:
        """Return what a rollback would put back. Raises: as `roll_back`."""
        check_rollback(job)
        return self._steps(job, tasks)

    def roll_back(self, job: Job, tasks: Sequence[TaskRecord], requested_by: str) -> Job:
        """Decide and carry out. One that was decided and cut off is carried on.

        Raises:
            JobNotRolledBackError: It runs or stops, was rolled back before, or a table is being written.
            SluicegateError: What `Tables.plan_rollback` raises; then nothing was decided.
        """
        if job.rollback is not None and job.rollback.finished_at is None:
            return self._carry_out(job)
        check_rollback(job)
        now = self._clock.now()
        # Read before the logs are: whoever takes a table in between is seen by the write.
        before = self._store.writers(_changed_by(tasks))
        rollback = Rollback(new_id(), now, requested_by, self._steps(job, tasks))
        for step in rollback.tables:
            if not before[step.table].is_free:
                raise _table_busy(job.job_id, f"table {step.table!r}")
        held = tuple(
            replace(
                before[step.table],
                epoch=before[step.table].epoch + 1,
                job_id=job.job_id,
                task_id=rollback.rollback_id,
            )
            for step in rollback.tables
        )

        def decide(job: Job) -> Change | None:
            facts = {"tables": [step.table for step in rollback.tables]}
            change = Change(
                decide_rollback(job, rollback),
                made_from=job.version,
                writers=held,
                events=(Event("job.rolling_back", job.job_id, now, data=facts),),
                logs=(LogEntry(job.job_id, now, f"rollback requested by {requested_by}"),),
            )
            # Without a table there is nothing by which `finish` would find it after a crash.
            return change if rollback.tables else _finishing(change, rollback, now)

        written = self._ledger.write(job.job_id, decide)
        if written.conflict:
            raise _table_busy(job.job_id, "one of its tables")
        return self._carry_out(written.job) if rollback.tables else written.job

    def finish(self) -> None:
        """Carry out what was decided before a crash.

        Raises: `StoreUnavailableError`, and what the lake raises, when all others are carried out.
        """
        failed: SluicegateError | None = None
        for job_id in {writer.job_id for writer in self._store.held_writers() if writer.job_id}:
            job = self._store.get(job_id)
            if job.rollback is not None and job.rollback.finished_at is None:
                try:
                    self._carry_out(job)
                except SluicegateError as error:
                    failed = error
        if failed is not None:
            raise failed

    def _steps(self, job: Job, tasks: Sequence[TaskRecord]) -> tuple[TableRollback, ...]:
        assert self._tables is not None
        steps = (self._tables.plan_rollback(table, job.job_id) for table in _changed_by(tasks))
        return tuple(step for step in steps if step is not None)

    def _carry_out(self, job: Job) -> Job:
        """Put the tables of a decided rollback back, and let go of them. Done twice it does nothing more."""
        assert self._tables is not None
        assert job.rollback is not None
        rollback, tables = job.rollback, [step.table for step in job.rollback.tables]
        with self._one_at_a_time:
            held = self._store.writers(tables)
            for step in rollback.tables:
                if held[step.table].task_id == rollback.rollback_id:
                    self._tables.roll_back(step, held[step.table])
            now = self._clock.now()

            def decide(job: Job) -> Change | None:
                if job.rollback is None or job.rollback.finished_at is not None:
                    return None
                freed = tuple(replace(held[t], job_id=None, task_id=None) for t in tables)
                change = Change(job, made_from=job.version, writers=freed)
                return _finishing(change, rollback, now)

            job = self._ledger.write(job.job_id, decide).job
        self.freed(tables)
        return job


def _changed_by(tasks: Sequence[TaskRecord]) -> list[str]:
    return [task.pipeline for task in tasks if task.stats.units]


def _table_busy(job_id: str, which: str) -> JobNotRolledBackError:
    return JobNotRolledBackError(
        job_id, "table_busy", f"{which} is being written", "wait until that is over, or stop it"
    )


def _finishing(change: Change, rollback: Rollback, now: datetime) -> Change:
    """The change, which is the end of the rollback, too."""
    job = replace(change.job, rollback=replace(rollback, finished_at=now))
    facts = {"tables": [step.table for step in rollback.tables]}
    return replace(
        change,
        job=job,
        events=(*change.events, Event("job.rolled_back", job.job_id, now, data=facts)),
        logs=(*change.logs, *_lines(job.job_id, rollback, now)),
    )


def _lines(job_id: str, rollback: Rollback, now: datetime) -> Iterator[LogEntry]:
    for step in rollback.tables:
        what = "empty" if step.to_version is None else f"as of version {step.to_version}"
        line = f"{step.table} is {what} again, was version {step.from_version}"
        yield LogEntry(job_id, now, line)
    if not rollback.tables:
        yield LogEntry(job_id, now, "rolled back: it had changed no table")
