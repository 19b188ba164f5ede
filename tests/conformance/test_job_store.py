"""What every store promises (`core.ports.Store`), whatever keeps it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluicegate.core.job import (
    ApiKey,
    Event,
    Job,
    JobNotFoundError,
    JobQuery,
    JobStatus,
    LogEntry,
    Rollback,
    StopMode,
    TableRollback,
    TaskInput,
    TaskProgress,
    TaskRecord,
    TaskStats,
    TaskStatus,
    TaskStop,
    TaskStopRequest,
)
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.ports import Accepted, Change, Executor, Refused, Store, Writer
from sluicegate.core.receipt import Cause, Kept, Receipt, RemoteStop, StopOutcome, Stopped
from sluicegate.core.store_errors import (
    KeyExistsError,
    KeyNotFoundError,
    StoreUnavailableError,
    UnknownStoreError,
)
from sluicegate.stores import open_store

T0 = datetime(2026, 3, 29, 0, 59, 59, 999_999, tzinfo=UTC)
PLAN = Plan(
    (PlanStep("bronze.flights"), PlanStep("silver.flights", ("bronze.flights",))), by_layer=True
)


def job(number: int, **fields: Any) -> Job:
    """A job; higher numbers have higher ids and are created later."""
    given: dict[str, Any] = {
        "job_id": f"0198-{number:06d}",
        "job_name": f"job {number}",
        "status": JobStatus.PENDING,
        "created_at": T0 + timedelta(minutes=number),
        "total_tasks": 2,
    }
    return Job(**given | fields)


def task(of: Job, task_id: str, pipeline: str = "bronze.flights", **fields: Any) -> TaskRecord:
    given: dict[str, Any] = {"status": TaskStatus.RUNNING, "started_at": T0}
    return TaskRecord(task_id, of.job_id, pipeline, **given | fields)


def event(of: Job, type_: str = "job.created", **fields: Any) -> Event:
    return Event(type_, of.job_id, T0, **fields)


def stored(store: Store, new: Job, plan: Plan | None = PLAN, **fields: Any) -> Job:
    """Store a new job and return it as stored."""
    [outcome] = store.commit([Change(new, made_from=0, plan=plan, **fields)])
    assert isinstance(outcome, Accepted)
    return outcome.job


def change(seen: Job, **fields: Any) -> Change:
    """A change of a job as it was seen; `fields` of the header, or of the change."""
    rest = {k: fields.pop(k) for k in ("tasks", "writers", "events", "logs") if k in fields}
    return Change(replace(seen, **fields), made_from=seen.version, **rest)


def kinds(outcomes: Sequence[object]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


# ------------------------------------------------------------------ headers and versions


def test_a_job_comes_back_as_it_was_stored(store: Store) -> None:
    """Nothing of a header may be lost or rounded on its way."""
    full = job(
        1,
        status=JobStatus.CANCELLED,
        user_id="ann",
        trigger="resume",
        started_at=T0,
        completed_at=T0 + timedelta(microseconds=1),
        running_tasks=1,
        completed_tasks=2,
        failed_tasks=3,
        cancelled_tasks=4,
        params={"day": "2026-01-01", "deep": {"list": [1, 2.5, None, True, "ü"]}},
        labels={"team": "core"},
        priority=-3,
        timeout_seconds=0.1,
        full_refresh=True,
        resumed_from="0197-a",
        resumed_by="0199-b",
        code_version="abc",
        error="it broke\nhere",
        idempotency_key="key",
        executor_id="e1",
        lease=7,
        recoveries=2,
        cancellation=Receipt(
            T0,
            "ann",
            Cause.TIMEOUT,
            reason="late",
            mode="force",
            escalated_at=T0,
            stopped_at=T0 + timedelta(seconds=1),
            latency_ms=1000.125,
            not_started=("gold.delays",),
            kept=(Kept("bronze.flights", 3, 10),),
            stopped=(Stopped("t1", "silver.flights", "kill", 12.5, 3, ("a.py:1 f", "b.py:2 g")),),
            remote=(RemoteStop("query", "confirmed", 2),),
            outcome=StopOutcome.UNCONFIRMED,
            confirmed_at=T0 + timedelta(seconds=2),
            missing_means=("pidfd",),
        ),
        task_stops={"t1": TaskStopRequest(T0, "ben", "late", StopMode.FORCE)},
        rollback=Rollback(
            "r1",
            T0,
            "ann",
            (TableRollback("bronze.flights", 3, 1), TableRollback("silver.flights", 0, None)),
            finished_at=T0,
        ),
    )
    accepted = stored(store, full)
    assert accepted == replace(full, version=1)
    assert store.get(full.job_id) == accepted
    assert store.plan(full.job_id) == PLAN


def test_what_is_missing_is_said(store: Store) -> None:
    with pytest.raises(JobNotFoundError):
        store.get("nope")
    with pytest.raises(JobNotFoundError):
        store.plan("nope")
    assert store.tasks(["nope"]) == []
    assert store.latest_tasks(["bronze.nope"]) == {}
    assert store.list(JobQuery()) == []
    assert store.unfinished() == []
    assert store.find_idempotent("nope") is None
    assert store.events() == []
    assert store.logs("nope") == []
    assert store.last_event_id() == 0
    assert store.executors() == []
    assert store.commit([]) == []


def test_many_headers_are_read_at_once(store: Store) -> None:
    """Those that there are; the rest is left out."""
    jobs = [stored(store, job(number)) for number in range(1, 8)]
    asked = [one.job_id for one in jobs[2:]] + ["nothing"]
    assert store.get_many(asked) == {one.job_id: one for one in jobs[2:]}
    assert store.get_many([]) == {}


def test_a_job_without_a_plan_has_an_empty_one(store: Store) -> None:
    assert store.plan(stored(store, job(1), plan=None).job_id) == Plan()


def test_a_change_needs_the_stored_version(store: Store) -> None:
    """The second of two who read the same version must be told, with what is stored."""
    seen = stored(store, job(1))
    won, lost = change(seen, status=JobStatus.CANCELLED), change(seen, status=JobStatus.SUCCESS)
    assert kinds(store.commit([won])) == [Accepted]
    assert store.commit([lost]) == [Refused(replace(won.job, version=2))]
    assert store.get(seen.job_id).status is JobStatus.CANCELLED


def test_a_creation_needs_that_there_is_no_such_job(store: Store) -> None:
    seen = stored(store, job(1))
    assert store.commit([Change(job(1, job_name="other"), made_from=0)]) == [Refused(seen)]
    assert store.get(seen.job_id) == seen


def test_a_change_of_no_job_is_refused_with_none(store: Store) -> None:
    assert store.commit([Change(job(1), made_from=3)]) == [Refused(None)]
    assert store.list(JobQuery()) == []


def test_the_version_is_the_stores_whatever_the_header_says(store: Store) -> None:
    """A header may carry the version it was read with, or already the next one."""
    seen = stored(store, job(1, version=99))
    assert seen.version == 1
    [outcome] = store.commit([Change(replace(seen, version=2), made_from=1)])
    assert isinstance(outcome, Accepted)
    assert store.get(seen.job_id).version == outcome.job.version == 2


def test_a_refusal_spoils_no_other(store: Store) -> None:
    """One who lost a race must not undo what others decided in the same step."""
    first, second = stored(store, job(1)), stored(store, job(2))
    outcomes = store.commit(
        [
            change(first, status=JobStatus.RUNNING, events=(event(first, "a"),)),
            change(
                replace(first, version=9),
                status=JobStatus.FAILED,
                tasks=(task(first, "t-refused"),),
                events=(event(first, "refused"),),
                logs=(LogEntry(first.job_id, T0, "refused"),),
                writers=(Writer("bronze.flights", 1),),
            ),
            change(second, status=JobStatus.CANCELLED, events=(event(second, "b"),)),
        ]
    )
    assert kinds(outcomes) == [Accepted, Refused, Accepted]
    assert store.get(first.job_id).status is JobStatus.RUNNING
    assert store.get(second.job_id).status is JobStatus.CANCELLED
    assert store.tasks([first.job_id]) == []
    assert store.logs(first.job_id) == []
    assert [e.type for e in store.events()] == ["a", "b"]
    assert store.writers(["bronze.flights"])["bronze.flights"].revision == 0


def test_changes_of_one_job_chain_within_a_call(store: Store) -> None:
    """Creation, start and end can all be decided while one write to disk runs."""
    new = job(1)
    running = replace(new, status=JobStatus.RUNNING, version=1)
    ended = replace(running, status=JobStatus.SUCCESS, version=2)
    outcomes = store.commit(
        [
            Change(new, made_from=0, plan=PLAN, tasks=(task(new, "t1"),), events=(event(new),)),
            change(running, tasks=(task(new, "t1", attempt=2), task(new, "t2"))),
            change(ended, tasks=(task(new, "t1", attempt=3),), events=(event(new, "job.ended"),)),
        ]
    )
    assert kinds(outcomes) == [Accepted, Accepted, Accepted]
    assert store.get(new.job_id) == replace(ended, version=3)
    assert [(t.task_id, t.attempt) for t in store.tasks([new.job_id])] == [("t1", 3), ("t2", 1)]
    assert [e.type for e in store.events()] == ["job.created", "job.ended"]


def test_after_a_refusal_the_later_changes_of_that_job_are_refused(store: Store) -> None:
    """They were derived from what did not happen, even when their version fits by chance."""
    seen, other = stored(store, job(1)), stored(store, job(2))
    held = Writer("bronze.flights", 1, other.job_id, "t9")
    [taken] = store.commit([change(other, writers=(held,))])
    outcomes = store.commit(
        [
            change(seen, status=JobStatus.RUNNING),
            change(replace(seen, version=2), writers=(replace(held, job_id=seen.job_id),)),
            change(replace(seen, version=3), error="derived"),
            change(replace(seen, version=2), error="fits by chance"),
            change(taken.job if isinstance(taken, Accepted) else other, error="of another"),
        ]
    )
    assert kinds(outcomes) == [Accepted, Refused, Refused, Refused, Accepted]
    now = replace(seen, status=JobStatus.RUNNING, version=2)
    assert outcomes[1:4] == [Refused(now)] * 3
    assert store.get(seen.job_id) == now


def test_of_many_racing_threads_exactly_one_wins_each_version(store: Store) -> None:
    """The version check is all that keeps a stop and a completion apart."""
    threads, rounds = 16, 10
    seen = stored(store, job(1))
    gate = threading.Barrier(threads)

    def race(name: int) -> list[int]:
        won, mine = [], seen
        gate.wait(timeout=30)
        while mine.version <= rounds:
            text = f"{name}:{mine.version + 1}"
            [outcome] = store.commit([change(mine, error=text, events=(event(mine, text),))])
            if isinstance(outcome, Accepted):
                won.append(outcome.job.version)
                mine = outcome.job
            else:
                assert outcome.stored is not None
                assert outcome.stored.version > mine.version
                mine = outcome.stored
        return won

    with ThreadPoolExecutor(threads) as pool:
        won = [version for versions in pool.map(race, range(threads)) for version in versions]
    assert sorted(won) == list(range(2, rounds + 2))
    assert len(store.events()) == rounds
    assert store.get(seen.job_id).error == store.events()[-1].type


# ------------------------------------------------------------------ idempotency


def test_a_job_is_created_with_the_change_of_another_or_not_at_all(store: Store) -> None:
    """A resumed job and its successor name each other, whatever happens in between."""
    old = stored(store, job(1))
    new = Change(job(2, resumed_from=old.job_id), made_from=0, plan=PLAN, events=(event(job(2)),))
    asked = replace(change(old, resumed_by="0198-000002"), creates=new)
    [first] = store.commit([asked])
    assert isinstance(first, Accepted)
    assert [e.job_id for e in first.events] == [job(2).job_id]
    assert store.get(old.job_id).resumed_by == job(2).job_id
    assert store.get(job(2).job_id).version == 1
    assert store.plan(job(2).job_id) == PLAN
    assert job(2).job_id in {j.job_id for j in store.list(JobQuery(pipelines=("bronze.flights",)))}

    rival = replace(asked, creates=Change(job(3), made_from=0, plan=PLAN))
    assert kinds(store.commit([rival])) == [Refused]
    with pytest.raises(JobNotFoundError):
        store.get(job(3).job_id)


def test_a_job_is_not_created_over_one_that_is_there(store: Store) -> None:
    """An id that is taken refuses the whole change."""
    old, there = stored(store, job(1)), stored(store, job(2))
    asked = replace(change(old, resumed_by=there.job_id), creates=Change(job(2), made_from=0))
    assert kinds(store.commit([asked])) == [Refused]
    assert store.get(old.job_id) == old
    assert store.get(there.job_id) == there


def test_held_tables_are_listed(store: Store) -> None:
    """What a rollback that was cut off left is found by them."""
    seen = stored(store, job(1), writers=(Writer("a", 1, "j", "t"), Writer("b", 1)))
    assert store.held_writers() == [Writer("a", 1, "j", "t", revision=1)]
    store.commit([change(seen, writers=(Writer("a", 1, revision=1),))])
    assert store.held_writers() == []


def test_a_repeated_idempotency_key_names_the_first_job(store: Store) -> None:
    first = stored(store, job(1, idempotency_key="k"))
    assert store.find_idempotent("k") == first
    [outcome] = store.commit([Change(job(2, idempotency_key="k"), made_from=0)])
    assert outcome == Refused(None, duplicate_of=first.job_id)
    assert [j.job_id for j in store.list(JobQuery())] == [first.job_id]


def test_a_key_repeated_within_a_call_is_a_duplicate(store: Store) -> None:
    outcomes = store.commit([Change(job(n, idempotency_key="k"), made_from=0) for n in (1, 2)])
    assert kinds(outcomes) == [Accepted, Refused]
    assert outcomes[1] == Refused(None, duplicate_of=job(1).job_id)


def test_a_job_with_a_key_can_be_changed(store: Store) -> None:
    """The key is judged when a job is created, never again."""
    first = stored(store, job(1, idempotency_key="k"))
    assert kinds(store.commit([change(first, status=JobStatus.RUNNING)])) == [Accepted]


def test_of_racing_creations_with_one_key_exactly_one_wins(store: Store) -> None:
    gate = threading.Barrier(8)

    def create(number: int) -> Accepted | Refused:
        gate.wait(timeout=30)
        [outcome] = store.commit([Change(job(number, idempotency_key="k"), made_from=0)])
        return outcome

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(create, range(8)))
    [winner] = [o.job.job_id for o in outcomes if isinstance(o, Accepted)]
    assert {o.duplicate_of for o in outcomes if isinstance(o, Refused)} == {winner}


# ------------------------------------------------------------------ tasks


def test_a_task_comes_back_as_it_was_stored(store: Store) -> None:
    new = job(1)
    full = task(
        new,
        "t1",
        status=TaskStatus.CANCELLED,
        completed_at=T0 + timedelta(microseconds=3),
        attempt=2,
        epoch=5,
        permits=1,
        retries_used=1,
        message="m",
        error="e",
        inputs=(TaskInput("bronze.flights", 4), TaskInput("bronze.new", None)),
        stats=TaskStats(1, 2**40, 3, 4, 5),
        progress=TaskProgress(0.5, 2.0, "files"),
        stop=TaskStop("user", "ann", None, "kill", T0, 12.5, 3, ("a.py:1 f",)),
    )
    stored(store, new, tasks=(full,))
    assert store.tasks([new.job_id]) == [full]


def test_tasks_are_in_the_order_of_their_first_start(store: Store) -> None:
    """A retry starts a task again; it must not jump in the timeline."""
    first, second = job(1), job(2)
    seen = stored(store, first, tasks=(task(first, "z"), task(first, "m")))
    stored(store, second, tasks=(task(second, "k"),))
    later = T0 + timedelta(hours=1)
    store.commit([change(seen, tasks=(task(first, "a"), task(first, "z", started_at=later)))])
    assert [t.task_id for t in store.tasks([first.job_id])] == ["z", "m", "a"]
    both = [first.job_id, second.job_id, "nope"]
    assert [t.task_id for t in store.tasks(both)] == ["z", "m", "k", "a"]


def test_tasks_can_be_asked_for_by_status(store: Store) -> None:
    new = job(1)
    rows = [task(new, s.value, status=s) for s in TaskStatus]
    stored(store, new, tasks=tuple(rows))
    assert store.tasks([new.job_id], statuses=[TaskStatus.FAILED]) == [
        t for t in rows if t.status is TaskStatus.FAILED
    ]
    live = store.tasks([new.job_id], statuses=[TaskStatus.RUNNING, TaskStatus.PENDING])
    assert [t.task_id for t in live] == ["pending", "running"]


def test_latest_tasks_are_those_that_started_last(store: Store) -> None:
    """Not those that were written last: a late report of an old job must not hide a newer one."""
    old, new = job(1), job(2)
    seen = stored(store, old, tasks=(task(old, "old"), task(old, "only", "silver.flights")))
    stored(store, new, tasks=(task(new, "new", started_at=T0 + timedelta(seconds=1)),))
    store.commit([change(seen, tasks=(task(old, "old", status=TaskStatus.FAILED),))])
    latest = store.latest_tasks(["bronze.flights", "silver.flights", "gold.nope"])
    assert {p: t.task_id for p, t in latest.items()} == {
        "bronze.flights": "new",
        "silver.flights": "only",
    }


# ------------------------------------------------------------------ writers


def test_a_writer_is_taken_by_one_who_saw_its_revision(store: Store) -> None:
    """Two tasks at one table: the epoch that a commit carries must be one task's alone."""
    first, second = stored(store, job(1)), stored(store, job(2))
    seen = store.writers(["bronze.flights", "bronze.other"])
    assert seen == {
        "bronze.flights": Writer("bronze.flights"),
        "bronze.other": Writer("bronze.other"),
    }
    taken = replace(seen["bronze.flights"], epoch=1, job_id=first.job_id, task_id="t1")
    late = replace(seen["bronze.flights"], epoch=1, job_id=second.job_id, task_id="t2")
    outcomes = store.commit([change(first, writers=(taken,)), change(second, writers=(late,))])
    assert kinds(outcomes) == [Accepted, Refused]
    # The job has the version that the change was made from: it was the writer that refused.
    assert outcomes[1] == Refused(second)
    now = store.writers(["bronze.flights"])["bronze.flights"]
    assert now == replace(taken, revision=1)
    freed = replace(now, job_id=None, task_id=None)
    assert kinds(store.commit([change(second, writers=(freed,))])) == [Accepted]
    assert store.writers(["bronze.flights"])["bronze.flights"] == replace(freed, revision=2)


