"""`sluicegate verify-stop`: its verdict, and that it is one."""

from __future__ import annotations

import os
from pathlib import Path

from cli_project import SOURCES, Project

from sluicegate.workers.process_tree import find

# Ends a task's worker and nothing that it started, and does not look whether there is something.
BLIND_GUARD = """
import sys
if "sluicegate.workers.guard" in sys.orig_argv:
    import signal
    from sluicegate.workers import process_tree
    process_tree.kill_tree = lambda root: int(process_tree.send_signal(root, signal.SIGKILL))
    process_tree.kill_below = lambda root, **_: process_tree.Swept(0, True)
    process_tree.children = lambda parent: []
    from sluicegate.workers import cgroup
    cgroup.own_folder = lambda: None
"""
TREES = ("own_sessions", "daemons")


def only(*names: str) -> list[str]:
    return [word for name in names for word in ("--only", name)]


def test_it_proves_that_hostile_tasks_are_stopped(project: Project) -> None:
    """One line a stop, and nothing else of this installation is touched."""
    run = project("verify-stop", "--json", "--workers", "2", *only("busy_loop", *TREES))
    assert run.code == 0, run.err
    proof = run.json()
    assert proof["ok"] is True
    assert (proof["survivors"], proof["strays"], proof["executor"]) == (0, [], "local")
    tried = [(stop["task"], stop["mode"]) for stop in proof["stops"]]
    assert tried == [
        (task, mode) for mode in ("graceful", "force") for task in ("busy_loop", *TREES)
    ]
    for stop in proof["stops"]:
        assert stop["survivors"] == []
        assert stop["took_ms"] > 0
        assert stop["stage"] == ("kill" if stop["mode"] == "force" else "interrupt")
    assert [path.name for path in project.home.iterdir()] == []


def test_it_prints_a_table_and_a_verdict(project: Project) -> None:
    """For people."""
    run = project("verify-stop", "--mode", "force", *only("daemons"))
    assert run.code == 0, run.err
    heading, row, *_, verdict = run.out.splitlines()
    assert heading.split() == ["TASK", "MODE", "STOPPED", "BY", "MILLISECONDS", "SURVIVORS"]
    assert row.split()[:4] == ["✓", "daemons", "force", "kill"]
    assert row.split()[-1] == "0"
    assert verdict.startswith("1 stop, no process survived")


def test_it_sees_what_survives_when_trees_are_not_killed(project: Project, tmp_path: Path) -> None:
    """A proof that cannot fail is none. The guard is broken from outside: the product has no switch for it."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(BLIND_GUARD)
    path = os.pathsep.join((str(tmp_path / "broken"), str(SOURCES)))
    command = ("verify-stop", "--mode", "force", *only(*TREES))
    run = project(*command, "--json", PYTHONPATH=path)
    assert run.code == 1, run.err
    proof = run.json()
    assert proof["ok"] is False
    survivors = {stop["task"]: stop["survivors"] for stop in proof["stops"]}
    assert len(survivors["own_sessions"]) == 3
    assert len(survivors["daemons"]) == 2
    assert proof["survivors"] == 5
    assert "sleep 600" in survivors["own_sessions"][0]
    # It told, and then ended them: whoever looks for survivors must not leave some.
    assert not [one for found in survivors.values() for one in found if find(int(one.split()[0]))]
    told = project(*command, PYTHONPATH=path)
    assert told.code == 1
    assert "own_sessions (force): process" in told.out
    assert "5 processes survived" in told.out.splitlines()[-1]


def test_an_unknown_task_is_refused(project: Project) -> None:
    """With those that there are."""
    run = project("verify-stop", *only("polite"))
    assert run.code == 1
    assert "there is no hostile task 'polite'" in run.err
    assert "busy_loop" in run.err
