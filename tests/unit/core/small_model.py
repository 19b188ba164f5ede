"""The small model that is explored: two homes on one store, one job of two tasks, one stop, one fault.

What decides is the real code: executor, lease, ledger, manager, follower. Here is only what surrounds it: the threads
of each process, whose turns are the steps that are interleaved; workers with their tables; and the rules.
"""

from __future__ import annotations

import math
import queue
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from executor_world import LEASE_SECONDS, Failures, spec
from fakes import FakeClock, FakeTables, Memory, MemoryStore
from snapshots import Copier, Teller

from sluicegate.core import pipeline_executor
from sluicegate.core.cancellation import Stage
from sluicegate.core.following import Follower
from sluicegate.core.hub import Hub
from sluicegate.core.job import (
    Event,
    Job,
    JobNotRunningError,
    JobStatus,
    TaskRecord,
    TaskStats,
    TaskStatus,
)
from sluicegate.core.job_manager import Catalog, JobManager, StopRequest
from sluicegate.core.ledger import Ledger
from sluicegate.core.membership import _Beat
from sluicegate.core.pipeline_executor import _DECISIONS, _ENDS, _OFFERS, PipelineExecutor
from sluicegate.core.plan import make_plan
from sluicegate.core.ports import (
    Accepted,
    Assignment,
    Change,
    PermitAsked,
    Settled,
    TaskEnded,
    UnitCommitted,
    WorkerEvent,
    Writer,
)
from sluicegate.core.transitions import TASK_TRANSITIONS, TRANSITIONS
from sluicegate.spec import PipelineSpec

CHAIN: Final = (spec("bronze.a"), spec("silver.a", "bronze.a"))
JOB: Final = "job"

JOB_MOVES: Final = {(before, after) for (before, _), after in TRANSITIONS.items()}
TASK_MOVES: Final = {(before, after) for (before, _), after in TASK_TRANSITIONS.items()}
# Files of dead writers, and rollbacks, of which there are none: no decision depends on them.
NEVER_MATTERS: Final = frozenset({"remove", "_finish_rollbacks"})
# Of the executor's state: what only tells how fast something goes, and what is fixed.
UNTOLD: Final = frozenset(
    {"pace", "heard_at", "progress_stored", "progress_told", "stop_seen_at", "plan", "_index"}
)
SINCE: Final = frozenset({"since", "_shielded_since", "_shielded_until"})

Step = tuple[str, ...]


class Violation(AssertionError):
    """A rule of the contract does not hold."""


@dataclass(frozen=True)
class Bounds:
    """How large the model is.

    Args:
        fine: Between every message to a process and what its executor does about it, anything else may happen; else
            only between what was stored and what it does about that.
    """

    specs: tuple[PipelineSpec, ...] = CHAIN
    stops: int = 1
    faults: frozenset[str] = frozenset({"crashes"})  # of which one happens
    fine: bool = False


# ------------------------------------------------------------------ the threads of a process


class Inbox:
    """A queue that can be looked into, and that nobody waits at."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        self.items.append(item)

    def get(self, timeout: float | None = None) -> Any:
        del timeout
        if not self.items:
            raise queue.Empty
        return self.items.popleft()

    def empty(self) -> bool:
        return not self.items


class SteppedLedger(Ledger):
    """The ledger, whose thread has its turn when the exploration says so."""

    def _begin(self) -> None:
        self._queue = cast(Any, Inbox())

    @property
    def has_work(self) -> bool:
        return bool(self._waiting) or not self._queue.empty()

    def turn(self) -> None:
        self._write_some()


class Pool:
    """A pool of one thread, likewise."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()

    def submit(self, do: Callable[..., object], *arguments: object) -> None:
        if do.__name__ not in NEVER_MATTERS:
            self.waiting.append((do, arguments))

    def turn(self) -> None:
        do, arguments = self.waiting.popleft()
        do(*arguments)


