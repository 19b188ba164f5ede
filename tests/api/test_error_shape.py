"""Every error has one shape, whoever raised it."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_world import MakeWorld, OneTable, World, served

import sluicegate.api
import sluicegate.core
from sluicegate.api.errors import STATUS
from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.errors import SluicegateError

# Raised before there is an API to answer, or a mistake of ours, shown as an incident.
NEVER_ANSWERED = {
    *("error", "invalid_rate_limit", "invalid_transition", "store_too_new", "store_unknown"),
    *("store_driver_missing", "backup_failed", "backup_unsupported"),
}


def shape(answer: httpx.Response) -> dict[str, Any]:
    """Check the shape of a problem and return it."""
    found: dict[str, Any] = answer.json()
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert found["status"] == answer.status_code
    assert found["type"] == f"urn:sluicegate:error:{found['code']}"
    for member in ("title", "detail", "code"):
        assert isinstance(found[member], str)
        assert found[member]
    assert "\n" not in found["detail"]
    return found


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/nowhere", {}, 404, "not_found"),
        ("GET", "/api/nowhere", {}, 404, "not_found"),
        ("GET", "/api/jobs/", {}, 404, "not_found"),
        ("GET", "/static/nowhere.js", {}, 404, "not_found"),
        ("GET", "/static/../../secret", {}, 404, "not_found"),
        ("PUT", "/api/jobs", {}, 405, "method_not_allowed"),
        ("DELETE", "/", {}, 405, "method_not_allowed"),
        ("POST", "/static/app.js", {}, 405, "method_not_allowed"),
        ("GET", "/api/jobs/x", {}, 404, "job_not_found"),
        ("POST", "/api/jobs/x/cancel", {}, 400, "job_not_found"),
        ("GET", "/api/jobs?limit=x", {}, 422, "invalid_request"),
        ("GET", "/api/jobs?cursor=x", {}, 422, "invalid_cursor"),
        ("POST", "/api/jobs", {"json": {"x": 1}}, 422, "invalid_request"),
        ("POST", "/api/jobs", {"json": {"layers": ["gold"]}}, 422, "nothing_to_run"),
        ("POST", "/api/jobs", {"json": {"pipelines": ["x"]}}, 422, "pipeline_not_found"),
        ("POST", "/api/jobs", {"content": b"x" * 1_100_000}, 413, "body_too_large"),
        ("POST", "/api/jobs", {"json": {"params": {"n": 1}}, "headers": {"Idempotency-Key": ""}},
         422, "invalid_request"),
        ("GET", "/api/keys", {}, 403, "role_too_low"),
        ("GET", "/api/tables/bronze.x", {}, 404, "table_not_found"),
        ("GET", "/api/events?job_id=x", {}, 404, "job_not_found"),
        ("GET", "/api/events?last_event_id=x", {}, 422, "invalid_request"),
        ("GET", "/signin?token=x", {}, 401, "sign_in_link_invalid"),
        ("GET", "/signin", {}, 422, "invalid_request"),
    ],
)  # fmt: skip
def test_an_error_is_a_problem(
    world: World, method: str, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    """One reader of errors is enough for every client."""
    found = shape(world.client().request(method, path, **options))
    assert (found["status"], found["code"]) == (status, code)


def test_a_body_without_a_length_is_cut_off_too(world: World) -> None:
    """A chunked body announces no size; without a bound, anyone could fill the memory."""

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"[" * 65_536

    headers = {"Content-Type": "application/json"}
    with served(world.app) as url:
        answer = httpx.post(f"{url}/api/jobs", content=endless(), headers=headers)
    assert shape(answer)["code"] == "body_too_large"


def test_missing_and_wrong_keys_are_challenged(world: World) -> None:
    """RFC 9110 wants the scheme named with each 401."""
    for key, code in ((None, "unauthorized"), ("sg_wrong", "invalid_api_key")):
        answer = world.client(key).get("/api/jobs")
        assert shape(answer)["code"] == code
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_an_error_of_ours_tells_only_an_incident_id(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """What happened inside is in the log, under the id; nothing of it is in the answer."""

    class Broken(OneTable):
        def list_tables(self) -> list[dict[str, Any]]:
            raise RuntimeError("secret of the lake")

    with caplog.at_level(logging.ERROR, "sluicegate.api"):
        found = shape(make_world(tables=Broken()).client().get("/api/tables"))
    assert (found["status"], found["code"]) == (500, "internal_error")
    assert "secret" not in str(found)
    (record,) = [r for r in caplog.records if r.name == "sluicegate.api"]
    assert found["incident_id"] in record.getMessage()
    assert "secret of the lake" in str(record.exc_info)


def test_an_error_without_a_status_is_an_incident(make_world: MakeWorld) -> None:
    """An error that the table of statuses does not know was not meant for clients."""

    class Odd(OneTable):
        def list_tables(self) -> list[dict[str, Any]]:
            raise SluicegateError("an inner matter")

    found = shape(make_world(tables=Odd()).client().get("/api/tables"))
    assert (found["code"], "inner" in str(found)) == ("internal_error", False)


def test_a_store_that_is_away_is_503(make_world: MakeWorld) -> None:
    """The client is told to come again, not that it did something wrong."""

    class Away(OneTable):
        def list_tables(self) -> list[dict[str, Any]]:
            raise StoreUnavailableError("jobs.db", "disk full", mend="make room")

    answer = make_world(tables=Away()).client().get("/api/tables")
    assert (shape(answer)["status"], shape(answer)["code"]) == (503, "store_unavailable")
    assert int(answer.headers["Retry-After"]) > 0


def test_every_error_of_core_and_api_has_a_status() -> None:
    """A new error cannot be forgotten: it gets a line in the table, or one here."""
    for package in (sluicegate.core, sluicegate.api):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    ours = ("sluicegate.core", "sluicegate.api")
    codes = {kind.code for kind in _all_errors(SluicegateError) if kind.__module__.startswith(ours)}
    assert codes - NEVER_ANSWERED <= STATUS.keys()


def _all_errors(kind: type[SluicegateError]) -> Iterator[type[SluicegateError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _all_errors(below)
