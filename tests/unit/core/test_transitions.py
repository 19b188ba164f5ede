"""What may follow what, over the whole input space; and the pure functions that apply it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from fakes import T0

from sluicegate.core.job import (
    Job,
    JobNotResumableError,
    JobNotRolledBackError,
    JobNotRunningError,
    JobStatus,
    Rollback,
    StopMode,
    TaskInput,
    TaskNotRunningError,
    TaskRecord,
    TaskStats,
    TaskStatus,
    TaskStop,
    TaskStopRequest,
)
from sluicegate.core.receipt import Cause, Kept, Receipt, StopOutcome
from sluicegate.core.transitions import (
    TASK_TERMINAL,
    TASK_TRANSITIONS,
    TERMINAL,
    TRANSITIONS,
    Ended,
    InvalidTransitionError,
    JobEvent,
    StopRequest,
    TaskEvent,
    decide_cancel,
    decide_resume,
    decide_rollback,
    decide_task_cancel,
    end_attempt,
    end_job,
    ending,
    may_commit,
    next_status,
    next_task_status,
    start_task,
)

LATER = T0 + timedelta(seconds=2)
STATS = TaskStats(rows=3, units=1, version=0)
STOP = TaskStop("user", "ann", None, "kill", LATER, 2000.0, 2, ("a.py:1 f",))
STOPPED = {"cancellation": Receipt(T0, "ann", Cause.USER)}


def job(status: JobStatus = JobStatus.RUNNING, **fields: Any) -> Job:
    if status is JobStatus.CANCELLED:
        fields = STOPPED | fields
    return Job(
        **{"job_id": "j", "job_name": "j", "created_at": T0, "total_tasks": 3} | fields,
        status=status,
    )


def task(status: TaskStatus = TaskStatus.RUNNING, **fields: Any) -> TaskRecord:
    return TaskRecord("t", "j", "bronze.a", status, **fields)


# ------------------------------------------------------------------ the tables


@pytest.mark.parametrize(("status", "event"), list(product(JobStatus, JobEvent)))
def test_every_pair_of_a_job_is_in_the_table_or_refused(status: JobStatus, event: JobEvent) -> None:
    """No status and event can meet by accident: the table says yes, or we raise."""
    if (status, event) in TRANSITIONS:
        assert next_status(status, event) is TRANSITIONS[status, event]
    else:
        with pytest.raises(InvalidTransitionError, match=f"cannot {event} a {status} job"):
            next_status(status, event)


@pytest.mark.parametrize(("status", "event"), list(product(TaskStatus, TaskEvent)))
def test_every_pair_of_a_task_is_in_the_table_or_refused(
    status: TaskStatus, event: TaskEvent
) -> None:
    """No status and event can meet by accident: the table says yes, or we raise."""
    if (status, event) in TASK_TRANSITIONS:
        assert next_task_status(status, event) is TASK_TRANSITIONS[status, event]
    else:
        with pytest.raises(InvalidTransitionError, match=f"cannot {event} a {status} task"):
            next_task_status(status, event)


def test_all_but_pending_and_running_is_terminal() -> None:
    """The contract's first sentence about statuses."""
    assert {s.value for s in TERMINAL} == {"success", "failed", "partial", "cancelled"}
    assert {s.value for s in TASK_TERMINAL} == {"success", "failed", "cancelled"}
    for status in JobStatus:
        assert job(status).is_terminal is (status in TERMINAL)
    for each in TaskStatus:
        assert task(each).is_terminal is (each in TASK_TERMINAL)


def test_a_refusal_lists_what_is_allowed() -> None:
    """Whoever reads the log of our mistake sees what could have been."""
    with pytest.raises(InvalidTransitionError, match="allows: start, fail, cancel"):
        next_task_status(TaskStatus.PENDING, TaskEvent.WAIT)
    with pytest.raises(InvalidTransitionError, match="allows: nothing"):
        next_status(JobStatus.SUCCESS, JobEvent.CANCEL)
    with pytest.raises(InvalidTransitionError, match="allows: nothing"):
        next_task_status(TaskStatus.SUCCESS, TaskEvent.CANCEL)


# ------------------------------------------------------------------ how a job ends


