"""`sluicegate jobs cancel`: jobs by their ids, many by a filter, or one task."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli.listing import check_labels, check_statuses, find_job, find_task, jobs_table
from sluicegate.cli.options import AsJson, Yes, with_settings
from sluicegate.config import Settings
from sluicegate.errors import SluicegateError

if TYPE_CHECKING:
    from sluicegate.cli.backend import Backend

Json = dict[str, Any]

STOP_WAIT_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.25
MANY_POLL_SECONDS: Final = 1.0
PAGE: Final = 500
SHOWN_MAX: Final = 20


@with_settings("home")
def cancel_jobs(
    settings: Settings,
    job_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB", help="Job ids, or beginnings of recent ones."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="Only this task of the job: its id, or its pipeline's."),
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", help="All in this status; may be given again.")
    ] = None,
    pipeline: Annotated[
        list[str] | None, typer.Option("--pipeline", metavar="ID", help="All with this pipeline.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="K:V", help="All with this label.")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="TIME", help="All created longer ago, as 2h or 1d."),
    ] = None,
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
    match_token: Annotated[
        str | None,
        typer.Option("--match-token", help="Only what the dry run showed that printed it."),
    ] = None,
    yes: Yes = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for the receipt, up to 30 s.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Stop jobs and show the receipts: by id, or all that a filter means.

    Tasks stop at their next checkpoint, or are made to. With a filter, a terminal shows the jobs
    and asks; what is created meanwhile is not stopped.
    """
    from sluicegate.cli.backend import open_backend

    conditions = _conditions(status, pipeline, label, older_than)
    _check_usage(job_ids, conditions, task, force, drain, dry_run, match_token)
    mode = "force" if force else "drain" if drain else "graceful"
    with open_backend(settings) as backend:
        if conditions:
            asked: Json = {"reason": reason, "mode": mode}
            if dry_run:
                answer = backend.cancel_many(filter=conditions, dry_run=True, **asked)
                _show_matched(backend, answer, as_json=as_json)
            else:
                ask = None if yes else _asking(backend)
                _cancel_many(backend, conditions, asked, match_token, ask, wait, as_json)
        elif task is not None:
            _cancel_task(backend, (job_ids or [])[0], task, reason, mode, wait, as_json)
        elif dry_run:
            _each(job_ids or [], lambda given: _preview(backend, given, mode), as_json)
        else:
            stopping = _decided(backend, job_ids or [], reason, mode)
            _each(list(stopping), lambda given: _stopped(backend, stopping[given], wait), as_json)
            if len(stopping) < len(dict.fromkeys(job_ids or [])):
                raise typer.Exit(1)


def _conditions(
    status: list[str] | None,
    pipeline: list[str] | None,
    label: list[str] | None,
    older_than: str | None,
) -> Json:
    """Return the filter, by the names of the API."""
    from sluicegate.durations import DurationError, parse_duration

    check_statuses(status)
    check_labels(label)
    filters: tuple[tuple[str, Any], ...] = (
        ("status", status),
        ("pipeline", pipeline),
        ("label", label),
    )
    conditions = {name: value for name, value in filters if value}
    if older_than is not None:
        try:
            before = datetime.now(UTC) - timedelta(seconds=parse_duration(older_than))
        except (DurationError, OverflowError):
            raise typer.BadParameter(
                f"--older-than is a time such as 90s, 10m, 2h or 1d, got {older_than!r}"
            ) from None
        conditions["created_before"] = before.isoformat()
    return conditions


def _check_usage(
    job_ids: list[str] | None,
    conditions: Json,
    task: str | None,
    force: bool,
    drain: bool,
    dry_run: bool,
    match_token: str | None,
) -> None:
    if force and drain:
        raise typer.BadParameter("--force and --drain exclude each other")
    if bool(job_ids) == bool(conditions):
        raise typer.BadParameter(
            "give job ids or a filter, not both"
            if job_ids
            else "which jobs? give ids, or --status, --pipeline, --label or --older-than"
        )
    if match_token is not None and (dry_run or not conditions):
        raise typer.BadParameter("--match-token goes with a filter, after its --dry-run")
    if task is not None and (conditions or len(job_ids or []) != 1):
        raise typer.BadParameter("--task needs the one job that it belongs to")
    if task is not None and (drain or dry_run):
        raise typer.BadParameter("--task cannot be combined with --drain or --dry-run")


