"""Does the simulation see what it is there to see? Each deliberate bug, put into a copy of the code, must be found.

A bug is kept as the lines that it changes. Where they are not there any more, its test fails: choose others.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from deliberate_bugs import said_of

SEEDS_MAX = int(os.environ.get("BUG_SEEDS", "1000"))


@dataclass(frozen=True)
class Bug:
    """What a tired person could write: `good` becomes `bad` in one file."""

    what: str
    file: str
    good: str
    bad: str
    simulation: str = "test_fleet_simulation.Fleet"


BUGS = [
    Bug(
        "a task starts though its job was stopped meanwhile",
        "core/pipeline_executor.py",
        "return job.is_terminal or not self._held.is_own(job, run) or task.task_id in job.task_stops",
        "return not self._held.is_own(job, run)",
        "test_executor_simulation.Simulation",
    ),
    Bug(
        "a commit is permitted whatever became of the job",
        "core/transitions.py",
        '    if job.status is JobStatus.CANCELLED and not draining:\n        return "the job is cancelled"\n',
        "    if job.cancellation is not None:\n        return None\n",
    ),
    Bug(
        "who lost the lease is still permitted to commit",
        "core/pipeline_executor.py",
        '                refusal[0] = "another executor has taken the job over"\n',
        "                refusal[0] = None\n",
    ),
    Bug(
        "recovery trusts what is stored, and does not read the table's log",
        "core/recovery.py",
        "        self.settle(record, looked)\n",
        "        then(Settled(record.stats, complete=False))\n",
    ),
    Bug(
        "a taken-over task's last writer is not shut out",
        "core/recovery.py",
        "            if settled.complete or not record.permits:\n",
        "            if True:\n",
    ),
    Bug(
        "the end of an attempt does not free its table",
        "core/pipeline_executor.py",
        "                writers=(released,) if holds else (),\n",
        "                writers=(),\n",
    ),
    Bug(
        "what was stopped on its way to a worker is handed over",
        "core/pipeline_executor.py",
        "            stopped = run.job.is_terminal or assignment.task_id in run.job.task_stops\n",
        "            stopped = False\n",
        "test_executor_simulation.Simulation",
    ),
    Bug(
        "a job is resumed twice",
        "core/transitions.py",
        "    if job.resumed_by is not None:\n",
        "    if False:\n",
    ),
    Bug(
        "nobody is told that a table was freed elsewhere",
        "core/pipeline_executor.py",
        '        freed = {str(event.data["pipeline"]) for event in events if event.type in _ENDS}\n',
        "        freed: set[str] = set()\n",
    ),
    Bug(
        "jobs that came while the lease was lost are forgotten",
        "core/pipeline_executor.py",
        "        for job in orphans.own:\n",
        "        for job in ():\n",
    ),
    Bug(
        "a dead executor is never found",
        "core/membership.py",
        "now - known.since >= self.lease_seconds:",
        "now - known.since >= 1e9:",
    ),
    Bug(
        "the outcome of a dead worker is a guess",
        "core/conclusions.py",
        '    outcome = "success" if settled.complete else "failed"\n',
        '    outcome = "failed"\n',
        "test_executor_simulation.Simulation",
    ),
]

PROGRAM = """
import logging, sys
from importlib import import_module
name, kind = sys.argv[1].split(".")
module = import_module(name)
logging.getLogger("sluicegate").setLevel(logging.ERROR)
from test_executor_simulation import STEPS
for seed in range(int(sys.argv[2])):
    one = getattr(module, kind)(seed)
    logger = logging.getLogger("sluicegate.core")
    logger.addHandler(one.world.failures)
    try:
        for _ in range(STEPS):
            one.step()
        one.finish()
        one.judge()
    except Exception as error:
        print(seed, type(error).__name__, str(error)[:200].replace(chr(10), " "))
        sys.exit(0)
    finally:
        logger.removeHandler(one.world.failures)
print("nothing")
"""


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.what.replace(" ", "-"))
def test_a_deliberate_bug_is_found(bug: Bug, tmp_path: Path) -> None:
    """A simulation that finds nothing proves nothing unless it would."""
    seeds = str(SEEDS_MAX)
    said = said_of(tmp_path, bug.file, bug.good, bug.bad, PROGRAM, bug.simulation, seeds)
    print(f"{bug.what}: found by seed {said}")
    assert said != "nothing", f"not found in {SEEDS_MAX} histories"
