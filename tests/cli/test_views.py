"""The pictures of a job: live, at its end, and its receipt; and what Ctrl-C does while one is shown."""

from __future__ import annotations

import io
import os
import signal
from typing import Any

import pytest
from rich.console import Console

from sluicegate.cli import terminal
from sluicegate.cli.listing import AmbiguousJobError, find_job, jobs_table, short_ids
from sluicegate.cli.progress import Stopper, view
from sluicegate.cli.report import exit_code, is_over, print_job, print_receipt
from sluicegate.cli.run import parse_params
from sluicegate.core.job import JobNotFoundError, JobNotRunningError, JobStatus


def task(pipeline: str, status: str = "running", **changes: Any) -> dict[str, Any]:
    layer, _, name = pipeline.partition(".")
    return {
        "task_id": f"t-{pipeline}",
        "pipeline_name": name,
        "layer": layer,
        "status": status,
        "attempt": 1,
        "started_at": "2024-05-01T12:00:00.000000Z",
        "completed_at": None,
        "duration_seconds": 2.0,
        "message": None,
        "error": None,
        "inputs": [],
        "stats": {"rows": 0, "bytes": 0, "files": 0, "units": 0, "version": None},
        "progress": None,
        "stop": None,
        "stopping": False,
    } | changes


def job(*tasks: dict[str, Any], plan: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    names = plan or [f"{one['layer']}.{one['pipeline_name']}" for one in tasks]
    return {
        "job_id": "01a20495-c08e-7b91-a81a-1b0adcd947e6",
        "job_name": "full pipeline",
        "status": "running",
        "stopping": False,
        "created_at": "2024-05-01T12:00:00.000000Z",
        "started_at": "2024-05-01T12:00:00.000000Z",
        "completed_at": None,
        "duration_seconds": 2.0,
        "total_tasks": len(names),
        "completed_tasks": 0,
        "failed_tasks": 0,
        "cancelled_tasks": 0,
        "progress_percent": 0.0,
        "user_id": "ana",
        "trigger": "cli",
        "params": {},
        "labels": {},
        "priority": 0,
        "timeout_seconds": None,
        "resumed_from": None,
        "resumed_by": None,
        "code_version": None,
        "error": None,
        "cancellation": None,
        "rollback": None,
        "plan": [{"pipeline": name, "depends_on": []} for name in names],
        "tasks": list(tasks),
    } | changes


RECEIPT: dict[str, Any] = {
    "requested_at": "2024-05-01T12:00:00.000000Z",
    "requested_by": "ana",
    "cause": "user",
    "reason": "wrong [day]",
    "mode": "graceful",
    "escalated_at": None,
    "stopped_at": "2024-05-01T12:00:05.000000Z",
    "latency_ms": 5009.0,
    "not_started": ["gold.c"],
    "kept": [{"table": "bronze.a", "version": 3, "rows": 1}],
    "stopped": [
        {
            "task_id": "t",
            "pipeline": "silver.b",
            "stage": "interrupt",
            "latency_ms": 5002.0,
            "processes_killed": 2,
            "where": ["pipelines.py:20 in b"],
        }
    ],
    "remote": [],
    "outcome": "stopped",
    "confirmed_at": None,
    "missing_means": [],
}


def drawn(thing: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, emoji=False)
    console.print(thing)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def printed(print_it: Any, *arguments: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, emoji=False)
    print_it(console, *arguments)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_live_picture_fits_into_the_terminal(width: int) -> None:
    """A line too wide would break the picture each time that it is drawn again."""
    tasks = [
        task(f"bronze.a_rather_long_name_{n}", progress={"done": n, "total": 9, "unit": "files"})
        for n in range(5)
    ]
    shown = view(job(*tasks), width, 24, "Ctrl-C stops it")
    lines = drawn(shown, width).splitlines()
    assert max(len(line) for line in lines) <= width
    assert len(lines) == 6


def test_many_tasks_are_shown_by_what_runs() -> None:
    """A plan of hundreds must leave the terminal readable."""
    plan = [f"bronze.p{n}" for n in range(300)]
    ended = [task(name, "success") for name in plan[:100]]
    shown = view(
        job(*ended, task("bronze.p100"), plan=plan, completed_tasks=100), 80, 24, "Ctrl-C stops it"
    )
    text = drawn(shown)
    assert "bronze.p100" in text
    assert "bronze.p5 " not in text
    assert "100 of 300 tasks · 1 running" in text


def test_a_receipt_reads_as_a_person_would_tell_it() -> None:
    """Who, why, what stopped, how fast, where it hung, and what was kept."""
    text = printed(print_receipt, RECEIPT)
    assert "stopped in 5.0 s (graceful)" in text
    assert "ana asked for it at " in text
    assert ": wrong [day].\n" in text
    assert "silver.b  interrupted  after 5.0 s, 2 processes killed" in text
    assert "it hung at pipelines.py:20 in b" in text
    assert "gold.c" in text
    assert "version 3  1 row" in text


def test_a_stop_that_goes_on_says_so() -> None:
    """Nobody should read a receipt that is not closed as done."""
    open_receipt = RECEIPT | {"stopped_at": None, "latency_ms": None, "outcome": None}
    assert "stopping" in printed(print_receipt, open_receipt | {"stopped": []})
    unconfirmed = printed(print_receipt, RECEIPT | {"outcome": "unconfirmed"})
    assert "could be confirmed" in unconfirmed


def test_a_failed_task_shows_its_error_and_what_never_started() -> None:
    """The error is what a person looks for first."""
    failed = task("bronze.a", "failed", error="ValueError: no [day]\n  p.py:3 in a: raise")
    ended = job(failed, plan=["bronze.a", "gold.c"], status="failed", failed_tasks=1)
    text = printed(print_job, ended)
    assert "bronze.a: ValueError: no [day]" in text
    assert "p.py:3 in a: raise" in text
    assert "· not started" in text


def test_exit_codes_follow_the_status() -> None:
    """Scripts decide by these."""
    codes = {status.value: exit_code({"status": status.value}) for status in JobStatus}
    assert codes["success"] == 0
    assert codes["failed"] == codes["partial"] == 1
    assert codes["cancelled"] == 130


def test_a_job_that_is_stopping_is_not_over() -> None:
    """`cancelled` is decided at once; the tasks take their time."""
    assert not is_over({"status": "cancelled", "completed_at": None})
    assert is_over({"status": "cancelled", "completed_at": "2024-05-01T12:00:05.000000Z"})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.0424, "42 ms"),
        (1.0, "1.0 s"),
        (59.96, "1 m 00 s"),
        (125.0, "2 m 05 s"),
        (3600.0, "1 h 00 m"),
        (200000.0, "2 d 7 h"),
    ],
)
def test_durations_have_at_most_two_units(seconds: float | None, text: str) -> None:
    """Nobody reads 200000.0 seconds."""
    assert terminal.duration(seconds) == text


