"""Pruning over HTTP: who may, what is answered, and steps that go on by their cursor."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from api_world import World

LATER = "2027-01-01T00:00:00Z"


def prune(world: World, key: str = "admin", **body: Any) -> httpx.Response:
    return world.client(key).post("/api/prune", json={"ended_before": LATER, **body})


def all_steps(world: World, **body: Any) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    cursor = None
    while not steps or cursor is not None:
        answer = prune(world, cursor=cursor, **body)
        assert answer.status_code == 200, answer.text
        steps.append(answer.json())
        cursor = answer.json()["cursor"]
    return steps


def test_old_jobs_go_and_those_that_are_needed_are_counted(world: World) -> None:
    """First as a dry run, which changes nothing."""
    stopped, running = world.stopped("bronze.flights"), world.run("bronze.weather")
    [first, last] = all_steps(world, resumable=True, dry_run=True)
    assert (first["jobs"], first["kept"]) == (1, {"not_ended": 1})
    strange = {"table": "bronze.flights", "files": 0, "bytes": 0, "is_strange": True}
    assert last == {"jobs": 0, "kept": {}, "tables": [strange], "cursor": None}
    assert world.client().get(f"/api/jobs/{stopped}").status_code == 200
    assert all_steps(world)[0]["kept"] == {"not_ended": 1, "resumable": 1}
    assert all_steps(world, resumable=True)[0]["jobs"] == 1
    for path in (stopped, f"{stopped}/logs", f"{stopped}/events"):
        assert world.client().get(f"/api/jobs/{path}").status_code == 404
    assert prune(world, "admin", cursor=first["cursor"]).json()["jobs"] == 0
    assert world.client().get(f"/api/jobs/{running}").status_code == 200


def test_a_removed_job_is_unknown_to_those_who_knew_it(world: World) -> None:
    """The server has its header in memory; that must not bring it back."""
    job_id = world.stopped("bronze.flights")
    all_steps(world, resumable=True)
    for verb in ("resume", "rerun", "rollback"):
        answer = world.client("admin").post(f"/api/jobs/{job_id}/{verb}")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    answer = world.client("admin").post(f"/api/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (400, "job_not_found")


def test_an_idempotency_key_is_free_when_its_job_has_gone(world: World) -> None:
    """The promise holds for as long as the job is kept."""
    headers = {"Idempotency-Key": "nightly"}
    first = world.client().post("/api/jobs", headers=headers).json()["job_id"]
    world.client().post(f"/api/jobs/{first}/cancel").raise_for_status()
    world.close(first)
    all_steps(world, resumable=True)
    answer = world.client().post("/api/jobs", headers=headers)
    assert answer.status_code == 201
    assert answer.json()["job_id"] != first


@pytest.mark.parametrize("key", ["viewer", "operator"])
def test_only_an_admin_prunes(world: World, key: str) -> None:
    """It cannot be undone."""
    assert prune(world, key).status_code == 403


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ended_before": "yesterday"}, "ended_before"),
        ({"ended_before": "2026-01-01T00:00:00"}, "ended_before"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"older_than": "90d"}, "older_than"),
        ({"dry_run": 1}, "dry_run"),
    ],
)
def test_what_is_wrong_is_named(world: World, body: dict[str, Any], field: str) -> None:
    """A slip of the pen must not remove anything."""
    job_id = world.stopped("bronze.flights")
    answer = prune(world, resumable=True, **body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert world.store.get(job_id)