def by_contract(succeeded: int, failed: int, stopped_alone: int) -> str:
    """Section 1, word by word, for a job that nobody decided to cancel."""
    if not failed and not stopped_alone:
        return "success"
    if succeeded and (failed or stopped_alone):
        return "partial"
    return "failed" if failed else "cancelled"


@pytest.mark.parametrize(("succeeded", "failed", "alone"), list(product(range(3), repeat=3)))
def test_a_job_ends_by_the_contracts_order_of_precedence(
    succeeded: int, failed: int, alone: int
) -> None:
    """Every small combination of what its tasks came to; what never started does not decide."""
    ran = job(completed_tasks=succeeded, failed_tasks=failed, cancelled_tasks=alone, total_tasks=9)
    assert next_status(JobStatus.RUNNING, ending(ran)) == by_contract(succeeded, failed, alone)


@pytest.mark.parametrize("done", [0, 3])
@pytest.mark.parametrize("failed", [0, 1])
def test_the_decision_to_cancel_comes_before_everything(done: int, failed: int) -> None:
    """A job that was stopped is cancelled, even when every task had succeeded by then."""
    stopped = job(JobStatus.CANCELLED, completed_tasks=done, failed_tasks=failed)
    after = end_job(stopped, LATER, not_started=("x.y",), kept=(Kept("bronze.a", 1, 2),))
    receipt = after.cancellation
    assert after.status is JobStatus.CANCELLED
    assert after.completed_at == LATER
    assert receipt is not None
    assert receipt.outcome is (StopOutcome.FINISHED if done == 3 else StopOutcome.STOPPED)
    assert (receipt.not_started, receipt.kept, receipt.latency_ms) == (
        ("x.y",),
        (Kept("bronze.a", 1, 2),),
        2000.0,
    )


def test_an_ended_job_is_ended_once() -> None:
    """The second of two who close it changes nothing."""
    over = job(JobStatus.SUCCESS, completed_at=T0)
    assert end_job(over, LATER, not_started=(), kept=()) is over


@pytest.mark.parametrize(
    ("outcome", "running", "confirms"),
    [
        (StopOutcome.UNCONFIRMED, 0, True),
        (StopOutcome.UNCONFIRMED, 1, False),
        (StopOutcome.STOPPED, 0, False),
    ],
)
def test_a_stop_is_confirmed_later_where_it_was_not_and_nothing_runs_any_more(
    outcome: StopOutcome, running: int, confirms: bool
) -> None:
    """To confirm it while a process may live would be the one lie that a receipt must never tell."""
    receipt = Receipt(T0, "ann", stopped_at=T0, outcome=outcome)
    over = job(JobStatus.CANCELLED, completed_at=T0, running_tasks=running, cancellation=receipt)
    kept = (Kept("bronze.a", 1, 2),)
    confirmed = replace(over, cancellation=replace(receipt, confirmed_at=LATER, kept=kept))
    assert end_job(over, LATER, not_started=(), kept=kept) == (confirmed if confirms else over)


def test_an_empty_plan_is_a_success_without_a_start() -> None:
    after = end_job(job(JobStatus.PENDING, total_tasks=0), LATER, not_started=(), kept=())
    assert (after.status, after.started_at, after.is_over) == (JobStatus.SUCCESS, None, True)


# ------------------------------------------------------------------ starts


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.RUNNING])
def test_the_first_start_makes_a_job_running(status: JobStatus) -> None:
    """`started_at` is the first start's, whatever comes later."""
    began = None if status is JobStatus.PENDING else T0
    before, record = job(status, started_at=began), task(started_at=LATER)
    after, started = start_task(before, record, LATER)
    assert (after.status, after.started_at) == (JobStatus.RUNNING, began or LATER)
    assert after.running_tasks == before.running_tasks + 1
    assert started is record


@pytest.mark.parametrize("status", [TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.CANCELLED])
def test_a_task_that_has_ended_is_never_written_as_started(status: TaskStatus) -> None:
    """Terminal statuses never change; a start is told by the record it hands on."""
    _, record = start_task(job(), task(status), LATER)
    assert record.status is status


