"""A stop at every edge of a task's life that is hard to hit by chance: each is held open until the stop is there.

The pipelines' file hooks into the worker that runs it, so that a task stops itself (SIGSTOP) between its permit and its
commit, or right after its commit. Pending, claimed, before the first line, and in a retry pause are in `test_stopping`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deltalake import DeltaTable
from support import Here, Server, find, kill, marked, servers, until

from sluicegate.core.job import Job, JobNotRunningError, JobStatus, TaskStatus

PIPELINES = '''
import os, signal, threading, time
from pathlib import Path
import pyarrow as pa
from sluicegate import CancelPolicy, Task, bronze
from sluicegate.lake.writer import TableWriter

SOON = CancelPolicy(interrupt_after="0.3s", terminate_after="20s", kill_after="30s")
hold = None

def stop_here(where):
    if hold == where:
        print("held", os.getpid(), flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)

begin, commit = TableWriter.__init__, TableWriter.commit

def held_begin(self, *args, permit, **options):
    def held_permit(unit):
        permit(unit)
        stop_here("permit")
    begin(self, *args, permit=held_permit, **options)

def held_commit(self, *args, **options):
    stop_here("commit")
    done = commit(self, *args, **options)
    stop_here("committed")
    return done

TableWriter.__init__, TableWriter.commit = held_begin, held_commit

@bronze(cancel=SOON)
def one(task: Task):
    global hold
    hold = task.params.get("hold")
    return [{"n": n} for n in range(10)]

@bronze(cancel=SOON)
def batches(task: Task):
    """Waits between two batches."""
    yield [{"n": 1}]
    print("held", os.getpid(), flush=True)
    time.sleep(600)
    yield [{"n": 2}]

@bronze(cancel=CancelPolicy(interrupt_after="0.3s", terminate_after="0.6s", kill_after="9s"))
def writes(task: Task):
    """Waits while its output is being written."""
    schema = pa.schema([("n", pa.int64())])
    def rows():
        for n in range(3):
            yield pa.record_batch({"n": [n] * 50_000}, schema=schema)
        print("held", os.getpid(), flush=True)
        while True: time.sleep(0.01)
    return pa.RecordBatchReader.from_batches(schema, rows())

@bronze(cancel=SOON)
def first_line(task: Task):
    print("held", os.getpid(), flush=True)
    print("late", flush=True)
    time.sleep(600)

@bronze(cancel=CancelPolicy(interrupt_after="2s", terminate_after="3s", kill_after="4s"))
def stubborn(task: Task):
    print("held", os.getpid(), flush=True)
    while True:
        try: time.sleep(600)
        except BaseException: pass
'''


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """One service with two workers."""
    with Here(tmp_path_factory.mktemp("edges"), PIPELINES) as service:
        yield service


def rows(here: Here, table: str = "one") -> int:
    """How many rows the table has; 0 where there is none."""
    path = here.settings.lake / "bronze" / table
    return DeltaTable(str(path)).count() if (path / "_delta_log").exists() else 0


def held(here: Here, pipeline: str, **params: object) -> tuple[str, int]:
    """Start a task and wait until it is at the edge; return its job and its worker's pid."""
    job_id = here.start(pipeline, params=params)
    worker = int(here.said(job_id, "held"))
    if "hold" in params:
        state = Path(f"/proc/{worker}/stat")
        until(lambda: state.read_bytes().rpartition(b")")[2].split()[0] == b"T", "it stands still")
    return job_id, worker


def truth_is_told(here: Here, job: Job, added: int) -> None:
    """Whatever happened: the task's status, the receipt and the table say the same."""
    assert job.status is JobStatus.CANCELLED
    assert job.completed_at is not None
    assert job.cancellation is not None
    task = here.task(job.job_id)
    assert task.status is (TaskStatus.SUCCESS if added else TaskStatus.CANCELLED)
    assert task.stats.rows == added
    assert [kept.rows for kept in job.cancellation.kept] == ([added] if added else [])
    if added:
        assert task.stats.version == job.cancellation.kept[0].version


