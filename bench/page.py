"""docs/benchmarks.md: the figures that are committed, in words and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.figures import TARGETS, Figure, Results

PAGE: Final = Path(__file__).parents[1] / "docs" / "benchmarks.md"

SECTIONS: Final = {
    "Stopping": ("stop.", "growth.stop."),
    "Small tasks": ("tasks.", "jobs.", "first_line", "growth."),
    "Being there": ("start.", "install."),
    "A history of a million jobs": ("history.",),
    "The demo": ("demo.",),
    "Viewers": ("viewers.",),
}


def write_page(results: Results) -> None:
    """Write it anew from the figures."""
    machine = results.machine
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench KEEP=1`; do not edit. All figures are of one machine, which was shared: read them as",
        "sizes, and repeat them on yours with `make bench`.",
        "",
        f"Measured {machine['at'][:10]} on {machine['cores']} cores of {machine['processor']},",
        f"{machine['memory_gib']} GiB, Python {machine['python']}, SQLite {machine['sqlite']}.",
        f"Counting to ten million took {machine['additions_seconds']} s, making one page durable",
        f"{machine['fdatasync_ms']} ms.",
        "",
        "## What it must reach",
        "",
        "| measure | reached | wanted | |",
        "|---|---:|---:|---|",
    ]
    for target in TARGETS:
        if (figure := results.figures.get(target.figure)) is None:
            continue
        sign = "≥" if target.at_least else "≤"
        value = getattr(figure, target.of)
        word = "yes" if target.reached(figure) else "**not yet**"
        lines.append(
            f"| {target.what} | {_number(value)} {figure.unit} | {sign} {target.bound:,g} | {word} |"
        )
    shown: set[str] = set()
    for title, prefixes in SECTIONS.items():
        of_section = [
            figure
            for name, figure in results.figures.items()
            if name.startswith(prefixes) and name not in shown
        ]
        if of_section:
            shown.update(figure.name for figure in of_section)
            lines += [
                "",
                f"## {title}",
                "",
                "| figure | median | p99 | runs | |",
                "|---|---:|---:|---:|---|",
            ]
            lines += [_row(figure) for figure in of_section]
    PAGE.write_text("\n".join(lines) + "\n")


def _row(figure: Figure) -> str:
    p99 = f"{_number(figure.p99)} {figure.unit}" if len(figure.values) >= 20 else ""
    cells = (
        f"`{figure.name}`",
        f"{_number(figure.median)} {figure.unit}",
        p99,
        str(len(figure.values)),
        figure.note,
    )
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    """Three digits are all that a shared machine gives."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
