"""Where every error of a command ends: one line what, one line how to mend it, and an exit code.

1: it could not be done. 2: the command was written wrongly. 130: interrupted. No traceback, unless
`SLUICEGATE_DEBUG` is set.
"""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from sluicegate.errors import SluicegateError

# Some releases of typer carry click inside, some depend on it: this is the class in either.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]


class Commands(TyperGroup):
    """The root of the commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, in the order of a first visit; the look at everything comes last."""
        return sorted(self.commands, key=lambda name: name == "doctor")

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command and exit."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.Abort:
            code = 130
        except _ClickError as error:
            code = _explain_usage(error, prog_name or self.name or "")
        except SluicegateError as error:
            code = _explain(error)
        except BrokenPipeError:
            # Whoever read our output has gone; there is nobody left to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except Exception as error:  # noqa: BLE001 - the last edge
            code = _explain_unknown(error)
        sys.exit(code if isinstance(code, int) else 0)


def fail(what: str, mend: str = "") -> NoReturn:
    """End the command with an error of its own."""
    raise SluicegateError(what, mend=mend)


def warn(what: str) -> None:
    """Say something beside the result, on stderr."""
    _write([("note", what)], "yellow")


def _explain(error: SluicegateError) -> int:
    if _debugging():
        traceback.print_exc()
    # An error of many problems shows each with its own mend.
    problems: Sequence[Any] = getattr(error, "problems", ())
    shown = [(str(one), one.mend) for one in problems] if len(problems) > 1 else []
    lines: list[tuple[str, str]] = []
    for what, mend in shown or [(error.what, error.mend)]:
        first, *rest = what.rstrip().splitlines() or [error.code]
        lines += [("error", first), *(("", f"       {line}") for line in rest)]
        if mend:
            lines.append(("mend", mend))
    _write(lines, "red")
    return 1


def _explain_usage(error: Any, program: str) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else program
    message = error.format_message().rstrip(".")
    if type(error).__name__ == "NoArgsIsHelpError":  # a group alone: its help is the answer
        typer.echo(context.get_help() if context is not None else message)
        return 2
    _write(
        [("error", message[0].lower() + message[1:]), ("mend", f"see `{command} --help`")], "red"
    )
    return 2


def _explain_unknown(error: Exception) -> int:
    if _debugging():
        traceback.print_exc()
        return 1
    text = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    incident = hashlib.sha256(f"{type(error).__name__} {place}".encode()).hexdigest()[:8]
    _write(
        [
            ("error", f"this is a mistake of ours, incident {incident}: {text} ({place})"),
            ("mend", "set SLUICEGATE_DEBUG=1 to see all of it, and report it with that"),
        ],
        "red",
    )
    return 1


def _debugging() -> bool:
    return os.environ.get("SLUICEGATE_DEBUG", "") not in ("", "0")


def _write(lines: Iterable[tuple[str, str]], color: str) -> None:
    colored = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    for label, text in lines:
        if not label:
            typer.echo(text, err=True)
            continue
        shown = f"{label}:".rjust(6)
        if colored:
            shown = typer.style(shown, fg=color if label != "mend" else "green", bold=True)
        typer.echo(f"{shown} {text}", err=True)
