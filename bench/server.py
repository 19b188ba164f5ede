"""A real `sluicegate serve` on loopback, and a client that costs as little as one can."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from typing import Any, Final

READY_SECONDS: Final = 120.0


class Server:
    """One server with a home of its own. `folder` holds both, and is removed afterwards."""

    def __init__(
        self, folder: Path, pipelines: str, target: str = "pipelines.py", **settings: str
    ) -> None:
        self.folder = folder
        (folder / "pipelines.py").write_text(pipelines)
        own = {"HOME": str(folder), "SLUICEGATE_HOME": str(folder / "home")}
        own |= {"SLUICEGATE_RATE_LIMIT": "1000000/second", **settings}
        plain = {k: v for k, v in os.environ.items() if not k.startswith("SLUICEGATE_")}
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sluicegate", "serve", target, "--port", "0", "--json"],
            cwd=folder,
            env=plain | own,
            stdout=subprocess.PIPE,
            stderr=(folder / "server.err").open("wb"),
            text=True,
        )
        try:
            self._get_ready()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.ready_seconds = time.perf_counter() - began

    def _get_ready(self) -> None:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            said = (self.folder / "server.err").read_text()
            raise RuntimeError(f"the server did not start: {said}")
        self.address = json.loads(line)["url"].removeprefix("http://")
        key = (self.folder / "home" / "admin.key").read_text().strip()
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.connection = self.connect()
        self.ask("GET", "/health/ready")

    def connect(self) -> HTTPConnection:
        """A keep-alive connection of one's own."""
        return HTTPConnection(self.address, timeout=READY_SECONDS)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        connection: HTTPConnection | None = None,
    ) -> Any:
        """Ask, and return the JSON. Raises: `RuntimeError` for any answer that is no success."""
        used = connection or self.connection
        sent = None if body is None else json.dumps(body)
        used.request(method, path, sent, self.headers)
        try:
            answer = used.getresponse()
        except RemoteDisconnected:  # the server closes a connection that was idle for seconds
            used.close()
            used.request(method, path, sent, self.headers)
            answer = used.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
        return json.loads(text)

    def start(self, *pipelines: str, **options: Any) -> str:
        """Create a job; return its id."""
        return str(
            self.ask("POST", "/api/jobs", {"pipelines": list(pipelines), **options})["job_id"]
        )

    def job(self, job_id: str) -> Any:
        """Return a job with its tasks."""
        return self.ask("GET", f"/api/jobs/{job_id}")

    def header(self, job_id: str) -> Any:
        """Return a job as the history shows it. It must be among the newest."""
        found = self.ask("GET", "/api/jobs?limit=20")["jobs"]
        return next(one for one in found if one["job_id"] == job_id)

    def wait(self, job_id: str, every: float = 0.01) -> Any:
        """Wait until nothing of a job moves any more."""
        while (job := self.header(job_id))["completed_at"] is None:
            time.sleep(every)
        return job

    def processes(self) -> list[int]:
        """The server and all below it."""
        return _tree(self.process.pid)

    def memory_mb(self) -> float:
        """What all of its processes hold together: pages that several share are counted once (PSS)."""
        total = 0
        for pid in self.processes():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024

    def close(self) -> None:
        """End it as a person would."""
        self.connection.close()
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder on the disk that the repository is on: a store in memory would be no store."""
    base = Path(__file__).parent / ".work"
    base.mkdir(exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=base))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def serving(pipelines: str, **settings: str) -> Iterator[Server]:
    """A server for as long as the block lasts."""
    with folder() as made:
        server = Server(made, pipelines, **settings)
        try:
            yield server
        finally:
            server.close()


def until(
    ready: Callable[..., Any], what: str, *given: Any, seconds: float = 60.0, every: float = 0.001
) -> Any:
    """Wait for a fact, asked for with what is `given`, and return it. Raises: `TimeoutError`."""
    deadline = time.monotonic() + seconds
    while not (found := ready(*given)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(every)
    return found


def _tree(pid: int) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += _tree(int(child))
    return found
