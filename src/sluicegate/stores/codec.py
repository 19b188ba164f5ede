"""Records <-> flat dicts of scalars, the same for every back end. Pure.

An instant is an integer: microseconds since 1970 in UTC, which is exact, sorts and indexes well,
and means the same in every database. What nests is JSON text. A flat dict has one key per column;
decoding takes any mapping that has them. Characters that no database holds in a text (NUL, lone
surrogates) become U+FFFD; inside JSON they survive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sluicegate.core.job import (
    ApiKey,
    Event,
    Job,
    JobStatus,
    LogEntry,
    Rollback,
    StopMode,
    TableRollback,
    TaskInput,
    TaskProgress,
    TaskRecord,
    TaskStats,
    TaskStatus,
    TaskStop,
    TaskStopRequest,
)
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.ports import Executor, Writer
from sluicegate.core.receipt import Cause, Kept, Receipt, RemoteStop, StopOutcome, Stopped

# Wide enough for the rows of any driver.
Row = Mapping[Any, Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
# One encoder for all: `json.dumps` with options makes a new one per call.
_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode
_NO_STATS: Final = TaskStats()


# ------------------------------------------------------------------ jobs


def encode_job(job: Job) -> dict[str, Any]:
    """Return the job's header, one key per field."""
    return {
        "job_id": job.job_id,
        "job_name": encode_text(job.job_name),
        "status": job.status.value,
        "created_at": encode_instant(job.created_at),
        "total_tasks": job.total_tasks,
        "user_id": encode_text(job.user_id),
        "trigger": encode_text(job.trigger),
        "started_at": _optional_instant(job.started_at),
        "completed_at": _optional_instant(job.completed_at),
        "running_tasks": job.running_tasks,
        "completed_tasks": job.completed_tasks,
        "failed_tasks": job.failed_tasks,
        "cancelled_tasks": job.cancelled_tasks,
        "params": _to_json(dict(job.params)),
        "labels": _to_json(dict(job.labels)),
        "priority": job.priority,
        "timeout_seconds": job.timeout_seconds,
        "full_refresh": job.full_refresh,
        "resumed_from": job.resumed_from,
        "resumed_by": job.resumed_by,
        "code_version": _optional_text(job.code_version),
        "error": _optional_text(job.error),
        "cancellation": None if job.cancellation is None else _encode_receipt(job.cancellation),
        "idempotency_key": _optional_text(job.idempotency_key),
        "executor_id": job.executor_id,
        "lease": job.lease,
        "recoveries": job.recoveries,
        "version": job.version,
        "task_stops": _encode_task_stops(job.task_stops) if job.task_stops else None,
        "rollback": None if job.rollback is None else _encode_rollback(job.rollback),
    }


def decode_job(row: Row) -> Job:
    """Return the job whose header is `row`."""
    receipt, task_stops, rollback = row["cancellation"], row["task_stops"], row["rollback"]
    return Job(
        job_id=row["job_id"],
        job_name=row["job_name"],
        status=JobStatus(row["status"]),
        created_at=decode_instant(row["created_at"]),
        total_tasks=row["total_tasks"],
        user_id=row["user_id"],
        trigger=row["trigger"],
        started_at=_maybe_instant(row["started_at"]),
        completed_at=_maybe_instant(row["completed_at"]),
        running_tasks=row["running_tasks"],
        completed_tasks=row["completed_tasks"],
        failed_tasks=row["failed_tasks"],
        cancelled_tasks=row["cancelled_tasks"],
        params=json.loads(row["params"]),
        labels=json.loads(row["labels"]),
        priority=row["priority"],
        timeout_seconds=row["timeout_seconds"],
        full_refresh=bool(row["full_refresh"]),
        resumed_from=row["resumed_from"],
        resumed_by=row["resumed_by"],
        code_version=row["code_version"],
        error=row["error"],
        cancellation=None if receipt is None else _decode_receipt(receipt),
        task_stops={} if task_stops is None else _decode_task_stops(task_stops),
        rollback=None if rollback is None else _decode_rollback(rollback),
        idempotency_key=row["idempotency_key"],
        executor_id=row["executor_id"],
        lease=row["lease"],
        recoveries=row["recoveries"],
        version=row["version"],
    )


