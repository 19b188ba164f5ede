"""What was measured: values with a unit, how they are summed up, and what they must reach."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

WORSE_BY_MIN: Final = 1.25  # what is less than that is the machine's noise, as often as not


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure. `values` are single runs, in the order they were made."""

    name: str
    unit: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        """The one that one in a hundred exceeds; with fewer values, the highest."""
        return percentile(self.values, 0.99)


@dataclass(frozen=True, slots=True)
class Target:
    """What one figure must reach: its median or p99, at most or at least `bound`."""

    what: str
    figure: str
    of: str
    bound: float
    at_least: bool = False

    def reached(self, figure: Figure) -> bool:
        """Whether a figure does."""
        value = getattr(figure, self.of)
        return bool(value >= self.bound if self.at_least else value <= self.bound)


@dataclass(slots=True)
class Results:
    """Everything of one run."""

    machine: dict[str, Any]
    figures: dict[str, Figure] = field(default_factory=dict)

    def add(self, name: str, unit: str, values: Sequence[float], note: str = "") -> Figure:
        """Keep a figure, and say it."""
        figure = Figure(name, unit, tuple(round(value, 4) for value in values), note)
        self.figures[name] = figure
        print(f"  {told(figure)}", flush=True)
        return figure

    def save(self, path: Path) -> None:
        """Write them as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = [asdict(figure) for figure in self.figures.values()]
        path.write_text(json.dumps({"machine": self.machine, "figures": figures}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote."""
        found = json.loads(path.read_text())
        figures = [Figure(**{**one, "values": tuple(one["values"])}) for one in found["figures"]]
        return cls(found["machine"], {figure.name: figure for figure in figures})


TARGETS: Final = (
    Target("stop: POST to last line", "stop.last_line", "median", 5),
    Target("stop: POST to last line, p99", "stop.last_line", "p99", 25),
    Target("no-op tasks a second in one job of 1,000", "tasks.1000", "median", 2000, at_least=True),
    Target("one-task jobs a second over HTTP", "jobs.http", "median", 400, at_least=True),
    Target("submit to first line", "first_line", "median", 15),
    Target("cold start to ready", "start.cold", "median", 1.0),
    Target("idle memory, all processes", "start.memory", "median", 120),
    Target("plain install", "install.size", "median", 250),
    Target("history page with 1,000,000 jobs, any filter, p99", "history.worst", "p99", 20),
    Target("the demo against the bare script", "demo.ratio", "median", 1.15),
    Target("stop 10,000 queued jobs in one call", "stop.queued", "median", 2.0),
    Target("1,000 viewers: p99 behind", "viewers.behind", "p99", 250),
    Target("1,000 viewers: events lost", "viewers.lost", "median", 0),
    Target("overhead a task, 100,000 tasks against 100", "growth.ratio", "median", 1.2),
)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def told(figure: Figure) -> str:
    """A figure in words."""
    many = f", p99 {figure.p99:.4g}" if len(figure.values) >= 20 else ""
    spread = f" of {len(figure.values)}{many}" if len(figure.values) > 1 else ""
    return f"{figure.name}: {figure.median:.4g} {figure.unit}{spread}{f' ({figure.note})' if figure.note else ''}"


def compared(before: Results, now: Results) -> list[str]:
    """Say what has become worse or better by more than noise, and which targets are missed."""
    lines = []
    rates = {target.figure for target in TARGETS if target.at_least}
    for name, figure in now.figures.items():
        if (old := before.figures.get(name)) is None or not old.median or not figure.median:
            continue
        factor = figure.median / old.median
        worse = 1 / factor if name in rates else factor
        if worse >= WORSE_BY_MIN or worse <= 1 / WORSE_BY_MIN:
            word = "worse" if worse > 1 else "better"
            lines.append(f"{word}: {name} {old.median:.4g} -> {figure.median:.4g} {figure.unit}")
    return lines
