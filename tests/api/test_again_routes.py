"""Resume, rollback and rerun over HTTP: answers, refusals, and dry runs that change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
from api_world import MakeWorld, OneTable, World

from sluicegate.core.job import TableRollback, TaskStats
from sluicegate.core.job_manager import Catalog
from sluicegate.core.transitions import TaskEvent
from sluicegate.workers.local import LakeCallError


def half_done(world: World) -> str:
    """A job of two pipelines: one has published, the other was never started."""
    job_id = world.run("bronze.flights", "silver.flights", labels={"k": "v"}, params={"n": 1})
    task = world.start(job_id, "bronze.flights")
    world.end(task, TaskEvent.SUCCEED, TaskStats(rows=7, units=1, version=3))
    world.client().post(f"/api/jobs/{job_id}/cancel").raise_for_status()
    world.close(job_id)
    return job_id


def post(world: World, path: str, key: str = "admin", **options: Any) -> httpx.Response:
    return world.client(key).post(f"/api/jobs/{path}", **options)


# ------------------------------------------------------------------ resume


def test_a_resume_is_a_new_job_with_what_is_left(world: World) -> None:
    """Linked both ways; the same parameters; the first job stays as it ended."""
    job_id = half_done(world)
    shown = post(world, f"{job_id}/resume?dry_run=true", "operator")
    assert shown.status_code == 200
    assert shown.json() == {
        "job_id": job_id,
        "kept": [{"table": "bronze.flights", "version": 3, "rows": 7}],
        "runs": [{"pipeline": "silver.flights", "after": None}],
    }
    assert world.store.get(job_id).resumed_by is None
    answer = post(world, f"{job_id}/resume", "operator")
    assert answer.status_code == 201
    new = answer.json()
    assert answer.headers["Location"] == f"/api/jobs/{new['job_id']}"
    assert (new["resumed_from"], new["trigger"], new["user_id"]) == (job_id, "resume", "operator")
    assert (new["params"], new["labels"], new["total_tasks"]) == ({"n": 1}, {"k": "v"}, 1)
    first = world.client().get(f"/api/jobs/{job_id}").json()
    assert (first["resumed_by"], first["status"]) == (new["job_id"], "cancelled")


@pytest.mark.parametrize("dry_run", ["", "?dry_run=true"])
def test_what_cannot_be_resumed_is_409_and_says_why(world: World, dry_run: str) -> None:
    """The same in a dry run, so that nobody is promised what is refused later."""

    def refusal(job_id: str) -> dict[str, Any]:
        answer = post(world, f"{job_id}/resume{dry_run}")
        assert answer.status_code == 409, answer.text
        body: dict[str, Any] = answer.json()
        return body

    running = world.run("bronze.flights")
    assert refusal(running)["code"] == "job_not_ended"
    assert refusal(running)["job_status"] == "pending"
    world.client().post(f"/api/jobs/{running}/cancel")
    assert (refusal(running)["code"], refusal(running)["job_status"]) == (
        "job_not_ended", "cancelled",
    )  # fmt: skip
    world.close(running)
    new = post(world, f"{running}/resume").json()["job_id"]
    assert (refusal(running)["code"], refusal(running)["resumed_by"]) == ("already_resumed", new)
    done = world.run("bronze.weather")
    world.end(world.start(done, "bronze.weather"), TaskEvent.SUCCEED)
    world.close(done)
    assert refusal(done)["code"] == "job_succeeded"
    assert "resumed_by" not in refusal(done)


def test_a_pipeline_that_is_gone_is_a_conflict_and_no_field(world: World) -> None:
    """The client named a job; that its pipeline has gone is no mistake in the request."""
    job_id = half_done(world)
    manager = world.service.manager
    specs = {name: spec for name, spec in manager.catalog.specs.items() if "silver" not in name}
    manager.catalog = Catalog(specs, target="pipelines.py")
    for verb in ("resume", "rerun"):
        answer = post(world, f"{job_id}/{verb}")
        assert (answer.status_code, answer.json()["code"]) == (409, "pipeline_not_found")
        assert answer.json()["status"] == 409
        assert "errors" not in answer.json()
        assert "silver.flights" in answer.json()["detail"]
    assert world.store.get(job_id).resumed_by is None


# ------------------------------------------------------------------ rerun


def test_a_rerun_runs_the_whole_plan_again(world: World) -> None:
    """Any job can be run again, also one that runs, and as often as one likes."""
    job_id = half_done(world)
    for asked in (job_id, world.run("bronze.weather")):
        answer = post(world, f"{asked}/rerun", "operator")
        assert answer.status_code == 201
        new = answer.json()
        assert answer.headers["Location"] == f"/api/jobs/{new['job_id']}"
        old = world.store.get(asked)
        assert (new["trigger"], new["resumed_from"]) == ("rerun", None)
        assert (new["total_tasks"], new["params"]) == (old.total_tasks, dict(old.params))


# ------------------------------------------------------------------ rollback


def test_a_rollback_names_its_tables_and_is_in_the_job(make_world: MakeWorld) -> None:
    """A dry run first: the same answer without an instant, and nothing changed."""
    world = make_world()
    job_id = half_done(world)
    shown = post(world, f"{job_id}/rollback?dry_run=true")
    table = {"table": "bronze.flights", "from_version": 3, "to_version": 2}
    assert shown.status_code == 200
    assert shown.json() == {"job_id": job_id, "tables": [table], "rolled_back_at": None}
    lake = cast(OneTable, world.service.tables)
    assert lake.put_back == []
    world.clock.advance(60)
    answer = post(world, f"{job_id}/rollback")
    assert answer.status_code == 200
    assert answer.json()["tables"] == [table]
    assert answer.json()["rolled_back_at"] == "2026-01-01T00:01:00.000000Z"
    assert lake.put_back == [TableRollback("bronze.flights", 3, 2)]
    rollback = world.client().get(f"/api/jobs/{job_id}").json()["rollback"]
    assert rollback == {
        "requested_at": "2026-01-01T00:01:00.000000Z",
        "requested_by": "admin",
        "finished_at": "2026-01-01T00:01:00.000000Z",
        "tables": [table],
    }
    again = post(world, f"{job_id}/rollback")
    assert (again.status_code, again.json()["code"]) == (409, "already_rolled_back")
    runs = post(world, f"{job_id}/resume?dry_run=true").json()["runs"]
    assert [one["pipeline"] for one in runs] == ["bronze.flights", "silver.flights"]


@pytest.mark.parametrize("dry_run", ["", "?dry_run=true"])
def test_a_job_that_runs_is_not_rolled_back(world: World, dry_run: str) -> None:
    """Its tables are being written."""
    job_id = world.run("bronze.flights")
    answer = post(world, f"{job_id}/rollback{dry_run}")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_ended")
    assert answer.json()["job_id"] == job_id


@pytest.mark.parametrize("code", ["table_changed", "content_gone"])
def test_what_the_lake_refuses_is_a_conflict(world: World, code: str) -> None:
    """The lake is read in a process of its own; its codes come through."""
    job_id = half_done(world)

    def refuse(table: str, job_id: str) -> TableRollback | None:
        raise LakeCallError({"code": code, "what": "it cannot be", "mend": "do otherwise"})

    lake = cast(Any, world.service.tables)
    lake.plan_rollback = refuse
    answer = post(world, f"{job_id}/rollback")
    assert (answer.status_code, answer.json()["code"]) == (409, code)
    assert world.store.get(job_id).rollback is None


def test_a_table_that_is_being_written_is_busy(world: World) -> None:
    """Its writer would lose what it does."""
    job_id = half_done(world)
    other = world.run("bronze.flights")
    task = world.start(other, "bronze.flights", epoch=5)
    [writer] = world.store.writers(["bronze.flights"]).values()
    held = replace(writer, epoch=5, job_id=other, task_id=task.task_id)

    from sluicegate.core.ports import Change

    world.ledger.write(other, lambda job: Change(job, made_from=job.version, writers=(held,)))
    answer = post(world, f"{job_id}/rollback")
    assert (answer.status_code, answer.json()["code"]) == (409, "table_busy")


# ------------------------------------------------------------------ all three


@pytest.mark.parametrize("verb", ["resume", "rollback", "rerun"])
def test_an_unknown_job_is_404(world: World, verb: str) -> None:
    """As everywhere but in a stop."""
    answer = post(world, f"nowhere/{verb}")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize(
    ("path", "options", "field"),
    [
        ("resume", {"json": {"dry_run": True}}, "dry_run"),
        ("rollback", {"json": {"dry_run": True}}, "dry_run"),
        ("rollback", {"params": {"dryrun": "true"}}, "dryrun"),
        ("rollback", {"params": {"dry_run": "perhaps"}}, "dry_run"),
        ("rerun", {"params": {"dry_run": "true"}}, "dry_run"),
    ],
)
def test_a_dry_run_in_the_wrong_place_does_nothing(
    world: World, path: str, options: Any, field: str
) -> None:
    """Whoever asked to change nothing must not find tables put back."""
    job_id = half_done(world)
    before, jobs = world.store.get(job_id), world.client().get("/api/jobs").json()["count"]
    answer = post(world, f"{job_id}/{path}", **options)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert world.store.get(job_id) == before
    assert world.client().get("/api/jobs").json()["count"] == jobs
