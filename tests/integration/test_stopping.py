"""The rules of stopping, one by one, on real tasks that do not want to stop."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Here, find, until

from sluicegate.core.job import Job, JobNotRunningError, JobStatus, TaskStatus
from sluicegate.core.receipt import Stopped

# The machine may be busy with anything: what is caught here is waiting for the wrong thing, never a slow core.
GROSS_MS = 3000

PIPELINES = '''
import os, signal, socket, subprocess, sys, threading, time
from sluicegate import CancelPolicy, Task, bronze, gold, silver
from sluicegate.errors import Cancelled

SOON = CancelPolicy(interrupt_after=0.2, terminate_after=30, kill_after=30)
LADDER = CancelPolicy(interrupt_after=0.1, terminate_after=0.3, kill_after=2)

@bronze
def steps(task: Task):
    """Stops at its next checkpoint."""
    print("ready", flush=True)
    for n in range(3000):
        yield [{"n": n}]
        time.sleep(0.01)

@bronze(cancel=SOON)
def hangs(task: Task):
    """Reaches no checkpoint."""
    kind = task.params["kind"]
    print("ready", flush=True)
    if kind == "loop":
        while True: pass
    if kind == "sleep": time.sleep(600)
    if kind == "lock":
        lock = threading.Lock(); lock.acquire(); lock.acquire()
    if kind == "event": threading.Event().wait()
    if kind == "join":
        thread = threading.Thread(target=time.sleep, args=(600,), daemon=True); thread.start(); thread.join()
    if kind == "socket":
        a, b = socket.socketpair(); a.recv(1)
    if kind == "child": subprocess.run(["sleep", "600"])
    if kind == "run": task.run(["sleep", "600"])
    if kind == "exception":
        while True:
            try: time.sleep(600)
            except Exception: pass
    if kind == "asyncio":
        import asyncio; asyncio.run(asyncio.sleep(600))
    if kind == "generator":
        def slow():
            yield [{"n": 1}]
            time.sleep(600)
        return slow()
    if kind == "logging":
        while True: task.log.info("x" * 1000); task.progress(1, 2)
    if kind == "finally":
        try: time.sleep(600)
        finally: print("cleaned up")
    if kind == "raises":
        try: time.sleep(600)
        except BaseException: raise ValueError("anything but Cancelled")

@bronze(cancel=LADDER)
def stubborn(task: Task):
    """Swallows `Cancelled`; with `deaf` it ignores SIGTERM, too."""
    print("pid", os.getpid(), flush=True)
    if task.params.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600"])
    print("ready", flush=True)
    while True:
        try: time.sleep(600)
        except BaseException: print("swallowed", flush=True)

@bronze
def callbacks(task: Task):
    """Is told once, from another thread."""
    done = threading.Event()
    def stop():
        print("called by main", threading.current_thread() is threading.main_thread(), flush=True)
        done.set()
    task.on_cancel(stop)
    task.on_cancel(lambda: 1 / 0)
    print("ready", flush=True)
    done.wait()
    time.sleep(0.2)
    task.on_cancel(lambda: print("late one called at once"))
    task.checkpoint()

@bronze(cancel=CancelPolicy(interrupt_after=0.1, terminate_after=0.2, kill_after=0.3))
def shielded(task: Task):
    """Under the shield a program runs, which stops with the task: but not before the shield ends."""
    seconds = float(task.params.get("seconds", 1))
    print("ready", flush=True)
    with task.shield(task.params.get("timeout", "60s")):
        began = time.monotonic()
        task.on_cancel(lambda: print("callback after", round(time.monotonic() - began, 2), flush=True))
        print("in", flush=True)
        while time.monotonic() - began < seconds:
            time.sleep(0.01)
            task.checkpoint()
        task.run(["sh", "-c", "sleep 0.2; echo uploaded"])
        print("out", flush=True)
    print("not reached", flush=True)

@bronze
def short(task: Task):
    print("ready", flush=True)
    time.sleep(float(task.params.get("seconds", 1)))
    return [{"n": 1}]

@bronze
def short_two(task: Task):
    print("ready two", flush=True)
    time.sleep(float(task.params.get("seconds", 1)))
    if task.params.get("fail"): raise ValueError("in the drain")
    return [{"n": 1}]

@silver
def after(short): return short

@silver
def after_two(short_two): return short_two

@gold
def last(after, after_two): return after

@bronze(retries=3, retry_delay=600)
def fails(task: Task):
    print("attempt", task.attempt, flush=True)
    raise ValueError("try again")

@bronze(timeout=0.5, retries=1, retry_delay=0, cancel=CancelPolicy(interrupt_after=0.1))
def too_slow(task: Task):
    print("attempt", task.attempt, flush=True)
    time.sleep(600)

bronze.sql("long_query", "select sum(a.range * b.range) as n from range(1000000) a, range(1000000) b")

@bronze
def whole(task: Task):
    """Cancelled between its last yield and its commit."""
    yield [{"n": 1}]
    print("ready", flush=True)
    while not task.cancelled: time.sleep(0.005)

@bronze(mode="append", files="units/*.csv")
def units(batch, task: Task):
    print("ready", flush=True)
    time.sleep(0.6)
    return batch
'''


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """One service with two workers."""
    folder = tmp_path_factory.mktemp("stopping")
    with Here(folder, PIPELINES) as service:
        units = service.settings.landing / "units"
        units.mkdir(parents=True)
        for n in range(12):
            (units / f"{n:02}.csv").write_text(f"n\n{n}\n")
        yield service


def ready(here: Here, pipeline: str, **options: object) -> str:
    """Start a task and wait until it is in the midst of it."""
    job_id = here.start(pipeline, **options)
    here.said(job_id, "ready")
    return job_id


def stopped(job: Job) -> Stopped:
    assert job.status is JobStatus.CANCELLED
    assert job.cancellation is not None
    [one] = job.cancellation.stopped
    return one


def test_a_task_stops_at_its_checkpoint(here: Here) -> None:
    """Within milliseconds, and nothing of what it yielded shows."""
    job_id = ready(here, "bronze.steps")
    asked = here.cancel(job_id)
    assert asked.status is JobStatus.CANCELLED
    job = here.wait(job_id)
    receipt = job.cancellation
    assert receipt is not None
    one = stopped(job)
    assert (one.stage, one.pipeline, one.processes_killed) == ("checkpoint", "bronze.steps", 0)
    assert one.latency_ms < GROSS_MS
    assert (receipt.requested_by, receipt.reason, receipt.mode) == ("tester", "why", "graceful")
    assert (receipt.outcome, receipt.kept, receipt.not_started) == ("stopped", (), ())
    assert receipt.stopped_at == job.completed_at
    task = here.task(job_id)
    assert task.status is TaskStatus.CANCELLED
    assert task.stats.rows == 0
    assert not list((here.settings.lake / "bronze").glob("steps/_delta_log/*.json"))
    assert any(re.search("stopped at stage checkpoint", line) for line in here.lines(job_id))


@pytest.mark.parametrize(
    "kind",
    [
        "loop",
        "sleep",
        "lock",
        "event",
        "join",
        "socket",
        "child",
        "run",
        "exception",
        "asyncio",
        "generator",
        "logging",
        "finally",
        "raises",
    ],
)
def test_a_task_without_checkpoints_is_interrupted(here: Here, kind: str) -> None:
    """`Cancelled` is raised where it stands; the receipt says where that was."""
    job_id = ready(here, "bronze.hangs", params={"kind": kind})
    if kind == "generator":
        time.sleep(0.2)
    job = here.stop(job_id)
    one = stopped(job)
    assert one.stage == ("checkpoint" if kind == "run" else "interrupt")
    assert one.latency_ms < GROSS_MS
    task = here.task(job_id)
    assert task.status is TaskStatus.CANCELLED
    if one.stage == "interrupt":
        assert any("pipelines.py" in line and "hangs" in line for line in one.where), one.where
        assert not any("sluicegate/workers" in line for line in one.where)
    if kind == "finally":
        assert "cleaned up" in here.lines(job_id)
    again = here.run("bronze.short", params={"seconds": 0})
    assert here.job(again).status is JobStatus.SUCCESS


@pytest.mark.parametrize(("deaf", "stage"), [(False, "terminate"), (True, "kill")])
def test_the_ladder_is_climbed_to_its_end(here: Here, deaf: bool, stage: str) -> None:
    """Each stage comes when it is due, and the last one always works."""
    job_id = ready(here, "bronze.stubborn", params={"deaf": deaf})
    worker = int(here.said(job_id, "pid"))
    one = stopped(here.stop(job_id))
    assert one.stage == stage
    assert one.latency_ms >= (2000 if deaf else 300)
    assert one.processes_killed >= 1
    assert one.where, "past the checkpoint stage the stack is taken"
    assert find(worker) is None
    assert "swallowed" in here.lines(job_id)


def test_callbacks_are_called_once_from_another_thread(here: Here) -> None:
    """To stop remote work at once; one that raises is reported and hinders nobody."""
    job_id = ready(here, "bronze.callbacks")
    stopped(here.stop(job_id))
    lines = here.lines(job_id)
    assert lines.count("called by main False") == 1
    assert "late one called at once" in lines
    assert any("ZeroDivisionError" in line for line in lines)


def test_a_shield_defers_every_stage_and_then_the_task_stops(here: Here) -> None:
    """An upload under a shield is finished, the program that does it included."""
    job_id = here.start("bronze.shielded")
    here.said(job_id, "in")
    job = here.stop(job_id)
    lines = here.lines(job_id, "stdout")
    assert "uploaded" in lines
    assert "out" in lines
    assert "not reached" not in lines
    [called] = [line for line in lines if line.startswith("callback after")]
    assert float(called.split()[-1]) >= 1
    assert stopped(job).latency_ms >= 800
    assert stopped(job).stage == "checkpoint"


def test_a_shield_that_runs_out_of_time_protects_no_longer(here: Here) -> None:
    """The ladder goes on where it was deferred."""
    job_id = here.start("bronze.shielded", params={"seconds": 600, "timeout": 0.5})
    here.said(job_id, "in")
    job = here.stop(job_id)
    assert "out" not in here.lines(job_id)
    assert stopped(job).latency_ms < 5 * GROSS_MS


def test_force_ignores_a_shield(here: Here) -> None:
    """It is the last resort."""
    job_id = here.start("bronze.shielded", params={"seconds": 600})
    here.said(job_id, "in")
    one = stopped(here.stop(job_id, "force"))
    assert one.stage == "kill"
    assert one.latency_ms < GROSS_MS


def test_force_while_stopping_escalates(here: Here) -> None:
    """A second graceful stop is refused, force is not; the receipt names both instants."""
    job_id = here.start("bronze.shielded", params={"seconds": 600})
    here.said(job_id, "in")
    here.cancel(job_id)
    with pytest.raises(JobNotRunningError):
        here.cancel(job_id)
    assert here.job(job_id).stopping
    here.cancel(job_id, "force")
    job = here.wait(job_id)
    assert stopped(job).stage == "kill"
    assert job.cancellation is not None
    assert job.cancellation.mode == "force"
    assert job.cancellation.escalated_at is not None
    with pytest.raises(JobNotRunningError):
        here.cancel(job_id, "force")


def test_drain_lets_running_tasks_finish_and_starts_nothing(here: Here) -> None:
    """Their outputs are published; what would have followed never starts."""
    job_id = here.start("gold.last", with_dependencies=True)
    here.said(job_id, "ready")
    here.said(job_id, "ready two")
    job = here.stop(job_id, "drain")
    assert job.status is JobStatus.CANCELLED
    tasks = here.tasks(job_id)
    assert {p: t.status.value for p, t in tasks.items()} == {
        "bronze.short": "success",
        "bronze.short_two": "success",
    }
    receipt = job.cancellation
    assert receipt is not None
    assert set(receipt.not_started) == {"silver.after", "silver.after_two", "gold.last"}
    assert {k.table for k in receipt.kept} == {"bronze.short", "bronze.short_two"}
    assert receipt.stopped == ()


def test_in_a_drain_a_tasks_own_error_is_a_failure(here: Here) -> None:
    """Nobody stopped it."""
    job_id = here.start("bronze.short_two", params={"fail": True})
    here.said(job_id, "ready two")
    job = here.stop(job_id, "drain")
    assert job.status is JobStatus.CANCELLED
    assert here.task(job_id).status is TaskStatus.FAILED


def test_drain_can_be_escalated(here: Here) -> None:
    """When it takes too long after all."""
    job_id = ready(here, "bronze.short", params={"seconds": 600})
    here.cancel(job_id, "drain")
    job = here.stop(job_id, "force")
    assert stopped(job).stage == "kill"


def test_nothing_starts_after_the_decision(here: Here) -> None:
    """Whenever it comes: of what was not started when cancel answered, nothing ever starts."""
    for pause in itertools.chain([0.0] * 5, [n / 50 for n in range(10)]):
        job_id = here.start("gold.last", with_dependencies=True, params={"seconds": 0})
        time.sleep(pause)
        try:
            here.cancel(job_id)
        except JobNotRunningError:
            continue
        decided = here.job(job_id)
        at = decided.cancellation.requested_at  # type: ignore[union-attr]
        started = {t.task_id for t in here.tasks(job_id).values()}
        job = here.wait(job_id)
        late = [t for t in here.tasks(job_id).values() if t.task_id not in started]
        assert late == []
        assert job.cancellation is not None
        after = [
            e
            for e in here.service.manager.events(job_id=job_id)
            if e.type == "task.started" and e.at > at
        ]
        assert after == []


def test_a_job_that_waits_for_its_retry_can_be_stopped(here: Here) -> None:
    """The pause between two attempts ends at once."""
    job_id = here.start("bronze.fails")
    until(lambda: here.tasks(job_id) and here.task(job_id).status is TaskStatus.PENDING, "a retry")
    job = here.stop(job_id, seconds=5)
    assert job.status is JobStatus.CANCELLED
    assert here.task(job_id).status is TaskStatus.CANCELLED
    assert here.lines(job_id, "stdout") == ["attempt 1"]


def test_a_job_that_was_never_started_is_closed_at_once(here: Here) -> None:
    """Its whole plan is `not_started`."""
    busy = [ready(here, "bronze.steps"), ready(here, "bronze.hangs", params={"kind": "sleep"})]
    job_id = here.start("bronze.short")
    job = here.stop(job_id)
    assert job.cancellation is not None
    assert job.cancellation.not_started == ("bronze.short",)
    assert here.tasks(job_id) == {}
    for one in busy:
        here.stop(one, "force")


def test_a_job_is_stopped_when_its_time_is_over(here: Here) -> None:
    """`timeout_seconds` leaves a receipt like any stop, and says who did it."""
    job_id = here.start("bronze.steps", timeout_seconds=0.5)
    job = here.wait(job_id)
    assert job.status is JobStatus.CANCELLED
    assert job.cancellation is not None
    assert job.cancellation.cause == "timeout"
    assert "0.5 s" in (job.cancellation.reason or "")
    assert stopped(job).stage == "checkpoint"


def test_a_tasks_own_timeout_fails_the_attempt_and_is_retried(here: Here) -> None:
    """By the same ladder; that is no stop of the job."""
    job_id = here.run("bronze.too_slow")
    assert here.job(job_id).status is JobStatus.FAILED
    assert here.lines(job_id, "stdout") == ["attempt 1", "attempt 2"]
    task = here.task(job_id)
    assert task.status is TaskStatus.FAILED
    assert task.stop is not None
    assert (task.stop.cause, task.stop.stage) == ("timeout", "interrupt")
    assert "0.5 s" in (task.error or "")


def test_a_query_is_interrupted_at_once(here: Here) -> None:
    """DuckDB is told by its own means, long before a stage of the ladder is due."""
    job_id = here.start("bronze.long_query")
    until(lambda: here.tasks(job_id), "the query to start")
    time.sleep(0.5)
    one = stopped(here.stop(job_id))
    assert one.stage == "checkpoint"
    assert one.latency_ms < GROSS_MS


def test_a_commit_that_was_decided_against_does_not_happen(here: Here) -> None:
    """The stop came between the last row and the permit."""
    job_id = ready(here, "bronze.whole")
    job = here.stop(job_id)
    assert here.task(job_id).status is TaskStatus.CANCELLED
    assert stopped(job).stage == "checkpoint"
    assert not list((here.settings.lake / "bronze").glob("whole/_delta_log/*.json"))


def test_a_stop_keeps_whole_units_and_says_which(here: Here) -> None:
    """Files that were published stay; running again ingests the others, each once."""
    job_id = ready(here, "bronze.units")
    until(lambda: here.task(job_id).stats.units >= 1, "a first unit")
    job = here.stop(job_id)
    assert job.cancellation is not None
    [kept] = job.cancellation.kept
    task = here.task(job_id)
    assert kept.rows == task.stats.rows >= 1
    again = here.run("bronze.units")
    assert here.task(again).stats.rows == 12 - task.stats.rows
    from deltalake import DeltaTable

    rows = DeltaTable(str(Path(here.settings.lake) / "bronze/units")).to_pyarrow_table()
    assert sorted(rows["n"].to_pylist()) == list(range(12))


def test_a_stop_that_comes_before_the_worker_is_ready_is_not_lost(tmp_path: Path) -> None:
    """A worker that is still loading hears the stop before its order: no line of the task may run."""
    source = (
        "import time\n"
        "from sluicegate import CancelPolicy, bronze\n"
        "time.sleep(0.7)\n"
        "NEVER = CancelPolicy(interrupt_after=None, terminate_after=None, kill_after=None)\n"
        "@bronze(cancel=NEVER)\n"
        "def begins():\n"
        "    print('it began')\n"
        "    time.sleep(600)\n"
    )
    with Here(tmp_path, source, workers=1) as here:
        job_id = here.start("bronze.begins")
        until(lambda: here.tasks(job_id), "the task's start is stored")
        job = here.stop(job_id)
        assert here.task(job_id).status is TaskStatus.CANCELLED
        assert "it began" not in here.lines(job_id)
        assert stopped(job).stage == "checkpoint"
