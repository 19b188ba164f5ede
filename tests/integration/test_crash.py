"""Servers that are killed, told to end, or started twice: nothing of them stays, and their jobs go on."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import flights_figures
import pytest
from support import (
    SLACK,
    Server,
    end_marked,
    environment,
    kill,
    marked,
    serve_command,
    servers,
    until,
)

from sluicegate.demo import deliver, pipelines_path

PIPELINES = '''
import os, signal, subprocess, sys, threading, time
from sluicegate import CancelPolicy, Task, bronze, silver

@bronze
def first(task: Task):
    print("first attempt", task.attempt, flush=True)
    return [{"n": 1}]

@silver
def second(task: Task, first):
    """Waits for a file, with all kinds of processes below it."""
    print("second attempt", task.attempt, flush=True)
    if task.params.get("family"):
        subprocess.Popen(["sleep", "600"])
        subprocess.Popen(["sh", "-c", "trap '' TERM HUP INT; sleep 600 & sleep 600"], start_new_session=True)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
    print("ready", flush=True)
    while not os.path.exists(task.params["go"]):
        time.sleep(0.01)
        task.checkpoint()
    return [{"n": 2}]

@bronze(cancel=CancelPolicy(interrupt_after=60, terminate_after=60, kill_after=60))
def stubborn(task: Task):
    print("ready", flush=True)
    time.sleep(600)

@bronze(retries=1, retry_delay=600)
def fails(task: Task):
    raise ValueError("try again")
'''


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server on the test's own home."""
    (tmp_path / "pipelines.py").write_text(PIPELINES)
    with servers(tmp_path) as start_server:
        yield lambda target=tmp_path / "pipelines.py", **options: start_server(target, **options)


def said(server: Server, job_id: str, text: str) -> None:
    until(
        lambda: any(line["message"].startswith(text) for line in server.logs(job_id)),
        f"a line {text!r}",
    )


def all_gone(mark: str, seconds: float = 2.0 * SLACK) -> float:
    """Wait until no process carries the mark; return how long it took."""
    began = time.monotonic()
    until(lambda: not marked(mark), f"every process gone: {marked(mark)}", seconds)
    return time.monotonic() - began


def recoveries(folder: Path, job_id: str) -> int:
    """How often a job was taken over from the dead; read beside the server, which does not tell."""
    from sluicegate.stores import open_store

    store = open_store(f"sqlite:///{folder}/home/jobs.db")
    try:
        return store.get(job_id).recoveries
    finally:
        store.close()


# -------------------------------------------------------------------- the demo


def test_the_demo_survives_a_kill_of_its_server(tmp_path: Path) -> None:
    """No process of ours lives 2 s later; a restart finishes the job with the same tables."""
    landing = tmp_path / "home" / "landing"
    with servers(tmp_path) as start:
        deliver(landing, days=40)
        wanted = flights_figures.expected(landing)
        server = start(pipelines_path())
        job_id = server.start(params={"pace_ms": 60})

        def half_done() -> bool:
            task = server.tasks(job_id).get("bronze.flights")
            return bool(task and task["stats"]["units"] >= 1 and task["status"] == "running")

        until(half_done, "some files to be published", 30)
        before = server.tasks(job_id)
        server.kill()
        print(f"all gone {all_gone(server.mark) * 1000:.0f} ms after the kill")

        server = start(pipelines_path())
        job = server.wait(job_id)
        assert job["status"] == "success", job
        assert server.job(job_id)["job_id"] == job_id
        after = server.tasks(job_id)
        assert recoveries(tmp_path, job_id) == 1
        for pipeline, task in before.items():
            if task["status"] == "success":
                assert (after[pipeline]["attempt"], after[pipeline]["completed_at"]) == (
                    1,
                    task["completed_at"],
                )
        assert after["bronze.flights"]["attempt"] == 2
        lake = tmp_path / "home" / "lake"
        assert flights_figures.differences(wanted, flights_figures.actual(lake)) == []


# -------------------------------------------------------------------- SIGKILL


