"""`/api/jobs`: run, list, look at and stop jobs. Parse, one call, render."""

from __future__ import annotations

import base64
import binascii
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse

from sluicegate.api.auth import Operator, Principal, Viewer
from sluicegate.api.deps import ManagerDep, ServiceDep
from sluicegate.api.errors import InvalidCursorError, render_error
from sluicegate.api.schemas import (
    CancelJobRequest,
    CancelShape,
    EventsShape,
    HistoryParameters,
    HistoryShape,
    JobDetailsShape,
    JobShape,
    LogParameters,
    LogsShape,
    PageParameters,
    RunJobRequest,
    documented,
)
from sluicegate.core.job import Job, JobNotFoundError, JobNotRunningError, JobQuery
from sluicegate.core.job_manager import JobDetails, RunRequest, StopRequest
from sluicegate.core.render import (
    event_dict,
    job_dict,
    log_dict,
    preview_dict,
    receipt_dict,
)

router = APIRouter(prefix="/api/jobs", tags=["jobs"])

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]
IfNotRunning = Literal["error", "ignore"]


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
    return JSONResponse(
        _shown(service, job), 201 if is_new else 200, {"Location": f"/api/jobs/{job.job_id}"}
    )


@router.get("", responses=documented(200, HistoryShape, problems=[422]))
def list_jobs(
    caller: Viewer, service: ServiceDep, asked: Annotated[HistoryParameters, Query()]
) -> JSONResponse:
    """List jobs, newest first. Paging by `next_cursor` is stable while jobs are added.

    422 `invalid_request` or `invalid_cursor`, naming the parameter.
    """
    jobs, before = service.manager.list(_query(asked))
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
    return JSONResponse(_shown(service, details.job, details))


@router.post("/{job_id}/cancel", responses=documented(200, CancelShape, problems=[400, 422]))
def cancel_job(
    job_id: str,
    caller: Operator,
    service: ServiceDep,
    body: CancelJobRequest | None = None,
    if_not_running: IfNotRunning = "error",
    dry_run: bool = False,
) -> JSONResponse:
    """Stop a job. When this answers, the job is stored as `cancelled`; its tasks follow.

    200: decided, with the receipt as far as it is known. With `dry_run` nothing is decided; the
    answer says what a stop would do. 400 `job_not_found`. 400 `job_not_running`: it had ended;
    `job_status` says how. With `if_not_running=ignore` that is 200 and the job as it is.
    """
    asked = body or CancelJobRequest()
    try:
        if dry_run:
            return JSONResponse(preview_dict(service.manager.preview_cancel(job_id)))
        job = service.manager.cancel(job_id, StopRequest(caller.name, asked.reason, asked.mode))
    except JobNotFoundError as error:
        return render_error(error, status=400)  # 400, not 404: the seed's API says so.
    except JobNotRunningError:
        if if_not_running == "error":
            raise
        job = service.manager.header(job_id)
        return JSONResponse(_shown(service, job) | {"message": f"Job {job_id} is not running"})
    assert job.cancellation is not None
    return JSONResponse(
        {
            "message": f"Job {job_id} has been cancelled",
            "job_id": job_id,
            "status": job.status.value,
            "cancellation": receipt_dict(job.cancellation),
        }
    )


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


def _shown(service: ServiceDep, job: Job, details: JobDetails | None = None) -> dict[str, Any]:
    percent = service.manager.progress_percent([job])[job.job_id]
    return job_dict(job, service.clock.now(), percent, details)


def _trigger(request: Request, caller: Principal) -> str:
    """What asked for the run: the page is known by its session, our command line by its name."""
    if caller.session is not None:
        return "ui"
    agent = request.headers.get("User-Agent", "")
    return "cli" if agent.startswith("sluicegate-cli") else "api"


def _query(asked: HistoryParameters) -> JobQuery:
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
        before_job_id=asked.cursor and _decode_cursor(asked.cursor),
        limit=asked.limit,
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