def test_all_writers_of_a_change_match_or_none_is_written(store: Store) -> None:
    """A rollback holds several tables: half of them would be none."""
    seen = stored(store, job(1), writers=(Writer("silver.b", 1),))
    wrong = (Writer("silver.a", 1), Writer("silver.b", 2))
    assert kinds(store.commit([change(seen, writers=wrong)])) == [Refused]
    assert store.writers(["silver.a"])["silver.a"] == Writer("silver.a")
    right = (Writer("silver.a", 1), Writer("silver.b", 2, revision=1))
    assert kinds(store.commit([change(seen, writers=right)])) == [Accepted]
    assert [w.revision for w in store.writers(["silver.a", "silver.b"]).values()] == [1, 2]


def test_writers_chain_within_a_call(store: Store) -> None:
    """One task frees the table, and the next takes it, in one step."""
    first, second = stored(store, job(1)), stored(store, job(2))
    one = Writer("bronze.flights", 1, first.job_id, "t1")
    two = Writer("bronze.flights", 2, second.job_id, "t2", revision=1)
    assert kinds(store.commit([change(first, writers=(one,)), change(second, writers=(two,))])) == [
        Accepted,
        Accepted,
    ]
    assert store.writers(["bronze.flights"])["bronze.flights"] == replace(two, revision=2)


