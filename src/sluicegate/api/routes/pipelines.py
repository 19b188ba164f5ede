"""`/api/pipelines`: what is declared, and how each went last."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from sluicegate.api.auth import Viewer
from sluicegate.api.deps import ServiceDep
from sluicegate.api.schemas import Layer, PipelinesShape, documented
from sluicegate.core.render import pipeline_dict

router = APIRouter(prefix="/api/pipelines", tags=["pipelines"])


@router.get("", responses=documented(200, PipelinesShape, problems=[422]))
def list_pipelines(caller: Viewer, service: ServiceDep, layer: Layer | None = None) -> JSONResponse:
    """List the declared pipelines, in order of declaration."""
    last, now = service.manager.latest_tasks(), service.clock.now()
    shown = [
        pipeline_dict(spec, last.get(pipeline), now)
        for pipeline, spec in service.manager.catalog.specs.items()
        if layer is None or spec.layer == layer
    ]
    return JSONResponse({"pipelines": shown})
