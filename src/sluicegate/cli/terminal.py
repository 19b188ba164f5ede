"""What a terminal shows: consoles, JSON, tables; numbers, times and states as a person reads."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# A pipe has no width: lines stay whole, so that other programs can read them.
PIPE_WIDTH: Final = 240

STATES: Final[Mapping[str, tuple[str, str]]] = {
    "pending": ("○", "dim"),
    "running": ("●", "cyan"),
    "success": ("✓", "green"),
    "failed": ("✗", "red"),
    "partial": ("◐", "yellow"),
    "cancelled": ("■", "bright_black"),
    "stopping": ("■", "yellow"),
    "not started": ("·", "dim"),
}


def out() -> Console:
    """Return a console of results: stdout."""
    return _console(sys.stdout)


def err() -> Console:
    """Return a console of progress and remarks: stderr."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    if stream.isatty():
        return Console(file=stream, highlight=False, emoji=False)
    width = None if "COLUMNS" in os.environ else PIPE_WIDTH
    trimmed = cast(TextIO, _Trimmed(stream))
    return Console(file=trimmed, width=width, highlight=False, emoji=False)


class _Trimmed:
    """A stream without the blanks that fill up lines, which only a terminal has a use for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text without the blanks before its line ends."""
        return self._stream.write(re.sub(r" +(?=\n)", "", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def can_ask() -> bool:
    """Whether somebody sits there to answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def print_json(value: Any, *, line: bool = False) -> None:
    """Write plain JSON on stdout: one document, or with `line` one line of a stream."""
    text = json.dumps(value, ensure_ascii=False, default=str, indent=None if line else 2)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def grid(
    *headings: str, right: Iterable[str] = (), fold: Iterable[str] = (), upper: bool = True
) -> Table:
    """Return an empty table without lines.

    Args:
        right: The headings of numbers.
        fold: The headings of long text, which may take several lines; others are cut off.
        upper: Whether headings are ours to write large; names of columns are not.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim")
    right, fold = set(right), set(fold)
    for heading in headings:
        table.add_column(
            heading.upper() if upper else heading,
            justify="right" if heading in right else "left",
            no_wrap=heading not in fold,
            overflow="fold" if heading in fold else "ellipsis",
        )
    return table


def columns(*sides: Literal["left", "right"]) -> Table:
    """Return an empty table without headings; its columns stand at these sides.

    Where it is too wide, the first one takes several lines and no other is cut off.
    """
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    for number, side in enumerate(sides):
        table.add_column(no_wrap=number > 0, overflow="fold", justify=side)
    return table


def facts(rows: Iterable[tuple[str, Any]]) -> Table:
    """Return names and values, one a line; what has no value is left out."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None and value != "":
            table.add_row(name, plain(value))
    return table


def plain(value: Any) -> Any:
    """Return text as it is: what comes from a user is never read as markup."""
    from rich.text import Text

    return Text(value) if isinstance(value, str) else value


def state(status: str, *, word: bool = True) -> Text:
    """Return a status as sign, word and colour."""
    from rich.text import Text

    sign, style = STATES.get(status, ("?", ""))
    return Text(f"{sign} {status}" if word else sign, style=style)


def task_state(task: Mapping[str, Any]) -> Text:
    """Return the state of a task: its status, or that it is stopping."""
    return state("stopping" if task["stopping"] else task["status"])


def job_state(job: Mapping[str, Any]) -> Text:
    """Return the state of a job: its status, or that it is stopping."""
    return state("stopping" if job["stopping"] else job["status"])


def count(number: float | None) -> str:
    """Return a number with its thousands apart."""
    if number is None:
        return ""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return `1 task` or `3 tasks`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float | None, *, ticking: bool = False) -> str:
    """Return a length of time in at most two units; one that is `ticking` has no milliseconds."""
    if seconds is None:
        return ""
    if seconds < 1 and not ticking:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} m"
    return f"{hours // 24} d {hours % 24} h"


def milliseconds(value: float | None) -> str:
    """Return a latency."""
    return duration(None if value is None else value / 1000)


def parsed(instant: str) -> datetime:
    """Return the instant that the API wrote."""
    return datetime.fromisoformat(instant)


def local_time(instant: str | None) -> str:
    """Return an instant in the reader's own zone, to the second."""
    return f"{parsed(instant).astimezone():%Y-%m-%d %H:%M:%S}" if instant else ""


def age(instant: str | None) -> str:
    """Return how long ago an instant was."""
    if not instant:
        return ""
    seconds = max(0.0, (datetime.now(UTC) - parsed(instant)).total_seconds())
    if seconds < 60:
        return f"{seconds:.0f} s ago"
    for length, unit in ((86400 * 2, "d"), (7200, "h")):
        if seconds >= length:
            return f"{seconds // (86400 if unit == 'd' else 3600):.0f} {unit} ago"
    return f"{seconds // 60:.0f} min ago"


def listed(items: Sequence[str], *, most: int = 8) -> str:
    """Return names with commas; long lists end with how many are left."""
    shown = ", ".join(items[:most])
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown
