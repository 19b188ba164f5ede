"""What became of an attempt that could not say it: its table's log is the truth after a crash.

All on the executor's thread; tables are read aside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from sluicegate.cancel_policy import DEFAULT_POLICY
from sluicegate.core.agenda import Agenda
from sluicegate.core.cancellation import Stage
from sluicegate.core.conclusions import RECOVERIES_EXHAUSTED, told
from sluicegate.core.held_jobs import HeldJobs
from sluicegate.core.job import Job, StopMode, TaskRecord
from sluicegate.core.job_run import JobRun
from sluicegate.core.ledger import Written
from sluicegate.core.ports import Change, Clock, Settled, Tables, TaskEnded, Writer
from sluicegate.core.receipt import Cause
from sluicegate.core.stops import TaskStopping
from sluicegate.core.table_book import TableBook
from sluicegate.core.transitions import Ended, TaskEvent

log = logging.getLogger(__name__)

RECOVERIES_MAX: Final = 3
SETTLE_PAUSE_SECONDS: Final = 1.0
SETTLE_TRIES_MAX: Final = 60


Told = Callable[[Settled], None]


class Recovery:
    """Settles attempts of one executor's jobs.

    Args:
        aside: Does something on another thread.
        conclude: Told how an attempt ended, and of the stop that ended it.
        end: Told what an attempt came to, where that needs no judging.
    """

    def __init__(
        self,
        *,
        tables: Tables,
        book: TableBook,
        agenda: Agenda[Any],
        clock: Clock,
        held: HeldJobs,
        aside: Callable[[Callable[[], None]], object],
        conclude: Callable[[JobRun, TaskRecord, TaskEnded, TaskStopping | None], None],
        end: Callable[[JobRun, TaskRecord, Ended], None],
    ) -> None:
        self._tables, self._book, self._agenda = tables, book, agenda
        self._clock, self._held, self._aside = clock, held, aside
        self._conclude, self._end = conclude, end

    def settle(
        self,
        record: TaskRecord,
        then: Told,
        fence: Writer | None = None,
        tries_left: int = SETTLE_TRIES_MAX,
    ) -> None:
        """Read from its table's log what a task has committed. A log that cannot be read is asked again.

        A task that never asked for a permit has committed nothing: what is stored is all there is.
        """
        if not record.permits:
            then(Settled(record.stats, complete=False))
            return
        self._agenda.unanswered += 1

        def read() -> None:
            try:
                settled = self._tables.settle(record.pipeline, record.task_id, fence)
            except Exception as error:  # noqa: BLE001 - whatever a lake on a bad day raises
                log.warning("settle_failed task_id=%s error=%s", record.task_id, error)
                self._agenda.post(could_not)
            else:
                self._agenda.post(lambda: read_it(settled))

        def read_it(settled: Settled) -> None:
            self._agenda.unanswered -= 1
            then(settled)

        def could_not() -> None:
            if tries_left <= 1:  # a table that stays unreadable must not lose the job
                read_it(Settled(record.stats, complete=False))
                return
            self._agenda.unanswered -= 1
            again = partial(self.settle, record, then, fence, tries_left - 1)
            self._agenda.later(SETTLE_PAUSE_SECONDS, again)

        self._aside(read)

    def clean_up(self, record: TaskRecord) -> None:
        """Remove what a writer that was killed left of files; a reader never sees them, but they take room."""

        def remove() -> None:
            try:
                self._tables.clean_up(record.pipeline, record.task_id, record.attempt)
            except Exception as error:  # noqa: BLE001 - it is waste, and not worth a job
                log.warning("clean_up_failed task_id=%s error=%s", record.task_id, error)

        self._aside(remove)

    def take_up(self, run: JobRun, record: TaskRecord) -> None:
        """A task that ran when its executor died: it goes on, unless its job was stopped or has no try left.

        Its last writer may only be out of reach, and come back with the permit it had. So where the log does not
        say that all is committed, it is shut out before the log is believed, and before its files are removed.
        """
        pipeline = record.pipeline

        def then(settled: Settled) -> None:
            if not self._held.holds(run):
                return
            record = run.records[pipeline]
            self.clean_up(record)
            exhausted = run.job.recoveries > RECOVERIES_MAX
            now = self._clock.monotonic()
            stopping = stopped_elsewhere(run, record, Stage.KILL, now)
            if settled.complete or stopping is not None or run.job.is_terminal or exhausted:
                message = RECOVERIES_EXHAUSTED if exhausted and not run.job.is_terminal else None
                ended = TaskEnded(record.task_id, "lost", message=message, stage=Stage.KILL)
                self._conclude(run, record, told(ended, settled), stopping)
            else:
                why = "taken up again after a crash"
                wait = Ended(TaskEvent.WAIT, self._clock.now(), settled.stats, why)
                self._end(run, record, wait)

        def looked(settled: Settled) -> None:
            if settled.complete or not record.permits:
                then(settled)
            else:
                self._agenda.safely(lambda: self._shut_out(run, record, then))

        self.settle(record, looked)

    def _shut_out(self, run: JobRun, record: TaskRecord, then: Told) -> None:
        """Take the table anew for a task, so that the table itself refuses what still writes for it; then settle."""
        if not self._held.holds(run):
            return
        held = self._book.held_by(record)
        assert held.task_id == record.task_id, "a running task holds its table"
        fence = replace(held, epoch=held.epoch + 1)
        fenced = replace(record, epoch=fence.epoch)

        def decide(job: Job) -> Change | None:
            if not self._held.is_own(job, run):
                return None
            return Change(job, made_from=job.version, tasks=(fenced,), writers=(fence,))

        def stored(written: Written) -> None:
            self._held.heard(run, written)
            if written.conflict:
                self._book.forget(record.pipeline)
                self._agenda.safely(lambda: self._shut_out(run, record, then))
            elif written.changed and self._held.holds(run):
                self._book.stored(fence)
                run.records[record.pipeline] = fenced
                self.settle(fenced, then, fence)

        self._agenda.write(run.job.job_id, decide, stored)


def stopped_elsewhere(
    run: JobRun, record: TaskRecord, delivered: Stage, now: float
) -> TaskStopping | None:
    """Return the stop of a task that nothing was delivered to from here: its job's, or its own."""
    by = partial(
        TaskStopping, record.task_id, now, DEFAULT_POLICY, delivered=delivered, seen_begin=False
    )
    if (receipt := run.job.cancellation) is not None:
        mode = StopMode(receipt.mode)
        return by(mode, receipt.cause, receipt.requested_by, receipt.reason)
    if (stop := run.job.task_stops.get(record.task_id)) is not None:
        return by(stop.mode, Cause.USER, stop.requested_by, stop.reason)
    return None
