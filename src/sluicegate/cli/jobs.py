"""`sluicegate jobs`: the history, one job, its logs, and how to follow it; `stops` and `again` do the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli import again, stops
from sluicegate.cli.listing import check_labels, check_statuses, find_job, find_task, jobs_table
from sluicegate.cli.options import AsJson, JobId, with_settings
from sluicegate.config import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from sluicegate.cli.backend import Backend

app = typer.Typer(
    help="Look at jobs, stop them, go on with them, follow them.", no_args_is_help=True
)

POLL_SECONDS: Final = 0.25
LOG_PAGE: Final = 1000


@app.command("list")
@with_settings("home")
def list_jobs(
    settings: Settings,
    status: Annotated[
        list[str] | None, typer.Option("--status", help="Only these; may be given again.")
    ] = None,
    pipeline: Annotated[
        list[str] | None, typer.Option("--pipeline", metavar="ID", help="Only with this pipeline.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="K:V", help="Only with this label.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="How many at most.")] = 20,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Go on where a page ended.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.terminal import out, print_json

    check_statuses(status)
    check_labels(label)
    query: dict[str, Any] = {"limit": limit}
    filters = (("status", status), ("pipeline", pipeline), ("label", label), ("cursor", cursor))
    query |= {name: value for name, value in filters if value}
    with open_backend(settings) as backend:
        page = backend.list(query)
    if as_json:
        print_json(page)
    elif not page["jobs"]:
        out().print("no such jobs" if query.keys() - {"limit"} else "no jobs yet", style="dim")
    else:
        out().print(jobs_table(page["jobs"], out().width))
        if page["next_cursor"]:
            out().print(f"older ones: --cursor {page['next_cursor']}", style="dim", soft_wrap=True)


@app.command("show")
@with_settings("home")
def show_job(settings: Settings, job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job: its tasks, errors, and the receipt of a stop."""
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.report import print_job
    from sluicegate.cli.terminal import out, print_json

    with open_backend(settings) as backend:
        job = backend.get(find_job(backend, job_id))
    if as_json:
        print_json(job)
    else:
        print_job(out(), job)


app.command("cancel")(stops.cancel_jobs)
app.command("resume")(again.resume_job)
app.command("rollback")(again.rollback_job)
app.command("rerun")(again.rerun_job)


@app.command("logs")
@with_settings("home")
def show_logs(
    settings: Settings,
    job_id: JobId,
    task: Annotated[
        str | None, typer.Option("--task", help="Only of this task: its id, or its pipeline's.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a job's log lines: of its tasks, and of the runner."""
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.terminal import out, print_json

    console = out()
    with open_backend(settings) as backend:
        job = backend.get(find_job(backend, job_id))
        task_id = find_task(job, task) if task else None
        names = _task_names(job)
        lines = _log_lines(backend, job["job_id"], task_id, follow=follow)
        if as_json and not follow:
            gathered = list(lines)
            after = gathered[-1]["log_id"] if gathered else 0
            print_json({"logs": gathered, "next_after": after})
            return
        for line in lines:
            if as_json:
                print_json(line, line=True)
                continue
            if line["task_id"] and line["task_id"] not in names:
                names = _task_names(backend.get(job["job_id"]))
            _print_log_line(console, line, names)


@app.command("watch")
@with_settings("home")
def watch_job(settings: Settings, job_id: JobId, as_json: AsJson = False) -> None:
    """Follow a job to its end.

    Exits as `run` would. With --json: its events, one a line.
    """
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.progress import Watcher, follow
    from sluicegate.cli.report import exit_code, is_over
    from sluicegate.cli.run import show_end
    from sluicegate.cli.terminal import print_json

    with open_backend(settings) as backend:
        job = backend.get(find_job(backend, job_id))
        if not as_json:
            ended = follow(backend, job, Watcher())
            show_end(ended, as_json=False)
            raise typer.Exit(exit_code(ended))
        for event in backend.follow(job["job_id"], after=0):
            print_json(event, line=True)
            if event["type"] in ("job.finished", "job.stopped"):
                job = backend.get(job["job_id"])
                if is_over(job):
                    raise typer.Exit(exit_code(job))


def _task_names(job: Mapping[str, Any]) -> dict[str, str]:
    from sluicegate.cli.report import pipeline_of

    return {task["task_id"]: pipeline_of(task) for task in job["tasks"]}


# ------------------------------------------------------------------ printing


def _log_lines(
    backend: Backend, job_id: str, task_id: str | None, *, follow: bool
) -> Iterator[dict[str, Any]]:
    """Yield log lines; with `follow`, until the job is over and its last line was read."""
    from sluicegate.cli.report import is_over

    after, last_round = 0, not follow
    while True:
        page = backend.logs(job_id, task_id=task_id, after=after, limit=LOG_PAGE)
        yield from page["logs"]
        after = page["next_after"]
        if len(page["logs"]) == LOG_PAGE:
            continue
        if last_round:
            return
        last_round = is_over(backend.get(job_id))
        time.sleep(POLL_SECONDS)


def _print_log_line(console: Console, line: Mapping[str, Any], names: Mapping[str, str]) -> None:
    from rich.text import Text

    at = datetime.fromisoformat(line["at"]).astimezone()
    style = {"error": "red", "critical": "red", "warning": "yellow", "debug": "dim"}.get(
        line["level"], ""
    )
    text = Text(f"{at:%H:%M:%S}.{at.microsecond // 1000:03} ", style="dim")
    name = names.get(line["task_id"], line["task_id"]) if line["task_id"] else "job"
    text.append(f"{name} ", style="cyan" if line["task_id"] else "bold")
    text.append(line["message"].rstrip("\n"), style=style)
    console.print(text, soft_wrap=True)
