"""`POST /api/jobs`, `GET /api/jobs` and what is below one job, but for stopping it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from api_world import World

from sluicegate.core.job import TaskProgress

JOB_FIELDS = {
    *("job_id", "job_name", "status", "stopping", "created_at", "started_at", "completed_at"),
    *("duration_seconds", "total_tasks", "completed_tasks", "failed_tasks", "cancelled_tasks"),
    *("progress_percent", "user_id", "trigger", "params", "labels", "priority", "timeout_seconds"),
    *("resumed_from", "resumed_by", "code_version", "error", "cancellation"),
}
TASK_FIELDS = {
    *("task_id", "pipeline_name", "layer", "status", "attempt", "started_at", "completed_at"),
    *("duration_seconds", "message", "error", "inputs", "stats", "progress", "stop"),
}


def test_a_run_answers_201_with_the_job_and_where_it_is(world: World) -> None:
    """The client needs no second call to know what it started."""
    asked = {"pipelines": ["silver.flights"], "with_dependencies": True, "labels": {"team": "a:b"}}
    answer = world.client().post("/api/jobs", json=asked)
    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/jobs/{job['job_id']}"
    assert job.keys() >= JOB_FIELDS
    assert (job["status"], job["total_tasks"], job["user_id"]) == ("pending", 2, "operator")
    assert job["labels"] == {"team": "a:b"}
    assert world.client("viewer").get(answer.headers["Location"]).json()["job_id"] == job["job_id"]


@pytest.mark.parametrize("body", [None, {}, {"pipelines": []}, {"pipelines": [], "layers": []}])
def test_a_run_of_nothing_named_is_the_full_pipeline(world: World, body: Any) -> None:
    """`{}` and no body mean the same."""
    answer = world.client().post("/api/jobs", json=body) if body is not None else None
    answer = answer or world.client().post("/api/jobs")
    assert (answer.status_code, answer.json()["total_tasks"]) == (201, 3)


def test_layers_limit_the_full_pipeline(world: World) -> None:
    """`layers` chooses whole layers."""
    answer = world.client().post("/api/jobs", json={"layers": ["silver"]})
    assert answer.json()["total_tasks"] == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pipelines", "bronze.flights"),
        ("pipelines", ["bronze.nowhere"]),
        ("layers", ["copper"]),
        ("layers", ["gold"]),
        ("with_dependencies", "yes"),
        ("params", []),
        (
            "params",
            {"deep": {"a": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}},
        ),
        ("params", {"text": "x" * 70_000}),
        ("labels", {"a:b": "c"}),
        ("labels", {"a": 1}),
        ("job_name", ""),
        ("timeout_seconds", 0),
        ("timeout_seconds", "60"),
        ("priority", 1.5),
        ("pipeline", "bronze.flights"),
    ],
)
def test_a_bad_field_is_named(world: World, field: str, value: Any) -> None:
    """Who mistypes must not guess which field; unknown ones are refused, never ignored."""
    answer = world.client().post("/api/jobs", json={field: value})
    assert answer.status_code == 422
    assert field in answer.json()["detail"]
    assert answer.json()["errors"][0]["field"].split(".")[0] == field
    assert world.client().get("/api/jobs").json()["count"] == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"params": {"x": NaN}}', "params"),
        ('{"params": {"x": "\\ud800"}}', "params"),
        ('{"job_name": "\\ud800"}', "job_name"),
        ('{"timeout_seconds": Infinity}', "timeout_seconds"),
        ('{"\\ud800": 1}', "body"),
        ("[]", "body"),
        ("{", "body"),
    ],
)
def test_what_json_cannot_hold_is_refused_before_it_is_stored(
    world: World, body: str, field: str
) -> None:
    """Stored, it would break every later answer that shows the job."""
    answer = world.client(**{"Content-Type": "application/json"}).post("/api/jobs", content=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


def test_layers_and_pipelines_together_are_refused(world: World) -> None:
    """One of them would be ignored silently."""
    body = {"pipelines": ["bronze.flights"], "layers": ["bronze"]}
    answer = world.client().post("/api/jobs", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "layers")


def test_a_repeated_idempotency_key_answers_with_the_first_job(world: World) -> None:
    """A client that did not hear the answer may ask again; another user's key is another key."""
    client, other = world.client(**{"Idempotency-Key": "k"}), world.client("admin")
    first = client.post("/api/jobs", json={"pipelines": ["bronze.flights"]})
    again = client.post("/api/jobs", json={"pipelines": ["bronze.flights"]})
    foreign = other.post("/api/jobs", json={}, headers={"Idempotency-Key": "k"})
    assert [a.status_code for a in (first, again, foreign)] == [201, 200, 201]
    assert first.json()["job_id"] == again.json()["job_id"] != foreign.json()["job_id"]
    assert again.headers["Location"] == first.headers["Location"]


