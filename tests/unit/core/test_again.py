"""Resume, rerun, roll back, stop many: what is decided, refused, and survives a crash."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from executor_world import STATS, Made, World, spec

from sluicegate.core.cancellation import Stage
from sluicegate.core.job import (
    Job,
    JobNotResumableError,
    JobNotRolledBackError,
    JobQuery,
    JobStatus,
    StopMode,
    TableRollback,
)
from sluicegate.core.job_manager import StopResult, TooManyJobsError
from sluicegate.core.match_token import DIGEST_BYTES, MatchTokenError, match_token, matched_by
from sluicegate.core.pipeline_executor import ROLLBACK_AGAIN_SECONDS
from sluicegate.core.plan import PipelineNotFoundError
from sluicegate.core.ports import Change, Writer
from sluicegate.core.receipt import Kept
from sluicegate.core.resuming import RunAgain
from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.core.transitions import StopRequest
from sluicegate.errors import SluicegateError

A, B, SA, GA = "bronze.a", "bronze.b", "silver.a", "gold.a"


def stopped(world: World, **options: Any) -> str:
    """A job that was stopped in silver; bronze has succeeded."""
    job_id = world.run(**options)
    world.end(A, stats=STATS)
    world.cancel(job_id)
    world.end(SA, "cancelled", stage=Stage.CHECKPOINT, stats=replace(STATS, rows=7))
    assert world.job(job_id).is_over
    return job_id


# ------------------------------------------------------------------ resume


def test_a_resume_runs_what_did_not_succeed(made: Made) -> None:
    """With the same parameters, linked both ways; its time counts anew."""
    world = made()
    job_id = stopped(world, params={"day": 1}, labels={"team": "x"}, timeout_seconds=60.0)
    preview = world.manager.preview_resume(job_id)
    assert preview.kept == (Kept(A, 3, 10),)
    assert preview.runs == (RunAgain(SA, Kept(SA, 3, 7)), RunAgain(GA))

    again = world.manager.resume(job_id, user_id="ben")
    world.settle()

    assert (again.resumed_from, world.job(job_id).resumed_by) == (job_id, again.job_id)
    assert (again.trigger, again.user_id) == ("resume", "ben")
    assert (again.params, again.labels, again.timeout_seconds) == ({"day": 1}, {"team": "x"}, 60.0)
    assert world.running == [SA]
    world.end(SA)
    world.end(GA)
    assert world.status(again.job_id) is JobStatus.SUCCESS
    assert world.handed == [A, SA, SA, GA]
    world.is_idle()


def test_a_job_is_resumed_once(made: Made) -> None:
    """Of two at once one wins; the other is told which job goes on."""
    world = made()
    job_id = stopped(world)
    again = world.manager.resume(job_id, user_id="ben")
    with pytest.raises(JobNotResumableError) as refused:
        world.manager.resume(job_id, user_id="cem")
    assert (refused.value.code, refused.value.resumed_by) == ("already_resumed", again.job_id)
    with pytest.raises(JobNotResumableError):
        world.manager.preview_resume(job_id)
    assert len(world.store.memory.jobs) == 2
    world.cancel(again.job_id, StopMode.FORCE)


def test_a_job_that_runs_stops_or_succeeded_is_not_resumed(made: Made) -> None:
    """Nothing is created."""
    world = made(spec(A))
    job_id = world.run()

    def code() -> str:
        with pytest.raises(JobNotResumableError) as refused:
            world.manager.resume(job_id, user_id="ben")
        return refused.value.code

    assert code() == "job_not_ended"
    world.cancel(job_id)
    assert code() == "job_not_ended"
    world.end(A)
    other = world.run()
    world.end(A)
    job_id = other
    assert code() == "job_succeeded"
    assert len(world.store.memory.jobs) == 2


def test_a_resume_with_nothing_left_is_a_success_at_once(made: Made) -> None:
    """Everything was done before the stop took effect."""
    world = made(spec(A))
    job_id = world.run()
    world.cancel(job_id)
    world.end(A)
    again = world.manager.resume(job_id, user_id="ben")
    world.settle()
    assert again.status is JobStatus.SUCCESS
    assert again.completed_at is not None
    assert [e.type for e in world.store.events(job_id=again.job_id)] == [
        "job.created",
        "job.finished",
    ]
    world.is_idle()


def test_a_pipeline_that_is_gone_from_the_code_is_not_resumed(made: Made) -> None:
    """Said before anything is created."""
    world = made()
    job_id = stopped(world)
    world.manager.catalog = replace(world.catalog, specs={A: spec(A)}, target="t.py")
    with pytest.raises(PipelineNotFoundError):
        world.manager.resume(job_id, user_id="ben")
    assert world.job(job_id).resumed_by is None


def test_a_full_refresh_starts_over(made: Made) -> None:
    """It publishes in one commit at its end: there is nothing to go on after."""
    world = made()
    job_id = stopped(world, full_refresh=True)
    assert world.manager.preview_resume(job_id).runs[0] == RunAgain(SA)


def test_a_rerun_runs_everything_again(made: Made) -> None:
    """Of any job, also one that succeeded."""
    world = made(spec(A), spec(B))
    job_id = world.run(A, params={"x": 1}, priority=3)
    world.end(A)
    again = world.manager.rerun(job_id, user_id="ben")
    world.settle()
    assert (again.trigger, again.params, again.priority) == ("rerun", {"x": 1}, 3)
    assert world.running == [A]
    world.end(A)


# ------------------------------------------------------------------ rollback


def put_back(world: World, *tables: str) -> None:
    world.tables.rollbacks = {t: TableRollback(t, 3, 2) for t in tables}


def test_a_rollback_puts_every_changed_table_back(made: Made) -> None:
    """In one decision that holds all their writers; then they are free again."""
    world = made()
    job_id = stopped(world)
    put_back(world, A, SA)
    assert world.manager.preview_rollback(job_id) == (
        TableRollback(A, 3, 2),
        TableRollback(SA, 3, 2),
    )
    assert world.tables.rolled_back == []

    job = world.manager.rollback(job_id, requested_by="root")

    assert job.rolled_back == {A, SA}
    assert job.rollback is not None
    assert job.rollback.finished_at is not None
    assert world.tables.rolled_back == [(A, 2), (SA, 2)], "each under an epoch of its own"
    assert world.store.held_writers() == []
    with pytest.raises(JobNotRolledBackError, match="done already"):
        world.manager.rollback(job_id, requested_by="root")


def test_after_a_rollback_a_resume_runs_those_tasks_again(made: Made) -> None:
    """What was taken back counts as not done."""
    world = made()
    job_id = stopped(world)
    put_back(world, A, SA)
    world.manager.rollback(job_id, requested_by="root")
    assert world.manager.preview_resume(job_id).runs == (RunAgain(A), RunAgain(SA), RunAgain(GA))
    world.manager.resume(job_id, user_id="ben")
    world.settle()
    for pipeline in (A, SA, GA):
        world.end(pipeline)
    assert world.handed == [A, SA, A, SA, GA]


def test_a_job_that_runs_or_stops_is_not_rolled_back(made: Made) -> None:
    """Its tasks may still commit."""
    world = made(spec(A))
    job_id = world.run()
    for _ in range(2):
        with pytest.raises(JobNotRolledBackError) as refused:
            world.manager.rollback(job_id, requested_by="root")
        assert refused.value.code == "job_not_ended"
        if not world.job(job_id).is_terminal:
            world.cancel(job_id)
    world.end(A)


def test_a_table_that_is_being_written_is_not_rolled_back(made: Made) -> None:
    """All of them or none."""
    world = made()
    job_id = stopped(world)
    put_back(world, A, SA)
    world.run(SA)
    with pytest.raises(JobNotRolledBackError) as refused:
        world.manager.rollback(job_id, requested_by="root")
    assert refused.value.code == "table_busy"
    assert refused.value.job_id == job_id
    assert refused.value.what.endswith(f"table {SA!r} is being written")
    assert refused.value.mend == "wait until that is over, or stop it"
    assert world.job(job_id).rollback is None
    assert world.tables.rolled_back == []
    world.end(SA)


def test_a_start_that_comes_between_is_seen_by_the_decision(made: Made) -> None:
    """The logs were read before; the writers' revisions tell."""
    world = made()
    job_id = stopped(world)
    put_back(world, A)
    plan = world.tables.plan_rollback

    def and_then_somebody_starts(table: str, job: str) -> TableRollback | None:
        world.run(A)
        return plan(table, job)

    world.tables.plan_rollback = and_then_somebody_starts  # type: ignore[method-assign]
    with pytest.raises(JobNotRolledBackError) as refused:
        world.manager.rollback(job_id, requested_by="root")
    assert refused.value.code == "table_busy"
    world.tables.plan_rollback = plan  # type: ignore[method-assign]
    while world.running:
        world.end(A)


