"""What an executor is told by its manager, by others and by workers: what it reads, takes up and leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from executor_world import STATS, Made, World, spec
from fakes import T0

from sluicegate.core.agenda import GATHER_SECONDS
from sluicegate.core.cancellation import Stage
from sluicegate.core.job import Event, JobStatus, LogEntry, StopMode, TableRollback
from sluicegate.core.job_manager import Catalog
from sluicegate.core.lease import SCAN_AGAIN_SECONDS
from sluicegate.core.pipeline_executor import WIDE_TASKS_MIN
from sluicegate.core.plan import make_plan
from sluicegate.core.ports import Change, PermitAsked, TaskLogged
from sluicegate.core.store_errors import StoreUnavailableError

A, B, C, D, SA = "bronze.a", "bronze.b", "bronze.c", "bronze.d", "silver.a"


def beside(world: World) -> World:
    """Another server on the store of `world`; both know of each other."""
    other = World(*world.catalog.specs.values(), capacity=world.capacity, beside=world)
    for one in (world, other):
        one.keep_lease()
    for _ in range(4):
        world.clock.pass_(0.5)
        world.follow()
        other.follow()
    return other


# ------------------------------------------------------------------ verbs


VERBS = [
    pytest.param("execute_pipeline", (SA,), {"pipelines": (SA,)}, id="one"),
    pytest.param(
        "execute_with_dependencies",
        (SA,),
        {"pipelines": (SA,), "with_dependencies": True},
        id="with dependencies",
    ),
    pytest.param("execute_full_pipeline", (), {}, id="all"),
]


@pytest.mark.parametrize(("verb", "arguments", "planned"), VERBS)
def test_each_verb_creates_the_job_that_it_names(
    made: Made, verb: str, arguments: tuple[str, ...], planned: dict[str, object]
) -> None:
    """The same jobs as by the manager: whose, with which plan, and with every option of a run."""
    world = made()
    execute = getattr(world.executor, verb)
    options = {"params": {"day": "1"}, "labels": {"team": "x"}, "priority": 7, "job_name": "n"}
    job = execute(*arguments, user_id="ann", **options)
    assert world.store.plan(job.job_id) == make_plan(world.catalog.specs, **planned)
    assert (job.user_id, job.status) == ("ann", JobStatus.PENDING)
    assert {name: getattr(job, name) for name in options} == options
    assert execute(*arguments).user_id == "local"
    world.settle()
    assert world.status(job.job_id) is JobStatus.RUNNING


# ------------------------------------------------------------------ what workers tell


def test_what_a_task_writes_is_in_the_log_before_its_end(made: Made) -> None:
    """The lines keep their order, and the log of an ended job is whole."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.live(A).task_id
    written = tuple(
        LogEntry(job_id, T0, text, task_id, level, stream)
        for text, level, stream in (("a", "info", "stdout"), ("b", "error", "stderr"))
    )
    world.workers.tell(TaskLogged(task_id, written))
    world.end(A)
    *said, ended = world.store.logs(job_id)
    assert [replace(line, log_id=0) for line in said] == list(written)
    assert ended.message.startswith("job ended success")


def test_a_task_that_is_not_known_here_may_not_commit(made: Made) -> None:
    """Each question has its answer, or the worker would wait for ever."""
    world = made(spec(A))
    world.run()
    task_id = world.end(A)
    world.ask_permit_of(task_id)
    world.settle()
    assert world.workers.permits == [(task_id, "the task is not running here")]


# ------------------------------------------------------------------ what its manager tells


def test_a_decision_of_this_process_is_acted_on_without_reading_it_again(made: Made) -> None:
    """The header comes with the word: a stop waits for no disk."""
    world = made()
    job_id = world.run()
    task_id = world.live(A).task_id
    world.cancel(job_id, settle=False)
    world.store.unavailable = True
    world.settle()
    assert world.stages(task_id) == [Stage.CHECKPOINT]
    world.store.unavailable = False
    world.end(A, "cancelled")


