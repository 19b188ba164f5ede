"""A job as a person wants to read it: header, tasks, errors, and the receipt of a stop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
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
    task_state,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Json = Mapping[str, Any]

ERROR_LINES_MAX: Final = 12
WHERE_LINES_MAX: Final = 3
# Beside a task's name and its stage: what stands left of them, and "after 15.0 s, 2 processes killed".
STOPPED_OTHERS: Final = 54
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
    console.print(headline(job))
    console.print(facts(_header(job)))
    console.print()
    print_outcome(console, job)


def print_summary(console: Console, job: Json) -> None:
    """Print what a job came to, when it was followed up to here."""
    console.print(headline(job))
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
        print_receipt(console, job["cancellation"])
    _print_stopped_alone(console, job)
    if job["rollback"]:
        console.print()
        _print_rollback(console, job["rollback"])


def print_receipt(console: Console, receipt: Json) -> None:
    """Print who stopped it and why, what stopped, how fast, and what was kept."""
    console.print(_stopped_line(receipt))
    console.print(plain(" ".join(_told(receipt))))
    console.print(
        facts(
            [
                (
                    "stopped",
                    _stopped(receipt["stopped"], console.width) if receipt["stopped"] else None,
                ),
                ("not started", listed(receipt["not_started"])),
                ("kept", kept_table(receipt["kept"])),
                ("elsewhere", _remote(receipt["remote"])),
                ("missing here", "\n".join(receipt["missing_means"])),
            ]
        )
    )


def print_task_stop(console: Console, task: Json, job: Json) -> None:
    """Print how one task was stopped, and what that means for its job."""
    name = pipeline_of(task)
    if task["stopping"]:
        console.print(plain(f"{name} is stopping"), style="bold yellow")
        console.print(f"to see the rest: sluicegate jobs watch {job['job_id']}", style="dim")
        return
    if task["stop"]:
        _print_stopped_task(console, task)
    else:
        console.print(plain(f"{name} ended as {task['status']} before the stop took effect"))
    left = _depends_on(name, job)
    if task["status"] == "cancelled" and left:
        console.print(facts([("does not run", listed(left))]))


# ------------------------------------------------------------------ the header


def headline(job: Json) -> Text:
    """Return a job's name and how it is, in one line."""
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
    table = grid(
        "task", "status", "rows", "took", "note", right=("rows", "took"), fold=("task", "note")
    )
    for step in job["plan"]:
        task = tasks.get(step["pipeline"])
        if task is None:
            table.add_row(plain(step["pipeline"]), state("not started"), "", "", "")
            continue
        table.add_row(
            plain(pipeline_of(task)),
            task_state(task),
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


def _told(receipt: Json) -> Iterator[str]:
    """Yield the sentences that tell the stop."""
    at, reason = local_time(receipt["requested_at"]), receipt["reason"]
    asked = f"{receipt['requested_by']} asked for it at {at}"
    if cause := CAUSES.get(receipt["cause"]):
        asked = f"{cause} at {at}"
    yield f"{asked}: {reason}." if reason else f"{asked}."
    if receipt["escalated_at"]:
        yield f"It was escalated to {receipt['mode']} at {local_time(receipt['escalated_at'])}."
    if receipt["outcome"] == "unconfirmed":
        confirmed = receipt["confirmed_at"]
        yield (
            f"It was confirmed at {local_time(confirmed)}."
            if confirmed
            else "Contact was lost; the stop goes on being tried."
        )
    if receipt["stopped_at"] and not receipt["stopped"]:
        yield "Nothing was running."


def _stopped(stopped: Sequence[Json], width: int) -> Text:
    """One line a task, two where that is too wide, and below it where it hung."""
    from rich.text import Text

    names = max(len(one["pipeline"]) for one in stopped)
    stages = max(len(STAGES.get(one["stage"], one["stage"])) for one in stopped)
    text = Text()
    for one in stopped:
        stage = STAGES.get(one["stage"], one["stage"])
        took = milliseconds(one["latency_ms"])
        if names + stages + STOPPED_OTHERS <= width:
            text.append(f"{one['pipeline']:<{names}}  {stage:<{stages}}  after {took}")
        else:
            text.append(f"{one['pipeline']}\n  {stage} after {took}")
        if killed := one["processes_killed"]:
            text.append(f", {counted(killed, 'process', 'processes')} killed")
        text.append("\n")
        text.append_text(_where(one["where"]))
    text.rstrip()
    return text


def _where(where: Sequence[str]) -> Text:
    """Where a task hung: the innermost calls, in the order of the receipt, which is innermost first."""
    from rich.text import Text

    text, here = Text(), f"{Path.cwd()}/"
    for number, place in enumerate(where[:WHERE_LINES_MAX]):
        how = "called from" if number else "it hung at"
        text.append(f"  {how} {place.removeprefix(here)}\n", style="dim")
    if len(where) > WHERE_LINES_MAX:
        left = counted(len(where) - WHERE_LINES_MAX, "call")
        text.append(f"  … {left} further out\n", style="dim")
    return text


def kept_table(kept: Sequence[Json]) -> Any:
    """Return what was kept as a table; `None` when nothing was."""
    if not kept:
        return None
    table = columns("left", "left", "right")
    for one in kept:
        table.add_row(plain(one["table"]), f"version {one['version']}", counted(one["rows"], "row"))
    return table


def _remote(remote: Sequence[Json]) -> Any:
    """Work elsewhere, and whether it is known to have stopped; `None` when there was none."""
    from rich.text import Text

    if not remote:
        return None
    table = columns("left", "left", "left")
    for one in remote:
        style = "" if one["outcome"] == "confirmed" else "yellow"
        tries = f"after {counted(one['tries'], 'try', 'tries')}"
        table.add_row(plain(one["what"]), Text(one["outcome"], style=style), tries)
    return table


# ------------------------------------------------------------------ one task, and a rollback


def _print_stopped_alone(console: Console, job: Json) -> None:
    """Print the stops of tasks that no receipt of the job tells of: asked for alone, or out of their own time."""
    told = {one["task_id"] for one in (job["cancellation"] or {}).get("stopped", ())}
    for task in job["tasks"]:
        if task["stop"] and task["task_id"] not in told and task["status"] != "success":
            console.print()
            _print_stopped_task(console, task)


def _print_stopped_task(console: Console, task: Json) -> None:
    from rich.text import Text

    stop = task["stop"]
    took, stage = milliseconds(stop["latency_ms"]), STAGES.get(stop["stage"], stop["stage"])
    line = Text("■ ", style="bright_black")
    how = "stopped" if stop["cause"] in CAUSES else "was stopped alone"
    line.append(f"{pipeline_of(task)} {how} in {took}", style="bold")
    line.append(f" ({stage})")
    console.print(line)
    asked = f"{stop['requested_by']} asked for it" if stop["requested_by"] else "It was stopped"
    if cause := CAUSES.get(stop["cause"]):
        asked = cause[0].upper() + cause[1:]
    console.print(plain(f"{asked}: {stop['reason']}." if stop["reason"] else f"{asked}."))
    killed = stop["processes_killed"]
    where = _where(stop["where"])
    where.rstrip()
    if where:
        console.print(where)
    console.print(
        facts(
            [
                ("killed", counted(killed, "process", "processes") if killed else None),
                ("elsewhere", _remote(stop["remote"])),
            ]
        )
    )


def _depends_on(pipeline: str, job: Json) -> list[str]:
    """Return what of the plan waits for a pipeline, directly or not, in plan order."""
    waiting, before = {pipeline}, 0
    while len(waiting) > before:
        before = len(waiting)
        waiting |= {s["pipeline"] for s in job["plan"] if waiting.intersection(s["depends_on"])}
    return [step["pipeline"] for step in job["plan"] if step["pipeline"] in waiting - {pipeline}]


def _print_rollback(console: Console, rollback: Json) -> None:
    from rich.text import Text

    done, at = rollback["finished_at"], local_time(rollback["requested_at"])
    line = Text("↺ ", style="bright_black")
    line.append(
        "rolled back" if done else "being rolled back", style="bold" if done else "bold yellow"
    )
    line.append(f" (asked for at {at} by {rollback['requested_by']})")
    console.print(line)
    if rollback["tables"]:
        console.print(put_back_table(rollback["tables"]))
    else:
        console.print("it had changed no table")


def put_back_table(tables: Sequence[Json]) -> Any:
    """Return the tables of a rollback: what they were, and what they are again."""
    table = columns("left", "left", "left")
    for one in tables:
        to = one["to_version"]
        again = "empty" if to is None else f"as of version {to}"
        table.add_row(plain(one["table"]), f"version {one['from_version']}", f"→ {again}")
    return table
