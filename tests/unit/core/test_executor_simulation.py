"""Any order of everything that can happen to an executor, from a seed: what must hold afterwards, holds."""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Callable

import pytest
from executor_world import World, spec

from sluicegate.core.cancellation import Stage
from sluicegate.core.job import (
    JobNotResumableError,
    JobNotRolledBackError,
    JobNotRunningError,
    JobStatus,
    StopMode,
    TableRollback,
    TaskNotRunningError,
    TaskStats,
    TaskStatus,
)
from sluicegate.core.ports import Assignment, Settled, ShieldChanged, TaskEnded, UnitCommitted
from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.core.transitions import StopRequest

SEEDS = range(int(os.environ.get("SIMULATIONS", "40")))
STEPS = 80
SPECS = (
    spec("bronze.a", retries=1),
    spec("bronze.b", timeout_seconds=20.0, retries=2, retry_delay_seconds=5.0),
    spec("bronze.c", on_conflict="cancel_running", stall_timeout_seconds=15.0),
    spec("bronze.d", on_conflict="reject", retries=1, retry_delay_seconds=3.0),
    spec("silver.a", "bronze.a"),
    spec("silver.b", "bronze.a", "bronze.b"),
    spec("gold.a", "silver.a", "silver.b", timeout_seconds=30.0),
)