def test_a_new_attempt_forgets_how_the_last_one_ended_but_not_what_was_committed() -> None:
    """Its stop, error and inputs were the last attempt's; units and permits are the task's."""
    waiting = task(
        TaskStatus.PENDING,
        attempt=2,
        stop=STOP,
        error="e",
        message="m",
        inputs=(TaskInput("bronze.b", 3),),
        stats=STATS,
        permits=2,
        retries_used=1,
    )
    _, started = start_task(job(), waiting, LATER)
    assert started == replace(
        waiting,
        status=TaskStatus.RUNNING,
        started_at=LATER,
        stop=None,
        error=None,
        message=None,
        inputs=(),
    )


# ------------------------------------------------------------------ ends


@pytest.mark.parametrize(("status", "event"), list(TASK_TRANSITIONS))
@pytest.mark.parametrize("job_status", [JobStatus.RUNNING, JobStatus.CANCELLED])
def test_an_end_is_counted_once_where_it_belongs(
    status: TaskStatus, event: TaskEvent, job_status: JobStatus
) -> None:
    """The counters are what the job's own end is decided by."""
    if event is TaskEvent.START:
        return
    before = job(job_status, running_tasks=2)
    after, ended = end_attempt(before, task(status), Ended(event, LATER, STATS, "m", "e", STOP))
    assert before.running_tasks - after.running_tasks == (status is TaskStatus.RUNNING)
    assert (after.completed_tasks, after.failed_tasks, after.cancelled_tasks) == (
        event is TaskEvent.SUCCEED,
        event is TaskEvent.FAIL,
        event is TaskEvent.CANCEL,
    )
    assert after.status is job_status
    assert (ended.status, ended.stats) == (TASK_TRANSITIONS[status, event], STATS)
    assert ended.attempt == (2 if event is TaskEvent.WAIT else 1)
    assert ended.completed_at == (None if event is TaskEvent.WAIT else LATER)
    noted = after.cancellation is not None and bool(after.cancellation.stopped)
    assert noted is (job_status is JobStatus.CANCELLED and event is TaskEvent.CANCEL)


@pytest.mark.parametrize("status", sorted(TASK_TERMINAL))
@pytest.mark.parametrize("event", TaskEvent)
def test_an_ended_task_cannot_end_again(status: TaskStatus, event: TaskEvent) -> None:
    """A late report must not count a task twice."""
    with pytest.raises(InvalidTransitionError):
        end_attempt(job(), task(status), Ended(event, LATER))


# ------------------------------------------------------------------ cancel


def test_a_cancel_is_decided_escalated_or_refused() -> None:
    """The whole space: each status, asked mode, and for a stopped job its mode and whether it has stopped."""
    for status, mode, closed, before in product(JobStatus, StopMode, (False, True), StopMode):
        fields: dict[str, Any] = {"completed_at": T0 if closed and status in TERMINAL else None}
        if status is JobStatus.CANCELLED:
            fields["cancellation"] = Receipt(T0, "ann", mode=before.value)
        seen, request = job(status, **fields), StopRequest("bob", "why", mode)
        if status not in TERMINAL:
            after = decide_cancel(seen, request, LATER)
            receipt = Receipt(LATER, "bob", Cause.USER, "why", mode.value)
            assert after == replace(seen, status=JobStatus.CANCELLED, cancellation=receipt)
            assert after.stopping
        elif seen.stopping and mode is StopMode.FORCE:
            after = decide_cancel(seen, request, LATER)
            escalated = after.cancellation
            assert escalated is not None
            assert (after is seen) is (before is StopMode.FORCE)
            assert (escalated.requested_by, escalated.mode) == ("ann", "force")
            assert escalated.escalated_at == (None if before is StopMode.FORCE else LATER)
            assert after.status is JobStatus.CANCELLED
        else:
            with pytest.raises(JobNotRunningError) as caught:
                decide_cancel(seen, request, LATER)
            assert (caught.value.job_id, caught.value.status) == ("j", status)
            assert ("still stopping" in caught.value.what) is seen.stopping


@pytest.mark.parametrize("mode", StopMode)
@pytest.mark.parametrize("status", [TaskStatus.RUNNING, TaskStatus.PENDING])
def test_a_stop_of_one_task_is_kept_beside_those_of_others(
    status: TaskStatus, mode: StopMode
) -> None:
    """Also between two attempts. The job's own status and counters do not change."""
    before = job(task_stops={"other": TaskStopRequest(T0, "ann")})
    after = decide_task_cancel(before, task(status), StopRequest("bob", "why", mode), LATER)
    stop = TaskStopRequest(LATER, "bob", "why", mode)
    assert after == replace(before, task_stops={**before.task_stops, "t": stop})