@pytest.mark.parametrize("who", [["server"], ["server", "guard"], ["server", "guard", "zygote"]])
def test_nothing_lives_when_the_server_is_killed(
    start: Callable[..., Server], tmp_path: Path, who: list[str]
) -> None:
    """Not the workers, not what their tasks started, also when those die that would have ended them."""
    server = start()
    job_id = server.start(
        pipelines=["silver.second"],
        with_dependencies=True,
        params={"go": str(tmp_path / "go"), "family": True},
    )
    said(server, job_id, "ready")
    infrastructure = {"server": server.process.pid} | below(server.process.pid)
    for name in who:
        kill(infrastructure[name], signal.SIGSTOP)  # so that none can act before the last is hit
    for name in who:
        kill(infrastructure[name])
    server.process.wait(10)
    print(f"{who}: all gone after {all_gone(server.mark) * 1000:.0f} ms")

    (tmp_path / "go").touch()
    server = start()
    job = server.wait(job_id)
    assert job["status"] == "success"
    tasks = server.tasks(job_id)
    assert tasks["bronze.first"]["attempt"] == 1
    assert tasks["silver.second"]["attempt"] == 2
    assert recoveries(tmp_path, job_id) == 1


def below(pid: int) -> dict[str, int]:
    """The guard and the zygote of a server."""
    [guard] = children(pid)
    return {"guard": guard, "zygote": min(children(guard))}


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [
        int(child)
        for thread in tasks.iterdir()
        for child in (thread / "children").read_text().split()
    ]


@pytest.mark.proof
def test_a_job_that_kills_its_server_again_and_again_is_given_up(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    """After three recoveries its unfinished tasks fail, and the job ends."""
    server = start()
    job_id = server.start(
        pipelines=["silver.second"], with_dependencies=True, params={"go": str(tmp_path / "no")}
    )
    for attempt in range(1, 5):
        said(server, job_id, f"second attempt {attempt}")
        server.kill()
        all_gone(server.mark)
        server = start()
    job = server.wait(job_id)
    assert job["status"] == "partial"
    task = server.tasks(job_id)["silver.second"]
    assert task["status"] == "failed"
    assert "recoveries_exhausted" in task["error"]
    assert task["attempt"] == 4


def test_a_stop_outlives_its_server(start: Callable[..., Server]) -> None:
    """It was answered, so it holds: after the restart the job is closed, with its receipt."""
    server = start()
    job_id = server.start(pipelines=["bronze.stubborn"])
    said(server, job_id, "ready")
    assert server.post(f"/api/jobs/{job_id}/cancel").status_code == 200
    server.kill()
    all_gone(server.mark)

    server = start()
    job = server.wait(job_id, 15)
    assert job["status"] == "cancelled"
    [task] = job["tasks"]
    assert task["status"] == "cancelled"
    receipt = job["cancellation"]
    assert receipt["outcome"] == "stopped"
    assert [one["pipeline"] for one in receipt["stopped"]] == ["bronze.stubborn"]
    assert receipt["latency_ms"] > 0


def test_a_stop_between_two_attempts_outlives_its_server(start: Callable[..., Server]) -> None:
    """The task that waits for its retry is closed, too."""
    server = start()
    job_id = server.start(pipelines=["bronze.fails", "bronze.stubborn"])
    said(server, job_id, "ready")
    until(lambda: server.tasks(job_id)["bronze.fails"]["status"] == "pending", "a retry")
    server.post(f"/api/jobs/{job_id}/cancel")
    server.kill()
    all_gone(server.mark)

    server = start()
    job = server.wait(job_id, 15)
    assert {task["status"] for task in job["tasks"]} == {"cancelled"}


# -------------------------------------------------------------------- SIGTERM


def test_a_server_that_is_told_to_end_hands_its_jobs_back(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    """That is neither a recovery nor a retry: the job goes on with the next server."""
    server = start()
    job_id = server.start(
        pipelines=["silver.second"], with_dependencies=True, params={"go": str(tmp_path / "go")}
    )
    said(server, job_id, "ready")
    began = time.monotonic()
    assert server.terminate() == 0
    took = time.monotonic() - began
    assert marked(server.mark) == set()
    assert took < 3 * SLACK
    print(f"SIGTERM: ended in {took:.2f} s")
    assert not (tmp_path / "home" / "server.json").exists()

    (tmp_path / "go").touch()
    server = start()
    job = server.wait(job_id)
    assert job["status"] == "success"
    assert recoveries(tmp_path, job_id) == 0
    assert server.tasks(job_id)["bronze.first"]["attempt"] == 1


@pytest.mark.parametrize(
    "sight",
    [
        pytest.param("jobs.db", marks=pytest.mark.proof),
        pytest.param("executors.json", marks=pytest.mark.proof),
        "server.json",
    ],
)
def test_a_server_that_is_told_to_end_while_it_starts_leaves_no_process(
    tmp_path: Path, sight: str
) -> None:
    """Its own handler comes last, and its guard must not be left to find out by itself that it is gone."""
    (tmp_path / "pipelines.py").write_text(
        "from sluicegate import bronze\n@bronze\ndef n(): pass\n"
    )
    mark = uuid4().hex
    command = serve_command(tmp_path / "pipelines.py")
    server = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path, mark))
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "home" / sight).exists() and time.monotonic() < deadline:
            pass  # at the first moment at which it can be seen
        server.terminate()
        assert server.wait(20) == 0
        assert marked(mark) == set()
        assert not (tmp_path / "home" / "server.json").exists()
    finally:
        end_marked(mark)
        server.wait(20)


