"""The tables of the SQL back ends, as the newest migration leaves them; a test compares the two.

Columns are the keys of `codec`. Text, integers and doubles only, so that one schema serves every
database.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

METADATA: Final = MetaData()

# Ordered and compared by its bytes, as SQLite does by itself: pages go on from a job id, and no locale may
# put ids into an order of its own, or hold two different ones for equal.
_TEXT = Text().with_variant(Text(collation="C"), "postgresql")

# In SQLite only a column declared `INTEGER` is the row's own id, which appends without a second
# index.
_ROW_ID = BigInteger().with_variant(Integer(), "sqlite")

# One row. Whoever writes holds it first (see `SqlStore.commit`), so ids grow in the order of
# commits and an id is never given out twice, even when the newest rows were pruned.
counters: Final = Table(
    "counters",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("event_id", BigInteger, nullable=False),
    Column("log_id", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
)

jobs: Final = Table(
    "jobs",
    METADATA,
    Column("job_id", _TEXT, primary_key=True),
    Column("job_name", _TEXT, nullable=False),
    Column("status", _TEXT, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("total_tasks", BigInteger, nullable=False),
    Column("user_id", _TEXT, nullable=False),
    Column("trigger", _TEXT, nullable=False),
    Column("started_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("running_tasks", BigInteger, nullable=False),
    Column("completed_tasks", BigInteger, nullable=False),
    Column("failed_tasks", BigInteger, nullable=False),
    Column("cancelled_tasks", BigInteger, nullable=False),
    Column("params", _TEXT, nullable=False),
    Column("labels", _TEXT, nullable=False),
    Column("priority", BigInteger, nullable=False),
    Column("timeout_seconds", Double),
    Column("full_refresh", Boolean, nullable=False),
    Column("resumed_from", _TEXT),
    Column("resumed_by", _TEXT),
    Column("code_version", _TEXT),
    Column("error", _TEXT),
    Column("cancellation", _TEXT),
    Column("idempotency_key", _TEXT),
    Column("executor_id", _TEXT),
    Column("lease", BigInteger, nullable=False),
    Column("recoveries", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("task_stops", _TEXT),
    Column("rollback", _TEXT),
    Index("jobs_by_status", "status", "job_id"),
    Index("jobs_by_created_at", "created_at", "job_id"),
    Index("jobs_by_idempotency_key", "idempotency_key", unique=True),
    # The few that are not over, among all that ever were.
    Index(
        "jobs_unfinished",
        "job_id",
        sqlite_where=text("completed_at IS NULL"),
        postgresql_where=text("completed_at IS NULL"),
    ),
)
# What an index or `job_terms` was built from is never written again, so that a header update
# touches few indexes.
FIXED_COLUMNS: Final = frozenset(
    {"job_id", "created_at", "user_id", "trigger", "labels", "idempotency_key"}
)

plans: Final = Table(
    "plans",
    METADATA,
    Column("job_id", _TEXT, primary_key=True),
    Column("plan", _TEXT, nullable=False),
)

# `pipeline:silver.flights`, `layer:silver`, `label:team=core`, `user:ann`, `trigger:api`: each a
# list of jobs that can be read from its newest.
job_terms: Final = Table(
    "job_terms",
    METADATA,
    Column("term", _TEXT, primary_key=True),
    Column("job_id", _TEXT, primary_key=True),
    sqlite_with_rowid=False,
)

# `position` grows with each new row, whose first write is its first start: it is the order of
# starts within a job.
tasks: Final = Table(
    "tasks",
    METADATA,
    Column("position", _ROW_ID, primary_key=True, autoincrement=False),
    Column("task_id", _TEXT, nullable=False),
    Column("job_id", _TEXT, nullable=False),
    Column("pipeline", _TEXT, nullable=False),
    Column("status", _TEXT, nullable=False),
    Column("started_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("attempt", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("permits", BigInteger, nullable=False),
    Column("retries_used", BigInteger, nullable=False),
    Column("message", _TEXT),
    Column("error", _TEXT),
    Column("inputs", _TEXT),
    Column("stats", _TEXT),
    Column("progress", _TEXT),
    Column("stop", _TEXT),
    Index("tasks_by_task_id", "task_id", unique=True),
    Index("tasks_by_job_id", "job_id", "status"),
    Index("tasks_by_pipeline", "pipeline", "started_at", "position"),
)

writers: Final = Table(
    "writers",
    METADATA,
    Column("table_name", _TEXT, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("job_id", _TEXT),
    Column("task_id", _TEXT),
    Column("revision", BigInteger, nullable=False),
)

events: Final = Table(
    "events",
    METADATA,
    Column("event_id", _ROW_ID, primary_key=True, autoincrement=False),
    Column("type", _TEXT, nullable=False),
    Column("job_id", _TEXT, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("task_id", _TEXT),
    Column("data", _TEXT),
    Index("events_by_job_id", "job_id", "event_id"),
)

logs: Final = Table(
    "logs",
    METADATA,
    Column("log_id", _ROW_ID, primary_key=True, autoincrement=False),
    Column("job_id", _TEXT, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("message", _TEXT, nullable=False),
    Column("task_id", _TEXT),
    Column("level", _TEXT, nullable=False),
    Column("stream", _TEXT, nullable=False),
    Index("logs_by_job_id", "job_id", "log_id"),
    Index("logs_by_task_id", "job_id", "task_id", "log_id"),
)

executors: Final = Table(
    "executors",
    METADATA,
    Column("executor_id", _TEXT, primary_key=True),
    Column("host", _TEXT, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
)

api_keys: Final = Table(
    "api_keys",
    METADATA,
    Column("key_hash", _TEXT, primary_key=True),
    Column("name", _TEXT, nullable=False),
    Column("role", _TEXT, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Index(
        "api_keys_by_live_name",
        "name",
        unique=True,
        sqlite_where=text("revoked_at IS NULL"),
        postgresql_where=text("revoked_at IS NULL"),
    ),
)
