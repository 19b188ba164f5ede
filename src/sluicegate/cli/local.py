"""The verbs of commands straight on the local store, for when no server lives on this home."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from sluicegate.clock import SystemClock
from sluicegate.core import match_token as match_tokens
from sluicegate.core import render
from sluicegate.core.job import Job, JobQuery, JobStatus, StopMode
from sluicegate.core.job_manager import JobManager, RunRequest
from sluicegate.core.keys import create_key
from sluicegate.core.pruning import Pruner, Pruning
from sluicegate.core.transitions import StopRequest

if TYPE_CHECKING:
    from sluicegate.core.ports import Store, Tables

Json = dict[str, Any]

POLL_SECONDS: Final = 0.25
EVENTS_MAX: Final = 1000


class Parts(Protocol):
    """What is needed of a service that was opened in this process."""

    @property
    def manager(self) -> JobManager:
        """The jobs."""
        ...

    @property
    def store(self) -> Store:
        """Where they are kept."""
        ...

    @property
    def tables(self) -> Tables:
        """The lake."""
        ...


class LocalBackend:
    """A store that was opened here, as commands see it."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._manager = parts, parts.manager

    @property
    def where(self) -> str:
        """What answers, as a person would say it."""
        return "the local store"

    @property
    def runs_jobs(self) -> bool:
        """Whether an executor was started here too."""
        return self._manager.wake is not None

    def run(self, request: Mapping[str, Any], /) -> Json:
        """Create a job and return it."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in request.items()
        }
        asked = RunRequest(**fields)
        job, _ = self._manager.create(asked, user_id=user_name(), trigger="cli")
        return self._shown(job)

    def get(self, job_id: str, /) -> Json:
        """Return a job with its plan and tasks."""
        details = self._manager.get(job_id)
        percent = self._manager.progress_percent([details.job])[job_id]
        return render.job_dict(details.job, datetime.now(UTC), percent, details)

    def list(self, query: Mapping[str, Any], /) -> Json:
        """Return a page of the history. A cursor is the id of the last job of the page before."""
        jobs, before = self._manager.list(_job_query(query))
        now, percents = datetime.now(UTC), self._manager.progress_percent(jobs)
        shown = [render.job_dict(job, now, percents[job.job_id]) for job in jobs]
        return {"jobs": shown, "count": len(jobs), "next_cursor": before}

    def cancel(self, job_id: str, /, *, reason: str | None = None, mode: str = "graceful") -> Json:
        """Stop a job."""
        request = StopRequest(user_name(), reason, StopMode(mode))
        job = self._manager.cancel(job_id, request)
        return {
            "message": f"Job {job_id} has been cancelled",
            "job_id": job_id,
            "status": job.status.value,
            "cancellation": render.receipt_dict(job.cancellation) if job.cancellation else None,
        }

    def preview_cancel(self, job_id: str, /, *, mode: str = "graceful") -> Json:
        """Return what a stop would do."""
        preview = self._manager.preview_cancel(job_id, StopMode(mode))
        return render.preview_dict(preview)

    def cancel_task(
        self, job_id: str, task_id: str, /, *, reason: str | None = None, mode: str = "graceful"
    ) -> Json:
        """Stop one task and return it."""
        request = StopRequest(user_name(), reason, StopMode(mode))
        details = self._manager.cancel_task(job_id, task_id, request)
        [task] = (one for one in details.tasks if one.task_id == task_id)
        return render.task_dict(task, details.job, datetime.now(UTC))

    def cancel_many(
        self,
        *,
        job_ids: Iterable[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        reason: str | None = None,
        mode: str = "graceful",
        dry_run: bool = False,
        match_token: str | None = None,
    ) -> Json:
        """Stop many jobs: these, or those that a filter means."""
        meant: Sequence[str] = list(job_ids or ())
        if job_ids is None:
            meant = self._manager.matching(_job_query(filter or {}))
        if match_token is not None:
            meant = match_tokens.matched_by(match_token, meant)
        if dry_run:
            preview = self._manager.preview_cancel_many(meant, StopMode(mode))
            return render.many_dict(preview, match_tokens.match_token(meant))
        request = StopRequest(user_name(), reason, StopMode(mode))
        return render.many_dict(self._manager.cancel_many(meant, request))

    def preview_resume(self, job_id: str, /) -> Json:
        """Return what a resume would do."""
        return render.resume_dict(job_id, self._manager.preview_resume(job_id))

    def resume(self, job_id: str, /) -> Json:
        """Go on with a job and return the new one."""
        return self._shown(self._manager.resume(job_id, user_id=user_name()))

    def rerun(self, job_id: str, /) -> Json:
        """Run a job's plan again and return the new job."""
        return self._shown(self._manager.rerun(job_id, user_id=user_name()))

    def preview_rollback(self, job_id: str, /) -> Json:
        """Return what a rollback would do."""
        return render.rolled_back_dict(job_id, self._manager.preview_rollback(job_id), None)

    def rollback(self, job_id: str, /) -> Json:
        """Put a job's tables back and return them. The lake is written by this very process."""
        done = self._manager.rollback(job_id, requested_by=user_name()).rollback
        assert done is not None
        return render.rolled_back_dict(job_id, done.tables, done.finished_at)

    def prune(self, request: Mapping[str, Any], /) -> Json:
        """Do a step of a prune. Files of the lake are removed by this very process."""
        asked = Pruning(
            datetime.fromisoformat(request["ended_before"]),
            request["resumable"],
            request["dry_run"],
        )
        pruner = Pruner(self._parts.store, self._parts.tables, SystemClock())
        return render.pruned_dict(pruner.step(asked, request["cursor"]))

    def logs(
        self, job_id: str, /, *, task_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> Json:
        """Return log lines."""
        lines = self._manager.logs(job_id, task_id=task_id, after=after, limit=limit)
        return {
            "logs": [render.log_dict(line) for line in lines],
            "next_after": lines[-1].log_id if lines else after,
        }

    def follow(self, job_id: str, /, *, after: int | None = None) -> Iterator[Json]:
        """Yield the job's events as they happen, by asking the store again and again."""
        last = self._parts.store.last_event_id() if after is None else after
        while True:
            events = self._manager.events(job_id=job_id, after=last, limit=EVENTS_MAX)
            for event in events:
                last = event.event_id
                yield render.event_dict(event)
            if len(events) < EVENTS_MAX:
                time.sleep(POLL_SECONDS)

    def pipelines(self) -> Json:
        """Return what was loaded here, which is nothing when only the store was opened."""
        latest = self._manager.latest_tasks()
        now = datetime.now(UTC)
        return {
            "pipelines": [
                render.pipeline_dict(spec, latest.get(pipeline), now)
                for pipeline, spec in self._manager.catalog.specs.items()
            ]
        }

    def tables(self) -> Json:
        """Return the tables."""
        return {"tables": self._parts.tables.list_tables()}

    def table(self, name: str, /, *, limit: int = 20, version: int | None = None) -> Json:
        """Return one table with a preview."""
        return self._parts.tables.describe(name, limit=limit, version=version)

    def keys(self) -> Json:
        """Return the API keys."""
        return {"keys": [render.key_dict(key) for key in self._parts.store.list_keys()]}

    def create_key(self, name: str, role: str, /) -> Json:
        """Make a key; the answer holds the secret."""
        key, secret = create_key(self._parts.store, SystemClock(), name, role)
        return {"name": key.name, "role": key.role, "key": secret}

    def revoke_key(self, name: str, /) -> Json:
        """Revoke a key."""
        return render.key_dict(self._parts.store.revoke_key(name, datetime.now(UTC)))

    def _shown(self, job: Job) -> Json:
        percent = self._manager.progress_percent([job])[job.job_id]
        return render.job_dict(job, datetime.now(UTC), percent)


def user_name() -> str:
    """Return who is sitting here."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "local"


def _job_query(query: Mapping[str, Any]) -> JobQuery:
    return JobQuery(
        statuses=tuple(JobStatus(one) for one in query.get("status", ())),
        pipelines=tuple(query.get("pipeline", ())),
        layers=tuple(query.get("layer", ())),
        labels=tuple((k, v) for k, _, v in (one.partition(":") for one in query.get("label", ()))),
        user_ids=tuple(query.get("user_id", ())),
        triggers=tuple(query.get("trigger", ())),
        created_after=_instant(query.get("created_after")),
        created_before=_instant(query.get("created_before")),
        before_job_id=query.get("cursor"),
        limit=query.get("limit", 50),
    )


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
