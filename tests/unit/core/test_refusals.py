"""What a person reads when the core refuses something: what is true, what can be done, and the facts as attributes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fakes import T0

from sluicegate.core.job import (
    Job,
    JobNotFoundError,
    JobNotResumableError,
    JobNotRolledBackError,
    JobNotRunningError,
    JobStatus,
    TaskNotFoundError,
    TaskNotRunningError,
    TaskStatus,
)
from sluicegate.core.job_manager import TooManyJobsError
from sluicegate.core.ledger import StoreContentionError
from sluicegate.core.match_token import MatchTokenError
from sluicegate.core.plan import PipelineNotFoundError
from sluicegate.core.pruning import PruneCursorError
from sluicegate.errors import SluicegateError

TWELVE = [f"bronze.p{n:02}" for n in range(12)]
LISTED = ", ".join(TWELVE)
RESUMED = Job("j", "j", JobStatus.FAILED, T0, 1, resumed_by="k")


# Each is made within its test: made when tests are collected, no test would count as one that runs these lines.
@pytest.mark.parametrize(
    ("make", "what", "mend"),
    [
        (lambda: JobNotFoundError("j"), "there is no job 'j'", "list the jobs to see their ids"),
        (
            lambda: TaskNotFoundError("j", "t"),
            "job 'j' has no task 't'",
            "get the job to see its tasks",
        ),
        (
            lambda: JobNotRunningError("j", JobStatus.FAILED),
            "cannot cancel job 'j': it has ended with status failed",
            "nothing of it is running; what it published stays",
        ),
        (
            lambda: JobNotRunningError("j", JobStatus.CANCELLED, stopping=True),
            "cannot cancel job 'j': it is cancelled and still stopping",
            "stop it by force if it takes too long",
        ),
        (
            lambda: TaskNotRunningError("t", TaskStatus.SUCCESS),
            "cannot cancel task 't': it has ended with status success",
            "nothing of it is running",
        ),
        (
            lambda: TaskNotRunningError("t", TaskStatus.RUNNING, stopping=True),
            "cannot cancel task 't': it is being stopped already",
            "stop it by force if it takes too long",
        ),
        (
            lambda: JobNotResumableError(
                RESUMED, "already_resumed", "it goes on", "look at that one"
            ),
            "cannot resume job 'j': it goes on",
            "look at that one",
        ),
        (
            lambda: JobNotRolledBackError("j", "table_busy", "it is being written", "wait"),
            "cannot roll back job 'j': it is being written",
            "wait",
        ),
        (
            lambda: TooManyJobsError(7),
            "more than 7 jobs match",
            "narrow the filter, or stop them in several calls",
        ),
        (
            lambda: StoreContentionError("j", 20),
            "could not write job 'j': another writer was first 20 times",
            "try again; if it stays, look for two servers that hold the same job",
        ),
        (
            lambda: MatchTokenError(),
            "the match_token is not one that a dry run answered",
            "send it as it came, or leave it out",
        ),
        (
            lambda: PruneCursorError(),
            "the cursor is none that a prune answered",
            "begin without one, or send it as it came",
        ),
        (
            lambda: PipelineNotFoundError("x", ["silver.b", "bronze.a"]),
            "there is no pipeline 'x'",
            "declared are: bronze.a, silver.b",
        ),
        (lambda: PipelineNotFoundError("x", []), "there is no pipeline 'x'", "declared are: none"),
        (
            lambda: PipelineNotFoundError("x", TWELVE),
            "there is no pipeline 'x'",
            f"declared are: {LISTED}",
        ),
        (
            lambda: PipelineNotFoundError("x", [*TWELVE, "bronze.p12"]),
            "there is no pipeline 'x'",
            f"declared are: {LISTED} …",
        ),
    ],
)
def test_a_refusal_says_what_is_true_and_what_can_be_done(
    make: Callable[[], SluicegateError], what: str, mend: str
) -> None:
    """Whoever reads it has nothing else; a mend of the wrong case sends people the wrong way."""
    error = make()
    assert (error.what, error.mend) == (what, mend)


def test_what_was_asked_for_is_kept_as_a_fact() -> None:
    """Callers must not parse a sentence."""
    assert JobNotFoundError("j").job_id == "j"
    assert (TaskNotFoundError("j", "t").job_id, TaskNotFoundError("j", "t").task_id) == ("j", "t")
    running = JobNotRunningError("j", JobStatus.FAILED)
    assert (running.job_id, running.status) == ("j", JobStatus.FAILED)
    ended = TaskNotRunningError("t", TaskStatus.SUCCESS)
    assert (ended.task_id, ended.status) == ("t", TaskStatus.SUCCESS)
    resumed = JobNotResumableError(RESUMED, "already_resumed", "", "")
    assert (resumed.code, resumed.job_id) == ("already_resumed", "j")
    assert (resumed.status, resumed.resumed_by) == (JobStatus.FAILED, "k")
    rolled_back = JobNotRolledBackError("j", "table_busy", "", "")
    assert (rolled_back.code, rolled_back.job_id) == ("table_busy", "j")
    assert PipelineNotFoundError("x", []).pipeline == "x"
