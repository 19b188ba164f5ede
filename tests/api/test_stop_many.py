"""`POST /api/jobs/cancel`: many jobs in one call, a filter, and what was shown before."""

from __future__ import annotations

import time
from typing import Any

import pytest
from api_world import MakeWorld, World

from sluicegate.api.routes import stops
from sluicegate.core.ids import new_id
from sluicegate.core.job import Job, JobStatus
from sluicegate.core.plan import Plan
from sluicegate.core.ports import Accepted, Change

MANY = 10_000


def add_jobs(world: World, count: int, **fields: Any) -> list[str]:
    """Store pending jobs, many in one commit."""
    now = world.clock.now()
    jobs = [Job(new_id(), "job", JobStatus.PENDING, now, 0, **fields) for _ in range(count)]
    for n in range(0, count, 1000):
        changes = [Change(job, made_from=0, plan=Plan()) for job in jobs[n : n + 1000]]
        assert all(isinstance(one, Accepted) for one in world.store.commit(changes))
    return [job.job_id for job in jobs]


def cancel(world: World, **body: Any) -> dict[str, Any]:
    """Call it, and return the answer."""
    answer = world.client().post("/api/jobs/cancel", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_each_job_has_its_own_outcome(world: World) -> None:
    """One id that is wrong must not keep the others running."""
    running, ended = world.run("bronze.flights"), world.stopped("bronze.flights")
    asked = [running, "nowhere", ended, running]
    answer = cancel(world, job_ids=asked, reason="enough", mode="drain")
    assert answer == {
        "matched": 3,
        "cancelled": 1,
        "results": [
            {"job_id": running, "outcome": "cancelled"},
            {"job_id": "nowhere", "outcome": "job_not_found"},
            {"job_id": ended, "outcome": "job_not_running"},
        ],
    }
    receipt = world.store.get(running).cancellation
    assert receipt is not None
    assert (receipt.reason, receipt.mode, receipt.requested_by) == ("enough", "drain", "operator")


def test_a_filter_takes_values_and_lists_and_means_what_has_not_ended(world: World) -> None:
    """The same names as the history's; a stop of what has ended would be noise."""
    wanted = world.run("bronze.flights", labels={"team": "air"})
    others = [world.run("bronze.weather", labels={"team": "air"}), world.run("bronze.flights")]
    world.stopped("bronze.flights")
    asked = {
        "pipeline": "bronze.flights",
        "label": ["team:air"],
        "created_before": "2027-01-01T00:00:00Z",
    }
    answer = cancel(world, filter=asked)
    assert answer["results"] == [{"job_id": wanted, "outcome": "cancelled"}]
    assert [world.store.get(job_id).status for job_id in others] == ["pending", "pending"]
    assert cancel(world, filter={"status": ["pending"], "user_id": "nobody"})["matched"] == 0


def test_a_dry_run_stops_nothing_and_its_token_limits_the_real_call(world: World) -> None:
    """What was started between looking and stopping was not meant."""
    shown = {world.run("bronze.flights"), world.run("bronze.flights")}
    preview = cancel(world, filter={"status": "pending"}, dry_run=True)
    assert {one["job_id"] for one in preview["results"]} == shown
    assert {one["outcome"] for one in preview["results"]} == {"cancelled"}
    assert (preview["matched"], preview["cancelled"]) == (2, 0)
    assert {world.store.get(job_id).status for job_id in shown} == {"pending"}
    later = world.run("bronze.flights")
    token = preview["match_token"]
    answer = cancel(world, filter={"status": "pending"}, match_token=token)
    assert {one["job_id"] for one in answer["results"]} == shown
    assert answer["cancelled"] == 2
    assert "match_token" not in answer
    assert world.store.get(later).status == "pending"
    by_id = cancel(world, job_ids=[later, *shown], match_token=token)
    assert {one["job_id"] for one in by_id["results"]} == shown


def test_a_dry_run_in_the_query_is_heard_too(world: World) -> None:
    """All other calls take it there; overlooking it would stop everything."""
    job_id = world.run("bronze.flights")
    body = {"job_ids": [job_id]}
    answer = world.client().post("/api/jobs/cancel?dry_run=true", json=body)
    assert (answer.status_code, answer.json()["cancelled"]) == (200, 0)
    assert world.store.get(job_id).status == "pending"


def test_a_dry_run_by_force_shows_what_is_stopping_already(world: World) -> None:
    """Only `force` can do more to a job that is stopping."""
    job_id = world.run("bronze.flights")
    world.client().post(f"/api/jobs/{job_id}/cancel")
    for mode, outcome in (("graceful", "job_not_running"), ("force", "cancelled")):
        preview = cancel(world, job_ids=[job_id], dry_run=True, mode=mode)
        assert preview["results"][0]["outcome"] == outcome
        assert cancel(world, job_ids=[job_id], mode=mode)["results"] == preview["results"]


def test_no_ids_are_no_jobs(world: World) -> None:
    """A script whose list is empty today stops nothing."""
    assert cancel(world, job_ids=[]) == {"matched": 0, "cancelled": 0, "results": []}


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (None, "invalid_request", "body"),
        ({}, "invalid_request", "filter"),
        ({"job_ids": ["a"], "filter": {"status": "pending"}}, "invalid_request", "filter"),
        ({"filter": {}}, "filter_empty", "filter"),
        ({"filter": {"status": []}}, "filter_empty", "filter"),
        ({"filter": {"stauts": "pending"}}, "invalid_request", "filter.stauts"),
        ({"filter": {"limit": 5}}, "invalid_request", "filter.limit"),
        ({"filter": {"status": "lost"}}, "invalid_request", "filter.status.0"),
        ({"filter": {"label": "team"}}, "invalid_request", "filter.label"),
        ({"filter": {"created_before": "2026-01-01T00:00:00"}}, "invalid_request", "filter.created_before"),
        ({"job_ids": [1]}, "invalid_request", "job_ids.0"),
        ({"job_ids": ["a"] * (MANY + 1)}, "invalid_request", "job_ids"),
        ({"job_ids": ["a"], "dry_run": "yes"}, "invalid_request", "dry_run"),
        ({"job_ids": ["a"], "mode": "kill"}, "invalid_request", "mode"),
        ({"job_ids": ["a"], "match_token": "x"}, "match_token_invalid", "match_token"),
        ({"filter": {"status": "pending"}, "match_token": "m1.!"}, "match_token_invalid", "match_token"),
    ],
)  # fmt: skip
def test_what_is_not_understood_stops_nothing(
    world: World, body: Any, code: str, field: str
) -> None:
    """A slip in a filter must never widen it."""
    job_id = world.run("bronze.flights")
    answer = world.client().post("/api/jobs/cancel", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.json()["errors"][0]["field"] == field
    assert world.store.get(job_id).status == "pending"


def test_a_parameter_that_is_not_known_stops_nothing(world: World) -> None:
    """`?dryrun=true` is a dry run that was misspelt."""
    job_id = world.run("bronze.flights")
    for path, body in (
        ("/api/jobs/cancel", {"job_ids": [job_id]}),
        (f"/api/jobs/{job_id}/cancel", {}),
    ):
        answer = world.client().post(f"{path}?dryrun=true", json=body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "dryrun"
    assert world.store.get(job_id).status == "pending"


def test_stops_of_many_are_not_rate_limited(make_world: MakeWorld) -> None:
    """Whoever polled too hard must still be able to stop."""
    world = make_world(rate_limit="1/hour")
    with world.client() as client:
        assert client.get("/api/jobs").status_code == 200
        assert client.get("/api/jobs").status_code == 429
        for path in ("/api/jobs/cancel", "/api/jobs/x/tasks/t/cancel"):
            for _ in range(3):
                assert client.post(path, json={}).status_code in (404, 422)


@pytest.mark.proof
def test_ten_thousand_jobs_are_stopped_in_one_call(world: World) -> None:
    """The contract's number, on the real store: all stored as `cancelled` when it answers."""
    job_ids = add_jobs(world, MANY)
    began = time.monotonic()
    preview = cancel(world, job_ids=job_ids, dry_run=True)
    assert (preview["matched"], preview["cancelled"]) == (MANY, 0)
    token = preview["match_token"]
    answer = cancel(world, job_ids=job_ids, reason="all of it", match_token=token)
    seconds = time.monotonic() - began
    assert (answer["matched"], answer["cancelled"]) == (MANY, MANY)
    assert [one["job_id"] for one in answer["results"]] == job_ids
    for job_id in job_ids[:: MANY // 100]:
        job = world.store.get(job_id)
        assert (job.status, job.cancellation and job.cancellation.reason) == (
            "cancelled",
            "all of it",
        )
    assert cancel(world, filter={"status": "pending"})["matched"] == 0
    assert seconds < 300, f"a stop of {MANY} jobs, shown and done, took {seconds:.1f} s"


def test_a_filter_that_means_too_many_is_refused_and_a_token_still_works(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that came after the dry run must not make the stop of those shown impossible."""
    monkeypatch.setattr(stops, "MANY_MAX", 5)
    shown = add_jobs(world, 5)
    token = cancel(world, filter={"status": "pending"}, dry_run=True)["match_token"]
    [later] = add_jobs(world, 1)
    answer = world.client().post("/api/jobs/cancel", json={"filter": {"status": "pending"}})
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_jobs")
    assert answer.json()["errors"][0]["field"] == "filter"
    assert world.store.get(shown[0]).status == "pending"
    stopped = cancel(world, filter={"status": "pending"}, match_token=token)
    assert stopped["cancelled"] == 5
    assert world.store.get(later).status == "pending"