@pytest.mark.parametrize("mode", ["graceful", "force"])
@pytest.mark.parametrize(
    ("edge", "is_published"),
    [
        ("commit", False),  # before it asked: refused
        (
            "permit",
            None,
        ),  # permitted: the stop came too late for the permit, and force before the commit
        ("committed", True),  # in the log, and nobody was told yet
    ],
)
def test_a_stop_around_the_commit(
    here: Here, edge: str, mode: str, is_published: bool | None
) -> None:
    """What is in the table's log is a success, and what is not never comes there."""
    before = here.run("bronze.one") and rows(here)
    job_id, worker = held(here, "bronze.one", hold=edge)
    here.cancel(job_id, mode)
    if mode == "graceful":
        time.sleep(0.5)  # the flag and the interrupt are there when it wakes up
        kill(worker, signal.SIGCONT)
    job = here.wait(job_id)
    if is_published is None:
        is_published = mode == "graceful"
    truth_is_told(here, job, 10 if is_published else 0)
    again = here.job(here.run("bronze.one"))
    assert again.status is JobStatus.SUCCESS
    assert rows(here) == before == 10


@pytest.mark.parametrize("mode", ["graceful", "force"])
@pytest.mark.parametrize("pipeline", ["batches", "writes", "first_line"])
def test_a_stop_before_the_commit_leaves_nothing(here: Here, pipeline: str, mode: str) -> None:
    """Between two batches, in the midst of the writing, at the first line: no row shows, and no file is left."""
    job_id, worker = held(here, f"bronze.{pipeline}")
    job = here.stop(job_id, mode)
    truth_is_told(here, job, 0)
    assert rows(here, pipeline) == 0
    assert job.cancellation is not None
    [stopped] = job.cancellation.stopped
    assert stopped.stage == ("kill" if mode == "force" else "interrupt")
    if mode == "force":
        assert find(worker) is None
    folder = here.settings.lake / "bronze" / pipeline
    until(lambda: not list(folder.rglob("*.parquet")), "what was written to be removed")


def test_of_two_clients_that_stop_at_once_one_is_told_that_it_came_second(here: Here) -> None:
    """Both get an answer, and the receipt names one."""
    for _ in range(5):
        job_id, _ = held(here, "bronze.first_line")
        told: list[str] = []
        gate = threading.Barrier(2)

        def stop(
            job_id: str = job_id, told: list[str] = told, gate: threading.Barrier = gate
        ) -> None:
            gate.wait()
            try:
                here.cancel(job_id)
                told.append("stopped")
            except JobNotRunningError:
                told.append("not running")

        both = [threading.Thread(target=stop) for _ in range(2)]
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert sorted(told) == ["not running", "stopped"]
        truth_is_told(here, here.wait(job_id), 0)
        events = [event.type for event in here.service.manager.events(job_id=job_id)]
        assert events.count("job.cancelled") == 1


def test_a_stop_together_with_the_end_has_one_winner(here: Here) -> None:
    """Whenever it comes: a job that was told as stopped is cancelled, else it succeeded; the table agrees."""
    here.run("bronze.one")
    decided = {True: 0, False: 0}
    for n in range(20):
        version = DeltaTable(str(here.settings.lake / "bronze/one")).version()
        job_id = here.start("bronze.one")
        time.sleep(n / 500)
        try:
            here.cancel(job_id)
            stopped = True
        except JobNotRunningError:
            stopped = False
        job = here.wait(job_id)
        decided[stopped] += 1
        assert job.status is (JobStatus.CANCELLED if stopped else JobStatus.SUCCESS)
        moved = DeltaTable(str(here.settings.lake / "bronze/one")).version() > version
        ended = [task.status for task in here.tasks(job_id).values()]
        assert moved == (ended == [TaskStatus.SUCCESS])
        assert stopped or moved
        assert rows(here) == 10
    print(f"stopped {decided[True]}, ended first {decided[False]}")


# ------------------------------------------------------------------ the server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server on the test's own home."""
    (tmp_path / "pipelines.py").write_text(PIPELINES)
    with servers(tmp_path) as start_server:
        yield lambda: start_server(tmp_path / "pipelines.py")


def test_a_server_that_is_told_to_end_during_a_stop_ends_the_stop_first(
    start: Callable[..., Server],
) -> None:
    """SIGTERM in the midst of the ladder: nothing lives afterwards, and the job is not left stopping."""
    server = start()
    job_id = server.start(pipelines=["bronze.stubborn"])
    until(lambda: any(x["message"].startswith("held") for x in server.logs(job_id)), "the task")
    assert server.post(f"/api/jobs/{job_id}/cancel").status_code == 200
    assert server.job(job_id)["stopping"]
    assert server.terminate(30) == 0
    assert marked(server.mark) == set()
    job = start().wait(job_id)
    assert (job["status"], job["stopping"]) == ("cancelled", False)
    [stopped] = job["cancellation"]["stopped"]
    assert (stopped["pipeline"], stopped["stage"]) == ("bronze.stubborn", "terminate")
