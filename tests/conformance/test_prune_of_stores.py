"""A prune on every store: pages, lines of resumes and removals as the real back ends do them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fakes import FakeClock, FakeTables

from sluicegate.core import pruning
from sluicegate.core.job import Event, Job, JobQuery, JobStatus, LogEntry, TaskRecord, TaskStatus
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.ports import Accepted, Change, Store
from sluicegate.core.pruning import KeptFor, Pruner, Pruning

T0 = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = Plan((PlanStep("bronze.a"),))


def put(store: Store, number: int, status: JobStatus = JobStatus.SUCCESS, **links: str) -> str:
    at = T0 + timedelta(minutes=number)
    job = Job(f"0198-{number:04}", "n", status, at, 1, completed_at=at, **links)  # type: ignore[arg-type]
    task = TaskRecord(f"t{number}", job.job_id, "bronze.a", TaskStatus.SUCCESS, started_at=at)
    events = tuple(Event("job.created", job.job_id, at) for _ in range(3))
    logs = tuple(LogEntry(job.job_id, at, f"line {n}") for n in range(3))
    made = Change(job, made_from=0, plan=PLAN, tasks=(task,), events=events, logs=logs)
    [outcome] = store.commit([made])
    assert isinstance(outcome, Accepted)
    return job.job_id


def test_old_jobs_go_page_by_page_and_needed_ones_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever keeps them, the same jobs are left, each with all that belongs to it."""
    monkeypatch.setattr(pruning, "PAGE", 4)
    monkeypatch.setattr(pruning, "LINES_AT_ONCE", 2)
    monkeypatch.setattr(pruning, "ROWS_AT_ONCE", 5)
    for number in range(10):
        put(store, number)
    put(store, 10, JobStatus.FAILED, resumed_by="0198-0011")
    put(store, 11, JobStatus.SUCCESS, resumed_from="0198-0010")
    put(store, 12, JobStatus.CANCELLED)
    put(store, 13, JobStatus.FAILED, resumed_by="0198-0050")
    recent = put(store, 50, JobStatus.SUCCESS, resumed_from="0198-0013")
    tables = FakeTables()
    tables.made_by = {"bronze.a": ["0198-0005"]}
    pruner = Pruner(store, tables, FakeClock(), pause=lambda _: None)
    asked = Pruning(T0 + timedelta(minutes=20))
    for dry_run in (True, False):
        jobs, kept, cursor = 0, Counter[KeptFor](), None
        while True:
            step = pruner.step(replace(asked, dry_run=dry_run), cursor)
            jobs += step.jobs
            kept.update(step.kept)
            if (cursor := step.cursor) is None:
                break
        assert jobs == 11
        # The line of 13 and 50 is judged with its newest job, which is too young to be looked at.
        assert kept == {KeptFor.ROLLBACK: 1, KeptFor.RESUMABLE: 1}
    left = [job.job_id for job in store.list(JobQuery())]
    assert left == [recent, "0198-0013", "0198-0012", "0198-0005"]
    assert [len(store.logs(job_id)) for job_id in left] == [3] * 4
    assert len(store.events()) == 12
    assert len(store.tasks(left)) == 4
    assert store.plan("0198-0005") == PLAN
