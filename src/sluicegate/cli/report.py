"""A job as a person wants to read it: header, tasks, errors, and the receipt of a stop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sluicegate.cli.terminal import (
    columns,
    count,
    counted,
    duration,
    facts,
    grid,
    job_state,
    listed,
    local_time,
    milliseconds,
    plain,
    state,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Json = Mapping[str, Any]

ERROR_LINES_MAX: Final = 12
WHERE_LINES_MAX: Final = 3
EXIT_CODES: Final[Mapping[str, int]] = {"success": 0, "failed": 1, "partial": 1, "cancelled": 130}

STAGES: Final[Mapping[str, str]] = {
    "checkpoint": "at a checkpoint",
    "interrupt": "interrupted",
    "terminate": "terminated",
    "kill": "killed",
}
CAUSES: Final[Mapping[str, str]] = {
    "timeout": "its time was over",
    "stall": "it made no progress",
    "superseded": "another job took its place",
}


def exit_code(job: Json) -> int:
    """Return the code that a command exits with when it ran or watched this job."""
    return EXIT_CODES.get(job["status"], 1)


def is_over(job: Json) -> bool:
    """Whether nothing about the job can move any more."""
    return job["status"] not in ("pending", "running") and job["completed_at"] is not None


def pipeline_of(task: Json) -> str:
    """Return the id of a task's pipeline."""
    return f"{task['layer']}.{task['pipeline_name']}"


def print_job(console: Console, job: Json) -> None:
    """Print everything about a job."""
    console.print(_headline(job))
    console.print(facts(_header(job)))
    console.print()
    print_outcome(console, job)


def print_summary(console: Console, job: Json) -> None:
    """Print what a job came to, when it was followed up to here."""
    console.print(_headline(job))
    console.print(facts([("job", job["job_id"]), ("tasks", _tally(job))]))
    console.print()
    print_outcome(console, job)


def print_outcome(console: Console, job: Json) -> None:
    """Print tasks, errors and the receipt."""
    if job["plan"]:
        console.print(_tasks(job))
    for task in job["tasks"]:
        if task["status"] == "failed" or task["error"]:
            _print_error(console, task)
    if job["error"]:
        console.print()
        console.print(plain(job["error"]), style="red")
    if job["cancellation"]:
        console.print()
        print_receipt(console, job["cancellation"], job)


def print_receipt(console: Console, receipt: Json, job: Json | None = None) -> None:
    """Print what stopped, how fast, and what was kept."""
    console.print(_stopped_line(receipt))
    rows: list[tuple[str, Any]] = [
        ("asked", f"{local_time(receipt['requested_at'])} by {receipt['requested_by']}"),
        ("cause", CAUSES.get(receipt["cause"])),
        ("reason", receipt["reason"]),
    ]
    if receipt["escalated_at"]:
        rows.append(("escalated", f"{local_time(receipt['escalated_at'])}, to {receipt['mode']}"))
    if receipt["stopped"]:
        rows.append(("stopped", _stopped(receipt["stopped"])))
    else:
        rows.append(("stopped", "nothing was running" if receipt["stopped_at"] else None))
    rows += [
        ("not started", listed(receipt["not_started"])),
        ("kept", _kept(receipt["kept"])),
        ("elsewhere", "\n".join(_remote(one) for one in receipt["remote"])),
    ]
    console.print(facts(rows))


# ------------------------------------------------------------------ the header


def _headline(job: Json) -> Text:
    from rich.text import Text

    took = duration(job["duration_seconds"])
    line = Text.assemble((job["job_name"], "bold"), "  ", job_state(job))
    if took:
        line.append(f" {'in' if is_over(job) else 'for'} {took}")
    return line


def _header(job: Json) -> Iterator[tuple[str, Any]]:
    yield "job", job["job_id"]
    yield "created", f"{local_time(job['created_at'])} by {job['user_id']} ({job['trigger']})"
    yield "started", local_time(job["started_at"])
    yield "ended", local_time(job["completed_at"])
    yield "tasks", _tally(job)
    yield "params", _pairs(job["params"])
    yield "labels", _pairs(job["labels"])
    yield "priority", str(job["priority"]) if job["priority"] else None
    yield "time limit", duration(job["timeout_seconds"])
    yield "code", job["code_version"]
    yield "resumed from", job["resumed_from"]
    yield "resumed by", job["resumed_by"]