@pytest.mark.parametrize("mode", StopMode)
def test_a_stop_of_one_task_is_escalated_by_force_alone(mode: StopMode) -> None:
    """Who asked first, why and when stays: it is the same stop."""
    first = TaskStopRequest(T0, "ann", "slow")
    before = job(task_stops={"t": first})
    again = StopRequest("bob", "still slow", mode)
    if mode is StopMode.FORCE:
        after = decide_task_cancel(before, task(), again, LATER)
        assert after == replace(before, task_stops={"t": replace(first, mode=StopMode.FORCE)})
    else:
        with pytest.raises(TaskNotRunningError) as caught:
            decide_task_cancel(before, task(), again, LATER)
        assert str(caught.value) == str(TaskNotRunningError("t", TaskStatus.RUNNING, stopping=True))
        assert (caught.value.task_id, caught.value.status) == ("t", TaskStatus.RUNNING)


@pytest.mark.parametrize("stopping", [True, False])
@pytest.mark.parametrize("mode", StopMode)
def test_a_task_of_a_job_that_was_stopped_or_has_ended_is_not_stopped_alone(
    mode: StopMode, stopping: bool
) -> None:
    """While all of it is stopping, the stop of the job is what can be escalated."""
    seen = job(JobStatus.CANCELLED, completed_at=None if stopping else T0)
    with pytest.raises(JobNotRunningError) as caught:
        decide_task_cancel(seen, task(), StopRequest("bob", mode=mode), LATER)
    refusal = JobNotRunningError("j", JobStatus.CANCELLED, stopping=stopping)
    assert (str(caught.value), caught.value.job_id) == (str(refusal), "j")


@pytest.mark.parametrize("status", sorted(TASK_TERMINAL))
def test_a_task_that_has_ended_is_not_stopped(status: TaskStatus) -> None:
    """Not even by force, and though its job goes on."""
    with pytest.raises(TaskNotRunningError) as caught:
        decide_task_cancel(job(), task(status), StopRequest("bob", mode=StopMode.FORCE), LATER)
    assert str(caught.value) == str(TaskNotRunningError("t", status))


# ------------------------------------------------------------------ after the end

UNTIL_ENDED = "wait until it has ended"
OUT_OF_REACH = "a task of it was out of reach when it was stopped, and may still run"
UNDER_WAY = Rollback("r", T0, "ann")
NOT_SETTLED = [
    (job(JobStatus.PENDING), "it is pending"),
    (job(), "it is running"),
    (job(JobStatus.CANCELLED), "it is still stopping"),
    (job(JobStatus.CANCELLED, completed_at=T0, running_tasks=1), OUT_OF_REACH),
]


def ended(status: JobStatus = JobStatus.FAILED, **fields: Any) -> Job:
    return job(status, completed_at=T0, **fields)


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_what_an_ended_job_has_published_is_taken_back_once(status: JobStatus) -> None:
    """Whatever it came to. The status does not change: it says what happened."""
    before = ended(status)
    after = decide_rollback(before, UNDER_WAY)
    assert after == replace(before, rollback=UNDER_WAY)
    with pytest.raises(JobNotRolledBackError):
        decide_rollback(after, UNDER_WAY)


@pytest.mark.parametrize(
    ("seen", "code", "what", "mend"),
    [
        *((j, "job_not_ended", why, f"{UNTIL_ENDED}, or cancel it") for j, why in NOT_SETTLED),
        (
            ended(rollback=UNDER_WAY),
            "rolling_back",
            "that is being done already",
            "get the job to see its tables",
        ),
        (
            ended(rollback=replace(UNDER_WAY, finished_at=LATER)),
            "already_rolled_back",
            "that was done already",
            "get the job to see its tables",
        ),
    ],
)
def test_a_rollback_that_is_refused_says_why_and_what_to_do(
    seen: Job, code: str, what: str, mend: str
) -> None:
    """Programs branch on the code, people read the rest."""
    with pytest.raises(JobNotRolledBackError) as caught:
        decide_rollback(seen, Rollback("r2", LATER, "bob"))
    refusal = caught.value
    assert (refusal.code, refusal.job_id, refusal.mend) == (code, "j", mend)
    assert refusal.what == f"cannot roll back job 'j': {what}"


