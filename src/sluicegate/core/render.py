"""Records as the JSON values of the HTTP API (contract, section 4). Pure; no other imports.

Routes and commands both render here, so that a job reads the same wherever it is asked for.
Times are RFC 3339 in UTC with microseconds and `Z`: text of one width that sorts like the instants.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sluicegate.core.job import (
    ApiKey,
    Event,
    Job,
    JobStatus,
    LogEntry,
    Rollback,
    TableRollback,
    TaskProgress,
    TaskRecord,
    TaskStats,
    TaskStatus,
    TaskStop,
)
from sluicegate.core.receipt import Kept, Receipt, RemoteStop, Stopped

if TYPE_CHECKING:
    from sluicegate.core.job_manager import JobDetails, ManyStopped, StopPreview
    from sluicegate.core.pruning import Pruned
    from sluicegate.core.resuming import ResumePreview
    from sluicegate.spec import PipelineSpec


def job_dict(
    job: Job, now: datetime, progress_percent: float, details: JobDetails | None = None
) -> dict[str, Any]:
    """Return a job; with `details` also its `plan` and `tasks`."""
    shown: dict[str, Any] = {
        "job_id": job.job_id,
        "job_name": job.job_name,
        "status": job.status.value,
        "stopping": job.stopping,
        "created_at": instant(job.created_at),
        "started_at": instant(job.started_at),
        "completed_at": instant(job.completed_at),
        "duration_seconds": _rounded(job.duration_seconds(now)),
        "total_tasks": job.total_tasks,
        "completed_tasks": job.completed_tasks,
        "failed_tasks": job.failed_tasks,
        "cancelled_tasks": job.cancelled_tasks,
        "progress_percent": progress_percent,
        "user_id": job.user_id,
        "trigger": job.trigger,
        "params": dict(job.params),
        "labels": dict(job.labels),
        "priority": job.priority,
        "timeout_seconds": job.timeout_seconds,
        "resumed_from": job.resumed_from,
        "resumed_by": job.resumed_by,
        "code_version": job.code_version,
        "error": job.error,
        "cancellation": None if job.cancellation is None else receipt_dict(job.cancellation),
        "rollback": None if job.rollback is None else rollback_dict(job.rollback),
    }
    if details is not None:
        shown["plan"] = [
            {"pipeline": step.pipeline, "depends_on": list(step.depends_on)}
            for step in details.plan.steps
        ]
        shown["tasks"] = [task_dict(task, job, now) for task in details.tasks]
    return shown


def task_dict(task: TaskRecord, job: Job, now: datetime) -> dict[str, Any]:
    """Return one task of a job."""
    stopped_alone = task.task_id in job.task_stops and not task.is_terminal
    # One that could not be confirmed runs on after its job is over, and is still being stopped.
    with_its_job = task.status is TaskStatus.RUNNING and job.status is JobStatus.CANCELLED
    return {**_task_facts(task, now), "stopping": stopped_alone or with_its_job}


def _task_facts(task: TaskRecord, now: datetime) -> dict[str, Any]:
    """Return what a task knows by itself."""
    return {
        "task_id": task.task_id,
        "pipeline_name": task.pipeline_name,
        "layer": task.layer,
        "status": task.status.value,
        "attempt": task.attempt,
        "started_at": instant(task.started_at),
        "completed_at": instant(task.completed_at),
        "duration_seconds": _rounded(task.duration_seconds(now)),
        "message": task.message,
        "error": task.error,
        "inputs": [{"table": one.table, "version": one.version} for one in task.inputs],
        "stats": stats_dict(task.stats),
        "progress": None if task.progress is None else progress_dict(task.progress),
        "stop": None if task.stop is None else stop_dict(task.stop),
    }


def stats_dict(stats: TaskStats) -> dict[str, Any]:
    """Return what a task has committed."""
    return {
        "rows": stats.rows,
        "bytes": stats.bytes,
        "files": stats.files,
        "units": stats.units,
        "version": stats.version,
    }


def progress_dict(progress: TaskProgress) -> dict[str, Any]:
    """Return how far a task says it is."""
    return {"done": progress.done, "total": progress.total, "unit": progress.unit}


def stop_dict(stop: TaskStop) -> dict[str, Any]:
    """Return how one task was stopped."""
    return {
        "cause": stop.cause,
        "requested_by": stop.requested_by,
        "reason": stop.reason,
        "stage": stop.stage,
        "stopped_at": instant(stop.stopped_at),
        "latency_ms": stop.latency_ms,
        "processes_killed": stop.processes_killed,
        "where": list(stop.where),
        "remote": [remote_dict(one) for one in stop.remote],
    }


def receipt_dict(receipt: Receipt) -> dict[str, Any]:
    """Return the receipt of a stop, as far as it is known."""
    return {
        "requested_at": instant(receipt.requested_at),
        "requested_by": receipt.requested_by,
        "cause": receipt.cause.value,
        "reason": receipt.reason,
        "mode": receipt.mode,
        "escalated_at": instant(receipt.escalated_at),
        "stopped_at": instant(receipt.stopped_at),
        "latency_ms": receipt.latency_ms,
        "not_started": list(receipt.not_started),
        "kept": [kept_dict(kept) for kept in receipt.kept],
        "stopped": [_stopped_dict(stopped) for stopped in receipt.stopped],
        "remote": [remote_dict(one) for one in receipt.remote],
        "outcome": None if receipt.outcome is None else receipt.outcome.value,
        "confirmed_at": instant(receipt.confirmed_at),
        "missing_means": list(receipt.missing_means),
    }


def remote_dict(remote: RemoteStop) -> dict[str, Any]:
    """Return work elsewhere that was asked to stop."""
    return {"what": remote.what, "outcome": remote.outcome, "tries": remote.tries}


def kept_dict(kept: Kept) -> dict[str, Any]:
    """Return a table that holds what the job published."""
    return {"table": kept.table, "version": kept.version, "rows": kept.rows}


def rollback_dict(rollback: Rollback) -> dict[str, Any]:
    """Return that a job was taken back, or is being taken back."""
    return {
        "requested_at": instant(rollback.requested_at),
        "requested_by": rollback.requested_by,
        "finished_at": instant(rollback.finished_at),
        "tables": [_put_back_dict(table) for table in rollback.tables],
    }


def rolled_back_dict(
    job_id: str, tables: Sequence[TableRollback], rolled_back_at: datetime | None
) -> dict[str, Any]:
    """Return what a rollback did; without an instant, what it would do."""
    return {
        "job_id": job_id,
        "tables": [_put_back_dict(table) for table in tables],
        "rolled_back_at": instant(rolled_back_at),
    }


def _put_back_dict(table: TableRollback) -> dict[str, Any]:
    return {
        "table": table.table,
        "from_version": table.from_version,
        "to_version": table.to_version,
    }


def event_dict(event: Event) -> dict[str, Any]:
    """Return one line of the timeline."""
    return {
        "event_id": event.event_id,
        "type": event.type,
        "job_id": event.job_id,
        "task_id": event.task_id,
        "at": instant(event.at),
        "data": dict(event.data),
    }


def log_dict(entry: LogEntry) -> dict[str, Any]:
    """Return one line of a job's logs."""
    return {
        "log_id": entry.log_id,
        "at": instant(entry.at),
        "level": entry.level,
        "stream": entry.stream,
        "task_id": entry.task_id,
        "message": entry.message,
    }


