"""Removing old jobs, and what the lake keeps only for them: never what a resume or a rollback still needs.

It goes in small steps that each leave everything consistent, so it can be cut off anywhere and other writers get their
turns. docs/decisions/0012 says what is kept, and why.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Final, TypeVar

from sluicegate.core.job import Job, JobQuery, JobStatus, TaskStatus
from sluicegate.core.ports import Clock, Needed, Store, Tables, Vacuumed
from sluicegate.errors import SluicegateError

STEP_SECONDS: Final = 2.0
PAGE: Final = 200
LINES_AT_ONCE: Final = 50
ROWS_AT_ONCE: Final = 5_000
# A task that has just begun may read a version that it has not told of yet.
FILES_KEPT_AT_LEAST: Final = timedelta(hours=1)

_Result = TypeVar("_Result")


class KeptFor(StrEnum):
    """Why an old job stays."""

    NOT_ENDED = "not_ended"  # it runs or stops, or its rollback is not finished
    RECENT = "recent"  # created long ago, it ended only lately
    RESUMABLE = "resumable"
    ROLLBACK = "rollback"  # it made what a table holds now
    LINKED = "linked"  # it was resumed by a job that stays


@dataclass(frozen=True, slots=True)
class Pruning:
    """What to prune: jobs that ended before an instant.

    Args:
        resumable: Also those that a resume could still take up.
        dry_run: Change nothing, and count what would go.
    """

    ended_before: datetime
    resumable: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class TablePruned:
    """A table whose files were looked at.

    `is_strange`: it was left alone, since what it holds was made by another program, or by a job that the store does
    not know.
    """

    table: str
    removed: Vacuumed
    is_strange: bool = False


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a step came to. With `cursor` the next step goes on; `None`: that was all."""

    jobs: int = 0
    kept: Mapping[KeptFor, int] = field(default_factory=dict)
    tables: tuple[TablePruned, ...] = ()
    cursor: str | None = None


class PruneCursorError(SluicegateError):
    """A cursor that no step of a prune has answered."""

    code = "invalid_cursor"

    def __init__(self) -> None:
        super().__init__(
            "the cursor is none that a prune answered",
            mend="begin without one, or send it as it came",
        )