def encode_plan(plan: Plan) -> str:
    """Return the plan as JSON text."""
    steps = [[step.pipeline, *step.depends_on] for step in plan.steps]
    return _to_json({"by_layer": plan.by_layer, "steps": steps})


def decode_plan(text: str) -> Plan:
    """Return the plan of that JSON text."""
    value = json.loads(text)
    steps = tuple(PlanStep(pipeline, tuple(after)) for pipeline, *after in value["steps"])
    return Plan(steps, by_layer=value["by_layer"])


def _encode_receipt(receipt: Receipt) -> str:
    return _to_json(
        {
            "requested_at": encode_instant(receipt.requested_at),
            "requested_by": receipt.requested_by,
            "cause": receipt.cause.value,
            "reason": receipt.reason,
            "mode": receipt.mode,
            "escalated_at": _optional_instant(receipt.escalated_at),
            "stopped_at": _optional_instant(receipt.stopped_at),
            "confirmed_at": _optional_instant(receipt.confirmed_at),
            "latency_ms": receipt.latency_ms,
            "not_started": receipt.not_started,
            "kept": [
                {"table": k.table, "version": k.version, "rows": k.rows} for k in receipt.kept
            ],
            "stopped": [
                {
                    "task_id": s.task_id,
                    "pipeline": s.pipeline,
                    "stage": s.stage,
                    "latency_ms": s.latency_ms,
                    "processes_killed": s.processes_killed,
                    "where": s.where,
                }
                for s in receipt.stopped
            ],
            "remote": [_remote(one) for one in receipt.remote],
            "missing_means": receipt.missing_means,
            "outcome": None if receipt.outcome is None else receipt.outcome.value,
        }
    )


def _decode_receipt(text: str) -> Receipt:
    value = json.loads(text)
    outcome = value["outcome"]
    return Receipt(
        **{
            **value,
            "requested_at": decode_instant(value["requested_at"]),
            "cause": Cause(value["cause"]),
            "escalated_at": _maybe_instant(value["escalated_at"]),
            "stopped_at": _maybe_instant(value["stopped_at"]),
            "confirmed_at": _maybe_instant(value.get("confirmed_at")),
            "missing_means": tuple(value.get("missing_means", ())),
            "not_started": tuple(value["not_started"]),
            "kept": tuple(Kept(**kept) for kept in value["kept"]),
            "stopped": tuple(
                Stopped(**{**s, "where": tuple(s["where"])}) for s in value["stopped"]
            ),
            "remote": tuple(RemoteStop(**remote) for remote in value["remote"]),
            "outcome": None if outcome is None else StopOutcome(outcome),
        }
    )


def _encode_task_stops(task_stops: Mapping[str, TaskStopRequest]) -> str:
    return _to_json(
        {
            task_id: {
                "requested_at": encode_instant(stop.requested_at),
                "requested_by": stop.requested_by,
                "reason": stop.reason,
                "mode": stop.mode.value,
            }
            for task_id, stop in task_stops.items()
        }
    )


def _decode_task_stops(text: str) -> dict[str, TaskStopRequest]:
    return {
        task_id: TaskStopRequest(
            decode_instant(value["requested_at"]),
            value["requested_by"],
            value["reason"],
            StopMode(value["mode"]),
        )
        for task_id, value in json.loads(text).items()
    }


def _encode_rollback(rollback: Rollback) -> str:
    return _to_json(
        {
            "rollback_id": rollback.rollback_id,
            "requested_at": encode_instant(rollback.requested_at),
            "requested_by": rollback.requested_by,
            "tables": [[t.table, t.from_version, t.to_version] for t in rollback.tables],
            "finished_at": _optional_instant(rollback.finished_at),
        }
    )


def _decode_rollback(text: str) -> Rollback:
    value = json.loads(text)
    return Rollback(
        value["rollback_id"],
        decode_instant(value["requested_at"]),
        value["requested_by"],
        tuple(TableRollback(*one) for one in value["tables"]),
        _maybe_instant(value["finished_at"]),
    )


# ------------------------------------------------------------------ what a job is found by


