"""`sluicegate prune`: remove old jobs, and the files of tables that are kept only for them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli.options import AsJson, Yes, with_settings
from sluicegate.config import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from sluicegate.cli.backend import Backend

Json = dict[str, Any]

_WHY: Final = {
    "not_ended": "not ended yet",
    "recent": "ended only lately",
    "resumable": "can be resumed",
    "rollback": "can be rolled back: a table holds what it made",
    "linked": "resumed by one that stays",
}


@with_settings("home")
def prune(
    settings: Settings,
    older_than: Annotated[
        str,
        typer.Option("--older-than", metavar="TIME", help="What ended longer ago, as 90d or 12h."),
    ],
    resumable: Annotated[
        bool, typer.Option("--resumable", help="Also jobs that a resume could still take up.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove old jobs with their logs, and old files of tables.

    Never what a resume or a rollback still needs. It cannot be undone, so a terminal shows what
    would go and asks; a script has to say --yes.
    """
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.terminal import can_ask, counted, err, out, print_json
    from sluicegate.durations import DurationError, parse_duration

    try:
        before = datetime.now(UTC) - timedelta(seconds=parse_duration(older_than))
    except (DurationError, OverflowError):
        raise typer.BadParameter(
            f"--older-than is a time such as 90d, 12h or 30m, got {older_than!r}"
        ) from None
    if not (dry_run or yes or can_ask()):
        raise typer.BadParameter(
            "pruned jobs are gone for good, and there is nobody to ask: say --yes, or --dry-run"
        )
    asked: Json = {"ended_before": before.isoformat(), "resumable": resumable}
    with open_backend(settings) as backend:
        if not (dry_run or yes):
            would = _all_steps(backend, asked | {"dry_run": True})
            _print(err(), would)
            if not (would["jobs"] or would["files"]):
                return
            if not typer.confirm(f"Remove {counted(would['jobs'], 'job')} for good?", err=True):
                raise typer.Abort
        answer = _all_steps(backend, asked | {"dry_run": dry_run})
    if as_json:
        print_json(answer)
    else:
        _print(out(), answer)


def _all_steps(backend: Backend, asked: Json) -> Json:
    """Have one step done after the other; return what all of them came to."""
    from sluicegate.cli.terminal import counted, err

    jobs, kept, tables = 0, Counter[str](), list[Json]()
    cursor: str | None = None
    with err().status("pruning") as shown:
        while True:
            step = backend.prune({**asked, "cursor": cursor})
            jobs += step["jobs"]
            kept.update(step["kept"])
            tables += step["tables"]
            if (cursor := step["cursor"]) is None:
                break
            shown.update(f"pruning: {counted(jobs, 'job')} so far")
    return {
        **asked,
        "jobs": jobs,
        "kept": dict(kept),
        "files": sum(table["files"] for table in tables),
        "bytes": sum(table["bytes"] for table in tables),
        "tables": tables,
    }


def _print(console: Console, answer: Json) -> None:
    from sluicegate.cli.terminal import columns, count, counted, plain

    verb = "would remove" if answer["dry_run"] else "removed"
    what = f"{verb} {counted(answer['jobs'], 'job')}"
    if answer["files"]:
        what += f" and {counted(answer['files'], 'file')} of tables, {_megabytes(answer['bytes'])}"
    console.print(plain(what), style="bold")
    shown = columns("left", "right", "left")
    for why, number in answer["kept"].items():
        shown.add_row("kept", count(number), _WHY[why])
    for table in answer["tables"]:
        if table["files"]:
            size = _megabytes(table["bytes"])
            shown.add_row(plain(table["table"]), count(table["files"]), f"files, {size}")
        elif table["is_strange"]:
            shown.add_row(plain(table["table"]), "", "left alone: no job that is kept here made it")
    if shown.row_count:
        console.print(shown)


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
