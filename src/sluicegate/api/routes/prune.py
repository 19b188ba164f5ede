"""`/api/prune`: remove old jobs, and the files of tables that are kept only for them. For admins only."""

from __future__ import annotations

from typing import Annotated, Final

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from sluicegate.api.auth import Admin
from sluicegate.api.deps import ServiceDep
from sluicegate.api.schemas import NoParameters, PrunedShape, PruneRequest, documented
from sluicegate.core.pruning import Pruner, Pruning
from sluicegate.core.render import pruned_dict

router = APIRouter(prefix="/api/prune", tags=["prune"])

# Each takes seconds of the store and the lake, which stops need as well.
PRUNES_AT_ONCE: Final = 1


@router.post("", responses=documented(200, PrunedShape, problems=[422]))
async def prune(
    request: Request,
    caller: Admin,
    service: ServiceDep,
    body: PruneRequest,
    asked: Annotated[NoParameters, Query()],
) -> JSONResponse:
    """Remove jobs that ended before an instant, and old files of tables: a few seconds of it.

    Never what a resume or a rollback still needs. 200 and what was removed, or with `dry_run`
    would be; with a `cursor` there is more: send the same again with it, until it is null. 422
    `invalid_cursor`, `invalid_request`.
    """
    pruning = Pruning(body.ended_before, body.resumable, body.dry_run)
    pruner = Pruner(service.store, service.tables, service.clock)
    limiter: CapacityLimiter = request.app.state.prunes
    done = await to_thread.run_sync(pruner.step, pruning, body.cursor, limiter=limiter)
    return JSONResponse(pruned_dict(done))
