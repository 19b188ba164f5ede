"""Keeps one executor's lease, and finds the jobs of those that lost theirs.

Store calls are made aside, so that a store that hangs delays no stop; what they came to is acted on by the agenda.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

from sluicegate.core.agenda import Agenda
from sluicegate.core.job import Job
from sluicegate.core.membership import Membership
from sluicegate.core.ports import Clock, Executor, JobStore
from sluicegate.core.store_errors import StoreUnavailableError

log = logging.getLogger(__name__)

SCAN_AGAIN_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Orphans:
    """Jobs that are not settled, and may have nobody who looks after them.

    `left` by an executor that has ended; `unclaimed`, for none ever took them or the last one gave them up; `own`: this
    executor's by the store, which may have come while it could not take them.
    """

    left: Sequence[Job]
    unclaimed: Sequence[Job]
    own: Sequence[Job]


class LeaseKeeper:
    """The lease of one executor. All methods are for the agenda's thread.

    Args:
        lost: The lease could not be renewed for two thirds of its time: nothing may run here until `regained`.
        regained: It was renewed after all; others may have taken jobs over meanwhile.
        found: Told of jobs that nobody holds, at the start and whenever an executor is found dead.
        looked: Told after each look at the other executors.
    """

    def __init__(
        self,
        identity: Executor,
        *,
        store: JobStore,
        clock: Clock,
        agenda: Agenda[Any],
        lease_seconds: float,
        predecessors: Collection[str],
        lost: Callable[[], None],
        regained: Callable[[], None],
        found: Callable[[Orphans], None],
        looked: Callable[[], None],
    ) -> None:
        self.identity = identity
        self._store, self._clock, self._agenda = store, clock, agenda
        self._lost, self._regained, self._found, self._looked = lost, regained, found, looked
        self.members = Membership(
            identity.executor_id, lease_seconds, predecessors, clock.monotonic()
        )
        self.out_of_touch = False
        self._is_asking = self._is_scanning = self._has_begun = self._has_company = False
        self._scanned_at, self._scan_every_seconds = clock.monotonic(), lease_seconds
        self._aside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lease")

    @property
    def is_in_doubt(self) -> bool:
        """Whether others may have taken over what is held here: also before `lost` was told of it. From any thread."""
        return self.out_of_touch or self.members.has_lost_contact(self._clock.monotonic())

    def round(self) -> None:
        """Renew the lease when that is due, and look at the others; again and again."""
        self._agenda.later(self.members.look_seconds, self.round)
        now = self._clock.monotonic()
        if self.members.has_lost_contact(now) and not self.out_of_touch:
            self.out_of_touch = True
            log.warning("lease_lost executor_id=%s", self.identity.executor_id)
            self._lost()
        if not self._is_asking:
            self._is_asking = True
            self._aside.submit(self._ask, self.members.is_beat_due(now))

    def scan(self) -> None:
        """Look for jobs that nobody holds."""
        self._scanned_at = self._clock.monotonic()
        if not self._is_scanning:
            self._is_scanning = True
            self._aside.submit(self._read_jobs)

    def close(self) -> None:
        """End, and let others know at once. From any thread, when the agenda has ended."""
        self._aside.shutdown(wait=True, cancel_futures=True)
        try:
            self._store.forget_executor(self.identity.executor_id)
        except StoreUnavailableError as error:
            log.warning("store_unavailable error=%s", error.what)  # they find out by the lease

    # ---------------------------------------------------------------- aside

    def _ask(self, is_beat_due: bool) -> None:
        began_at = self._clock.monotonic()
        try:
            if is_beat_due:
                self.identity = replace(self.identity, beat=self.identity.beat + 1)
                self._store.beat(self.identity)
            executors = self._store.executors()
        except StoreUnavailableError as error:
            log.warning("heartbeat_failed error=%s", error.what)
            self._agenda.post(self._failed)
        except Exception:
            log.exception("heartbeat_failed")
            self._agenda.post(self._failed)
        else:
            self._agenda.post(lambda: self._heard(began_at if is_beat_due else None, executors))

    def _read_jobs(self) -> None:
        try:
            unfinished = list(self._store.unfinished())
            # What a stop could not reach before has no end yet, though its job has.
            holding = {w.job_id for w in self._store.held_writers() if w.job_id}
            held = self._store.get_many(list(holding - {job.job_id for job in unfinished}))
            # Read last: whoever holds a job that was read has made itself known before.
            known = {executor.executor_id for executor in self._store.executors()}
        except StoreUnavailableError as error:
            log.warning("store_unavailable error=%s", error.what)
            self._agenda.post(self._scan_again)
        except Exception:
            log.exception("scan_failed")
            self._agenda.post(self._scan_again)
        else:
            jobs = [*unfinished, *(job for job in held.values() if not job.is_settled)]
            self._agenda.post(lambda: self._scanned(jobs, known))

    def _forget(self, executor_id: str) -> None:
        try:
            self._store.forget_executor(executor_id)
        except StoreUnavailableError as error:
            log.warning("store_unavailable error=%s", error.what)

    # ---------------------------------------------------------------- on the agenda

    def _failed(self) -> None:
        self._is_asking = False
        self.members.failed()

    def _heard(self, renewed_at: float | None, executors: Sequence[Executor]) -> None:
        self._is_asking = False
        now, was_in_doubt = self._clock.monotonic(), self.is_in_doubt
        if renewed_at is not None:
            self.members.renewed(renewed_at)
        found = self.members.look(executors, now)
        for executor_id in found:
            log.warning("executor_lost executor_id=%s", executor_id)
        self._has_company = self._has_company or bool(self.members.others)
        if was_in_doubt and not self.members.has_lost_contact(now):
            self.out_of_touch = False
            self._regained()
            self.scan()
        # Among several, somebody can die whom nobody knows: taken for dead, forgotten, and back for a moment.
        is_due = self._has_company and now - self._scanned_at >= self._scan_every_seconds
        if found or is_due or not self._has_begun:
            self._has_begun = True
            self.scan()
        self._looked()

    def _scan_again(self) -> None:
        self._is_scanning = False
        self._agenda.later(SCAN_AGAIN_SECONDS, self.scan)

    def _scanned(self, jobs: Sequence[Job], known: Collection[str]) -> None:
        self._is_scanning = False
        own, ended = self.identity.executor_id, set(self.members.ended)
        left = [
            job
            for job in jobs
            if job.executor_id not in (None, own)
            and (job.executor_id in ended or job.executor_id not in known)
        ]
        unclaimed = [job for job in jobs if job.executor_id is None]
        self._found(Orphans(left, unclaimed, [job for job in jobs if job.executor_id == own]))
        with_jobs = {job.executor_id for job in left}
        for executor_id in ended - with_jobs:
            self.members.forget(executor_id)
            self._aside.submit(self._forget, executor_id)
        if with_jobs:
            self._agenda.later(SCAN_AGAIN_SECONDS, self.scan)  # until they are somebody's
