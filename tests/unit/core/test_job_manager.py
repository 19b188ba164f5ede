"""The verbs that routes, commands and the executor share."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest
from executor_world import spec
from fakes import T0
from managed import PLAN, Managed, task

from sluicegate.core import ids as ids_module
from sluicegate.core.ids import new_id
from sluicegate.core.job import (
    Event,
    Job,
    JobNotFoundError,
    JobNotRunningError,
    JobQuery,
    JobStatus,
    LogEntry,
    StopMode,
    TaskProgress,
    TaskStats,
    TaskStatus,
    TaskStop,
)
from sluicegate.core.job_manager import (
    MATCHED_PAGE,
    Catalog,
    JobDetails,
    NothingToRunError,
    RunRequest,
    StopRequest,
    StopResult,
    TooManyJobsError,
    close_job,
)
from sluicegate.core.pace import Outlook
from sluicegate.core.plan import PipelineNotFoundError
from sluicegate.core.ports import Change
from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.errors import SluicegateError

# ------------------------------------------------------------------ ids


def test_ids_are_unique_uuids_of_version_7() -> None:
    """Clients and databases know the format; two jobs must never share one."""
    ids = [new_id() for _ in range(5000)]
    assert len(set(ids)) == len(ids)
    for text in ids[:100]:
        one = uuid.UUID(text)
        assert (one.version, one.variant, str(one)) == (7, uuid.RFC_4122, text)


def test_ids_sort_by_the_instant_to_a_quarter_of_a_microsecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """History is read newest first by id. RFC 9562, 6.2, method 3: a fraction follows the millisecond."""
    instants = [
        1_700_000_000_000_000_000 + n * 250 for n in (0, 1, 2, 2000, 3999, 4000, 4001, 10**9)
    ]
    ids = []
    for instant in instants:
        monkeypatch.setattr(ids_module.time, "time_ns", lambda at=instant: at)
        ids.append(new_id())
    assert ids == sorted(ids)
    assert len({i[:18] for i in ids}) == len(ids)
    assert uuid.UUID(ids[0]).int >> 80 == 1_700_000_000_000
    assert ids[3][15:18] == "800", "half a millisecond"


def test_ids_of_one_instant_differ_in_every_bit_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many servers make ids in the same instant: it is 62 random bits that keep them apart."""
    monkeypatch.setattr(ids_module.time, "time_ns", lambda: 1_700_000_000_000_999_999)
    ids = [uuid.UUID(new_id()).int for _ in range(200)]
    assert {one >> 64 for one in ids} == {1_700_000_000_000 << 16 | 0x7FFF}
    ones, zeros = 0, 0
    for one in ids:
        ones |= one
        zeros |= ~one
    assert ones & zeros & (2**64 - 1) == 2**62 - 1


# ------------------------------------------------------------------ run


def test_a_job_that_is_made_where_nobody_executes_is_anybodys() -> None:
    """Whoever starts next can claim it: it names no executor."""
    job, _ = Managed(awake=False).manager.create(RunRequest(), user_id="ann")
    assert job.executor_id is None


def test_a_job_is_stored_with_its_plan_before_anyone_is_woken() -> None:
    """The executor must find what it is told of."""
    world = Managed()
    world.manager.wake = lambda job_id, _: world.woken.append(world.store.get(job_id).job_id)
    job, new = world.manager.create(RunRequest(labels={"team": "x"}, priority=3), user_id="ann")
    assert (new, job.status, job.total_tasks, job.code_version) == (
        True,
        JobStatus.PENDING,
        2,
        "v1",
    )
    assert (job.user_id, job.priority, job.labels) == ("ann", 3, {"team": "x"})
    assert world.store.plan(job.job_id).by_layer
    assert world.woken == [job.job_id]
    assert [e.type for e in world.store.events()] == ["job.created"]


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (RunRequest(), "full pipeline"),
        (RunRequest(layers=("bronze", "silver")), "bronze + silver"),
        (RunRequest(("bronze.a", "silver.a")), "bronze.a, silver.a"),
        (RunRequest(("bronze.a",) * 3), "bronze.a, bronze.a, bronze.a"),
        (RunRequest(("bronze.a",) * 4), "bronze.a, bronze.a, bronze.a + 1 more"),
        (RunRequest(("bronze.a",) * 5), "bronze.a, bronze.a, bronze.a + 2 more"),
        (RunRequest(job_name="mine"), "mine"),
    ],
)
def test_a_job_without_a_name_is_named_by_what_it_runs(request_: RunRequest, name: str) -> None:
    assert Managed().manager.create(request_, user_id="ann")[0].job_name == name


