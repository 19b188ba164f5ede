"""`sluicegate jobs resume`, `rollback` and `rerun`: what comes after a job."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluicegate.cli.listing import find_job
from sluicegate.cli.options import AsJson, JobId, Yes, with_settings
from sluicegate.config import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from sluicegate.cli.backend import Backend

Json = Mapping[str, Any]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, only say what would be.")]


@with_settings("home")
def resume_job(
    settings: Settings, job_id: JobId, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Go on with a job that was stopped or failed, as a new job.

    What it has published stays; the rest of its plan runs, after what was committed where it can.
    """
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.terminal import out, print_json

    with open_backend(settings) as backend:
        found = find_job(backend, job_id)
        answer = backend.preview_resume(found) if dry_run else backend.resume(found)
        if as_json:
            print_json(answer)
        elif dry_run:
            _print_resume_preview(out(), answer)
        else:
            _print_new(out(), backend, answer, "goes on with", found)


@with_settings("home")
def rerun_job(settings: Settings, job_id: JobId, as_json: AsJson = False) -> None:
    """Run the whole plan of a job again, with the same parameters, as a new job."""
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.terminal import out, print_json

    with open_backend(settings) as backend:
        found = find_job(backend, job_id)
        answer = backend.rerun(found)
        if as_json:
            print_json(answer)
        else:
            _print_new(out(), backend, answer, "runs again", found)


@with_settings("home")
def rollback_job(
    settings: Settings,
    job_id: JobId,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Put the tables that a job changed back to what they held before it.

    It changes data, so a terminal shows the tables and asks; a script has to say --yes.
    """
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.terminal import can_ask, counted, err, out, print_json
    from sluicegate.home import locked

    if not (dry_run or yes or can_ask()):
        raise typer.BadParameter(
            "a rollback changes tables, and there is nobody to ask: say --yes, or --dry-run"
        )
    with open_backend(settings) as backend:
        found = find_job(backend, job_id)
        if dry_run or not yes:
            preview = backend.preview_rollback(found)
            if not (dry_run and as_json):
                _print_tables(out() if dry_run else err(), preview)
            if dry_run:
                if as_json:
                    print_json(preview)
                return
            tables = counted(len(preview["tables"]), "table")
            if not typer.confirm(f"Put {tables} back?", err=True):
                raise typer.Abort
        # A run in the foreground would not hear that its tables are free again: they take turns.
        alone = nullcontext() if backend.runs_jobs else locked(settings.home)
        with alone:
            answer = backend.rollback(found)
    if as_json:
        print_json(answer)
    else:
        _print_tables(out(), answer)


# ------------------------------------------------------------------ printing


def _print_new(console: Console, backend: Backend, job: Json, what: str, of: str) -> None:
    """Say which job it is now, and what can be done about it."""
    from sluicegate.cli.edge import warn
    from sluicegate.cli.report import headline
    from sluicegate.cli.terminal import counted, facts

    is_done = job["status"] == "success"
    rows = [
        ("new job", job["job_id"]),
        (what, of),
        (
            "to run",
            "nothing was left to do" if is_done else counted(job["total_tasks"], "pipeline"),
        ),
        ("watch it", None if is_done else f"sluicegate jobs watch {job['job_id']}"),
    ]
    console.print(headline(job))
    console.print(facts(rows))
    if not is_done and not backend.runs_jobs:
        warn("no server lives on this home; the job waits until `sluicegate serve` starts")


def _print_resume_preview(console: Console, preview: Json) -> None:
    from sluicegate.cli.report import kept_table
    from sluicegate.cli.terminal import columns, counted, facts, plain

    runs = columns("left", "left")
    for one in preview["runs"]:
        after = one["after"]
        how = "from its beginning"
        if after is not None:
            how = f"after {counted(after['rows'], 'row')} that it has committed"
        runs.add_row(plain(one["pipeline"]), how)
    console.print("a resume now would", style="bold")
    nothing = "nothing: all of it is done"
    console.print(
        facts(
            [("run", runs if preview["runs"] else nothing), ("keep", kept_table(preview["kept"]))]
        )
    )


def _print_tables(console: Console, answer: Json) -> None:
    """Print what a rollback did, or would do."""
    from sluicegate.cli.report import put_back_table
    from sluicegate.cli.terminal import local_time, plain

    done = answer["rolled_back_at"]
    if not answer["tables"]:
        console.print("this job has changed no table, so nothing is put back")
        return
    heading = f"rolled back at {local_time(done)}" if done else "a rollback now would put back"
    console.print(plain(heading), style="bold")
    console.print(put_back_table(answer["tables"]))
