"""The first schema. Never edited once released."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")  # by bytes, in any locale


def upgrade() -> None:
    """Create every table, and the one row of `counters`."""
    _create_jobs()
    _create_tasks()
    _create_journal()
    op.create_table(
        "executors",
        sa.Column("executor_id", _TEXT, primary_key=True),
        sa.Column("host", _TEXT, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("key_hash", _TEXT, primary_key=True),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("role", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
    )
    op.create_index(
        "api_keys_by_live_name",
        "api_keys",
        ["name"],
        unique=True,
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("job_id", _TEXT, primary_key=True),
        sa.Column("job_name", _TEXT, nullable=False),
        sa.Column("status", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("total_tasks", sa.BigInteger, nullable=False),
        sa.Column("user_id", _TEXT, nullable=False),
        sa.Column("trigger", _TEXT, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("running_tasks", sa.BigInteger, nullable=False),
        sa.Column("completed_tasks", sa.BigInteger, nullable=False),
        sa.Column("failed_tasks", sa.BigInteger, nullable=False),
        sa.Column("cancelled_tasks", sa.BigInteger, nullable=False),
        sa.Column("params", _TEXT, nullable=False),
        sa.Column("labels", _TEXT, nullable=False),
        sa.Column("priority", sa.BigInteger, nullable=False),
        sa.Column("timeout_seconds", sa.Double),
        sa.Column("full_refresh", sa.Boolean, nullable=False),
        sa.Column("resumed_from", _TEXT),
        sa.Column("resumed_by", _TEXT),
        sa.Column("code_version", _TEXT),
        sa.Column("error", _TEXT),
        sa.Column("cancellation", _TEXT),
        sa.Column("idempotency_key", _TEXT),
        sa.Column("executor_id", _TEXT),
        sa.Column("lease", sa.BigInteger, nullable=False),
        sa.Column("recoveries", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_index("jobs_by_status", "jobs", ["status", "job_id"])
    op.create_index("jobs_by_created_at", "jobs", ["created_at", "job_id"])
    op.create_index("jobs_by_idempotency_key", "jobs", ["idempotency_key"], unique=True)
    op.create_index(
        "jobs_unfinished",
        "jobs",
        ["job_id"],
        sqlite_where=sa.text("completed_at IS NULL"),
        postgresql_where=sa.text("completed_at IS NULL"),
    )
    op.create_table(
        "plans",
        sa.Column("job_id", _TEXT, primary_key=True),
        sa.Column("plan", _TEXT, nullable=False),
    )
    op.create_table(
        "job_terms",
        sa.Column("term", _TEXT, primary_key=True),
        sa.Column("job_id", _TEXT, primary_key=True),
        sqlite_with_rowid=False,
    )


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("position", _ROW_ID, primary_key=True, autoincrement=False),
        sa.Column("task_id", _TEXT, nullable=False),
        sa.Column("job_id", _TEXT, nullable=False),
        sa.Column("pipeline", _TEXT, nullable=False),
        sa.Column("status", _TEXT, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("attempt", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("permits", sa.BigInteger, nullable=False),
        sa.Column("retries_used", sa.BigInteger, nullable=False),
        sa.Column("message", _TEXT),
        sa.Column("error", _TEXT),
        sa.Column("inputs", _TEXT),
        sa.Column("stats", _TEXT),
        sa.Column("progress", _TEXT),
        sa.Column("stop", _TEXT),
    )
    op.create_index("tasks_by_task_id", "tasks", ["task_id"], unique=True)
    op.create_index("tasks_by_job_id", "tasks", ["job_id", "status"])
    op.create_index("tasks_by_pipeline", "tasks", ["pipeline", "started_at", "position"])
    op.create_table(
        "writers",
        sa.Column("table_name", _TEXT, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("job_id", _TEXT),
        sa.Column("task_id", _TEXT),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )


def _create_journal() -> None:
    counters = op.create_table(
        "counters",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("event_id", sa.BigInteger, nullable=False),
        sa.Column("log_id", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(counters, [{"id": 1, "event_id": 0, "log_id": 0, "position": 0}])
    op.create_table(
        "events",
        sa.Column("event_id", _ROW_ID, primary_key=True, autoincrement=False),
        sa.Column("type", _TEXT, nullable=False),
        sa.Column("job_id", _TEXT, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("task_id", _TEXT),
        sa.Column("data", _TEXT),
    )
    op.create_index("events_by_job_id", "events", ["job_id", "event_id"])
    op.create_table(
        "logs",
        sa.Column("log_id", _ROW_ID, primary_key=True, autoincrement=False),
        sa.Column("job_id", _TEXT, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("message", _TEXT, nullable=False),
        sa.Column("task_id", _TEXT),
        sa.Column("level", _TEXT, nullable=False),
        sa.Column("stream", _TEXT, nullable=False),
    )
    op.create_index("logs_by_job_id", "logs", ["job_id", "log_id"])
    op.create_index("logs_by_task_id", "logs", ["job_id", "task_id", "log_id"])
