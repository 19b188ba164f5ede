"""The pictures of a job: live, at its end, and its receipt; and what Ctrl-C does while one is shown."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sluicegate.cli import terminal
from sluicegate.cli.listing import AmbiguousJobError, find_job, jobs_table, short_ids
from sluicegate.cli.progress import Stopper, view
from sluicegate.cli.report import (
    exit_code,
    is_over,
    print_job,
    print_receipt,
    print_task_stop,
)
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


def test_a_place_in_this_folder_is_shown_from_here_and_the_innermost_calls_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it hung is what one looks for; what called it only as far as it helps."""
    monkeypatch.chdir(tmp_path)
    where = [
        f"{tmp_path}/p.py:1 in a",
        "/lib/x.py:2 in b",
        "x.py:3 in c",
        "x.py:4 in d",
        "x.py:5 in e",
    ]
    [stopped] = RECEIPT["stopped"]
    text = printed(print_receipt, RECEIPT | {"stopped": [stopped | {"where": where}]})
    told = [line.strip() for line in text.splitlines()]
    assert "it hung at p.py:1 in a" in told
    assert "called from /lib/x.py:2 in b" in told
    assert "x.py:4" not in text
    assert "… 2 calls further out" in text


@pytest.mark.parametrize("width", [44, 60, 80, 200])
def test_a_narrow_receipt_breaks_names_and_cuts_off_nothing(width: int) -> None:
    """Half an outcome, or half a version, is of no use."""
    name = "silver.a_rather_long_name_of_a_pipeline"
    [stopped] = RECEIPT["stopped"]
    remote = [
        {"what": "bigquery job 0123456789 in europe-west1", "outcome": "unconfirmed", "tries": 7}
    ]
    receipt = RECEIPT | {
        "stopped": [stopped | {"pipeline": name, "stage": "kill", "latency_ms": 15002.0}],
        "remote": remote,
        "kept": [{"table": name, "version": 3, "rows": 12345}],
        "missing_means": ["/proc: children that left the tree may have been missed"],
    }
    put_back = {"table": name, "from_version": 3, "to_version": 2}
    asked = {"requested_at": "2024-05-01T13:00:02.000000Z", "requested_by": "ana"}
    rollback = {**asked, "finished_at": None, "tables": [put_back]}
    text = printed(print_job, job(task(name), cancellation=receipt, rollback=rollback), width=width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    told = text.split()
    for words in ("killed after 15.0 s, 2", "unconfirmed after 7 tries", "12,345 rows", "→ as of"):
        assert all(word in told for word in words.split()), words
    assert "…" not in text


def test_who_stopped_what_is_told_for_each_cause() -> None:
    """A timeout was asked for by nobody; a stop by force was asked for twice."""
    over = RECEIPT | {"cause": "timeout", "reason": "it ran longer than 5 s"}
    text = printed(print_receipt, over)
    assert "its time was over at " in text
    assert "ana asked" not in text
    forced = {"mode": "force", "escalated_at": "2024-05-01T12:00:02.000000Z"}
    assert "It was escalated to force at" in printed(print_receipt, RECEIPT | forced, width=200)
    idle = printed(print_receipt, RECEIPT | {"stopped": []})
    assert "Nothing was running." in idle


def test_a_stop_that_could_not_be_confirmed_says_whether_it_was_later() -> None:
    """Until then, something may run somewhere."""
    unconfirmed = RECEIPT | {"outcome": "unconfirmed"}
    assert "goes on being tried" in printed(print_receipt, unconfirmed, width=200)
    later = {"confirmed_at": "2024-05-01T12:09:00.000000Z"}
    assert "It was confirmed at" in printed(print_receipt, unconfirmed | later, width=200)


STOP: dict[str, Any] = {
    "cause": "user",
    "requested_by": "ana",
    "reason": "too slow",
    "stage": "interrupt",
    "stopped_at": "2024-05-01T12:00:05.000000Z",
    "latency_ms": 512.0,
    "processes_killed": 1,
    "where": ["p.py:3 in b"],
    "remote": [{"what": "query q1", "outcome": "confirmed", "tries": 1}],
}


def test_a_task_that_was_stopped_alone_has_its_own_lines() -> None:
    """No receipt of the job tells of it; one that the job's receipt names is not told twice."""
    alone = task("silver.b", "cancelled", stop=STOP)
    late = STOP | {"cause": "timeout", "requested_by": None, "reason": "it ran longer than 5 s"}
    text = printed(print_job, job(alone, task("silver.d", "failed", stop=late), status="partial"))
    assert "silver.b was stopped alone in 512 ms (interrupted)" in text
    assert "ana asked for it: too slow." in text
    assert "it hung at p.py:3 in b" in text
    assert "query q1  confirmed  after 1 try" in text
    assert "silver.d stopped in 512 ms (interrupted)" in text
    assert "Its time was over: it ran longer than 5 s." in text
    named = job(alone | {"task_id": "t"}, status="cancelled", cancellation=RECEIPT)
    assert "stopped alone" not in printed(print_job, named)


def test_a_stop_of_one_task_says_what_does_not_run() -> None:
    """Directly and not; what does not depend on it goes on."""
    plan = ["silver.b", "gold.c", "gold.d", "gold.e"]
    whole = job(task("silver.b", "cancelled", stop=STOP), plan=plan)
    for step, depends_on in zip(whole["plan"], ([], ["gold.d"], ["silver.b"], []), strict=True):
        step["depends_on"] = depends_on
    text = printed(print_task_stop, whole["tasks"][0], whole)
    assert text.rstrip().endswith("does not run  gold.c, gold.d")
    going = task("silver.b", stopping=True)
    assert "silver.b is stopping" in printed(print_task_stop, going, whole)
    done = task("silver.b", "success")
    assert "ended as success before the stop" in printed(print_task_stop, done, whole)


def test_a_task_that_is_stopping_does_not_look_as_if_it_ran_on() -> None:
    """Who asked for a stop must see that it was heard."""
    text = printed(print_job, job(task("silver.b", stopping=True)))
    assert "■ stopping" in text
    assert "● running" in text  # the job


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