def encode_terms(job: Job, plan: Plan | None) -> list[str]:
    """Return what the history finds the job by, besides status and time; fixed at its creation."""
    pipelines = plan.pipelines if plan is not None else ()
    layers = {step.layer: None for step in plan.steps} if plan is not None else {}
    return [
        user_term(job.user_id),
        trigger_term(job.trigger),
        *(label_term(key, value) for key, value in job.labels.items()),
        *(layer_term(layer) for layer in layers),
        *dict.fromkeys(pipeline_term(pipeline) for pipeline in pipelines),
    ]


def user_term(user_id: str) -> str:
    """Return the term of jobs by this user."""
    return f"user:{encode_text(user_id)}"


def trigger_term(trigger: str) -> str:
    """Return the term of jobs started this way."""
    return f"trigger:{encode_text(trigger)}"


def label_term(key: str, value: str) -> str:
    """Return the term of jobs with this label; a `=` in the key is escaped: no two share a term."""
    escaped = key.replace("%", "%25").replace("=", "%3D")
    return f"label:{encode_text(escaped)}={encode_text(value)}"


def layer_term(layer: str) -> str:
    """Return the term of jobs with a pipeline of this layer in their plan."""
    return f"layer:{encode_text(layer)}"


def pipeline_term(pipeline: str) -> str:
    """Return the term of jobs with this pipeline in their plan."""
    return f"pipeline:{encode_text(pipeline)}"


# ------------------------------------------------------------------ tasks and writers


def encode_task(task: TaskRecord) -> dict[str, Any]:
    """Return the task's row, one key per field."""
    return {
        "task_id": task.task_id,
        "job_id": task.job_id,
        "pipeline": task.pipeline,
        "status": task.status.value,
        "started_at": _optional_instant(task.started_at),
        "completed_at": _optional_instant(task.completed_at),
        "attempt": task.attempt,
        "epoch": task.epoch,
        "permits": task.permits,
        "retries_used": task.retries_used,
        "message": _optional_text(task.message),
        "error": _optional_text(task.error),
        "inputs": _to_json([[i.table, i.version] for i in task.inputs]) if task.inputs else None,
        "stats": None if task.stats == _NO_STATS else _encode_stats(task.stats),
        "progress": None if task.progress is None else _encode_progress(task.progress),
        "stop": None if task.stop is None else _encode_stop(task.stop),
    }


def decode_task(row: Row) -> TaskRecord:
    """Return the task whose row is `row`."""
    inputs, stats, progress, stop = row["inputs"], row["stats"], row["progress"], row["stop"]
    return TaskRecord(
        task_id=row["task_id"],
        job_id=row["job_id"],
        pipeline=row["pipeline"],
        status=TaskStatus(row["status"]),
        started_at=_maybe_instant(row["started_at"]),
        completed_at=_maybe_instant(row["completed_at"]),
        attempt=row["attempt"],
        epoch=row["epoch"],
        permits=row["permits"],
        retries_used=row["retries_used"],
        message=row["message"],
        error=row["error"],
        inputs=tuple(TaskInput(*pair) for pair in json.loads(inputs)) if inputs else (),
        stats=TaskStats(**json.loads(stats)) if stats else _NO_STATS,
        progress=TaskProgress(**json.loads(progress)) if progress else None,
        stop=_decode_stop(stop) if stop else None,
    )


def _encode_stats(stats: TaskStats) -> str:
    return _to_json(
        {
            "rows": stats.rows,
            "bytes": stats.bytes,
            "files": stats.files,
            "units": stats.units,
            "version": stats.version,
        }
    )


def _encode_progress(progress: TaskProgress) -> str:
    return _to_json({"done": progress.done, "total": progress.total, "unit": progress.unit})


def _encode_stop(stop: TaskStop) -> str:
    return _to_json(
        {
            "cause": stop.cause,
            "requested_by": stop.requested_by,
            "reason": stop.reason,
            "stage": stop.stage,
            "stopped_at": encode_instant(stop.stopped_at),
            "latency_ms": stop.latency_ms,
            "processes_killed": stop.processes_killed,
            "where": stop.where,
            "remote": [_remote(one) for one in stop.remote],
        }
    )