# ------------------------------------------------------------------ workers and tables


class Tables(FakeTables):
    """Tables with a log, by table the tasks that committed in order; they refuse a writer that was shut out."""

    def __init__(self) -> None:
        super().__init__()
        self.log: dict[str, tuple[str, ...]] = {}

    def commits(self, table: str, task_id: str) -> int:
        return self.log.get(table, ()).count(task_id)

    def fence(self, table: str, epoch: int) -> bool:
        """Move the table on to an epoch. Returns whether it is not beyond it already."""
        if epoch < self.fences.get(table, 0):
            return False
        self.fences[table] = epoch
        return True

    def settle(self, table: str, task_id: str, fence: Writer | None = None) -> Settled:
        if fence is not None:
            self.fence(table, fence.epoch)
        units = self.commits(table, task_id)
        return Settled(published(units), complete=units > 0)


def published(units: int) -> TaskStats:
    return TaskStats(rows=units, units=units, version=1 if units else None)


@dataclass
class Worker:
    """A process that makes one attempt. `phase` says what it does next; `waits` is for an answer."""

    task: Assignment
    phase: str
    stage: Stage | None = None


class Workers:
    """`core.ports.Workers`, of which each does its next step when the exploration says so."""

    capacity = 2
    missing_means: tuple[str, ...] = ()

    def __init__(self, model: Model, home: Home) -> None:
        self._model, self._home = model, home
        self.live: dict[str, Worker] = {}
        self._listener: Callable[[WorkerEvent], None] = lambda _: None

    def start(self, listener: Callable[[WorkerEvent], None]) -> None:
        self._listener = listener

    def run(self, task: Assignment) -> None:
        self._model.judge_handover(self._home, task)
        self.live[task.task_id] = Worker(task, "looks" if task.recovers else "asks")

    def deliver(self, task_id: str, stage: Stage) -> None:
        if worker := self.live.get(task_id):
            worker.stage = stage
            if worker.phase == "asks":
                worker.phase = "stops"

    def answer_permit(self, task_id: str, refused: str | None) -> None:
        worker = self.live.get(task_id)
        if worker is not None and worker.phase == "waits":
            if refused is None:
                self._model.judge_permit(self._home, worker.task)
            worker.phase = "commits" if refused is None else "stops"

    # ---------------------------------------------------------------- what a worker can do next

    @staticmethod
    def steps(worker: Worker) -> list[str]:
        if worker.stage is not Stage.KILL:
            return [] if worker.phase == "waits" else [worker.phase]
        # A kill comes a moment after it was sent: what was permitted may be in the table by then.
        return ["commits", "dies"] if worker.phase == "commits" else ["dies"]

    def looks(self, worker: Worker) -> None:
        """It takes over: shuts out earlier attempts, and sees what they have committed."""
        table, tables = worker.task.spec.pipeline_id, self._model.tables
        if not tables.fence(table, worker.task.epoch):
            worker.phase = "is_shut_out"
        elif tables.commits(table, worker.task.task_id):
            worker.phase = "succeeds"
        else:
            worker.phase = "asks" if worker.stage is None else "stops"

    def asks(self, worker: Worker) -> None:
        worker.phase = "waits"
        self._listener(PermitAsked(worker.task.task_id, 1, 1))

    def commits(self, worker: Worker) -> None:
        task, table, tables = worker.task, worker.task.spec.pipeline_id, self._model.tables
        if not tables.fence(table, task.epoch):
            worker.phase = "is_shut_out"
            return
        self._model.judge_commit(task)
        tables.log[table] = (*tables.log.get(table, ()), task.task_id)
        worker.phase = "succeeds"

    def succeeds(self, worker: Worker) -> None:
        self._listener(UnitCommitted(worker.task.task_id, published(1)))
        self._end(worker, "success", published(1))

    def stops(self, worker: Worker) -> None:
        self._end(worker, "cancelled")

    def is_shut_out(self, worker: Worker) -> None:
        self._end(worker, "failed", again=True)

    def dies(self, worker: Worker) -> None:
        self._end(worker, "lost")

    def _end(
        self, worker: Worker, outcome: str, stats: TaskStats = TaskStats(), *, again: bool = False
    ) -> None:
        task_id = worker.task.task_id
        del self.live[task_id]
        self._listener(TaskEnded(task_id, outcome, stats, stage=worker.stage, again=again))


