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
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from sluicegate.cancel_policy import DEFAULT_POLICY, CancelPolicy
from sluicegate.core.agenda import Agenda, Timer
from sluicegate.core.cancellation import Stage
from sluicegate.core.conclusions import (
    conclude,
    end_lines,
    is_stopped,
    says_too_little,
    told,
)
from sluicegate.core.held_jobs import HeldJobs
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
from sluicegate.core.pace import Outlook
from sluicegate.core.ports import (
    Assignment,
    Change,
    Clock,
    Executor,
    PermitAsked,
    Store,
    Tables,
    TaskEnded,
    TaskLogged,
    TaskOpened,
    TaskProgressed,
    UnitCommitted,
    WorkerEvent,
    Workers,
    Writer,
)
from sluicegate.core.receipt import Cause, RemoteStop, latency_ms
from sluicegate.core.records import replace
from sluicegate.core.recovery import Recovery, stopped_elsewhere
from sluicegate.core.running_tasks import RunningTask, RunningTasks
from sluicegate.core.sharing import Sharing, released
from sluicegate.core.stops import TaskStopping
from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.core.table_book import TableBook
from sluicegate.core.transitions import (
    Ended,
    StopRequest,
    TaskEvent,
    as_ended,
    as_started,
    count_ended,
    end_attempt,
    may_commit,
    start_task,
)
from sluicegate.errors import SluicegateError

log = logging.getLogger(__name__)