def test_parameters_are_json_or_text() -> None:
    """Numbers and lists need no quotes that a shell would eat."""
    assert parse_params(["a=1", "b=x=y", 'c=["d"]', "e="]) == {
        "a": 1,
        "b": "x=y",
        "c": ["d"],
        "e": "",
    }


class FakeJobs:
    """A backend of which only the history and the stop are used."""

    def __init__(self, *job_ids: str, over: bool = False) -> None:
        self.job_ids, self.over = job_ids, over
        self.cancelled: list[tuple[str, str]] = []

    def list(self, query: dict[str, Any]) -> dict[str, Any]:
        return {"jobs": [{"job_id": one, "job_name": "n"} for one in self.job_ids]}

    def cancel(self, job_id: str, *, reason: str | None, mode: str) -> dict[str, Any]:
        if self.over:
            raise JobNotRunningError(job_id, JobStatus.SUCCESS)
        self.cancelled.append((job_id, mode))
        return {}


def test_a_prefix_names_a_job_when_only_one_begins_so() -> None:
    """Ids are long, and what people copy is short."""
    jobs: Any = FakeJobs("aaaa-1", "aaaa-2", "bbbb-1")
    assert find_job(jobs, "BBBB") == "bbbb-1"
    with pytest.raises(AmbiguousJobError, match="2 jobs begin with 'aaaa'"):
        find_job(jobs, "aaaa")
    with pytest.raises(JobNotFoundError):
        find_job(jobs, "cccc")
    with pytest.raises(JobNotFoundError):
        find_job(jobs, "")


def test_listed_ids_are_short_and_tell_the_jobs_apart() -> None:
    """What the list shows must be good to type."""
    first, second = "01a20495-c08e-7b91-a81a-1b0adcd947e6", "01a20497-3ae6-7232-9b8c-9927db7654de"
    assert short_ids([first, second]) == ["01a20495-c08e", "01a20497-3ae6"]
    assert short_ids([first, first[:14] + second[14:]])[0] == first[:18]


def test_a_narrow_history_cuts_off_names_and_nothing_else() -> None:
    """Half an id, or half a status, is of no use."""
    long = job(job_name="a job with a name that goes on and on and on for ever", status="cancelled")
    text = drawn(jobs_table([long], 80))
    assert "01a20495-c08e" in text
    assert "■ cancelled" in text
    assert "CREATED" in text
    assert "2.0 s" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_ctrl_c_stops_then_forces_then_leaves() -> None:
    """Each press means more; the handler itself only counts."""
    jobs: Any = FakeJobs()
    stopper = Stopper(jobs, "j1")
    before = signal.getsignal(signal.SIGINT)
    stopper.act()
    assert jobs.cancelled == []
    with stopper.listening():
        os.kill(os.getpid(), signal.SIGINT)
        stopper.act()
        stopper.act()
        assert jobs.cancelled == [("j1", "graceful")]
        assert "again stops it by force" in stopper.hint
        os.kill(os.getpid(), signal.SIGINT)
        stopper.act()
        assert jobs.cancelled[-1] == ("j1", "force")
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            stopper.act()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_after_the_end_is_no_error() -> None:
    """A job may end between the press and the stop."""
    jobs: Any = FakeJobs(over=True)
    stopper = Stopper(jobs, "j1")
    with stopper.listening():
        os.kill(os.getpid(), signal.SIGINT)
        stopper.act()