def _tally(job: Json) -> str:
    parts = [f"{job['completed_tasks']} of {job['total_tasks']} succeeded"]
    parts += [
        f"{job[f'{word}_tasks']} {word}" for word in ("failed", "cancelled") if job[f"{word}_tasks"]
    ]
    if "plan" in job and (left := job["total_tasks"] - len(job["tasks"])):
        parts.append(f"{left} not started")
    return ", ".join(parts)


def _pairs(pairs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in pairs.items())


# ------------------------------------------------------------------ tasks


def _tasks(job: Json) -> Any:
    tasks = {pipeline_of(task): task for task in job["tasks"]}
    table = grid("task", "status", "rows", "took", "note", right=("rows", "took"), fold=("note",))
    for step in job["plan"]:
        task = tasks.get(step["pipeline"])
        if task is None:
            table.add_row(plain(step["pipeline"]), state("not started"), "", "", "")
            continue
        table.add_row(
            plain(pipeline_of(task)),
            state(task["status"]),
            count(task["stats"]["rows"]) if task["stats"]["units"] else "",
            duration(task["duration_seconds"]),
            plain(_note(task)),
        )
    return table


def _note(task: Json) -> str:
    parts = []
    if task["attempt"] > 1:
        parts.append(f"attempt {task['attempt']}")
    if task["stop"] and task["status"] != "success":
        parts.append(f"{STAGES.get(task['stop']['stage'], task['stop']['stage'])}")
    if task["message"] and task["status"] != "failed":
        parts.append(str(task["message"]).splitlines()[0])
    return ", ".join(parts)


def _print_error(console: Console, task: Json) -> None:
    """Print why a task failed: the error, then the last lines of where it happened."""
    console.print()
    said = [text for text in (task["message"], task["error"]) if text]
    first, *lines = "\n".join(said).strip().splitlines() or [task["status"]]
    console.print(plain(f"{pipeline_of(task)}: {first}"), style="red")
    if len(lines) > ERROR_LINES_MAX:
        console.print(f"  … {len(lines) - ERROR_LINES_MAX} lines above", style="dim")
    for line in lines[-ERROR_LINES_MAX:]:
        if line.strip() != first:
            console.print(plain(f"  {line.strip()}"), style="dim", soft_wrap=True)


# ------------------------------------------------------------------ the receipt


def _stopped_line(receipt: Json) -> Text:
    from rich.text import Text

    line = Text("■ ", style="bright_black")
    took = milliseconds(receipt["latency_ms"])
    if receipt["outcome"] == "finished":
        line.append("everything was done before the stop took effect", style="bold")
    elif receipt["outcome"] == "unconfirmed":
        line.append("stopped, but not everything could be confirmed", style="bold yellow")
    elif receipt["stopped_at"]:
        line.append(f"stopped in {took}", style="bold")
    else:
        line.append("stopping", style="bold yellow")
    line.append(f" ({receipt['mode']})")
    return line


def _stopped(stopped: Sequence[Json]) -> Text:
    """One line a task, and below it where it hung: the last calls, outermost last."""
    from rich.text import Text

    names = max(len(one["pipeline"]) for one in stopped)
    stages = max(len(STAGES.get(one["stage"], one["stage"])) for one in stopped)
    text = Text()
    for one in stopped:
        stage = STAGES.get(one["stage"], one["stage"])
        took = milliseconds(one["latency_ms"])
        text.append(f"{one['pipeline']:<{names}}  {stage:<{stages}}  after {took}")
        if killed := one["processes_killed"]:
            text.append(f", {counted(killed, 'process', 'processes')} killed")
        text.append("\n")
        for place in one["where"][-WHERE_LINES_MAX:]:
            text.append(f"  {place}\n", style="dim")
    text.rstrip()
    return text


def _kept(kept: Sequence[Json]) -> Any:
    if not kept:
        return None
    table = columns("left", "left", "right")
    for one in kept:
        table.add_row(plain(one["table"]), f"version {one['version']}", counted(one["rows"], "row"))
    return table


def _remote(one: Json) -> str:
    return f"{one['what']}: {one['outcome']} after {counted(one['tries'], 'try', 'tries')}"
