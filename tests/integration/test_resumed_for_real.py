"""Stop and resume with real processes, what a dry run foretells, stalls, busy tables, and a guard that hangs."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import Here, kill, until

from sluicegate.core.job import JobStatus, StopMode, TaskStatus
from sluicegate.core.receipt import Cause, StopOutcome
from sluicegate.core.transitions import StopRequest
from sluicegate.workers.lake_calls import LakeTables
from sluicegate.workers.process_tree import send_signal

FILES = 150
ROWS_PER_FILE = 20
STOPS = 20
RATIO = 2.0
NOISE_SECONDS = 0.05
"""What this machine may take by itself, whatever the interval is."""

SOURCE = '''
import time
from pathlib import Path

import polars as pl

from sluicegate import CancelPolicy, Task, bronze, silver

QUICK = CancelPolicy(interrupt_after="0.3s", terminate_after="0.8s", kill_after="1.5s")


@bronze(files="in/*.csv", cancel=QUICK)
def ingested(batch: pl.DataFrame, task: Task) -> pl.DataFrame:
    time.sleep(0.04)
    return batch


@silver(cancel=QUICK)
def doubled(ingested: pl.DataFrame, task: Task) -> pl.DataFrame:
    time.sleep(0.05)
    return ingested.with_columns(pl.col("n") * 2)


@bronze
def warm(task: Task):
    time.sleep(0.2)


@silver(name="warm")
def warm_too(task: Task):
    time.sleep(0.2)


@bronze(mode="append")
def paced(task: Task):
    """One row an interval, each with its state; what it made is told aside."""
    made = Path(task.params["made"])
    for n in range(task.state.get("next", 0), 1_000_000):
        time.sleep(task.params["seconds"])
        with made.open("a") as file:
            file.write(f"{n}\\n")
        task.state["next"] = n + 1
        yield [{"n": n}]


@bronze(stall_timeout="1s", cancel=QUICK)
def stalls(task: Task):
    for _ in range(5):
        time.sleep(0.2)
        task.checkpoint()
    print("silent", flush=True)
    time.sleep(600)


@bronze(stall_timeout="4s", cancel=QUICK)
def steady(task: Task):
    for n in range(25):
        time.sleep(0.2)
        task.progress(n)
    return [{"n": 1}]


@bronze(cancel=QUICK, on_conflict="cancel_running")
def superseding(task: Task):
    print("begun", flush=True)
    while Path(task.params["gate"]).exists():
        time.sleep(0.01)
        task.checkpoint()
    return [{"job": task.job_id}]


@bronze
def half_written(task: Task):
    yield pl.DataFrame({"n": range(3_000_000)})
    time.sleep(600)


@bronze(cancel=QUICK)
def queueing(task: Task):
    print("begun", flush=True)
    while Path(task.params["gate"]).exists():
        time.sleep(0.01)
        task.checkpoint()
    return [{"job": task.job_id}]


@bronze(cancel=QUICK, on_conflict="reject")
def rejecting(task: Task):
    print("begun", flush=True)
    while Path(task.params["gate"]).exists():
        time.sleep(0.01)
        task.checkpoint()
    return [{"job": task.job_id}]
'''


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    with Here(tmp_path / "here", SOURCE) as service:
        service.run("bronze.warm", "silver.warm")  # both workers have loaded the pipelines
        yield service


def deliver(here: Here, files: int = FILES) -> None:
    folder = here.settings.landing / "in"
    folder.mkdir(parents=True)
    for file in range(files):
        rows = "\n".join(str(file * ROWS_PER_FILE + row) for row in range(ROWS_PER_FILE))
        (folder / f"{file:03}.csv").write_text(f"n\n{rows}\n")


def numbers(here: Here, table: str) -> list[int]:
    facts = LakeTables(str(here.settings.lake)).describe(table, limit=100_000, version=None)
    return sorted(row["n"] for row in facts["preview"])


# ------------------------------------------------------------------ stop, resume, stop, resume


@pytest.mark.proof
def test_twenty_stops_and_resumes_leave_every_row_exactly_once(here: Here) -> None:
    """At random instants, gently and by force: the tables of an undisturbed run."""
    deliver(here)
    chance = random.Random(20)
    job_id = here.start("bronze.ingested", "silver.doubled")
    chain = [job_id]
    for _ in range(STOPS):
        time.sleep(chance.uniform(0, 1.4))
        mode = StopMode.FORCE if chance.random() < 0.4 else StopMode.GRACEFUL
        here.service.manager.cancel(job_id, StopRequest("tester", mode=mode), ignore_ended=True)
        if here.wait(job_id).status is JobStatus.SUCCESS:
            break
        job_id = here.service.manager.resume(job_id, user_id="tester").job_id
        chain.append(job_id)
    assert here.wait(job_id, 60).status is JobStatus.SUCCESS
    assert len(chain) > STOPS / 2, "it was hardly ever stopped"
    assert numbers(here, "bronze.ingested") == list(range(FILES * ROWS_PER_FILE))
    assert numbers(here, "silver.doubled") == [2 * n for n in range(FILES * ROWS_PER_FILE)]
    for older, newer in itertools.pairwise(chain):
        assert here.job(older).resumed_by == newer
        assert here.job(newer).resumed_from == older
    rows = sum(t.stats.rows for j in chain for t in here.tasks(j).values() if t.layer == "bronze")
    assert rows == FILES * ROWS_PER_FILE, "what the tasks say they committed, all jobs together"


# ------------------------------------------------------------------ what a dry run foretells


@pytest.mark.alone
@pytest.mark.parametrize(
    ("seconds", "watched", "stops"), [(0.005, 1.2, 5), (0.2, 0.8, 5), (3.0, 1.0, 1)]
)
def test_a_dry_run_foretells_the_stop_and_the_work_that_a_resume_repeats(
    here: Here, tmp_path: Path, seconds: float, watched: float, stops: int
) -> None:
    """Within a factor of two, and what the machine itself takes; nothing is told before it was observed."""
    made = tmp_path / "made"
    params = {"seconds": seconds, "made": str(made)}
    chance = random.Random(seconds)

    def has_observed(job_id: str) -> bool:
        ahead = here.service.manager.preview_cancel(job_id).expected_stop_ms.values()
        return None not in ahead and any(task.stats.units for task in here.tasks(job_id).values())

    job_id = here.start("bronze.paced", params=params)
    stopping: list[tuple[float, float]] = []  # foretold and real, in seconds
    lost: list[tuple[float, float]] = []
    for _ in range(stops):
        until(partial(here.tasks, job_id), "the task to run")
        first = here.service.manager.preview_cancel(job_id)
        if seconds > 1:
            assert set(first.expected_stop_ms.values()) <= {None}
            assert first.lost_work_seconds is None
        until(partial(has_observed, job_id), "two checkpoints and a commit", 60)
        time.sleep(watched + chance.uniform(0, min(seconds, 1.0)))
        preview = here.service.manager.preview_cancel(job_id)
        job = here.stop(job_id)
        [expected_ms] = preview.expected_stop_ms.values()
        assert expected_ms is not None
        assert preview.lost_work_seconds is not None
        assert job.cancellation is not None
        [stopped] = job.cancellation.stopped
        assert stopped.stage == "checkpoint"
        stopping.append((expected_ms / 1000, stopped.latency_ms / 1000))
        repeated = len(set(made.read_text().split())) - len(numbers(here, "bronze.paced"))
        lost.append((preview.lost_work_seconds, repeated * seconds))
        job_id = here.service.manager.resume(job_id, user_id="tester").job_id
    here.stop(job_id, "force")
    assert _agree(stopping, 0.0)
    assert _agree(lost, seconds)


def _agree(pairs: list[tuple[float, float]], grain: float) -> bool:
    """Most pairs are within a factor of two, give or take what is noise here and one interval, all or nothing.

    Each by itself: a checkpoint that is passed between the question and the stop makes its pair a whole interval apart.
    """
    slack = NOISE_SECONDS + grain
    agree = [
        real <= RATIO * foretold + slack and foretold <= RATIO * real + slack
        for foretold, real in pairs
    ]
    print(f"{sum(agree)} of {len(pairs)} agree: {pairs}")
    return 2 * sum(agree) > len(pairs)


# ------------------------------------------------------------------ ended by itself


def test_a_task_that_stalls_is_ended_and_says_where(here: Here) -> None:
    """Checkpoints first, then nothing: the attempt fails with the cause, at the stage that it needed."""
    job = here.wait(here.start("bronze.stalls"))
    task = here.task(job.job_id)
    assert (job.status, task.status) == (JobStatus.FAILED, TaskStatus.FAILED)
    assert task.stop is not None
    assert (task.stop.cause, task.stop.requested_by, task.stop.stage) == (
        "stall",
        None,
        "interrupt",
    )
    assert any("in stalls" in line for line in task.stop.where)
    assert here.lines(job.job_id, "stdout") == ["silent"]
    assert job.cancellation is None


def test_progress_is_no_stall(here: Here) -> None:
    """Longer than the limit, in small steps."""
    assert here.wait(here.start("bronze.steady")).status is JobStatus.SUCCESS


def test_a_newer_job_supersedes_the_one_at_its_table(here: Here, tmp_path: Path) -> None:
    """The older is stopped with its receipt; the newer's rows are what is published."""
    gate = tmp_path / "gate"
    gate.touch()
    older = here.start("bronze.superseding", params={"gate": str(gate)})
    here.said(older, "begun")
    newer = here.start("bronze.superseding", params={"gate": str(gate)})
    stopped = here.wait(older)
    assert stopped.cancellation is not None
    assert stopped.cancellation.cause is Cause.SUPERSEDED
    assert newer in (stopped.cancellation.reason or "")
    here.said(newer, "begun")
    gate.unlink()
    assert here.wait(newer).status is JobStatus.SUCCESS