@pytest.mark.parametrize("status", sorted(TERMINAL - {JobStatus.SUCCESS}))
@pytest.mark.parametrize("rollback", [None, replace(UNDER_WAY, finished_at=LATER)])
def test_an_ended_job_goes_on_as_another_one_also_after_its_rollback(
    status: JobStatus, rollback: Rollback | None
) -> None:
    """The old one says which job goes on; nothing else of it changes."""
    before = ended(status, rollback=rollback)
    assert decide_resume(before, "k") == replace(before, resumed_by="k")


@pytest.mark.parametrize(
    ("seen", "code", "what", "mend"),
    [
        *((j, "job_not_ended", why, UNTIL_ENDED) for j, why in NOT_SETTLED),
        (
            ended(JobStatus.SUCCESS),
            "job_succeeded",
            "all of it has succeeded",
            "rerun it to run it again",
        ),
        (
            ended(resumed_by="k"),
            "already_resumed",
            "it goes on as job k",
            "look at job k, and resume that one if it has ended",
        ),
        (
            ended(rollback=UNDER_WAY),
            "rolling_back",
            "it is being rolled back",
            "try again in a moment",
        ),
    ],
)
def test_a_resume_that_is_refused_says_why_and_what_to_do(
    seen: Job, code: str, what: str, mend: str
) -> None:
    """Programs branch on the code and on which job goes on, people read the rest."""
    with pytest.raises(JobNotResumableError) as caught:
        decide_resume(seen, "k2")
    refusal = caught.value
    assert (refusal.code, refusal.job_id, refusal.mend) == (code, "j", mend)
    assert refusal.what == f"cannot resume job 'j': {what}"
    assert (refusal.status, refusal.resumed_by) == (seen.status, seen.resumed_by)


# ------------------------------------------------------------------ permits


def test_a_commit_is_permitted_to_a_running_task_of_a_job_that_runs_or_drains() -> None:
    """Rule 4: refused once cancelled (in `drain`: once it escalates), stopped alone, ended, or taken over."""
    for status, mode, task_status, alone, lease in product(
        JobStatus, StopMode, TaskStatus, (False, True), (1, 2)
    ):
        fields: dict[str, Any] = {"lease": 1}
        if status is JobStatus.CANCELLED:
            fields["cancellation"] = Receipt(T0, "ann", mode=mode.value)
        refused = may_commit(
            job(status, **fields), task(task_status), stopping_alone=alone, lease=lease
        )
        drains = status is JobStatus.CANCELLED and mode is StopMode.DRAIN
        allowed = (
            (status not in TERMINAL or drains)
            and task_status is TaskStatus.RUNNING
            and not alone
            and lease == 1
        )
        assert (refused is None) is allowed, (status, mode, task_status, alone, lease, refused)
        assert refused is None or refused


@pytest.mark.parametrize(
    ("job_", "task_", "lease", "why"),
    [
        (job(JobStatus.CANCELLED), task(), 0, "the job is cancelled"),
        (job(JobStatus.FAILED), task(), 0, "the job has ended with status failed"),
        (job(task_stops={"t": TaskStopRequest(T0, "ann")}), task(), 0, "the task is being stopped"),
        (job(), task(TaskStatus.PENDING), 0, "the task is pending"),
        (job(), task(), 1, "another executor has taken the job over"),
    ],
)
def test_who_may_not_commit_is_told_why(job_: Job, task_: TaskRecord, lease: int, why: str) -> None:
    """The worker hands it on as the reason why its task has ended."""
    assert may_commit(job_, task_, stopping_alone=False, lease=lease) == why


def test_a_drain_that_escalates_permits_nothing_more() -> None:
    """Force overrules the patience that was there before."""
    draining = decide_cancel(job(), StopRequest("ann", mode=StopMode.DRAIN), T0)
    assert may_commit(draining, task(), stopping_alone=False, lease=0) is None
    forced = decide_cancel(draining, StopRequest("ann", mode=StopMode.FORCE), LATER)
    assert may_commit(forced, task(), stopping_alone=False, lease=0) == "the job is cancelled"
