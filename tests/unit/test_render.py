"""What the API and `--json` show of each record: the contract's names, and nothing private."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from sluicegate.core import render
from sluicegate.core.job import (
    ApiKey,
    Event,
    Job,
    JobStatus,
    LogEntry,
    Rollback,
    TableRollback,
    TaskInput,
    TaskProgress,
    TaskRecord,
    TaskStats,
    TaskStatus,
    TaskStop,
    TaskStopRequest,
)
from sluicegate.core.job_manager import JobDetails, ManyStopped, StopPreview, StopResult
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.ports import Vacuumed
from sluicegate.core.pruning import KeptFor, Pruned, TablePruned
from sluicegate.core.receipt import Cause, Kept, Receipt, RemoteStop, StopOutcome, Stopped
from sluicegate.core.resuming import ResumePreview, RunAgain
from sluicegate.spec import PipelineSpec

# Every field has a value of its own, so that none can stand in the place of another.
MORNING = datetime(2024, 5, 1, 8, 0, tzinfo=UTC)
NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
LATER = NOON + timedelta(seconds=2.5)
MUCH_LATER = NOON + timedelta(hours=1)

RECEIPT = Receipt(
    requested_at=NOON,
    requested_by="ana",
    cause=Cause.TIMEOUT,
    reason="too slow",
    mode="force",
    escalated_at=NOON + timedelta(seconds=1),
    stopped=(Stopped("t2", "silver.b", "interrupt", 41.0, 2, ("file.py:3 in b",)),),
    remote=(RemoteStop("query q1", "confirmed", 1),),
    confirmed_at=MUCH_LATER,
    missing_means=("subreaper",),
).closed(
    LATER,
    not_started=["gold.c"],
    kept=[Kept("bronze.a", 3, 10)],
    outcome=StopOutcome.UNCONFIRMED,
)

JOB = Job(
    job_id="j1",
    job_name="full",
    status=JobStatus.CANCELLED,
    created_at=MORNING,
    started_at=NOON,
    total_tasks=9,
    completed_tasks=4,
    failed_tasks=3,
    cancelled_tasks=2,
    user_id="bob",
    trigger="cli",
    params={"year": 2013},
    labels={"team": "core"},
    priority=5,
    timeout_seconds=60.0,
    resumed_from="j0",
    resumed_by="j2",
    code_version="b3015e5727c8",
    error="bronze.w failed",
    cancellation=RECEIPT,
)
RUNNING = replace(JOB, status=JobStatus.RUNNING, cancellation=None)
ALONE = replace(RUNNING, task_stops={"t2": TaskStopRequest(NOON, "ana")})
TASK = TaskRecord(
    task_id="t2",
    job_id="j1",
    pipeline="silver.b",
    status=TaskStatus.CANCELLED,
    started_at=NOON,
    completed_at=LATER,
    attempt=2,
    message="halfway",
    error="it hung",
    inputs=(TaskInput("bronze.a", 3),),
    stats=TaskStats(rows=5, bytes=798, files=4, units=1, version=0),
    progress=TaskProgress(1, 2, "files"),
    stop=TaskStop(
        "user",
        "ana",
        "too slow",
        "interrupt",
        LATER,
        41.0,
        processes_killed=3,
        where=("file.py:3 in b",),
        remote=(RemoteStop("query q1", "confirmed", 1),),
    ),
)
TASK_FACTS = {
    "task_id": "t2",
    "pipeline_name": "b",
    "layer": "silver",
    "status": "cancelled",
    "attempt": 2,
    "started_at": "2024-05-01T12:00:00.000000Z",
    "completed_at": "2024-05-01T12:00:02.500000Z",
    "duration_seconds": 2.5,
    "message": "halfway",
    "error": "it hung",
    "inputs": [{"table": "bronze.a", "version": 3}],
    "stats": {"rows": 5, "bytes": 798, "files": 4, "units": 1, "version": 0},
    "progress": {"done": 1, "total": 2, "unit": "files"},
    "stop": {
        "cause": "user",
        "requested_by": "ana",
        "reason": "too slow",
        "stage": "interrupt",
        "stopped_at": "2024-05-01T12:00:02.500000Z",
        "latency_ms": 41.0,
        "processes_killed": 3,
        "where": ["file.py:3 in b"],
        "remote": [{"what": "query q1", "outcome": "confirmed", "tries": 1}],
    },
}


def test_a_job_has_the_fields_of_the_contract() -> None:
    """Clients are written against these names."""
    shown = render.job_dict(JOB, LATER, 33.3)
    assert shown == {
        "job_id": "j1",
        "job_name": "full",
        "status": "cancelled",
        "stopping": True,
        "created_at": "2024-05-01T08:00:00.000000Z",
        "started_at": "2024-05-01T12:00:00.000000Z",
        "completed_at": None,
        "duration_seconds": 2.5,
        "total_tasks": 9,
        "completed_tasks": 4,
        "failed_tasks": 3,
        "cancelled_tasks": 2,
        "progress_percent": 33.3,
        "user_id": "bob",
        "trigger": "cli",
        "params": {"year": 2013},
        "labels": {"team": "core"},
        "priority": 5,
        "timeout_seconds": 60.0,
        "resumed_from": "j0",
        "resumed_by": "j2",
        "code_version": "b3015e5727c8",
        "error": "bronze.w failed",
        "cancellation": render.receipt_dict(RECEIPT),
        "rollback": None,
    }


def test_a_job_that_nobody_stopped_has_no_receipt() -> None:
    """An empty receipt would read as a stop."""
    assert render.job_dict(RUNNING, LATER, 0.0)["cancellation"] is None


def test_a_duration_counts_from_the_start_to_the_end() -> None:
    """What waits has none yet; what has ended does not go on counting."""
    waiting = replace(RUNNING, status=JobStatus.PENDING, started_at=None)
    assert render.job_dict(waiting, LATER, 0.0)["duration_seconds"] is None
    now = NOON + timedelta(seconds=1.23456)
    assert render.job_dict(RUNNING, now, 0.0)["duration_seconds"] == 1.235
    over = render.job_dict(replace(JOB, completed_at=LATER), MUCH_LATER, 100.0)
    assert (over["completed_at"], over["duration_seconds"]) == ("2024-05-01T12:00:02.500000Z", 2.5)
    running = replace(TASK, status=TaskStatus.RUNNING, completed_at=None)
    details = JobDetails(RUNNING, Plan(()), (running,))
    (task,) = render.job_dict(RUNNING, now, 0.0, details)["tasks"]
    assert (task["completed_at"], task["duration_seconds"]) == (None, 1.235)


def test_details_add_the_plan_and_the_tasks() -> None:
    """What never started is in the plan, and has no task."""
    plan = Plan((PlanStep("bronze.a"), PlanStep("silver.b", ("bronze.a",))))
    shown = render.job_dict(JOB, LATER, 0.0, JobDetails(JOB, plan, (TASK,)))
    assert shown["plan"] == [
        {"pipeline": "bronze.a", "depends_on": []},
        {"pipeline": "silver.b", "depends_on": ["bronze.a"]},
    ]
    assert shown["tasks"] == [{**TASK_FACTS, "stopping": False}]
    json.dumps(shown)


def test_a_task_that_told_no_progress_and_was_not_stopped_shows_neither() -> None:
    """Zeros or an empty stop would say something that never was."""
    shown = render.task_dict(replace(TASK, progress=None, stop=None), RUNNING, LATER)
    assert (shown["progress"], shown["stop"]) == (None, None)


def test_a_receipt_tells_what_was_stopped_and_what_was_kept() -> None:
    """The receipt is what people trust a stop by."""
    shown = render.receipt_dict(RECEIPT)
    assert shown == {
        "requested_at": "2024-05-01T12:00:00.000000Z",
        "requested_by": "ana",
        "cause": "timeout",
        "reason": "too slow",
        "mode": "force",
        "escalated_at": "2024-05-01T12:00:01.000000Z",
        "stopped_at": "2024-05-01T12:00:02.500000Z",
        "latency_ms": 2500.0,
        "not_started": ["gold.c"],
        "kept": [{"table": "bronze.a", "version": 3, "rows": 10}],
        "stopped": [
            {
                "task_id": "t2",
                "pipeline": "silver.b",
                "stage": "interrupt",
                "latency_ms": 41.0,
                "processes_killed": 2,
                "where": ["file.py:3 in b"],
            }
        ],
        "remote": [{"what": "query q1", "outcome": "confirmed", "tries": 1}],
        "outcome": "unconfirmed",
        "confirmed_at": "2024-05-01T13:00:00.000000Z",
        "missing_means": ["subreaper"],
    }
    json.dumps(shown)


def test_a_stop_that_is_not_over_has_no_outcome_yet() -> None:
    """Nobody may take a stop for done while something runs."""
    shown = render.receipt_dict(Receipt(NOON, "ana"))
    assert (shown["stopped_at"], shown["latency_ms"], shown["outcome"]) == (None, None, None)
    assert (shown["confirmed_at"], shown["missing_means"]) == (None, [])


@pytest.mark.parametrize(
    ("status", "job", "stopping"),
    [
        (TaskStatus.RUNNING, RUNNING, False),
        (TaskStatus.RUNNING, ALONE, True),
        (TaskStatus.PENDING, ALONE, True),
        (TaskStatus.SUCCESS, ALONE, False),
        (TaskStatus.RUNNING, JOB, True),
        (TaskStatus.PENDING, JOB, False),
        (TaskStatus.CANCELLED, JOB, False),
        (TaskStatus.RUNNING, replace(JOB, completed_at=LATER), True),  # it could not be confirmed
    ],
)
def test_a_task_is_stopping_alone_or_with_its_job(
    status: TaskStatus, job: Job, stopping: bool
) -> None:
    """The page offers to stop it by force only while that can help."""
    assert render.task_dict(replace(TASK, status=status), job, LATER)["stopping"] is stopping


def test_a_rollback_names_its_tables_and_what_they_went_back_to() -> None:
    """A table that the job created has no version to go back to: it becomes empty."""
    tables = (TableRollback("bronze.a", 3, 2), TableRollback("silver.b", 0, None))
    going_on = Rollback("r1", NOON, "ana", tables)
    shown = render.job_dict(replace(JOB, rollback=going_on), LATER, 0.0)["rollback"]
    assert (shown["requested_at"], shown["requested_by"]) == ("2024-05-01T12:00:00.000000Z", "ana")
    assert shown["finished_at"] is None
    assert shown["tables"] == [
        {"table": "bronze.a", "from_version": 3, "to_version": 2},
        {"table": "silver.b", "from_version": 0, "to_version": None},
    ]
    done = replace(going_on, finished_at=LATER)
    assert render.rollback_dict(done)["finished_at"] == "2024-05-01T12:00:02.500000Z"
    assert render.rolled_back_dict("j1", tables, LATER) == {
        "job_id": "j1",
        "tables": shown["tables"],
        "rolled_back_at": "2024-05-01T12:00:02.500000Z",
    }
    assert render.rolled_back_dict("j1", tables, None)["rolled_back_at"] is None


def test_a_stop_of_many_counts_what_it_stopped_and_a_dry_run_nothing() -> None:
    """Who reads `cancelled: 2` in a dry run would believe it."""
    stopped = ManyStopped((("j1", StopResult.CANCELLED), ("j2", StopResult.NOT_FOUND)))
    shown = render.many_dict(stopped)
    assert (shown["matched"], shown["cancelled"], "match_token" in shown) == (2, 1, False)
    assert shown["results"][1] == {"job_id": "j2", "outcome": "job_not_found"}
    preview = render.many_dict(stopped, "m1.")
    assert (preview["cancelled"], preview["match_token"]) == (0, "m1.")
    assert preview["results"] == shown["results"]


def test_a_resume_says_what_goes_on_and_what_starts_over() -> None:
    """`after` is what makes the difference between a minute and an hour."""
    preview = ResumePreview(
        kept=(Kept("bronze.a", 3, 10),),
        runs=(RunAgain("bronze.w", Kept("bronze.w", 7, 5)), RunAgain("silver.b")),
    )
    assert render.resume_dict("j1", preview) == {
        "job_id": "j1",
        "kept": [{"table": "bronze.a", "version": 3, "rows": 10}],
        "runs": [
            {"pipeline": "bronze.w", "after": {"table": "bronze.w", "version": 7, "rows": 5}},
            {"pipeline": "silver.b", "after": None},
        ],
    }


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine lives five hours east of Greenwich."""
    with monkeypatch.context() as there:
        there.setenv("TZ", "FAR-5")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_instants_are_utc_and_sort_as_text() -> None:
    """A client compares them without parsing, wherever it and the server live."""
    abroad = NOON.astimezone(timezone(timedelta(hours=5)))
    assert render.instant(abroad) == "2024-05-01T12:00:00.000000Z"
    assert render.instant(NOON) < (render.instant(NOON + timedelta(microseconds=1)) or "")
    assert render.instant(None) is None


