"""The documents, taken apart: which there are, their Python, their tables; and a service to run what they show."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sluicegate.app import RunningService, open_service
from sluicegate.config import Settings

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
WAIT_SECONDS = 30.0


@cache
def pages() -> tuple[Path, ...]:
    """Every Markdown file that git knows or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    found = [ROOT / name for name in listed]
    if not found:  # an unpacked archive, without git
        found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return tuple(sorted(page for page in found if page.exists()))


def shown(page: Path) -> str:
    """A page's name for test ids and messages."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def table_rows(text: str) -> list[list[str]]:
    """The cells of every row of every table in `text`."""
    return [
        [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def sections(page: Path) -> dict[str, str]:
    """The text below each second-level heading, by heading."""
    parts = re.split(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@contextmanager
def running(folder: Path, target: Path) -> Iterator[RunningService]:
    """Run jobs over `target` in a home of its own."""
    settings = Settings.load({"workers": "2"}, environ={}, folder=folder)
    with open_service(settings, str(target)) as service:
        yield service