def test_a_repeated_idempotency_key_answers_with_the_first_job() -> None:
    """A client that retries must not run a pipeline twice; jobs without a key have nothing to do with it."""
    world = Managed()
    unkeyed, _ = world.manager.create(RunRequest(), user_id="ann")
    first, _ = world.manager.create(RunRequest(), user_id="ann", idempotency_key="k")
    again, new = world.manager.create(RunRequest(("bronze.a",)), user_id="bob", idempotency_key="k")
    assert (again, new) == (first, False)
    assert world.woken == [unkeyed.job_id, first.job_id]


def test_of_two_creations_with_one_key_that_race_one_is_answered_with_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both looked before either was stored."""
    world = Managed()
    first, _ = world.manager.create(RunRequest(), user_id="ann", idempotency_key="k")
    monkeypatch.setattr(world.store, "find_idempotent", lambda _: None, raising=False)
    judged = world.store.memory.jobs

    def judge(kept: Any, change: Any, spoiled: Any) -> Any:
        from sluicegate.core.ports import Refused

        return Refused(None, duplicate_of=next(iter(judged)))

    monkeypatch.setattr(world.store, "_judge", judge)
    assert world.manager.create(RunRequest(), user_id="bob", idempotency_key="k") == (first, False)


def test_what_cannot_be_run_creates_nothing() -> None:
    world = Managed()
    with pytest.raises(PipelineNotFoundError):
        world.manager.create(RunRequest(("bronze.nope",)), user_id="ann")
    world.manager.catalog = Catalog({"bronze.a": spec("bronze.a")})
    with pytest.raises(NothingToRunError) as caught:
        world.manager.create(RunRequest(layers=("silver", "gold")), user_id="ann")
    assert caught.value.what == "no pipeline is declared in silver, gold"
    assert caught.value.mend is not None
    assert caught.value.mend.startswith(
        "the layers are bronze, silver and gold; list the pipelines"
    )
    assert (world.store.memory.jobs, world.woken) == ({}, [])


def test_an_id_that_another_job_has_is_never_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot happen by chance; were it to, nobody may be answered with somebody else's job."""
    world = Managed()
    stored = world.stored()
    monkeypatch.setattr("sluicegate.core.job_manager.new_id", lambda: stored.job_id)
    with pytest.raises(SluicegateError) as caught:
        world.manager.create(RunRequest(), user_id="ann")
    assert (caught.value.what, caught.value.mend) == ("job id 'j' was taken", "try again")
    assert (list(world.store.memory.jobs), world.woken) == (["j"], [])


# ------------------------------------------------------------------ look


@pytest.mark.parametrize(
    ("count", "pages"),
    [(5, [["j4", "j3"], ["j2", "j1"], ["j0"]]), (4, [["j3", "j2"], ["j1", "j0"]]), (0, [[]])],
)
def test_the_history_is_paged_without_an_empty_last_page(
    count: int, pages: list[list[str]]
) -> None:
    """A cursor says that there is more; and a page of a long history reads no more of it than it shows."""
    world = Managed()
    for n in range(count):
        world.stored(job_id=f"j{n}")
    limits = world.limits_asked()
    seen: list[list[str]] = []
    cursor: str | None = None
    while not seen or cursor is not None:
        jobs, cursor = world.manager.list(JobQuery(limit=2, before_job_id=cursor))
        seen.append([j.job_id for j in jobs])
    assert seen == pages
    assert set(limits) == {3}


