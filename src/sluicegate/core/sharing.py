"""How executors that share a store share its work: who claims a job, and who lets go of one for others to claim.

All on the executor's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sluicegate.core.agenda import Agenda
from sluicegate.core.held_jobs import HeldJobs
from sluicegate.core.job import Event, Job, JobStatus
from sluicegate.core.job_run import JobRun
from sluicegate.core.ledger import Written
from sluicegate.core.ports import Change, Clock, JobStore
from sluicegate.core.store_errors import StoreUnavailableError

log = logging.getLogger(__name__)

# Of its capacity: how much waiting work an executor keeps to itself where others could do it.
AHEAD_OF_OTHERS: Final = 2
RELEASED_AT_ONCE_MAX: Final = 256


class Sharing:
    """One executor's side of it.

    Args:
        aside: Does something on another thread.
        is_leaving: Whether nothing may be taken up.
        others: Who else is alive.
        busy: How much is at work or waits for a worker here, and how much can be at work.
        claimed: Told of a job that became this executor's.
        given: Told of a job that became anybody's.
    """

    def __init__(
        self,
        executor_id: str,
        *,
        store: JobStore,
        agenda: Agenda[Any],
        clock: Clock,
        held: HeldJobs,
        aside: Callable[[Callable[[], None]], object],
        is_leaving: Callable[[], bool],
        others: Callable[[], Collection[str]],
        busy: Callable[[], tuple[int, int]],
        claimed: Callable[[Job], None],
        given: Callable[[JobRun], None],
    ) -> None:
        self._executor_id = executor_id
        self._store, self._agenda, self._clock, self._held = store, agenda, clock, held
        self._aside, self._is_leaving, self._others, self._busy = aside, is_leaving, others, busy
        self._claimed, self._given = claimed, given
        self._claiming: set[str] = set()
        self._may_be_offers = self._is_fetching = False

    @property
    def room(self) -> int:
        """How much more work that waits should come here. Without others all of it does."""
        if not self._others():
            return RELEASED_AT_ONCE_MAX
        waiting, capacity = self._busy()
        return AHEAD_OF_OTHERS * capacity - waiting

    def offered(self) -> None:
        """There may be jobs that nobody holds: they are looked for when there is room."""
        self._may_be_offers = True

    def take_offers(self) -> None:
        """Claim jobs that nobody holds, while there is room for them."""
        room = self.room
        if not self._may_be_offers or self._is_fetching or self._is_leaving() or room <= 0:
            return
        self._is_fetching = True

        def fetch() -> None:
            try:
                jobs = self._store.unclaimed(room)
            except StoreUnavailableError as error:
                log.warning("store_unavailable error=%s", error.what)
                self._agenda.post(lambda: self._agenda.pause(look_again))
            else:
                self._agenda.post(lambda: claim(jobs))

        def look_again() -> None:
            self._is_fetching = False

        def claim(jobs: Sequence[Job]) -> None:
            self._is_fetching = False
            fresh = [j for j in jobs if j.job_id not in self._claiming | self._held.keys()]
            self._may_be_offers = len(jobs) == room and bool(fresh)
            for job in fresh:
                if not self._is_leaving():
                    self.claim(job)

        self._aside(fetch)

    def claim(self, seen: Job) -> None:
        """Take over a job. A stop and a hand-back are no recovery; only running tasks that nobody watched are."""

        def decide(job: Job) -> Change | None:
            if job.is_settled or job.lease != seen.lease:
                return None
            died = job.executor_id is not None and bool(job.running_tasks)
            return Change(
                replace(
                    job,
                    executor_id=self._executor_id,
                    lease=job.lease + 1,
                    recoveries=job.recoveries + (died and not job.is_terminal),
                ),
                made_from=job.version,
                events=(Event("job.claimed", job.job_id, self._clock.now()),),
            )

        def then(written: Written) -> None:
            failed()
            if written.changed and written.job.job_id not in self._held:
                self._claimed(written.job)

        def failed() -> None:
            self._claiming.discard(seen.job_id)

        self._claiming.add(seen.job_id)
        self._agenda.write(seen.job_id, decide, then, failed)

    def share_out(self, waiting: Iterable[JobRun]) -> None:
        """Let go of jobs that wait here for a worker, for others to claim: those whose turn comes last."""
        if not self._others() or self._is_leaving():
            return
        self.offered()
        surplus = max(0, min(-self.room, RELEASED_AT_ONCE_MAX))
        untouched = [run for run in waiting if self._held.holds(run) and run.is_untouched]
        for run in sorted(untouched, key=lambda run: run.order, reverse=True)[:surplus]:
            run.is_leaving = True
            self._give_away(run)

    def _give_away(self, run: JobRun) -> None:
        now = self._clock.now()

        def decide(job: Job) -> Change | None:
            if job.status is not JobStatus.PENDING or not self._held.is_own(job, run):
                return None
            return released(job, now)

        def then(written: Written) -> None:
            run.is_leaving = False
            if not self._held.holds(run):
                return
            if written.changed:
                self._given(run)
            else:
                self._held.heard(run, written)

        self._agenda.write(run.job.job_id, decide, then)


def released(job: Job, now: datetime) -> Change:
    """Return a job as anybody's again."""
    event = Event("job.released", job.job_id, now)
    return Change(replace(job, executor_id=None), made_from=job.version, events=(event,))