# ------------------------------------------------------------------ one home


class Home:
    """One server: its executor, ledger, manager, follower and workers. Its methods are the steps it can take."""

    def __init__(self, model: Model, name: str) -> None:
        self.model, self.name = model, name
        self.judged: tuple[str, ...] = ()  # of the others, whose lease has run out for this one
        self.text: str | None = None  # its state as told last, while it has not changed
        self.clock = FakeClock()
        store, hub = model.store, Hub()
        self.follower = Follower(store, hub)
        self.ledger = SteppedLedger(store, self.follower.wrote)
        catalog = Catalog({one.pipeline_id: one for one in model.bounds.specs}, code_version="v1")
        self.manager = JobManager(store, self.ledger, self.clock, catalog, tables=model.tables)
        self.workers = Workers(model, self)
        self.executor = PipelineExecutor(
            store=store,
            ledger=self.ledger,
            manager=self.manager,
            workers=self.workers,
            tables=model.tables,
            hub=hub,
            clock=self.clock,
            lease_seconds=LEASE_SECONDS,
            executor_id=name,
        )
        self.lease = self.executor._lease
        self.lease._has_begun = True
        # Who loses a lease, and who looks for what was left, is a step of the model and not a matter of time.
        self.lease.members.renewed(math.inf)
        self.lease._scan_every_seconds = math.inf
        self.inbox, self.side, self.aside = Inbox(), Pool(), Pool()
        self.executor._agenda._inbox = cast(Any, self.inbox)
        self.executor._side, self.lease._aside = cast(Any, self.side), cast(Any, self.aside)
        self.follower._hear = self.executor.hear
        self.follower._position = 0
        self.manager.wake = self.executor.wake
        self.workers.start(self.executor._agenda.put)

    def steps(self) -> list[Step]:
        """What can happen here next by itself."""
        found: list[Step] = []
        if not self.inbox.empty():
            found.append((self.name, "acts"))
        if self.ledger.has_work:
            found.append((self.name, "stores"))
        if any(self.unheard):
            found.append((self.name, "hears"))
        if self.side.waiting:
            found.append((self.name, "reads_aside"))
        if self.aside.waiting:
            found.append((self.name, "looks_around"))
        for task_id, worker in self.workers.live.items():
            found += [(self.name, "worker", step, task_id) for step in Workers.steps(worker)]
        # Time passes for a process that has nothing else to do.
        if not found and self.executor._next_in() is not None:
            found.append((self.name, "waits"))
        return found

    @property
    def unheard(self) -> tuple[bool, bool, tuple[str, ...]]:
        """What events of others would have it do: look at the job, look for jobs, look at these tables."""
        after, own = self.follower._position or 0, self.follower._own
        if after == len(self.model.store.memory.events):
            return False, False, ()
        events = [e for e in self.model.store.memory.events[after:] if e.event_id not in own]
        return (
            any(e.type in _DECISIONS for e in events),
            any(e.type in _OFFERS for e in events),
            tuple(sorted({e.data["pipeline"] for e in events if e.type in _ENDS})),
        )

    # ---------------------------------------------------------------- its steps

    def acts(self) -> None:
        """The executor acts on all that has come."""
        self.executor.tick(0)

    def stores(self) -> None:
        """The ledger evaluates and commits what was decided, and sends the answers."""
        self.ledger.turn()

    def hears(self) -> None:
        """The follower reads what others have committed."""
        while self.follower._read_page():
            pass
        self._come()

    def reads_aside(self) -> None:
        """The executor's pool reads the store or a table's log."""
        self.side.turn()
        self._come()

    def looks_around(self) -> None:
        """The lease's thread reads the others' heartbeats, or looks for jobs that nobody holds."""
        self.aside.turn()
        self._come()

    def worker(self, step: str, task_id: str) -> None:
        """A worker takes its next step."""
        getattr(self.workers, step)(self.workers.live[task_id])
        if not self.inbox.empty():
            self._come()

    def waits(self) -> None:
        """Time passes until the next thing is due."""
        self.clock.pass_(self.executor._next_in() or 0.0)
        self.executor.tick(0)

    def finds_dead(self, other: str) -> None:
        """The lease of another home has run out for this one: its heartbeat was the same for so long."""
        self.judged = (*self.judged, other)
        members, now = self.lease.members, self.clock.monotonic()
        members._looked_at = now
        members._beats[other] = _Beat(members._beats[other].number, now - LEASE_SECONDS)
        self.aside.submit(self.lease._ask, False)

    def _come(self) -> None:
        if not self.model.bounds.fine:
            self.acts()

    # ---------------------------------------------------------------- what state it is in

    def tell(self) -> str:
        """Everything that its next steps depend on, as text. Instants, and how long something took, are not of it."""
        if self.text is None:
            self.text = self._tell()
        return f"{self.name} {self.unheard} {self.text}"

    def _tell(self) -> str:
        executor, ledger, now = self.executor, self.ledger, self.clock.monotonic()
        agenda, members, book = executor._agenda, self.lease.members, executor._book
        known: list[object] = [self.model, self.model.store, self.model.tables, self, executor]
        known += [ledger, self.manager, self.workers, self.follower, self.inbox, self.clock]
        known += [agenda, book, self.lease, executor._hub]
        held, running, sharing = executor._held, executor._running, executor._sharing
        known += [held, running, sharing, executor._recovery]
        teller = Teller(known, UNTOLD, SINCE, now)
        timers = sorted(agenda._timers, key=lambda timer: timer[:2])
        line = sorted(executor._line, key=lambda waiting: waiting[:2])
        for part in (
            self.inbox.items,
            [(round(due - now, 6), timer.do) for due, _, timer in timers if timer.do is not None],
            [agenda._outgoing, agenda.unanswered],
            [held.data, running._tasks, [run for *_, run in line], executor._starting],
            [running._stops, held._touched, executor._handing, executor._timeouts],
            [executor.cancelled_jobs, sharing._claiming, sharing._may_be_offers],
            [sharing._is_fetching, executor._closing, book._writers, book._lines],
            [members.ended, list(members._beats), self.judged],
            [self.lease._is_asking, self.lease._is_scanning, self.lease.out_of_touch],
            [ledger._queue, ledger._waiting, ledger._headers],
            [self.side.waiting, self.aside.waiting],
            list(self.workers.live.values()),
        ):
            teller.tell(part)
        return teller.text


