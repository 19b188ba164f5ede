"""The executor on its own thread, with its own pools: its beginning, its loop and its end. Nothing here is timed."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from executor_world import STATS, Made, World, spec
from fakes import T0, FakeWorkers

import sluicegate.core.pipeline_executor as module
from sluicegate.core.cancellation import Stage
from sluicegate.core.hub import Hub
from sluicegate.core.job import JobStatus, TableRollback
from sluicegate.core.job_manager import JobManager, RunRequest
from sluicegate.core.ledger import Ledger
from sluicegate.core.pipeline_executor import PipelineExecutor, get_pipeline_executor
from sluicegate.core.ports import Executor, TaskEnded
from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.core.transitions import StopRequest
from sluicegate.errors import SluicegateError

A, B, C, SA = "bronze.a", "bronze.b", "bronze.c", "silver.a"
PATIENCE_SECONDS = 20.0


def until(fact: Callable[[], object], what: str) -> None:
    """Wait until `fact` holds; a test that waits longer has found a mistake."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not fact():
        assert time.monotonic() < end, f"it never came to this: {what}"
        time.sleep(0.002)


class Server:
    """An executor as the service has it, on the store, the tables and the clock of a world."""

    def __init__(self, world: World) -> None:
        self.world, self.store = world, world.store
        self.workers = FakeWorkers()
        self.ledger = Ledger(world.store, lambda _: None)
        self.manager = JobManager(
            world.store, self.ledger, world.clock, world.catalog, tables=world.tables
        )
        self.executor = PipelineExecutor(
            store=world.store,
            ledger=self.ledger,
            manager=self.manager,
            workers=self.workers,
            tables=world.tables,
            hub=Hub(),
            clock=world.clock,
        )
        self.manager.wake, self.manager.owner = self.executor.wake, self.executor.owner_of_new
        self.executor.start()

    def run(self, *pipelines: str) -> str:
        """Create a job."""
        job, _ = self.manager.create(RunRequest(pipelines), user_id="ann")
        return job.job_id

    def given(self, job_id: str) -> str:
        """Wait until a worker has the one task of a job. Returns the task's id."""
        until(lambda: self._of(job_id), "a worker has the task")
        return self._of(job_id)[0]

    def tell_end(self, task_id: str, outcome: str = "success") -> None:
        del self.workers.live[task_id]
        self.workers.tell(TaskEnded(task_id, outcome, STATS, stage=Stage.KILL))

    def close(self) -> None:
        self.executor.close()
        self.ledger.close()

    def _of(self, job_id: str) -> list[str]:
        return [t for t, given in list(self.workers.live.items()) if given.job_id == job_id]


