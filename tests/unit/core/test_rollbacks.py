"""Taking back what a job has published: what is stored of it, what people read, and who is first."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from fakes import T0, DirectLedger, FakeClock, FakeTables, MemoryStore

from sluicegate.core.job import (
    Event,
    Job,
    JobNotRolledBackError,
    JobStatus,
    LogEntry,
    Rollback,
    TableRollback,
    TaskRecord,
    TaskStats,
    TaskStatus,
)
from sluicegate.core.ports import Change, Writer
from sluicegate.core.rollbacks import Rollbacks
from sluicegate.core.store_errors import StoreUnavailableError

A, SA, GA = "bronze.a", "silver.a", "gold.a"
PUT_BACK_SECONDS = 5


class Lake(FakeTables):
    """Tables that know which job has changed them last; each takes its time to be put back."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.changed_by: dict[str, str] = {}
        self._clock = clock

    def plan_rollback(self, table: str, job_id: str) -> TableRollback | None:
        return super().plan_rollback(table, job_id) if self.changed_by[table] == job_id else None

    def roll_back(self, step: TableRollback, writer: Writer) -> None:
        super().roll_back(step, writer)
        self._clock.pass_(PUT_BACK_SECONDS)


class Server:
    """What rolls back in one process.

    Args:
        beside: Another one, on the same store and lake.
    """

    def __init__(self, beside: Server | None = None) -> None:
        self.clock = beside.clock if beside else FakeClock()
        self.lake = beside.lake if beside else Lake(self.clock)
        self.store = MemoryStore(beside.store.memory if beside else None)
        ledger = DirectLedger(self.store, lambda _: None)
        self.rollbacks = Rollbacks(self.store, ledger, self.clock, self.lake)
        self.freed: list[list[str]] = []
        self.rollbacks.freed = lambda tables: self.freed.append(list(tables))

    def ended(self, *changed: TableRollback, untouched: tuple[str, ...] = ()) -> Job:
        """A job that has succeeded; `untouched`: pipelines of it that committed nothing."""
        job = Job("j", "j", JobStatus.SUCCESS, T0, 3, completed_at=T0)
        stats = {step.table: TaskStats(rows=1, units=1) for step in changed}
        tasks = tuple(
            TaskRecord(f"t-{p}", "j", p, TaskStatus.SUCCESS, stats=stats.get(p, TaskStats()))
            for p in (*stats, *untouched)
        )
        self.lake.rollbacks = {step.table: step for step in changed}
        self.lake.changed_by = dict.fromkeys(stats, "j")
        self.store.commit([Change(job, made_from=0, tasks=tasks)])
        return self.store.get("j")

    def roll_back(self) -> Job:
        job = self.store.get("j")
        return self.rollbacks.roll_back(job, self.store.tasks(["j"]), "root")

    def take(self, table: str) -> None:
        """Another job's task starts at a table."""
        taken = Writer(table, 1, "other", "t", revision=self.store.writers([table])[table].revision)
        other = Job("other", "other", JobStatus.RUNNING, T0, 1)
        self.store.commit([Change(other, made_from=0, writers=(taken,))])

    @property
    def events(self) -> list[Event]:
        return [replace(event, event_id=0) for event in self.store.events(job_id="j")]

    @property
    def lines(self) -> list[LogEntry]:
        return [replace(line, log_id=0) for line in self.store.logs("j")]


def test_a_rollback_is_stored_told_and_logged_from_its_request_to_its_end() -> None:
    """The job says who asked, when it began and was over, and for each table from where to where it went."""
    server = Server()
    steps = (TableRollback(A, 3, 2), TableRollback(SA, 4, None))
    before, end = server.ended(*steps, untouched=(GA,)), T0 + timedelta(seconds=10)

    after = server.roll_back()

    assert after.rollback is not None
    done = Rollback(after.rollback.rollback_id, T0, "root", steps, end)
    assert after == replace(before, rollback=done, version=before.version + 2)
    assert server.store.get("j") == after
    tables = {"tables": [A, SA]}
    assert server.events == [
        Event("job.rolling_back", "j", T0, data=tables),
        Event("job.rolled_back", "j", end, data=tables),
    ]
    assert server.lines == [
        LogEntry("j", T0, "rollback requested by root"),
        LogEntry("j", end, f"{A} is as of version 2 again, was version 3"),
        LogEntry("j", end, f"{SA} is empty again, was version 4"),
    ]
    assert server.lake.rolled_back == [(A, 1), (SA, 1)]
    assert server.store.writers([A, SA]) == {t: Writer(t, 1, revision=2) for t in (A, SA)}
    assert server.freed == [[A, SA]]