@pytest.mark.parametrize(
    ("fields", "done", "percent"),
    [
        ({"total_tasks": 0, "status": JobStatus.SUCCESS}, None, 100.0),
        ({"total_tasks": 0, "status": JobStatus.PENDING}, None, 0.0),
        ({"completed_tasks": 1, "total_tasks": 3}, None, 33.3),
        ({"failed_tasks": 1, "cancelled_tasks": 1, "total_tasks": 2}, None, 100.0),
        ({"running_tasks": 1, "completed_tasks": 1, "total_tasks": 4}, 5.0, 37.5),
        ({"running_tasks": 1, "total_tasks": 1}, 99.0, 100.0),
        ({"running_tasks": 1, "completed_tasks": 1, "total_tasks": 1}, 5.0, 100.0),
        ({"running_tasks": 1, "total_tasks": 2}, None, 0.0),
    ],
)
def test_progress_is_what_ended_and_the_fractions_of_what_runs(
    fields: dict[str, Any], done: float | None, percent: float
) -> None:
    world = Managed()
    progress = None if done is None else TaskProgress(done, 10.0)
    job = world.stored(task("bronze.a", TaskStatus.RUNNING, progress=progress), **fields)
    assert world.manager.progress_percent([job]) == {"j": percent}


def test_progress_sums_what_runs_and_counts_what_has_ended_once() -> None:
    """A task that has ended is counted as a whole; what it had told before must not be added to that."""
    world = Managed()
    half = TaskProgress(5, 10.0)
    job = world.stored(
        task("bronze.a", TaskStatus.SUCCESS, progress=TaskProgress(10, 10.0)),
        task("bronze.b", TaskStatus.RUNNING, progress=half),
        task("bronze.c", TaskStatus.RUNNING, progress=half),
        total_tasks=4,
        completed_tasks=1,
        running_tasks=2,
    )
    assert world.manager.progress_percent([job]) == {"j": 50.0}


def test_lines_and_events_are_read_on_from_where_a_reader_stopped() -> None:
    """Of one task or of all, of one job or of all; from the beginning unless told otherwise, a thousand at a time."""
    world = Managed()
    lines = [LogEntry("j", T0, str(n), "t1" if n % 2 else "t2") for n in range(1001)]
    events = tuple(Event(str(n), "j", T0) for n in range(1001))
    other = Event("other", "k", T0)
    job = Job("j", "j", JobStatus.RUNNING, T0, 2)
    world.store.commit([Change(job, made_from=0, logs=tuple(lines), events=(other, *events))])
    logs, timeline = world.manager.logs, world.manager.events
    assert [line.message for line in logs("j")] == [str(n) for n in range(1000)]
    assert [line.message for line in logs("j", task_id="t1", after=4, limit=2)] == ["5", "7"]
    assert [event.type for event in timeline(job_id="j")] == [str(n) for n in range(1000)]
    assert [e.type for e in timeline()] == ["other", *(str(n) for n in range(999))]
    assert [event.type for event in timeline(after=3, limit=2)] == ["2", "3"]
    assert world.manager.header("j") == world.store.get("j")


def test_the_last_task_is_told_of_what_is_declared() -> None:
    """A pipeline that is gone from the code is on no list of pipelines any more."""
    world = Managed()
    last = task("bronze.a", TaskStatus.SUCCESS)
    world.stored(last, task("bronze.gone", TaskStatus.SUCCESS))
    assert world.manager.latest_tasks() == {"bronze.a": last}


def test_who_asks_about_a_job_that_is_not_there_is_told() -> None:
    """An empty log would look like a job that says nothing."""
    manager = Managed().manager
    for ask in (manager.get, manager.header, manager.logs, lambda j: manager.events(job_id=j)):
        with pytest.raises(JobNotFoundError):
            ask("nope")


# ------------------------------------------------------------------ stop


def test_a_stop_is_stored_before_anyone_is_woken() -> None:
    """When it answers, the job is cancelled, whatever dies a moment later."""
    world = Managed()
    world.stored(running_tasks=1)
    seen: list[JobStatus] = []
    world.manager.wake = lambda job_id, _: seen.append(world.store.get(job_id).status)
    job = world.manager.cancel("j", StopRequest("ann", "why"))
    assert (job.status, job.stopping, seen) == (JobStatus.CANCELLED, True, [JobStatus.CANCELLED])
    assert [e.type for e in world.store.events()] == ["job.cancelled"]
    assert world.store.logs("j")[0].message == "stop (graceful) requested by ann: why"


