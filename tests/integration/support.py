"""What the tests with real processes share: a service in this process, a server in its own, and who is left alive.

Every process of ours carries a mark in the environment that it was started with, and so does everything that it
starts: `/proc` tells survivors from all other processes of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import httpx

from sluicegate.app import RunningService, open_service
from sluicegate.config import Settings
from sluicegate.core.job import Job, LogEntry, StopMode, TaskRecord
from sluicegate.core.job_manager import RunRequest
from sluicegate.core.transitions import StopRequest
from sluicegate.workers.process_tree import ProcessId, find, send_signal
from warm_start import MARK, Warm, bare_environment

SLACK = 5
T = TypeVar("T")


def until(fact: Callable[[], T], what: str, seconds: float = 15.0) -> T:
    """Wait until `fact` is truthy, and return it. What takes longer is asked for less often: asking is work, too."""
    began = time.monotonic()
    while not (found := fact()):
        waited = time.monotonic() - began
        assert waited < seconds, f"waited {seconds:g} s for: {what}"
        time.sleep(min(0.05, 0.005 + waited / 20))
    return found


def marked(mark: str) -> set[ProcessId]:
    """Every live process whose environment carries the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names are enough
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0") and (
                process := find(int(entry))
            ):
                found.add(process)
    return found


def end_marked(mark: str) -> None:
    """Clean up after a test that failed: only what carries its mark."""
    for _ in range(50):
        left = marked(mark)
        if not left:
            return
        for process in left:
            send_signal(process, signal.SIGKILL)
        time.sleep(0.02)


def kill(pid: int, signum: int = signal.SIGKILL) -> ProcessId:
    """Signal a process that a test started, by its identity."""
    process = find(pid)
    assert process is not None, f"process {pid} is gone already"
    assert send_signal(process, signum)
    return process


def gone(process: ProcessId) -> bool:
    """Whether this very process has ended."""
    return find(process.pid) != process


def descriptors(pid: int) -> int:
    """How many files a process has open; the store keeps a few connections, as many as callers came at once."""
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += not descriptor.readlink().name.startswith("jobs.db")
    return count


class Here:
    """A service in this process, on pipelines given as text; its workers are real."""

    def __init__(self, folder: Path, source: str, *, workers: int = 2, **flags: Any) -> None:
        self.folder, self.mark = folder, uuid4().hex
        folder.mkdir(parents=True, exist_ok=True)
        self.pipelines = folder / "pipelines.py"
        self.pipelines.write_text(source)
        self.settings = Settings.load(
            {"home": str(folder / "home"), "workers": workers, **flags}, environ={}, folder=folder
        )
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        before = os.environ.get(MARK, "")
        self.stack.callback(os.environ.__setitem__, MARK, before)
        os.environ[MARK] = self.mark  # for as long as it lives: a guard can be replaced at any time
        try:
            opened = open_service(self.settings, str(self.pipelines))
            self.service: RunningService = self.stack.enter_context(opened)
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stack.close()
            until(lambda: not marked(self.mark), "every process gone after closing", 10)
        finally:
            end_marked(self.mark)

    # ---------------------------------------------------------------- jobs

    def start(self, *pipelines: str, **options: Any) -> str:
        """Create a job and return its id."""
        request = RunRequest(pipelines=pipelines, **options)
        return self.service.manager.create(request, user_id="tester")[0].job_id

    def wait(self, job_id: str, seconds: float = 30.0) -> Job:
        """Wait until nothing of a job moves any more."""
        job = self.service.wait(job_id, seconds)
        assert job.is_over, f"job is still {job.status} after {seconds:g} s"
        return job

    def run(self, *pipelines: str, **options: Any) -> str:
        """Run a job to its end and return its id."""
        job_id = self.start(*pipelines, **options)
        self.wait(job_id)
        return job_id

    def job(self, job_id: str) -> Job:
        """The header of a job as it is now."""
        return self.service.manager.header(job_id)

    def task(self, job_id: str, pipeline: str | None = None) -> TaskRecord:
        """The task of a job, the only one or that of a pipeline."""
        tasks = self.tasks(job_id)
        if pipeline is None:
            [task] = tasks.values()
            return task
        return tasks[pipeline]

    def tasks(self, job_id: str) -> dict[str, TaskRecord]:
        """The tasks of a job by pipeline."""
        return {task.pipeline: task for task in self.service.manager.get(job_id).tasks}

    def cancel(self, job_id: str, mode: str = "graceful") -> Job:
        """Decide to stop a job."""
        return self.service.manager.cancel(job_id, StopRequest("tester", "why", StopMode(mode)))

    def stop(self, job_id: str, mode: str = "graceful", seconds: float = 20.0) -> Job:
        """Stop a job and wait until it has stopped."""
        self.cancel(job_id, mode)
        return self.wait(job_id, seconds)

    def entries(self, job_id: str, **query: Any) -> list[LogEntry]:
        """All log lines of a job."""
        found: list[LogEntry] = []
        after = 0
        while page := self.service.manager.logs(job_id, after=after, limit=10_000, **query):
            found += page
            after = page[-1].log_id
        return found

    def lines(self, job_id: str, stream: str | None = None) -> list[str]:
        """What a job said, or what its tasks said on one stream."""
        return [e.message for e in self.entries(job_id) if stream in (None, e.stream)]

    def said(self, job_id: str, text: str, seconds: float = 15.0) -> str:
        """Wait for a line that begins with `text`, and return the rest of it."""

        def look() -> list[str]:
            return [line for line in self.lines(job_id) if line.startswith(text)]

        return until(look, f"a line {text!r} in the logs", seconds)[0].removeprefix(text).strip()

    # ---------------------------------------------------------------- processes

    def alive(self) -> set[ProcessId]:
        """Every live process of this service and its tasks."""
        return marked(self.mark)

    @property
    def guard(self) -> int:
        """The pid of the guard."""
        [guard] = [p.pid for p in self.alive() if b"workers.guard" in _command(p) and _is_guard(p)]
        return guard

    @property
    def zygote(self) -> int:
        """The pid of the zygote: the guard's child that forks the workers."""
        return min(p.pid for p in self.alive() if _parent(p.pid) == self.guard)

    def workers(self) -> set[int]:
        """The pids of the workers."""
        zygote = self.zygote
        return {p.pid for p in self.alive() if _parent(p.pid) == zygote}


