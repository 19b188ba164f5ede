"""What is wrong with declarations: single problems, and the errors that carry all of them at once.

Imports nothing but the standard library and `errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sluicegate.errors import SluicegateError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend: what is wrong, where, and how to mend it.

    `pipeline` is an id such as `silver.flights`; it, `file` and `line` may be `None`.
    """

    what: str
    mend: str
    pipeline: str | None = None
    file: str | None = None
    line: int | None = None

    @property
    def where(self) -> str:
        """Pipeline and place, e.g. `silver.flights (pipelines/silver.py:12)`; may be empty."""
        place = shown_place(self.file, self.line)
        if self.pipeline and place:
            return f"{self.pipeline} ({place})"
        return self.pipeline or place

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class DeclarationError(SluicegateError):
    """A pipeline is declared in a way that cannot work; `problems` holds all that is wrong."""

    code = "declaration_invalid"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "; ".join(str(problem) for problem in self.problems),
            mend="; ".join(problem.mend for problem in self.problems if problem.mend),
        )


class LoadError(SluicegateError):
    """Pipelines could not be loaded; nothing starts. `problems` holds all that is wrong."""

    code = "load_failed"

    def __init__(self, target: str, problems: Sequence[Problem]) -> None:
        self.target, self.problems = target, tuple(problems)
        first = self.problems[0]
        count = len(self.problems)
        more = f" (and {count - 1} more)" if count > 1 else ""
        super().__init__(f"cannot load {target!r}: {first}{more}", mend=first.mend)

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"cannot load {self.target!r}: {count} problem{'s' if count > 1 else ''}"]
        for problem in self.problems:
            what, *rest = str(problem).splitlines()
            lines += [f"  {what}", *(f"      {line}" for line in rest)]
            if problem.mend:
                lines.append(f"    mend: {problem.mend}")
        return "\n".join(lines)


def shown_place(file: str | None, line: int | None) -> str:
    """Return `file:line` for a person: the path relative to where they stand, if it lies below."""
    if file is None:
        return ""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{line}" if line else str(path)