def test_a_rollback_that_was_cut_off_is_carried_on_by_the_next_server(made: Made) -> None:
    """From the decision on nobody else writes these tables."""
    world = made()
    job_id = stopped(world)
    put_back(world, A, SA)
    world.tables.broken = True
    with pytest.raises(StoreUnavailableError):
        world.manager.rollback(job_id, requested_by="root")
    assert {w.table for w in world.store.held_writers()} == {A, SA}
    with pytest.raises(JobNotResumableError, match="being rolled back"):
        world.manager.resume(job_id, user_id="ben")
    waiting = world.run(A)
    assert world.running == []

    world.tables.broken = False
    world.boot()

    assert world.tables.rolled_back == [(A, 2), (SA, 2)]
    assert world.running == [A], "who waited for the table has it now"
    world.end(A)
    assert world.status(waiting) is JobStatus.SUCCESS


def test_a_rollback_that_failed_is_carried_on_when_it_is_asked_for_again(made: Made) -> None:
    """Without a restart, too; who waits for a table goes on then."""
    world = made()
    job_id = stopped(world)
    put_back(world, A)
    world.manager.rollbacks.freed = world.executor.tables_freed
    world.tables.broken = True
    with pytest.raises(StoreUnavailableError):
        world.manager.rollback(job_id, requested_by="root")
    world.run(A)
    world.tables.broken = False
    world.manager.rollback(job_id, requested_by="root")
    world.settle()
    assert world.running == [A]
    world.end(A)
    world.is_idle()


