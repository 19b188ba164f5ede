"""A thousand jobs that are stopped while they are submitted: afterwards everything is as it was before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import Server, descriptors, marked, servers, until

from sluicegate.workers.process_tree import ProcessId, children

pytestmark = pytest.mark.proof

JOBS = 1000
CLIENTS = 4

PIPELINES = """
import subprocess, time
from pathlib import Path
from sluicegate import CancelPolicy, Task, bronze

@bronze(cancel=CancelPolicy(interrupt_after="0.3s", terminate_after="0.8s", kill_after="1.5s"))
def writes(task: Task):
    for n in range(1000):
        yield [{"n": n}] * 100
        time.sleep(0.002)

@bronze(cancel=CancelPolicy(interrupt_after="0.3s", terminate_after="0.8s", kill_after="1.5s"))
def starts_programs(task: Task):
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield [{"n": 1}]
    time.sleep(600)

def meet(task, own, other):
    folder = Path(task.params["folder"])
    (folder / own).touch()
    while not (folder / other).exists():
        time.sleep(0.005)
        task.checkpoint()

@bronze
def left(task: Task): meet(task, "left", "right")

@bronze
def right(task: Task): meet(task, "right", "left")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with two workers."""
    (tmp_path / "pipelines.py").write_text(PIPELINES)
    with servers(tmp_path) as start:
        yield start(tmp_path / "pipelines.py")


def infrastructure(server: Server) -> dict[str, ProcessId]:
    """The guard and the zygote; they stay the same, or something was lost."""
    [guard] = children(server.process.pid)
    [zygote] = children(guard.pid)
    return {"guard": guard, "zygote": zygote}


def both_workers_are_free(server: Server, folder: Path) -> None:
    """Two tasks that wait for each other end only if both run at once."""
    folder.mkdir()
    job = server.wait(
        server.start(pipelines=["bronze.left", "bronze.right"], params={"folder": str(folder)})
    )
    assert job["status"] == "success"


def waste(folder: Path) -> list[str]:
    """Files that only an unfinished write leaves, and data files of tables that have none committed."""
    partial = [path for path in folder.rglob("*") if ".partial" in path.name]
    lake = folder / "home" / "lake" / "bronze"
    unpublished = [
        path
        for table in ("writes", "starts_programs")
        for path in (lake / table).rglob("*.parquet")
    ]
    return [str(path) for path in (*partial, *unpublished)]


def submit_and_stop(server: Server, jobs: int) -> list[str]:
    """Create jobs from several clients and stop each a few milliseconds later; return their ids."""
    headers = dict(server.http.headers)

    def one_client(client: int) -> list[str]:
        created = []
        with httpx.Client(base_url=server.url, headers=headers, timeout=60) as http:
            for n in range(jobs // CLIENTS):
                pipeline = "bronze.starts_programs" if n % 20 == client else "bronze.writes"
                answer = http.post("/api/jobs", json={"pipelines": [pipeline]})
                assert answer.status_code == 201, answer.text
                created.append(str(answer.json()["job_id"]))
                time.sleep((n % 5) / 1000)
                mode = "force" if n % 10 == 0 else "graceful"
                answer = http.post(f"/api/jobs/{created[-1]}/cancel", json={"mode": mode})
                assert answer.status_code == 200, answer.text
        return created

    with ThreadPoolExecutor(CLIENTS) as clients:
        return [job for found in clients.map(one_client, range(CLIENTS)) for job in found]


def all_are_stopped(server: Server, jobs: list[str]) -> None:
    """Wait until nothing of these jobs moves any more."""

    def listed() -> dict[str, dict[str, Any]]:
        found, cursor = {}, None
        while True:
            page = server.get("/api/jobs", limit=500, **({"cursor": cursor} if cursor else {}))
            found |= {job["job_id"]: job for job in page["jobs"]}
            if (cursor := page["next_cursor"]) is None:
                return found

    until(lambda: all(job["completed_at"] for job in listed().values()), "all to have stopped", 60)
    ended = listed()
    assert {ended[job]["status"] for job in jobs} == {"cancelled"}


@pytest.mark.timeout(300)
def test_nothing_leaks_when_a_thousand_jobs_are_stopped_while_they_come(
    server: Server, tmp_path: Path
) -> None:
    """No slot of a worker, no descriptor, no process, no file: counts before are counts after."""
    # What the server opens once for many callers, and keeps, is open after this.
    all_are_stopped(server, submit_and_stop(server, 100))
    both_workers_are_free(server, tmp_path / "before")
    watched = infrastructure(server)
    pids = (server.process.pid, watched["guard"].pid, watched["zygote"].pid)

    def is_tidy() -> bool:
        # The server, guard, zygote and two workers; and one that reads the lake, where it was asked.
        return len(marked(server.mark)) <= 6

    until(is_tidy, "no process too many")
    before = [descriptors(pid) for pid in pids]

    began = time.monotonic()
    jobs = submit_and_stop(server, JOBS)
    all_are_stopped(server, jobs)
    print(f"{len(jobs)} jobs submitted and stopped in {time.monotonic() - began:.1f} s")

    both_workers_are_free(server, tmp_path / "after")
    assert infrastructure(server) == watched
    until(is_tidy, "no process too many")

    until(lambda: [descriptors(pid) for pid in pids] == before, f"as many open files: {before}")
    assert waste(tmp_path) == []
