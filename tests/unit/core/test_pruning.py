"""What a prune removes and what it keeps, and that it can be cut off anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from fakes import T0, FakeClock, FakeTables, MemoryStore

from sluicegate.core import pruning
from sluicegate.core.job import (
    Event,
    Job,
    JobQuery,
    JobStatus,
    LogEntry,
    Rollback,
    TaskInput,
    TaskRecord,
    TaskStatus,
)
from sluicegate.core.ports import Accepted, Change, Vacuumed, Writer
from sluicegate.core.pruning import (
    KeptFor,
    PruneCursorError,
    Pruned,
    Pruner,
    Pruning,
    TablePruned,
)
from sluicegate.core.store_errors import StoreUnavailableError

DAY = timedelta(days=1)
BEFORE = T0 + 100 * DAY


class World:
    """A store and a lake, as they are a year after the first job."""

    def __init__(self) -> None:
        self.store, self.tables, self.clock = MemoryStore(), FakeTables(), FakeClock()
        self.clock.pass_(365 * 86_400)
        self.paused: list[float] = []
        self.pruner = Pruner(self.store, self.tables, self.clock, self.paused.append)

    def job(self, number: int, status: JobStatus = JobStatus.SUCCESS, **fields: Any) -> Job:
        """A job that was created and ended on a day of this number."""
        at = T0 + number * DAY
        given: dict[str, Any] = {"completed_at": at, "job_name": "n", "total_tasks": 1}
        made = Job(job_id=f"j{number:04}", status=status, created_at=at, **given | fields)
        writers = fields.pop("writers", ())
        [outcome] = self.store.commit(
            [
                Change(
                    made,
                    made_from=0,
                    writers=writers,
                    events=(Event("job.created", made.job_id, at),),
                    logs=(LogEntry(made.job_id, at, "a line"),),
                )
            ]
        )
        assert isinstance(outcome, Accepted)
        return outcome.job

    def change(self, job: Job, **fields: Any) -> Job:
        [outcome] = self.store.commit([Change(replace(job, **fields), job.version)])
        assert isinstance(outcome, Accepted)
        return outcome.job

    def prune(self, before: datetime = BEFORE, **asked: Any) -> tuple[int, Counter[KeptFor]]:
        """Step after step to the end. Returns: how many jobs went, and why others stayed."""
        jobs, kept, cursor = 0, Counter[KeptFor](), None
        for _ in range(100):
            step = self.pruner.step(Pruning(before, **asked), cursor)
            jobs += step.jobs
            kept.update(step.kept)
            if (cursor := step.cursor) is None:
                return jobs, kept
        raise AssertionError("it does not end")

    @property
    def left(self) -> list[str]:
        return [job.job_id for job in self.store.list(JobQuery(limit=10_000))]


@pytest.fixture
def world() -> World:
    return World()


def test_jobs_that_ended_before_the_instant_go_with_all_they_said(world: World) -> None:
    """And only these: to the microsecond."""
    for number in (98, 99, 100, 101):
        world.job(number)
    assert world.prune() == (2, Counter())
    assert world.left == ["j0101", "j0100"]
    assert {event.job_id for event in world.store.events()} == {"j0100", "j0101"}
    assert world.store.logs("j0098") == []


@pytest.mark.parametrize(
    ("status", "fields", "why"),
    [
        (JobStatus.RUNNING, {"completed_at": None}, KeptFor.NOT_ENDED),
        (JobStatus.PENDING, {"completed_at": None}, KeptFor.NOT_ENDED),
        (JobStatus.CANCELLED, {"completed_at": None}, KeptFor.NOT_ENDED),  # it is stopping
        (JobStatus.CANCELLED, {"running_tasks": 1}, KeptFor.NOT_ENDED),  # unconfirmed
        (JobStatus.SUCCESS, {"rollback": Rollback("r", T0, "ann")}, KeptFor.NOT_ENDED),
        (JobStatus.SUCCESS, {"completed_at": BEFORE}, KeptFor.RECENT),
        (JobStatus.FAILED, {}, KeptFor.RESUMABLE),
        (JobStatus.PARTIAL, {}, KeptFor.RESUMABLE),
        (JobStatus.CANCELLED, {}, KeptFor.RESUMABLE),
    ],
)
def test_what_is_still_needed_stays(
    world: World, status: JobStatus, fields: dict[str, Any], why: KeptFor
) -> None:
    """However old it is, and also when those that could be resumed may go, but for these."""
    world.job(1, status, **fields)
    assert world.prune() == (0, Counter([why]))
    if why is not KeptFor.RESUMABLE:
        assert world.prune(resumable=True) == (0, Counter([why]))
        return
    assert world.prune(resumable=True, dry_run=True) == (1, Counter())
    assert world.left == ["j0001"]
    assert world.prune(resumable=True) == (1, Counter())


def test_the_job_that_made_what_a_table_holds_stays(world: World) -> None:
    """It could be rolled back now."""
    for number in range(3):
        world.job(number)
    world.tables.made_by = {"bronze.a": ["j0001", "j0000"], "bronze.b": []}
    assert world.prune() == (2, Counter([KeptFor.ROLLBACK]))
    assert world.left == ["j0001"]


def test_a_job_and_its_resume_go_together_or_stay(world: World) -> None:
    """A link must not lead nowhere, in neither direction."""

    def line(first: int, *rest: int, last: JobStatus) -> None:
        numbers = (first, *rest)
        for at, number in enumerate(numbers):
            is_last = number == numbers[-1]
            world.job(
                number,
                last if is_last else JobStatus.FAILED,
                resumed_from=f"j{numbers[at - 1]:04}" if at else None,
                resumed_by=None if is_last else f"j{numbers[at + 1]:04}",
            )

    line(1, 2, 3, last=JobStatus.SUCCESS)
    line(4, 5, last=JobStatus.CANCELLED)  # the second could be resumed
    line(6, 200, last=JobStatus.SUCCESS)  # the second is of yesterday
    expected = (3, Counter({KeptFor.RESUMABLE: 1, KeptFor.LINKED: 1}))
    assert world.prune(dry_run=True) == expected
    assert world.prune() == expected
    assert world.left == ["j0200", "j0006", "j0005", "j0004"]
    assert world.prune(resumable=True) == (2, Counter())
    assert world.left == ["j0200", "j0006"]


def test_a_link_to_a_job_that_is_not_there_holds_nothing_back(world: World) -> None:
    """As after a backup that was taken between the two; a dry run says the same."""
    world.job(1, JobStatus.FAILED, resumed_from="j0000", resumed_by="j0002")
    world.job(200)
    world.tables.made_by = {"silver.a": ["j0200", "j0001"]}
    assert world.prune(dry_run=True) == (1, Counter())
    assert [needed.until for _, needed, _ in world.tables.vacuumed] == ["j0001"]
    assert world.prune() == (1, Counter())


def test_a_line_of_jobs_that_crosses_pages_is_judged_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a page ends."""
    monkeypatch.setattr(pruning, "PAGE", 2)
    for number in range(5):
        world.job(
            number,
            JobStatus.FAILED,
            resumed_by=f"j{number + 1:04}" if number < 4 else None,
            resumed_from=f"j{number - 1:04}" if number else None,
        )
    assert world.prune(dry_run=True, resumable=True) == (5, Counter())
    assert world.prune(resumable=True) == (5, Counter())
    assert world.left == []