def test_a_task_that_does_not_stop_is_ended_with_its_server(start: Callable[..., Server]) -> None:
    """It has 8 seconds; then it is ended and its job handed back all the same."""
    server = start()
    job_id = server.start(pipelines=["bronze.stubborn"])
    said(server, job_id, "ready")
    began = time.monotonic()
    assert server.terminate(30) == 0
    assert 7 < time.monotonic() - began < 8 + 2 * SLACK
    assert marked(server.mark) == set()
    server = start()
    until(lambda: server.tasks(job_id)["bronze.stubborn"]["status"] == "running", "the task again")
    assert recoveries(server.folder, job_id) == 0
    server.post(f"/api/jobs/{job_id}/cancel", {"mode": "force"})
    server.wait(job_id)


# -------------------------------------------------------------------- two of them


def refused(folder: Path, target: Path, port: int = 0) -> str:
    """Start a server that must not start; return what it said."""
    mark = uuid4().hex
    try:
        done = subprocess.run(
            serve_command(target, port),
            capture_output=True,
            text=True,
            timeout=30,
            cwd=folder,
            env=environment(folder, mark),
            check=False,
        )
        assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
        assert done.stdout == ""
        what, mend, *more = done.stderr.strip().splitlines()
        assert what.startswith("error: ")
        assert mend.strip().startswith("mend: ")
        assert more == []
        assert marked(mark) == set()
        return done.stderr
    finally:
        end_marked(mark)


def test_a_second_server_on_a_home_is_refused(start: Callable[..., Server], tmp_path: Path) -> None:
    """It says who is there, and the first one does not notice."""
    server = start()
    told = refused(tmp_path, tmp_path / "pipelines.py")
    assert str(server.process.pid) in told
    assert json.loads((tmp_path / "home" / "server.json").read_text())["url"] == server.url
    assert server.get("/health/live")


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    """Before anything is started."""
    (tmp_path / "pipelines.py").write_text(PIPELINES)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused(tmp_path, tmp_path / "pipelines.py", port)


def test_a_worker_does_not_keep_the_home_locked(start: Callable[..., Server]) -> None:
    """The lock dies with the server, whoever else still lives."""
    server = start()
    job_id = server.start(pipelines=["bronze.stubborn"])
    said(server, job_id, "ready")
    inherited = [
        str(fd.readlink())
        for process in marked(server.mark)
        if process.pid != server.process.pid
        for fd in Path(f"/proc/{process.pid}/fd").iterdir()
    ]
    home: Any = str(server.folder / "home")
    assert [name for name in inherited if name.startswith(home)] == []
    server.kill()
    again = start()
    again.post(f"/api/jobs/{job_id}/cancel", {"mode": "force"})
    again.wait(job_id)
