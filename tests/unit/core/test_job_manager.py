"""The verbs that routes, commands and the executor share."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from executor_world import spec
from fakes import T0, DirectLedger, FakeClock, MemoryStore

from sluicegate.core import ids as ids_module
from sluicegate.core.ids import new_id
from sluicegate.core.job import (
    Job,
    JobNotFoundError,
    JobNotRunningError,
    JobQuery,
    JobStatus,
    StopMode,
    TaskProgress,
    TaskRecord,
    TaskStats,
    TaskStatus,
)
from sluicegate.core.job_manager import (
    Catalog,
    JobManager,
    NothingToRunError,
    RunRequest,
    StopRequest,
    close_job,
)
from sluicegate.core.plan import PipelineNotFoundError, Plan, PlanStep
from sluicegate.core.ports import Change

CATALOG = Catalog(
    {s.pipeline_id: s for s in (spec("bronze.a"), spec("silver.a", "bronze.a"))}, "v1"
)
PLAN = Plan((PlanStep("bronze.a"), PlanStep("silver.a", ("bronze.a",))))


class Managed:
    """A manager whose wake-ups are written down."""

    def __init__(self, *, awake: bool = True) -> None:
        self.store, self.clock = MemoryStore(), FakeClock()
        self.woken: list[str] = []
        ledger = DirectLedger(self.store, lambda _: None)
        wake = (lambda job_id, _job: self.woken.append(job_id)) if awake else None
        self.manager = JobManager(self.store, ledger, self.clock, CATALOG, wake)

    def stored(self, *tasks: TaskRecord, **fields: Any) -> Job:
        job = Job(
            **{
                "job_id": "j",
                "job_name": "j",
                "status": JobStatus.RUNNING,
                "created_at": T0,
                "total_tasks": 2,
            }
            | fields
        )
        self.store.commit([Change(job, made_from=0, plan=PLAN, tasks=tasks)])
        return job


def task(pipeline: str, status: TaskStatus, **fields: Any) -> TaskRecord:
    return TaskRecord(f"t-{pipeline}", "j", pipeline, status, **fields)


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
    instants = [1_700_000_000_000_000_000 + n * 250 for n in (0, 1, 2, 3999, 4000, 4001, 10**9)]
    ids = []
    for instant in instants:
        monkeypatch.setattr(ids_module.time, "time_ns", lambda at=instant: at)
        ids.append(new_id())
    assert ids == sorted(ids)
    assert len({i[:18] for i in ids}) == len(ids)
    assert uuid.UUID(ids[0]).int >> 80 == 1_700_000_000_000


# ------------------------------------------------------------------ run


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
        (RunRequest(("bronze.a",) * 5), "bronze.a, bronze.a, bronze.a + 2 more"),
        (RunRequest(job_name="mine"), "mine"),
    ],
)
def test_a_job_without_a_name_is_named_by_what_it_runs(request_: RunRequest, name: str) -> None:
    assert Managed().manager.create(request_, user_id="ann")[0].job_name == name


def test_a_repeated_idempotency_key_answers_with_the_first_job() -> None:
    """A client that retries must not run a pipeline twice."""
    world = Managed()
    first, _ = world.manager.create(RunRequest(), user_id="ann", idempotency_key="k")
    again, new = world.manager.create(RunRequest(("bronze.a",)), user_id="bob", idempotency_key="k")
    assert (again, new) == (first, False)
    assert world.woken == [first.job_id]


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
    with pytest.raises(NothingToRunError, match="gold"):
        world.manager.create(RunRequest(layers=("gold",)), user_id="ann")
    assert (world.store.memory.jobs, world.woken) == ({}, [])


# ------------------------------------------------------------------ look


def test_the_history_is_paged_without_an_empty_last_page() -> None:
    world = Managed()
    for n in range(5):
        world.stored(job_id=f"j{n}")
    seen, cursor = [], None
    for _ in range(3):
        jobs, cursor = world.manager.list(JobQuery(limit=2, before_job_id=cursor))
        seen.append([j.job_id for j in jobs])
    assert (seen, cursor) == ([["j4", "j3"], ["j2", "j1"], ["j0"]], None)


@pytest.mark.parametrize(
    ("fields", "done", "percent"),
    [
        ({"total_tasks": 0, "status": JobStatus.SUCCESS}, None, 100.0),
        ({"total_tasks": 0, "status": JobStatus.PENDING}, None, 0.0),
        ({"completed_tasks": 1, "total_tasks": 3}, None, 33.3),
        ({"failed_tasks": 1, "cancelled_tasks": 1, "total_tasks": 2}, None, 100.0),
        ({"running_tasks": 1, "completed_tasks": 1, "total_tasks": 4}, 5.0, 37.5),
        ({"running_tasks": 1, "total_tasks": 1}, 99.0, 100.0),
    ],
)
def test_progress_is_what_ended_and_the_fractions_of_what_runs(
    fields: dict[str, Any], done: float | None, percent: float
) -> None:
    world = Managed()
    progress = None if done is None else TaskProgress(done, 10.0)
    job = world.stored(task("bronze.a", TaskStatus.RUNNING, progress=progress), **fields)
    assert world.manager.progress_percent([job]) == {"j": percent}


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
    with pytest.raises(JobNotRunningError):
        world.manager.preview_cancel("over")


def test_closing_a_stopped_job_ends_what_waited_for_another_attempt() -> None:
    """A task that waits will not run again; a job that is over has none that is not."""
    world = Managed()
    waiting = task("bronze.a", TaskStatus.PENDING, attempt=2)
    world.stored(waiting)
    stopped = world.manager.cancel("j", StopRequest("ann", "why"))
    world.clock.pass_(1)
    change = close_job(stopped, PLAN, [waiting], world.clock.now())
    [ended] = change.tasks
    assert ended.status is TaskStatus.CANCELLED
    assert ended.stop is not None
    assert (ended.stop.requested_by, ended.stop.stage, ended.stop.latency_ms) == (
        "ann",
        "checkpoint",
        1000.0,
    )
    assert (change.job.cancelled_tasks, change.made_from) == (1, stopped.version)
    assert [e.type for e in change.events] == ["task.finished", "job.stopped"]