def test_a_word_that_comes_late_is_not_believed(made: Made) -> None:
    """A header of a job that is not held here may be old: it is read, or the job would be held by a lease of before."""
    world = made(spec(A))
    world.manager.wake = lambda *_: None
    job_id = world.run()
    old = world.job(job_id)
    world.store.commit([Change(replace(old, lease=old.lease + 1), made_from=old.version)])
    world.executor.wake(job_id, old)
    world.settle()
    assert world.running == [A]
    world.end(A)
    assert world.status(job_id) is JobStatus.SUCCESS


# ------------------------------------------------------------------ what others tell


def test_what_does_not_concern_it_costs_no_reading(made: Made) -> None:
    """Others tell of a thousand commits a second; only decisions are looked at."""
    world = made(spec(A))
    job_id = world.run()
    world.store.reads = 0
    for kind in ("task.started", "task.committed", "job.started", "job.finished"):
        facts = {"pipeline": A}
        world.executor.hear([Event(kind, job_id, T0, data=facts)])
    world.settle()
    assert world.store.reads == 0
    world.end(A)


@pytest.mark.parametrize("kind", ["job.cancelled", "job.escalated", "task.stopping"])
def test_a_decision_of_another_process_is_read_and_acted_on(made: Made, kind: str) -> None:
    """The event is only the hint: what counts is what is stored."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.live(A).task_id
    if kind == "task.stopping":
        world.cancel_task_elsewhere(job_id, A)
    else:
        world.cancel_elsewhere(job_id, StopMode.FORCE)
    world.executor.hear([Event(kind, job_id, T0)])
    world.settle()
    assert world.stages(task_id) == [Stage.CHECKPOINT if kind == "task.stopping" else Stage.KILL]


def test_a_table_that_a_rollback_elsewhere_lets_go_of_is_taken_by_who_waits(made: Made) -> None:
    """Nothing else would tell: no task of it has ended."""
    world = made(spec(A))
    done = world.run()
    world.end(A, stats=STATS)
    other = beside(world)
    world.tables.rollbacks[A] = TableRollback(A, 3, None)
    world.tables.broken = True
    with pytest.raises(StoreUnavailableError):
        other.manager.rollback(done, requested_by="root")
    waiting = world.run()
    assert world.running == []
    world.tables.broken = False
    other.manager.rollback(done, requested_by="root")
    world.follow()
    assert world.live(A).job_id == waiting
    world.end(A)


@pytest.mark.parametrize("kind", ["job.created", "job.released", "job.resumed"])
def test_an_offer_of_another_process_is_looked_for(made: Made, kind: str) -> None:
    """A job that nobody holds is taken by whoever hears of it and has room."""
    world = made(spec(A))
    world.manager.wake, world.manager.owner = lambda *_: None, lambda: None
    job_id = world.run()
    assert world.running == []
    world.executor.hear([Event(kind, "another", T0)])
    world.settle()
    assert world.live(A).job_id == job_id
    world.end(A)


# ------------------------------------------------------------------ whose a job is


def test_who_creates_a_job_holds_it_as_long_as_there_is_room(made: Made) -> None:
    """With others beside, no more work is kept than twice what can be at work; the rest is anybody's."""
    world = made(spec(A), spec(B), spec(C), spec(D), capacity=2)
    beside(world)
    job_ids = [world.run(*pipelines) for pipelines in ((A,), (B, C), (D,), (D,))]
    assert world.running == [A, B], "and C and D wait"
    own = world.executor.executor_id
    assert [world.job(job_id).executor_id for job_id in job_ids] == [own, own, own, None]
    assert [world.job(job_id).lease for job_id in job_ids] == [1, 1, 1, 0]
    world.cancel(job_ids[-1])
    assert world.job(job_ids[-1]).is_over, "to close what never began takes no room"


def test_what_is_on_its_way_to_the_store_takes_its_room_already(made: Made) -> None:
    """Who creates many jobs at once must not keep them all for a moment's delay of the disk."""
    world = made(spec(A), spec(B), spec(C), spec(D), capacity=2)
    beside(world)
    world.run(A, B, settle=False)
    world.run(C, settle=False)
    world.run(D, settle=False)
    world.ledger.held = True
    world.executor.tick(0)
    assert world.executor.owner_of_new() is None
    world.ledger.held = False
    world.ledger.release()
    world.settle()
    assert world.running == [A, B]


