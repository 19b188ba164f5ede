"""The store's rows as they are: read with SQLAlchemy, decoded from JSON, and judged by nobody here.

Imports nothing of Sluicegate: the names of tables and columns are the store's documented schema.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

JSON_COLUMNS = {
    *("params", "labels", "cancellation", "task_stops", "rollback", "plan"),
    *("inputs", "stats", "progress", "stop", "data"),
}
TABLES = {
    "jobs": "job_id",
    "plans": "job_id",
    "tasks": "position",
    "writers": "table_name",
    "events": "event_id",
}
NO_STATS = {"rows": 0, "bytes": 0, "files": 0, "units": 0, "version": None}

Record = dict[str, Any]


@dataclass
class Records:
    """Everything that the store says. `jobs`, `tasks` and `writers` by their ids, `events` in the order of commits."""

    jobs: dict[str, Record]
    plans: dict[str, list[str]]
    tasks: dict[str, Record]
    writers: dict[str, Record]
    events: list[Record]

    def tasks_of(self, job_id: str) -> list[Record]:
        """The tasks of a job, in the order of their starts."""
        return [task for task in self.tasks.values() if task["job_id"] == job_id]

    def events_of(self, job_id: str) -> list[Record]:
        """The timeline of a job."""
        return [event for event in self.events if event["job_id"] == job_id]

    @property
    def unfinished(self) -> list[str]:
        """Jobs that are not over, or have a task that is not, or a rollback that is not carried out."""
        return [
            job_id
            for job_id, job in self.jobs.items()
            if job["completed_at"] is None
            or job["running_tasks"]
            or (job["rollback"] and job["rollback"]["finished_at"] is None)
        ]


def read_store(url: str) -> Records:
    """Read a store in SQLite or PostgreSQL, all of it in one snapshot."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            else:
                connection.execute(sa.text("BEGIN"))
            rows = {
                name: [
                    _decoded(row)
                    for row in connection.execute(
                        sa.text(f"SELECT * FROM {name} ORDER BY {key}")
                    ).mappings()
                ]
                for name, key in TABLES.items()
            }
    finally:
        engine.dispose()
    for task in rows["tasks"]:
        task["stats"] = task["stats"] or NO_STATS
    return Records(
        jobs={row["job_id"]: row for row in rows["jobs"]},
        plans={row["job_id"]: [step[0] for step in row["plan"]["steps"]] for row in rows["plans"]},
        tasks={row["task_id"]: row for row in rows["tasks"]},
        writers={row["table_name"]: row for row in rows["writers"]},
        events=rows["events"],
    )


def _decoded(row: Any) -> Record:
    return {
        name: json.loads(value) if name in JSON_COLUMNS and value is not None else value
        for name, value in row.items()
    }
