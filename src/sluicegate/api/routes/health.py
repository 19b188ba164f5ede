"""`/health`: for whoever starts, stops and balances servers. Needs no key and tells no secret."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from sluicegate.api.deps import ServiceDep
from sluicegate.api.errors import NotReadyError

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def live(service: ServiceDep) -> JSONResponse:
    """Tell that the process answers. Asks nothing else, so that a slow store kills nobody."""
    return JSONResponse({"status": "live", "version": service.version})


@router.get("/ready")
def ready(service: ServiceDep) -> JSONResponse:
    """Tell whether jobs can be run and stopped. 503 `not_ready`; `checks` says why."""
    checks = service.ready()
    if not checks.get("ready", True):
        raise NotReadyError(checks)
    return JSONResponse({"status": "ready", "version": service.version} | checks)
