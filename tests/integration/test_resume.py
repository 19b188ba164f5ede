"""Over HTTP, with a real server: stop, go on, go back, run again; and many jobs at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Server, servers, until

ROWS = 200
QUEUED = 300

PIPELINES = f"""
import time
from pathlib import Path
from sluicegate import Task, bronze, silver

@bronze
def letters():
    return [{{"letter": "a"}}, {{"letter": "b"}}]

@bronze(mode="append")
def counted(task: Task):
    '''Commits as it goes; in the middle it waits for as long as its gate is shut.'''
    for n in range(task.state.get("last", -1) + 1, {ROWS}):
        while n >= {ROWS} // 2 and Path("shut").exists():
            time.sleep(0.01)
            task.checkpoint()
        task.state["last"] = n
        yield [{{"n": n}}]

@silver
def total(task: Task, counted):
    return [{{"n": row["n"]}} for row in counted.read_all().to_pylist()]

@bronze
def patient(task: Task):
    while True:
        time.sleep(0.02)
        task.checkpoint()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server on a fresh home, in a folder where `shut` is the gate."""
    (tmp_path / "pipelines.py").write_text(PIPELINES)
    with servers(tmp_path) as start:
        yield start("pipelines.py")


def post(server: Server, path: str, body: Any = None, *, status: int = 200) -> Any:
    """Call it, check the status, and return the answer."""
    answer = server.post(path, body)
    assert answer.status_code == status, answer.text
    return answer.json()


def rows(server: Server, table: str) -> list[int]:
    """What a table of numbers holds, sorted."""
    shown = server.get(f"/api/tables/{table}", limit=1000)
    return sorted(row["n"] for row in shown["preview"])


def stopped_halfway(server: Server) -> dict[str, Any]:
    """Run all but the patient one, and stop it after a unit of `counted` was committed."""
    (server.folder / "shut").touch()
    job_id = server.start(pipelines=["bronze.letters", "bronze.counted", "silver.total"])

    def halfway() -> bool:
        tasks = server.tasks(job_id)
        done = [name for name, task in tasks.items() if task["stats"]["units"]]
        return set(done) == {"bronze.letters", "bronze.counted"} and (
            tasks["bronze.letters"]["status"] == "success"
        )

    until(halfway, "one pipeline done and a unit of the other", 60)
    post(server, f"/api/jobs/{job_id}/cancel", {"reason": "half is enough"})
    return server.wait(job_id)


def test_stop_resume_roll_back_and_run_again(server: Server) -> None:
    """The whole circle: every row once, then back to where it was, then again."""
    stopped = stopped_halfway(server)
    path = f"/api/jobs/{stopped['job_id']}"
    kept = {one["table"]: one for one in stopped["cancellation"]["kept"]}
    half = kept["bronze.counted"]
    assert 0 < half["rows"] < ROWS
    assert stopped["cancellation"]["not_started"] == ["silver.total"]

    shown = post(server, f"{path}/resume?dry_run=true")
    assert shown["kept"] == [kept["bronze.letters"]]
    assert shown["runs"] == [
        {"pipeline": "bronze.counted", "after": half},
        {"pipeline": "silver.total", "after": None},
    ]
    (server.folder / "shut").unlink()
    resumed = post(server, f"{path}/resume", status=201)
    assert (resumed["resumed_from"], resumed["trigger"]) == (stopped["job_id"], "resume")
    assert resumed["total_tasks"] == 2
    assert server.wait(resumed["job_id"])["status"] == "success"
    assert rows(server, "bronze.counted") == list(range(ROWS))
    assert rows(server, "silver.total") == list(range(ROWS))
    again = post(server, f"{path}/resume", status=409)
    assert (again["code"], again["resumed_by"]) == ("already_resumed", resumed["job_id"])

    # The first job's table was changed by the second: only the later one can be taken back now.
    assert post(server, f"{path}/rollback", status=409)["code"] == "table_changed"
    second = f"/api/jobs/{resumed['job_id']}"
    would = post(server, f"{second}/rollback?dry_run=true")
    to = {one["table"]: one["to_version"] for one in would["tables"]}
    assert to == {"bronze.counted": half["version"], "silver.total": None}
    assert would["rolled_back_at"] is None
    assert rows(server, "bronze.counted") == list(range(ROWS))
    done = post(server, f"{second}/rollback")
    assert done["tables"] == would["tables"]
    assert done["rolled_back_at"] is not None
    assert rows(server, "bronze.counted") == list(range(half["rows"]))
    assert rows(server, "silver.total") == []
    assert server.job(resumed["job_id"])["rollback"]["tables"] == would["tables"]
    post(server, f"{second}/rollback", status=409)

    rerun = post(server, f"{second}/rerun", status=201)
    assert rerun["trigger"] == "rerun"
    assert server.wait(rerun["job_id"])["status"] == "success"
    assert rows(server, "bronze.counted") == list(range(ROWS))
    assert rows(server, "silver.total") == list(range(ROWS))


def test_what_was_rolled_back_runs_again_in_a_resume(server: Server) -> None:
    """State goes back with its table: nothing is skipped, nothing is there twice."""
    stopped = stopped_halfway(server)
    path = f"/api/jobs/{stopped['job_id']}"
    back = post(server, f"{path}/rollback")
    assert {one["table"]: one["to_version"] for one in back["tables"]} == {
        "bronze.letters": None,
        "bronze.counted": None,
    }
    shown = post(server, f"{path}/resume?dry_run=true")
    assert shown["kept"] == []
    assert {one["pipeline"]: one["after"] for one in shown["runs"]} == dict.fromkeys(
        ("bronze.letters", "bronze.counted", "silver.total")
    )
    (server.folder / "shut").unlink()
    resumed = post(server, f"{path}/resume", status=201)
    assert server.wait(resumed["job_id"])["status"] == "success"
    assert rows(server, "bronze.counted") == list(range(ROWS))


def test_one_task_is_stopped_and_the_rest_goes_on(server: Server) -> None:
    """What depends on it does not run; the job ends as `partial`."""
    (server.folder / "shut").touch()
    job_id = server.start(pipelines=["bronze.letters", "bronze.counted", "silver.total"])
    task = until(lambda: server.tasks(job_id).get("bronze.counted"), "the task to start", 60)
    assert task is not None
    path = f"/api/jobs/{job_id}/tasks/{task['task_id']}/cancel"
    shown = post(server, path, {"reason": "only this one"})
    assert shown["stopping"] or shown["status"] == "cancelled"
    job = server.wait(job_id)
    assert (job["status"], job["cancellation"]) == ("partial", None)
    tasks = server.tasks(job_id)
    assert tasks.keys() == {"bronze.letters", "bronze.counted"}
    assert tasks["bronze.counted"]["status"] == "cancelled"
    assert tasks["bronze.counted"]["stop"]["reason"] == "only this one"
    assert post(server, path, status=400)["code"] == "job_not_running"


@pytest.mark.proof
def test_hundreds_of_queued_jobs_are_stopped_and_a_later_one_lives(server: Server) -> None:
    """The token of a dry run means the jobs that were shown, and no other."""
    body = {"pipelines": ["bronze.patient"], "labels": {"batch": "night"}}
    job_ids = {server.start(**body) for _ in range(QUEUED)}
    asked = {"filter": {"label": "batch:night"}, "reason": "wrong night"}
    shown = post(server, "/api/jobs/cancel", {**asked, "dry_run": True})
    assert (shown["matched"], shown["cancelled"]) == (QUEUED, 0)
    assert {one["job_id"] for one in shown["results"]} == job_ids
    later = server.start(**body)
    answer = post(server, "/api/jobs/cancel", {**asked, "match_token": shown["match_token"]})
    assert (answer["matched"], answer["cancelled"]) == (QUEUED, QUEUED)
    assert {one["job_id"] for one in answer["results"]} == job_ids

    def all_over() -> bool:
        jobs = server.get("/api/jobs", status="cancelled", limit=500)["jobs"]
        assert {job["job_id"] for job in jobs} == job_ids
        return not any(job["stopping"] for job in jobs)

    until(all_over, "all to be over", 60)
    alive = until(lambda: server.tasks(later).get("bronze.patient"), "the later one to run", 60)
    assert alive is not None
    assert alive["status"] == "running"
    post(server, "/api/jobs/cancel", {"job_ids": [later], "mode": "force"})
    server.wait(later)