def test_one_that_is_resumed_while_it_is_removed_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a removal and a resume one wins; here the resume was first."""
    job = world.job(1, JobStatus.FAILED)
    remove = world.store.remove

    def resume_first(groups: Any) -> Any:
        world.change(job, resumed_by="j0300")
        return remove(groups)

    monkeypatch.setattr(world.store, "remove", resume_first)
    assert world.prune(resumable=True) == (0, Counter())
    assert world.left == ["j0001"]


def test_it_goes_in_steps_and_goes_on_where_it_was_cut_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million jobs take longer than a request may; whoever loses the cursor just begins again."""
    monkeypatch.setattr(pruning, "PAGE", 10)
    monkeypatch.setattr(pruning, "LINES_AT_ONCE", 3)
    for number in range(34):
        world.job(number)
    world.job(34, JobStatus.FAILED)
    monotonic = world.clock.monotonic

    def slow() -> float:
        world.clock.pass_(0.5)
        return monotonic()

    monkeypatch.setattr(world.clock, "monotonic", slow)
    step = world.pruner.step(Pruning(BEFORE))
    assert step == Pruned(9, {KeptFor.RESUMABLE: 1}, cursor="jobs:j0025")
    assert len(world.left) == 26
    assert world.pruner.step(Pruning(BEFORE), step.cursor) == Pruned(10, cursor="jobs:j0015")
    assert world.prune() == (15, Counter({KeptFor.RESUMABLE: 1}))
    assert len(world.paused) >= 12
    assert set(world.paused) == {0.5}, "others get no turn as long as each write took"


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_a_step_goes_on_until_its_time_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """A small store and its lake are pruned in two, whoever asks has not to come again."""
    monkeypatch.setattr(pruning, "STEP_SECONDS", seconds)
    monkeypatch.setattr(pruning, "PAGE", 2)
    for number in range(5):
        world.job(number)
    world.job(200)
    world.tables.made_by = {"gold.a": ["j0200"], "gold.b": ["j0200"]}
    assert world.pruner.step(Pruning(BEFORE)) == Pruned(5, cursor="tables:")
    done = tuple(TablePruned(table, Vacuumed(1, 10)) for table in ("gold.a", "gold.b"))
    assert world.pruner.step(Pruning(BEFORE), "tables:") == Pruned(tables=done)


