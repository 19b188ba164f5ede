"""Jobs in a list, and finding one of them, or one of its tasks, by what a person typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

from sluicegate.errors import SluicegateError

if TYPE_CHECKING:
    from sluicegate.cli.backend import Backend

ID_LENGTH: Final = 36
NEWEST: Final = 500
STATUSES: Final = ("pending", "running", "success", "failed", "partial", "cancelled")
WIDE: Final = 110


class AmbiguousJobError(SluicegateError):
    """Several recent jobs begin with what was given."""

    code = "job_ambiguous"


def check_statuses(given: Sequence[str] | None) -> None:
    """Raise a usage error for a status that there is not."""
    for one in given or ():
        if one not in STATUSES:
            raise typer.BadParameter(f"there is no status {one!r}: {', '.join(STATUSES)}")


def check_labels(given: Sequence[str] | None) -> None:
    """Raise a usage error for what is no label."""
    for one in given or ():
        if not one.partition(":")[0] or ":" not in one:
            raise typer.BadParameter(f"a label is written K:V, got {one!r}")


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


def find_task(job: Mapping[str, Any], given: str) -> str:
    """Return the id of a task by its id or its pipeline's. Raises: `TaskNotFoundError`."""
    from sluicegate.cli.report import pipeline_of
    from sluicegate.core.job import TaskNotFoundError

    for task in job["tasks"]:
        if given in (task["task_id"], pipeline_of(task)):
            return str(task["task_id"])
    raise TaskNotFoundError(job["job_id"], given)


def jobs_table(jobs: list[dict[str, Any]], width: int) -> Any:
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
