"""The HTTP API: `create_api(service)` puts routes, errors, access and the web page together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI

from sluicegate.api import errors, guards, openapi, page
from sluicegate.api.auth import Access, issue_sign_in_token
from sluicegate.api.deps import Service
from sluicegate.api.event_feed import EventFeed
from sluicegate.api.routes import (
    again,
    events,
    health,
    jobs,
    keys,
    pipelines,
    prune,
    session,
    stops,
    tables,
)

__all__ = ["Service", "close_event_streams", "create_api", "issue_sign_in_token"]

# Calls mostly wait for the writer's fsync: threads are cheap, a stop that queues for one is not.
THREADS: Final = 80


def create_api(service: Service) -> FastAPI:
    """Return the application. It owns nothing: whoever made `service` closes what it holds.

    Raises: `InvalidRateLimitError`.
    """
    app = FastAPI(
        title="Sluicegate",
        version=service.version,
        description="Runs medallion data pipelines and stops them cleanly.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.service = service
    app.state.access = Access(service)
    app.state.feed = EventFeed(service.hub, service.store)
    app.state.table_reads = CapacityLimiter(tables.READS_AT_ONCE)
    app.state.rollbacks = CapacityLimiter(again.ROLLBACKS_AT_ONCE)
    app.state.prunes = CapacityLimiter(prune.PRUNES_AT_ONCE)
    # First: routes are tried in order, and a stop is urgent.
    app.router.routes.insert(0, stops.PlainStopRoute())
    for routes in (jobs, stops, again, pipelines, tables, events, keys, prune, session, health):
        app.include_router(routes.router)
    page.install(app)
    openapi.install(app)
    app.add_middleware(guards.BodyLimit)
    errors.install(app)
    app.add_middleware(guards.SecurityHeaders)
    return app


def close_event_streams(app: FastAPI) -> None:
    """End all event streams, so that a server that shuts down waits for none. Safe from any thread.

    Call it before the server waits for its connections; clients come again and resume.
    """
    feed: EventFeed = app.state.feed
    feed.close()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield
    close_event_streams(app)
