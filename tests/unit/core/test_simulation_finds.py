"""Does the simulation see what it is there to see? Each deliberate bug, put into a copy of the code, must be found.

A bug is kept as the lines that it changes. Where they are not there any more, its test fails: choose others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import sluicegate

SEEDS_MAX = int(os.environ.get("BUG_SEEDS", "1000"))
SOURCES = Path(sluicegate.__file__).parent
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Bug:
    """What a tired person could write: `good` becomes `bad` in one file of `core`."""

    what: str
    file: str
    good: str
    bad: str
    simulation: str = "test_fleet_simulation.Fleet"


BUGS = [
    Bug(
        "a task starts though its job was stopped meanwhile",
        "pipeline_executor.py",
        "return job.is_terminal or not self._held.is_own(job, run) or task.task_id in job.task_stops",
        "return not self._held.is_own(job, run)",
        "test_executor_simulation.Simulation",
    ),
    Bug(
        "a commit is permitted whatever became of the job",
        "transitions.py",
        '    if job.status is JobStatus.CANCELLED and not draining:\n        return "the job is cancelled"\n',
        "    if job.cancellation is not None:\n        return None\n",
    ),
    Bug(
        "who lost the lease is still permitted to commit",
        "pipeline_executor.py",
        '                refusal[0] = "another executor has taken the job over"\n',
        "                refusal[0] = None\n",
    ),
    Bug(
        "recovery trusts what is stored, and does not read the table's log",
        "recovery.py",
        "        self.settle(record, looked)\n",
        "        then(Settled(record.stats, complete=False))\n",
    ),
    Bug(
        "a taken-over task's last writer is not shut out",
        "recovery.py",
        "            if settled.complete or not record.permits:\n",
        "            if True:\n",
    ),
    Bug(
        "the end of an attempt does not free its table",
        "pipeline_executor.py",
        "                writers=(released,) if holds else (),\n",
        "                writers=(),\n",
    ),
    Bug(
        "what was stopped on its way to a worker is handed over",
        "pipeline_executor.py",
        "            stopped = run.job.is_terminal or assignment.task_id in run.job.task_stops\n",
        "            stopped = False\n",
        "test_executor_simulation.Simulation",
    ),
    Bug(
        "a job is resumed twice",
        "transitions.py",
        "    if job.resumed_by is not None:\n",
        "    if False:\n",
    ),
    Bug(
        "nobody is told that a table was freed elsewhere",
        "pipeline_executor.py",
        '        freed = {str(event.data["pipeline"]) for event in events if event.type in _ENDS}\n',
        "        freed: set[str] = set()\n",
    ),
    Bug(
        "jobs that came while the lease was lost are forgotten",
        "pipeline_executor.py",
        "        for job in orphans.own:\n",
        "        for job in ():\n",
    ),
    Bug(
        "a dead executor is never found",
        "membership.py",
        "now - known.since >= self.lease_seconds:",
        "now - known.since >= 1e9:",
    ),
    Bug(
        "the outcome of a dead worker is a guess",
        "conclusions.py",
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
    shutil.copytree(SOURCES, tmp_path / "sluicegate")
    file = tmp_path / "sluicegate" / "core" / bug.file
    text = file.read_text()
    assert text.count(bug.good) == 1, "the lines that this bug changes are not there any more"
    file.write_text(text.replace(bug.good, bug.bad))
    path = os.pathsep.join((str(tmp_path), str(HERE)))
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, bug.simulation, str(SEEDS_MAX)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    print(f"{bug.what}: found by seed {ran.stdout.strip()}")
    assert ran.stdout.strip() != "nothing", f"not found in {SEEDS_MAX} histories"
