"""`run` in the foreground, in real processes with real signals: exit codes, stops, and plain JSON."""

from __future__ import annotations

import signal

import pytest
from cli_project import Project

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX signals")


def test_a_run_that_succeeds_exits_with_0_and_shows_what_it_did(project: Project) -> None:
    """Progress goes to stderr, so that what a script reads is the result alone."""
    done = project("run", "pipelines.py", "bronze.letters")
    assert done.code == 0, done.err
    assert "bronze.letters success" in done.err
    assert "✓ success" in done.out
    assert "1 of 1 succeeded" in done.out


def test_json_is_the_whole_job_on_stdout(project: Project) -> None:
    """The same shape as the API's, whoever ran it."""
    done = project(
        *("run", "pipelines.py", "silver.parameter", "--with-dependencies"),
        *("--param", "value=[1]", "--json"),
    )
    assert done.code == 0, done.err
    job = done.json()
    assert job["params"] == {"value": [1]}
    assert job["trigger"] == "cli"
    assert [step["pipeline"] for step in job["plan"]] == ["bronze.letters", "silver.parameter"]
    rows = project("tables", "show", "silver.parameter", "--json").json()["preview"]
    assert rows == [{"value": "[1]"}]


def test_a_run_that_fails_exits_with_1_and_says_why(project: Project) -> None:
    """The message and the line are all that most people need."""
    done = project("run", "pipelines.py", "gold.broken")
    assert done.code == 1
    assert "ValueError: no such column: 'day'" in done.out
    assert "pipelines.py:" in done.out
    partial = project("run", "pipelines.py", "gold.broken", "bronze.letters", "--json")
    assert (partial.code, partial.json()["status"]) == (1, "partial")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_job_and_the_receipt_is_printed(
    project: Project, number: signal.Signals
) -> None:
    """Ctrl-C is the first thing that anybody tries."""
    with project.start("run", "pipelines.py", "bronze.patient") as process:
        job_id = project.wait_for_job()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Ctrl-C again stops it by force" in err
    assert "stopped in" in out
    assert "at a checkpoint" in out
    shown = project("jobs", "show", job_id, "--json").json()
    assert shown["cancellation"]["reason"] == "Ctrl-C"
    assert shown["cancellation"]["outcome"] == "stopped"


def test_the_history_is_there_without_a_server(project: Project) -> None:
    """Straight from the store: list, show, logs, tables."""
    project("run", "pipelines.py", "bronze.letters")
    page = project("jobs", "list", "--json").json()
    (job,) = page["jobs"]
    assert (job["status"], page["count"], page["next_cursor"]) == ("success", 1, None)
    short = job["job_id"][:13]
    assert short in project("jobs", "list").out
    assert "bronze.letters" in project("jobs", "show", short).out
    logs = project("jobs", "logs", short, "--task", "bronze.letters", "--json").json()["logs"]
    assert [line["message"] for line in logs if line["stream"] == "log"] == ["about to write"]
    assert "about to write" in project("jobs", "logs", short, "--follow").out
    assert project("jobs", "cancel", short).code == 1
    events = project("jobs", "watch", short, "--json")
    assert events.code == 0
    assert '"job.finished"' in events.out.splitlines()[-1]
    assert "bronze.letters" in project("tables", "list").out


def test_a_job_of_another_process_can_be_stopped_from_here(project: Project) -> None:
    """Two terminals on one project, and no server."""
    with project.start("run", "pipelines.py", "bronze.patient") as process:
        job_id = project.wait_for_job()
        stopped = project("jobs", "cancel", job_id, "--reason", "enough", "--json")
        _, err = process.communicate(timeout=60)
    assert stopped.code == 0, stopped.err
    assert stopped.json()["status"] == "cancelled"
    assert process.returncode == 130, err