# ------------------------------------------------------------------ by id


def _decided(backend: Backend, given: Sequence[str], reason: str | None, mode: str) -> Json:
    """Stop all of them before waiting for any; return the answers, by what was given."""
    answers: Json = {}
    for one in dict.fromkeys(given):
        try:
            answers[one] = backend.cancel(find_job(backend, one), reason=reason, mode=mode)
        except SluicegateError as error:
            _complain(error, alone=len(given) == 1)
    return answers


def _stopped(backend: Backend, answer: Json, wait: bool) -> tuple[Json, Callable[[], None]]:
    """Wait for the receipt of a stop that was decided."""
    from sluicegate.cli.terminal import err

    deadline = time.monotonic() + STOP_WAIT_SECONDS
    with err().status("stopping"):
        while wait and not answer["cancellation"]["stopped_at"] and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            answer["cancellation"] = backend.get(answer["job_id"])["cancellation"]
    return answer, lambda: _print_stop(answer)


def _preview(backend: Backend, given: str, mode: str) -> tuple[Json, Callable[[], None]]:
    answer = backend.preview_cancel(find_job(backend, given), mode=mode)
    return answer, lambda: _print_preview(answer)


def _each(
    given: Sequence[str],
    do: Callable[[str], tuple[Json, Callable[[], None]]],
    as_json: bool,
) -> None:
    """Do and print it for each; what cannot be done for one does not keep the others."""
    from sluicegate.cli.terminal import print_json

    refused = False
    for one in given:
        try:
            answer, print_it = do(one)
        except SluicegateError as error:
            _complain(error, alone=len(given) == 1)
            refused = True
            continue
        if as_json:
            print_json(answer, line=len(given) > 1)
        else:
            print_it()
    if refused:
        raise typer.Exit(1)


def _complain(error: SluicegateError, *, alone: bool) -> None:
    from sluicegate.cli.edge import warn

    if alone:
        raise error
    warn(error.what)


def _print_stop(answer: Mapping[str, Any]) -> None:
    from sluicegate.cli.report import print_receipt
    from sluicegate.cli.terminal import out, plain

    console = out()
    console.print(plain(answer["message"]))
    print_receipt(console, answer["cancellation"])
    if not answer["cancellation"]["stopped_at"]:
        console.print(f"to see the rest: sluicegate jobs watch {answer['job_id']}", style="dim")


def _print_preview(preview: Mapping[str, Any]) -> None:
    from sluicegate.cli.terminal import counted, duration, facts, listed, milliseconds, out

    running = []
    for task in preview["running"]:
        expected = milliseconds(task["expected_stop_ms"])
        running.append(f"{task['pipeline']}{f', within about {expected}' if expected else ''}")
    kept = [f"{one['table']}, {counted(one['rows'], 'row')}" for one in preview["kept"]]
    lost = preview["lost_work_seconds"]
    console = out()
    console.print("a stop now would", style="bold")
    console.print(
        facts(
            [
                ("stop", "\n".join(running) or "nothing: no task is running"),
                ("not start", listed(preview["not_started"])),
                ("keep", "\n".join(kept)),
                ("lose", f"about {duration(lost)} of work" if lost else None),
            ]
        )
    )


# ------------------------------------------------------------------ one task


def _cancel_task(
    backend: Backend,
    given: str,
    named: str,
    reason: str | None,
    mode: str,
    wait: bool,
    as_json: bool,
) -> None:
    """Stop one task, wait until it is gone, and say what that means for the rest."""
    from sluicegate.cli.report import print_task_stop
    from sluicegate.cli.terminal import err, out, print_json

    job = backend.get(find_job(backend, given))
    task_id = find_task(job, named)
    task: Json = backend.cancel_task(job["job_id"], task_id, reason=reason, mode=mode)
    deadline = time.monotonic() + STOP_WAIT_SECONDS
    with err().status("stopping"):
        while wait and task["stopping"] and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            job = backend.get(job["job_id"])
            [task] = (one for one in job["tasks"] if one["task_id"] == task_id)
    if as_json:
        print_json(task)
    else:
        print_task_stop(out(), task, job)