def key_dict(key: ApiKey) -> dict[str, Any]:
    """Return an API key as it may be shown: never its hash."""
    return {
        "name": key.name,
        "role": key.role,
        "created_at": instant(key.created_at),
        "revoked_at": instant(key.revoked_at),
    }


def preview_dict(preview: StopPreview) -> dict[str, Any]:
    """Return what a stop would do."""
    return {
        "running": [
            {
                "task_id": task.task_id,
                "pipeline": task.pipeline,
                "expected_stop_ms": preview.expected_stop_ms.get(task.task_id),
            }
            for task in preview.running
        ],
        "not_started": list(preview.not_started),
        "kept": [kept_dict(kept) for kept in preview.kept],
        "lost_work_seconds": preview.lost_work_seconds,
    }


def many_dict(stopped: ManyStopped, match_token: str | None = None) -> dict[str, Any]:
    """Return what a stop of many jobs came to; with a `match_token`, what it would come to."""
    shown: dict[str, Any] = {
        "matched": len(stopped.results),
        "cancelled": 0 if match_token is not None else stopped.cancelled,
        "results": [
            {"job_id": job_id, "outcome": outcome.value} for job_id, outcome in stopped.results
        ],
    }
    return shown if match_token is None else {**shown, "match_token": match_token}


def pruned_dict(step: Pruned) -> dict[str, Any]:
    """Return what a step of a prune came to."""
    return {
        "jobs": step.jobs,
        "kept": {reason.value: number for reason, number in step.kept.items()},
        "tables": [
            {
                "table": one.table,
                "files": one.removed.files,
                "bytes": one.removed.bytes,
                "is_strange": one.is_strange,
            }
            for one in step.tables
        ],
        "cursor": step.cursor,
    }


def resume_dict(job_id: str, preview: ResumePreview) -> dict[str, Any]:
    """Return what a resume would do."""
    return {
        "job_id": job_id,
        "kept": [kept_dict(kept) for kept in preview.kept],
        "runs": [
            {
                "pipeline": run.pipeline,
                "after": None if run.after is None else kept_dict(run.after),
            }
            for run in preview.runs
        ],
    }


def pipeline_dict(
    spec: PipelineSpec, last_task: TaskRecord | None, now: datetime
) -> dict[str, Any]:
    """Return a declared pipeline and the last task that it had."""
    return {
        "pipeline": spec.pipeline_id,
        "layer": spec.layer,
        "name": spec.name,
        "depends_on": list(spec.depends_on),
        "kind": spec.kind,
        "table": None if spec.kind == "command" else spec.pipeline_id,
        "mode": spec.mode,
        "keys": list(spec.keys),
        "files": spec.files,
        "doc": spec.doc,
        "source": spec.source,
        "file": spec.file,
        "line": spec.line,
        "last_task": None
        if last_task is None
        else {**_task_facts(last_task, now), "job_id": last_task.job_id},
    }


def instant(at: datetime | None) -> str | None:
    """Return an aware instant as RFC 3339 text in UTC: `2013-01-01T05:00:00.000000Z`."""
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _stopped_dict(stopped: Stopped) -> dict[str, Any]:
    return {
        "task_id": stopped.task_id,
        "pipeline": stopped.pipeline,
        "stage": stopped.stage,
        "latency_ms": stopped.latency_ms,
        "processes_killed": stopped.processes_killed,
        "where": list(stopped.where),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
