"""Keys, roles and rate limits."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from api_world import MakeWorld, World

from sluicegate.api.rate_limit import (
    Buckets,
    InvalidRateLimitError,
    RateLimit,
    parse_rate_limit,
)
from sluicegate.core.job import ApiKey
from sluicegate.core.keys import (
    Role,
    hash_key,
)

CALLS = [
    ("viewer", "GET", "/api/jobs"),
    ("viewer", "GET", "/api/jobs/x"),
    ("viewer", "GET", "/api/jobs/x/logs"),
    ("viewer", "GET", "/api/jobs/x/events"),
    ("viewer", "GET", "/api/events?job_id=x"),
    ("viewer", "GET", "/api/pipelines"),
    ("viewer", "GET", "/api/tables"),
    ("viewer", "GET", "/api/tables/bronze.flights"),
    ("viewer", "GET", "/api/session"),
    ("viewer", "DELETE", "/api/session"),
    ("operator", "POST", "/api/jobs"),
    ("operator", "POST", "/api/jobs/x/cancel"),
    ("operator", "POST", "/api/jobs/cancel"),
    ("operator", "POST", "/api/jobs/x/tasks/t/cancel"),
    ("operator", "POST", "/api/jobs/x/resume"),
    ("operator", "POST", "/api/jobs/x/rerun"),
    ("admin", "POST", "/api/jobs/x/rollback"),
    ("admin", "GET", "/api/keys"),
    ("admin", "POST", "/api/keys"),
    ("admin", "DELETE", "/api/keys/x"),
    ("admin", "POST", "/api/prune"),
]
OPEN = {
    ("GET", "/"), ("HEAD", "/"), ("GET", "/docs"), ("GET", "/docs/start.js"), ("GET", "/signin"),
    ("GET", "/openapi.json"), ("HEAD", "/openapi.json"),
    ("GET", "/health/live"), ("GET", "/health/ready"), ("POST", "/api/session"),
}  # fmt: skip


@pytest.mark.parametrize("caller", [None, "viewer", "operator", "admin"])
@pytest.mark.parametrize(("needed", "method", "path"), CALLS)
def test_each_call_needs_its_role(
    world: World, caller: str | None, needed: str, method: str, path: str
) -> None:
    """Without a key 401, below the role 403, from the role on neither."""
    status = world.client(caller).request(method, path).status_code
    if caller is None:
        assert status == 401
    elif Role(caller).includes(Role(needed)):
        assert status not in (401, 403)
    else:
        assert status == 403


def test_no_route_is_open_by_mistake(world: World) -> None:
    """A new route is in the list of calls above, or is open on purpose."""
    known = {(method, path.partition("?")[0]) for _, method, path in CALLS} | OPEN
    described = world.client(None).get("/openapi.json").json()["paths"]
    for path, calls in described.items():
        template = path.replace("{job_id}", "x").replace("{name}", "x").replace("{task_id}", "t")
        template = template.replace("{table}", "bronze.flights")
        assert {(method.upper(), template) for method in calls} <= known


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic abc", "Bearer sg_x", "bearer é", "Bearer " + "x" * 9000],
)  # fmt: skip
def test_what_is_no_key_is_401(world: World, header: str) -> None:
    """Whatever stands there, it is no error of ours."""
    answer = world.client(None).get("/api/jobs", headers=[(b"authorization", header.encode())])
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_api_key")


def test_an_admin_makes_lists_and_revokes_keys(world: World) -> None:
    """The key is shown once; a revoked one is refused by the very next call."""
    admin = world.client("admin")
    made = admin.post("/api/keys", json={"name": "ci", "role": "viewer"})
    assert made.status_code == 201
    assert made.json().keys() == {"name", "role", "key", "created_at", "revoked_at"}
    caller = world.client(made.json()["key"])
    assert caller.get("/api/session").json() == {"name": "ci", "role": "viewer"}
    listed = admin.get("/api/keys").json()["keys"]
    assert {key["name"] for key in listed} == {"viewer", "operator", "admin", "ci"}
    assert "key" not in listed[-1]
    assert "key_hash" not in listed[-1]
    assert admin.delete("/api/keys/ci").json()["revoked_at"] is not None
    assert caller.get("/api/session").status_code == 401
    again = admin.delete("/api/keys/ci")
    assert (again.status_code, again.json()["code"]) == (404, "key_not_found")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "viewer", "role": "viewer"}, 409, "key_exists"),
        ({"name": "a:b", "role": "viewer"}, 422, "invalid_key_name"),
        ({"name": "x", "role": "root"}, 422, "invalid_request"),
        ({"name": "x"}, 422, "invalid_request"),
    ],
)
def test_a_key_that_cannot_be_made(world: World, body: Any, status: int, code: str) -> None:
    """Each with its reason."""
    answer = world.client("admin").post("/api/keys", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_key_revoked_by_another_process_is_refused_seconds_later(world: World) -> None:
    """The command line may write to the store directly."""
    viewer = world.client("viewer")
    assert viewer.get("/api/session").status_code == 200
    world.store.revoke_key("viewer", world.clock.now())
    world.clock.advance(2.1)
    assert viewer.get("/api/session").status_code == 401


def test_a_key_read_before_its_revocation_is_not_remembered_after_it(world: World) -> None:
    """The race: the store says "live", the key is revoked, and only then that is remembered."""
    key_hash = hash_key(world.keys["viewer"])
    cache = world.app.state.access.keys
    may_return, has_read = threading.Event(), threading.Event()
    inner = world.store

    class Slow:
        def find_key(self, key_hash: str) -> ApiKey | None:
            found = inner.find_key(key_hash)
            has_read.set()
            assert may_return.wait(20)
            return found

    cache._store = Slow()
    reader = threading.Thread(target=cache.read, args=(key_hash,))
    reader.start()
    assert has_read.wait(20)
    cache.forget()
    may_return.set()
    reader.join(20)
    assert cache.recall(key_hash) is None


def test_a_key_has_a_rate(make_world: MakeWorld) -> None:
    """Past it 429 with the seconds to wait; other keys, and calls without one, are not touched."""
    world = make_world(rate_limit="3/minute")
    viewer = world.client("viewer")
    assert [viewer.get("/api/jobs").status_code for _ in range(4)] == [200, 200, 200, 429]
    answer = viewer.get("/api/jobs")
    assert answer.json()["code"] == "rate_limited"
    assert answer.headers["Retry-After"] == "20"
    assert world.client("operator").get("/api/jobs").status_code == 200
    assert world.client(None).get("/health/live").status_code == 200
    world.clock.advance(20)
    assert viewer.get("/api/jobs").status_code == 200


def test_a_stop_is_never_refused_for_the_rate(make_world: MakeWorld) -> None:
    """Whoever polled until the limit must still be able to stop what runs wild."""
    operator = make_world(rate_limit="1/minute").client("operator")
    job_id = operator.post("/api/jobs", json={}).json()["job_id"]
    assert operator.get("/api/jobs").status_code == 429
    assert operator.post(f"/api/jobs/{job_id}/cancel").status_code == 200


def test_an_address_is_limited_for_wrong_keys_only(world: World) -> None:
    """Guessing ends in 429; whoever shares the address and has a key notices nothing."""
    wrong = world.client("sg_" + "x" * 43)
    answers = [wrong.get("/api/jobs").status_code for _ in range(21)]
    assert answers == [401] * 20 + [429]
    posted = world.client(None).post("/api/session", json={"key": "wrong"})
    assert (posted.status_code, posted.json()["code"]) == (429, "rate_limited")
    assert int(posted.headers["Retry-After"]) > 0
    assert world.client("viewer").get("/api/jobs").status_code == 200
    assert world.client(None).get("/api/jobs").status_code == 401


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("600/minute", RateLimit(600, 60)),
        (" 10 / second ", RateLimit(10, 1)),
        ("1/hours", RateLimit(1, 3600)),
        ("5/day", RateLimit(5, 86400)),
    ],
)
def test_a_rate_is_read(text: str, limit: RateLimit) -> None:
    """A number and a unit."""
    assert parse_rate_limit(text) == limit


@pytest.mark.parametrize("text", ["", "600", "0/minute", "-1/minute", "1.5/minute", "9/week"])
def test_a_rate_that_is_none_is_refused(make_world: MakeWorld, text: str) -> None:
    """At the start, not at the first call."""
    with pytest.raises(InvalidRateLimitError, match="RATE_LIMIT"):
        make_world(rate_limit=text)


def test_a_bucket_is_not_fooled_by_a_clock_that_goes_back() -> None:
    """Time that runs backwards refills nothing."""
    buckets = Buckets(RateLimit(1, 10))
    assert buckets.take("a", 100.0) == 0
    assert buckets.take("a", 50.0) == 10
    assert buckets.take("a", 60.0) == 0


def test_the_principal_follows_the_key_in_the_store(world: World) -> None:
    """A key that is unknown to the store is worth nothing, whatever shape it has."""
    unknown = replace(world.store.list_keys()[0], key_hash=hash_key("sg_" + "a" * 43))
    assert world.store.find_key(unknown.key_hash) is None
    assert world.client("sg_" + "a" * 43).get("/api/jobs").status_code == 401
