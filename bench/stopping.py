"""How soon a stop has stopped: a task that looks often, tasks that look at nothing, and ten thousand that wait."""

from __future__ import annotations

import json
import mmap
import struct
import time
from pathlib import Path
from typing import Final

from bench.figures import Results
from bench.server import Server, serving, until

STOPS: Final = 200
HOSTILE_STOPS: Final = 5
QUEUED: Final = 10_000
FORMAT: Final = "q"

PIPELINES: Final = '''
import ctypes, mmap, os, struct, subprocess, sys, time
from sluicegate import Task, bronze

@bronze
def ticks(task: Task):
    """Writes the time each time that it looks, a thousand times a second."""
    with open(task.params["file"], "r+b") as file, mmap.mmap(file.fileno(), 8) as last:
        while True:
            struct.pack_into("q", last, 0, time.monotonic_ns())
            time.sleep(0.001)
            task.checkpoint()

def ready(task):
    with open(task.params["file"] + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(task.params["file"] + ".new", task.params["file"])

@bronze
def busy(task: Task):
    """A loop that never looks."""
    ready(task)
    n = 0
    while True:
        n += 1

@bronze
def family(task: Task):
    """A child and a grandchild."""
    subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000"])
    ready(task)
    time.sleep(1000)

@bronze
def swallows(task: Task):
    """Catches whatever is raised in it."""
    ready(task)
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass

@bronze
def query(task: Task):
    """One long query."""
    import duckdb
    ready(task)
    duckdb.sql("select count(*) from range(10000000) a, range(10000000) b where a.range % 7 = b.range % 5").fetchall()

@bronze
def locked(task: Task):
    """A call into C that keeps the interpreter for itself."""
    ready(task)
    ctypes.PyDLL(None).sleep(1000)

@bronze
def waits(task: Task):
    while True:
        time.sleep(0.01)
        task.checkpoint()
'''
HOSTILE: Final = ("busy", "family", "swallows", "query", "locked")


def measure(results: Results) -> None:
    """Stop by HTTP, with one connection that is open already."""
    with serving(PIPELINES) as server:
        _polite(server, results)
        for kind in HOSTILE:
            _hostile(server, results, kind)
    with serving(PIPELINES) as server:
        _queued(server, results)


def _polite(server: Server, results: Results) -> None:
    file = server.folder / "last"
    file.write_bytes(bytes(8))
    answers, last_lines, closed = [], [], []
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 8) as last:
        for _ in range(STOPS):
            struct.pack_into(FORMAT, last, 0, 0)
            job_id = server.start("bronze.ticks", params={"file": str(file)})
            until(lambda: struct.unpack_from(FORMAT, last)[0], "the task's first line")
            time.sleep(0.01)  # it is at its work, and the server at rest
            began = time.monotonic_ns()
            server.ask("POST", f"/api/jobs/{job_id}/cancel")
            answers.append((time.monotonic_ns() - began) / 1e6)
            time.sleep(0.03)  # nobody else asks for something while the stop goes on
            job = server.wait(job_id)
            last_lines.append(max(0, struct.unpack_from(FORMAT, last)[0] - began) / 1e6)
            closed.append(job["cancellation"]["latency_ms"])
    results.add("stop.answer", "ms", answers, "graceful, a task that looks each millisecond")
    results.add("stop.last_line", "ms", last_lines)
    results.add("stop.closed", "ms", closed, "until the receipt is stored")


def _hostile(server: Server, results: Results, kind: str) -> None:
    taken = []
    for n in range(HOSTILE_STOPS):
        file = server.folder / f"{kind}-{n}"
        job_id = server.start(f"bronze.{kind}", params={"file": str(file)})
        until(file.exists, f"{kind} to be at its work")
        pid = int(file.read_text())
        tree = _below(pid)
        time.sleep(0.2)
        began = time.perf_counter()
        server.ask("POST", f"/api/jobs/{job_id}/cancel", {"mode": "force"})
        until(_all_gone, f"the end of {kind}", tree)
        taken.append((time.perf_counter() - began) * 1000)
        server.wait(job_id)
    results.add(f"stop.force.{kind}", "ms", taken, "POST to no process left")


def _queued(server: Server, results: Results) -> None:
    """Two run, all others wait for their table; one call stops all."""
    connection = server.connect()
    for _ in range(QUEUED):
        connection.request(
            "POST", "/api/jobs", json.dumps({"pipelines": ["bronze.waits"]}), server.headers
        )
        connection.getresponse().read()
    began = time.perf_counter()
    answer = server.ask("POST", "/api/jobs/cancel", {"filter": {"status": ["pending", "running"]}})
    assert answer["cancelled"] == QUEUED, answer["cancelled"]
    results.add(
        "stop.queued", "s", [time.perf_counter() - began], f"{QUEUED} jobs, decided and stored"
    )


def _below(pid: int) -> list[int]:
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += _below(int(child))
    return found


def _all_gone(pids: list[int]) -> bool:
    return not any(map(_lives, pids))


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
