"""`jobs cancel` with a filter: what it shows, when it asks, and that it stops nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from sluicegate.app import open_local
from sluicegate.cli import terminal
from sluicegate.cli.commands import app
from sluicegate.config import Settings
from sluicegate.core.job_manager import RunRequest


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and no settings from outside."""
    for name in os.environ:
        if name.startswith("SLUICEGATE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["jobs", *arguments], prog_name="sluicegate")


def create(count: int = 1, **labels: str) -> list[str]:
    """Add pending jobs to the store of the working folder."""
    with open_local(Settings.load({})) as local:
        request = RunRequest(job_name="nightly", labels=labels)
        return [local.manager.create(request, user_id="ana")[0].job_id for _ in range(count)]


def statuses() -> dict[str, str]:
    listed = json.loads(run("list", "--limit", "500", "--json").stdout)
    return {job["job_id"]: job["status"] for job in listed["jobs"]}


def test_a_dry_run_shows_the_jobs_and_stops_none() -> None:
    """The newest in a table, and how many there are in all."""
    job_ids = create(25, team="air")
    create(1, team="sea")
    shown = run("cancel", "--label", "team:air", "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "a stop now would stop 25 jobs" in shown.stdout
    assert "… and 5 more" in shown.stdout
    assert shown.stdout.count("○ pending") == 20
    assert "nothing was stopped" in shown.stdout
    assert set(statuses().values()) == {"pending"}
    preview = json.loads(run("cancel", "--label", "team:air", "--dry-run", "--json").stdout)
    assert {one["job_id"] for one in preview["results"]} == set(job_ids)


def test_a_script_is_not_asked_and_a_token_limits_it() -> None:
    """There is nobody to answer; what was shown is still all that is meant."""
    shown = create(2, team="air")
    preview = json.loads(run("cancel", "--status", "pending", "--dry-run", "--json").stdout)
    [later] = create()
    token = preview["match_token"]
    answer = run("cancel", "--status", "pending", "--match-token", token, "--reason", "x", "--json")
    assert {one["job_id"] for one in json.loads(answer.stdout)["results"]} == set(shown)
    assert statuses() == dict.fromkeys(shown, "cancelled") | {later: "pending"}
    rest = run("cancel", "--status", "pending")
    assert rest.stdout == "1 job cancelled; all have stopped\n"
    assert run("cancel", "--status", "pending").stdout == "no job matches, so nothing was stopped\n"
    ended = run("cancel", "--status", "cancelled").stdout
    assert ended == "0 jobs cancelled, 3 had ended already\n"


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], bool]) -> list[str]:
    """Let somebody sit at the terminal; returns the questions."""
    questions: list[str] = []

    def confirm(text: str, **options: Any) -> bool:
        questions.append(text)
        return answer(text)

    monkeypatch.setattr(terminal, "can_ask", lambda: True)
    monkeypatch.setattr(typer, "confirm", confirm)
    return questions


def test_a_terminal_asks_and_stops_only_what_it_showed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is created while somebody reads was not agreed to."""
    shown, later = create(2), list[str]()

    def agree(text: str) -> bool:
        later.extend(create())
        return True

    questions = answering(monkeypatch, agree)
    assert run("cancel", "--status", "pending").exit_code == 0
    assert questions == ["Stop 2 jobs?"]
    assert statuses() == dict.fromkeys(shown, "cancelled") | dict.fromkeys(later, "pending")


def test_no_means_no_and_yes_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says `--yes` knows; who says no has changed nothing."""
    [job_id] = create()
    questions = answering(monkeypatch, lambda text: False)
    assert run("cancel", "--older-than", "0s").exit_code == 130
    assert (questions, statuses()) == (["Stop 1 job?"], {job_id: "pending"})
    assert run("cancel", "--older-than", "1d", "--yes").exit_code == 0
    assert statuses() == {job_id: "pending"}
    assert run("cancel", "--older-than", "0s", "--yes").exit_code == 0
    assert statuses() == {job_id: "cancelled"}
    assert questions == ["Stop 1 job?"]


def test_several_ids_are_stopped_though_one_is_wrong() -> None:
    """All are decided before any is waited for; the code says that something was refused."""
    job_ids = create(2)
    stopped = run("cancel", job_ids[0], "0" * 36, job_ids[1], "--json")
    assert stopped.exit_code == 1
    assert "there is no job" in stopped.stderr
    answers = [json.loads(line) for line in stopped.stdout.splitlines()]
    assert [one["job_id"] for one in answers] == job_ids
    assert all(one["cancellation"]["stopped_at"] for one in answers)


@pytest.mark.parametrize(
    "arguments",
    [
        ["cancel"],
        ["cancel", "x", "--status", "pending"],
        ["cancel", "--status", "lost"],
        ["cancel", "--label", "team"],
        ["cancel", "--older-than", "soon"],
        ["cancel", "--older-than", "9999999999999d"],
        ["cancel", "x", "--match-token", "m1."],
        ["cancel", "--status", "pending", "--dry-run", "--match-token", "m1."],
        ["cancel", "--task", "bronze.a"],
        ["cancel", "x", "y", "--task", "bronze.a"],
        ["cancel", "x", "--task", "bronze.a", "--drain"],
        ["cancel", "x", "--task", "bronze.a", "--dry-run"],
        ["list", "--label", "team"],
        ["rollback", "x"],
    ],
)
def test_what_is_written_wrongly_stops_nothing(arguments: list[str]) -> None:
    """A filter that was not understood must never be taken for none."""
    [job_id] = create()
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert statuses() == {job_id: "pending"}
