"""Several executors on one store, in any order of everything: pauses, crashes, outages, stops. From a seed.

What a paused executor's writer was permitted it still writes when it comes back; the tables refuse it by its epoch, as
Delta Lake's do. Everything else is the real code.
"""

from __future__ import annotations

import contextlib
import logging
import os

import pytest
from executor_world import LEASE_SECONDS, World
from test_executor_simulation import SPECS, STEPS, Simulation

from sluicegate.core.ports import Assignment
from sluicegate.core.store_errors import StoreUnavailableError

SEEDS = range(int(os.environ.get("SIMULATIONS", "40")))
PAUSED_STEPS_MAX = 30


class Fleet(Simulation):
    """Two or three homes on one store. `world` is the one that acts now; one that is paused does nothing."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.worlds = [self.world]
        for _ in range(self.chance.choice([1, 1, 2])):
            self.worlds.append(World(*SPECS, capacity=2, beside=self.world))
        self.paused: dict[int, int] = {}  # by number of the home: for how many steps more
        for world in self.worlds:
            world.workers.on_run = self.starts
            world.keep_lease()

    # ---------------------------------------------------------------- the tables' own fence

    def starts(self, task: Assignment) -> None:
        """A worker that takes over shuts out its predecessors before it does anything."""
        self.nothing_starts_after_a_stop(task)
        if task.recovers:
            self.fence(task.spec.pipeline_id, task.epoch)

    def fence(self, table: str, epoch: int) -> None:
        fences = self.world.tables.fences
        fences[table] = max(epoch, fences.get(table, 0))

    def commit(self, task: Assignment) -> None:
        table = task.spec.pipeline_id
        if task.epoch < self.world.tables.fences.get(table, 0):
            answers = self.world.workers.permits
            self.world.workers.permits = [p for p in answers if p[0] != task.task_id]
            return  # refused by the table
        before = self.committed.get(task.task_id, 0)
        super().commit(task)
        if self.committed.get(task.task_id, 0) > before:
            self.fence(table, task.epoch)

    # ---------------------------------------------------------------- what can happen to a fleet

    def pause(self) -> None:
        """SIGSTOP, a full swap, a network that is gone: it does nothing for a while, and does not know."""
        number = self.worlds.index(self.world)
        if len(self.paused) < len(self.worlds) - 1:
            self.paused[number] = self.chance.randint(1, PAUSED_STEPS_MAX)

    def follow(self) -> None:
        self.world.follow()

    def crash(self) -> None:
        """The process dies, with all that it started; its home starts again now, or its lease runs out first."""
        if self.world.store.unavailable:
            return
        self.world.workers.live.clear()
        if self.chance.random() < 0.5:
            for _ in range(int(LEASE_SECONDS) + 3):
                self.world.clock.pass_(1)
                for world in self.others():
                    self.on(world, self.tick)
        self.boot()

    def others(self) -> list[World]:
        awake = [w for n, w in enumerate(self.worlds) if n not in self.paused]
        return [world for world in awake if world is not self.world]

    def on(self, world: World, do: object) -> None:
        before, self.world = self.world, world
        try:
            with contextlib.suppress(StoreUnavailableError):
                do()  # type: ignore[operator]
        finally:
            self.world = before

    def boot(self) -> None:
        super().boot()
        self.heard.clear()  # the others may not have heard of all that is stored
        self.world.workers.on_run = self.starts
        self.world.keep_lease()

    def cancel(self) -> None:
        """A stop is heard at once only where it was decided."""
        super().cancel()
        self.heard.clear()

    def cancel_task(self) -> None:
        super().cancel_task()
        self.alone_heard.clear()

    def step(self) -> None:
        for number in list(self.paused):
            self.paused[number] -= 1
            if not self.paused[number]:
                del self.paused[number]
        awake = [w for n, w in enumerate(self.worlds) if n not in self.paused]
        self.world = self.chance.choice(awake)
        if self.chance.random() < 0.04:
            self.pause()
        elif self.chance.random() < 0.5:
            self.on(self.world, self.follow)
        super().step()
        for world in self.others():
            if self.chance.random() < 0.3:
                self.on(world, self.tick)

    def is_current(self, task: Assignment) -> bool:
        """Whether an attempt is the one that counts, so that it could get a permit."""
        memory = self.world.store.memory
        job, record = memory.jobs[task.job_id], memory.tasks[task.task_id]
        is_held = job.executor_id == self.world.executor.executor_id
        return is_held and not job.is_terminal and record.attempt == task.attempt

    # ---------------------------------------------------------------- the end

    def finish(self) -> None:
        """Everyone wakes, and everything that is under way ends well."""
        self.paused.clear()
        for world in self.worlds:
            self.world = world
            world.store.unavailable = False
            world.ledger.held = world.aside.held = False
            world.ledger.release()
            world.aside.release()
        for _ in range(500):
            for world in self.worlds:
                self.world = world
                world.follow()
                world.later(1)
                if world.executor._closing:
                    for task in list(world.workers.live.values()):
                        self.end(task)
                    world.later(1)
                    if world.executor._closed.is_set():
                        world.executor._lease.close()
                        self.boot()
                    continue
                for task in list(world.workers.live.values()):
                    if not self.is_current(task):
                        self.end(task, "lost")
                        continue
                    self.committed.setdefault(task.task_id, 1)
                    self.whole.add(task.task_id)
                    self.end(task, "success")
                world.later(1)
            if not any(world.workers.live for world in self.worlds):
                self.world.manager.rollbacks.finish()
                if not self.world.store.unfinished():
                    return
        left = self.world.store.unfinished()
        raise AssertionError(
            f"these never end: {left}, {[self.world.tasks(j.job_id) for j in left]}"
        )

    def judge(self) -> None:
        for world in self.worlds:
            for other in self.worlds:
                other.follow().later(1)
            self.world = world
            world.is_sound()
        super().judge()


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_to_a_fleet(seed: int) -> None:
    """Every job ends once, statuses tell what is in the tables, and no late writer changes that."""
    fleet = Fleet(seed)
    logger = logging.getLogger("sluicegate.core")
    logger.addHandler(fleet.world.failures)
    try:
        for _ in range(STEPS):
            fleet.step()
        fleet.finish()
        fleet.judge()
    finally:
        logger.removeHandler(fleet.world.failures)
