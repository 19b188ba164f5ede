"""What chaos does and when: a pure function of the seed, so that a seed can be repeated. Pure: no clock, no disk.

Whom a step hits depends on who is there at that moment: `pick`, between 0 and 1, chooses among them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

WORK_EVERY_SECONDS, FAULT_EVERY_SECONDS = 0.25, 2.0
QUIET_SECONDS = 3.0
"""No fault before that: a run that never got anywhere proves nothing."""

WORK: Mapping[str, int] = {
    "land": 30,
    "start": 22,
    "cancel": 10,
    "cancel_task": 3,
    "cancel_many": 1,
    "resume": 6,
    "rollback": 9,
    "rerun": 2,
}
FAULTS: Mapping[str, int] = {
    "kill_server": 5,
    "end_server": 2,
    "kill_guard": 2,
    "kill_zygote": 2,
    "kill_worker": 8,
    "pause_server": 4,
    "pause_tree": 4,
    "pause_worker": 4,
    "pause_guard": 1,
    "kill_database": 3,
    "pause_database": 2,
    "fill_lake": 3,
    "fill_home": 1,
}


@dataclass(frozen=True)
class Step:
    """One thing to do. `lasts_seconds`: until a fault is taken back, or a killed one is started again."""

    at_seconds: float
    act: str
    pick: float
    other: float
    lasts_seconds: float


def schedule(seed: int, seconds: float, lease_seconds: float) -> list[Step]:
    """Return the steps of a run, in order. Pauses are shorter than a lease or longer, equally often."""
    chance = random.Random(seed)
    steps = []
    for acts, every, begins in (
        (WORK, WORK_EVERY_SECONDS, 0.0),
        (FAULTS, FAULT_EVERY_SECONDS, QUIET_SECONDS),
    ):
        at = begins
        while (at := at + chance.expovariate(1 / every)) < seconds:
            [act] = chance.choices([*acts], [*acts.values()])
            short = chance.random() < 0.5
            leases = chance.uniform(0.05, 0.6) if short else chance.uniform(1.2, 2.5)
            pick, other = chance.random(), chance.random()
            steps.append(Step(round(at, 3), act, pick, other, round(leases * lease_seconds, 3)))
    return sorted(steps, key=lambda step: step.at_seconds)