def test_a_key_is_shown_without_its_hash() -> None:
    """Not even an administrator needs the hash."""
    assert render.key_dict(ApiKey("ci", "operator", "secret-hash", NOON, LATER)) == {
        "name": "ci",
        "role": "operator",
        "created_at": "2024-05-01T12:00:00.000000Z",
        "revoked_at": "2024-05-01T12:00:02.500000Z",
    }


def test_lines_and_events_keep_their_ids() -> None:
    """Ids are how a reader goes on where it stopped."""
    line = LogEntry("j1", NOON, "hello", task_id="t2", level="error", stream="stderr", log_id=7)
    assert render.log_dict(line) == {
        "log_id": 7,
        "at": "2024-05-01T12:00:00.000000Z",
        "level": "error",
        "stream": "stderr",
        "task_id": "t2",
        "message": "hello",
    }
    event = Event("task.started", "j1", NOON, task_id="t2", data={"attempt": 1}, event_id=9)
    assert render.event_dict(event) == {
        "event_id": 9,
        "type": "task.started",
        "job_id": "j1",
        "task_id": "t2",
        "at": "2024-05-01T12:00:00.000000Z",
        "data": {"attempt": 1},
    }


def test_a_preview_names_what_would_stop() -> None:
    """A figure that nothing was observed for is none, never 0."""
    other = replace(TASK, task_id="t3", pipeline="silver.d")
    preview = StopPreview(
        running=(TASK, other),
        not_started=("gold.c",),
        kept=(Kept("bronze.a", 3, 10),),
        expected_stop_ms={"t2": 120.0},
        lost_work_seconds=8.5,
    )
    shown = render.preview_dict(preview)
    assert shown == {
        "running": [
            {"task_id": "t2", "pipeline": "silver.b", "expected_stop_ms": 120.0},
            {"task_id": "t3", "pipeline": "silver.d", "expected_stop_ms": None},
        ],
        "not_started": ["gold.c"],
        "kept": [{"table": "bronze.a", "version": 3, "rows": 10}],
        "lost_work_seconds": 8.5,
    }
    json.dumps(shown)


