"""`sluicegate prune` on real tables, with a server and without; what is left can still be rolled back."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_project import Project

HOURS_MS = int(timedelta(hours=3).total_seconds() * 1000)


def make_old(lake: Path) -> None:
    """Set back the clocks that a table's log was written by: files of the last hour always stay."""
    for entry in lake.rglob("_delta_log/*.json"):
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] -= HOURS_MS
        entry.write_text("\n".join(json.dumps(action) for action in actions) + "\n")


def run(project: Project, *more: str) -> str:
    done = project("run", "pipelines.py", "bronze.letters", "--json", *more)
    job_id: str = done.json()["job_id"]
    return job_id


def data_files(project: Project) -> set[Path]:
    return set((project.home / "lake").rglob("*.parquet"))


def listed(project: Project) -> list[str]:
    return [job["job_id"] for job in project("jobs", "list", "--json").json()["jobs"]]


def prune(project: Project, *more: str) -> Any:
    done = project("prune", "--older-than", "0s", "--json", *more)
    assert done.code == 0, done.err
    return done.json()


def look_and_prune(project: Project) -> None:
    jobs = [run(project) for _ in range(3)]
    failed = project("run", "pipelines.py", "gold.broken", "--json").json()["job_id"]
    make_old(project.home / "lake")
    before = data_files(project)
    would = prune(project, "--dry-run")
    kept = {"resumable": 1, "rollback": 1}
    assert (would["jobs"], would["kept"], would["files"]) == (2, kept, 1)
    assert listed(project) == [failed, *jobs[::-1]]
    assert data_files(project) == before

    done = prune(project, "--yes")
    assert {**done, "dry_run": True, "ended_before": would["ended_before"]} == would
    assert listed(project) == [failed, jobs[2]]
    assert len(data_files(project)) == 2
    assert project("jobs", "logs", jobs[0]).code == 1
    assert project("tables", "show", "bronze.letters", "--json").json()["row_count"] == 2

    back = project("jobs", "rollback", jobs[2], "--yes", "--json")
    assert back.code == 0, back.err
    assert project("tables", "show", "bronze.letters", "--json").json()["row_count"] == 2
    assert project("jobs", "resume", failed, "--dry-run").code == 0
    assert prune(project, "--yes", "--resumable")["kept"] == {}


def test_without_a_server_it_goes_straight_to_the_store_and_the_lake(project: Project) -> None:
    """A cron job on a machine whose server is down."""
    look_and_prune(project)
    assert listed(project) == []


def test_a_server_that_lives_on_the_home_does_it(project: Project) -> None:
    """It goes on running jobs meanwhile."""
    with project.serving():
        look_and_prune(project)
        assert listed(project) == []
        assert project("jobs", "show", run(project), "--json").json()["status"] == "success"


def test_it_asks_or_is_told_yes_and_says_what_it_kept(project: Project) -> None:
    """It cannot be undone: a script that forgot to say so removes nothing."""
    run(project)
    refused = project("prune", "--older-than", "0s")
    assert refused.code == 2
    assert "--yes" in refused.err
    shown = project("prune", "--older-than", "0s", "--dry-run")
    assert shown.code == 0, shown.err
    assert "would remove 0 jobs" in shown.out
    assert "kept  1  can be rolled back" in shown.out
    assert len(listed(project)) == 1


@pytest.mark.parametrize("given", [(), ("--older-than", "soon"), ("--older-than", "-1d")])
def test_how_old_must_be_said(project: Project, given: tuple[str, ...]) -> None:
    """There is no age that is right for everybody."""
    refused = project("prune", *given, "--yes")
    assert refused.code == 2
    assert "--older-than" in refused.err


def test_with_another_store_the_lake_is_left_alone(project: Project) -> None:
    """All that it keeps for jobs would look unneeded to a store that knows none of them."""
    for _ in range(2):
        run(project)
    make_old(project.home / "lake")
    before = data_files(project)
    other = f"sqlite:///{project.folder}/other.db"
    done = project("prune", "--older-than", "0s", "--yes", SLUICEGATE_STORE=other)
    assert done.code == 0, done.err
    assert "left alone" in done.out
    assert data_files(project) == before