# ------------------------------------------------------------------ many


def _asking(backend: Backend) -> Callable[[Json], bool] | None:
    """Return what shows the jobs and asks; `None` where there is nobody to ask."""
    from sluicegate.cli.terminal import can_ask, counted

    def ask(preview: Json) -> bool:
        _print_matched(backend, preview)
        would = _would_stop(preview)
        return typer.confirm(f"Stop {counted(would, 'job')}?", err=True)

    return ask if can_ask() else None


def _cancel_many(
    backend: Backend,
    conditions: Json,
    asked: Mapping[str, Any],
    match_token: str | None,
    ask: Callable[[Json], bool] | None,
    wait: bool,
    as_json: bool,
) -> None:
    from sluicegate.cli.terminal import out, print_json

    if ask is not None and match_token is None:
        preview = backend.cancel_many(filter=conditions, dry_run=True, **asked)
        if _would_stop(preview) and not ask(preview):
            raise typer.Abort
        match_token = preview["match_token"]
    answer = backend.cancel_many(filter=conditions, match_token=match_token, **asked)
    left = _wait_for_all(backend, answer) if wait else None
    if as_json:
        print_json(answer)
    else:
        out().print(_many_line(answer, left))


def _wait_for_all(backend: Backend, answer: Json) -> int:
    """Wait until the jobs that were stopped are over; return how many are not yet."""
    from sluicegate.cli.terminal import err

    left = {one["job_id"] for one in answer["results"] if one["outcome"] == "cancelled"}
    deadline = time.monotonic() + STOP_WAIT_SECONDS
    with err().status("stopping"):
        while left:
            left &= _stopping(backend, oldest=min(left))
            if not left or time.monotonic() > deadline:
                break
            time.sleep(MANY_POLL_SECONDS)
    return len(left)


def _stopping(backend: Backend, oldest: str) -> set[str]:
    """Return the cancelled jobs that are not over yet, as far back as `oldest`: ids sort by creation."""
    found: set[str] = set()
    query: Json = {"status": ["cancelled"], "limit": PAGE}
    while True:
        page = backend.list(query)
        found |= {job["job_id"] for job in page["jobs"] if job["stopping"]}
        query["cursor"] = page["next_cursor"]
        if page["next_cursor"] is None or page["jobs"][-1]["job_id"] <= oldest:
            return found


def _would_stop(preview: Json) -> int:
    return sum(one["outcome"] == "cancelled" for one in preview["results"])


def _many_line(answer: Json, left: int | None) -> str:
    """What a stop of many came to, in one line; `left`: how many are stopping yet."""
    from sluicegate.cli.terminal import count, counted

    if not answer["matched"]:
        return "no job matches, so nothing was stopped"
    line = f"{counted(answer['cancelled'], 'job')} cancelled"
    if others := answer["matched"] - answer["cancelled"]:
        line += f", {count(others)} had ended already"
    if answer["cancelled"] and left is not None:
        line += f"; {count(left)} still stopping" if left else "; all have stopped"
    return line


def _show_matched(backend: Backend, preview: Json, *, as_json: bool) -> None:
    from sluicegate.cli.terminal import out, print_json

    if as_json:
        print_json(preview)
        return
    _print_matched(backend, preview)
    out().print("nothing was stopped: this is a dry run", style="dim")


def _print_matched(backend: Backend, preview: Json) -> None:
    """Print what a stop of many would stop: the newest in a table, and how many there are."""
    from sluicegate.cli.terminal import count, counted, out

    console = out()
    if not preview["matched"]:
        console.print("no job matches", style="dim")
        return
    would = [one["job_id"] for one in preview["results"] if one["outcome"] == "cancelled"]
    console.print(f"a stop now would stop {counted(len(would), 'job')}", style="bold")
    if would:
        shown = [backend.get(job_id) for job_id in would[:SHOWN_MAX]]
        console.print(jobs_table(shown, console.width))
    if len(would) > SHOWN_MAX:
        console.print(f"… and {count(len(would) - SHOWN_MAX)} more", style="dim")
    if others := preview["matched"] - len(would):
        console.print(f"{count(others)} more match, and have ended already", style="dim")