def test_a_table_of_a_later_job_is_left_alone() -> None:
    """The lake is asked what this job has changed: a task may have committed what another job has taken back."""
    server = Server()
    server.ended(TableRollback(A, 3, 2), TableRollback(SA, 4, 1))
    server.lake.changed_by[A] = "another"
    assert server.roll_back().rolled_back == {SA}
    assert server.lake.rolled_back == [(SA, 1)]


def test_a_job_that_changed_no_table_is_rolled_back_all_the_same() -> None:
    """Who asks for it twice, or looks at its logs, is told what has become of it."""
    server = Server()
    before = server.ended(untouched=(A,))
    after = server.roll_back()
    assert after.rollback is not None
    assert after.rollback == Rollback(after.rollback.rollback_id, T0, "root", (), T0)
    assert replace(after, rollback=None, version=before.version) == before
    assert server.events == [
        Event("job.rolling_back", "j", T0, data={"tables": []}),
        Event("job.rolled_back", "j", T0, data={"tables": []}),
    ]
    assert server.lines == [
        LogEntry("j", T0, "rollback requested by root"),
        LogEntry("j", T0, "rolled back: it had changed no table"),
    ]


def test_a_rollback_without_a_table_is_decided_and_over_in_one_write() -> None:
    """No table's writer names it: cut off in between nobody would carry it on, and the job could never be resumed."""
    server = Server()
    server.ended()

    def dies(change: Change) -> None:
        server.store.unavailable = change.job.rollback is not None

    server.store.accepted = dies
    answered, stored = server.roll_back(), Server(beside=server).store.get("j")
    assert answered == stored
    assert stored.rollback is not None
    assert stored.rollback.finished_at == T0


@pytest.mark.parametrize("taken", ["before", "between"])
def test_a_table_that_is_being_written_is_refused_in_words(taken: str) -> None:
    """Whoever started at it first keeps it, and nothing of the job is put back."""
    server = Server()
    before = server.ended(TableRollback(A, 3, 2), TableRollback(SA, 4, 1))
    plan = server.lake.plan_rollback

    def and_then_somebody_starts(table: str, job_id: str) -> TableRollback | None:
        if table == SA:
            server.take(SA)
        return plan(table, job_id)

    if taken == "before":
        server.take(SA)
    else:
        server.lake.plan_rollback = and_then_somebody_starts  # type: ignore[method-assign]
    with pytest.raises(JobNotRolledBackError) as refused:
        server.roll_back()
    which = f"table {SA!r}" if taken == "before" else "one of its tables"
    assert (refused.value.code, refused.value.job_id) == ("table_busy", "j")
    assert refused.value.what == f"cannot roll back job 'j': {which} is being written"
    assert refused.value.mend == "wait until that is over, or stop it"
    assert server.store.get("j") == before
    assert (server.lake.rolled_back, server.events, server.lines) == ([], [], [])


def test_a_rollback_that_another_server_carries_on_at_once_is_told_once() -> None:
    """Two that started after a crash find the same tables held; the second finds that it is done."""
    first = Server()
    first.ended(TableRollback(A, 3, 2))
    first.lake.broken = True
    with pytest.raises(StoreUnavailableError):
        first.roll_back()
    first.lake.broken = False
    second = Server(beside=first)
    put_back = first.lake.roll_back

    def while_the_other_does(step: TableRollback, writer: Writer) -> None:
        first.lake.roll_back = put_back  # type: ignore[method-assign]
        second.rollbacks.finish()
        put_back(step, writer)

    first.lake.roll_back = while_the_other_does  # type: ignore[method-assign]
    asked = len(first.store.commits)
    first.rollbacks.finish()
    assert [event.type for event in first.events] == ["job.rolling_back", "job.rolled_back"]
    assert (told := first.store.get("j").rollback) is not None
    assert told.finished_at == T0 + timedelta(seconds=PUT_BACK_SECONDS)
    assert first.store.commits[asked:] == [1], "refused once, and not tried again"
    assert first.lake.rolled_back == [(A, 1)]
    assert (first.freed, second.freed) == ([[A]], [[A]])
