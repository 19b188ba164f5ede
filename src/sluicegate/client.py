"""The same verbs as `JobManager`, over HTTP. Answers are the plain JSON values of the API.

Knows nothing of the service but its address: imports the errors and an HTTP client.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import httpx

from sluicegate.errors import SluicegateError

__all__ = ["ApiError", "Client", "ServerUnreachableError"]

RECONNECT_SECONDS: Final = 1.0
RECONNECTS_MAX: Final = 30
LONG_SECONDS: Final = 300.0
DRY_RUN: Final = {"dry_run": "true"}

Json = dict[str, Any]


class ApiError(SluicegateError):
    """The server refused. `code` and `status` are the server's; `body` is all that it said."""

    code = "api_error"

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        what, _, mend = str(body.get("detail") or body.get("title") or f"HTTP {status}").partition(
            "\n"
        )
        said = None if status == 401 else body.get("mend") or mend
        super().__init__(what, mend=str(said or _MENDS.get(status, _MEND_OTHER)))
        self.status, self.body = status, dict(body)
        self.code = str(body.get("code") or self.code)


class ServerUnreachableError(SluicegateError):
    """No server answered at the address."""

    code = "server_unreachable"

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            f"cannot reach the server at {url}: {why}",
            mend="start it with `sluicegate serve`, or mend or unset SLUICEGATE_URL",
        )
        self.url = url


_MENDS: Final[Mapping[int, str]] = {
    401: "set SLUICEGATE_API_KEY to a key of this server; `sluicegate keys create` makes one",
    403: "use a key with a higher role",
    404: "list what there is to see its name",
    409: "look at what is in its way, and try again",
    422: "give another value",
    429: "wait a little, or raise the server's rate limit",
}
_MEND_OTHER: Final = "try again; the log of the server says more"


