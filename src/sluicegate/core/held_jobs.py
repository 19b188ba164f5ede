"""The jobs that one executor holds, each with the newest header it knows. One thread."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable

from sluicegate.core.job import Job
from sluicegate.core.job_run import JobRun
from sluicegate.core.ledger import Written
from sluicegate.core.ports import Clock


class HeldJobs(UserDict[str, JobRun]):
    """How each job is run here, by its id.

    Args:
        decided: Told of a job whose header says of a stop what was not known before.
        lost: Told of a job that somebody else has taken over.
    """

    def __init__(
        self,
        executor_id: str,
        clock: Clock,
        decided: Callable[[JobRun], None],
        lost: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._executor_id, self._clock = executor_id, clock
        self._decided, self._lost = decided, lost
        self._touched: dict[str, JobRun] = {}

    def holds(self, run: JobRun) -> bool:
        """Whether this is how the job is run here; not one that was closed or dropped."""
        return self.data.get(run.job.job_id) is run

    def is_own(self, job: Job, run: JobRun) -> bool:
        """Whether the stored job is still held by this run of it: only the lease holder reports on its tasks."""
        return job.executor_id == self._executor_id and job.lease == run.lease

    def touch(self, run: JobRun) -> None:
        """Something about it may be over: it is looked at once what has come was acted on."""
        self._touched[run.job.job_id] = run

    def take_touched(self) -> list[JobRun]:
        """Return what was touched since the last time and is still held."""
        touched, self._touched = self._touched, {}
        return [run for run in touched.values() if self.holds(run)]

    def saw(self, run: JobRun, job: Job) -> None:
        """Keep the newest header; what it says that was not known yet is acted on, whoever decided it."""
        if job.version < run.job.version:
            return
        before, run.job = run.job, job
        self.touch(run)
        if job.cancellation is not None and before.cancellation is None:
            run.stop_seen_at = self._clock.monotonic()
        decided = job.cancellation != before.cancellation or job.task_stops != before.task_stops
        if decided and self.holds(run):
            self._decided(run)

    def heard(self, run: JobRun, written: Written) -> None:
        """A decision about a held job was answered: with it comes what others decided about the job."""
        if self.holds(run):
            if self.is_own(written.job, run):
                self.saw(run, written.job)
            else:
                self._lost(run.job.job_id)