def test_each_job_is_removed_once_with_so_many_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal locks the store: never for more lines of jobs than that at once."""
    monkeypatch.setattr(pruning, "LINES_AT_ONCE", 3)
    for number in range(7):
        world.job(number)
    asked: list[list[str]] = []
    remove = world.store.remove

    def noted(groups: Sequence[Sequence[Job]]) -> Sequence[bool]:
        asked.append([job.job_id for line in groups for job in line])
        return remove(groups)

    monkeypatch.setattr(world.store, "remove", noted)
    assert world.prune() == (7, Counter())
    assert asked == [["j0006", "j0005", "j0004"], ["j0003", "j0002", "j0001"], ["j0000"]]


def test_many_lines_go_some_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One job may have said a million of them."""
    monkeypatch.setattr(pruning, "ROWS_AT_ONCE", 4)
    job = world.job(1)
    world.store.append_logs([LogEntry(job.job_id, T0, "x") for _ in range(10)])
    asked: list[int] = []
    remove = world.store.remove_journal

    def remove_journal(job_ids: Any, *, most: int) -> int:
        asked.append(remove(job_ids, most=most))
        return asked[-1]

    monkeypatch.setattr(world.store, "remove_journal", remove_journal)
    assert world.prune() == (1, Counter())
    assert asked == [4, 4, 4, 0]


def test_a_store_that_goes_away_leaves_whole_jobs(world: World) -> None:
    """And the next prune does the rest."""
    for number in range(3):
        world.job(number)
    world.store.unavailable = True
    with pytest.raises(StoreUnavailableError):
        world.prune()
    world.store.unavailable = False
    assert len(world.left) == 3
    assert world.prune() == (3, Counter())


@pytest.mark.parametrize("dry_run", [False, True])
def test_tables_keep_the_versions_of_jobs_that_are_kept(world: World, dry_run: bool) -> None:
    """From the newest back to the first that has gone: past that nothing can be rolled back."""
    for number in (1, 2, 150, 200):
        world.job(number)
    world.tables.made_by = {"silver.a": ["j0200", "j0150", "j0002", "j0001"], "bronze.b": ["j0200"]}
    world.prune(dry_run=dry_run)
    asked = {table: needed for table, needed, _ in world.tables.vacuumed}
    assert [needed.until for needed in asked.values()] == [None, "j0002"]
    assert {dry for _, _, dry in world.tables.vacuumed} == {dry_run}
    assert {needed.before for needed in asked.values()} == {BEFORE}


@pytest.mark.parametrize("dry_run", [False, True])
def test_tables_keep_the_versions_of_jobs_whose_resume_is_kept(world: World, dry_run: bool) -> None:
    """They stay with it, so they can be rolled back; what was said of them in a dry run holds."""
    world.job(1)
    world.job(2, JobStatus.FAILED, resumed_by="j0003")
    world.job(3, JobStatus.FAILED, resumed_from="j0002", resumed_by="j0200")
    world.job(200, resumed_from="j0003")
    world.tables.made_by = {"silver.a": ["j0200", "j0003", "j0002", "j0001"]}
    world.prune(dry_run=dry_run)
    assert [needed.until for _, needed, _ in world.tables.vacuumed] == ["j0001"]


