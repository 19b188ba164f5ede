"""Ending what does not hold still: chains of processes, where each forks the next and ends, with nobody above them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from support import MARK, end_marked, marked, until

import sluicegate
from sluicegate.workers import process_tree
from sluicegate.workers.process_tree import (
    ProcessId,
    command,
    descendants,
    find,
    kill_tree,
    missing_means,
)

# What the guard is to orphans: it adopts them, and sweeps. A chain runs for 20 s.
SWEEPER = """
import os, sys, time
from sluicegate.workers.process_tree import become_subreaper, kill_below

def chain(kind):
    end = time.monotonic() + 20
    os.setsid()
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)
        if kind == "sessions":
            os.setsid()

assert become_subreaper()
for _ in range(3):
    if not os.fork():
        chain(sys.argv[1])
        os._exit(0)
time.sleep(0.3)
swept = kill_below(os.getpid())
print(swept.killed, int(swept.is_clean))
"""


@pytest.mark.parametrize("kind", ["group", "sessions"])
def test_orphans_that_fork_and_vanish_are_ended(kind: str) -> None:
    """The quickest of them was met neither by a look at all processes, nor twice at the same pid."""
    mark = uuid4().hex
    source = str(Path(sluicegate.__file__).parents[1])
    try:
        done = subprocess.run(
            [sys.executable, "-c", SWEEPER, kind],
            env={**os.environ, MARK: mark, "PYTHONPATH": source},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        killed, is_clean = map(int, done.stdout.split())
        assert killed >= 3
        assert is_clean
        assert marked(mark) == set()
    finally:
        end_marked(mark)


def test_a_process_is_found_by_what_it_was_started_with() -> None:
    """Also when it has left its parent's session; and only by the beginning of the value."""
    mark = uuid4().hex
    with subprocess.Popen(
        ["sleep", "600"], env={**os.environ, MARK: f"{mark}/one"}, start_new_session=True
    ) as process:
        try:
            found = process_tree.with_environment(MARK, mark)
            assert found == {find(process.pid): f"{mark}/one"}
            assert process_tree.with_environment(MARK, f"{mark}/two") == {}
            [identity] = found
            assert command(identity) == "sleep 600"
        finally:
            process.kill()
    assert process_tree.with_environment(MARK, mark) == {}
    assert command(ProcessId(process.pid, 0)) == ""


def test_the_platform_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux lacks nothing; elsewhere a receipt must not claim what could not be done."""
    assert missing_means() == ()
    monkeypatch.setattr(process_tree, "IS_LINUX", False)
    assert any(means.startswith("no subreaper") for means in missing_means())


OUTLIVED = """
import ctypes, subprocess, threading, time
def run():
    print(subprocess.Popen(["sleep", "600"], start_new_session=True).pid, flush=True)
    time.sleep(600)
threading.Thread(target=run).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_that_outlives_its_first_thread_is_alive_and_is_ended() -> None:
    """It is shown as a zombie, and runs on: nobody may be told that it is gone."""
    with subprocess.Popen([sys.executable, "-c", OUTLIVED], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = find(int(process.stdout.readline()))
        state = Path(f"/proc/{process.pid}/stat")
        until(
            lambda: state.read_text().rpartition(") ")[2].startswith("Z"), "its first thread to end"
        )
        root = find(process.pid)
        assert root is not None
        assert child is not None
        assert child in descendants(process.pid)
        assert kill_tree(root) == 2
        process.wait(20)
    assert find(child.pid) is None