@pytest.mark.parametrize(
    ("agent", "trigger"), [("sluicegate-cli/0.1.0", "cli"), ("curl/8", "api"), ("", "api")]
)
def test_the_trigger_says_what_asked(world: World, agent: str, trigger: str) -> None:
    """The history shows whether a person or a program started a job."""
    answer = world.client(**{"User-Agent": agent}).post("/api/jobs")
    assert answer.json()["trigger"] == trigger


def test_details_have_plan_and_tasks_under_the_contract_names(world: World) -> None:
    """Clients are written against these names."""
    job_id = world.run("silver.flights", with_dependencies=True)
    world.start(job_id, "bronze.flights", progress=TaskProgress(1, 4))
    world.clock.advance(1.5)
    job = world.client("viewer").get(f"/api/jobs/{job_id}").json()
    assert job.keys() >= JOB_FIELDS | {"plan", "tasks", "rollback"}
    assert job["plan"] == [
        {"pipeline": "bronze.flights", "depends_on": []},
        {"pipeline": "silver.flights", "depends_on": ["bronze.flights"]},
    ]
    (task,) = job["tasks"]
    assert task.keys() == TASK_FIELDS | {"stopping"}
    assert (task["layer"], task["pipeline_name"]) == ("bronze", "flights")
    assert task["progress"] == {"done": 1, "total": 4, "unit": "rows"}
    assert (job["status"], job["progress_percent"], job["duration_seconds"]) == (
        "running",
        12.5,
        1.5,
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", task["started_at"])


def test_paging_reaches_every_job_once_while_jobs_are_added(world: World) -> None:
    """Newest first; a job that comes while someone pages moves nothing."""
    made = [world.run("bronze.flights") for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = world.client().get(
            "/api/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})}
        )
        assert page.json()["count"] == len(page.json()["jobs"])
        seen += [job["job_id"] for job in page.json()["jobs"]]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            break
        assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor)
        world.run("bronze.weather")
    assert seen == made[::-1]


def test_every_filter_selects(world: World) -> None:
    """Each name of the history's query, alone and repeated."""
    flights = world.run("bronze.flights", labels={"team": "ops", "at": "a:b"})
    world.clock.advance(60)
    silver = world.run("silver.flights")
    world.start(silver, "silver.flights")

    def found(**params: Any) -> set[str]:
        answer = world.client().get("/api/jobs", params=params)
        assert answer.status_code == 200, answer.text
        return {job["job_id"] for job in answer.json()["jobs"]}

    later = (world.clock.now() - timedelta(seconds=30)).isoformat().replace("+00:00", "Z")
    assert found(status="running") == {silver}
    assert found(status=["running", "pending"]) == {flights, silver}
    assert found(pipeline="bronze.flights") == {flights}
    assert found(layer="silver") == {silver}
    assert found(label="team:ops") == found(label="at:a:b") == {flights}
    assert found(label=["team:ops", "team:other"]) == {flights}
    assert found(label="team:ops", status="running") == set()
    assert found(user_id="operator") == {flights, silver}
    assert found(user_id="nobody") == found(trigger="ui") == set()
    assert found(created_after=later) == {silver}
    assert found(created_before=later) == {flights}


@pytest.mark.parametrize(
    "query",
    [
        "status=done", "limit=0", "limit=501", "cursor=%21", "cursor=AAAA", "label=team",
        "label=:x", "layer=copper", "created_after=yesterday", "created_after=2026-01-01T00:00:00",
        "stats=running",
    ],
)  # fmt: skip
def test_a_bad_parameter_is_named(world: World, query: str) -> None:
    """A filter that was mistyped must not show everything."""
    answer = world.client().get(f"/api/jobs?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].split(".")[0] == query.partition("=")[0]


def test_logs_and_timeline_page_by_id(world: World) -> None:
    """`next_after` goes on where the page ended, and stands still at the end."""
    job_id = world.run("bronze.flights")
    world.client().post(f"/api/jobs/{job_id}/cancel", json={"reason": "wrong day"})
    events = world.client("viewer").get(f"/api/jobs/{job_id}/events").json()
    assert [event["type"] for event in events["events"]] == ["job.created", "job.cancelled"]
    assert events["events"][0].keys() == {"event_id", "type", "job_id", "task_id", "at", "data"}
    after = {"after": events["next_after"]}
    rest = world.client("viewer").get(f"/api/jobs/{job_id}/events", params=after).json()
    assert rest == {"events": [], "next_after": events["next_after"]}
    logs = world.client("viewer").get(f"/api/jobs/{job_id}/logs", params={"limit": 1}).json()
    (line,) = logs["logs"]
    assert line.keys() == {"log_id", "at", "level", "stream", "task_id", "message"}
    assert "wrong day" in line["message"]
    assert logs["next_after"] == line["log_id"]
