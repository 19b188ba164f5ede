"""Claims jobs, walks their plans, climbs the ladder, recovers what a dead executor left.

One thread takes messages from an inbox: jobs that were decided on, what workers say, what the ledger stored. It acts
on what is stored and never waits: not for a disk, a worker or a table. Everything it decides goes through the ledger.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import socket
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from sluicegate.cancel_policy import DEFAULT_POLICY, CancelPolicy
from sluicegate.core.agenda import Agenda, Timer
from sluicegate.core.cancellation import Stage
from sluicegate.core.conclusions import (
    RECOVERIES_EXHAUSTED,
    conclude,
    end_lines,
    is_stopped,
    says_too_little,
    told,
)
from sluicegate.core.hub import Hub
from sluicegate.core.ids import new_id
from sluicegate.core.job import (
    Event,
    Job,
    JobNotFoundError,
    JobNotRunningError,
    JobStatus,
    LogEntry,
    StopMode,
    TaskRecord,
    TaskStatus,
    TaskStop,
)
from sluicegate.core.job_manager import JobManager, RunRequest, close_job, task_finished
from sluicegate.core.job_run import JobRun
from sluicegate.core.lease import LeaseKeeper, Orphans
from sluicegate.core.ledger import Ledger, Written
from sluicegate.core.pace import Outlook, Pace
from sluicegate.core.ports import (
    Assignment,
    Change,
    CheckpointsPassed,
    Clock,
    Executor,
    PermitAsked,
    RemoteStopped,
    Settled,
    ShieldChanged,
    Store,
    Tables,
    TaskBegan,
    TaskEnded,
    TaskHung,
    TaskLogged,
    TaskOpened,
    TaskProgressed,
    UnitCommitted,
    WorkerEvent,
    Workers,
    Writer,
)
from sluicegate.core.receipt import Cause, RemoteStop, latency_ms
from sluicegate.core.stops import TaskStopping
from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.core.table_book import TableBook
from sluicegate.core.transitions import (
    Ended,
    StopRequest,
    TaskEvent,
    end_attempt,
    may_commit,
    start_task,
)
from sluicegate.errors import SluicegateError

log = logging.getLogger(__name__)

RECOVERIES_MAX: Final = 3
PROGRESS_STORED_SECONDS: Final = 1.0
PROGRESS_TOLD_SECONDS: Final = 0.1
HAND_BACK_SECONDS: Final = 8.0
CONTACT_SECONDS: Final = 1.0
SETTLE_PAUSE_SECONDS: Final = 1.0
SETTLE_TRIES_MAX: Final = 60
LOAD_SECONDS: Final = 60.0
SHORT_TASK_SECONDS: Final = 0.02
WIDE_TASKS_MIN: Final = 32
MEAN_OF_TASKS: Final = 8
# Of its capacity: how much waiting work an executor keeps to itself where others could do it.
AHEAD_OF_OTHERS: Final = 2
RELEASED_AT_ONCE_MAX: Final = 256

# What others commit, and what it is to this executor.
_DECISIONS: Final = frozenset({"job.cancelled", "job.escalated", "job.claimed", "task.stopping"})
_OFFERS: Final = frozenset({"job.created", "job.released", "job.resumed"})
_ENDS: Final = frozenset({"task.finished", "task.waiting"})
_TOLD_TO_END: Final = "the server was told to stop"
_OUT_OF_TOUCH: Final = "the store was out of reach"


@dataclass(frozen=True, slots=True)
class _Woken:
    """A job was created or decided on; `job` is its header as it was stored then, where that is known."""

    job_id: str
    job: Job | None = None


@dataclass(slots=True)
class _Active:
    """A task that a worker has."""

    run: JobRun
    pipeline: str
    since: float
    pace: Pace
    heard_at: float  # when it last passed a checkpoint or made progress
    has_begun: bool = False  # before that its worker loads the pipelines
    timer: Timer | None = None
    stall_seconds: float | None = None
    stall_timer: Timer | None = None
    was_shielded: bool = False  # when its stall timer was last set
    lost_timer: Timer | None = None
    is_lost: bool = False  # it was killed, and nothing was heard of it since
    shielded_until: float | None = None
    remote: dict[int, RemoteStop] = field(default_factory=dict)
    progress_stored: float = 0.0
    progress_told: float = 0.0
    over: bool = False  # nothing that was asked while it ran may be stored after its end
    given_up: bool = False  # it is ended because the lease could not be renewed


_Message = _Woken | WorkerEvent
_current: PipelineExecutor | None = None


def get_pipeline_executor() -> PipelineExecutor:
    """Return the executor of this process. Raises: `SluicegateError` when none was started here."""
    if _current is None:
        raise SluicegateError(
            "no executor runs in this process", mend="start one with `sluicegate serve`"
        )
    return _current


class PipelineExecutor:
    """Runs the jobs of a store on workers.

    Args:
        lease_seconds: How long others wait before they take over the jobs of an executor that fell silent.
        executor_id: Its name in the store; never used before.
        predecessors: Executors that are known to have ended: they held the same home.
    """

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        manager: JobManager,
        workers: Workers,
        tables: Tables,
        hub: Hub,
        clock: Clock,
        lease_seconds: float = 15.0,
        executor_id: str | None = None,
        predecessors: Collection[str] = (),
    ) -> None:
        self._store, self._ledger, self._manager = store, ledger, manager
        self._workers, self._tables, self._hub, self._clock = workers, tables, hub, clock
        self._lease_seconds = lease_seconds
        # A cache of the jobs that are stopping here; the store is the truth.
        self.cancelled_jobs: set[str] = set()
        self._agenda: Agenda[_Message] = Agenda(clock, ledger, self._take, self._drop)
        self._lease = LeaseKeeper(
            Executor(executor_id or new_id(), socket.gethostname(), os.getpid(), clock.now()),
            store=store,
            clock=clock,
            agenda=self._agenda,
            lease_seconds=lease_seconds,
            predecessors=predecessors,
            lost=self._lose_touch,
            regained=self._look_again,
            found=self._found,
            looked=self._share_out,
        )
        self._may_be_unclaimed = self._is_fetching = False
        self._claiming: set[str] = set()
        self._runs: dict[str, JobRun] = {}
        self._line: list[tuple[tuple[int, str], int, JobRun]] = []
        self._active: dict[str, _Active] = {}
        self._starting: set[str] = set()
        self._stops: dict[str, TaskStopping] = {}
        self._book = TableBook(store)
        self._numbers = itertools.count()
        self._timeouts: dict[str, Timer] = {}
        self._touched: dict[str, JobRun] = {}
        self._handing: list[Assignment] = []
        self._mean_seconds = 1.0  # of the last tasks, with the newest weighing most
        self._closing = False
        self._closed = threading.Event()
        self._side = ThreadPoolExecutor(max_workers=2, thread_name_prefix="settle")
        self._thread = threading.Thread(target=self._loop, name="executor", daemon=True)

    # ---------------------------------------------------------------- verbs

    @property
    def executor_id(self) -> str:
        """Who claims jobs here."""
        return self._lease.identity.executor_id

    def owner_of_new(self) -> str | None:
        """Whose a job that is created here should be: this executor's, or nobody's while others may have more room."""
        return self.executor_id if not self._closing and self._room() > 0 else None

    def start(self) -> None:
        """Begin to claim and run jobs; what a dead executor left unfinished is taken up first."""
        global _current
        _current = self
        self._workers.start(self._agenda.put)
        self._agenda.post(self._lease.round)
        self._agenda.post(self._finish_rollbacks_aside)
        self._thread.start()

    def wake(self, job_id: str, job: Job | None = None) -> None:
        """Look at a job now: it was created, or a stop was decided. `job` is its header as it was stored then."""
        self._agenda.put(_Woken(job_id, job))

    def hear(self, events: Sequence[Event]) -> None:
        """Act on what other processes have committed. From any thread. Raises: `StoreUnavailableError`."""
        decided = {event.job_id for event in events if event.type in _DECISIONS}
        jobs = self._store.get_many(list(decided)) if decided else {}
        freed = {str(event.data["pipeline"]) for event in events if event.type in _ENDS}
        freed.update(*(e.data["tables"] for e in events if e.type == "job.rolled_back"))
        offers = any(event.type in _OFFERS for event in events)

        def act() -> None:
            self._may_be_unclaimed |= offers
            for job in jobs.values():
                self._look_at(job)
            for table in freed:
                if self._forget_unless_own(table):
                    self._table_is_free(table)

        self._agenda.post(act)

    def tables_freed(self, tables: Sequence[str]) -> None:
        """Look at tables now: a rollback, which took them without this executor, has let go of them."""

        def look() -> None:
            for table in tables:
                self._book.forget(table)
                self._table_is_free(table)

        self._agenda.post(look)

    def outlook(self, job_id: str) -> dict[str, Outlook]:
        """Return what a graceful stop of each running task of a job would cost now. May be called from any thread."""
        now = self._clock.monotonic()
        return {
            task_id: active.pace.outlook(now, self._policy(active.pipeline))
            for task_id, active in list(self._active.items())
            if active.run.job.job_id == job_id
        }

    def execute_pipeline(self, pipeline: str, *, user_id: str = "local", **options: Any) -> Job:
        """Run one pipeline, by id. Returns the job; it goes on in the background.

        Args:
            options: Fields of `RunRequest`.
        """
        request = RunRequest(pipelines=(pipeline,), **options)
        return self._manager.create(request, user_id=user_id)[0]

    def execute_with_dependencies(
        self, pipeline: str, *, user_id: str = "local", **options: Any
    ) -> Job:
        """Run one pipeline after everything that it depends on."""
        request = RunRequest(pipelines=(pipeline,), with_dependencies=True, **options)
        return self._manager.create(request, user_id=user_id)[0]

    def execute_full_pipeline(self, *, user_id: str = "local", **options: Any) -> Job:
        """Run all of bronze, then all of silver, then all of gold."""
        return self._manager.create(RunRequest(**options), user_id=user_id)[0]

    def cancel_job(
        self,
        job_id: str,
        *,
        requested_by: str = "local",
        reason: str | None = None,
        mode: StopMode = StopMode.GRACEFUL,
    ) -> bool:
        """Stop a job. Returns whether it was there and running; then it is stored as `cancelled`."""
        try:
            self._manager.cancel(job_id, StopRequest(requested_by, reason, mode))
        except (JobNotFoundError, JobNotRunningError):
            return False
        return True

    def close(self) -> None:
        """Give tasks a moment to reach a checkpoint, end them, and hand their jobs back to whoever comes next."""
        global _current
        if _current is self:
            _current = None
        self._agenda.post(self._begin_closing)
        self._closed.wait(HAND_BACK_SECONDS + 10)
        self._workers.close()
        self._side.shutdown(wait=True, cancel_futures=True)
        self._lease.close()

    # ---------------------------------------------------------------- the loop

    def _loop(self) -> None:
        while not self._closed.is_set():
            try:
                self.tick(self._next_in())
            except Exception:
                # A mistake of ours in one message must not end the service; it is said, and the loop goes on.
                log.exception("executor_tick_failed")

    def tick(self, wait_seconds: float | None) -> None:
        """Act on what has come, waiting for the first message at most so long, and on what is due."""
        self._agenda.take(wait_seconds)
        self._act()

    def _take(self, message: _Message) -> None:
        match message:
            case _Woken(job_id, job):
                # One that is not held here is read: it may have ended or changed hands since.
                known = job if job_id in self._runs else None
                self._look_at(known or self._store.get(job_id))
            case PermitAsked(task_id):
                self._permit(task_id)
            case TaskEnded():
                self._attempt_over(message)
            case TaskLogged(_, entries):
                self._ledger.log(entries)
            case TaskHung(task_id, where):
                if stopping := self._stops.get(task_id):
                    stopping.where = where
            case ShieldChanged(task_id, until_seconds):
                self._shield(task_id, until_seconds)
            case RemoteStopped():
                self._remote_stopped(message)
            case _:
                self._note(message)

    def _act(self) -> None:
        self._hand_over()
        now = self._clock.monotonic()
        self._agenda.do_what_is_due()
        for stopping in self._stops.values():
            if (stage := stopping.due(now)) is not None:
                if stage is not Stage.CHECKPOINT:
                    log.info("task_stop_stage task_id=%s stage=%s", stopping.task_id, stage)
                self._workers.deliver(stopping.task_id, stage)
                if stage is Stage.KILL:
                    self._expect_end(stopping.task_id)
        self._agenda.safely(self._fill_workers)
        self._take_offers()
        touched, self._touched = self._touched, {}
        for run in touched.values():
            if self._closing or not self._is_held(run):
                continue
            if run.is_drained or self._is_out_of_reach(run):
                self._close(run)
        self._agenda.send_out()
        if self._closing and not self._active and not self._agenda.unanswered:
            self._hand_back()

    def _next_in(self) -> float | None:
        now = self._clock.monotonic()
        waits = [stopping.next_in(now) for stopping in self._stops.values()]
        waits.append(self._agenda.next_in)
        return min((max(0.0, wait) for wait in waits if wait is not None), default=None)

    def _mine(self, job: Job, run: JobRun) -> bool:
        """Whether this executor still holds the job: only the lease holder reports on its tasks."""
        return job.executor_id == self.executor_id and job.lease == run.lease

    def _is_held(self, run: JobRun) -> bool:
        """Whether this is how the job is run here; not one that was closed or dropped."""
        return self._runs.get(run.job.job_id) is run

    def _saw(self, run: JobRun, job: Job) -> None:
        """Keep the newest header; what it says that was not known yet is acted on, whoever decided it."""
        if job.version < run.job.version:
            return
        before, run.job = run.job, job
        self._touched[job.job_id] = run
        if job.cancellation is not None and before.cancellation is None:
            run.stop_seen_at = self._clock.monotonic()
        decided = job.cancellation != before.cancellation or job.task_stops != before.task_stops
        if decided and self._is_held(run):
            self._after_decision(run)

    # ---------------------------------------------------------------- jobs come and go

    def _look_at(self, job: Job) -> None:
        job_id = job.job_id
        if (run := self._runs.get(job_id)) is not None:
            if self._mine(job, run):
                self._saw(run, job)
            else:
                self._drop(job_id)
        elif job.is_settled or self._is_leaving:
            return
        elif job.executor_id == self.executor_id:
            self._adopt_when_free(job)
        elif job.executor_id is None:
            # Closing what was stopped before it began takes no worker.
            if job.is_terminal or self._room() > 0:
                self._claim(job)
            self._may_be_unclaimed = True
        elif job.executor_id in self._lease.members.ended:
            self._claim(job)

    def _found(self, orphans: Orphans) -> None:
        """Take up what an executor that has ended left, and what was handed back, as far as there is room for it."""
        if self._is_leaving:
            return
        for job in orphans.left:
            if job.job_id not in self._runs:
                self._claim(job)
        for job in orphans.unclaimed:
            if job.job_id not in self._runs:
                self._look_at(job)
        for job in orphans.own:
            if job.job_id not in self._runs:
                self.wake(job.job_id)  # it is read again: by now it may have ended
        if orphans.left:
            self._finish_rollbacks_aside()

    @property
    def _is_leaving(self) -> bool:
        """Whether nothing may be taken up or started: the server ends, or its lease could not be renewed."""
        return self._closing or self._lease.out_of_touch

    def _room(self) -> int:
        """How much more work that waits should come here. Without others all of it does."""
        if not self._lease.members.others:
            return RELEASED_AT_ONCE_MAX
        waiting = len(self._line) + len(self._active) + len(self._starting)
        return AHEAD_OF_OTHERS * self._workers.capacity - waiting

    def _take_offers(self) -> None:
        """Claim jobs that nobody holds, while there is room for them."""
        room = self._room()
        if not self._may_be_unclaimed or self._is_fetching or self._is_leaving or room <= 0:
            return
        self._is_fetching = True

        def fetch() -> None:
            try:
                jobs = self._store.unclaimed(room)
            except StoreUnavailableError as error:
                log.warning("store_unavailable error=%s", error.what)
                self._agenda.post(lambda: self._agenda.pause(lambda: claim([])))
            else:
                self._agenda.post(lambda: claim(jobs))

        def claim(jobs: Sequence[Job]) -> None:
            self._is_fetching = False
            fresh = [j for j in jobs if j.job_id not in self._claiming | self._runs.keys()]
            self._may_be_unclaimed = len(jobs) == room and bool(fresh)
            for job in fresh:
                if not self._is_leaving:
                    self._claim(job)

        self._side.submit(fetch)

    def _share_out(self) -> None:
        """Let go of jobs that wait here for a worker, for others to claim: those whose turn comes last."""
        if not self._lease.members.others or self._is_leaving:
            return
        self._may_be_unclaimed = True
        surplus = min(-self._room(), RELEASED_AT_ONCE_MAX)
        waiting = [run for _, _, run in self._line if self._is_held(run) and run.is_untouched]
        for run in sorted(waiting, key=lambda run: run.order, reverse=True)[: max(0, surplus)]:
            run.is_leaving = True
            self._give_away(run)

    def _give_away(self, run: JobRun) -> None:
        now = self._clock.now()

        def decide(job: Job) -> Change | None:
            if job.status is not JobStatus.PENDING or not self._mine(job, run):
                return None
            return _released(job, now)

        def then(written: Written) -> None:
            run.is_leaving = False
            if not self._is_held(run):
                return
            if written.changed:
                self._drop(run.job.job_id)
            else:
                self._heard(run, written)
                self._queue(run)

        self._agenda.write(run.job.job_id, decide, then)

    def _lose_touch(self) -> None:
        """The lease could not be renewed: others may start the tasks anew, so they are ended here."""
        for task_id, active in self._active.items():
            active.given_up = True
            self._workers.deliver(task_id, Stage.KILL)
            self._expect_end(task_id)

    def _look_again(self) -> None:
        """The lease was renewed after all: go on with what nobody has taken over."""
        self._agenda.safely(self._read_runs)

    def _read_runs(self) -> None:
        for job in self._store.get_many(list(self._runs)).values():
            self._look_at(job)
            if (run := self._runs.get(job.job_id)) is not None:
                self._queue(run)
                self._touched[job.job_id] = run

    def _finish_rollbacks_aside(self) -> None:
        self._side.submit(self._finish_rollbacks)

    def _finish_rollbacks(self) -> None:
        try:
            self._manager.rollbacks.finish()
        except StoreUnavailableError as error:
            log.warning("store_unavailable error=%s", error.what)
            self._agenda.post(lambda: self._agenda.pause(self._finish_rollbacks_aside))
        except SluicegateError:
            log.exception("rollback_failed")

    def _claim(self, seen: Job) -> None:
        """Take over a job. A stop and a hand-back are no recovery; only running tasks that nobody watched are."""

        def decide(job: Job) -> Change | None:
            if job.is_settled or job.lease != seen.lease:
                return None
            died = job.executor_id is not None and bool(job.running_tasks)
            return Change(
                replace(
                    job,
                    executor_id=self.executor_id,
                    lease=job.lease + 1,
                    recoveries=job.recoveries + (died and not job.is_terminal),
                ),
                made_from=job.version,
                events=(Event("job.claimed", job.job_id, self._clock.now()),),
            )

        def then(written: Written) -> None:
            failed()
            if written.changed and written.job.job_id not in self._runs:
                self._adopt_when_free(written.job)

        def failed() -> None:
            self._claiming.discard(seen.job_id)

        self._claiming.add(seen.job_id)
        self._agenda.write(seen.job_id, decide, then, failed)

    def _adopt_when_free(self, job: Job) -> None:
        """Hold a job that is this executor's, once its tasks of an earlier holding have ended here."""
        if any(active.run.job.job_id == job.job_id for active in self._active.values()):
            self._agenda.pause(lambda: self._look_at(self._store.get(job.job_id)))
        else:
            self._adopt(job)

    def _adopt(self, job: Job) -> None:
        plan = self._store.plan(job.job_id)
        records = self._store.tasks([job.job_id]) if job.started_at else []
        self._book.forget_job(job.job_id)  # what it held or holds it took elsewhere
        for record in records:
            if not record.is_terminal:
                self._forget_unless_own(record.pipeline)
        self._book.read(plan.pipelines)
        run = JobRun(job, plan, records)
        self._runs[job.job_id] = run
        self._touched[job.job_id] = run
        code_version = self._manager.catalog.code_version
        if records and job.code_version != code_version and not job.is_terminal:
            self._say(
                job.job_id,
                "the code has changed since this job was created; it goes on with today's",
            )
        for record in records:
            if record.status is TaskStatus.RUNNING:
                run.taken.add(record.pipeline)
                self._recover_task(run, record)
        if job.started_at is not None:
            self._watch_timeout(run)
        self._queue(run)
        self._after_decision(run)

    def _watch_timeout(self, run: JobRun) -> None:
        """Stop the job when its time, counted from its first start, is over; measured here, for clocks may lie."""
        timeout_seconds = run.job.timeout_seconds
        if timeout_seconds is None or run.job.is_terminal or run.job.job_id in self._timeouts:
            return
        spent = run.job.duration_seconds(self._clock.now()) or 0.0
        request = StopRequest(
            "timeout", f"it ran longer than {timeout_seconds:g} s", cause=Cause.TIMEOUT.value
        )
        self._timeouts[run.job.job_id] = self._agenda.later(
            max(0.0, timeout_seconds - spent),
            lambda: self._cancel_later(run.job.job_id, request),
        )

    def _cancel_later(self, job_id: str, request: StopRequest) -> None:
        self._side.submit(self._cancel_aside, job_id, request)

    def _cancel_aside(self, job_id: str, request: StopRequest) -> None:
        try:
            self._manager.cancel(job_id, request, ignore_ended=True)
        except StoreUnavailableError as error:
            log.warning("store_unavailable job_id=%s error=%s", job_id, error.what)
            again = partial(self._cancel_later, job_id, request)
            self._agenda.post(lambda: self._agenda.pause(again))
        except SluicegateError:
            log.exception("timeout_stop_failed job_id=%s", job_id)

    def _after_decision(self, run: JobRun) -> None:
        """Act on the stored header: a cancelled job's tasks are stopped, unless they may finish (`drain`)."""
        self._touched[run.job.job_id] = run
        self._stop_alone(run)
        receipt = run.job.cancellation
        if run.job.status is not JobStatus.CANCELLED or receipt is None:
            return
        self.cancelled_jobs.add(run.job.job_id)
        mode = StopMode(receipt.mode)
        if mode is StopMode.DRAIN:  # a task's own time, or a stop of it alone, still ends it
            return
        for task_id, active in self._active.items():
            if active.run is run:
                self._stop(
                    task_id, active, mode, receipt.cause, receipt.requested_by, receipt.reason
                )

    def _stop_alone(self, run: JobRun) -> None:
        """Stop those tasks of a job that were asked to stop alone; one that waits for another attempt ends here."""
        for task_id, stop in run.job.task_stops.items():
            if (active := self._active.get(task_id)) is not None and active.run is run:
                self._stop(task_id, active, stop.mode, Cause.USER, stop.requested_by, stop.reason)
        for record in list(run.records.values()):
            if record.status is TaskStatus.PENDING and record.task_id in run.job.task_stops:
                self._end_waiting(run, record)

    def _end_waiting(self, run: JobRun, record: TaskRecord) -> None:
        """A task that was stopped alone in the pause before another attempt."""
        if record.pipeline in run.taken or run.job.is_terminal or self._closing:
            return  # its start is on the way and will be refused; or it ends with its job; or the next holder does this
        run.taken.add(record.pipeline)
        now, stop = self._clock.now(), run.job.task_stops[record.task_id]
        task_stop = TaskStop(
            cause=Cause.USER.value,
            requested_by=stop.requested_by,
            reason=stop.reason,
            stage=Stage.CHECKPOINT.value,
            stopped_at=now,
            latency_ms=latency_ms(stop.requested_at, now),
        )
        self._end(run, record, Ended(TaskEvent.CANCEL, now, record.stats, stop=task_stop))

    def _stop(
        self,
        task_id: str,
        active: _Active,
        mode: StopMode,
        cause: Cause,
        requested_by: str | None,
        reason: str | None,
    ) -> None:
        """Have a task stop, or tell the stop that is under way of a stronger one; it is never made milder."""
        if (stopping := self._stops.get(task_id)) is not None:
            escalates = mode is StopMode.FORCE and stopping.mode is not StopMode.FORCE
            if stopping.is_own_timeout or escalates:
                stopping.mode = mode
                stopping.cause, stopping.requested_by = cause, requested_by
                stopping.reason = reason
            return
        # It is of this process's own life, so the ladder begins now: wall clocks may lie.
        now = self._clock.monotonic()
        policy = self._policy(active.pipeline)
        stopping = TaskStopping(task_id, now, policy, mode, cause, requested_by, reason)
        if active.shielded_until is not None:
            stopping.shield(now, active.shielded_until - now)
            if mode is not StopMode.FORCE:
                # The flag does no harm under a shield: the worker raises when the shield ends.
                stopping.delivered = Stage.CHECKPOINT
                self._workers.deliver(task_id, Stage.CHECKPOINT)
        self._stops[task_id] = stopping

    def _policy(self, pipeline: str) -> CancelPolicy:
        spec = self._manager.catalog.specs.get(pipeline)
        return CancelPolicy(**spec.cancel) if spec is not None and spec.cancel else DEFAULT_POLICY

    def _expect_end(self, task_id: str) -> None:
        """A task was killed. When nothing is heard for the lease time it is out of reach; the kill is tried again."""
        active = self._active[task_id]
        if active.lost_timer is not None:
            return

        def look() -> None:
            if self._active.get(task_id) is active:
                active.is_lost = True
                self._touched[active.run.job.job_id] = active.run
                self._workers.deliver(task_id, Stage.KILL)
                active.lost_timer = self._agenda.later(self._lease_seconds, look)

        active.lost_timer = self._agenda.later(self._lease_seconds + CONTACT_SECONDS, look)

    def _is_out_of_reach(self, run: JobRun) -> bool:
        """Whether all that is left of a job that is being stopped are tasks that nothing is heard of."""
        if not run.job.stopping:
            return False
        lost = {a.pipeline for a in self._active.values() if a.run is run and a.is_lost}
        return run.taken == lost

    def _close(self, run: JobRun) -> None:
        """Every task has ended, or is out of reach: end the job, or close the receipt of its stop."""
        if not run.taken:
            self._forget(run)
        now = self._clock.now()
        records = list(run.records.values())
        began = run.stop_seen_at
        lasted = None if began is None else self._clock.monotonic() - began

        def decide(job: Job) -> Change | None:
            if not self._mine(job, run):
                return None
            receipt = job.cancellation
            if job.is_over and not (receipt is not None and receipt.is_unconfirmed):
                return None
            if job.is_over and job.running_tasks:
                return None
            return _with_missing_means(
                close_job(job, run.plan, records, now, lasted), self._workers.missing_means
            )

        def then(written: Written) -> None:
            self.cancelled_jobs.discard(written.job.job_id)
            self._heard(run, written)

        self._agenda.write(run.job.job_id, decide, then)

    def _drop(self, job_id: str) -> None:
        """Let go of a job that somebody else has taken over: end its tasks here, report nothing."""
        if (run := self._runs.get(job_id)) is None:
            return
        # Whoever has the job now frees its tables; what is known of them here is out of date.
        self._book.forget_job(job_id)
        self._forget(run)
        self.cancelled_jobs.discard(job_id)
        for task_id, active in self._active.items():
            if active.run is run:
                active.over = True
                self._workers.deliver(task_id, Stage.KILL)

    def _forget_unless_own(self, table: str) -> bool:
        """Forget what is known of a table, unless a job that is run here holds it. Returns whether it was forgotten."""
        if self._book.holder(table) in self._runs:
            return False
        self._book.forget(table)
        return True

    def _forget(self, run: JobRun) -> None:
        del self._runs[run.job.job_id]
        if (timer := self._timeouts.pop(run.job.job_id, None)) is not None:
            timer.cancel()
        for table in run.plan.pipelines:
            # It may have been its turn at a table that others wait for.
            if self._book.has_turn(table):
                self._table_is_free(table)

    # ---------------------------------------------------------------- tasks start

    def _queue(self, run: JobRun) -> None:
        if not run.queued and run.has_ready:
            run.queued = True
            heapq.heappush(self._line, (run.order, next(self._numbers), run))

    def _fill_workers(self) -> None:
        at_work = len(self._active) + len(self._starting)
        while self._line and not self._is_leaving:
            run = self._line[0][-1]
            if at_work >= self._workers.capacity + self._ahead(run):
                break
            may_start = self._is_held(run) and not run.job.is_terminal and not run.is_leaving
            pipeline = run.take() if may_start else None
            if pipeline is None:
                heapq.heappop(self._line)
                run.queued = False
            elif self._has_table(run, pipeline):
                at_work += 1
                self._start(run, pipeline)

    def _ahead(self, run: JobRun) -> int:
        """How many tasks may be started before a worker is free: one for each, where tasks last less than a commit.

        Otherwise none: a task that is told as running should run. One with a time limit is never started early.
        """
        if self._mean_seconds > SHORT_TASK_SECONDS or run.ready_count < WIDE_TASKS_MIN:
            return 0
        specs = self._manager.catalog.specs
        spec = specs.get(run.next_pipeline)
        return self._workers.capacity if spec is not None and spec.timeout_seconds is None else 0

    def _has_table(self, run: JobRun, pipeline: str) -> bool:
        """Whether the table is free; if not, the pipeline waits in line for it, holding no worker."""
        try:
            holder = self._book.writer(pipeline)
        except StoreUnavailableError:
            run.give_back(pipeline)
            raise
        if holder.is_free:
            return True
        spec = self._manager.catalog.specs.get(pipeline)
        on_conflict = spec.on_conflict if spec is not None else "queue"
        if on_conflict == "reject":
            self._reject(run, pipeline, holder)
            return False
        if on_conflict == "cancel_running" and holder.job_id is not None:
            why = f"job {run.job.job_id} writes {pipeline} instead"
            request = StopRequest(run.job.user_id, why, cause=Cause.SUPERSEDED.value)
            self._cancel_later(holder.job_id, request)
        run.put_aside(pipeline)
        self._book.wait(run.job.job_id, pipeline)
        return False

    def _reject(self, run: JobRun, pipeline: str, holder: Writer) -> None:
        """The table is another job's, and the pipeline does not wait: its attempt starts and fails in one write."""
        now = self._clock.now()
        record = self._record(run, pipeline, now)
        error = (
            f"table_busy: {pipeline} is being written by job {holder.job_id}\nrun it again later"
        )
        ended = TaskEnded(record.task_id, "failed", record.stats, error=error)
        self._starting.add(record.task_id)

        def judged(job: Job) -> tuple[Job, TaskRecord, Ended, float]:
            started, task = start_task(job, record, now)
            spec = self._manager.catalog.specs.get(pipeline)
            came_to = conclude(
                started, task, ended, None, spec, handing_back=None, now=now, monotonic=0.0
            )
            after, task = end_attempt(started, came_to.record, came_to.ended)
            return after, task, came_to.ended, came_to.pause_seconds

        def decide(job: Job) -> Change | None:
            if self._is_refused(job, run, record):
                return None
            after, task, came_to, _ = judged(job)
            kind = "task.waiting" if came_to.event is TaskEvent.WAIT else "task.finished"
            return Change(
                after,
                made_from=job.version,
                tasks=(task,),
                events=(*_start_events(job, task, now), task_finished(task, now, kind)),
                logs=end_lines(task, came_to),
            )

        def then(written: Written) -> None:
            self._starting.discard(record.task_id)
            if not written.changed:
                self._start_refused(run, pipeline, written.job)
            elif self._is_held(run):
                _, task, _, pause = judged(replace(written.job, status=JobStatus.RUNNING))
                run.records[pipeline] = task
                self._saw(run, written.job)
                self._watch_timeout(run)
                self._follow_up(run, task, pause)

        self._agenda.write(
            run.job.job_id, decide, then, lambda: self._starting.discard(record.task_id)
        )

    @staticmethod
    def _record(run: JobRun, pipeline: str, now: datetime) -> TaskRecord:
        """The task that the next attempt of a pipeline belongs to."""
        return run.records.get(pipeline) or TaskRecord(
            new_id(), run.job.job_id, pipeline, TaskStatus.RUNNING, started_at=now
        )

    def _is_refused(self, job: Job, run: JobRun, task: TaskRecord) -> bool:
        """Whether an attempt may not start: the job or the task was stopped, or the job taken over."""
        return job.is_terminal or not self._mine(job, run) or task.task_id in job.task_stops

    def _start(self, run: JobRun, pipeline: str) -> None:
        now = self._clock.now()
        free = self._book.writer(pipeline)
        task = replace(self._record(run, pipeline, now), epoch=free.epoch + 1)
        writer = self._book.take(task)
        self._starting.add(task.task_id)

        def failed() -> None:
            self._starting.discard(task.task_id)
            self._book.forget(pipeline)
            self._table_is_free(pipeline)

        def decide(job: Job) -> Change | None:
            if self._is_refused(job, run, task):
                return None
            after, started = start_task(job, task, now)
            return Change(
                after,
                made_from=job.version,
                tasks=(started,),
                writers=(writer,),
                events=_start_events(job, task, now),
            )

        self._agenda.write(
            run.job.job_id, decide, lambda w: self._started(run, task, free, now, w), failed
        )

    def _started(
        self, run: JobRun, task: TaskRecord, before: Writer, now: datetime, written: Written
    ) -> None:
        self._starting.discard(task.task_id)
        if not written.changed:
            self._not_started(run, task, before, written)
            return
        if not self._is_held(run):
            return  # dropped meanwhile: it is told as running, and recovered by who holds the job next
        _, record = start_task(replace(written.job, status=JobStatus.RUNNING), task, now)
        run.records[task.pipeline] = record
        spec = self._manager.catalog.specs.get(task.pipeline)
        since = self._clock.monotonic()
        active = _Active(run, task.pipeline, since, Pace(since), heard_at=since)
        self._active[task.task_id] = active
        if spec is None:
            self._saw(run, written.job)
            self._attempt_over(
                TaskEnded(
                    task.task_id,
                    "failed",
                    record.stats,
                    error=f"pipeline {task.pipeline!r} is not in the code any more",
                )
            )
            return
        if spec.timeout_seconds is not None:
            active.timer = self._agenda.later(
                spec.timeout_seconds, lambda: self._out_of_time(task, spec.timeout_seconds)
            )
        if spec.stall_timeout_seconds is not None:
            active.stall_seconds = spec.stall_timeout_seconds
            self._watch_stall(task.task_id, active)
        self._handing.append(
            Assignment(
                job_id=run.job.job_id,
                task_id=task.task_id,
                attempt=record.attempt,
                spec=spec,
                epoch=task.epoch,
                params=run.job.params,
                full_refresh=run.job.full_refresh,
                recovers=record.attempt > 1,
            )
        )
        self._saw(run, written.job)
        self._watch_timeout(run)

    def _hand_over(self) -> None:
        """Give workers what has started, unless a stop that was decided meanwhile has been heard of by now."""
        handing, self._handing = self._handing, []
        for assignment in handing:
            active = self._active[assignment.task_id]
            run, active.given_up = active.run, self._lease.out_of_touch
            stopped = run.job.is_terminal or assignment.task_id in run.job.task_stops
            if self._is_held(run) and not stopped and not self._is_leaving:
                self._workers.run(assignment)
                continue
            stats = run.records[assignment.spec.pipeline_id].stats
            ended = TaskEnded(assignment.task_id, "cancelled", stats, stage=Stage.CHECKPOINT)
            self._agenda.safely(partial(self._attempt_over, ended))

    def _not_started(self, run: JobRun, task: TaskRecord, before: Writer, written: Written) -> None:
        """The start was refused: the job was stopped or taken over meanwhile, or its table was."""
        if written.conflict:
            self._book.forget(task.pipeline)
        else:
            self._book.put_back(before)
            self._table_is_free(task.pipeline)
        self._start_refused(run, task.pipeline, written.job)

    def _start_refused(self, run: JobRun, pipeline: str, job: Job) -> None:
        if not self._is_held(run):
            return
        if self._mine(job, run):
            run.give_back(pipeline)
            self._queue(run)
            self._saw(run, job)
            self._stop_alone(run)
        else:
            self._drop(run.job.job_id)

    def _watch_stall(self, task_id: str, active: _Active) -> None:
        """Stop an attempt that passes no checkpoint and makes no progress; a shield is no stall."""
        if (stall_seconds := active.stall_seconds) is None:
            return
        if active.stall_timer is not None:
            active.stall_timer.cancel()

        def look() -> None:
            if self._active.get(task_id) is not active or task_id in self._stops:
                return
            now = self._clock.monotonic()
            allowed = stall_seconds if active.has_begun else max(stall_seconds, LOAD_SECONDS)
            left = max(active.heard_at, active.shielded_until or 0.0) + allowed - now
            if left > 0:
                active.was_shielded = active.shielded_until is not None
                active.stall_timer = self._agenda.later(left, look)
                return
            reason = f"it passed no checkpoint and made no progress for {allowed:g} s"
            self._stop(task_id, active, StopMode.GRACEFUL, Cause.STALL, None, reason)

        active.stall_timer = self._agenda.later(stall_seconds, look)

    def _out_of_time(self, task: TaskRecord, timeout_seconds: float | None) -> None:
        active = self._active.get(task.task_id)
        if active is None or task.task_id in self._stops:
            return
        if active.run.records[task.pipeline].attempt == task.attempt:
            reason = f"it ran longer than {timeout_seconds:g} s"
            self._stop(task.task_id, active, StopMode.GRACEFUL, Cause.TIMEOUT, None, reason)

    # ---------------------------------------------------------------- tasks run

    def _permit(self, task_id: str) -> None:
        """Answer a request to commit, by one conditional write of the job: it is what a stop races with."""
        active = self._active.get(task_id)
        if active is None:
            self._workers.answer_permit(task_id, "the task is not running here")
            return
        run, pipeline = active.run, active.pipeline
        record = run.records[pipeline]
        active.heard_at = self._clock.monotonic()
        run.records[pipeline] = replace(record, permits=record.permits + 1)
        draining = run.job.cancellation is not None and run.job.cancellation.mode == StopMode.DRAIN
        alone = task_id in self._stops or active.given_up or (self._closing and not draining)
        refusal: list[str | None] = [None]

        def decide(job: Job) -> Change | None:
            task = run.records[pipeline]
            if active.over:
                refusal[0] = "the attempt is over"
            elif not self._mine(job, run):
                refusal[0] = "another executor has taken the job over"
            else:
                refusal[0] = may_commit(job, task, stopping_alone=alone, lease=run.lease)
            if refusal[0] is not None:
                return None
            return Change(job, made_from=job.version, tasks=(task,))

        def then(written: Written) -> None:
            if self._active.get(task_id) is active:  # not a later attempt, which has not asked
                self._workers.answer_permit(task_id, refusal[0])
            self._heard(run, written)

        self._agenda.write(run.job.job_id, decide, then)

    def _heard(self, run: JobRun, written: Written) -> None:
        """A decision about a running task was answered: with it comes what others decided about the job."""
        if self._is_held(run):
            if self._mine(written.job, run):
                self._saw(run, written.job)
            else:
                self._drop(run.job.job_id)

    def _note(self, event: WorkerEvent) -> None:
        """Keep what a running task says about itself; it is stored now, or with the next write."""
        active = self._active.get(event.task_id)
        if active is None:
            return
        record = active.run.records[active.pipeline]
        now = active.heard_at = self._clock.monotonic()
        match event:
            case TaskBegan():
                active.has_begun = True
                active.pace.committed(now)
                self._watch_stall(event.task_id, active)
            case CheckpointsPassed(_, seconds, squares):
                active.pace.passed(now, seconds, squares)
            case TaskOpened(_, inputs):
                active.run.records[active.pipeline] = replace(record, inputs=inputs)
            case UnitCommitted(_, stats):
                record = replace(record, stats=stats)
                active.run.records[active.pipeline] = record
                active.pace.committed(now)
                self._store_record(active, "task.committed", {"rows": stats.rows})
            case TaskProgressed(_, progress):
                record = replace(record, progress=progress)
                active.run.records[active.pipeline] = record
                self._tell_progress(active, record, now)
                if now - active.progress_stored >= PROGRESS_STORED_SECONDS:
                    active.progress_stored = now
                    self._store_record(active)

    def _tell_progress(self, active: _Active, record: TaskRecord, now: float) -> None:
        if now - active.progress_told < PROGRESS_TOLD_SECONDS or record.progress is None:
            return
        active.progress_told = now
        data = {
            "done": record.progress.done,
            "total": record.progress.total,
            "unit": record.progress.unit,
        }
        event = Event("task.progress", record.job_id, self._clock.now(), record.task_id, data)
        self._hub.publish([event])

    def _store_record(
        self, active: _Active, event: str | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        """Store what is known of a running task by the time it is written; its end is stored by `_end` alone."""
        run, record = active.run, active.run.records[active.pipeline]
        now = self._clock.now()
        events = (Event(event, record.job_id, now, record.task_id, data or {}),) if event else ()

        def decide(job: Job) -> Change | None:
            tasks = () if active.over else (run.records[active.pipeline],)
            if job.is_over or not self._mine(job, run) or not (tasks or events):
                return None
            return Change(job, made_from=job.version, tasks=tasks, events=events)

        self._agenda.write(run.job.job_id, decide, lambda written: self._heard(run, written))

    def _shield(self, task_id: str, until_seconds: float | None) -> None:
        now = self._clock.monotonic()
        if active := self._active.get(task_id):
            active.shielded_until = None if until_seconds is None else now + until_seconds
            active.heard_at = now
            if until_seconds is None and active.was_shielded:
                active.was_shielded = False
                self._watch_stall(task_id, active)  # it was put off to the end of the shield
        if stopping := self._stops.get(task_id):
            stopping.shield(now, until_seconds)

    def _remote_stopped(self, event: RemoteStopped) -> None:
        """Keep what became of work elsewhere; what is not called before the task is gone stays unconfirmed."""
        if (active := self._active.get(event.task_id)) is None:
            return
        if event.outcome == "forgotten":
            active.remote.pop(event.number, None)
        else:
            active.remote[event.number] = RemoteStop(event.what, event.outcome, event.tries)

    # ---------------------------------------------------------------- tasks end

    def _attempt_over(self, ended: TaskEnded) -> None:
        """No process of the attempt is left. Where it could not say how it ended, its table's log says it."""
        active = self._active.pop(ended.task_id, None)
        stopping = self._stops.pop(ended.task_id, None)
        if active is None:
            return
        active.over = True
        lasted = self._clock.monotonic() - active.since
        self._mean_seconds += (lasted - self._mean_seconds) / MEAN_OF_TASKS
        for timer in (active.timer, active.stall_timer, active.lost_timer):
            if timer is not None:
                timer.cancel()
        remote = tuple(active.remote.values())
        run, record = active.run, active.run.records[active.pipeline]
        conclude = partial(
            self._conclude, run, record, remote=remote, given_up=active.given_up, stopping=stopping
        )
        if ended.outcome == "lost":
            self._clean_up(record)
        if not self._is_held(run):
            return
        if ended.outcome == "lost" or says_too_little(record, ended):
            self._settle(record, lambda settled: conclude(told(ended, settled)))
        else:
            conclude(ended)

    def _settle(
        self,
        record: TaskRecord,
        then: Callable[[Settled], None],
        fence: Writer | None = None,
        tries_left: int = SETTLE_TRIES_MAX,
    ) -> None:
        """Read the table's log aside; the table is the truth after a crash. One that cannot be read is asked again.

        A task that never asked for a permit has committed nothing: what is stored is all there is.
        """
        if not record.permits:
            then(Settled(record.stats, complete=False))
            return
        self._agenda.unanswered += 1

        def read() -> None:
            try:
                settled = self._tables.settle(record.pipeline, record.task_id, fence)
            except Exception as error:  # noqa: BLE001 - whatever a lake on a bad day raises
                log.warning("settle_failed task_id=%s error=%s", record.task_id, error)
                self._agenda.post(could_not)
            else:
                self._agenda.post(lambda: read_it(settled))

        def read_it(settled: Settled) -> None:
            self._agenda.unanswered -= 1
            then(settled)

        def could_not() -> None:
            if tries_left <= 1:  # a table that stays unreadable must not lose the job
                read_it(Settled(record.stats, complete=False))
                return
            self._agenda.unanswered -= 1
            again = partial(self._settle, record, then, fence, tries_left - 1)
            self._agenda.later(SETTLE_PAUSE_SECONDS, again)

        self._side.submit(read)

    def _clean_up(self, record: TaskRecord) -> None:
        """Remove what a writer that was killed left of files; a reader never sees them, but they take room."""

        def remove() -> None:
            try:
                self._tables.clean_up(record.pipeline, record.task_id, record.attempt)
            except Exception as error:  # noqa: BLE001 - it is waste, and not worth a job
                log.warning("clean_up_failed task_id=%s error=%s", record.task_id, error)

        self._side.submit(remove)

    def _recover_task(self, run: JobRun, record: TaskRecord) -> None:
        """A task that ran when its executor died: it goes on, unless its job was stopped or has no try left.

        Its last writer may only be out of reach, and come back with the permit it had. So where the log does not
        say that all is committed, it is shut out before the log is believed, and before its files are removed.
        """

        def then(settled: Settled) -> None:
            if not self._is_held(run):
                return
            record = run.records[pipeline]
            self._clean_up(record)
            exhausted = run.job.recoveries > RECOVERIES_MAX
            stopping = self._stopped_elsewhere(run, record, Stage.KILL)
            if settled.complete or stopping is not None or run.job.is_terminal or exhausted:
                message = RECOVERIES_EXHAUSTED if exhausted and not run.job.is_terminal else None
                ended = TaskEnded(record.task_id, "lost", message=message, stage=Stage.KILL)
                self._conclude(run, record, told(ended, settled), stopping=stopping)
            else:
                why = "taken up again after a crash"
                wait = Ended(TaskEvent.WAIT, self._clock.now(), settled.stats, why)
                self._end(run, record, wait)

        def looked(settled: Settled) -> None:
            if settled.complete or not record.permits:
                then(settled)
            else:
                self._agenda.safely(lambda: self._shut_out(run, record, then))

        pipeline = record.pipeline
        self._settle(record, looked)

    def _shut_out(self, run: JobRun, record: TaskRecord, then: Callable[[Settled], None]) -> None:
        """Take the table anew for a task, so that the table itself refuses what still writes for it; then settle."""
        if not self._is_held(run):
            return
        held = self._book.writer(record.pipeline)
        assert held.task_id == record.task_id, "a running task holds its table"
        fence = replace(held, epoch=held.epoch + 1)
        fenced = replace(record, epoch=fence.epoch)

        def decide(job: Job) -> Change | None:
            if not self._mine(job, run):
                return None
            return Change(job, made_from=job.version, tasks=(fenced,), writers=(fence,))

        def stored(written: Written) -> None:
            self._heard(run, written)
            if written.conflict:
                self._book.forget(record.pipeline)
                self._agenda.safely(lambda: self._shut_out(run, record, then))
            elif written.changed and self._is_held(run):
                self._book.stored(fence)
                run.records[record.pipeline] = fenced
                self._settle(fenced, then, fence)

        self._agenda.write(run.job.job_id, decide, stored)

    def _stopped_elsewhere(
        self, run: JobRun, record: TaskRecord, delivered: Stage
    ) -> TaskStopping | None:
        """The stop of a task that nothing was delivered to from here: its job's, or its own."""
        now = self._clock.monotonic()
        by = partial(
            TaskStopping,
            record.task_id,
            now,
            DEFAULT_POLICY,
            delivered=delivered,
            seen_begin=False,
        )
        if (receipt := run.job.cancellation) is not None:
            mode = StopMode(receipt.mode)
            return by(mode, receipt.cause, receipt.requested_by, receipt.reason)
        if (stop := run.job.task_stops.get(record.task_id)) is not None:
            return by(stop.mode, Cause.USER, stop.requested_by, stop.reason)
        return None

    def _conclude(
        self,
        run: JobRun,
        record: TaskRecord,
        ended: TaskEnded,
        *,
        stopping: TaskStopping | None,
        remote: tuple[RemoteStop, ...] = (),
        given_up: bool = False,
    ) -> None:
        """Decide what an attempt came to, and store it."""
        if not self._is_held(run):
            return
        handing_back = _TOLD_TO_END if self._closing else _OUT_OF_TOUCH if given_up else None
        if stopping is None and is_stopped(
            run.job, record, ended, closing=handing_back is not None
        ):
            stopping = self._stopped_elsewhere(run, record, Stage.CHECKPOINT)
        conclusion = conclude(
            run.job,
            record,
            ended,
            stopping,
            self._manager.catalog.specs.get(record.pipeline),
            handing_back=handing_back,
            now=self._clock.now(),
            monotonic=self._clock.monotonic(),
            remote=remote,
        )
        self._end(run, conclusion.record, conclusion.ended, conclusion.pause_seconds)

    def _end(self, run: JobRun, record: TaskRecord, ended: Ended, pause: float = 0.0) -> None:
        pipeline = record.pipeline
        held = self._book.writer(pipeline)
        if held.task_id != record.task_id and record.status is TaskStatus.RUNNING:
            self._book.forget(pipeline)
            held = self._book.writer(pipeline)
        holds = held.task_id == record.task_id
        released = replace(held, job_id=None, task_id=None)

        def decide(job: Job) -> Change | None:
            if not self._mine(job, run):
                return None
            after, task = end_attempt(job, record, ended)
            kind = "task.waiting" if ended.event is TaskEvent.WAIT else "task.finished"
            return Change(
                after,
                made_from=job.version,
                tasks=(task,),
                writers=(released,) if holds else (),
                events=(task_finished(task, ended.at, kind),),
                logs=end_lines(task, ended),
            )

        def then(written: Written) -> None:
            if not self._is_held(run):
                return
            if not written.changed:
                if written.conflict and self._mine(written.job, run):
                    # What is known of its table is out of date.
                    self._book.forget(pipeline)
                    self._agenda.safely(lambda: self._end(run, record, ended, pause))
                else:
                    self._drop(run.job.job_id)
                return
            _, task = end_attempt(written.job, record, ended)
            run.records[pipeline] = task
            if holds:
                self._book.stored(released)
                self._table_is_free(pipeline)
            self._saw(run, written.job)
            self._follow_up(run, task, pause)

        self._agenda.write(run.job.job_id, decide, then)

    def _follow_up(self, run: JobRun, task: TaskRecord, pause: float) -> None:
        self._touched[run.job.job_id] = run
        if task.status is not TaskStatus.PENDING:
            run.end(task.pipeline, succeeded=task.status is TaskStatus.SUCCESS)
        elif task.task_id in run.job.task_stops and not run.job.is_terminal:
            run.put_aside(task.pipeline)
            self._end_waiting(run, task)  # a retry does not bring back what was stopped
            return
        elif pause and not run.job.is_terminal:
            run.put_aside(task.pipeline)
            self._agenda.later(pause, lambda: self._retry(run, task.pipeline))
            return
        else:
            run.give_back(task.pipeline)  # if its job was stopped meanwhile, it ends with the job
        self._queue(run)

    def _retry(self, run: JobRun, pipeline: str) -> None:
        # What is taken was stopped in the pause, and its end is on its way: it must not be ended twice.
        if self._is_held(run) and not run.job.is_terminal and pipeline not in run.taken:
            run.give_back(pipeline)
            self._queue(run)

    def _table_is_free(self, table: str) -> None:
        while (job_id := self._book.next_in_line(table)) is not None:
            run = self._runs.get(job_id)
            if run is not None and not run.job.is_terminal and table not in run.taken:
                run.give_back(table)
                self._queue(run)
                return

    # ---------------------------------------------------------------- the end

    def _begin_closing(self) -> None:
        self._closing = True
        for task_id in self._active:
            self._workers.deliver(task_id, Stage.CHECKPOINT)
        self._agenda.later(HAND_BACK_SECONDS, self._end_what_is_left)

    def _end_what_is_left(self) -> None:
        for task_id in self._active:
            self._workers.deliver(task_id, Stage.KILL)

    def _hand_back(self) -> None:
        """Let go of every job, so that the next executor takes it up without counting a recovery."""
        if self._closed.is_set():
            return
        waiting = list(self._runs.values())
        self._runs.clear()
        for run in waiting:
            self._release(run)
        self._closed.set()

    def _release(self, run: JobRun) -> None:
        records = list(run.records.values())
        now = self._clock.now()

        def decide(job: Job) -> Change | None:
            if job.is_settled or not self._mine(job, run):
                return None
            if not run.taken and (
                job.is_terminal or run.is_drained
            ):  # a stop may not be heard of yet
                return close_job(job, run.plan, records, now)
            return _released(job, now)

        try:
            self._ledger.write(run.job.job_id, decide)
        except SluicegateError:
            log.exception("hand_back_failed job_id=%s", run.job.job_id)

    def _say(self, job_id: str, line: str, task_id: str | None = None) -> None:
        self._ledger.log([LogEntry(job_id, self._clock.now(), line, task_id)])


def _released(job: Job, now: datetime) -> Change:
    """A job that is anybody's again."""
    event = Event("job.released", job.job_id, now)
    return Change(replace(job, executor_id=None), made_from=job.version, events=(event,))


def _with_missing_means(change: Change, missing: tuple[str, ...]) -> Change:
    """The end of a job; the receipt of a stop says what this platform lacks to end whole trees."""
    receipt = change.job.cancellation
    if receipt is None or not missing:
        return change
    return replace(
        change, job=replace(change.job, cancellation=replace(receipt, missing_means=missing))
    )


def _start_events(job: Job, task: TaskRecord, now: datetime) -> tuple[Event, ...]:
    """The events of an attempt's start; the job's first one starts the job."""
    facts = {"pipeline": task.pipeline, "attempt": task.attempt}
    started = Event("task.started", job.job_id, now, task.task_id, facts)
    if job.status is not JobStatus.PENDING:
        return (started,)
    return Event("job.started", job.job_id, now, data={"status": "running"}), started
