"""One minute of chaos, and a job of the demo that is killed three times. For more: `make chaos`, `make kill-demo`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from chaos.driver import chaos
from chaos.kill_demo import kill_demo

pytestmark = pytest.mark.proof

SECONDS = 60
ROUNDS, DAYS = 3, 20


@pytest.mark.timeout(
    600
)  # starting, settling and judging have deadlines of their own, which are told
def test_a_minute_of_chaos_leaves_nothing_wrong(tmp_path: Path) -> None:
    """Whatever dies, hangs or runs full: statuses and tables agree, every file is there once, nobody is left."""
    seed = random.randrange(1_000_000)
    print(f"seed {seed}: repeat it with make chaos MINUTES=1 SEED={seed}")
    try:
        found = chaos(tmp_path, seed, SECONDS)
    finally:
        if (log := tmp_path / "chaos.log").exists():
            print(log.read_text())
    print("\n".join(found.summary))
    assert found.violations == []


@pytest.mark.timeout(600)
def test_the_demo_that_is_killed_again_and_again_succeeds(tmp_path: Path) -> None:
    """At random instants, as often as a job may be taken up; the tables are as if nothing had been."""
    seed = random.randrange(1_000_000)
    print(f"seed {seed}: repeat it with make kill-demo ROUNDS={ROUNDS} DAYS={DAYS} SEED={seed}")
    result, summary = kill_demo(tmp_path, seed, ROUNDS, DAYS)
    print("\n".join(summary))
    assert result.violations == []
    assert result.rounds == ROUNDS