def test_a_job_that_does_not_wait_for_its_table_fails_at_once(here: Here, tmp_path: Path) -> None:
    """The one that is at the table is left alone."""
    gate = tmp_path / "gate"
    gate.touch()
    older = here.start("bronze.rejecting", params={"gate": str(gate)})
    here.said(older, "begun")
    newer = here.wait(here.start("bronze.rejecting", params={"gate": str(gate)}))
    assert newer.status is JobStatus.FAILED
    assert (here.task(newer.job_id).error or "").startswith("table_busy")
    gate.unlink()
    assert here.wait(older).status is JobStatus.SUCCESS


# ------------------------------------------------------------------ one task, and out of reach


def test_one_task_is_stopped_while_the_other_goes_on(here: Here, tmp_path: Path) -> None:
    """The job ends as partial; nothing of the stopped task is alive."""
    gate = tmp_path / "gate"
    gate.touch()
    job_id = here.start(
        "bronze.superseding",
        "bronze.rejecting",
        params={"gate": str(gate), "seconds": 0.01},
    )
    until(lambda: len(here.tasks(job_id)) == 2, "both to run")
    task_id = here.task(job_id, "bronze.superseding").task_id
    here.service.manager.cancel_task(job_id, task_id, StopRequest("tester", "this one"))
    until(lambda: here.task(job_id, "bronze.superseding").is_terminal, "it to stop")
    assert here.task(job_id, "bronze.rejecting").status is TaskStatus.RUNNING
    gate.unlink()
    assert here.wait(job_id).status is JobStatus.PARTIAL
    stop = here.task(job_id, "bronze.superseding").stop
    assert stop is not None
    assert (stop.stage, stop.requested_by) == ("checkpoint", "tester")