class Simulation:
    """A world and what really happened in it: the tables, as their logs would tell, and who may still write."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world = World(*SPECS, capacity=self.chance.choice([1, 2, 5]))
        self.committed: dict[str, int] = {}  # units in the table, by task
        self.whole: set[str] = set()
        self.permitted: set[tuple[str, int]] = set()  # asked for, by task and attempt
        self.alone: set[str] = set()  # tasks that were stopped alone
        self.alone_heard: set[str] = set()
        self.heard: set[str] = set()  # jobs whose stop the executor was told of by now
        self.story: list[str] = []
        self.world.workers.on_run = self.nothing_starts_after_a_stop

    # ---------------------------------------------------------------- what can happen

    def run(self) -> None:
        pipelines = self.chance.sample(sorted(self.world.catalog.specs), self.chance.randint(0, 3))
        self.world.run(
            *pipelines,
            settle=False,
            with_dependencies=self.chance.random() < 0.5,
            priority=self.chance.randint(0, 2),
            timeout_seconds=self.chance.choice([None, None, 40.0]),
        )

    def cancel(self) -> None:
        jobs = sorted(self.world.store.memory.jobs)
        if not jobs:
            return
        job_id, mode = self.chance.choice(jobs), self.chance.choice(list(StopMode))
        elsewhere = self.chance.random() < 0.2
        try:
            if elsewhere:
                self.world.cancel_elsewhere(job_id, mode)
            else:
                self.world.cancel(job_id, mode, settle=False)
        except JobNotRunningError:
            return
        if not elsewhere:
            self.heard.add(job_id)

    def cancel_task(self) -> None:
        tasks = sorted(self.world.store.memory.tasks)
        if not tasks:
            return
        task = self.world.store.memory.tasks[self.chance.choice(tasks)]
        mode = self.chance.choice([StopMode.GRACEFUL, StopMode.FORCE])
        try:
            self.world.manager.cancel_task(task.job_id, task.task_id, StopRequest("ann", mode=mode))
        except (JobNotRunningError, TaskNotRunningError):
            return
        self.alone.add(task.task_id)
        self.alone_heard.add(task.task_id)

    def again(self) -> None:
        jobs = sorted(self.world.store.memory.jobs)
        if not jobs:
            return
        job_id = self.chance.choice(jobs)
        with contextlib.suppress(JobNotResumableError):
            if self.chance.random() < 0.8:
                self.world.manager.resume(job_id, user_id="ann")
            else:
                self.world.manager.rerun(job_id, user_id="ann")

    def roll_back(self) -> None:
        jobs = sorted(self.world.store.memory.jobs)
        if not jobs:
            return
        job_id = self.chance.choice(jobs)
        tables = self.world.tables
        tables.broken = self.chance.random() < 0.4
        try:
            for task in self.world.store.tasks([job_id]):
                tables.rollbacks[task.pipeline] = TableRollback(task.pipeline, 2, 1)
            with contextlib.suppress(JobNotRolledBackError):
                self.world.manager.rollback(job_id, requested_by="root")
        finally:
            tables.broken = False

    def worker_says(self) -> None:
        live = sorted(self.world.workers.live.values(), key=lambda a: a.task_id)
        if not live:
            return
        task = self.chance.choice(live)
        key = (task.task_id, task.attempt)
        action = self.chance.choice(["permit", "commit", "shield", "end", "end"])
        is_done = (
            task.task_id in self.whole
        )  # its last commit says so in the table, and none follows it
        if action == "permit" and key not in self.permitted and not is_done:
            self.permitted.add(key)
            self.world.ask_permit_of(task.task_id)
        elif action == "commit":
            self.commit(task)
        elif action == "shield":
            seconds = self.chance.choice([None, 3.0, 30.0])
            self.world.workers.tell(ShieldChanged(task.task_id, seconds))
        elif action == "end":
            self.end(task)

    def commit(self, task: Assignment) -> None:
        """A worker that was permitted writes to its table's log; the answer may be old by now."""
        answers = [r for t, r in self.world.workers.permits if t == task.task_id]
        if answers and answers[-1] is None:
            self.world.workers.permits = [
                p for p in self.world.workers.permits if p[0] != task.task_id
            ]
            self.permitted.discard((task.task_id, task.attempt))
            self.committed[task.task_id] = self.committed.get(task.task_id, 0) + 1
            if self.chance.random() < 0.5:
                self.whole.add(task.task_id)
            self.tell_log(task.task_id)
            if self.chance.random() < 0.5:
                self.world.workers.tell(UnitCommitted(task.task_id, self.stats(task.task_id)))

    def end(self, task: Assignment, outcome: str | None = None) -> None:
        stages = self.world.stages(task.task_id)
        forced = outcome is not None
        outcome = outcome or self.chance.choice(["success", "failed", "lost", "cancelled"])
        if forced:
            pass
        elif task.task_id in self.whole:
            outcome = self.chance.choice(["success", "lost"])
        elif outcome == "cancelled" and not stages:
            outcome = "failed"
        elif outcome == "success" and self.committed.get(task.task_id):
            self.whole.add(task.task_id)
        elif outcome == "success":
            outcome = "failed"
        del self.world.workers.live[task.task_id]
        stats = TaskStats() if outcome == "lost" else self.stats(task.task_id)
        self.tell_log(task.task_id)
        stage = stages[-1] if stages else None
        self.world.workers.tell(TaskEnded(task.task_id, outcome, stats, stage=stage))

    def store_goes(self) -> None:
        self.world.store.unavailable = True
        self.alone_heard.clear()
        self.heard.clear()  # a wake-up may have to be tried again

    def store_comes(self) -> None:
        self.world.store.unavailable = False

    def hold(self) -> None:
        self.world.ledger.held = not self.world.ledger.held

    def settle_aside(self) -> None:
        self.world.aside.held = not self.world.aside.held
        if not self.world.aside.held:
            self.world.aside.release()

    def pass_time(self) -> None:
        self.world.clock.pass_(self.chance.choice([0.3, 1.0, 6.0, 12.0]))

    def crash(self) -> None:
        if not self.world.store.unavailable:
            self.boot()

    def close(self) -> None:
        """The server is told to stop; what happens meanwhile happens, and the next one starts."""
        self.world.executor._agenda.post(self.world.executor._begin_closing)

    def spurious_wake(self) -> None:
        if jobs := sorted(self.world.store.memory.jobs):
            self.world.executor.wake(self.chance.choice(jobs))

    def boot(self) -> None:
        jobs = self.world.store.memory.jobs.values()
        self.heard = {job.job_id for job in jobs if job.is_terminal}
        self.world.boot(recover=False)
        self.world.workers.on_run = self.nothing_starts_after_a_stop
        self.world.executor._agenda.post(self.world.executor._lease.scan)

    def step(self) -> None:
        actions: list[tuple[Callable[[], None], int]] = [
            (self.run, 3),
            (self.cancel, 3),
            (self.cancel_task, 2),
            (self.again, 1),
            (self.roll_back, 1),
            (self.worker_says, 16),
            (self.store_goes, 1),
            (self.store_comes, 4),
            (self.hold, 2),
            (self.settle_aside, 1),
            (self.pass_time, 5),
            (self.crash, 1),
            (self.close, 1),
            (self.spurious_wake, 1),
        ]
        [do] = self.chance.choices([a for a, _ in actions], [w for _, w in actions])
        self.story.append(do.__name__)
        with contextlib.suppress(StoreUnavailableError):
            do()
        if self.chance.random() < 0.7:
            self.tick()

    def tick(self) -> None:
        held = set(self.world.executor._held)
        self.world.executor.tick(0)
        if self.world.executor._closed.is_set():
            self.judge_hand_back(held)
            self.boot()

    def judge_hand_back(self, held: set[str]) -> None:
        """A closed server leaves nothing running, and no stop of what it held unfinished."""
        for job in self.world.store.memory.jobs.values():
            if job.job_id in held and job.executor_id is None:
                assert job.running_tasks == 0
                assert not job.stopping

    # ---------------------------------------------------------------- what must hold

    def stats(self, task_id: str) -> TaskStats:
        units = self.committed.get(task_id, 0)
        return TaskStats(rows=10 * units, units=units, version=units or None)

    def tell_log(self, task_id: str) -> None:
        settled = Settled(self.stats(task_id), complete=task_id in self.whole)
        self.world.tables.settled[task_id] = settled

    def nothing_starts_after_a_stop(self, task: Assignment) -> None:
        """Called for each task that is handed to a worker."""
        assert task.job_id not in self.heard, "a task of a job that was stopped is started"
        assert task.task_id not in self.alone_heard, "a task that was stopped alone is started"

    def finish(self) -> None:
        """Let everything that is under way end well, and the store be there."""
        self.world.store.unavailable = False
        self.world.ledger.held = self.world.aside.held = False
        self.world.ledger.release()
        self.world.aside.release()
        self.world.later(1)
        self.world.manager.rollbacks.finish()
        if self.world.executor._closing:
            for task in list(self.world.workers.live.values()):
                self.end(task)
            held = set(self.world.executor._held)
            self.world.later(1)
            assert self.world.executor._closed.is_set(), "it never closes"
            self.judge_hand_back(held)
            self.boot()
            self.world.later(1)
        for _ in range(500):
            for task in list(self.world.workers.live.values()):
                self.committed.setdefault(task.task_id, 1)
                self.whole.add(task.task_id)
                self.end(task, "success")
            self.world.later(6)
            if not self.world.workers.live and not self.world.store.unfinished():
                return
        left = self.world.store.unfinished()
        raise AssertionError(
            f"these never end: {left}, {[self.world.tasks(j.job_id) for j in left]}"
        )

    def judge(self) -> None:
        world = self.world
        world.is_sound()
        world.is_idle()
        for job in world.store.memory.jobs.values():
            assert job.is_over
            assert world.store.get(job.job_id).running_tasks == 0
            plan = world.store.plan(job.job_id)
            tasks = {t.pipeline: t for t in world.store.tasks([job.job_id])}
            for step in plan.steps:
                if step.pipeline in tasks:
                    ups = [tasks[up].status for up in step.depends_on]
                    assert set(ups) <= {TaskStatus.SUCCESS}
            if job.status is JobStatus.SUCCESS:
                assert len(tasks) == len(plan.steps)
            assert job.rollback is None or job.rollback.finished_at is not None
            if job.resumed_by is not None:
                assert world.job(job.resumed_by).resumed_from == job.job_id
            if job.resumed_from is not None:
                assert world.job(job.resumed_from).resumed_by == job.job_id
            receipt = job.cancellation
            if job.status is JobStatus.CANCELLED and receipt is None:
                assert {t.status for t in tasks.values()} == {TaskStatus.CANCELLED}
                assert {t.task_id for t in tasks.values()} <= self.alone
            elif job.status is JobStatus.CANCELLED:
                assert receipt is not None
                assert set(receipt.not_started) == set(plan.pipelines) - set(tasks)
                names = [s.task_id for s in receipt.stopped]
                stopped = {t.task_id for t in tasks.values() if t.status is TaskStatus.CANCELLED}
                assert len(set(names)) == len(names)
                assert set(names) <= stopped
                assert stopped - set(names) <= self.alone  # before the whole job was
            for task in tasks.values():
                if task.status is TaskStatus.SUCCESS:
                    assert task.task_id in self.whole, "a success that is not in the table"
                elif task.task_id in self.whole:
                    raise AssertionError(f"{task.status} though all of it is in the table")
                assert task.stats.units == self.committed.get(task.task_id, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_in_whatever_order(seed: int) -> None:
    """Stops, outages, crashes, late answers: every job ends, statuses tell the truth, nothing starts after a stop."""
    simulation = Simulation(seed)
    logger = logging.getLogger("sluicegate.core")
    logger.addHandler(simulation.world.failures)
    try:
        for _ in range(STEPS):
            simulation.step()
        simulation.finish()
        simulation.judge()
    finally:
        logger.removeHandler(simulation.world.failures)


def test_the_stages_of_every_simulated_stop_come_once_and_in_order() -> None:
    """Per attempt and executor: the ladder is climbed, whatever else happens."""
    ladder = list(Stage)
    for seed in range(10):
        simulation = Simulation(1000 + seed)
        for _ in range(STEPS):
            simulation.step()
        for task_id in simulation.world.workers.live:
            stages = [ladder.index(s) for s in simulation.world.stages(task_id)]
            attempts = sum(a.task_id == task_id for a in simulation.world.workers.handed)
            if attempts == 1:
                assert stages == sorted(set(stages))
