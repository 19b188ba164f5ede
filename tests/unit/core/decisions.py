"""Decisions for tests of the ledger, and what they came to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fakes import T0, MemoryStore

from sluicegate.core.job import Job, JobStatus
from sluicegate.core.ledger import Decide, Written
from sluicegate.core.ports import Accepted, Change


def job(job_id: str = "j1", **fields: Any) -> Job:
    return Job(
        **{"job_name": "j", "status": JobStatus.RUNNING, "created_at": T0, "total_tasks": 1}
        | fields,
        job_id=job_id,
    )


def setting(error: str, **parts: Any) -> Decide:
    """A decision that can be told from others."""
    return lambda seen: Change(replace(seen, error=error), made_from=seen.version, **parts)


def adding(letter: str) -> Decide:
    """A decision that depends on the ones before it."""
    return lambda seen: Change(
        replace(seen, error=(seen.error or "") + letter), made_from=seen.version
    )


def by_another(store: MemoryStore, job_id: str = "j1", **fields: Any) -> None:
    """Another process writes the job."""
    seen = store.get(job_id)
    [outcome] = store.commit([Change(replace(seen, **fields), made_from=seen.version)])
    assert isinstance(outcome, Accepted)


def store_of_two() -> MemoryStore:
    """A store with two jobs, each of version 1."""
    store = MemoryStore()
    store.commit([Change(job(name), made_from=0) for name in ("j1", "j2")])
    return store


class Results(list[Any]):
    """What `done` was told, in order."""

    def of(self, name: str) -> Callable[[Any], None]:
        return lambda result: self.append((name, result))

    @property
    def shown(self) -> list[tuple[str, object]]:
        return [
            (n, (r.job.error, r.changed, r.conflict) if isinstance(r, Written) else type(r))
            for n, r in self
        ]
