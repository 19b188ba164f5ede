"""`GET /api/pipelines`, `GET /api/tables` and `/health`."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from api_world import MakeWorld, OneTable, World, wait_for


def test_pipelines_are_listed_in_order_with_their_last_task(world: World) -> None:
    """The page's tab reads these names; `last_task` also names its job."""
    job_id = world.run("silver.flights")
    world.start(job_id, "silver.flights")
    listed = world.client("viewer").get("/api/pipelines").json()["pipelines"]
    assert [one["pipeline"] for one in listed] == [
        "bronze.flights", "bronze.weather", "silver.flights",
    ]  # fmt: skip
    assert listed[2].keys() == {
        *(
            "pipeline",
            "layer",
            "name",
            "depends_on",
            "kind",
            "table",
            "mode",
            "keys",
            "files",
            "doc",
            "source",
        ),
        *("file", "line", "last_task"),
    }
    assert listed[0]["last_task"] is None
    assert listed[2]["depends_on"] == ["bronze.flights"]
    assert listed[2]["last_task"]["status"] == "running"
    assert listed[2]["last_task"]["job_id"] == job_id


def test_pipelines_of_one_layer(world: World) -> None:
    """`?layer=` limits, and only to layers that exist."""
    listed = world.client().get("/api/pipelines?layer=silver").json()["pipelines"]
    assert [one["pipeline"] for one in listed] == ["silver.flights"]
    answer = world.client().get("/api/pipelines?layer=copper")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "layer")


def test_tables_are_listed_and_shown(world: World) -> None:
    """What JSON has no word for is written as text, or as null."""
    (listed,) = world.client("viewer").get("/api/tables").json()["tables"]
    assert listed.keys() == {"name", "version", "row_count", "columns"}
    shown = world.client("viewer").get("/api/tables/bronze.flights?version=1&limit=1").json()
    assert shown.keys() == {"name", "schema", "version", "row_count", "preview"}
    assert shown["version"] == 1
    assert shown["preview"] == [{"n": 2**60, "x": None, "at": "2013-01-01T05:00:00.000000Z"}]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("bronze.nothing", 404, "table_not_found"),
        ("..%2F..%2Fsecret", 404, "not_found"),
        ("bronze.flights?limit=-1", 422, "invalid_request"),
        ("bronze.flights?version=x", 422, "invalid_request"),
    ],
)
def test_a_table_that_is_not_there(world: World, path: str, status: int, code: str) -> None:
    """Unknown names are 404, bad parameters 422."""
    answer = world.client().get(f"/api/tables/{path}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_slow_table_reads_leave_threads_for_a_stop(make_world: MakeWorld) -> None:
    """A lake that hangs must not keep anyone from stopping a job."""
    hanging, reading = threading.Event(), []

    class SlowLake(OneTable):
        def list_tables(self) -> list[dict[str, Any]]:
            reading.append(1)
            assert hanging.wait(20)
            return []

    world = make_world(tables=SlowLake())
    job_id = world.run("bronze.flights")
    readers = [
        threading.Thread(target=lambda: world.client().get("/api/tables")) for _ in range(100)
    ]
    for reader in readers:
        reader.start()
    try:
        wait_for("four reads at once", lambda: len(reading) == 4)
        assert world.client().post(f"/api/jobs/{job_id}/cancel").status_code == 200
        assert len(reading) == 4
    finally:
        hanging.set()
        for reader in readers:
            reader.join(20)


def test_health_needs_no_key(make_world: MakeWorld) -> None:
    """A load balancer has none; what is not ready is 503, and lives."""
    world = make_world(ready=lambda: {"ready": False, "executor": "starting"})
    assert world.client(None).get("/health/live").json()["status"] == "live"
    answer = world.client(None).get("/health/ready")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.json()["checks"]["executor"] == "starting"
    ready = make_world(ready=lambda: {"executor": "local"}).client(None).get("/health/ready")
    assert ready.json() == {"status": "ready", "version": "0.1.0", "executor": "local"}
