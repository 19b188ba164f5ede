"""`/api/session` and `/signin`: the page signs in with a key or a link and holds a cookie."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from sluicegate.api.auth import (
    Access,
    Viewer,
    access_of,
    cookie_name,
    refuse_cross_site,
)
from sluicegate.api.deps import ServiceDep
from sluicegate.api.errors import InvalidApiKeyError, SignInLinkInvalidError
from sluicegate.api.schemas import SessionShape, SignInRequest, documented
from sluicegate.api.sessions import SESSION_SECONDS
from sluicegate.core.keys import hash_key, looks_like_key

router = APIRouter(tags=["session"])


@router.post("/api/session", responses=documented(200, SessionShape, problems=[422]))
def sign_in(request: Request, service: ServiceDep, body: SignInRequest) -> JSONResponse:
    """Sign in with a key, for a session cookie. 401 `invalid_api_key`; 429 after many of them."""
    if "Sec-Fetch-Site" in request.headers or "Origin" in request.headers:
        refuse_cross_site(request)  # Nobody is signed in by another site as someone else.
    access = access_of(request)
    key = access.keys.read(hash_key(body.key)) if looks_like_key(body.key) else None
    if key is None:
        access.count_failure(request)
        raise InvalidApiKeyError
    response = JSONResponse({"name": key.name, "role": key.role})
    _set_cookie(request, response, access.sessions.issue(key.key_hash, service.clock.now()))
    return response


@router.get("/api/session", responses=documented(200, SessionShape))
async def get_session(caller: Viewer) -> JSONResponse:
    """Show who is calling, and with which role. 401 when nobody is signed in."""
    return JSONResponse({"name": caller.name, "role": caller.role.value})


@router.delete("/api/session", status_code=204, response_class=Response)
async def sign_out(request: Request, caller: Viewer, service: ServiceDep) -> Response:
    """End the session, its event streams included, and take the cookie back."""
    if caller.session is not None:
        access_of(request).sessions.end(caller.session, service.clock.now())
    response = Response(status_code=204)
    response.delete_cookie(cookie_name(request), httponly=True, samesite="strict")
    return response


@router.get("/signin", status_code=303, response_class=RedirectResponse, include_in_schema=False)
def sign_in_by_link(
    request: Request, service: ServiceDep, token: Annotated[str, Query(max_length=200)]
) -> RedirectResponse:
    """Sign in with a printed link: once, within ten minutes. 401 `sign_in_link_invalid`."""
    access = access_of(request)
    page = RedirectResponse("/", 303, {"Cache-Control": "no-store"})
    key_hash = access.sign_in_tokens.redeem(token, service.clock.monotonic())
    if key_hash is not None and access.keys.read(key_hash) is not None:
        _set_cookie(request, page, access.sessions.issue(key_hash, service.clock.now()))
        return page
    if _is_signed_in(request, access):
        return page  # The link was clicked twice.
    access.count_failure(request)
    raise SignInLinkInvalidError


def _is_signed_in(request: Request, access: Access) -> bool:
    session = access.read_session(request.cookies.get(cookie_name(request), ""))
    return session is not None and access.keys.read(session.key_hash) is not None


def _set_cookie(request: Request, response: Response, cookie: str) -> None:
    response.set_cookie(
        cookie_name(request),
        cookie,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
