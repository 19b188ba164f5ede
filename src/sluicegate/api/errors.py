"""Errors at the edge: one table from error code to HTTP status, one shape (problem+json) for all.

Source: RFC 9457 (problem details), RFC 9110 section 15 (statuses).
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sluicegate.core.job import (
    JobNotResumableError,
    JobNotRolledBackError,
    JobNotRunningError,
    TaskNotRunningError,
)
from sluicegate.errors import SluicegateError

logger = logging.getLogger("sluicegate.api")

STATUS: Final[Mapping[str, int]] = {
    "bad_request": 400,
    "job_not_running": 400,  # as the seed says; so is job_not_found, but for a cancel only
    "task_not_running": 400,
    "unauthorized": 401,
    "invalid_api_key": 401,
    "sign_in_link_invalid": 401,
    "cross_site_request": 403,
    "role_too_low": 403,
    "job_not_found": 404,
    "key_not_found": 404,
    "not_found": 404,
    "table_not_found": 404,
    "table_version_not_found": 404,
    "task_not_found": 404,
    "method_not_allowed": 405,
    "already_resumed": 409,
    "already_rolled_back": 409,
    "content_gone": 409,
    "job_not_ended": 409,
    "job_succeeded": 409,
    "key_exists": 409,
    "rolling_back": 409,
    "table_busy": 409,
    "table_changed": 409,
    "body_too_large": 413,
    "record_too_large": 413,
    "filter_empty": 422,
    "invalid_cursor": 422,
    "invalid_key_name": 422,
    "invalid_request": 422,
    "invalid_role": 422,
    "match_token_invalid": 422,
    "nothing_to_run": 422,
    "pipeline_not_found": 422,  # 409 where a job of the past asks for it
    "too_many_jobs": 422,
    "rate_limited": 429,
    "internal_error": 500,
    "not_ready": 503,
    "store_contention": 503,
    "store_unavailable": 503,
    "workers_unavailable": 503,
    "lake_unreadable": 503,
}

# The field of the request that an error of the core is about.
FIELDS: Final[Mapping[str, str]] = {
    "filter_empty": "filter",
    "invalid_cursor": "cursor",
    "invalid_key_name": "name",
    "invalid_role": "role",
    "match_token_invalid": "match_token",
    "nothing_to_run": "layers",
    "pipeline_not_found": "pipelines",
    "too_many_jobs": "filter",
}

RETRY_SECONDS: Final = 2


class UnauthorizedError(SluicegateError):
    """The call came without a key."""

    code = "unauthorized"

    def __init__(self) -> None:
        super().__init__(
            "this call needs an API key",
            mend="send it as 'Authorization: Bearer <api key>', or sign in on the page",
        )


class InvalidApiKeyError(SluicegateError):
    """The key is wrong or revoked, or the session is over. Which of these is not told."""

    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__(
            "the API key or session is not valid (any more)",
            mend="check the key, or make a new one with 'sluicegate keys create'",
        )


class SignInLinkInvalidError(SluicegateError):
    """The sign-in link was used, is too old, or was never issued."""

    code = "sign_in_link_invalid"

    def __init__(self) -> None:
        super().__init__(
            "this sign-in link was used already or is too old",
            mend="open / and enter an API key, or start the server again for a new link",
        )


class CrossSiteRequestError(SluicegateError):
    """A page of another site asked the browser for a change that only our own page may ask for."""

    code = "cross_site_request"

    def __init__(self) -> None:
        super().__init__(
            "a change by session cookie must come from this server's own page",
            mend="call with 'Authorization: Bearer <api key>' instead",
        )


class RoleTooLowError(SluicegateError):
    """The key's role does not include what the call needs."""

    code = "role_too_low"

    def __init__(self, role: str, needed: str) -> None:
        super().__init__(
            f"this call needs the role {needed}, the key has {role}",
            mend=f"use a key with the role {needed}",
        )


class RateLimitedError(SluicegateError):
    """Too many calls with one key, or too many failed sign-ins from one address."""

    code = "rate_limited"

    def __init__(self, what: str, retry_after_seconds: float) -> None:
        super().__init__(what, mend="wait as long as Retry-After says")
        self.retry_after_seconds = retry_after_seconds


class NotReadyError(SluicegateError):
    """The server cannot serve yet, or not any more; `checks` says what is missing."""

    code = "not_ready"

    def __init__(self, checks: Mapping[str, Any]) -> None:
        super().__init__("the server is not ready", mend="'checks' says what it waits for")
        self.checks = dict(checks)


class InvalidCursorError(SluicegateError):
    """A cursor that no answer of ours contained."""

    code = "invalid_cursor"

    def __init__(self) -> None:
        super().__init__(
            "the cursor is not one of ours",
            mend="pass the next_cursor of the page before, unchanged",
        )


class FilterEmptyError(SluicegateError):
    """A filter that would mean every job that has not ended."""

    code = "filter_empty"

    def __init__(self) -> None:
        super().__init__(
            "the filter has no condition",
            mend='to stop all that has not ended, say so: {"status": ["pending", "running"]}',
        )