def test_a_retry_takes_no_more_room_than_its_job_had(made: Made) -> None:
    """A job stands in line for a worker once, however often it is looked at."""
    world = made(spec(A, retries=1), spec(B), spec(C), capacity=2)
    beside(world)
    world.run(A, B, C)
    world.end(A, "failed", error="no")
    assert world.running == [B, C], "and the second attempt waits"
    assert world.executor.owner_of_new() == world.executor.executor_id
    for pipeline in (B, C, A):
        world.end(pipeline)


def test_what_can_start_at_one_moment_starts_in_one_write(made: Made) -> None:
    """A full run of many workers costs one fsync, not one for each."""
    world = made(*(spec(f"bronze.p{n}") for n in range(8)), capacity=8)
    world.run(settle=False)
    world.store.commits.clear()
    world.settle()
    assert (len(world.running), world.store.commits) == (8, [8])


SHORT = 0.003  # four at a time last longer than a commit, and are still short


def test_short_tasks_are_started_ahead_as_long_as_many_are_ready(made: Made) -> None:
    """Where the first of so many is taken, a worker finds its next task there; the last ones run when they are told."""
    world = made(*(spec(f"bronze.n{n}") for n in range(100)), capacity=2)
    world.workers.ahead = 2
    world.run()
    ready_with = {2: set[int](), 3: set[int](), 4: set[int]()}
    for ended in range(1, 98):
        world.clock.pass_(SHORT)
        world.end(world.running[0])
        live = len(world.running)
        ready_with[live].add(100 - ended - live)
    assert min(ready_with[4]) == WIDE_TASKS_MIN - 1
    assert ready_with[3] == {WIDE_TASKS_MIN - 1}, "one by one it comes back to what runs"


def shortest(made: Made) -> World:
    """Two workers and two tasks ahead of them, in a job whose tasks last less than a commit."""
    world = made(*(spec(f"bronze.n{n}") for n in range(200)), capacity=2)
    world.workers.ahead = 2
    world.run()
    for _ in range(25):
        for pipeline in world.running:
            world.end(pipeline)
    assert len(world.running) == 4
    world.store.commits.clear()
    return world


def test_ends_that_are_expected_at_once_are_stored_with_the_starts_that_follow(made: Made) -> None:
    """One fsync for what the workers do in the time of one."""
    world = shortest(made)
    world.clock.pass_(GATHER_SECONDS / 2)
    first, *others = world.running
    world.end(first)
    assert world.store.commits == [], "others are about to end"
    for pipeline in others:
        world.end(pipeline)
    assert world.store.commits == [8]
    assert len(world.running) == 4


def test_an_end_is_not_held_for_longer_than_a_moment(made: Made) -> None:
    """The others need longer this time."""
    world = shortest(made)
    world.end(world.running[0])
    world.later(GATHER_SECONDS / 2)
    assert world.store.commits == []
    world.later(GATHER_SECONDS / 2)
    assert world.store.commits == [2]
    world.clock.pass_(GATHER_SECONDS)
    world.end(world.running[0])
    assert world.store.commits == [2, 2], "what has run for so long is not about to end"


def test_what_does_not_wait_takes_along_what_does(made: Made) -> None:
    """A task that asks whether it may commit waits for the answer, and with it the ends before it are stored."""
    world = shortest(made)
    world.end(world.running[0])
    asks = world.live(world.running[0])
    world.workers.tell(PermitAsked(asks.task_id, 1, 1))
    world.settle()
    assert world.store.commits == [3]


def test_a_task_with_a_limit_is_never_started_ahead(made: Made) -> None:
    """Its time would run while it waits for a worker."""
    world = made(*(spec(f"bronze.n{n}", timeout_seconds=60.0) for n in range(80)), capacity=1)
    world.workers.ahead = 1
    world.run()
    for _ in range(50):
        world.end(world.running[0])
        assert len(world.running) == 1