def _is_guard(process: ProcessId) -> bool:
    return _parent(process.pid) == os.getpid()


def _command(process: ProcessId) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process.pid}/cmdline").read_bytes()
    return b""


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat[stat.rindex(b")") + 2 :].split()[1])
    return 0


class Server:
    """`sluicegate serve` in a process of its own, and a client of it."""

    def __init__(
        self,
        folder: Path,
        target: str | Path,
        *,
        mark: str,
        port: int = 0,
        home: str = "home",
        **settings: str,
    ) -> None:
        self.folder, self.mark = folder, mark
        self.errors = folder / f"server-{uuid4().hex[:6]}.err"
        with self.errors.open("wb") as errors:
            self.process = Warm(
                serve_arguments(target, port),
                stderr=errors,
                cwd=folder,
                env=environment(folder, mark, home=home, **settings),
            )
        line = self.process.stdout.readline()
        assert line, f"the server did not start: {self.errors.read_text()}"
        self.url = json.loads(line)["url"]
        # Of homes that share a store only the first is given a key.
        [key, *_] = [path.read_text() for path in folder.glob("*/admin.key")]
        self.http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=30
        )

    def post(self, path: str, body: Any = None) -> httpx.Response:
        """POST, with a JSON body or none."""
        return self.http.post(path, json=body) if body is not None else self.http.post(path)

    def get(self, path: str, **query: Any) -> Any:
        """GET and return the JSON."""
        answer = self.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def start(self, **body: Any) -> str:
        """Create a job and return its id."""
        answer = self.post("/api/jobs", body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """One job with its tasks."""
        found: dict[str, Any] = self.get(f"/api/jobs/{job_id}")
        return found

    def tasks(self, job_id: str) -> dict[str, dict[str, Any]]:
        """The tasks of a job by pipeline id."""
        return {f"{t['layer']}.{t['pipeline_name']}": t for t in self.job(job_id)["tasks"]}

    def wait(self, job_id: str, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until a job is over."""

        def over() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["completed_at"] else None

        return until(over, f"job {job_id} to end", seconds)  # type: ignore[return-value]

    def logs(self, job_id: str) -> list[dict[str, Any]]:
        """All log lines of a job."""
        found: list[dict[str, Any]] = []
        after = 0
        while page := self.get(f"/api/jobs/{job_id}/logs", after=after, limit=1000)["logs"]:
            found += page
            after = page[-1]["log_id"]
        return found

    def kill(self) -> None:
        """SIGKILL the server, and only it."""
        kill(self.process.pid)
        self.process.wait(10)
        self._let_go()

    def terminate(self, seconds: float = 15.0) -> int:
        """SIGTERM it and wait. Returns: its exit code."""
        if self.process.poll() is None:
            kill(self.process.pid, signal.SIGTERM)
        code = self.process.wait(seconds)
        self._let_go()
        return code

    def _let_go(self) -> None:
        self.http.close()
        self.process.stdout.close()


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Callable[..., Server]]:
    """Start servers, on one home unless told otherwise; what is left of them at the end is ended."""
    mark = uuid4().hex
    started: list[Server] = []

    def start(target: str | Path, **options: Any) -> Server:
        started.append(Server(folder, target, mark=mark, **options))
        return started[-1]

    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield start
        for server in started:
            if server.process.poll() is None:
                server.terminate()
    finally:
        end_marked(mark)
        for server in started:
            server.process.wait(10)
            server._let_go()


def serve_arguments(target: str | Path, port: int = 0) -> list[str]:
    """What makes `sluicegate` a server that says on stdout, as JSON, that it is ready."""
    return ["serve", str(target), "--port", str(port), "--json"]


def serve_command(target: str | Path, port: int = 0) -> list[str]:
    """The whole command line of such a server."""
    return [sys.executable, "-m", "sluicegate", *serve_arguments(target, port)]


def environment(folder: Path, mark: str, home: str = "home", **settings: str) -> dict[str, str]:
    """The environment of a server of its own home. `settings`: more of them, in small letters."""
    return {
        **bare_environment(),
        MARK: mark,
        "SLUICEGATE_HOME": str(folder / home),
        "SLUICEGATE_WORKERS": "2",
        "SLUICEGATE_RATE_LIMIT": "1000000/second",
        **{f"SLUICEGATE_{name.upper()}": value for name, value in settings.items()},
    }


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]
