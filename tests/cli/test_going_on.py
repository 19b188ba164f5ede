"""`jobs resume`, `rollback`, `rerun` and `cancel --task`, in processes of their own, with a server and without."""

from __future__ import annotations

from cli_project import Project


def test_without_a_server_a_resumed_job_waits_and_a_server_runs_it(project: Project) -> None:
    """Nobody should wait for a job that nothing runs."""
    first = project("run", "pipelines.py", "bronze.letters", "gold.broken", "--json").json()
    job_id = first["job_id"]
    shown = project("jobs", "resume", job_id, "--dry-run")
    assert shown.code == 0, shown.err
    assert "run   gold.broken  from its beginning" in shown.out
    assert "keep  bronze.letters  version 0  2 rows" in shown.out
    dry = project("jobs", "resume", job_id, "--dry-run", "--json").json()
    assert [one["pipeline"] for one in dry["runs"]] == ["gold.broken"]
    resumed = project("jobs", "resume", job_id)
    assert resumed.code == 0
    assert "the job waits until `sluicegate serve` starts" in resumed.err
    again = project("jobs", "resume", job_id)
    assert again.code == 1
    assert "goes on as job" in again.err
    new = project("jobs", "show", job_id, "--json").json()["resumed_by"]
    assert f"new job       {new}" in resumed.out
    assert f"sluicegate jobs watch {new}" in resumed.out
    assert project("jobs", "show", new, "--json").json()["status"] == "pending"
    with project.serving():
        assert project("jobs", "watch", new).code == 1  # it is broken yet
        rerun = project("jobs", "rerun", job_id, "--json")
        assert rerun.json()["trigger"] == "rerun"
        assert project("jobs", "watch", rerun.json()["job_id"]).code == 1
        assert "note" not in project("jobs", "rerun", job_id).err


def test_a_rollback_asks_or_is_told_yes(project: Project) -> None:
    """It changes data: a script that forgot to say so changes nothing."""
    job_id = project("run", "pipelines.py", "bronze.letters", "--json").json()["job_id"]
    refused = project("jobs", "rollback", job_id)
    assert refused.code == 2
    assert "--yes" in refused.err
    shown = project("jobs", "rollback", job_id, "--dry-run")
    assert "a rollback now would put back" in shown.out
    assert "bronze.letters  version 0  → empty" in shown.out
    table = project("tables", "show", "bronze.letters", "--json").json()
    assert table["row_count"] == 2
    done = project("jobs", "rollback", job_id, "--yes", "--json")
    assert done.code == 0, done.err
    assert done.json()["tables"] == [
        {"table": "bronze.letters", "from_version": 0, "to_version": None}
    ]
    assert project("tables", "show", "bronze.letters", "--json").json()["row_count"] == 0
    assert "↺ rolled back" in project("jobs", "show", job_id).out
    again = project("jobs", "rollback", job_id, "--yes")
    assert (again.code, len(again.err.splitlines())) == (1, 2)


def test_a_rollback_and_a_run_in_the_foreground_take_turns(project: Project) -> None:
    """Tables must not change under a process that believes to be the only one that writes them."""
    job_id = project("run", "pipelines.py", "bronze.letters", "--json").json()["job_id"]
    with project.start("run", "pipelines.py", "bronze.patient") as process:
        project.wait_for_job()
        refused = project("jobs", "rollback", job_id, "--yes")
        assert (refused.code, len(refused.err.splitlines())) == (1, 2)
        assert "in use by process" in refused.err
        assert project("jobs", "rollback", job_id, "--dry-run").code == 0
        process.terminate()
        process.communicate(timeout=60)
    assert project("jobs", "rollback", job_id, "--yes").code == 0


def test_one_task_is_stopped_from_another_terminal(project: Project) -> None:
    """The process that runs the job hears of it through the store."""
    with project.start("run", "pipelines.py", "bronze.patient", "bronze.letters") as process:
        job_id = project.wait_for_job()
        command = ("jobs", "cancel", job_id, "--task", "bronze.patient", "--reason", "too slow")
        stopped = project(*command)
        out, err = process.communicate(timeout=60)
    assert stopped.code == 0, stopped.err
    assert "bronze.patient was stopped alone in" in stopped.out
    assert "asked for it: too slow." in stopped.out
    assert process.returncode == 1, err  # partial: the other one has succeeded
    assert "◐ partial" in out
    assert "bronze.patient was stopped alone in" in out
    ended = project(*command)
    assert (ended.code, len(ended.err.splitlines())) == (1, 2)