# ------------------------------------------------------------------ the model


@dataclass
class Shared:
    """What is outside the homes: the store, the tables, who is dead, and what the rules need to remember."""

    memory: Memory
    log: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)
    granted: frozenset[tuple[str, int, int]] = (
        frozenset()
    )  # permits that are stored: task, attempt, number
    dead: tuple[str, ...] = ()
    stops_left: int = 0
    faults_left: int = 0
    asked_at: str | None = None
    answer: str | None = None  # to the stop: `yes` or `no`
    ids: int = 0

    def copy(self) -> Shared:
        memory = self.memory
        kept = replace(
            memory,
            jobs=dict(memory.jobs),
            tasks=dict(memory.tasks),
            writers=dict(memory.writers),
            events=list(memory.events),
            logs=[],
            executors=dict(memory.executors),
        )
        return replace(self, memory=kept, log=dict(self.log), fences=dict(self.fences))


State = tuple[Shared, tuple[Home, ...]]


class Model:
    """Everything that there is, and the rules that it is held to. It is put into one state after another."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds, self.failures = bounds, Failures()
        self._broken: Violation | None = None
        self.store, self.tables = MemoryStore(), Tables()
        self.shared = Shared(
            self.store.memory, stops_left=bounds.stops, faults_left=1 if bounds.faults else 0
        )
        self.homes = (Home(self, "A"), Home(self, "B"))
        for home in self.homes:
            self.store.beat(home.lease.identity)
        for home in self.homes:  # they know each other
            home.lease._ask(False)
            home.executor.tick(0)
        self._create(self.homes[0])
        self.store.accepted = self.judge_change
        self.initial = self.shared.copy(), self.homes
        self.put(self.initial)

    def _create(self, home: Home) -> None:
        """A job was asked for at a home, and is that one's. It is stored, and nothing was done about it yet."""
        specs = home.manager.catalog.specs
        job = Job(JOB, JOB, JobStatus.PENDING, home.clock.now(), len(specs), code_version="v1")
        job = replace(job, executor_id=home.name, lease=1)
        created = Event("job.created", JOB, job.created_at)
        plan = make_plan(specs, list(specs))
        [outcome] = self.store.commit([Change(job, 0, plan, events=(created,))])
        assert isinstance(outcome, Accepted)
        home.follower.wrote(outcome.events)
        home.executor.wake(JOB, outcome.job)

    # ---------------------------------------------------------------- from state to state

    def put(self, state: State) -> None:
        """Be in a state; it can be returned to."""
        shared, self.homes = state
        self.shared = shared.copy()
        self.store.memory = self.shared.memory
        self.tables.log, self.tables.fences = self.shared.log, self.shared.fences

    def do(self, step: Step) -> None:
        """Take a step. Raises: `Violation`."""
        pipeline_executor.new_id = self._new_id
        name, what, *more = step
        if what == "crashes":
            self.crashes(name)
            return
        home = Copier([self, self.store, self.tables]).copy(self.home(name))
        home.text = None
        self.homes = tuple(home if other.name == name else other for other in self.homes)
        if hasattr(Home, what):
            getattr(home, what)(*more)
        else:
            getattr(self, what)(home, *more)
        self.judge()

    @property
    def state(self) -> State:
        """The state it is in."""
        return self.shared, self.homes

    def tell(self) -> str:
        """The state as text: equal for two states that differ in nothing that matters."""
        shared, memory = self.shared, self.shared.memory
        teller = Teller((), frozenset(), frozenset(), 0.0)
        teller.tell([shared.stops_left, shared.faults_left, shared.dead, shared.asked_at])
        teller.tell([shared.answer, shared.log, shared.fences, shared.granted])
        teller.tell([memory.jobs, memory.tasks, memory.writers, list(memory.executors)])
        return "\n".join([teller.text, *(home.tell() for home in self.alive)])

    def home(self, name: str) -> Home:
        return next(home for home in self.homes if home.name == name)

    @property
    def alive(self) -> list[Home]:
        return [home for home in self.homes if home.name not in self.shared.dead]

    @property
    def job(self) -> Job:
        return self.shared.memory.jobs[JOB]

    def _new_id(self) -> str:
        self.shared.ids += 1
        return f"task-{self.shared.ids}"

    # ---------------------------------------------------------------- what can happen

    def moves(self) -> list[Step]:
        """What happens by itself, sooner or later."""
        found: list[Step] = []
        for home in self.alive:
            found += home.steps()
            lost = [name for name in self.shared.dead if name not in home.judged]
            found += [(home.name, "finds_dead", name) for name in lost]
        return found

    def injections(self) -> list[Step]:
        """What may happen or not: the stop, and the fault."""
        found: list[Step] = []
        for home in self.alive:
            if self.shared.stops_left:
                found.append((home.name, "is_asked_to_stop_the_job"))
            if not self.shared.faults_left:
                continue
            if "crashes" in self.bounds.faults:
                found.append((home.name, "crashes"))
            if "believes_dead" in self.bounds.faults:
                others = [other.name for other in self.alive if other is not home]
                found += [(home.name, "believes_dead", name) for name in others]
            if "loses_worker" in self.bounds.faults:
                found += [(home.name, "loses_worker", task_id) for task_id in home.workers.live]
        return found

    def is_asked_to_stop_the_job(self, home: Home) -> None:
        """A person stops the job at this home; it is answered when that is stored."""
        self.shared.stops_left -= 1
        self.shared.asked_at = home.name
        answer = home.manager.cancel_soon(JOB, StopRequest("ann", "enough"))
        home.ledger.turn()
        if isinstance(answer.exception(0), JobNotRunningError):
            self.shared.answer = "no"
        else:
            answer.result(0)
            self.shared.answer = "yes"

    def crashes(self, name: str) -> None:
        """SIGKILL: what a home had in memory is gone, and its workers with it."""
        self.shared.faults_left -= 1
        self.shared.dead = (*self.shared.dead, name)

    def believes_dead(self, home: Home, other: str) -> None:
        """The lease of one that lives runs out, as when it is paused; it knows nothing of that."""
        self.shared.faults_left -= 1
        home.finds_dead(other)

    def loses_worker(self, home: Home, task_id: str) -> None:
        """A worker is gone, as out of memory."""
        self.shared.faults_left -= 1
        home.worker("dies", task_id)

    # ---------------------------------------------------------------- what must hold

    def _breaks(self, what: str) -> None:
        """Note what the code under test would catch if it were raised here; `judge` raises it."""
        self._broken = self._broken or Violation(what)

    def judge_change(self, change: Change) -> None:
        """Each write of the job that is accepted, before it is stored."""
        before, after = self.job, change.job
        if before.status is not after.status and (before.status, after.status) not in JOB_MOVES:
            self._breaks(f"a {before.status} job becomes {after.status}")
        if before.completed_at is not None and after.completed_at != before.completed_at:
            self._breaks("a job that is over ends again")
        for task in change.tasks:
            self._judge_task(task)
        if after.completed_at is not None and before.completed_at is None:
            living = [h.name for h in self.alive if h.name == after.executor_id and h.workers.live]
            if living:
                self._breaks(f"completed_at is set while a worker of {living[0]} lives")

    def _judge_task(self, task: TaskRecord) -> None:
        tasks, stopped = self.shared.memory.tasks, self.job.is_terminal
        known = tasks.get(task.task_id)
        if known is None and any(t.pipeline == task.pipeline for t in tasks.values()):
            self._breaks(f"{task.pipeline} has two tasks")
        if known is not None and known.is_terminal and known != task:
            self._breaks(f"{task.pipeline} had ended as {known.status}, and is written again")
        is_start = task.status is TaskStatus.RUNNING and (
            known is None or known.status is not TaskStatus.RUNNING
        )
        was = known.status if known is not None else task.status
        if was is not task.status and (was, task.status) not in TASK_MOVES:
            self._breaks(f"{task.pipeline}: a {was} task becomes {task.status}")
        if is_start and stopped:
            self._breaks(f"{task.pipeline} starts, and the job is {self.job.status}")
        committed = self.tables.commits(task.pipeline, task.task_id) > 0
        if task.is_terminal and committed is not (task.status is TaskStatus.SUCCESS):
            said = "all of it" if committed else "nothing"
            self._breaks(f"{task.pipeline} becomes {task.status}, and {said} is in its table")
        if known is not None and task.permits > known.permits and not stopped:
            permit = (task.task_id, task.attempt, task.permits)
            self.shared.granted = self.shared.granted | {permit}

    def judge_handover(self, home: Home, task: Assignment) -> None:
        """Each attempt, as it is given to a worker."""
        table, record = task.spec.pipeline_id, self.shared.memory.tasks[task.task_id]
        if task.task_id in home.workers.live:
            self._breaks(f"{table} is given to two workers at once")
        if self.job.executor_id != home.name:
            return  # it has not heard that it was taken over; what it runs it cannot commit
        if record.is_terminal:
            self._breaks(f"{table} has ended, and runs again")
        if record.status is not TaskStatus.RUNNING or record.attempt != task.attempt:
            self._breaks(f"{table} runs, and its start is not stored")
        if self.shared.asked_at == home.name and self.shared.answer == "yes":
            self._breaks(f"{table} is given to a worker after the stop was answered there")

    def judge_permit(self, home: Home, task: Assignment) -> None:
        """Each yes to a worker that asked."""
        active = home.executor._running.get(task.task_id)
        assert active is not None
        record = active.record
        if (task.task_id, record.attempt, record.permits) not in self.shared.granted:
            self._breaks(f"{active.pipeline} is permitted to commit, and no permit is stored")

    def judge_commit(self, task: Assignment) -> None:
        """Each entry in a table's log, before it is there."""
        table, record = task.spec.pipeline_id, self.shared.memory.tasks[task.task_id]
        if record.is_terminal:
            self._breaks(f"{table} is committed, and it had ended as {record.status}")
        if self.tables.commits(table, task.task_id):
            self._breaks(f"{table} is committed twice")

    def judge(self) -> None:
        """What must hold after each step. Raises: `Violation`."""
        if self._broken is not None:
            raise self._broken
        if self.failures.records:
            record = self.failures.records.pop()
            cause = record.exc_info[1] if record.exc_info else None
            raise Violation(f"an error was logged: {record.getMessage()}: {cause}")
        job, tasks = self.job, self.shared.memory.tasks.values()
        if self.shared.answer == "yes" and job.status is not JobStatus.CANCELLED:
            raise Violation(f"the stop was answered with yes, and the job is {job.status}")
        if self.shared.answer == "no" and not job.is_over:
            raise Violation("the stop was answered with no, and the job has not ended")
        counted = job.running_tasks, job.completed_tasks, job.failed_tasks, job.cancelled_tasks
        by_status = [
            TaskStatus.RUNNING,
            TaskStatus.SUCCESS,
            TaskStatus.FAILED,
            TaskStatus.CANCELLED,
        ]
        if counted != tuple(sum(t.status is s for t in tasks) for s in by_status):
            raise Violation(f"the job counts {counted}, and its tasks are others")
        held = {w.task_id for w in self.shared.memory.writers.values() if not w.is_free}
        if held != {t.task_id for t in tasks if t.status is TaskStatus.RUNNING}:
            raise Violation("the tables are not held by the tasks that run")
        if job.status is JobStatus.SUCCESS and job.completed_tasks != job.total_tasks:
            raise Violation("the job is success, and not all of its tasks are")

    def judge_rest(self) -> None:
        """What must hold when nothing moves any more."""
        job = self.job
        if not job.is_over:
            raise Violation(f"nothing can move, and the job is {job.status} and not over")
        if job.running_tasks or any(home.workers.live for home in self.alive):
            raise Violation("nothing can move, and something still runs")
        if (self.shared.answer == "yes") is not (job.status is JobStatus.CANCELLED):
            raise Violation(f"the stop was answered with {self.shared.answer}; job {job.status}")
        if (receipt := job.cancellation) is None:
            return
        tasks = self.shared.memory.tasks.values()
        told = sorted([*receipt.not_started, *(task.pipeline for task in tasks)])
        if told != sorted(s.pipeline_id for s in self.bounds.specs):
            raise Violation(f"the receipt tells of {told}")
        cancelled = sorted(t.task_id for t in tasks if t.status is TaskStatus.CANCELLED)
        if sorted(one.task_id for one in receipt.stopped) != cancelled:
            raise Violation("the receipt does not name what was stopped")