def test_of_many_racing_writers_exactly_one_takes_the_table(store: Store) -> None:
    seen = [stored(store, job(n)) for n in range(16)]
    gate = threading.Barrier(16)

    def take(mine: Job) -> bool:
        gate.wait(timeout=30)
        writer = Writer("bronze.flights", 1, mine.job_id, f"t-{mine.job_id}")
        return isinstance(store.commit([change(mine, writers=(writer,))])[0], Accepted)

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(take, seen)) == 1


# ------------------------------------------------------------------ history


def many(store: Store) -> list[Job]:
    """Sixty jobs that differ in every way that a query can ask for."""
    plans = [
        PLAN,
        Plan((PlanStep("bronze.weather"),)),
        Plan((PlanStep("gold.delays"), PlanStep("bronze.flights"))),
    ]
    jobs = [
        job(
            n,
            status=list(JobStatus)[n % 6],
            user_id=["ann", "bob", "cy"][n % 3],
            trigger=["api", "ui", "cli", "schedule"][n % 4],
            labels={"team": ["core", "data"][n % 2]} | ({"rare": "x=y"} if n == 30 else {}),
        )
        for n in range(60)
    ]
    for n, new in enumerate(jobs):
        stored(store, new, plan=plans[n // 2 % 3])
    return jobs


def at(minutes: int) -> datetime:
    return T0 + timedelta(minutes=minutes)


FILTERS: dict[str, tuple[dict[str, Any], Callable[[int], bool]]] = {
    "nothing": ({}, lambda n: True),
    "status": ({"statuses": (JobStatus.FAILED,)}, lambda n: n % 6 == 3),
    "statuses": (
        {"statuses": (JobStatus.PENDING, JobStatus.CANCELLED)},
        lambda n: n % 6 in (0, 5),
    ),
    "pipeline": ({"pipelines": ("silver.flights",)}, lambda n: n // 2 % 3 == 0),
    "pipelines": (
        {"pipelines": ("silver.flights", "bronze.flights")},
        lambda n: n // 2 % 3 in (0, 2),
    ),
    "layer": ({"layers": ("gold",)}, lambda n: n // 2 % 3 == 2),
    "layers": ({"layers": ("gold", "silver")}, lambda n: n // 2 % 3 != 1),
    "label": ({"labels": (("team", "data"),)}, lambda n: n % 2 == 1),
    "label with =": ({"labels": (("rare", "x=y"),)}, lambda n: n == 30),
    "label that looks alike": ({"labels": (("rare=x", "y"),)}, lambda n: False),
    "labels of one name": ({"labels": (("team", "data"), ("team", "core"))}, lambda n: True),
    "labels of two names": ({"labels": (("team", "core"), ("rare", "x=y"))}, lambda n: n == 30),
    "user": ({"user_ids": ("bob",)}, lambda n: n % 3 == 1),
    "trigger": ({"triggers": ("cli", "ui")}, lambda n: n % 4 in (1, 2)),
    "from": ({"created_after": at(40)}, lambda n: n >= 40),
    "until": ({"created_before": at(40)}, lambda n: n < 40),
    "between": ({"created_after": at(10), "created_before": at(20)}, lambda n: 10 <= n < 20),
    "status and time": (
        {"statuses": (JobStatus.FAILED,), "created_after": at(30)},
        lambda n: n % 6 == 3 and n >= 30,
    ),
    "user and label": (
        {"user_ids": ("ann",), "labels": (("team", "core"),)},
        lambda n: n % 6 == 0,
    ),
    "all at once": (
        {
            "statuses": (JobStatus.PENDING, JobStatus.FAILED),
            "pipelines": ("bronze.flights",),
            "layers": ("gold", "silver"),
            "labels": (("team", "data"), ("team", "core")),
            "user_ids": ("ann", "bob"),
            "triggers": ("api", "ui", "schedule"),
            "created_after": at(5),
            "created_before": at(55),
        },
        lambda n: (
            n % 6 in (0, 3) and n // 2 % 3 in (0, 2) and n % 3 != 2 and n % 4 != 2 and 5 <= n < 55
        ),
    ),
    "nobody": ({"user_ids": ("zoe",), "statuses": (JobStatus.FAILED,)}, lambda n: False),
}


def test_history_by_each_filter_and_page_size(store: Store) -> None:
    """Every filter finds exactly its jobs, newest first, whole or page by page."""
    jobs = many(store)
    for name, (fields, meets) in FILTERS.items():
        expected = [j.job_id for n, j in reversed(list(enumerate(jobs))) if meets(n)]
        for limit in (1, 7, 500):
            found: list[str] = []
            before = None
            for _ in range(100):
                page = store.list(JobQuery(**fields, before_job_id=before, limit=limit))
                assert len(page) <= limit
                found += [j.job_id for j in page]
                if len(page) < limit:
                    break
                before = page[-1].job_id
            assert found == expected, (name, limit)


def test_history_holds_whole_headers(store: Store) -> None:
    jobs = many(store)
    assert store.list(JobQuery(limit=3)) == [replace(j, version=1) for j in jobs[:56:-1]]


def test_history_follows_the_status(store: Store) -> None:
    seen = stored(store, job(1))
    store.commit([change(seen, status=JobStatus.RUNNING)])
    assert store.list(JobQuery(statuses=(JobStatus.PENDING,))) == []
    assert len(store.list(JobQuery(statuses=(JobStatus.RUNNING,)))) == 1


def test_pages_are_stable_while_jobs_are_added(store: Store) -> None:
    """Whoever turns the page must neither miss a job nor see one twice."""
    for n in range(10):
        stored(store, job(n))
    first = store.list(JobQuery(limit=4))
    stored(store, job(10))
    stored(store, job(11))
    second = store.list(JobQuery(limit=4, before_job_id=first[-1].job_id))
    assert [j.job_id for j in first + second] == [job(n).job_id for n in range(9, 1, -1)]


def test_unfinished_is_what_has_no_end_yet(store: Store) -> None:
    """A cancelled job whose tasks are still stopping is among them: somebody must end them."""
    done = stored(store, job(1, status=JobStatus.SUCCESS, completed_at=T0))
    stopping = stored(store, job(3, status=JobStatus.CANCELLED))
    pending = stored(store, job(2))
    assert store.unfinished() == [pending, stopping]
    store.commit([change(stopping, completed_at=T0)])
    assert store.unfinished() == [pending]
    assert done not in store.unfinished()


# ------------------------------------------------------------------ journal


def test_events_get_growing_ids_and_are_read_on_from_any(store: Store) -> None:
    """A client that lost its connection asks for what came after the last id it saw."""
    first, second = stored(store, job(1)), stored(store, job(2))
    [one, two] = store.commit(
        [
            change(
                first, events=(event(first, "a", task_id="t", data={"n": 1}), event(first, "b"))
            ),
            change(second, events=(event(second, "c"),)),
        ]
    )
    assert isinstance(one, Accepted)
    assert isinstance(two, Accepted)
    told = [*one.events, *two.events]
    assert store.events() == told
    ids = [e.event_id for e in told]
    assert ids == sorted(set(ids))
    assert ids[0] > 0
    assert store.last_event_id() == ids[-1]
    assert store.events(after=ids[0]) == told[1:]
    assert store.events(limit=2) == told[:2]
    assert store.events(after=ids[0], limit=1) == told[1:2]
    assert store.events(job_id=second.job_id) == told[2:]
    assert store.events(job_id=first.job_id, after=ids[0]) == told[1:2]
    assert store.events(after=ids[-1]) == []


def test_nobody_sees_an_event_before_one_with_a_smaller_id(store: Store) -> None:
    """A reader that follows by id while many write must get every event, in order."""
    writers, each = 8, 12
    gate = threading.Barrier(writers + 1)

    def write(name: int) -> None:
        mine = stored(store, job(name))
        gate.wait(timeout=30)
        for n in range(each):
            [outcome] = store.commit([change(mine, events=(event(mine, f"{name}:{n}"),))])
            assert isinstance(outcome, Accepted)
            mine = outcome.job

    followed: list[Event] = []
    with ThreadPoolExecutor(writers) as pool:
        done = [pool.submit(write, name) for name in range(writers)]
        gate.wait(timeout=30)
        while len(followed) < writers * each:
            finished = all(f.done() for f in done)
            followed += store.events(after=followed[-1].event_id if followed else 0, limit=5)
            if finished and len(followed) == store.last_event_id():
                break
        for future in done:
            future.result()
    assert [e.event_id for e in followed] == sorted(e.event_id for e in followed)
    assert len(followed) == writers * each


def test_logs_are_read_by_job_by_task_and_on_from_any(store: Store) -> None:
    first, second = stored(store, job(1)), stored(store, job(2))
    store.append_logs(
        [
            LogEntry(first.job_id, T0, "one", "t1", "warning", "stderr"),
            LogEntry(second.job_id, T0, "other"),
            LogEntry(first.job_id, T0, "two", "t2"),
        ]
    )
    store.commit([change(first, logs=(LogEntry(first.job_id, T0, "three", "t1"),))])
    store.append_logs([])
    store.append_logs([LogEntry(first.job_id, T0, "four")])
    lines = store.logs(first.job_id)
    assert [entry.message for entry in lines] == ["one", "two", "three", "four"]
    assert lines[0] == LogEntry(first.job_id, T0, "one", "t1", "warning", "stderr", lines[0].log_id)
    ids = [entry.log_id for entry in lines]
    assert ids == sorted(set(ids))
    assert store.logs(first.job_id, after=ids[1]) == lines[2:]
    assert store.logs(first.job_id, limit=2) == lines[:2]
    assert store.logs(first.job_id, task_id="t1") == [lines[0], lines[2]]
    assert store.logs(first.job_id, task_id="t1", after=ids[0], limit=1) == [lines[2]]
    assert [entry.message for entry in store.logs(second.job_id)] == ["other"]


def test_a_line_with_characters_that_no_database_holds_is_kept(store: Store) -> None:
    """Tasks print what they like; one such line must not stop the log or the job."""
    seen = stored(store, job(1))
    store.append_logs([LogEntry(seen.job_id, T0, "a\0b\udcffc ünï \U0001f6d1")])
    assert store.logs(seen.job_id)[0].message == "a\ufffdb\ufffdc ünï \U0001f6d1"


def test_unclaimed_are_those_that_nobody_holds_in_the_order_of_service(store: Store) -> None:
    """Executors with room take the most urgent first, and none that another one runs or that is over."""
    low, high, older = job(1, priority=-1), job(5, priority=7), job(3)
    held, over, newer = job(2, executor_id="e1", lease=1), job(4, completed_at=T0), job(6)
    for one in (newer, low, held, over, high, older):
        stored(store, one)
    assert [j.job_id for j in store.unclaimed(10)] == [
        one.job_id for one in (high, older, newer, low)
    ]
    assert [j.job_id for j in store.unclaimed(2)] == [high.job_id, older.job_id]
    seen = store.get(high.job_id)
    store.commit([change(seen, executor_id="e1", lease=1)])
    assert [j.job_id for j in store.unclaimed(2)] == [older.job_id, newer.job_id]


# ------------------------------------------------------------------ executors and keys


def test_a_heartbeat_makes_an_executor_known_and_moves_its_beat(store: Store) -> None:
    late = Executor("e2", "host", 2, T0 + timedelta(seconds=1))
    early = Executor("e1", "host", 1, T0)
    store.beat(late)
    store.beat(early)
    store.beat(replace(late, beat=7))
    assert store.executors() == [early, replace(late, beat=7)]


def test_an_executor_that_has_ended_is_forgotten(store: Store) -> None:
    """Nobody should wait for its lease to run out; and a list of all that ever were would only grow."""
    first, second = Executor("e1", "host", 1, T0), Executor("e2", "host", 2, T0)
    store.beat(first)
    store.beat(second)
    store.forget_executor("e1")
    store.forget_executor("never-was")
    assert store.executors() == [second]
    store.beat(first)
    assert {executor.executor_id for executor in store.executors()} == {"e1", "e2"}


def test_keys_are_found_by_hash_and_revoked_by_name(store: Store) -> None:
    first = ApiKey("ci", "operator", "hash-1", T0)
    other = ApiKey("me", "admin", "hash-2", T0 + timedelta(seconds=1))
    store.add_key(other)
    store.add_key(first)
    assert store.find_key("hash-1") == first
    assert store.find_key("nope") is None
    assert store.list_keys() == [first, other]
    with pytest.raises(KeyExistsError):
        store.add_key(ApiKey("ci", "viewer", "hash-3", T0))
    assert store.find_key("hash-3") is None

    revoked = replace(first, revoked_at=T0 + timedelta(seconds=2))
    assert store.revoke_key("ci", T0 + timedelta(seconds=2)) == revoked
    assert store.find_key("hash-1") == revoked
    with pytest.raises(KeyNotFoundError):
        store.revoke_key("ci", T0)
    store.add_key(ApiKey("ci", "viewer", "hash-3", T0 + timedelta(seconds=3)))
    assert [key.key_hash for key in store.list_keys()] == ["hash-1", "hash-2", "hash-3"]


# ------------------------------------------------------------------ opening and closing


def test_what_was_accepted_is_there_after_closing_and_opening(
    store: Store, open_again: Callable[[], Store]
) -> None:
    new = job(1, idempotency_key="k", labels={"team": "core"})
    seen = stored(
        store,
        new,
        tasks=(task(new, "t1"),),
        writers=(Writer("bronze.flights", 1),),
        events=(event(new),),
        logs=(LogEntry(new.job_id, T0, "line"),),
    )
    store.add_key(ApiKey("ci", "operator", "hash", T0))
    store.beat(Executor("e1", "host", 1, T0))
    store.close()
    store.close()
    with pytest.raises(StoreUnavailableError):
        store.get(seen.job_id)

    again = open_again()
    try:
        assert again.get(seen.job_id) == seen
        assert again.plan(seen.job_id) == PLAN
        assert again.list(JobQuery(labels=(("team", "core"),))) == [seen]
        assert again.find_idempotent("k") == seen
        assert len(again.tasks([seen.job_id])) == 1
        assert again.writers(["bronze.flights"])["bronze.flights"].revision == 1
        assert again.logs(seen.job_id)[0].message == "line"
        assert again.find_key("hash") is not None
        assert len(again.executors()) == 1
        last = again.last_event_id()
        [outcome] = again.commit([change(seen, events=(event(seen),))])
        assert isinstance(outcome, Accepted)
        assert outcome.events[0].event_id > last > 0
    finally:
        again.close()


def test_two_openings_of_one_store_see_each_other(
    store: Store, open_again: Callable[[], Store]
) -> None:
    """A command line writes to the store of a server that runs."""
    other = open_again()
    try:
        seen = stored(store, job(1))
        assert other.get(seen.job_id) == seen
        assert kinds(other.commit([change(seen, status=JobStatus.CANCELLED)])) == [Accepted]
        assert kinds(store.commit([change(seen, status=JobStatus.SUCCESS)])) == [Refused]
    finally:
        other.close()


def test_who_watches_is_told_of_what_others_commit(
    store: Store, open_again: Callable[[], Store]
) -> None:
    """A stop that another server has decided must not wait until somebody happens to look."""
    told = threading.Event()
    unwatch = store.watch(told.set)
    other = open_again()
    try:
        seen = stored(other, job(1))
        for n in range(3):
            told.clear()
            [outcome] = other.commit([change(seen, events=(event(seen, f"{n}"),))])
            assert isinstance(outcome, Accepted)
            seen = outcome.job
            assert told.wait(30), "nobody was told"
            assert [e.type for e in store.events()][-1] == f"{n}"
        unwatch()
        told.clear()
        other.commit([change(seen, events=(event(seen, "last"),))])
        assert not told.wait(1), "it was called after its end"
    finally:
        other.close()


@pytest.mark.parametrize(
    "url", ["", "jobs.db", "nosuch://place", "sqlite://", "sqlite:///:memory:"]
)
def test_a_url_that_names_no_store_says_which_would(url: str) -> None:
    with pytest.raises(UnknownStoreError, match="name one like sqlite:///"):
        open_store(url)


# ------------------------------------------------------------------ removing


def test_a_job_is_removed_with_all_that_belongs_to_it_and_nothing_else(store: Store) -> None:
    """What is left of a removed job would be found by nobody, or by somebody who trips over it."""
    old, other = (
        stored(
            store,
            job(n, labels={"team": "core"}, idempotency_key=f"key {n}", user_id="ann"),
            tasks=(task(job(n), f"t{n}"),),
            events=(event(job(n)), event(job(n), "job.finished")),
            logs=(LogEntry(job(n).job_id, T0, "a line", f"t{n}"),),
        )
        for n in (1, 2)
    )
    assert list(store.remove([[old]])) == [True]

    with pytest.raises(JobNotFoundError):
        store.get(old.job_id)
    with pytest.raises(JobNotFoundError):
        store.plan(old.job_id)
    assert store.find_idempotent("key 1") is None
    assert list(store.tasks([old.job_id])) == []
    assert store.logs(old.job_id) == []
    assert {e.job_id for e in store.events()} == {other.job_id}
    for query in (
        JobQuery(),
        JobQuery(labels=(("team", "core"),)),
        JobQuery(pipelines=("bronze.flights",)),
        JobQuery(user_ids=("ann",)),
        JobQuery(statuses=(JobStatus.PENDING,)),
    ):
        assert [found.job_id for found in store.list(query)] == [other.job_id]
    assert [t.task_id for t in store.tasks([other.job_id])] == ["t2"]
    assert [line.message for line in store.logs(other.job_id)] == ["a line"]
    assert store.find_idempotent("key 2") == other
    assert store.latest_tasks(["bronze.flights"])["bronze.flights"].task_id == "t2"


def test_a_job_that_has_changed_since_it_was_read_is_not_removed(store: Store) -> None:
    """Somebody has just resumed it, or takes it back."""
    seen = stored(store, job(1), logs=(LogEntry(job(1).job_id, T0, "a line"),))
    [outcome] = store.commit([change(seen, resumed_by="0199-b")])
    assert isinstance(outcome, Accepted)
    assert list(store.remove([[seen]])) == [False]
    assert store.get(seen.job_id) == outcome.job
    assert store.plan(seen.job_id) == PLAN
    assert len(store.logs(seen.job_id)) == 1
    assert list(store.remove([[outcome.job]])) == [True]
    assert list(store.remove([[outcome.job]])) == [False]


def test_of_a_group_all_jobs_are_removed_or_none(store: Store) -> None:
    """Jobs that name each other go together; one group that stays keeps no other."""
    first, second, third = (stored(store, job(n)) for n in (1, 2, 3))
    store.commit([change(second, error="changed")])
    assert list(store.remove([[first, second], [third]])) == [False, True]
    left = [found.job_id for found in store.list(JobQuery())]
    assert left == [second.job_id, first.job_id]
    assert list(store.remove([])) == []


def test_ids_and_epochs_are_not_given_out_again_after_a_removal(store: Store) -> None:
    """Whoever goes on after the last event must miss none, and a late writer must stay shut out."""
    taken = Writer("bronze.flights", epoch=3, job_id=job(1).job_id, task_id="t1")
    first = stored(
        store,
        job(1),
        writers=(taken,),
        events=(event(job(1)),),
        logs=(LogEntry(job(1).job_id, T0, "a line"),),
    )
    [before] = store.logs(first.job_id)
    last = store.last_event_id()
    free = replace(taken, job_id=None, task_id=None, revision=1)
    [outcome] = store.commit([change(first, writers=(free,))])
    assert isinstance(outcome, Accepted)
    assert list(store.remove([[outcome.job]])) == [True]
    assert store.last_event_id() == last
    assert store.writers(["bronze.flights"])["bronze.flights"].epoch == 3
    stored(store, job(1), events=(event(job(1)),), logs=(LogEntry(job(1).job_id, T0, "again"),))
    assert [e.event_id for e in store.events()] == [last + 1]
    [after] = store.logs(job(1).job_id)
    assert after.log_id > before.log_id


def test_a_journal_is_removed_some_at_a_time(store: Store) -> None:
    """A job may have said a million lines, and a writer must not wait for all of them."""
    chatty, other = (stored(store, job(n), events=(event(job(n)),)) for n in (1, 2))
    for n in range(5):
        for of in (chatty, other):
            store.append_logs([LogEntry(of.job_id, T0, f"line {n}")])
    removed = [store.remove_journal([chatty.job_id], most=4) for _ in range(3)]
    assert removed == [4, 2, 0]
    assert store.logs(chatty.job_id) == []
    assert store.events(job_id=chatty.job_id) == []
    assert store.get(chatty.job_id) == chatty
    assert len(store.logs(other.job_id)) == 5
    assert len(store.events()) == 1
    assert store.remove_journal([], most=4) == 0


def test_a_wide_job_is_removed_whole(store: Store) -> None:
    """More rows than a batch of any back end takes."""
    wide = stored(store, job(1))
    for start in range(0, 600, 200):
        rows = tuple(task(wide, f"t{n}", f"bronze.p{n}") for n in range(start, start + 200))
        [outcome] = store.commit([change(wide, tasks=rows)])
        assert isinstance(outcome, Accepted)
        wide = outcome.job
    assert len(store.tasks([wide.job_id])) == 600
    assert list(store.remove([[wide]])) == [True]
    assert list(store.tasks([wide.job_id])) == []
    assert list(store.list(JobQuery())) == []


def test_epochs_are_raised_where_a_table_is_ahead_and_never_lowered(store: Store) -> None:
    """A store from a backup must hand out none that a writer has had."""
    held = Writer("silver.a", epoch=3, job_id=job(1).job_id, task_id="t1")
    stored(store, job(1), writers=(held, Writer("silver.b", epoch=9)))
    assert list(store.raise_epochs({"silver.b": 5, "silver.a": 7, "silver.new": 2})) == [
        "silver.a",
        "silver.new",
    ]
    found = store.writers(["silver.a", "silver.b", "silver.new"])
    assert found["silver.a"] == replace(held, epoch=7, revision=2)
    assert found["silver.b"].epoch == 9
    assert (found["silver.new"].epoch, found["silver.new"].is_free) == (2, True)
    taken = replace(found["silver.new"], epoch=3, job_id=job(1).job_id, task_id="t2")
    outdated = replace(held, revision=1)
    seen = store.get(job(1).job_id)
    assert kinds(store.commit([change(seen, writers=(outdated,))])) == [Refused]
    assert kinds(store.commit([change(seen, writers=(taken,))])) == [Accepted]
    assert list(store.raise_epochs({})) == []
