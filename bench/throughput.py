"""What a small task costs: alone, in one job of many, and as the size of the job grows."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime
from typing import Any, Final

from bench.figures import Results
from bench.server import Server, serving, until

CONNECTIONS: Final = 8
JOBS: Final = 2000
FIRST_LINES: Final = 40
SIZES: Final = (100, 1_000, 10_000, 100_000)
MEASURED_TASKS: Final = 2000

SMALL: Final = """
import os, time
from sluicegate import Task, bronze
for number in range(64):
    exec(f"@bronze(name='n{number}')\\ndef n(): pass")

@bronze
def speaks(task: Task):
    with open(task.params["file"] + ".new", "w") as file:
        file.write(str(time.monotonic_ns()))
    os.rename(task.params["file"] + ".new", task.params["file"])
"""


def many(count: int) -> str:
    """A file with so many pipelines that do nothing."""
    return f"""
from sluicegate import bronze
def n(): pass
for number in range({count}):
    bronze(name=f"n{{number}}")(n)
"""


def measure(results: Results) -> None:
    """Small tasks."""
    with serving(SMALL) as server:
        _first_lines(server, results)
        _jobs(server, results)
    for count, runs in ((1_000, 3), (10_000, 1)):
        with serving(many(count)) as server:
            server.wait(server.start("bronze.n0"))
            rates = [_rate(server.wait(server.start(), every=0.05), count) for _ in range(runs)]
        results.add(
            f"tasks.{count}", "tasks/s", rates, "no-ops in one job, each start and end durable"
        )


def growth(results: Results) -> None:
    """What a task costs in jobs of growing size, and the stop of each."""
    costs = {}
    for size in SIZES:
        with serving(many(size)) as server:
            job_id = server.start()
            done = min(size, MEASURED_TASKS)
            # What the job costs at its beginning, its plan above all, belongs to the whole of it.
            first = until(_progress, "some tasks", server, job_id, min(50, size // 2), every=0.005)
            last = until(_progress, "more tasks", server, job_id, done, seconds=300, every=0.02)
            costs[size] = 1000 * (last[0] - first[0]) / (last[1] - first[1])
            results.add(f"growth.{size}", "ms a task", [costs[size]])
            if size > MEASURED_TASKS:
                began = time.perf_counter()
                server.ask("POST", f"/api/jobs/{job_id}/cancel")
                answered = time.perf_counter() - began
                server.wait(job_id)
                took = 1000 * (time.perf_counter() - began)
                results.add(
                    f"growth.stop.{size}", "ms", [took], f"answered after {answered * 1000:.0f} ms"
                )
    results.add("growth.ratio", "times", [costs[SIZES[-1]] / costs[SIZES[0]]])


def _progress(server: Server, job_id: str, wanted: int) -> tuple[float, int] | None:
    done = server.header(job_id)["completed_tasks"]
    return (time.perf_counter(), done) if done >= wanted else None


def _first_lines(server: Server, results: Results) -> None:
    taken = []
    for n in range(FIRST_LINES + 3):
        file = server.folder / f"line-{n}"
        began = time.monotonic_ns()
        job_id = server.start("bronze.speaks", params={"file": str(file)})
        until(file.exists, "its line")
        taken.append((int(file.read_text()) - began) / 1e6)
        server.wait(job_id)
    results.add("first_line", "ms", taken[3:], "POST to the task's own clock")


def _jobs(server: Server, results: Results) -> None:
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        threads = [threading.Thread(target=_submit, args=(server, n)) for n in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(
            lambda: (
                not server.ask("GET", "/api/jobs?status=pending&status=running&limit=1")["jobs"]
            ),
            "all to end",
            every=0.02,
        )
        rates.append(JOBS / (time.perf_counter() - began))
    results.add("jobs.http", "jobs/s", rates, f"one task each, {CONNECTIONS} connections")


def _submit(server: Server, which: int) -> None:
    connection = server.connect()
    each = JOBS // CONNECTIONS
    for n in range(each):
        body = {"pipelines": [f"bronze.n{which * 8 + n % 8}"]}
        connection.request("POST", "/api/jobs", json.dumps(body), server.headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201, answer.status
    connection.close()


def _rate(job: dict[str, Any], count: int) -> float:
    assert job["status"] == "success", job["status"]
    times = [datetime.fromisoformat(job[at]) for at in ("created_at", "completed_at")]
    return count / (times[1] - times[0]).total_seconds()