def test_a_step_of_a_prune_counts_what_went_and_says_why_jobs_stay() -> None:
    """Who prunes must see what was left alone, and where to go on."""
    step = Pruned(
        jobs=12,
        kept={KeptFor.RESUMABLE: 2, KeptFor.ROLLBACK: 4},
        tables=(
            TablePruned("bronze.a", Vacuumed(files=3, bytes=4170)),
            TablePruned("bronze.w", Vacuumed(0, 0), is_strange=True),
        ),
        cursor="tables:bronze.w",
    )
    shown = render.pruned_dict(step)
    assert shown == {
        "jobs": 12,
        "kept": {"resumable": 2, "rollback": 4},
        "tables": [
            {"table": "bronze.a", "files": 3, "bytes": 4170, "is_strange": False},
            {"table": "bronze.w", "files": 0, "bytes": 0, "is_strange": True},
        ],
        "cursor": "tables:bronze.w",
    }
    json.dumps(shown)


def test_a_pipeline_is_shown_as_declared_with_its_last_task() -> None:
    """The page's Pipelines tab is made of nothing else."""
    spec = PipelineSpec(
        pipeline_id="silver.b",
        layer="silver",
        name="b",
        kind="sql",
        depends_on=("bronze.a",),
        mode="merge",
        keys=("id",),
        files="weather/*.csv",
        doc="Cleans a.",
        source="select * from bronze.a",
        file="pipelines.py",
        line=12,
    )
    shown = render.pipeline_dict(spec, TASK, MUCH_LATER)
    assert shown == {
        "pipeline": "silver.b",
        "layer": "silver",
        "name": "b",
        "depends_on": ["bronze.a"],
        "kind": "sql",
        "table": "silver.b",
        "mode": "merge",
        "keys": ["id"],
        "files": "weather/*.csv",
        "doc": "Cleans a.",
        "source": "select * from bronze.a",
        "file": "pipelines.py",
        "line": 12,
        "last_task": {**TASK_FACTS, "job_id": "j1"},
    }
    json.dumps(shown)
    running = replace(TASK, status=TaskStatus.RUNNING, completed_at=None)
    assert render.pipeline_dict(spec, running, LATER)["last_task"]["duration_seconds"] == 2.5


def test_a_command_has_no_table_and_what_never_ran_no_task() -> None:
    """The page links a table only where there can be one."""
    shown = render.pipeline_dict(PipelineSpec("gold.c", "gold", "c", "command"), None, NOON)
    assert (shown["kind"], shown["table"], shown["last_task"]) == ("command", None, None)
