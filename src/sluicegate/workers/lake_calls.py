"""The lake, asked by call name: what a reader process answers, and what a command without a server calls directly."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sluicegate.core.job import TableRollback, TaskStats
from sluicegate.core.ports import Needed, Settled, Vacuumed, Writer
from sluicegate.lake import rollback
from sluicegate.lake.commits import WriterIdentity
from sluicegate.lake.errors import StaleWriterError
from sluicegate.lake.tables import Lake


def answer(settings: Mapping[str, Any], call: str, arguments: Mapping[str, Any]) -> Any:
    """Answer one of the calls of `core.ports.Tables` in plain JSON values."""
    tables = LakeTables(settings["lake"])
    if call == "settle":
        fence = arguments["fence"]
        writer = None if fence is None else Writer(**fence)
        return asdict(tables.settle(arguments["table"], arguments["task_id"], writer))
    if call == "clean_up":
        return tables.clean_up(**arguments)
    if call == "plan_rollback":
        step = tables.plan_rollback(**arguments)
        return None if step is None else asdict(step)
    if call == "roll_back":
        step, writer = arguments["step"], arguments["writer"]
        return tables.roll_back(TableRollback(**step), Writer(**writer))
    if call == "authors":
        return tables.authors()
    if call == "undoable":
        return tables.undoable(**arguments)
    if call == "vacuum":
        limits = arguments["needed"]
        needed = Needed(**limits | {"before": datetime.fromisoformat(limits["before"])})
        return asdict(tables.vacuum(arguments["table"], needed, dry_run=arguments["dry_run"]))
    if call == "list_tables":
        return tables.list_tables()
    return tables.describe(**arguments)


class LakeTables:
    """`core.ports.Tables` in this process. It loads Arrow and Delta Lake, so a server asks a process of its own."""

    def __init__(self, root: str) -> None:
        self._lake = Lake(root)

    def settle(self, table: str, task_id: str, fence: Writer | None = None) -> Settled:
        """Read from the table's log what the task committed, after shutting out whoever may still write for it."""
        if fence is not None:
            self._shut_out(table, WriterIdentity(fence.job_id or "", task_id, 0, fence.epoch))
        found = self._lake.settle(table, task_id)
        stats = TaskStats(found.rows, found.bytes, found.files, found.units, found.version)
        return Settled(stats, found.complete)

    def _shut_out(self, table: str, who: WriterIdentity) -> None:
        from sluicegate.lake.writer import TableWriter  # which who only reads does without

        writer = TableWriter(
            self._lake, table, who, mode="append", permit=lambda _: None, fence=True
        )
        with contextlib.suppress(StaleWriterError):  # somebody later has done so
            writer.open()

    def clean_up(self, table: str, task_id: str, attempt: int) -> None:
        """Remove the files that attempts of a task wrote and did not commit."""
        self._lake.remove_orphans(table, task_id, before_attempt=attempt + 1)

    def plan_rollback(self, table: str, job_id: str) -> TableRollback | None:
        """Return how to put a table back to its content before a job; `None`: the job changed nothing there."""
        step = rollback.plan(self._lake.path(table), table, job_id)
        return None if step is None else TableRollback(table, step.from_version, step.to_version)

    def roll_back(self, step: TableRollback, writer: Writer) -> None:
        """Put a table back, under the epoch that `writer` took."""
        who = WriterIdentity(writer.job_id or "", writer.task_id or "", 1, writer.epoch)
        folder = self._lake.path(step.table)
        rollback.apply(folder, step.table, rollback.Step(step.from_version, step.to_version), who)

    def authors(self) -> dict[str, str | None]:
        """Return every table and the job that made what it holds."""
        return {table: self._lake.author(table) for table in self._lake.list_tables()}

    def epochs(self) -> dict[str, int]:
        """Return every table and the epoch of its last writer."""
        return {table: self._lake.epoch(table) for table in self._lake.list_tables()}

    def undoable(self, table: str) -> list[str]:
        """Return the jobs that could be rolled back one after another, newest first."""
        return self._lake.undoable(table)

    def vacuum(self, table: str, needed: Needed, *, dry_run: bool = False) -> Vacuumed:
        """Delete the files of a table that nobody needs."""
        found = self._lake.vacuum(table, needed, dry_run=dry_run)
        return Vacuumed(len(found), sum(found.values()))

    def list_tables(self) -> list[dict[str, Any]]:
        """Return `name`, `version`, `row_count` and `columns` of each table."""
        listed = []
        for name in self._lake.list_tables():
            facts = self._lake.describe(name, limit=0)
            listed.append(
                {
                    "name": name,
                    "version": facts["version"],
                    "row_count": facts["row_count"],
                    "columns": len(facts["schema"]),
                }
            )
        return listed

    def describe(self, table: str, *, limit: int, version: int | None) -> dict[str, Any]:
        """Return `name`, `schema`, `version`, `row_count`, `preview`."""
        return self._lake.describe(table, limit, version)