@pytest.fixture
def serve(made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Starts servers, and ends those that a test has not ended."""
    servers: list[Server] = []
    monkeypatch.setattr(module, "_current", None)  # of tests that share their server

    def start(world: World | None = None) -> Server:
        servers.append(Server(world or made(spec(A, retries=1), spec(B), spec(SA, A))))
        return servers[-1]

    yield start
    for server in servers:
        server.executor._closed.set()
        with contextlib.suppress(RuntimeError):
            server.close()


# ------------------------------------------------------------------ begin


def test_the_executor_of_a_process_is_the_one_that_was_started_last(
    serve: Callable[..., Server],
) -> None:
    """One that ends late must not take the name from its successor."""
    first, second = serve(), serve()
    first.close()
    assert get_pipeline_executor() is second.executor
    second.close()
    with pytest.raises(SluicegateError) as nobody:
        get_pipeline_executor()
    assert nobody.value.what == "no executor runs in this process"
    assert nobody.value.mend == "start one with `sluicegate serve`"


def test_a_start_makes_it_known_and_carries_on_what_was_cut_off(
    serve: Callable[..., Server], made: Made
) -> None:
    """Others see its heartbeat; a table that a rollback holds is not held for ever."""
    world = made(spec(A))
    job_id = world.run()
    world.end(A, stats=STATS)
    world.tables.rollbacks[A] = TableRollback(A, 3, None)
    world.tables.broken = True
    with pytest.raises(StoreUnavailableError):
        world.manager.rollback(job_id, requested_by="root")
    world.tables.broken = False
    server = serve(world)
    until(world.store.executors, "its first heartbeat is stored")
    known = Executor(server.executor.executor_id, socket.gethostname(), os.getpid(), T0, beat=1)
    assert world.store.executors() == [known]
    until(lambda: not world.store.held_writers(), "the rollback has let go of its table")
    assert world.tables.rolled_back == [(A, 2)]


def test_its_thread_has_a_name_and_keeps_no_process_alive(serve: Callable[..., Server]) -> None:
    """Who looks at a server that hangs sees whose thread it is; a process that fails to close it ends all the same."""
    before = set(threading.enumerate())
    server = serve()
    begun = {t.name: t.daemon for t in set(threading.enumerate()) - before}
    server.close()
    assert begun["executor"]


# ------------------------------------------------------------------ the loop


def test_a_job_runs_to_its_end_by_what_is_created_and_told(serve: Callable[..., Server]) -> None:
    """Nobody ticks: a message is all that it takes."""
    server = serve()
    job_id = server.run(A, SA)
    for _ in (A, SA):
        server.tell_end(server.given(job_id))
    until(lambda: server.store.get(job_id).is_over, "the job has ended")
    assert server.store.get(job_id).status is JobStatus.SUCCESS


def test_what_is_due_is_done_though_nothing_comes(
    serve: Callable[..., Server], made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop sleeps no longer than until the next thing is due: here, a second attempt."""
    world = made(spec(A, retries=1, retry_delay_seconds=0.01))
    waits: list[float | None] = []
    tick = PipelineExecutor.tick

    def noting(one: PipelineExecutor, wait_seconds: float | None) -> None:
        waits.append(wait_seconds)
        tick(one, wait_seconds)

    monkeypatch.setattr(PipelineExecutor, "tick", noting)
    server = serve(world)
    job_id = server.run(A)
    server.tell_end(server.given(job_id), "failed")
    until(lambda: world.tasks(job_id) == {A: "pending"}, "the first attempt has ended")
    until(lambda: (waits[-1] or 1.0) <= 0.01, "the loop waits no longer than the pause")
    world.clock.pass_(0.01)
    assert server.workers.live[server.given(job_id)].attempt == 2
    server.tell_end(server.given(job_id))
    until(lambda: server.store.get(job_id).is_over, "the job has ended")


def test_a_mistake_of_ours_ends_no_service(
    serve: Callable[..., Server], made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, with its traceback, and the loop goes on."""
    server = serve()
    job_id = server.run(A)
    task_id = server.given(job_id)

    def fail(*_: object) -> None:
        raise KeyError("a stage")

    with monkeypatch.context() as patch:
        patch.setattr(server.workers, "deliver", fail)
        server.manager.cancel(job_id, StopRequest("ann"))
        until(lambda: server.world.failures.records, "the mistake is said")
    [said] = server.world.failures.records
    assert (said.getMessage(), said.exc_info and said.exc_info[0]) == (
        "executor_tick_failed",
        KeyError,
    )
    server.world.failures.records.clear()
    server.tell_end(task_id, "cancelled")
    until(lambda: server.store.get(job_id).is_over, "the stop is over")


# ------------------------------------------------------------------ the end


def test_a_close_waits_until_the_tasks_have_ended_and_the_jobs_are_handed_back(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing of it is left: no job, no worker, no name among the executors."""
    server = serve()
    job_id = server.run(A)
    task_id = server.given(job_id)
    enders: list[threading.Thread] = []

    def end_soon(told: str, stage: Stage) -> None:
        assert (told, stage) == (task_id, Stage.CHECKPOINT)
        enders.append(threading.Timer(0.02, server.tell_end, (task_id, "cancelled")))
        enders[-1].start()

    monkeypatch.setattr(server.workers, "deliver", end_soon)
    server.close()
    for ender in enders:
        ender.join()
    job = server.store.get(job_id)
    assert (job.status, job.executor_id) == (JobStatus.RUNNING, None)
    assert server.world.tasks(job_id) == {A: "pending"}
    assert (server.workers.closed, server.store.executors()) == (True, [])


def test_a_close_does_not_wait_for_a_store_that_stays_away(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a task cannot be stored: the service ends all the same, and its workers with it."""
    monkeypatch.setattr(module, "HAND_BACK_SECONDS", -9.99)  # it waits for 10 s more than that
    server = serve()
    job_id = server.run(A)
    task_id = server.given(job_id)
    server.store.unavailable = True
    server.tell_end(task_id)
    server.close()
    server.store.unavailable = False
    assert server.workers.closed
    assert server.store.get(job_id).executor_id == server.executor.executor_id


def test_a_close_ends_what_is_done_aside_and_drops_what_waits(
    serve: Callable[..., Server], made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What works on a table is let finish; when the close returns, nothing works on any."""
    world = made(spec(A), spec(B), spec(C))
    server = serve(world)
    going, ended, may_end = [], [], threading.Event()

    def clean_up(table: str, *_: object) -> None:
        assert threading.current_thread().name.startswith("settle")
        going.append(table)
        may_end.wait(PATIENCE_SECONDS)
        time.sleep(0.02)
        ended.append(table)

    monkeypatch.setattr(world.tables, "clean_up", clean_up)
    monkeypatch.setattr(server.workers, "close", may_end.set)
    job_ids = [server.run(pipeline) for pipeline in (A, B, C)]
    for job_id in job_ids:
        server.tell_end(server.given(job_id), "lost")
    until(lambda: all(server.store.get(j).is_over for j in job_ids), "the jobs have ended")
    until(lambda: len(going) == 2, "both threads of the pool are busy")
    server.close()
    assert sorted(ended) == sorted(going)
    assert len(ended) == 2
