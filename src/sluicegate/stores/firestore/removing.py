"""Removing jobs with all that is below them: Firestore leaves subcollections where they are.

What is decided here hangs on the jobs' own documents: they go last, in one write that fails if one has changed. No ids
are given out, so the counters are not held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sluicegate.core.job import Job
from sluicegate.stores import codec
from sluicegate.stores.firestore.connection import Connection, WriteConflict
from sluicegate.stores.firestore.documents import Write, idempotency_path, job_path
from sluicegate.stores.firestore.reading import chunks
from sluicegate.stores.firestore.writing import WRITES_MAX

_JOURNAL: Final = ("logs", "events")
_WITH_A_JOB: Final = ("tasks", "plan")


class Removing:
    """The removals of one opening. Safe from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def remove(self, group: Sequence[Job]) -> bool:
        """Remove jobs that have the versions given, or none of them. Returns: whether they were removed.

        What does not fit in the last write goes before it: cut off there, the jobs are still found, and removed anew.
        """
        headers = self._connection.read([job_path(job.job_id) for job in group], ["version"])
        for job in group:
            header = headers.get(job_path(job.job_id))
            if header is None or header.get("version") != job.version:
                return False
        below = [
            Write(path, None)
            for part in (*_JOURNAL, *_WITH_A_JOB)
            for job in group
            for path in self._below(job.job_id, part)
        ]
        last = [
            Write(path, None, condition=snapshot.update_time) for path, snapshot in headers.items()
        ]
        last += [
            Write(idempotency_path(codec.encode_text(job.idempotency_key)), None)
            for job in group
            if job.idempotency_key is not None
        ]
        cut = max(0, len(below) + len(last) - WRITES_MAX)
        early, late = below[:cut], below[cut:]
        for some in chunks(early, WRITES_MAX):
            self._connection.write(some)
        try:
            self._connection.write([*late, *last])
        except WriteConflict:
            return False
        return True

    def remove_journal(self, job_ids: Sequence[str], most: int) -> int:
        """Remove documents of lines and events; return how many there were."""
        count = 0
        for part in _JOURNAL:
            for job_id in job_ids:
                paths = list(self._below(job_id, part, most - count))
                for some in chunks(paths, WRITES_MAX):
                    self._connection.write([Write(path, None) for path in some])
                count += len(paths)
        return count

    def _below(self, job_id: str, part: str, most: int | None = None) -> Iterator[str]:
        """Yield the paths of the documents in one of a job's collections."""
        if most == 0:
            return
        query = self._connection.collection(f"{job_path(job_id)}/{part}").select(["__name__"])
        yield from (
            snapshot.reference.path
            for snapshot in self._connection.run(query if most is None else query.limit(most))
        )