def test_who_is_alone_holds_what_it_creates(made: Made) -> None:
    """Nobody else could take it."""
    world = made(spec(A), spec(B), spec(C), capacity=1)
    job_ids = [world.run(pipeline) for pipeline in (A, B, C)]
    assert {world.job(j).executor_id for j in job_ids} == {world.executor.executor_id}


@pytest.mark.parametrize("why", ["closing", "out of touch"])
def test_who_leaves_takes_nothing_up(made: Made, why: str) -> None:
    """A job that is created meanwhile is nobody's and stays so, whatever is heard of it."""
    world = made(spec(A), spec(B), capacity=1).keep_lease()
    world.run(A)
    if why == "closing":
        world.close()
    else:
        world.clock.pass_(
            10
        )  # its thread did not run: the lease is in doubt, and nothing was renewed
        assert world.executor.owner_of_new() is None
    job_id = world.run(B, settle=False)
    world.executor.hear([Event("job.created", job_id, T0)])
    world.executor.tick(0)
    job = world.job(job_id)
    assert (job.executor_id, job.lease, job.status) == (None, 0, JobStatus.PENDING)


def test_what_a_dead_executor_left_is_taken_up_once(made: Made) -> None:
    """A second look at the store finds the same jobs: they are held already, or on the way."""
    world = made(spec(A), spec(B))
    ids = [world.run(A), world.run(B)]
    world.boot()
    world.executor._agenda.post(world.executor._lease.scan)
    world.settle()
    world.later(SCAN_AGAIN_SECONDS)
    claimed = [e.job_id for e in world.store.events() if e.type == "job.claimed"]
    assert sorted(claimed) == sorted(ids)
    assert {world.job(job_id).lease for job_id in ids} == {2}
    for pipeline in (A, B):
        world.end(pipeline)


def test_a_rollback_that_a_dead_executor_began_is_carried_on_by_who_takes_its_jobs_over(
    made: Made,
) -> None:
    """It may have died in the middle of it; nobody starts anew for that."""
    world = made(spec(A), spec(B))
    other = beside(world)
    done = other.run(A)
    other.end(A, stats=STATS)
    other.run(B)
    world.tables.rollbacks[A] = TableRollback(A, 3, None)
    world.tables.broken = True
    with pytest.raises(StoreUnavailableError):
        other.manager.rollback(done, requested_by="root")
    world.tables.broken = False
    for _ in range(40):
        world.later(0.5)
    assert world.running == [B]
    assert world.tables.rolled_back == [(A, 2)]
    world.end(B)


# ------------------------------------------------------------------ how a task is stopped


def test_a_pipeline_that_left_the_code_while_it_ran_is_stopped_as_usual(made: Made) -> None:
    """How it wanted to be stopped is not known any more; it must not run on for that."""
    world = made(spec(A))
    job_id = world.run()
    task_id = world.live(A).task_id
    world.manager.catalog = Catalog({}, "v2")
    world.cancel(job_id)
    for _ in range(3):
        world.later(5)
    assert world.stages(task_id) == list(Stage)
    world.end(A, "lost", stage=Stage.KILL)


def test_each_pipeline_is_stopped_as_it_was_declared(made: Made) -> None:
    """One may have more time than another, and one may never be killed."""
    slow = {"interrupt_after": 60.0, "terminate_after": None, "kill_after": None}
    world = made(spec(A, cancel=slow), spec(B))
    job_id = world.run()
    tasks = [world.live(pipeline).task_id for pipeline in (A, B)]
    world.cancel(job_id)
    for _ in range(3):
        world.later(5)
    assert [world.stages(task_id) for task_id in tasks] == [[Stage.CHECKPOINT], list(Stage)]
    world.later(45)
    assert world.stages(tasks[0]) == [Stage.CHECKPOINT, Stage.INTERRUPT]
    for pipeline in (A, B):
        world.end(pipeline, "cancelled")
