"""`…/cancel`: stop one job, one task of a job, or many jobs. Parse, one call, render."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.routing import Match, Route
from starlette.types import Scope

from sluicegate.api.auth import Operator, operator_of
from sluicegate.api.deps import ServiceDep, service_of
from sluicegate.api.errors import FilterEmptyError, render_error
from sluicegate.api.routes.jobs import query_of, shown
from sluicegate.api.schemas import (
    CancelJobRequest,
    CancelJobsRequest,
    CancelManyShape,
    CancelParameters,
    CancelShape,
    CancelTaskRequest,
    DryRunParameters,
    JobFilter,
    NoParameters,
    TaskShape,
    documented,
)
from sluicegate.core.job import JobNotFoundError, JobNotRunningError, JobQuery, StopMode
from sluicegate.core.job_manager import MANY_MAX, JobManager, StopRequest
from sluicegate.core.match_token import match_token, matched_by
from sluicegate.core.render import many_dict, preview_dict, receipt_dict, task_dict

router = APIRouter(prefix="/api/jobs", tags=["jobs"])

# A filter may mean more by the time of the real call; its token still means those that were shown.
MATCHED_MAX_WITH_TOKEN: Final = 10 * MANY_MAX


@router.post("/cancel", responses=documented(200, CancelManyShape, problems=[422]))
def cancel_jobs(
    caller: Operator,
    service: ServiceDep,
    body: CancelJobsRequest,
    asked: Annotated[DryRunParameters, Query()],
) -> JSONResponse:
    """Stop many jobs, up to 10,000: those of `job_ids`, or those that a `filter` means.

    A filter without `status` means jobs that have not ended. 200: each is stored as `cancelled`,
    or its outcome says why not. With `dry_run` nothing is decided, and the outcomes are what would
    be; its `match_token`, sent along with the real call, limits that to the jobs that were shown.
    422 `filter_empty`, `too_many_jobs`, `match_token_invalid`, or `invalid_request`.
    """
    meant = _meant(service.manager, body)
    if body.dry_run or asked.dry_run:
        preview = service.manager.preview_cancel_many(meant, body.mode)
        return JSONResponse(many_dict(preview, match_token(meant)))
    request = StopRequest(caller.name, body.reason, body.mode)
    return JSONResponse(many_dict(service.manager.cancel_many(meant, request)))


@router.post("/{job_id}/cancel", responses=documented(200, CancelShape, problems=[400, 422]))
async def cancel_job(
    job_id: str,
    caller: Operator,
    service: ServiceDep,
    how: Annotated[CancelParameters, Query()],
    body: CancelJobRequest | None = None,
) -> JSONResponse:
    """Stop a job. When this answers, the job is stored as `cancelled`; its tasks follow.

    200: decided, with the receipt as far as it is known. With `dry_run` nothing is decided; the
    answer says what a stop in this `mode` would do. 400 `job_not_found`. 400 `job_not_running`: it
    had ended; `job_status` says how. With `if_not_running=ignore` that is 200 and the job as it is.
    """
    asked, manager = body or CancelJobRequest(), service.manager
    try:
        if how.dry_run:
            preview = await run_in_threadpool(manager.preview_cancel, job_id, asked.mode)
            return JSONResponse(preview_dict(preview))
        # A stop waits for the writer alone, and queues for no thread.
        request = StopRequest(caller.name, asked.reason, asked.mode)
        job = (await asyncio.wrap_future(manager.cancel_soon(job_id, request))).job
    except JobNotFoundError as error:
        return render_error(error, status=400)  # 400, not 404: the seed's API says so.
    except JobNotRunningError:
        if how.if_not_running == "error":
            raise
        job = await run_in_threadpool(manager.header, job_id)
        answer = await run_in_threadpool(shown, service, job)
        return JSONResponse(answer | {"message": f"Job {job_id} is not running"})
    assert job.cancellation is not None
    return JSONResponse(
        {
            "message": f"Job {job_id} has been cancelled",
            "job_id": job_id,
            "status": job.status.value,
            "cancellation": receipt_dict(job.cancellation),
        }
    )


@router.post(
    "/{job_id}/tasks/{task_id}/cancel",
    responses=documented(200, TaskShape, problems=[400, 404, 422]),
)
def cancel_task(
    job_id: str,
    task_id: str,
    caller: Operator,
    service: ServiceDep,
    how: Annotated[NoParameters, Query()],
    body: CancelTaskRequest | None = None,
) -> JSONResponse:
    """Stop one task. What depends on it does not run; the rest of the job goes on.

    200 and the task: its stop is stored, and it is `stopping` until it has ended. 404
    `job_not_found`, `task_not_found`. 400 `job_not_running`, `task_not_running`: it had ended, or
    is being stopped already; `force` escalates that.
    """
    asked = body or CancelTaskRequest()
    request = StopRequest(caller.name, asked.reason, StopMode(asked.mode))
    details = service.manager.cancel_task(job_id, task_id, request)
    [task] = (one for one in details.tasks if one.task_id == task_id)
    return JSONResponse(task_dict(task, details.job, service.clock.now()))


class PlainStopRoute(Route):
    """The stop of a job with neither parameters nor a body; one with either goes on to `cancel_job`.

    FastAPI's routing and validation take longer than all else until the stop is on its way to the store.
    """

    def __init__(self) -> None:
        super().__init__(
            "/api/jobs/{job_id}/cancel", _answer_plain, methods=["POST"], include_in_schema=False
        )

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether the request is one, with its parameters."""
        match, found = super().matches(scope)
        if match is not Match.FULL or scope["query_string"] or _has_body(Headers(scope=scope)):
            return Match.NONE, {}
        return match, found


async def _answer_plain(request: Request) -> Response:
    caller, service = await operator_of(request), await service_of(request)
    return await cancel_job(request.path_params["job_id"], caller, service, CancelParameters())


def _has_body(headers: Headers) -> bool:
    return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers


def _meant(manager: JobManager, body: CancelJobsRequest) -> Sequence[str]:
    """Return the ids of the jobs that a stop of many means, each once."""
    token = body.match_token
    if body.job_ids is not None:
        meant: Sequence[str] = list(dict.fromkeys(body.job_ids))
    else:
        query = query_of(body.filter or JobFilter())
        if query == JobQuery():
            raise FilterEmptyError
        meant = manager.matching(query, most=MATCHED_MAX_WITH_TOKEN if token else MANY_MAX)
    return matched_by(token, meant) if token is not None else meant