def test_force_after_force_says_nothing_twice() -> None:
    world = Managed()
    world.stored(running_tasks=1)
    for mode in (StopMode.GRACEFUL, StopMode.FORCE, StopMode.FORCE):
        world.manager.cancel("j", StopRequest("ann", mode=mode))
    assert [e.type for e in world.store.events()] == ["job.cancelled", "job.escalated"]
    assert [line.message for line in world.store.logs("j")] == [
        "stop (graceful) requested by ann",
        "stop escalated to force by ann",
    ]


def test_a_job_that_has_ended_is_refused_or_returned_as_it_is() -> None:
    world = Managed()
    world.stored(status=JobStatus.SUCCESS, completed_at=T0)
    with pytest.raises(JobNotRunningError):
        world.manager.cancel("j", StopRequest("ann"))
    assert (
        world.manager.cancel("j", StopRequest("ann"), ignore_ended=True).status is JobStatus.SUCCESS
    )
    assert world.woken == []


def test_without_an_executor_an_idle_job_is_closed_on_the_spot() -> None:
    """A command on a home where no server lives: nothing runs, so the receipt is whole at once."""
    world = Managed(awake=False)
    done = task("bronze.a", TaskStatus.SUCCESS, stats=TaskStats(5, version=2))
    world.stored(done, completed_tasks=1)
    job = world.manager.cancel("j", StopRequest("ann"))
    receipt = job.cancellation
    assert job.is_over
    assert receipt is not None
    assert receipt.not_started == ("silver.a",)
    assert [(k.table, k.version, k.rows) for k in receipt.kept] == [("bronze.a", 2, 5)]


@pytest.mark.parametrize("awake", [False, True])
def test_a_stop_of_many_closes_what_is_idle_where_nobody_executes(awake: bool) -> None:
    """As the stop of one does; where somebody executes, that one closes it and must be told."""
    world = Managed(awake=awake)
    world.stored(task("bronze.a", TaskStatus.SUCCESS), completed_tasks=1)
    done = world.manager.cancel_many(["j"], StopRequest("ann"))
    assert done.results == (("j", StopResult.CANCELLED),)
    assert world.store.get("j").is_over is not awake
    assert world.woken == (["j"] if awake else [])


def test_a_stop_of_many_that_the_store_cannot_take_is_no_answer() -> None:
    """Who is told nothing would believe that all of them are stopped."""
    world = Managed()
    world.stored()
    world.store.unavailable = True
    with pytest.raises(StoreUnavailableError):
        world.manager.cancel_many(["j"], StopRequest("ann"))


@pytest.mark.parametrize("mode", [StopMode.GRACEFUL, StopMode.FORCE])
def test_a_dry_run_of_many_says_what_the_stop_then_comes_to(mode: StopMode) -> None:
    """One that is stopping can be forced; one that has ended cannot, however it is asked."""
    world = Managed()
    world.stored(job_id="going", running_tasks=1)
    world.stored(job_id="stopping", running_tasks=1)
    world.manager.cancel("stopping", StopRequest("ann"))
    world.stored(job_id="over", status=JobStatus.SUCCESS, completed_at=T0)
    ids = ["going", "stopping", "over"]
    shown = world.manager.preview_cancel_many(ids, mode)
    forced = StopResult.CANCELLED if mode is StopMode.FORCE else StopResult.NOT_RUNNING
    assert shown.results == tuple(
        zip(ids, (StopResult.CANCELLED, forced, StopResult.NOT_RUNNING), strict=True)
    )
    assert world.manager.cancel_many(ids, StopRequest("ann", mode=mode)) == shown


def test_a_filter_may_match_as_many_as_one_call_stops() -> None:
    """The bound is named in the refusal; and all of them are read in pages of bounded size."""
    world = Managed()
    for n in range(3):
        world.stored(job_id=f"j{n}")
    limits = world.limits_asked()
    assert list(world.manager.matching(JobQuery(), most=3)) == ["j2", "j1", "j0"]
    with pytest.raises(TooManyJobsError, match="more than 2 jobs"):
        world.manager.matching(JobQuery(limit=1), most=2)
    assert set(limits) == {MATCHED_PAGE}