def test_a_guard_that_hangs_leaves_the_stop_unconfirmed_until_it_answers(tmp_path: Path) -> None:
    """Nobody can say that the processes are gone: the receipt does not either, and says when it was known."""
    gate = tmp_path / "gate"
    gate.touch()
    with Here(tmp_path / "here", SOURCE, lease_seconds=3) as here:
        job_id = here.start("bronze.rejecting", params={"gate": str(gate)})
        here.said(job_id, "begun")
        guard = kill(here.guard, signal.SIGSTOP)
        try:
            job = here.stop(job_id, "force")
            assert job.cancellation is not None
            assert job.cancellation.outcome is StopOutcome.UNCONFIRMED
            assert here.task(job_id).status is TaskStatus.RUNNING
        finally:
            send_signal(guard, signal.SIGCONT)

        def confirmed() -> Any:
            receipt = here.job(job_id).cancellation
            return receipt is not None and receipt.confirmed_at

        until(confirmed, "the stop to be confirmed")
        assert here.task(job_id).status is TaskStatus.CANCELLED
        assert here.job(job_id).running_tasks == 0


# ------------------------------------------------------------------ only the one that is meant


def test_of_two_jobs_at_one_table_only_the_one_meant_is_stopped(here: Here, tmp_path: Path) -> None:
    """The one that waits is stopped without a trace; then the one that has the table, and the last one takes it."""
    gate = tmp_path / "gate"
    gate.touch()
    params = {"gate": str(gate)}
    first, second, third = (here.start("bronze.queueing", params=params) for _ in range(3))
    here.said(first, "begun")
    receipt = here.stop(second).cancellation
    assert receipt is not None
    assert receipt.not_started == ("bronze.queueing",)
    assert here.task(first).status is TaskStatus.RUNNING
    here.stop(first)
    here.said(third, "begun")
    gate.unlink()
    assert here.wait(third).status is JobStatus.SUCCESS


