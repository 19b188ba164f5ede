"""What the API and `--json` show of each record: the contract's names, and nothing private."""

from __future__ import annotations

import json
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
from sluicegate.core.receipt import Kept, Receipt, RemoteStop, StopOutcome, Stopped
from sluicegate.core.resuming import ResumePreview, RunAgain

NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
LATER = NOON + timedelta(seconds=2.5)

RECEIPT = Receipt(
    requested_at=NOON,
    requested_by="ana",
    stopped=(Stopped("t2", "silver.b", "interrupt", 41.0, 2, ("file.py:3 in b",)),),
    remote=(RemoteStop("query q1", "confirmed", 1),),
).closed(LATER, not_started=["gold.c"], kept=[Kept("bronze.a", 3, 10)], outcome=StopOutcome.STOPPED)

JOB = Job(
    job_id="j1",
    job_name="full",
    status=JobStatus.CANCELLED,
    created_at=NOON,
    started_at=NOON,
    total_tasks=3,
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
    inputs=(TaskInput("bronze.a", 3),),
    stats=TaskStats(rows=5, units=1, version=1),
    progress=TaskProgress(1, 2, "files"),
    stop=TaskStop(
        "user",
        "ana",
        None,
        "interrupt",
        LATER,
        41.0,
        remote=(RemoteStop("query q1", "confirmed", 1),),
    ),
)


def test_a_job_has_the_fields_of_the_contract() -> None:
    """Clients are written against these names."""
    shown = render.job_dict(JOB, LATER, 33.3)
    assert set(shown) == {
        *("job_id", "job_name", "status", "stopping", "created_at", "started_at", "completed_at"),
        *("duration_seconds", "total_tasks", "completed_tasks", "failed_tasks", "cancelled_tasks"),
        *("progress_percent", "user_id", "trigger", "params", "labels", "priority"),
        *("timeout_seconds", "resumed_from", "resumed_by", "code_version", "error"),
        *("cancellation", "rollback"),
    }
    assert shown["status"] == "cancelled"
    assert shown["stopping"] is True
    assert shown["rollback"] is None
    assert shown["duration_seconds"] == 2.5


def test_details_add_the_plan_and_the_tasks() -> None:
    """What never started is in the plan, and has no task."""
    plan = Plan((PlanStep("bronze.a"), PlanStep("silver.b", ("bronze.a",))))
    shown = render.job_dict(JOB, LATER, 0.0, JobDetails(JOB, plan, (TASK,)))
    assert shown["plan"][1] == {"pipeline": "silver.b", "depends_on": ["bronze.a"]}
    (task,) = shown["tasks"]
    assert (task["layer"], task["pipeline_name"]) == ("silver", "b")
    assert task["inputs"] == [{"table": "bronze.a", "version": 3}]
    assert task["stats"] == {"rows": 5, "bytes": 0, "files": 0, "units": 1, "version": 1}
    assert task["progress"] == {"done": 1, "total": 2, "unit": "files"}
    assert task["stop"]["stage"] == "interrupt"
    assert task["stop"]["remote"] == [{"what": "query q1", "outcome": "confirmed", "tries": 1}]
    assert task["stopping"] is False
    json.dumps(shown)


def test_a_receipt_tells_what_was_stopped_and_what_was_kept() -> None:
    """The receipt is what people trust a stop by."""
    shown = render.receipt_dict(RECEIPT)
    assert shown["outcome"] == "stopped"
    assert shown["latency_ms"] == 2500.0
    assert shown["not_started"] == ["gold.c"]
    assert shown["kept"] == [{"table": "bronze.a", "version": 3, "rows": 10}]
    assert shown["stopped"][0]["where"] == ["file.py:3 in b"]
    assert shown["remote"] == [{"what": "query q1", "outcome": "confirmed", "tries": 1}]
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
    done = render.rolled_back_dict("j1", tables, LATER)
    assert done["tables"] == shown["tables"]
    assert done["rolled_back_at"] == "2024-05-01T12:00:02.500000Z"


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


def test_instants_are_utc_and_sort_as_text() -> None:
    """A client compares them without parsing."""
    abroad = NOON.astimezone(timezone(timedelta(hours=5)))
    assert render.instant(abroad) == "2024-05-01T12:00:00.000000Z"
    assert render.instant(NOON) < (render.instant(NOON + timedelta(microseconds=1)) or "")
    assert render.instant(None) is None


def test_a_key_is_shown_without_its_hash() -> None:
    """Not even an administrator needs the hash."""
    shown = render.key_dict(ApiKey("ci", "operator", "secret-hash", NOON))
    assert "secret-hash" not in json.dumps(shown)
    assert set(shown) == {"name", "role", "created_at", "revoked_at"}


def test_lines_and_events_keep_their_ids() -> None:
    """Ids are how a reader goes on where it stopped."""
    line = render.log_dict(LogEntry("j1", NOON, "hello", task_id="t2", log_id=7))
    assert (line["log_id"], line["task_id"], line["message"]) == (7, "t2", "hello")
    event = render.event_dict(Event("task.started", "j1", NOON, data={"attempt": 1}, event_id=9))
    assert (event["event_id"], event["data"]) == (9, {"attempt": 1})


def test_a_preview_names_what_would_stop() -> None:
    """It is asked before a stop, so it must be plain JSON as well."""
    preview = StopPreview((TASK,), ("gold.c",), (Kept("bronze.a", 3, 10),), {"t2": None}, None)
    shown = render.preview_dict(preview)
    assert shown["running"] == [{"task_id": "t2", "pipeline": "silver.b", "expected_stop_ms": None}]
    assert shown["not_started"] == ["gold.c"]