class Client:
    """The API of one server. Close it, or use it as a context manager. Safe to use from threads.

    Args:
        url: Where the server listens, such as `http://127.0.0.1:8000`.
        api_key: Sent as a bearer token; `None` sends none.
        user_agent: How the caller names itself.

    Every method raises `ApiError` when the server refuses, `ServerUnreachableError` when none
    answers.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_seconds: float = 30.0,
        user_agent: str = "sluicegate-client",
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"User-Agent": user_agent}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout_seconds, transport=transport
        )

    @property
    def where(self) -> str:
        """What answers, as a person would say it."""
        return f"the server at {self.url}"

    @property
    def runs_jobs(self) -> bool:
        """Whether what answers also runs jobs: a server does."""
        return True

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    # ---------------------------------------------------------------- jobs

    def run(
        self, request: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> Json:
        """Create a job; `request` has the fields of a run. Returns: the job."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return self._call("POST", "/api/jobs", json=dict(request or {}), headers=headers)

    def get(self, job_id: str) -> Json:
        """Return one job with its plan, tasks and receipt."""
        return self._call("GET", f"/api/jobs/{_part(job_id)}")

    def list(self, query: Mapping[str, Any] | None = None) -> Json:
        """Return a page of the history, newest first: `jobs`, `count`, `next_cursor`."""
        return self._call("GET", "/api/jobs", params=_given(query or {}))

    def cancel(self, job_id: str, *, reason: str | None = None, mode: str = "graceful") -> Json:
        """Stop a job. Returns: `message`, `job_id`, `status`, `cancellation`."""
        body = {"reason": reason, "mode": mode}
        return self._call("POST", f"/api/jobs/{_part(job_id)}/cancel", json=body)

    def preview_cancel(self, job_id: str, *, mode: str = "graceful") -> Json:
        """Return what a stop would do: `running`, `not_started`, `kept`, `lost_work_seconds`."""
        path = f"/api/jobs/{_part(job_id)}/cancel"
        return self._call("POST", path, json={"mode": mode}, params=DRY_RUN)

    def cancel_task(
        self, job_id: str, task_id: str, *, reason: str | None = None, mode: str = "graceful"
    ) -> Json:
        """Stop one task of a job that goes on. Returns: the task."""
        body = {"reason": reason, "mode": mode}
        path = f"/api/jobs/{_part(job_id)}/tasks/{_part(task_id)}/cancel"
        return self._call("POST", path, json=body)

    def cancel_many(
        self,
        *,
        job_ids: Iterable[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        reason: str | None = None,
        mode: str = "graceful",
        dry_run: bool = False,
        match_token: str | None = None,
    ) -> Json:
        """Stop many jobs, up to 10,000: these, or those that a filter means.

        Args:
            filter: Names of the history's query, each with a value or a list.
            match_token: What a dry run answered; the call is limited to the jobs that were shown.

        Returns: `matched`, `cancelled`, `results`; of a dry run also `match_token`.
        """
        body: Json = {"reason": reason, "mode": mode, "dry_run": dry_run}
        if job_ids is not None:
            body["job_ids"] = list(job_ids)
        if filter is not None:
            body["filter"] = dict(filter)
        if match_token is not None:
            body["match_token"] = match_token
        return self._call("POST", "/api/jobs/cancel", json=body, timeout=LONG_SECONDS)

    def preview_resume(self, job_id: str) -> Json:
        """Return what a resume would do: `kept`, `runs`."""
        return self._call("POST", f"/api/jobs/{_part(job_id)}/resume", params=DRY_RUN)

    def resume(self, job_id: str) -> Json:
        """Go on with an ended job. Returns: the new job."""
        return self._call("POST", f"/api/jobs/{_part(job_id)}/resume")

    def rerun(self, job_id: str) -> Json:
        """Run a job's plan again. Returns: the new job."""
        return self._call("POST", f"/api/jobs/{_part(job_id)}/rerun")

    def preview_rollback(self, job_id: str) -> Json:
        """Return what a rollback would do: `tables`, each with `from_version`, `to_version`."""
        path = f"/api/jobs/{_part(job_id)}/rollback"
        return self._call("POST", path, params=DRY_RUN, timeout=LONG_SECONDS)

    def rollback(self, job_id: str) -> Json:
        """Put the tables that a job changed back. Returns: `tables`, `rolled_back_at`."""
        path = f"/api/jobs/{_part(job_id)}/rollback"
        return self._call("POST", path, timeout=LONG_SECONDS)

    def prune(self, request: Mapping[str, Any]) -> Json:
        """Remove old jobs and files, for a few seconds; `request` has the fields of a prune.

        Returns: `jobs`, `kept`, `tables`, and `cursor`: send it along until it is `None`.
        """
        return self._call("POST", "/api/prune", json=dict(request), timeout=LONG_SECONDS)

    def logs(
        self, job_id: str, *, task_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> Json:
        """Return the job's log lines after `after`: `logs`, `next_after`."""
        query = _given({"task_id": task_id, "after": after, "limit": limit})
        return self._call("GET", f"/api/jobs/{_part(job_id)}/logs", params=query)

    def follow(self, job_id: str | None = None, *, after: int | None = None) -> Iterator[Json]:
        """Yield events as they happen, without end; a lost connection is taken up where it broke.

        Args:
            job_id: Only this job's.
            after: Begin with the events after this id; `None` begins with the next one.

        Raises: `ServerUnreachableError` when the server stays away for half a minute.
        """
        last, failures = None if after is None else str(after), 0
        while True:
            try:
                for event_id, data in self._stream(job_id, last):
                    failures = 0
                    last = event_id or last
                    yield data
            except httpx.TransportError as error:
                failures += 1
                if failures > RECONNECTS_MAX:
                    raise ServerUnreachableError(self.url, _why(error)) from error
            except ApiError as error:
                failures += 1
                if error.status < 500 or failures > RECONNECTS_MAX:
                    raise
            time.sleep(RECONNECT_SECONDS)

    # ---------------------------------------------------------------- what there is

    def pipelines(self) -> Json:
        """Return what is declared: `pipelines`."""
        return self._call("GET", "/api/pipelines")

    def tables(self) -> Json:
        """Return the tables: `tables`, each with `name`, `version`, `row_count`, `columns`."""
        return self._call("GET", "/api/tables")

    def table(self, name: str, *, limit: int = 20, version: int | None = None) -> Json:
        """Return one table: `name`, `schema`, `version`, `row_count`, `preview`."""
        query = _given({"limit": limit, "version": version})
        return self._call("GET", f"/api/tables/{_part(name)}", params=query)

    def keys(self) -> Json:
        """Return the API keys, never the secrets: `keys`."""
        return self._call("GET", "/api/keys")

    def create_key(self, name: str, role: str) -> Json:
        """Make a key. Returns: `name`, `role`, and the secret `key`, which is shown only here."""
        return self._call("POST", "/api/keys", json={"name": name, "role": role})

    def revoke_key(self, name: str) -> Json:
        """Revoke a key; it stops working at once."""
        return self._call("DELETE", f"/api/keys/{_part(name)}")

    def answers(self, *, timeout_seconds: float = 2.0) -> bool:
        """Whether something listens at the address; one that is slow to answer does."""
        try:
            self._http.get("/health/live", timeout=timeout_seconds)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError):
            return False
        except httpx.HTTPError:
            return True
        return True

    # ---------------------------------------------------------------- below

    def _call(self, method: str, path: str, **options: Any) -> Json:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ServerUnreachableError(self.url, _why(error)) from error
        if not response.is_success:
            raise _refusal(response)
        if not response.content:
            return {}
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ServerUnreachableError(self.url, "what answers there is no Sluicegate server")
        return body

    def _stream(self, job_id: str | None, last: str | None) -> Iterator[tuple[str | None, Json]]:
        """One connection to the event stream, until it breaks."""
        headers = {"Accept": "text/event-stream"} | (
            {} if last is None else {"Last-Event-ID": last}
        )
        timeout = httpx.Timeout(30.0, read=60.0)
        with self._http.stream(
            "GET",
            "/api/events",
            params=_given({"job_id": job_id}),
            headers=headers,
            timeout=timeout,
        ) as response:
            if not response.is_success:
                response.read()
                raise _refusal(response)
            for name, event_id, data in parse_events(response.iter_lines()):
                if name == "message":
                    yield event_id, json.loads(data)


def parse_events(lines: Iterable[str]) -> Iterator[tuple[str, str | None, str]]:
    """Yield name, id and data of each server-sent event; an event that is cut off is left out.

    Source: the HTML Living Standard, section 9.2.6, "Interpreting an event stream".
    """
    name, data = "message", list[str]()
    event_id: str | None = None
    for line in lines:
        if not line:
            if data:
                yield name, event_id, "\n".join(data)
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value or "message"
        elif field == "id" and "\0" not in value:
            event_id = value


def _refusal(response: httpx.Response) -> SluicegateError:
    try:
        body = response.json()
    except ValueError:
        body = None
    return ApiError(response.status_code, body if isinstance(body, dict) else {})


def _why(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectError):
        return "the connection was refused" if "refused" in str(error) else str(error)
    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time"
    return str(error) or type(error).__name__


def _given(query: Mapping[str, Any]) -> Json:
    """The parameters that have a value."""
    return {name: value for name, value in query.items() if value is not None and value != ()}


def _part(value: str) -> str:
    """A value as one part of a path."""
    return quote(value, safe="")