PROGRESS_STORED_SECONDS: Final = 1.0
PROGRESS_TOLD_SECONDS: Final = 0.1
HAND_BACK_SECONDS: Final = 8.0
ROLLBACK_AGAIN_SECONDS: Final = 5.0
SHORT_TASK_SECONDS: Final = 0.02
WIDE_TASKS_MIN: Final = 32

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
        self._workers, self._hub, self._clock = workers, hub, clock
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
            looked=lambda: self._sharing.share_out([run for *_, run in self._line]),
        )
        self._held = HeldJobs(self.executor_id, clock, self._after_decision, self._drop)
        self._running = RunningTasks(
            workers=workers,
            agenda=self._agenda,
            clock=clock,
            policy=self._policy,
            lost=self._held.touch,
            lost_seconds=lease_seconds,
        )
        self._sharing = Sharing(
            self.executor_id,
            store=store,
            agenda=self._agenda,
            clock=clock,
            held=self._held,
            aside=self._aside,
            is_leaving=lambda: self._is_leaving,
            others=lambda: self._lease.members.others,
            busy=self._busy,
            claimed=self._adopt_when_free,
            given=lambda run: self._drop(run.job.job_id),
        )
        self._book = TableBook(store)
        self._recovery = Recovery(
            tables=tables,
            book=self._book,
            agenda=self._agenda,
            clock=clock,
            held=self._held,
            aside=self._aside,
            conclude=self._conclude,
            end=self._end,
        )
        self._line: list[tuple[tuple[int, str], int, JobRun]] = []
        self._starting: set[str] = set()
        self._numbers = itertools.count()
        self._timeouts: dict[str, Timer] = {}
        self._handing: list[Assignment] = []
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
        return self.executor_id if not self._is_leaving and self._sharing.room > 0 else None

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
            if offers:
                self._sharing.offered()
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
        return self._running.outlook(job_id)

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
        self._closed.set()  # also where the store is away: the loop must not outlive what it uses
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
                known = job if job_id in self._held else None
                self._look_at(known or self._store.get(job_id))
            case PermitAsked(task_id):
                self._permit(task_id)
            case TaskEnded():
                self._attempt_over(message)
            case TaskLogged(_, entries):
                self._ledger.log(entries)
            case TaskOpened() | UnitCommitted() | TaskProgressed():
                self._note(message)
            case _:
                self._running.hear(message)

    def _act(self) -> None:
        # What is due comes first: who slept for longer than its lease must know before it gives anything to a worker.
        self._agenda.do_what_is_due()
        self._hand_over()
        self._running.climb()
        self._agenda.safely(self._fill_workers)
        self._sharing.take_offers()
        for run in self._held.take_touched():
            if not self._closing and (run.is_drained or self._is_out_of_reach(run)):
                self._close(run)
        self._agenda.send_out(expects_more=self._running.ends_soon and not self._closing)
        if self._closing and not self._running and not self._agenda.unanswered:
            self._hand_back()

    def _next_in(self) -> float | None:
        waits = (self._running.next_in, self._agenda.next_in)
        return min((max(0.0, wait) for wait in waits if wait is not None), default=None)

    def _aside(self, do: Callable[[], None]) -> None:
        self._side.submit(do)

    # ---------------------------------------------------------------- jobs come and go

    def _look_at(self, job: Job) -> None:
        job_id = job.job_id
        if (run := self._held.get(job_id)) is not None:
            if self._held.is_own(job, run):
                self._held.saw(run, job)
            else:
                self._drop(job_id)
        elif job.is_settled or self._is_leaving:
            return
        elif job.executor_id == self.executor_id:
            self._adopt_when_free(job)
        elif job.executor_id is None:
            # Closing what was stopped before it began takes no worker.
            if job.is_terminal or self._sharing.room > 0:
                self._sharing.claim(job)
            self._sharing.offered()
        elif job.executor_id in self._lease.members.ended:
            self._sharing.claim(job)

    def _found(self, orphans: Orphans) -> None:
        """Take up what an executor that has ended left, and what was handed back, as far as there is room for it."""
        if self._is_leaving:
            return
        for job in orphans.left:
            if job.job_id not in self._held:
                self._sharing.claim(job)
        for job in orphans.unclaimed:
            if job.job_id not in self._held:
                self._look_at(job)
        for job in orphans.own:
            if job.job_id not in self._held:
                self.wake(job.job_id)  # it is read again: by now it may have ended
        if orphans.left:
            self._finish_rollbacks_aside()

    @property
    def _is_leaving(self) -> bool:
        """Whether nothing may be taken up or started: the server ends, or its lease could not be renewed."""
        return self._closing or self._lease.is_in_doubt

    def _lose_touch(self) -> None:
        """The lease could not be renewed: others may start the tasks anew, so they are ended here."""
        for active in self._running:
            active.given_up = True
            self._running.kill(active)

    def _look_again(self) -> None:
        """The lease was renewed after all: go on with what nobody has taken over."""
        self._agenda.safely(self._read_runs)

    def _read_runs(self) -> None:
        for job in self._store.get_many(list(self._held)).values():
            self._look_at(job)

    def _finish_rollbacks_aside(self) -> None:
        self._aside(self._finish_rollbacks)

    def _finish_rollbacks_later(self) -> None:
        self._agenda.later(ROLLBACK_AGAIN_SECONDS, self._finish_rollbacks_aside)

    def _finish_rollbacks(self) -> None:
        try:
            self._manager.rollbacks.finish()
        except StoreUnavailableError as error:
            log.warning("store_unavailable error=%s", error.what)
            self._agenda.post(lambda: self._agenda.pause(self._finish_rollbacks_aside))
        except SluicegateError as error:
            log.warning("rollback_unfinished error=%s", error.what)
            self._agenda.post(self._finish_rollbacks_later)

    def _adopt_when_free(self, job: Job) -> None:
        """Hold a job that is this executor's, once its tasks of an earlier holding have ended here."""
        if any(active.run.job.job_id == job.job_id for active in self._running):
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
        self._held[job.job_id] = run
        self._held.touch(run)
        code_version = self._manager.catalog.code_version
        if records and job.code_version != code_version and not job.is_terminal:
            changed = "the code has changed since this job was created; it goes on with today's"
            self._ledger.log([LogEntry(job.job_id, self._clock.now(), changed)])
        for record in records:
            if record.status is TaskStatus.RUNNING:
                run.taken.add(record.pipeline)
                self._recovery.take_up(run, record)
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
        self._aside(partial(self._cancel_aside, job_id, request))

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
        self._held.touch(run)
        self._stop_alone(run)
        receipt = run.job.cancellation
        if run.job.status is not JobStatus.CANCELLED or receipt is None:
            return
        self.cancelled_jobs.add(run.job.job_id)
        mode = StopMode(receipt.mode)
        if mode is StopMode.DRAIN:  # a task's own time, or a stop of it alone, still ends it
            return
        for active in self._running.of(run):
            self._running.stop(active, mode, receipt.cause, receipt.requested_by, receipt.reason)

    def _stop_alone(self, run: JobRun) -> None:
        """Stop those tasks of a job that were asked to stop alone; one that waits for another attempt ends here."""
        for task_id, stop in run.job.task_stops.items():
            if (active := self._running.get(task_id)) is not None and active.run is run:
                self._running.stop(active, stop.mode, Cause.USER, stop.requested_by, stop.reason)
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

    def _policy(self, pipeline: str) -> CancelPolicy:
        spec = self._manager.catalog.specs.get(pipeline)
        return CancelPolicy(**spec.cancel) if spec is not None and spec.cancel else DEFAULT_POLICY

    def _is_out_of_reach(self, run: JobRun) -> bool:
        """Whether all that is left of a job that is being stopped are tasks that nothing is heard of."""
        if not run.job.stopping:
            return False
        lost = {active.pipeline for active in self._running.of(run) if active.is_lost}
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
            if not self._held.is_own(job, run):
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
            self._held.heard(run, written)

        self._agenda.write(run.job.job_id, decide, then)

    def _drop(self, job_id: str) -> None:
        """Let go of a job that somebody else has taken over: end its tasks here, report nothing."""
        if (run := self._held.get(job_id)) is None:
            return
        # Whoever has the job now frees its tables; what is known of them here is out of date.
        self._book.forget_job(job_id)
        self._forget(run)
        self.cancelled_jobs.discard(job_id)
        self._running.abandon(run)

    def _forget_unless_own(self, table: str) -> bool:
        """Forget what is known of a table, unless a job that is run here holds it. Returns whether it was forgotten."""
        if self._book.holder(table) in self._held:
            return False
        self._book.forget(table)
        return True

    def _forget(self, run: JobRun) -> None:
        del self._held[run.job.job_id]
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
        at_work = len(self._running) + len(self._starting)
        while self._line and not self._is_leaving:
            run = self._line[0][-1]
            if at_work >= self._workers.capacity + self._ahead(run):
                break
            may_start = self._held.holds(run) and not run.job.is_terminal and not run.is_leaving
            pipeline = run.take() if may_start else None
            if pipeline is None:
                heapq.heappop(self._line)
                run.queued = False
            elif self._has_table(run, pipeline):
                at_work += 1
                self._start(run, pipeline)

    def _busy(self) -> tuple[int, int]:
        """How much is at work or waits for a worker, and how much can be at work."""
        waiting = len(self._line) + len(self._running) + len(self._starting)
        return waiting, self._workers.capacity

    def _ahead(self, run: JobRun) -> int:
        """How many tasks may be started before a worker is free: one for each, where tasks last less than a commit.

        Otherwise none: a task that is told as running should run. One with a time limit is never started early.
        """
        if self._running.mean_seconds > SHORT_TASK_SECONDS or run.ready_count < WIDE_TASKS_MIN:
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
                events=(*_start_events(job, record, now), task_finished(task, now, kind)),
                logs=end_lines(task, came_to),
            )

        def then(written: Written) -> None:
            self._starting.discard(record.task_id)
            if not written.changed:
                self._start_refused(run, pipeline, written.job)
            elif self._held.holds(run):
                _, task, _, pause = judged(written.job)
                run.records[pipeline] = task
                self._held.saw(run, written.job)
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
        return job.is_terminal or not self._held.is_own(job, run) or task.task_id in job.task_stops

    def _start(self, run: JobRun, pipeline: str) -> None:
        now = self._clock.now()
        free = self._book.writer(pipeline)
        task = replace(self._record(run, pipeline, now), epoch=free.epoch + 1)
        writer = self._book.take(task)
        self._starting.add(task.task_id)

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

        def failed() -> None:
            # Its job is dropped, and with it what is known of the table.
            self._starting.discard(task.task_id)

        self._agenda.write(
            run.job.job_id,
            decide,
            lambda w: self._started(run, task, free, now, w),
            failed,
            can_wait=True,
        )

    def _started(
        self, run: JobRun, task: TaskRecord, before: Writer, now: datetime, written: Written
    ) -> None:
        self._starting.discard(task.task_id)
        if not written.changed:
            self._not_started(run, task, before, written)
            return
        if not self._held.holds(run):
            return  # dropped meanwhile: it is told as running, and recovered by who holds the job next
        record = as_started(task, now)
        run.records[task.pipeline] = record
        spec = self._manager.catalog.specs.get(task.pipeline)
        self._running.add(run, record, spec)
        if spec is None:
            self._held.saw(run, written.job)
            self._attempt_over(
                TaskEnded(
                    task.task_id,
                    "failed",
                    record.stats,
                    error=f"pipeline {task.pipeline!r} is not in the code any more",
                )
            )
            return
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
        self._held.saw(run, written.job)
        self._watch_timeout(run)

    def _hand_over(self) -> None:
        """Give workers what has started, unless a stop that was decided meanwhile has been heard of by now."""
        handing, self._handing = self._handing, []
        for assignment in handing:
            active = self._running.get(assignment.task_id)
            assert active is not None, "nothing ends it before it is handed over"
            run, active.given_up = active.run, self._lease.is_in_doubt
            stopped = run.job.is_terminal or assignment.task_id in run.job.task_stops
            if self._held.holds(run) and not stopped and not self._is_leaving:
                self._workers.run(assignment)
                continue
            ended = TaskEnded(
                active.task_id, "cancelled", active.record.stats, stage=Stage.CHECKPOINT
            )
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
        if not self._held.holds(run):
            return
        if self._held.is_own(job, run):
            run.give_back(pipeline)
            self._queue(run)
            self._held.saw(run, job)
            self._stop_alone(run)
        else:
            self._drop(run.job.job_id)

    # ---------------------------------------------------------------- tasks run

    def _permit(self, task_id: str) -> None:
        """Answer a request to commit, by one conditional write of the job: it is what a stop races with."""
        active = self._running.heard_of(task_id)
        if active is None:
            self._workers.answer_permit(task_id, "the task is not running here")
            return
        run, pipeline = active.run, active.pipeline
        run.records[pipeline] = replace(active.record, permits=active.record.permits + 1)
        draining = run.job.cancellation is not None and run.job.cancellation.mode == StopMode.DRAIN
        is_stopping = self._running.is_stopping(task_id)
        alone = is_stopping or active.given_up or (self._closing and not draining)
        refusal: list[str | None] = [None]

        def decide(job: Job) -> Change | None:
            task = run.records[pipeline]
            if active.over:
                refusal[0] = "the attempt is over"
            elif not self._held.is_own(job, run):
                refusal[0] = "another executor has taken the job over"
            else:
                refusal[0] = may_commit(job, task, stopping_alone=alone, lease=run.lease)
            if refusal[0] is not None:
                return None
            return Change(job, made_from=job.version, tasks=(task,))

        def then(written: Written) -> None:
            if self._running.get(task_id) is active:  # not a later attempt, which has not asked
                self._workers.answer_permit(task_id, refusal[0])
            self._held.heard(run, written)

        self._agenda.write(run.job.job_id, decide, then)

    def _note(self, event: TaskOpened | UnitCommitted | TaskProgressed) -> None:
        """Keep what a running task has come to; it is stored now, or with the next write."""
        if (active := self._running.heard_of(event.task_id)) is None:
            return
        records, record, now = active.run.records, active.record, active.heard_at
        match event:
            case TaskOpened(_, inputs):
                records[active.pipeline] = replace(record, inputs=inputs)
            case UnitCommitted(_, stats):
                records[active.pipeline] = replace(record, stats=stats)
                active.pace.committed(now)
                self._store_record(active, "task.committed", {"rows": stats.rows})
            case TaskProgressed(_, progress):
                records[active.pipeline] = replace(record, progress=progress)
                self._tell_progress(active, now)
                if now - active.progress_stored >= PROGRESS_STORED_SECONDS:
                    active.progress_stored = now
                    self._store_record(active)

    def _tell_progress(self, active: RunningTask, now: float) -> None:
        record = active.record
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
        self, active: RunningTask, event: str | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        """Store what is known of a running task by the time it is written; its end is stored by `_end` alone."""
        run, record, now = active.run, active.record, self._clock.now()
        events = (Event(event, record.job_id, now, record.task_id, data or {}),) if event else ()

        def decide(job: Job) -> Change | None:
            tasks = () if active.over else (active.record,)
            if job.is_over or not self._held.is_own(job, run) or not (tasks or events):
                return None
            return Change(job, made_from=job.version, tasks=tasks, events=events)

        self._agenda.write(run.job.job_id, decide, lambda written: self._held.heard(run, written))

    # ---------------------------------------------------------------- tasks end

    def _attempt_over(self, ended: TaskEnded) -> None:
        """No process of the attempt is left. Where it could not say how it ended, its table's log says it."""
        if (removed := self._running.remove(ended.task_id)) is None:
            return
        active, stopping = removed
        run, record = active.run, active.record
        conclude = partial(
            self._conclude,
            run,
            record,
            stopping=stopping,
            remote=tuple(active.remote.values()),
            given_up=active.given_up,
        )
        if ended.outcome == "lost":
            self._recovery.clean_up(record)
        if not self._held.holds(run):
            return
        if ended.outcome == "lost" or says_too_little(record, ended):
            self._recovery.settle(record, lambda settled: conclude(told(ended, settled)))
        else:
            conclude(ended)

    def _conclude(
        self,
        run: JobRun,
        record: TaskRecord,
        ended: TaskEnded,
        stopping: TaskStopping | None,
        *,
        remote: tuple[RemoteStop, ...] = (),
        given_up: bool = False,
    ) -> None:
        """Decide what an attempt came to, and store it."""
        if not self._held.holds(run):
            return
        handing_back = _TOLD_TO_END if self._closing else _OUT_OF_TOUCH if given_up else None
        if stopping is None and is_stopped(
            run.job, record, ended, closing=handing_back is not None
        ):
            now = self._clock.monotonic()
            stopping = stopped_elsewhere(run, record, Stage.CHECKPOINT, now)
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
        """Store what an attempt came to; again, where its table's writer cannot be read, for nobody says it twice."""
        self._agenda.safely(partial(self._store_end, run, record, ended, pause))

    def _store_end(self, run: JobRun, record: TaskRecord, ended: Ended, pause: float) -> None:
        if not self._held.holds(run):
            return
        pipeline = record.pipeline
        is_running = record.status is TaskStatus.RUNNING
        held = self._book.held_by(record) if is_running else self._book.writer(pipeline)
        holds = held.task_id == record.task_id
        released = replace(held, job_id=None, task_id=None)
        task = as_ended(record, ended)
        kind = "task.waiting" if ended.event is TaskEvent.WAIT else "task.finished"

        def decide(job: Job) -> Change | None:
            if not self._held.is_own(job, run):
                return None
            after = count_ended(job, record, task)
            return Change(
                after,
                made_from=job.version,
                tasks=(task,),
                writers=(released,) if holds else (),
                events=(task_finished(task, ended.at, kind),),
                logs=end_lines(task, ended),
            )

        def then(written: Written) -> None:
            if not self._held.holds(run):
                return
            if not written.changed:
                if written.conflict and self._held.is_own(written.job, run):
                    # What is known of its table is out of date.
                    self._book.forget(pipeline)
                    self._end(run, record, ended, pause)
                else:
                    self._drop(run.job.job_id)
                return
            run.records[pipeline] = task
            if holds:
                self._book.stored(released)
                self._table_is_free(pipeline)
            self._held.saw(run, written.job)
            self._follow_up(run, task, pause)

        self._agenda.write(run.job.job_id, decide, then, can_wait=True)

    def _follow_up(self, run: JobRun, task: TaskRecord, pause: float) -> None:
        self._held.touch(run)
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
        if self._held.holds(run) and not run.job.is_terminal and pipeline not in run.taken:
            run.give_back(pipeline)
            self._queue(run)

    def _table_is_free(self, table: str) -> None:
        while (job_id := self._book.next_in_line(table)) is not None:
            run = self._held.get(job_id)
            if run is not None and not run.job.is_terminal and table not in run.taken:
                run.give_back(table)
                self._queue(run)
                return

    # ---------------------------------------------------------------- the end

    def _begin_closing(self) -> None:
        self._closing = True
        for active in self._running:
            self._workers.deliver(active.task_id, Stage.CHECKPOINT)
        self._agenda.later(HAND_BACK_SECONDS, self._end_what_is_left)

    def _end_what_is_left(self) -> None:
        for active in self._running:
            self._workers.deliver(active.task_id, Stage.KILL)

    def _hand_back(self) -> None:
        """Let go of every job, so that the next executor takes it up without counting a recovery."""
        if self._closed.is_set():
            return
        waiting = list(self._held.values())
        self._held.clear()
        for run in waiting:
            self._release(run)
        self._closed.set()

    def _release(self, run: JobRun) -> None:
        records = list(run.records.values())
        now = self._clock.now()

        def decide(job: Job) -> Change | None:
            if job.is_settled or not self._held.is_own(job, run):
                return None
            if not run.taken and (
                job.is_terminal or run.is_drained
            ):  # a stop may not be heard of yet
                return close_job(job, run.plan, records, now)
            return released(job, now)

        try:
            self._ledger.write(run.job.job_id, decide)
        except StoreUnavailableError as error:
            log.warning("store_unavailable job_id=%s error=%s", run.job.job_id, error.what)
        except SluicegateError:
            log.exception("hand_back_failed job_id=%s", run.job.job_id)


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
