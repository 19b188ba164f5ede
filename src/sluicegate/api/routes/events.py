"""`GET /api/events`: what happens to jobs, as it happens (server-sent events).

Source: HTML Living Standard, section 9.2.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Final

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from sluicegate.api.auth import Access, Principal, Viewer, access_of
from sluicegate.api.deps import ServiceDep
from sluicegate.api.event_feed import PAGE_SIZE, EventFeed
from sluicegate.core.job import Event
from sluicegate.core.render import event_dict
from sluicegate.core.store_errors import StoreUnavailableError

router = APIRouter(prefix="/api", tags=["events"])

KEEP_ALIVE_SECONDS: Final = 15
RECHECK_SECONDS: Final = 2.0
EVENT_ID_MAX: Final = 2**63 - 1

LastIdHeader = Annotated[int | None, Header(ge=0, le=EVENT_ID_MAX)]
LastIdQuery = Annotated[int | None, Query(alias="last_event_id", ge=0, le=EVENT_ID_MAX)]

logger = logging.getLogger("sluicegate.api")


@router.get(
    "/events",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def stream_events(
    request: Request,
    caller: Viewer,
    service: ServiceDep,
    job_id: str | None = None,
    last_event_id: LastIdHeader = None,
    last_event_id_query: LastIdQuery = None,
) -> Response:
    """Follow all jobs, or one.

    Each message's data is an event as the job's timeline has it. After a break, `Last-Event-ID`
    (browsers send it by themselves) goes on where the stream ended, with nothing lost and nothing
    twice; without it the stream begins now. Events of type `task.progress` pass by: they have the
    id 0, are sent without one and are not kept.

    404 `job_not_found`.
    """
    if job_id is not None:
        await to_thread.run_sync(service.manager.header, job_id)
    feed: EventFeed = request.app.state.feed
    after = last_event_id if last_event_id is not None else last_event_id_query
    return EventSourceResponse(
        _stream(feed, access_of(request), caller, job_id, after),
        ping=KEEP_ALIVE_SECONDS,
        ping_message_factory=lambda: ServerSentEvent(comment="still here"),
        sep="\n",
    )


async def _stream(
    feed: EventFeed, access: Access, caller: Principal, job_id: str | None, after: int | None
) -> AsyncIterator[bytes]:
    """Yield encoded events: those the store has after `after`, then live ones, until a side closes.

    Invariant: all events up to `sent` were sent, and what follows is in the store or comes to
    `live`, or both.
    """
    try:
        async with feed.subscribed(job_id) as live:
            last = await feed.last_event_id()
            # An id beyond the last is of a store that was replaced.
            sent = last if after is None else min(after, last)
            # An id without data is no message, yet who breaks off before one resumes from it.
            yield f"id: {sent}\n\n".encode()
            behind = sent < last
            while not live.closed:
                if behind:
                    events: Sequence[Event] = await feed.read(job_id, sent)
                    behind = len(events) == PAGE_SIZE
                else:
                    events, behind = await live.take(RECHECK_SECONDS)
                if not await access.still_valid(caller):
                    return
                fresh = [event for event in events if not event.event_id or event.event_id > sent]
                if fresh:
                    yield _encode(fresh)
                    sent = max(sent, *(event.event_id for event in fresh))
    except StoreUnavailableError as error:
        logger.warning(
            "event_stream_ends why=%s", error.what
        )  # The client comes again, and resumes.


def _encode(events: Iterable[Event]) -> bytes:
    """Encode events, many in one chunk. JSON has no line breaks: each is one `data` line."""
    return "".join(
        (f"id: {event.event_id}\n" if event.event_id else "")
        + f"data: {json.dumps(event_dict(event), ensure_ascii=False, separators=(',', ':'))}\n\n"
        for event in events
    ).encode()