def problem(
    code: str,
    detail: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> JSONResponse:
    """Return an error: `type`, `title`, `status`, `detail`, `code`, and what `members` adds."""
    shown = {
        "type": f"urn:sluicegate:error:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status or STATUS[code],
        "detail": detail,
        "code": code,
        **members,
    }
    return JSONResponse(shown, shown["status"], headers, media_type="application/problem+json")


def render_error(error: SluicegateError, *, status: int | None = None) -> JSONResponse:
    """Return an error of ours; one that no client caused is logged and shown as an incident.

    Args:
        status: Answered in place of the usual one; the error is then about no field of the request.
    """
    code = error.code
    if code not in STATUS:
        return render_incident(error)
    members: dict[str, Any] = {"mend": error.mend} if error.mend else {}
    headers: dict[str, str] = {}
    members |= _facts(error)
    if isinstance(error, NotReadyError):
        members["checks"] = error.checks
    if isinstance(error, RateLimitedError):
        headers["Retry-After"] = str(max(1, -int(-error.retry_after_seconds // 1)))
    field = FIELDS.get(code) if status is None else None
    if field is not None:
        members["errors"] = [{"field": field, "message": error.what}]
    if STATUS[code] == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if STATUS[code] == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
        logger.warning("request_refused code=%s what=%s", code, error.what)
    detail = error.what if field is None else f"{field}: {error.what}"
    return problem(code, detail, status=status, headers=headers, **members)


def _facts(error: SluicegateError) -> dict[str, Any]:
    """The job or task that an error is about, and how it is with that.

    The contract's "its `status` is in the body" is `job_status`: `status` itself is RFC 9457's HTTP status.
    """
    match error:
        case JobNotRunningError(job_id=job_id, status=status):
            return {"job_id": job_id, "job_status": status.value}
        case TaskNotRunningError(task_id=task_id, status=task_status):
            return {"task_id": task_id, "task_status": task_status.value}
        case JobNotResumableError(job_id=job_id, status=status, resumed_by=resumed_by):
            facts = {"job_id": job_id, "job_status": status.value}
            return facts if resumed_by is None else {**facts, "resumed_by": resumed_by}
        case JobNotRolledBackError(job_id=job_id):
            return {"job_id": job_id}
    return {}


def render_incident(error: BaseException) -> JSONResponse:
    """Return an error that tells nothing but the id under which the log tells what happened."""
    incident_id = secrets.token_hex(8)
    logger.error("request_failed incident_id=%s", incident_id, exc_info=error)
    return problem(
        "internal_error",
        f"something went wrong inside; the server's log has it as incident {incident_id}",
        incident_id=incident_id,
    )


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""

    def known(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SluicegateError)
        return render_error(error)

    def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return _render_http(error)

    def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _render_invalid(error)

    app.add_exception_handler(SluicegateError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_middleware(Incidents)


class Incidents:
    """Turns what no handler knows into a problem. Starlette's own would raise it once more."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, one way or the other."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if started:
                raise  # The answer is half sent: only closing the connection can tell the client.
            await render_incident(error)(scope, receive, send)


def _render_http(error: HTTPException) -> JSONResponse:
    """Render what the framework raises: unknown routes, wrong methods, unreadable bodies."""
    what = {
        404: ("not_found", "there is nothing at this address"),
        405: ("method_not_allowed", "this address does not answer this method"),
        413: ("body_too_large", str(error.detail)),
    }
    if error.status_code in what:
        code, detail = what[error.status_code]
        return problem(code, detail, headers=error.headers)
    if error.status_code < 500:
        detail = str(error.detail or HTTPStatus(error.status_code).phrase)
        return problem("bad_request", detail, status=error.status_code, headers=error.headers)
    return render_incident(error)


def _render_invalid(error: RequestValidationError) -> JSONResponse:
    """Render what does not fit the request's model, naming each field."""
    errors = [_field_error(one) for one in error.errors()]
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in errors[:5])
    return problem("invalid_request", detail, errors=errors)


def _field_error(error: Mapping[str, Any]) -> dict[str, str]:
    where: Sequence[Any] = error["loc"]
    kind, message = str(error["type"]), str(error["msg"])
    if kind == "json_invalid":
        return {"field": "body", "message": f"the body is not JSON: {error['ctx']['error']}"}
    if kind == "model_attributes_type" and where == ("body",):
        message = "the body must be a JSON object, sent as application/json"
    if kind == "extra_forbidden":
        message = "there is no such field"
    # A field that a client made up may hold what no answer can: half a surrogate pair.
    field = ".".join(str(part) for part in where[1:]).encode(errors="replace").decode() or "body"
    return {"field": field, "message": message.removeprefix("Value error, ")}


def dumps_strictly(value: object) -> str:
    """Return JSON that all can read. Raises: `ValueError` for NaN, infinities, lone surrogates."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text.encode()
    return text
