"""docs/job-lifecycle.md against the tables in code: a reader must be able to trust the diagram."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sluicegate.core.job import JobStatus, TaskStatus
from sluicegate.core.transitions import TASK_TERMINAL, TASK_TRANSITIONS, TERMINAL, TRANSITIONS

PAGE = (Path(__file__).parents[3] / "docs" / "job-lifecycle.md").read_text()
Moves = set[tuple[str, str, str]]


def section(title: str) -> str:
    _, _, rest = PAGE.partition(f"\n## {title}\n")
    assert rest, f"the page has no section {title!r}"
    return rest.partition("\n## ")[0]


def in_diagram(text: str) -> Moves:
    """`from --> to: event`, without entries and exits."""
    return set(re.findall(r"^ +(\w+) --> (\w+): (\w+)$", text, re.MULTILINE))


def in_table(text: str) -> Moves:
    """`| from → to | event | who |`."""
    return set(re.findall(r"^\| `(\w+) → (\w+)` \| `(\w+)` \| \S", text, re.MULTILINE))


SUBJECTS = {
    "A job": ({(s, to, e) for (s, e), to in TRANSITIONS.items()}, TERMINAL, JobStatus),
    "A task": ({(s, to, e) for (s, e), to in TASK_TRANSITIONS.items()}, TASK_TERMINAL, TaskStatus),
}


@pytest.mark.parametrize("title", SUBJECTS)
def test_every_transition_is_drawn_and_none_that_is_not(title: str) -> None:
    """A missing arrow hides a case, a wrong one promises it."""
    moves, terminal, _ = SUBJECTS[title]
    assert in_diagram(section(title)) == moves
    assert set(re.findall(r"^ +(\w+) --> \[\*\]$", section(title), re.MULTILINE)) == terminal


@pytest.mark.parametrize("title", SUBJECTS)
def test_every_transition_says_who_causes_it(title: str) -> None:
    moves, _, _ = SUBJECTS[title]
    assert in_table(section(title)) == moves


@pytest.mark.parametrize("title", SUBJECTS)
def test_every_status_is_on_the_page(title: str) -> None:
    _, _, statuses = SUBJECTS[title]
    assert all(f"{status}" in section(title) for status in statuses)
