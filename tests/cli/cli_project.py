"""A small project, and the command line run on it as a person would: in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from warm_start import Warm, bare_environment

PIPELINES = """
import time
from sluicegate import Task, bronze, gold, silver


@bronze
def letters(task: Task):
    task.log.warning("about to write")
    yield [{"letter": "a"}, {"letter": "b"}]


@bronze
def patient(task: Task):
    yield [{"n": 0}]
    print("patient is waiting", flush=True)
    while True:
        time.sleep(0.02)
        task.checkpoint()


@silver
def parameter(task: Task, letters):
    yield [{"value": repr(task.params.get("value"))}]


@gold
def broken(task: Task):
    raise ValueError("no such column: 'day'")
"""
SOURCES = Path(__file__).parents[2] / "src"
WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Stdout as one JSON document."""
        return json.loads(self.out)


class Project:
    """A folder with pipelines, and commands that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / ".sluicegate"
        (folder / "pipelines.py").write_text(PIPELINES)

    @contextmanager
    def start(self, *arguments: str, **environment: str) -> Iterator[Warm]:
        """Start a command; it does not outlive the block."""
        process = Warm(arguments, cwd=self.folder, env=_environment() | environment)
        with process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def start_cold(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command as a shell does; it does not outlive the block."""
        with subprocess.Popen(
            [sys.executable, "-m", "sluicegate", *arguments],
            cwd=self.folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def __call__(self, *arguments: str, **environment: str) -> Finished:
        """Run a command to its end."""
        with self.start(*arguments, **environment) as process:
            out, err = process.communicate(timeout=WAIT_SECONDS)
        return Finished(process.returncode, out, err)

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[dict[str, Any]]:
        """Serve the pipelines for as long as the block lasts; yields what the server said of itself."""
        command = ("serve", "pipelines.py", "--port", "0", "--json", *arguments)
        with self.start(*command) as process:
            line = process.stdout.readline()
            if not line:
                pytest.fail(f"the server did not start: {process.communicate()[1]}")
            yield json.loads(line)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0

    def wait_for_job(self, status: str = "running", pipeline: str = "bronze.patient") -> str:
        """Wait until the newest job has a task of `pipeline` in this status; return the job's id."""

        def look() -> str | None:
            listed = self("jobs", "list", "--json", "--limit", "1")
            for job in listed.json()["jobs"] if listed.code == 0 else []:
                shown = self("jobs", "show", job["job_id"], "--json").json()
                for task in shown["tasks"]:
                    if (f"{task['layer']}.{task['pipeline_name']}", task["status"]) == (
                        pipeline,
                        status,
                    ):
                        return str(job["job_id"])
            return None

        return until(look, f"{pipeline} to be {status}")


def _environment() -> dict[str, str]:
    return bare_environment() | {"PYTHONPATH": str(SOURCES)}


def until(look: Callable[[], Any], what: str) -> Any:
    """Wait for a fact."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    return pytest.fail(f"waited in vain for {what}")