class Pruner:
    """Prunes a store and its lake.

    Args:
        pause: Waits for so many seconds: after each removal as long as it took, so that others can write.
    """

    def __init__(
        self,
        store: Store,
        tables: Tables,
        clock: Clock,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._tables, self._clock, self._pause = store, tables, clock, pause

    def step(self, asked: Pruning, cursor: str | None = None) -> Pruned:
        """Do some of it, for a few seconds: first the jobs, newest first, then the tables.

        Args:
            cursor: Where the step before has ended; it was asked for the same.

        Raises: `PruneCursorError`; and what the store or the lake raises: what was removed before stays removed.
        """
        kind, _, after = (cursor or "jobs:").partition(":")
        deadline = self._clock.monotonic() + STEP_SECONDS
        authors = self._tables.authors()
        if kind == "tables":
            return self._prune_tables(asked, after, authors, deadline)
        if kind != "jobs":
            raise PruneCursorError
        removed, kept = 0, Counter[KeptFor]()
        while True:
            page = self._page(asked, after)
            lines = list(self._lines(page))
            reasons = [self._kept_for(asked, line, authors) for line in lines]
            kept.update(reason for of_line in reasons for reason in of_line)
            old = [line for line, of_line in zip(lines, reasons, strict=True) if not of_line]
            removed += sum(map(len, old)) if asked.dry_run else self._remove(old)
            if len(page) < PAGE:
                return Pruned(removed, kept, cursor="tables:")
            after = page[-1].job_id
            if self._clock.monotonic() > deadline:
                return Pruned(removed, kept, cursor=f"jobs:{after}")

    # ---------------------------------------------------------------- jobs

    def _page(self, asked: Pruning, after: str) -> Sequence[Job]:
        """Jobs that may be old enough, newest first: none ends before it was created."""
        return self._store.list(
            JobQuery(created_before=asked.ended_before, before_job_id=after or None, limit=PAGE)
        )

    def _lines(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Yield jobs with those that they resumed, which stay or go together: no link may lead nowhere."""
        heirs = self._store.get_many([job.resumed_by for job in jobs if job.resumed_by])
        yield from (self._line(job) for job in jobs if job.resumed_by not in heirs)

    def _line(self, job: Job) -> list[Job]:
        line = [job]
        while (before := line[-1].resumed_from) is not None:
            if (found := self._store.get_many([before]).get(before)) is None:
                break
            line.append(found)
        return line

    def _kept_for(
        self, asked: Pruning, line: Sequence[Job], authors: Mapping[str, str | None]
    ) -> list[KeptFor]:
        """Return why the jobs of a line stay, or nothing when all of them may go."""
        found = [kept_for(job, asked, authors.values()) for job in line]
        if not any(found):
            return []
        return [reason or KeptFor.LINKED for reason in found]

    def _remove(self, lines: Sequence[Sequence[Job]]) -> int:
        """Remove lines of jobs; one that has changed since it was read stays. Returns: how many jobs went."""
        removed = 0
        for start in range(0, len(lines), LINES_AT_ONCE):
            some = lines[start : start + LINES_AT_ONCE]
            job_ids = [job.job_id for line in some for job in line]
            # Rows of one job can be millions: the many go first, some at a time.
            while self._unhurried(partial(self._remove_journal, job_ids)) >= ROWS_AT_ONCE:
                pass
            gone = self._unhurried(partial(self._store.remove, some))
            removed += sum(len(line) for line, is_gone in zip(some, gone, strict=True) if is_gone)
        return removed

    def _remove_journal(self, job_ids: Sequence[str]) -> int:
        return self._store.remove_journal(job_ids, most=ROWS_AT_ONCE)

    def _unhurried(self, write: Callable[[], _Result]) -> _Result:
        began = self._clock.monotonic()
        result = write()
        self._pause(self._clock.monotonic() - began)
        return result

    # ---------------------------------------------------------------- tables

    def _prune_tables(
        self, asked: Pruning, after: str, authors: Mapping[str, str | None], deadline: float
    ) -> Pruned:
        done: list[TablePruned] = []
        for table in sorted(name for name in authors if name > after):
            if done and self._clock.monotonic() > deadline:
                return Pruned(tables=tuple(done), cursor=f"tables:{done[-1].table}")
            done.append(self._vacuum(asked, table, authors))
        return Pruned(tables=tuple(done))

    def _vacuum(self, asked: Pruning, table: str, authors: Mapping[str, str | None]) -> TablePruned:
        author = authors[table]
        if author is None or not self._store.get_many([author]):
            # Another program, or another store's jobs: what these still need is not known here.
            return TablePruned(table, Vacuumed(0, 0), is_strange=True)
        needed = Needed(
            until=self._first_forgotten(asked, self._tables.undoable(table), authors),
            pinned=self._pinned(table),
            holder=self._store.writers([table])[table].task_id,
            before=min(asked.ended_before, self._clock.now() - FILES_KEPT_AT_LEAST),
        )
        return TablePruned(table, self._tables.vacuum(table, needed, dry_run=asked.dry_run))

    def _first_forgotten(
        self, asked: Pruning, jobs: Sequence[str], authors: Mapping[str, str | None]
    ) -> str | None:
        """Return the first of some jobs that the store has not any more, or would not have after a dry run."""
        for start in range(0, len(jobs), PAGE):
            some = jobs[start : start + PAGE]
            known = self._store.get_many(some)
            for job_id in some:
                if job_id not in known:
                    return job_id
                if asked.dry_run and not self._kept_for(
                    asked, self._line_of(known[job_id]), authors
                ):
                    return job_id
        return None

    def _line_of(self, job: Job) -> list[Job]:
        """Return a job with all that it was resumed by and from."""
        while (after := job.resumed_by) is not None:
            if (found := self._store.get_many([after]).get(after)) is None:
                break
            job = found
        return self._line(job)

    def _pinned(self, table: str) -> tuple[int, ...]:
        """The versions of a table that tasks read which are running: each of them holds the table that it writes."""
        jobs = [writer.job_id for writer in self._store.held_writers() if writer.job_id]
        running = self._store.tasks(jobs, statuses=(TaskStatus.RUNNING,))
        return tuple(
            read.version
            for task in running
            for read in task.inputs
            if read.table == table and read.version is not None
        )


def kept_for(job: Job, asked: Pruning, authors: Collection[str | None]) -> KeptFor | None:
    """Return why a job stays, looked at alone; `None`: it may go.

    Args:
        authors: The jobs that made what the tables hold.
    """
    rollback = job.rollback
    if not job.is_settled or (rollback is not None and rollback.finished_at is None):
        return KeptFor.NOT_ENDED
    assert job.completed_at is not None
    if job.completed_at >= asked.ended_before:
        return KeptFor.RECENT
    if job.job_id in authors:
        return KeptFor.ROLLBACK
    if not asked.resumable and job.resumed_by is None and job.status is not JobStatus.SUCCESS:
        return KeptFor.RESUMABLE
    return None
