"""`sluicegate jobs`: the history, one job, its logs, and how to stop or watch it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli.options import AsJson, JobId, with_settings
from sluicegate.config import Settings
from sluicegate.errors import SluicegateError

if TYPE_CHECKING:
    from rich.console import Console

    from sluicegate.cli.backend import Backend

app = typer.Typer(help="Look at jobs, stop them, follow them.", no_args_is_help=True)

ID_LENGTH: Final = 36
NEWEST: Final = 500
STATUSES: Final = ("pending", "running", "success", "failed", "partial", "cancelled")
STOP_WAIT_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.25
LOG_PAGE: Final = 1000
WIDE: Final = 110


class AmbiguousJobError(SluicegateError):
    """Several recent jobs begin with what was given."""

    code = "job_ambiguous"


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

    for one in status or []:
        if one not in STATUSES:
            raise typer.BadParameter(f"there is no status {one!r}: {', '.join(STATUSES)}")
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
        out().print(_jobs_table(page["jobs"], out().width))
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


@app.command("cancel")
@with_settings("home")
def cancel_jobs(
    settings: Settings,
    job_ids: Annotated[
        list[str], typer.Argument(metavar="JOB", help="Job ids, or beginnings of recent ones.")
    ],
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why; it is kept in the receipt.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Kill at once.")] = False,
    drain: Annotated[
        bool, typer.Option("--drain", help="Let running tasks finish, start nothing more.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what a stop would do.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for the receipt, up to 30 s.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Stop jobs and show the receipts.

    Tasks stop at their next checkpoint, or are made to.
    """
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.terminal import print_json

    if force and drain:
        raise typer.BadParameter("--force and --drain exclude each other")
    mode = "force" if force else "drain" if drain else "graceful"
    refused: SluicegateError | None = None
    with open_backend(settings) as backend:
        for given in job_ids:
            try:
                job_id = find_job(backend, given)
                if dry_run:
                    answer = backend.preview_cancel(job_id, mode=mode)
                else:
                    answer = _cancel(backend, job_id, reason, mode, wait=wait)
            except SluicegateError as error:
                if len(job_ids) == 1:
                    raise
                from sluicegate.cli.edge import warn

                warn(error.what)
                refused = error
                continue
            if as_json:
                print_json(answer, line=len(job_ids) > 1)
            elif dry_run:
                _print_preview(answer)
            else:
                _print_stop(answer)
    if refused is not None:
        raise typer.Exit(1)


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
        task_id = _find_task(job, task) if task else None
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


# ------------------------------------------------------------------ finding


def find_job(backend: Backend, given: str) -> str:
    """Return the id of the job that `given` is, or that it begins.

    Raises:
        JobNotFoundError: None of the newest 500 jobs begins so.
        AmbiguousJobError: Several of them do.
    """
    if len(given) >= ID_LENGTH:
        return given
    from sluicegate.core.job import JobNotFoundError

    wanted = given.lower()
    jobs = backend.list({"limit": NEWEST})["jobs"]
    found = [job for job in jobs if wanted and job["job_id"].startswith(wanted)]
    if not found:
        raise JobNotFoundError(given)
    if len(found) > 1:
        names = ", ".join(f"{job['job_id']} ({job['job_name']})" for job in found[:3])
        raise AmbiguousJobError(
            f"{len(found)} jobs begin with {given!r}", mend=f"give more of it: {names}"
        )
    return str(found[0]["job_id"])


def short_ids(job_ids: list[str]) -> list[str]:
    """Return the shortest beginnings that tell these ids apart, not shorter than their time.

    Source: RFC 9562, section 5.7: the first 48 bits of a UUIDv7 are milliseconds.
    """
    for length in (13, 18, 23):
        short = [job_id[:length] for job_id in job_ids]
        if len(set(short)) == len(short):
            return short
    return job_ids


def _find_task(job: Mapping[str, Any], given: str) -> str:
    from sluicegate.cli.report import pipeline_of
    from sluicegate.core.job import TaskNotFoundError

    for task in job["tasks"]:
        if given in (task["task_id"], pipeline_of(task)):
            return str(task["task_id"])
    raise TaskNotFoundError(job["job_id"], given)


def _task_names(job: Mapping[str, Any]) -> dict[str, str]:
    from sluicegate.cli.report import pipeline_of

    return {task["task_id"]: pipeline_of(task) for task in job["tasks"]}


# ------------------------------------------------------------------ stopping


def _cancel(
    backend: Backend, job_id: str, reason: str | None, mode: str, *, wait: bool
) -> dict[str, Any]:
    """Stop one job and wait for its receipt; return the answer with what is known of it."""
    from sluicegate.cli.terminal import err

    answer = backend.cancel(job_id, reason=reason, mode=mode)
    deadline = time.monotonic() + STOP_WAIT_SECONDS
    with err().status("stopping"):
        while wait and not answer["cancellation"]["stopped_at"] and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            answer["cancellation"] = backend.get(job_id)["cancellation"]
    return answer


def _print_stop(answer: Mapping[str, Any]) -> None:
    from sluicegate.cli.report import print_receipt
    from sluicegate.cli.terminal import out, plain

    console = out()
    console.print(plain(answer["message"]))
    print_receipt(console, answer["cancellation"])
    if not answer["cancellation"]["stopped_at"]:
        console.print(f"to see the rest: sluicegate jobs watch {answer['job_id']}", style="dim")


def _print_preview(preview: Mapping[str, Any]) -> None:
    from sluicegate.cli.terminal import count, duration, facts, listed, milliseconds, out

    running = []
    for task in preview["running"]:
        expected = milliseconds(task["expected_stop_ms"])
        running.append(f"{task['pipeline']}{f', within about {expected}' if expected else ''}")
    kept = [f"{one['table']}, {count(one['rows'])} rows" for one in preview["kept"]]
    console = out()
    console.print("a stop now would", style="bold")
    console.print(
        facts(
            [
                ("stop", "\n".join(running) or "nothing: no task is running"),
                ("not start", listed(preview["not_started"])),
                ("keep", "\n".join(kept)),
                (
                    "lose",
                    f"{duration(preview['lost_work_seconds'])} of work"
                    if preview["lost_work_seconds"]
                    else None,
                ),
            ]
        )
    )


# ------------------------------------------------------------------ printing


def _jobs_table(jobs: list[dict[str, Any]], width: int) -> Any:
    """The history; where it is too wide, only the names are cut off."""
    from sluicegate.cli.terminal import age, duration, grid, job_state, plain

    headings = ["job", "name", "status", "tasks", "created", "took", "by"]
    if width < WIDE:
        headings.remove("by")
    table = grid(*headings, right=("tasks", "took"))
    for short, job in zip(short_ids([job["job_id"] for job in jobs]), jobs, strict=True):
        cells = [
            plain(short),
            plain(job["job_name"]),
            job_state(job),
            plain(f"{job['completed_tasks']}/{job['total_tasks']}"),
            plain(age(job["created_at"])),
            plain(duration(job["duration_seconds"])),
            plain(f"{job['user_id']} ({job['trigger']})"),
        ][: len(headings)]
        table.add_row(*cells)
        for heading, column, cell in zip(headings, table.columns, cells, strict=True):
            if heading != "name":
                column.min_width = max(column.min_width or len(heading), cell.cell_len)
    others = sum((column.min_width or 0) + 2 for column in table.columns)
    table.columns[1].max_width = max(len("name"), width - others - 2)
    return table


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
