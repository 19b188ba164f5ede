"""Does the exploration see what it is there to see? Each deliberate bug, put into a copy of the code, must be found.

A bug is kept as the lines that it changes. Where they are not there any more, its test fails: choose others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from deliberate_bugs import said_of

NO_FAULT = "faults=frozenset()"
A_CRASH = "stops=0"
A_WORKER = "stops=0, faults=frozenset({'loses_worker'})"
A_LEASE = "stops=0, faults=frozenset({'believes_dead'})"


@dataclass(frozen=True)
class Bug:
    """What a tired person could write: `good` becomes `bad` in one file, and `says` is a part of what is reported."""

    what: str
    file: str
    good: str
    bad: str
    says: str
    bounds: str = NO_FAULT


BUGS = [
    Bug(
        "a store that does not compare versions",
        "fakes.py",
        "fits = (stored.version if stored else 0) == change.made_from and all(",
        "fits = all(",
        "becomes",
    ),
    Bug(
        "a commit is permitted to a job that was stopped",
        "core/transitions.py",
        '    if job.status is JobStatus.CANCELLED and not draining:\n        return "the job is cancelled"\n'
        "    if job.is_terminal and not draining:\n",
        "    if False:\n",
        "is permitted to commit, and no permit is stored",
    ),
    Bug(
        "a permit that is not stored",
        "core/pipeline_executor.py",
        "            return Change(job, made_from=job.version, tasks=(task,))\n",
        "            return None\n",
        "is permitted to commit, and no permit is stored",
    ),
    Bug(
        "a stop that overwrites a terminal status",
        "core/transitions.py",
        "    if job.is_terminal:\n"
        "        raise JobNotRunningError(job.job_id, job.status, stopping=job.stopping)\n"
        "    return replace(\n        job,\n        status=next_status(job.status, JobEvent.CANCEL),\n",
        "    return replace(\n        job,\n        status=JobStatus.CANCELLED,\n",
        "a success job becomes cancelled",
    ),
    Bug(
        "a task starts though its job was stopped meanwhile",
        "core/pipeline_executor.py",
        "return job.is_terminal or not self._held.is_own(job, run) or task.task_id in job.task_stops",
        "return not self._held.is_own(job, run)",
        "starts, and the job is cancelled",
    ),
    Bug(
        "what was stopped on its way to a worker is handed over",
        "core/pipeline_executor.py",
        "            stopped = run.job.is_terminal or assignment.task_id in run.job.task_stops\n",
        "            stopped = False\n",
        "is given to a worker after the stop was answered there",
    ),
    Bug(
        "a stopped job is closed while its task runs",
        "core/job_run.py",
        "        if self.taken:\n            return False\n        return self.job.is_terminal",
        "        return self.job.is_terminal",
        "completed_at is set while a worker",
    ),
    Bug(
        "recovery trusts what is stored, and does not read the table's log",
        "core/recovery.py",
        "        self.settle(record, looked)\n",
        "        then(Settled(record.stats, complete=False))\n",
        "and all of it is in its table",
        "faults=frozenset({'crashes'})",
    ),
    Bug(
        "who lost the lease is still permitted to commit",
        "core/pipeline_executor.py",
        '                refusal[0] = "another executor has taken the job over"\n',
        "                refusal[0] = None\n",
        "the job counts (0, 0, 0, 0), and its tasks are others",
        A_LEASE,
    ),
    Bug(
        "jobs of a dead executor are left to it",
        "core/pipeline_executor.py",
        "        for job in orphans.left:\n",
        "        for job in ():\n",
        "can never end",
        A_CRASH,
    ),
    Bug(
        "the outcome of a dead worker is a guess",
        "core/conclusions.py",
        '    outcome = "success" if settled.complete else "failed"\n',
        '    outcome = "failed"\n',
        "becomes failed, and all of it is in its table",
        A_WORKER,
    ),
]

PROGRAM = """
import sys
from exploration import Found, explore
from small_model import Bounds
try:
    print("nothing:", explore(eval(f"Bounds({sys.argv[1]})")))
except Found as found:
    print(found)
"""


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.what.replace(" ", "-"))
def test_a_deliberate_bug_is_found(bug: Bug, tmp_path: Path) -> None:
    """An exploration that finds nothing proves nothing unless it would."""
    said = said_of(tmp_path, bug.file, bug.good, bug.bad, PROGRAM, bug.bounds)
    print(f"{bug.what}: {said}")
    assert not said.startswith("nothing"), said
    assert bug.says in said.splitlines()[0]