def test_a_stop_that_an_executor_closes_meanwhile_is_closed_once() -> None:
    """A command found nobody who executes; a server that starts in that moment takes the job up."""
    world = Managed(awake=False)
    world.stored()
    read = world.manager.get

    def and_then_a_server_closes_it(job_id: str) -> JobDetails:
        details = read(job_id)
        change = close_job(details.job, details.plan, details.tasks, world.clock.now())
        world.store.commit([change])
        return details

    world.manager.get = and_then_a_server_closes_it  # type: ignore[method-assign]
    job = world.manager.cancel("j", StopRequest("ann"))
    assert job.is_over
    assert [e.type for e in world.store.events()] == ["job.cancelled", "job.stopped"]


def test_without_an_executor_a_running_task_keeps_its_job_stopping() -> None:
    """Its process may live: only who has looked may say that it is gone."""
    world = Managed(awake=False)
    world.stored(task("bronze.a", TaskStatus.RUNNING), running_tasks=1)
    assert world.manager.cancel("j", StopRequest("ann")).stopping


def test_a_preview_changes_nothing() -> None:
    world = Managed()
    running = task("bronze.a", TaskStatus.RUNNING)
    world.stored(running, running_tasks=1)
    before = world.store.get("j")
    preview = world.manager.preview_cancel("j")
    assert (preview.running, preview.not_started, preview.kept) == ((running,), ("silver.a",), ())
    assert world.store.get("j") == before
    world.stored(job_id="over", status=JobStatus.FAILED, completed_at=T0)
    with pytest.raises(JobNotRunningError, match="cannot cancel job 'over'"):
        world.manager.preview_cancel("over")


@pytest.mark.parametrize(
    ("mode", "stop_ms", "lost"),
    [
        (StopMode.GRACEFUL, 8123.5, 1.235),
        (StopMode.FORCE, None, 1.235),
        (StopMode.DRAIN, None, 0.0),
    ],
)
def test_a_preview_tells_a_tenth_of_a_millisecond_and_what_the_mode_costs(
    mode: StopMode, stop_ms: float | None, lost: float
) -> None:
    """Who drains loses nothing; who kills waits for no checkpoint; and nobody reads sixteen digits."""
    world = Managed()
    world.stored(task("bronze.a", TaskStatus.RUNNING), running_tasks=1)
    world.manager.outlook = lambda _: {"t-bronze.a": Outlook(8.12345678, 1.2345678)}
    preview = world.manager.preview_cancel("j", mode)
    assert (preview.expected_stop_ms, preview.lost_work_seconds) == ({"t-bronze.a": stop_ms}, lost)


def test_closing_a_stopped_job_ends_what_waited_for_another_attempt() -> None:
    """A task that waits will not run again; a job that is over has none that is not."""
    world = Managed()
    waiting = task("bronze.a", TaskStatus.PENDING, attempt=2)
    world.stored(waiting)
    stopped = world.manager.cancel("j", StopRequest("ann", "why"))
    world.clock.pass_(1)
    change = close_job(stopped, PLAN, [waiting], world.clock.now())
    now = world.clock.now()
    assert change.tasks == (
        replace(
            waiting,
            status=TaskStatus.CANCELLED,
            completed_at=now,
            stop=TaskStop("user", "ann", "why", "checkpoint", now, 1000.0),
        ),
    )
    assert (change.job.cancelled_tasks, change.made_from) == (1, stopped.version)
    assert [(e.type, e.at) for e in change.events] == [("task.finished", now), ("job.stopped", now)]


def test_the_end_of_a_task_that_could_not_be_reached_is_told_as_the_stop_confirmed() -> None:
    """It is what somebody has waited for who was told that the stop is unconfirmed."""
    world = Managed()
    running = task("bronze.a", TaskStatus.RUNNING)
    world.stored(running, running_tasks=1)
    stopped = world.manager.cancel("j", StopRequest("ann"))
    unconfirmed = close_job(stopped, PLAN, [running], world.clock.now())
    world.clock.pass_(60)
    gone = replace(unconfirmed.job, running_tasks=0, cancelled_tasks=1)
    confirmed = close_job(gone, PLAN, [], world.clock.now())
    assert [[e.type for e in change.events] for change in (unconfirmed, confirmed)] == [
        ["job.stopped"],
        ["job.confirmed"],
    ]
    assert [change.logs[0].message for change in (unconfirmed, confirmed)] == [
        "stop unconfirmed: 1 tasks cannot be reached; it goes on being tried",
        "stop confirmed: the tasks that could not be reached have ended",
    ]