@pytest.mark.parametrize("mode", ["graceful", "force"])
def test_a_job_whose_pipeline_is_gone_from_the_code_can_still_be_stopped(
    here: Here, tmp_path: Path, mode: str
) -> None:
    """What runs is stopped by what is stored of it."""
    gate = tmp_path / "gate"
    gate.touch()
    job_id = here.start("bronze.queueing", params={"gate": str(gate)})
    here.said(job_id, "begun")
    manager = here.service.manager
    manager.catalog = replace(manager.catalog, specs={})
    job = here.stop(job_id, mode)
    assert job.status is JobStatus.CANCELLED
    assert job.cancellation is not None
    assert job.cancellation.outcome is StopOutcome.STOPPED


def test_what_a_killed_writer_left_is_removed(here: Here) -> None:
    """Nobody would ever see it, and it would stay for ever."""
    job_id = here.start("bronze.half_written")
    folder = here.settings.lake / "bronze" / "half_written"
    until(lambda: list(folder.glob("*.parquet")), "a file to be there")
    here.stop(job_id, "force")
    until(lambda: not list(folder.glob("*.parquet")), "its files to be removed")


# ------------------------------------------------------------------ roll back


def test_a_rollback_takes_rows_marks_and_state_back_and_a_resume_ingests_again(here: Here) -> None:
    """Twice: what was ingested before the job stays, what it ingested is new again."""
    deliver(here, files=20)
    folder = here.settings.landing / "in"
    later = sorted(folder.iterdir())[10:]
    aside = {path: path.read_text() for path in later}
    for path in later:
        path.unlink()
    here.run("bronze.ingested", "silver.doubled")
    before = numbers(here, "bronze.ingested"), numbers(here, "silver.doubled")
    for path, text in aside.items():
        path.write_text(text)
    manager = here.service.manager
    job_id = here.run("bronze.ingested", "silver.doubled")
    after = numbers(here, "bronze.ingested"), numbers(here, "silver.doubled")
    assert len(after[0]) == 20 * ROWS_PER_FILE
    assert {step.table for step in manager.preview_rollback(job_id)} == {
        "bronze.ingested",
        "silver.doubled",
    }

    assert manager.rollback(job_id, requested_by="root").rolled_back == {
        "bronze.ingested",
        "silver.doubled",
    }
    assert (numbers(here, "bronze.ingested"), numbers(here, "silver.doubled")) == before
    again = manager.rerun(job_id, user_id="tester").job_id
    assert here.wait(again).status is JobStatus.SUCCESS
    assert (numbers(here, "bronze.ingested"), numbers(here, "silver.doubled")) == after
    manager.rollback(again, requested_by="root")
    assert (numbers(here, "bronze.ingested"), numbers(here, "silver.doubled")) == before
