"""What routes are handed: the parts that `app.py` has wired together."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request

from sluicegate.core.hub import Hub
from sluicegate.core.job_manager import JobManager
from sluicegate.core.ports import Clock, Store, Tables


@dataclass(frozen=True, slots=True)
class Service:
    """All that the API speaks for.

    Attributes:
        rate_limit: Calls of one key, such as `600/minute`.
        ready: What `/health/ready` shows; a value `"ready": False` in it makes the answer 503.
        session_secret: Signs session cookies. Keep it between starts, and sessions survive them.
    """

    manager: JobManager
    store: Store
    tables: Tables
    hub: Hub
    clock: Clock
    version: str
    rate_limit: str = "600/minute"
    ready: Callable[[], dict[str, Any]] = dict
    session_secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)


async def service_of(request: Request) -> Service:
    """Return the application's service. A coroutine, for a function would cost a thread."""
    service: Service = request.app.state.service
    return service


async def manager_of(request: Request) -> JobManager:
    """Return the application's job manager."""
    service: Service = request.app.state.service
    return service.manager


ServiceDep = Annotated[Service, Depends(service_of)]
ManagerDep = Annotated[JobManager, Depends(manager_of)]
