"""Every interleaving of the small model: no rule of the contract is broken in any, and each comes to an end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from exploration import LARGE, SMALL, Explored, explore
from small_model import Bounds

PAGE = (Path(__file__).parents[3] / "docs" / "job-lifecycle.md").read_text()
REPLAYED_EVERY = 500


def documented(name: str) -> dict[str, str]:
    """The line of a model in the page's table: `| name | states | steps | ends | longest | schedules |`."""
    [line] = re.findall(rf"^\| {re.escape(name)} \|(.+)\|$", PAGE, re.MULTILINE)
    cells = [cell.strip().replace(",", "") for cell in line.split("|")]
    return dict(zip(("states", "steps", "ends", "longest", "schedules"), cells, strict=True))


def counted(found: Explored) -> dict[str, str]:
    schedules = "no bound" if found.schedules is None else str(found.schedules)
    return {
        "states": str(found.states),
        "steps": str(found.steps),
        "ends": str(found.ends),
        "longest": str(found.longest),
        "schedules": schedules,
    }


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SMALL)
def test_no_interleaving_breaks_a_rule(name: str) -> None:
    """The counts are those of the page: a model that shrinks unseen proves less than it says."""
    found = explore(SMALL[name], replay_every=REPLAYED_EVERY)
    print(f"{name}: {found}")
    assert counted(found) == documented(name)


@pytest.mark.parametrize("name", LARGE)
def test_every_larger_model_is_on_the_page(name: str) -> None:
    """They are run by `make explore`; what they came to is told to the reader."""
    assert documented(name)["states"].isdigit()


def test_copies_of_a_state_are_that_state() -> None:
    """All steps are taken from copies; one that shared something would be explored wrongly, and nobody would see."""
    explore(Bounds(stops=0, faults=frozenset()), replay_every=1)