@pytest.mark.parametrize("forgotten", range(6))
def test_the_first_forgotten_job_is_found_wherever_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch, forgotten: int
) -> None:
    """Among thousands that have changed a table, or first, when a rollback has just put the table back to it."""
    monkeypatch.setattr(pruning, "PAGE", 2)
    for number in range(200, 206):
        world.job(number)
    jobs = [f"j{number:04}" for number in range(205, 199, -1)]
    world.tables.made_by = {"silver.a": list(jobs)}
    jobs[forgotten] = "gone"
    monkeypatch.setattr(world.tables, "undoable", lambda _: jobs)
    world.store.reads = 0
    world.pruner.step(Pruning(BEFORE), "tables:")
    [(_, needed, _)] = world.tables.vacuumed
    assert needed.until == "gone"
    assert world.store.reads == 1 + forgotten // 2 + 1, "each page is read once, after the author"


def test_a_table_is_held_to_what_running_tasks_read_and_who_writes_it(world: World) -> None:
    """A task that reads for days must find its files to the end."""
    world.job(200)
    running = world.job(201, JobStatus.RUNNING, completed_at=None, running_tasks=1)
    task = TaskRecord(
        "t1",
        running.job_id,
        "gold.c",
        TaskStatus.RUNNING,
        inputs=(TaskInput("silver.a", 7), TaskInput("silver.b", 1)),
    )
    ended = TaskRecord(
        "t0", running.job_id, "gold.d", TaskStatus.SUCCESS, inputs=(TaskInput("silver.a", 6),)
    )
    held = Writer("gold.c", 3, running.job_id, "t1")
    world.store.commit([Change(running, running.version, tasks=(task, ended), writers=(held,))])
    world.tables.made_by = {"silver.a": ["j0200"], "gold.c": ["j0200"]}
    world.prune()
    needed = {table: needed for table, needed, _ in world.tables.vacuumed}
    assert (needed["silver.a"].pinned, needed["silver.a"].holder) == ((7,), None)
    assert (needed["gold.c"].pinned, needed["gold.c"].holder) == ((), "t1")


def test_files_of_the_last_hour_stay_whatever_is_asked(world: World) -> None:
    """A task that has just begun has not yet said what it reads."""
    world.job(200)
    world.tables.made_by = {"silver.a": ["j0200"]}
    world.prune(world.clock.now())
    [(_, needed, _)] = world.tables.vacuumed
    assert needed.before == world.clock.now() - timedelta(hours=1)


@pytest.mark.parametrize("made_by", [[], ["a-job-of-another-store"]])
def test_a_table_that_no_kept_job_made_is_left_alone(world: World, made_by: list[str]) -> None:
    """With the wrong STORE, all that the lake keeps for jobs would look unneeded."""
    world.tables.made_by = {"silver.a": made_by}
    step = world.pruner.step(Pruning(BEFORE), "tables:")
    assert step == Pruned(tables=(TablePruned("silver.a", Vacuumed(0, 0), is_strange=True),))
    assert world.tables.vacuumed == []


def test_tables_too_are_done_in_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of their names, each once."""
    world.job(200)
    world.tables.made_by = {f"gold.{name}": ["j0200"] for name in "cab"}
    monkeypatch.setattr(pruning, "STEP_SECONDS", -1.0)
    cursor, steps = "tables:", []
    while cursor:
        steps.append(world.pruner.step(Pruning(BEFORE), cursor))
        cursor = steps[-1].cursor or ""

    def step(table: str, cursor: str | None) -> Pruned:
        return Pruned(tables=(TablePruned(table, Vacuumed(1, 10)),), cursor=cursor)

    assert steps == [
        step("gold.a", "tables:gold.a"),
        step("gold.b", "tables:gold.b"),
        step("gold.c", None),
    ]


def test_a_cursor_of_somebody_else_is_refused(world: World) -> None:
    """And nothing is removed."""
    world.job(1)
    with pytest.raises(PruneCursorError):
        world.pruner.step(Pruning(BEFORE), "nonsense")
    assert world.left == ["j0001"]
