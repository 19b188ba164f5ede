"""`POST /api/jobs/{job_id}/tasks/{task_id}/cancel`: one task, while its job goes on."""

from __future__ import annotations

from typing import Any

import pytest
from api_world import World

from sluicegate.core.job import TaskStats
from sluicegate.core.transitions import TaskEvent


def test_a_task_is_stopping_and_its_job_goes_on(world: World) -> None:
    """200 and the task; the page shows at once that its stop is stored."""
    job_id = world.run("bronze.flights", "bronze.weather")
    task = world.start(job_id, "bronze.flights")
    path = f"/api/jobs/{job_id}/tasks/{task.task_id}/cancel"
    answer = world.client().post(path, json={"reason": "too slow"})
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["task_id"], shown["status"], shown["stopping"]) == (task.task_id, "running", True)
    job = world.client().get(f"/api/jobs/{job_id}").json()
    assert (job["status"], job["stopping"], job["cancellation"]) == ("running", False, None)
    assert job["tasks"] == [shown]
    stop = world.store.get(job_id).task_stops[task.task_id]
    assert (stop.requested_by, stop.reason, stop.mode) == ("operator", "too slow", "graceful")


def test_only_force_does_more_to_a_task_that_is_stopping(world: World) -> None:
    """Twice the same is refused, so that a client sees that it is under way."""
    job_id = world.run("bronze.flights")
    task = world.start(job_id, "bronze.flights")
    path = f"/api/jobs/{job_id}/tasks/{task.task_id}/cancel"
    assert world.client().post(path).status_code == 200
    again = world.client().post(path)
    assert (again.status_code, again.json()["code"]) == (400, "task_not_running")
    assert (again.json()["task_id"], again.json()["task_status"]) == (task.task_id, "running")
    assert world.client().post(path, json={"mode": "force"}).status_code == 200
    assert world.store.get(job_id).task_stops[task.task_id].mode == "force"


def test_what_has_ended_cannot_be_stopped(world: World) -> None:
    """A task, and a task of a job that has ended."""
    job_id = world.run("bronze.flights", "bronze.weather")
    task = world.start(job_id, "bronze.flights")
    world.end(task, TaskEvent.SUCCEED, TaskStats(rows=1, units=1, version=0))
    path = f"/api/jobs/{job_id}/tasks/{task.task_id}/cancel"
    ended = world.client().post(path)
    assert (ended.status_code, ended.json()["code"]) == (400, "task_not_running")
    assert ended.json()["task_status"] == "success"
    world.client().post(f"/api/jobs/{job_id}/cancel")
    over = world.client().post(path)
    assert (over.status_code, over.json()["code"]) == (400, "job_not_running")


def test_unknown_ids_are_404(world: World) -> None:
    """Only the stop of a whole job answers 400 there, as the seed does."""
    job_id = world.run("bronze.flights")
    for path, code in ((f"{job_id}/tasks/t", "task_not_found"), ("x/tasks/t", "job_not_found")):
        answer = world.client().post(f"/api/jobs/{path}/cancel")
        assert (answer.status_code, answer.json()["code"]) == (404, code)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"json": {"mode": "drain"}}, "mode"),
        ({"json": {"dry_run": True}}, "dry_run"),
        ({"params": {"dry_run": "true"}}, "dry_run"),
    ],
)
def test_what_a_task_does_not_know_stops_nothing(world: World, options: Any, field: str) -> None:
    """A task has no drain and no dry run; taking either for a stop would be the worst answer."""
    job_id = world.run("bronze.flights")
    task = world.start(job_id, "bronze.flights")
    path = f"/api/jobs/{job_id}/tasks/{task.task_id}/cancel"
    answer = world.client().post(path, **options)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert not world.store.get(job_id).task_stops
