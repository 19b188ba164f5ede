"""`/api/jobs`: run, list and look at jobs. Parse, one call, render."""

from __future__ import annotations

import base64
import binascii
import uuid
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse

from sluicegate.api.auth import Operator, Principal, Viewer
from sluicegate.api.deps import ManagerDep, ServiceDep
from sluicegate.api.errors import InvalidCursorError
from sluicegate.api.schemas import (
    EventsShape,
    HistoryParameters,
    HistoryShape,
    JobDetailsShape,
    JobFilter,
    JobShape,
    LogParameters,
    LogsShape,
    PageParameters,
    RunJobRequest,
    documented,
)
from sluicegate.core.job import Job, JobQuery
from sluicegate.core.job_manager import JobDetails, RunRequest
from sluicegate.core.render import event_dict, job_dict, log_dict

router = APIRouter(prefix="/api/jobs", tags=["jobs"])

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]


@router.post("", status_code=201, responses=documented(201, JobShape, problems=[422]))
def run_job(
    request: Request,
    caller: Operator,
    service: ServiceDep,
    body: RunJobRequest | None = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Run pipelines; with no `pipelines`, all of bronze, then all of silver, then all of gold.

    201 and the new job. 200 and the first one's job where the `Idempotency-Key` was used by this
    user before. 422 `pipeline_not_found`, `nothing_to_run`, or `invalid_request`, naming the field.
    """
    asked = (body or RunJobRequest()).model_dump()
    job, is_new = service.manager.create(
        RunRequest(**asked | {name: tuple(asked[name]) for name in ("pipelines", "layers")}),
        user_id=caller.name,
        trigger=_trigger(request, caller),
        idempotency_key=idempotency_key and f"{caller.name}:{idempotency_key}",
    )
    return created(service, job) if is_new else JSONResponse(shown(service, job), 200, at(job))


@router.get("", responses=documented(200, HistoryShape, problems=[422]))
def list_jobs(
    caller: Viewer, service: ServiceDep, asked: Annotated[HistoryParameters, Query()]
) -> JSONResponse:
    """List jobs, newest first. Paging by `next_cursor` is stable while jobs are added.

    422 `invalid_request` or `invalid_cursor`, naming the parameter.
    """
    query = replace(
        query_of(asked),
        before_job_id=asked.cursor and _decode_cursor(asked.cursor),
        limit=asked.limit,
    )
    jobs, before = service.manager.list(query)
    percent, now = service.manager.progress_percent(jobs), service.clock.now()
    return JSONResponse(
        {
            "jobs": [job_dict(job, now, percent[job.job_id]) for job in jobs],
            "count": len(jobs),
            "next_cursor": before and _encode_cursor(before),
        }
    )


@router.get("/{job_id}", responses=documented(200, JobDetailsShape, problems=[404]))
def get_job(job_id: str, caller: Viewer, service: ServiceDep) -> JSONResponse:
    """Show one job with its plan, tasks and receipt. 404 `job_not_found`."""
    details = service.manager.get(job_id)
    return JSONResponse(shown(service, details.job, details))


@router.get("/{job_id}/logs", responses=documented(200, LogsShape, problems=[404, 422]))
def list_logs(
    job_id: str, caller: Viewer, manager: ManagerDep, asked: Annotated[LogParameters, Query()]
) -> JSONResponse:
    """List the job's log lines, oldest first: its tasks' and its stops'. 404 `job_not_found`."""
    lines = manager.logs(job_id, task_id=asked.task_id, after=asked.after, limit=asked.limit)
    next_after = lines[-1].log_id if lines else asked.after
    return JSONResponse({"logs": [log_dict(line) for line in lines], "next_after": next_after})


@router.get("/{job_id}/events", responses=documented(200, EventsShape, problems=[404, 422]))
def list_events(
    job_id: str, caller: Viewer, manager: ManagerDep, asked: Annotated[PageParameters, Query()]
) -> JSONResponse:
    """List the job's timeline, oldest first, stops included. 404 `job_not_found`."""
    events = manager.events(job_id=job_id, after=asked.after, limit=asked.limit)
    next_after = events[-1].event_id if events else asked.after
    return JSONResponse({"events": [event_dict(one) for one in events], "next_after": next_after})


def created(service: ServiceDep, job: Job) -> JSONResponse:
    """Answer with a new job."""
    return JSONResponse(shown(service, job), 201, at(job))


def at(job: Job) -> dict[str, str]:
    """Return the header that says where a job is found."""
    return {"Location": f"/api/jobs/{job.job_id}"}


def shown(service: ServiceDep, job: Job, details: JobDetails | None = None) -> dict[str, Any]:
    """Return a job as JSON."""
    percent = service.manager.progress_percent([job])[job.job_id]
    return job_dict(job, service.clock.now(), percent, details)


def _trigger(request: Request, caller: Principal) -> str:
    """What asked for the run: the page is known by its session, our command line by its name."""
    if caller.session is not None:
        return "ui"
    agent = request.headers.get("User-Agent", "")
    return "cli" if agent.startswith("sluicegate-cli") else "api"


def query_of(asked: HistoryParameters | JobFilter) -> JobQuery:
    """Return the query that these conditions stand for; where a page begins and ends is not said."""
    pairs = (label.partition(":") for label in asked.label)
    return JobQuery(
        statuses=tuple(asked.status),
        pipelines=tuple(asked.pipeline),
        layers=tuple(asked.layer),
        labels=tuple((key, value) for key, _, value in pairs),
        user_ids=tuple(asked.user_id),
        triggers=tuple(asked.trigger),
        created_after=asked.created_after,
        created_before=asked.created_before,
    )


def _encode_cursor(job_id: str) -> str:
    """A cursor is opaque: what it holds is ours to change."""
    return base64.urlsafe_b64encode(uuid.UUID(job_id).bytes).decode().rstrip("=")


def _decode_cursor(cursor: str) -> str:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return str(uuid.UUID(bytes=raw))
    except (binascii.Error, ValueError):
        raise InvalidCursorError from None
