"""`/api/pipelines`: what is declared, and how each went last."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from sluicegate.api.auth import Viewer
from sluicegate.api.deps import ServiceDep
from sluicegate.api.schemas import Layer, PipelinesShape, documented
from sluicegate.core.job import TaskRecord
from sluicegate.core.render import task_dict
from sluicegate.declare import PipelineSpec

router = APIRouter(prefix="/api/pipelines", tags=["pipelines"])


@router.get("", responses=documented(200, PipelinesShape, problems=[422]))
def list_pipelines(caller: Viewer, service: ServiceDep, layer: Layer | None = None) -> JSONResponse:
    """List the declared pipelines, in order of declaration."""
    last, now = service.manager.latest_tasks(), service.clock.now()
    shown = [
        _pipeline_dict(spec, last.get(pipeline), now)
        for pipeline, spec in service.manager.catalog.specs.items()
        if layer is None or spec.layer == layer
    ]
    return JSONResponse({"pipelines": shown})


def _pipeline_dict(spec: PipelineSpec, last: TaskRecord | None, now: datetime) -> dict[str, Any]:
    return {
        "pipeline": spec.pipeline_id,
        "layer": spec.layer,
        "name": spec.name,
        "depends_on": list(spec.depends_on),
        "table": spec.pipeline_id,
        "mode": spec.mode,
        "files": spec.files,
        "doc": spec.doc,
        "source": spec.source,
        "file": spec.file,
        "line": spec.line,
        "last_task": None if last is None else {**task_dict(last, now), "job_id": last.job_id},
    }
