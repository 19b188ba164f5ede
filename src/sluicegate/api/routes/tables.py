"""`/api/tables`: the tables of the lake, and a look into each.

A lake may be a bucket far away. Its reads have a few threads of their own: however slow they are,
and however many are asked for, a stop finds a thread at once. That is why these routes are
coroutines.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Final
from uuid import UUID

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from sluicegate.api.auth import Viewer
from sluicegate.api.deps import ServiceDep
from sluicegate.api.schemas import TableShape, TablesShape, documented
from sluicegate.core.render import instant

router = APIRouter(prefix="/api/tables", tags=["tables"])

READS_AT_ONCE: Final = 4

Limit = Annotated[int, Query(ge=0, le=1000)]
Version = Annotated[int | None, Query(ge=0, le=2**63 - 1)]


@router.get("", responses=documented(200, TablesShape))
async def list_tables(request: Request, caller: Viewer, service: ServiceDep) -> JSONResponse:
    """List the tables with their versions, row counts and columns."""

    def read() -> JSONResponse:
        return JSONResponse({"tables": _plain(service.tables.list_tables())})

    return await to_thread.run_sync(read, limiter=_limiter(request))


@router.get("/{table}", responses=documented(200, TableShape, problems=[404, 422]))
async def describe_table(
    request: Request,
    table: str,
    caller: Viewer,
    service: ServiceDep,
    limit: Limit = 50,
    version: Version = None,
) -> JSONResponse:
    """Show a table's schema and its first rows, now or as of a version.

    404 `table_not_found`, `table_version_not_found`.
    """
    describe = partial(service.tables.describe, table, limit=limit, version=version)

    def read() -> JSONResponse:
        return JSONResponse(_plain(describe()))

    return await to_thread.run_sync(read, limiter=_limiter(request))


def _limiter(request: Request) -> CapacityLimiter:
    limiter: CapacityLimiter = request.app.state.table_reads
    return limiter


def _plain(value: Any) -> Any:
    """Return a cell, row or table as JSON: instants as RFC 3339, decimals as text, NaN as null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return instant(value) if value.tzinfo else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    assert isinstance(value, Decimal | UUID), f"tables hold no {type(value).__name__}"
    return str(value)