def test_a_rollback_that_cannot_be_carried_on_holds_up_no_other(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table on a full disk: it is tried again until there is room, and the others are put back meanwhile."""
    world = made(spec(A), spec(B))
    world.tables.broken = True
    for table in (A, B):
        job_id = world.run(table)
        world.end(table, stats=STATS)
        put_back(world, table)
        with pytest.raises(StoreUnavailableError):
            world.manager.rollback(job_id, requested_by="root")
    world.tables.broken = False
    put_one_back = world.tables.roll_back

    def only_b(step: TableRollback, writer: Writer) -> None:
        if step.table == A:
            raise SluicegateError("the disk is full", mend="make room")
        put_one_back(step, writer)

    with monkeypatch.context() as patch:
        patch.setattr(world.tables, "roll_back", only_b)
        world.boot()
        world.executor._finish_rollbacks_aside()
        world.settle()
        assert [table for table, _ in world.tables.rolled_back] == [B]
    world.later(ROLLBACK_AGAIN_SECONDS)
    assert [table for table, _ in world.tables.rolled_back] == [B, A]
    assert world.store.held_writers() == []


# ------------------------------------------------------------------ many


def test_many_are_stopped_in_one_call(made: Made) -> None:
    """Each answer says what came of it."""
    world = made(spec(A))
    jobs = [world.run() for _ in range(5)]
    world.end(A, job_id=jobs[0])
    asked = [*jobs, "nothing", jobs[1]]
    shown = world.manager.preview_cancel_many(asked)
    done = world.manager.cancel_many(asked, StopRequest("ann", "all of them"))
    world.settle()
    results = [StopResult.NOT_RUNNING, *[StopResult.CANCELLED] * 4, StopResult.NOT_FOUND]
    assert [result for _, result in done.results] == results
    assert shown == done
    assert done.cancelled == 4
    world.end(A, "cancelled", stage=Stage.CHECKPOINT)
    assert {world.status(j) for j in jobs[1:]} == {JobStatus.CANCELLED}
    world.is_idle()


def test_a_filter_means_what_has_not_ended(made: Made) -> None:
    """Newest first, over as many pages as there are."""
    world = made(spec(A))
    memory = world.store.memory
    for n in range(1203):
        status = JobStatus.SUCCESS if n % 3 == 0 else JobStatus.PENDING
        job = Job(f"j{n:05}", "x", status, world.clock.now(), 0, user_id="ann")
        memory.jobs[job.job_id] = replace(job, completed_at=world.clock.now(), version=1)
    found = world.manager.matching(JobQuery(user_ids=("ann",)))
    assert list(found) == [f"j{n:05}" for n in reversed(range(1203)) if n % 3]
    with pytest.raises(TooManyJobsError):
        world.manager.matching(JobQuery(user_ids=("ann",)), most=800)
    memory.jobs.clear()


def test_a_match_token_names_exactly_the_jobs_that_were_shown() -> None:
    """A job that came later is not touched; a text that is no token is refused."""
    ids = [f"job-{n}" for n in range(1000)]
    token = match_token(ids)
    assert matched_by(token, [*ids[10:20], "job-later"]) == ids[10:20]
    assert matched_by(match_token([]), ids) == []
    assert len(token) < 12 * len(ids)
    garbled = f"{token[:99]}*{token[99:]}"  # whole again without what is no digit
    for bad in ("", "m1.x", "m2." + token[3:], token[:-5], "m1.é", garbled):
        with pytest.raises(MatchTokenError):
            matched_by(bad, ids)


def test_a_match_token_means_no_job_whose_digest_lies_across_two_others() -> None:
    """A text that has slipped must not come to stop a job that nobody was shown."""
    digest = base64.urlsafe_b64decode(match_token(["job"]).removeprefix("m1."))
    half = bytes(DIGEST_BYTES // 2)

    def token(digests: bytes) -> str:
        return f"m1.{base64.urlsafe_b64encode(digests).decode()}"

    assert matched_by(token(half + half + digest), ["job"]) == ["job"]
    assert matched_by(token(half + digest + half), ["job"]) == []


def test_a_writer_row_of_a_task_is_no_rollback(made: Made) -> None:
    """What a dead executor's tasks hold is not for `finish`."""
    world = made()
    job_id = world.run()
    seen = world.job(job_id)
    world.store.commit(
        [Change(seen, made_from=seen.version, writers=(Writer("x", 1, job_id, "t"),))]
    )
    world.manager.rollbacks.finish()
    assert world.tables.rolled_back == []
    seen = world.job(job_id)
    world.store.commit(
        [Change(seen, made_from=seen.version, writers=(Writer("x", 1, revision=1),))]
    )
    world.cancel(job_id)
    world.end(A, "cancelled")
