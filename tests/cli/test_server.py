"""A server that lives on a home, and the commands that find it."""

from __future__ import annotations

import json
import signal
import stat

import httpx
from cli_project import Project


def test_commands_find_the_server_of_their_home(project: Project) -> None:
    """`run` hands its job over, any terminal can watch and stop it, and both ways look the same."""
    with project.serving() as server:
        assert stat.S_IMODE((project.home / "admin.key").stat().st_mode) == 0o600
        with project.start("run", "pipelines.py", "bronze.patient", "--json") as process:
            job_id = project.wait_for_job()
            remote = project("jobs", "show", job_id, "--json").json()
            assert "a stop now would" in project("jobs", "cancel", job_id, "--dry-run").out
            with project.start("jobs", "watch", job_id) as watching:
                stopped = project("jobs", "cancel", job_id, "--reason", "enough")
                shown, _ = watching.communicate(timeout=60)
            out, err = process.communicate(timeout=60)
        assert server["url"] in err
        assert stopped.code == 0, stopped.err
        assert "stopped in" in stopped.out
        assert process.returncode == watching.returncode == 130
        assert json.loads(out)["cancellation"]["reason"] == "enough"
        assert "enough" in shown
    local = project("jobs", "show", job_id, "--json").json()
    assert local.keys() == remote.keys()
    assert local["tasks"][0].keys() == remote["tasks"][0].keys()


def test_ctrl_c_stops_a_job_that_the_server_runs(project: Project) -> None:
    """It is the same command, wherever the job runs."""
    with project.serving():
        with project.start("run", "pipelines.py", "bronze.patient") as process:
            project.wait_for_job()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "stopped in" in out


def test_what_is_declared_and_kept_comes_from_the_server(project: Project) -> None:
    """Its pipelines, tables and keys are those that count."""
    with project.serving():
        assert project("run", "pipelines.py", "bronze.letters").code == 0
        remote = project("pipelines", "list", "--json").json()["pipelines"]
        assert [one["pipeline"] for one in remote][:2] == ["bronze.letters", "bronze.patient"]
        assert remote[0]["last_task"]["status"] == "success"
        tables = project("tables", "list", "--json").json()
        table = project("tables", "show", "bronze.letters", "--json").json()
        made = project("keys", "create", "ci", "--role", "viewer", "--json").json()
        assert set(made) == {"name", "role", "key"}
        keys = project("keys", "list", "--json").json()
        assert [key["name"] for key in keys["keys"]] == ["admin", "ci"]
    local = project("pipelines", "list", "pipelines.py", "--json").json()["pipelines"]
    assert [one.keys() for one in local] == [one.keys() for one in remote]
    assert local[0]["last_task"].keys() == remote[0]["last_task"].keys()
    assert project("tables", "list", "--json").json() == tables
    assert project("tables", "show", "bronze.letters", "--json").json() == table
    assert project("keys", "list", "--json").json() == keys


def test_a_server_elsewhere_is_reached_by_url_and_key(project: Project) -> None:
    """CI has no home of its own, and a key that can do less."""
    with project.serving() as server:
        key = project("keys", "create", "ci", "--role", "viewer", "--json").json()["key"]
        there = {"SLUICEGATE_URL": server["url"], "SLUICEGATE_HOME": "elsewhere"}
        assert project("jobs", "list", "--json", **there, SLUICEGATE_API_KEY=key).code == 0
        refused = project("keys", "list", **there, SLUICEGATE_API_KEY=key)
        assert (refused.code, len(refused.err.splitlines())) == (1, 2)
        nameless = project("jobs", "list", **there)
        assert nameless.code == 1
        assert "SLUICEGATE_API_KEY" in nameless.err


def test_a_second_server_and_a_taken_port_are_refused(project: Project) -> None:
    """One clear error each; the first server does not notice."""
    with project.serving() as server:
        second = project("serve", "pipelines.py", "--port", "0")
        assert (second.code, len(second.err.splitlines())) == (1, 2)
        assert "in use" in second.err
        port = server["url"].rpartition(":")[2]
        taken = project("serve", "pipelines.py", "--port", port, "--home", "other")
        assert (taken.code, len(taken.err.splitlines())) == (1, 2)
        assert port in taken.err
        assert httpx.get(f"{server['url']}/health/live").status_code == 200


def test_pipelines_that_cannot_be_loaded_start_nothing(project: Project) -> None:
    """A typo in a pipeline must not look like a running server."""
    (project.folder / "bad.py").write_text(
        "from sluicegate import silver\n@silver\ndef a(x): ...\n"
    )
    for command in (["serve", "bad.py", "--port", "0"], ["run", "bad.py"]):
        refused = project(*command)
        assert refused.code == 1
        assert refused.err.startswith("error: cannot load")
        assert "mend: " in refused.err
        assert "Traceback" not in refused.err
    assert project("jobs", "list", "--json").json()["jobs"] == []


def test_the_first_start_prints_a_link_that_signs_in(project: Project) -> None:
    """Who starts a server must get into its page without looking for a key. Cold, as a person starts it."""
    with project.start_cold("serve", "pipelines.py", "--port", "0") as process:
        assert process.stdout is not None
        links = (word for line in process.stdout for word in line.split() if "token=" in word)
        link = next(links, None)
        assert link is not None, process.communicate()[1]
        answer = httpx.get(link)
        assert answer.status_code in (200, 302, 303, 307)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert not (project.home / "server.json").exists()
