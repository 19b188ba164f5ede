"""Who writes to which table, as far as one executor knows it, and who waits for which. One thread."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence

from sluicegate.core.job import TaskRecord
from sluicegate.core.ports import JobStore, Writer
from sluicegate.core.records import replace


class TableBook:
    """The writers of tables. The store is the truth; a change that it refused is forgotten here and read again."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._writers: dict[str, Writer] = {}
        self._lines: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def read(self, tables: Sequence[str]) -> None:
        """Read the writers of those tables that are not known. Raises: `StoreUnavailableError`."""
        if unknown := [table for table in tables if table not in self._writers]:
            self._writers.update(self._store.writers(unknown))

    def writer(self, table: str) -> Writer:
        """Return the writer of a table. Raises: `StoreUnavailableError`, when it has to be read."""
        self.read([table])
        return self._writers[table]

    def held_by(self, task: TaskRecord) -> Writer:
        """Return the writer of a running task's table; what is known here can be a start that will be refused.

        Raises: `StoreUnavailableError`, when it has to be read.
        """
        if self.writer(task.pipeline).task_id != task.task_id:
            self.forget(task.pipeline)
        return self.writer(task.pipeline)

    def take(self, task: TaskRecord) -> Writer:
        """Give the table to a task; return the change that has to be stored with its start."""
        free = self._writers[task.pipeline]
        held = replace(free, epoch=task.epoch, job_id=task.job_id, task_id=task.task_id)
        self.stored(held)
        return held

    def stored(self, change: Writer) -> None:
        """A change of a writer was stored, or is about to be."""
        self._writers[change.table] = replace(change, revision=change.revision + 1)

    def put_back(self, before: Writer) -> None:
        """The last change was not stored."""
        self._writers[before.table] = before

    def holder(self, table: str) -> str | None:
        """Return the job that is known to hold a table, if any is."""
        known = self._writers.get(table)
        return None if known is None else known.job_id

    def forget(self, table: str) -> None:
        """What is known of a table may be out of date."""
        self._writers.pop(table, None)

    def forget_job(self, job_id: str) -> None:
        """Somebody else has the job now, and frees its tables."""
        for table in [t for t, writer in self._writers.items() if writer.job_id == job_id]:
            del self._writers[table]

    def wait(self, job_id: str, table: str) -> None:
        """Stand in line for a table, in the order of job creation."""
        heapq.heappush(self._lines[table], (job_id, table))

    def next_in_line(self, table: str) -> str | None:
        """Return the job whose turn it is, and take it out of the line."""
        if not (line := self._lines.get(table)):
            return None
        job_id, _ = heapq.heappop(line)
        if not line:
            del self._lines[table]
        return job_id

    def has_turn(self, table: str) -> bool:
        """Whether somebody waits for a table that nobody is known to hold."""
        known = self._writers.get(table)
        return table in self._lines and (known is None or known.is_free)

    @property
    def waiting(self) -> int:
        """How many stand in line, for all tables."""
        return sum(len(line) for line in self._lines.values())
