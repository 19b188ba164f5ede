"""What comes after a job: go on with it, take it back, run it again. Parse, one call, render."""

from __future__ import annotations

from typing import Annotated, Final

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from sluicegate.api.auth import Admin, Operator
from sluicegate.api.deps import ServiceDep
from sluicegate.api.errors import render_error
from sluicegate.api.routes.jobs import created
from sluicegate.api.schemas import (
    DryRunParameters,
    JobShape,
    NoFields,
    NoParameters,
    ResumePreviewShape,
    RolledBackShape,
    documented,
)
from sluicegate.core.plan import PipelineNotFoundError
from sluicegate.core.render import resume_dict, rolled_back_dict

router = APIRouter(prefix="/api/jobs", tags=["jobs"])

# They wait for the lake, and one for another: they must not take the threads that a stop needs.
ROLLBACKS_AT_ONCE: Final = 4

DryRun = Annotated[DryRunParameters, Query()]


@router.post(
    "/{job_id}/resume",
    status_code=201,
    responses=documented(201, JobShape, problems=[404, 409, 422])
    | {200: {"model": ResumePreviewShape, "description": "With dry_run=true"}},
)
def resume_job(
    job_id: str, caller: Operator, service: ServiceDep, asked: DryRun, body: NoFields | None = None
) -> JSONResponse:
    """Go on with an ended job as a new one: the part of its plan that did not succeed.

    201 and the new job; it is `success` at once when nothing is left. With `dry_run` 200: what is
    kept, and what runs, from its beginning or `after` what it has committed. 404 `job_not_found`.
    409 `job_not_ended`, `job_succeeded`, `already_resumed` (by `resumed_by`), `rolling_back`,
    `pipeline_not_found`: a pipeline is not in the code any more.
    """
    if asked.dry_run:
        return JSONResponse(resume_dict(job_id, service.manager.preview_resume(job_id)))
    try:
        return created(service, service.manager.resume(job_id, user_id=caller.name))
    except PipelineNotFoundError as error:
        return render_error(error, status=409)  # It is the job that names it, not the request.


@router.post(
    "/{job_id}/rerun", status_code=201, responses=documented(201, JobShape, problems=[404, 409])
)
def rerun_job(
    job_id: str,
    caller: Operator,
    service: ServiceDep,
    asked: Annotated[NoParameters, Query()],
    body: NoFields | None = None,
) -> JSONResponse:
    """Run the whole plan of a job again, with the same parameters, as a new job.

    201 and the new job. 404 `job_not_found`. 409 `pipeline_not_found`.
    """
    try:
        return created(service, service.manager.rerun(job_id, user_id=caller.name))
    except PipelineNotFoundError as error:
        return render_error(error, status=409)


@router.post(
    "/{job_id}/rollback", responses=documented(200, RolledBackShape, problems=[404, 409, 422])
)
async def rollback_job(
    request: Request,
    job_id: str,
    caller: Admin,
    service: ServiceDep,
    asked: DryRun,
    body: NoFields | None = None,
) -> JSONResponse:
    """Put the tables that a job changed back to their content before it: all of them, or none.

    200 and the tables; one that the job created becomes empty (`to_version` is null). With
    `dry_run` nothing is changed. 404 `job_not_found`. 409 `job_not_ended`, `already_rolled_back`,
    `rolling_back`, `table_busy`, `table_changed` (by a later job), `content_gone` (vacuumed).
    """
    manager = service.manager

    def answer() -> JSONResponse:
        if asked.dry_run:
            return JSONResponse(rolled_back_dict(job_id, manager.preview_rollback(job_id), None))
        done = manager.rollback(job_id, requested_by=caller.name).rollback
        assert done is not None
        return JSONResponse(rolled_back_dict(job_id, done.tables, done.finished_at))

    limiter: CapacityLimiter = request.app.state.rollbacks
    return await to_thread.run_sync(answer, limiter=limiter)
