"""`POST /api/jobs/{job_id}/cancel`: the seed's call, and what the contract adds to it."""

from __future__ import annotations

from typing import Any

import pytest
from api_world import World

from sluicegate.core.job import TaskStats

RECEIPT_FIELDS = {
    *("requested_at", "requested_by", "cause", "reason", "mode", "stopped_at", "latency_ms"),
    *("not_started", "kept", "stopped", "remote", "outcome"),
}


def test_the_call_of_the_seed_needs_no_body(world: World) -> None:
    """`curl -X POST -H 'Authorization: Bearer …'` sends neither body nor content type."""
    job_id = world.run("bronze.flights")
    answer = world.client().post(f"/api/jobs/{job_id}/cancel")
    assert answer.status_code == 200
    assert answer.json().keys() == {"message", "job_id", "status", "cancellation"}
    assert answer.json()["message"] == f"Job {job_id} has been cancelled"
    assert (answer.json()["job_id"], answer.json()["status"]) == (job_id, "cancelled")
    assert answer.json()["cancellation"].keys() >= RECEIPT_FIELDS
    assert world.store.get(job_id).status == "cancelled"


def test_reason_and_mode_are_in_the_receipt(world: World) -> None:
    """Who asks why it was stopped finds it there."""
    job_id = world.run("bronze.flights")
    body = {"reason": "wrong day", "mode": "drain"}
    receipt = world.client().post(f"/api/jobs/{job_id}/cancel", json=body).json()["cancellation"]
    assert (receipt["reason"], receipt["mode"], receipt["requested_by"]) == (
        "wrong day", "drain", "operator",
    )  # fmt: skip


def test_a_job_that_has_ended_is_refused_with_its_status(world: World) -> None:
    """400, as the seed says; `status` is HTTP's, `job_status` is the job's."""
    job_id = world.run("bronze.flights")
    world.client().post(f"/api/jobs/{job_id}/cancel")
    answer = world.client().post(f"/api/jobs/{job_id}/cancel")
    assert answer.status_code == answer.json()["status"] == 400
    assert (answer.json()["code"], answer.json()["job_status"]) == ("job_not_running", "cancelled")
    assert "cancelled" in answer.json()["detail"]


def test_an_unknown_job_is_400_here_and_404_elsewhere(world: World) -> None:
    """The one place where an unknown id is no 404."""
    answer = world.client().post("/api/jobs/nowhere/cancel")
    assert answer.status_code == answer.json()["status"] == 400
    assert answer.json()["code"] == "job_not_found"
    for path in ("", "/logs", "/events"):
        answer = world.client().get(f"/api/jobs/nowhere{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_a_retried_stop_may_ignore_that_it_is_over(world: World, dry_run: str) -> None:
    """A client that lost the answer asks again, and gets the job as it is."""
    job_id = world.run("bronze.flights")
    world.client().post(f"/api/jobs/{job_id}/cancel", json={"reason": "first"})
    params = {"if_not_running": "ignore", "dry_run": dry_run}
    world.client().post(f"/api/jobs/{job_id}/cancel", json={"mode": "force"})
    store_job = world.store.get(job_id)
    answer = world.client().post(f"/api/jobs/{job_id}/cancel", params=params, json={"reason": "2"})
    if dry_run == "true":
        assert (
            store_job.stopping
        )  # Nobody closed it: a preview of a further stop is still possible.
        assert answer.json().keys() == {"running", "not_started", "kept", "lost_work_seconds"}
        return
    assert answer.status_code == 200
    assert answer.json()["status"] == "cancelled"
    assert answer.json()["cancellation"]["reason"] == "first"
    assert answer.json()["total_tasks"] == 1


def test_force_escalates_a_stop_that_goes_on(world: World) -> None:
    """The page's "Stop now"."""
    job_id = world.run("bronze.flights")
    world.start(job_id, "bronze.flights")
    world.client().post(f"/api/jobs/{job_id}/cancel")
    answer = world.client().post(f"/api/jobs/{job_id}/cancel", json={"mode": "force"})
    assert answer.status_code == 200
    assert answer.json()["cancellation"]["mode"] == "force"
    assert world.client().get(f"/api/jobs/{job_id}").json()["stopping"] is True


def test_a_dry_run_changes_nothing_and_says_what_would_happen(world: World) -> None:
    """Exactly the members that the dialog of the page reads."""
    job_id = world.run()
    task = world.start(job_id, "bronze.flights", stats=TaskStats(rows=7, units=1, version=3))
    before = world.store.get(job_id)
    answer = world.client().post(f"/api/jobs/{job_id}/cancel?dry_run=true")
    assert answer.status_code == 200
    assert answer.json() == {
        "running": [
            {"task_id": task.task_id, "pipeline": "bronze.flights", "expected_stop_ms": None}
        ],
        "not_started": ["bronze.weather", "silver.flights"],
        "kept": [{"table": "bronze.flights", "version": 3, "rows": 7}],
        "lost_work_seconds": None,
    }
    assert world.store.get(job_id) == before


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"json": {"mode": "kill"}}, "mode"),
        ({"json": {"reason": 5}}, "reason"),
        ({"json": {"why": "x"}}, "why"),
        ({"data": {"mode": "force"}}, "body"),
        ({"params": {"if_not_running": "maybe"}}, "if_not_running"),
        ({"params": {"dry_run": "perhaps"}}, "dry_run"),
    ],
)
def test_a_stop_that_is_not_understood_stops_nothing(
    world: World, options: Any, field: str
) -> None:
    """A `force` sent as a form must not become a graceful stop."""
    job_id = world.run("bronze.flights")
    answer = world.client().post(f"/api/jobs/{job_id}/cancel", **options)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert world.store.get(job_id).status == "pending"


@pytest.mark.parametrize("key", ["operator", "viewer", "sg_" + "0" * 40, None])
@pytest.mark.parametrize("state", ["running", "ended", "nowhere"])
def test_the_short_way_of_a_plain_stop_answers_as_the_long_one(
    world: World, key: str | None, state: str
) -> None:
    """A stop with neither parameters nor a body is not given to FastAPI's validation; nobody can tell."""
    plain, full = (world.run("bronze.flights") for _ in range(2))
    if state == "ended":
        for job_id in (plain, full):
            world.client().post(f"/api/jobs/{job_id}/cancel")
    if state == "nowhere":
        plain, full = "nowhere", "elsewhere"
    short = world.client(key).post(f"/api/jobs/{plain}/cancel")
    long = world.client(key).post(f"/api/jobs/{full}/cancel?dry_run=false", json={})
    assert short.status_code == long.status_code
    assert short.text.replace(plain, full) == long.text
    assert short.headers.keys() == long.headers.keys()


def test_a_plain_stop_has_nothing_validated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work that would stand between a stop and the store is not done at all."""

    async def solve(**_: object) -> None:
        raise AssertionError("FastAPI was asked to solve the dependencies of a plain stop")

    job_id = world.run("bronze.flights")
    monkeypatch.setattr("fastapi.routing.solve_dependencies", solve)
    assert world.client().post(f"/api/jobs/{job_id}/cancel").status_code == 200
    assert world.client().post(f"/api/jobs/{job_id}/cancel", json={}).status_code == 500