def _decode_stop(text: str) -> TaskStop:
    value = json.loads(text)
    stopped_at, where = decode_instant(value["stopped_at"]), tuple(value["where"])
    remote = tuple(RemoteStop(**one) for one in value.get("remote", ()))
    return TaskStop(**{**value, "stopped_at": stopped_at, "where": where, "remote": remote})


def _remote(stop: RemoteStop) -> dict[str, Any]:
    return {"what": stop.what, "outcome": stop.outcome, "tries": stop.tries}


def encode_writer(writer: Writer) -> dict[str, Any]:
    """Return the writer's row. `table` is a word of SQL, so its key is `table_name`."""
    return {
        "table_name": writer.table,
        "epoch": writer.epoch,
        "job_id": writer.job_id,
        "task_id": writer.task_id,
        "revision": writer.revision,
    }


def decode_writer(row: Row) -> Writer:
    """Return the writer whose row is `row`."""
    return Writer(row["table_name"], row["epoch"], row["job_id"], row["task_id"], row["revision"])


# ------------------------------------------------------------------ journal, executors, keys


def encode_event(event: Event) -> dict[str, Any]:
    """Return the event's row, one key per field."""
    return {
        "event_id": event.event_id,
        "type": event.type,
        "job_id": event.job_id,
        "at": encode_instant(event.at),
        "task_id": event.task_id,
        "data": _to_json(dict(event.data)) if event.data else None,
    }


def decode_event(row: Row) -> Event:
    """Return the event whose row is `row`."""
    data = row["data"]
    return Event(
        type=row["type"],
        job_id=row["job_id"],
        at=decode_instant(row["at"]),
        task_id=row["task_id"],
        data=json.loads(data) if data else {},
        event_id=row["event_id"],
    )


def encode_log(entry: LogEntry) -> dict[str, Any]:
    """Return the line's row, one key per field."""
    return {
        "log_id": entry.log_id,
        "job_id": entry.job_id,
        "at": encode_instant(entry.at),
        "message": encode_text(entry.message),
        "task_id": entry.task_id,
        "level": entry.level,
        "stream": entry.stream,
    }


def decode_log(row: Row) -> LogEntry:
    """Return the line whose row is `row`."""
    return LogEntry(
        job_id=row["job_id"],
        at=decode_instant(row["at"]),
        message=row["message"],
        task_id=row["task_id"],
        level=row["level"],
        stream=row["stream"],
        log_id=row["log_id"],
    )


def encode_executor(executor: Executor) -> dict[str, Any]:
    """Return the executor's row, one key per field."""
    return {
        "executor_id": executor.executor_id,
        "host": encode_text(executor.host),
        "pid": executor.pid,
        "started_at": encode_instant(executor.started_at),
        "beat": executor.beat,
    }


def decode_executor(row: Row) -> Executor:
    """Return the executor whose row is `row`."""
    started_at = decode_instant(row["started_at"])
    return Executor(row["executor_id"], row["host"], row["pid"], started_at, row["beat"])


def encode_key(key: ApiKey) -> dict[str, Any]:
    """Return the key's row, one key per field."""
    return {
        "name": encode_text(key.name),
        "role": key.role,
        "key_hash": key.key_hash,
        "created_at": encode_instant(key.created_at),
        "revoked_at": _optional_instant(key.revoked_at),
    }


def decode_key(row: Row) -> ApiKey:
    """Return the key whose row is `row`."""
    created_at, revoked_at = decode_instant(row["created_at"]), _maybe_instant(row["revoked_at"])
    return ApiKey(row["name"], row["role"], row["key_hash"], created_at, revoked_at)


# ------------------------------------------------------------------ scalars


def encode_instant(at: datetime) -> int:
    """Return microseconds since 1970 in UTC. Raises: `TypeError` for a naive datetime."""
    return (at - _EPOCH) // _MICROSECOND


def decode_instant(microseconds: int) -> datetime:
    """Return the aware UTC datetime."""
    return _EPOCH + timedelta(microseconds=microseconds)


def encode_text(text: str) -> str:
    """Return the text as every database can hold it."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub("\ufffd", text)


def _optional_instant(at: datetime | None) -> int | None:
    return None if at is None else encode_instant(at)


def _maybe_instant(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else decode_instant(microseconds)


def _optional_text(text: str | None) -> str | None:
    return None if text is None else encode_text(text)
