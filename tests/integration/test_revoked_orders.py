"""Tasks that are stopped while their worker still loads: none of them runs later, in the name of another."""

from __future__ import annotations

import itertools
from pathlib import Path

from support import Here, until

from sluicegate.core.job import JobStatus

PIPELINES = """
import threading, time
from sluicegate import Task, bronze

time.sleep(2)  # what a worker loads before its first task

@bronze
def dirty(task: Task):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

@bronze(stall_timeout="1s")
def impatient(task: Task):
    pass

@bronze
def speaks(task: Task):
    print("job", task.job_id, flush=True)
"""


def test_several_that_were_stopped_before_they_began_never_run(tmp_path: Path) -> None:
    """Their orders wait behind the load, one after the other; the next task must be the next that is asked for."""
    with Here(tmp_path, PIPELINES, workers=1) as here:
        here.run("bronze.dirty")  # its worker is replaced by one that has to load first
        stopped = []
        for _ in range(4):
            job_id = here.start("bronze.speaks")
            until(lambda job_id=job_id: here.tasks(job_id), "the task to be handed over")
            stopped.append(here.stop(job_id))
        last = here.run("bronze.speaks")
        assert here.job(last).status is JobStatus.SUCCESS
        assert here.lines(last, "stdout") == [f"job {last}"]
        assert {job.status for job in stopped} == {JobStatus.CANCELLED}
        said = itertools.chain.from_iterable(here.lines(job.job_id, "stdout") for job in stopped)
        assert list(said) == []


def test_a_task_behind_one_that_was_stopped_before_it_began_has_not_begun(tmp_path: Path) -> None:
    """It waits for the same load, and how long that takes is not held against it."""
    with Here(tmp_path, PIPELINES, workers=1) as here:
        here.run("bronze.dirty")
        first = here.start("bronze.speaks")
        until(lambda: here.tasks(first), "the task to be handed over")
        here.stop(first)
        last = here.run("bronze.impatient")
        assert here.job(last).status is JobStatus.SUCCESS
