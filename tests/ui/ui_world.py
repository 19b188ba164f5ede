"""A real server in a process of its own, and what the page's tests need to call it."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from warm_start import Warm, bare_environment

T = TypeVar("T")

DEADLINE_SECONDS: Final = 20.0
HERE: Final = Path(__file__).resolve().parent
PIPELINES: Final = HERE / "pipelines"
FLIGHTS: Final = HERE.parents[1] / "examples" / "flights"
CHROMIUM_FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def launch_arguments(*programs: str) -> dict[str, Any]:
    """How the first of these Chromiums that the system has is started. It is never skipped: a missing one fails."""
    found = [where for where in map(shutil.which, programs) if where]
    assert found, "the page's tests need chromium: apt-get install chromium"
    return {"executable_path": found[0], "args": list(CHROMIUM_FLAGS)}


class Server:
    """`sluicegate serve` on a home of its own. A second `start` comes back at the same address."""

    def __init__(self, home: Path, target: Path) -> None:
        self.home, self.target = home, target
        self.url = ""
        self.sign_in_link = ""
        self.keys: dict[str, str] = {}
        self._process: Warm | None = None
        self._client = httpx.Client(timeout=DEADLINE_SECONDS)

    def start(self) -> None:
        """Start it, wait until it listens, and make a key of every role."""
        self.home.mkdir(parents=True, exist_ok=True)
        port = self.url.rpartition(":")[2] or "0"
        flags = ["--home", str(self.home), "--port", port, "--workers", "3", "--json"]
        flags += ["--rate-limit", "6000/minute"]  # One key, many pages.
        with (self.home / "server.log").open("a") as log:
            self._process = Warm(
                ["serve", str(self.target), *flags],
                stderr=log,
                cwd=self.home,
                env=bare_environment(),
            )
        line = self._process.stdout.readline()
        assert line, f"the server did not start:\n{(self.home / 'server.log').read_text()}"
        info = json.loads(line)
        self.url, self.sign_in_link = info["url"], info["sign_in_link"]
        if not self.keys:
            self.keys["admin"] = (self.home / "admin.key").read_text().strip()
            for role in ("viewer", "operator"):
                self.keys[role] = self.post("/api/keys", {"name": role, "role": role})["key"]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it is gone."""
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.wait(DEADLINE_SECONDS)
        self._process.stdout.close()
        self._process = None

    def close(self) -> None:
        """End it for good."""
        self.stop()
        self._client.close()

    def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = None
    ) -> httpx.Response:
        """Call the API with the admin's key, or another one."""
        headers = {"Authorization": f"Bearer {key or self.keys['admin']}"}
        return self._client.request(method, self.url + path, json=body, headers=headers)

    def get(self, path: str) -> Any:
        return self.call("GET", path).raise_for_status().json()

    def post(self, path: str, body: Any = None) -> Any:
        return self.call("POST", path, body).raise_for_status().json()

    def run(self, *pipelines: str, **fields: Any) -> str:
        """Create a job and return its id."""
        job_id: str = self.post("/api/jobs", {"pipelines": list(pipelines), **fields})["job_id"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job with its plan, tasks and receipt."""
        found: dict[str, Any] = self.get(f"/api/jobs/{job_id}")
        return found

    def cancel(self, job_id: str, **fields: Any) -> dict[str, Any]:
        """Stop a job; one that has ended stays as it is."""
        path = f"/api/jobs/{job_id}/cancel?if_not_running=ignore"
        answer: dict[str, Any] = self.post(path, fields)
        return answer

    def wait_until(
        self, job_id: str, what: str, fact: Callable[[Mapping[str, Any]], object]
    ) -> Any:
        """Wait for a fact about a job; return the job."""

        def look() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if fact(job) else None

        return wait_for(f"a job that {what}", look)

    def wait_until_running(self, job_id: str) -> dict[str, Any]:
        """Wait until a task of the job runs."""
        found: dict[str, Any] = self.wait_until(job_id, "runs", is_running)
        return found

    def wait_until_over(self, job_id: str) -> dict[str, Any]:
        """Wait until nothing of the job moves any more."""
        found: dict[str, Any] = self.wait_until(job_id, "is over", lambda job: job["completed_at"])
        return found


def is_running(job: Mapping[str, Any]) -> bool:
    """Whether a task of the job is at work."""
    return any(task["status"] == "running" for task in job["tasks"])


def wait_for(what: str, look: Callable[[], T | None]) -> T:
    """Wait until `look` answers with something; return that."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
    return found
