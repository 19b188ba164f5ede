"""A process that starts warm is what its test takes it for, to the command, to `/proc` and to who waits for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from sluicegate.workers.process_tree import find, with_environment
from warm_start import MARK, Warm, bare_environment, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project."""
    (tmp_path / "pipelines.py").write_text(
        "from sluicegate import bronze\n\n\n@bronze\ndef a(): ...\n"
    )
    return tmp_path


@contextmanager
def serving(folder: Path, mark: str) -> Iterator[Warm]:
    """A server that is ready."""
    arguments = ["serve", "pipelines.py", "--port", "0", "--json"]
    with Warm(arguments, cwd=folder, env=bare_environment() | {MARK: mark}) as server:
        try:
            assert server.stdout.readline()
            yield server
        finally:
            server.kill()


@pytest.mark.parametrize(
    "arguments", [["jobs", "list", "--json"], ["jobs", "nonsense"], ["--help"]]
)
def test_a_command_answers_as_if_started_cold(folder: Path, arguments: list[str]) -> None:
    """Exit code, both pipes, to the letter."""
    env = bare_environment() | {"COLUMNS": "70"}
    cold = subprocess.run(
        [sys.executable, "-m", "sluicegate", *arguments],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    warm = run(arguments, cwd=folder, env=env)
    assert (warm.returncode, warm.stdout, warm.stderr) == (
        cold.returncode,
        cold.stdout,
        cold.stderr,
    )
    assert warm.stdout + warm.stderr


def test_all_of_a_server_carries_its_mark(folder: Path) -> None:
    """By the mark the tests look for survivors: one that does not carry it would be overlooked."""
    mark = uuid4().hex
    with serving(folder, mark) as server:
        carrying = {process.pid for process in with_environment(MARK, mark)}
        assert server.pid in carrying
        assert len(carrying) >= 3, "the server, its guard and its zygote"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_who_waits_is_told_how_it_ended(folder: Path, signum: signal.Signals) -> None:
    """A server that is told to end exits with 0, a killed one with its signal."""
    with serving(folder, uuid4().hex) as server:
        assert server.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(0.01)
        server.send_signal(signum)
        expected = 0 if signum == signal.SIGTERM else -signum
        assert server.wait(20) == server.poll() == server.returncode == expected


STARTER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from warm_start import Warm, bare_environment
server = Warm(["serve", "pipelines.py", "--port", "0", "--json"], cwd=Path(sys.argv[2]), env=bare_environment())
assert server.stdout.readline()
print(server.pid, flush=True)
time.sleep(600)
"""


def test_a_server_does_not_outlive_killed_tests(folder: Path) -> None:
    """Nobody would end it."""
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", STARTER, tests, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        try:
            assert starter.stdout is not None
            server = find(int(starter.stdout.readline()))
            assert server is not None
        finally:
            starter.kill()
    deadline = time.monotonic() + 20
    while find(server.pid) == server:
        assert time.monotonic() < deadline, "the server lives on"
        time.sleep(0.01)
