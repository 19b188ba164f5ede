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

from sluicegate.core.job import JobNotRunningError, StopMode, TaskStatus
from sluicegate.core.ports import Assignment, Change
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
        # Permits that were stored while the job could be committed for, by task, attempt and number.
        self.stored_permits: set[tuple[str, int, int]] = set()
        for world in self.worlds:
            self.watch_permits(world)
            world.keep_lease()

    # ---------------------------------------------------------------- every permit

    def watch_permits(self, world: World) -> None:
        """Hold every permit to rule 4: it is a write to a job that is not stopped, by the one that holds it."""
        world.workers.on_run = self.starts
        answer, executor = world.workers.answer_permit, world.executor

        def accepted(change: Change) -> None:
            receipt = change.job.cancellation
            stopped = change.job.is_terminal and (receipt is None or receipt.mode != StopMode.DRAIN)
            if change.job.executor_id == world.executor.executor_id and not stopped:
                for task in change.tasks:
                    self.stored_permits.add((task.task_id, task.attempt, task.permits))

        def answer_permit(task_id: str, refused: str | None) -> None:
            if refused is None:
                active = executor._running.get(task_id)
                assert active is not None
                task = active.record
                assert (task_id, task.attempt, task.permits) in self.stored_permits, (
                    "a permit that was not stored while the job was going on"
                )
            answer(task_id, refused)

        world.store.accepted = accepted
        world.workers.answer_permit = answer_permit  # type: ignore[method-assign]

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
        if len(self.paused) >= len(self.worlds) - 1:
            return
        if self.chance.random() < 0.5:
            self.paused[number] = self.chance.randint(1, PAUSED_STEPS_MAX)
            return
        # For longer than its lease, with permits in the hands of its workers, which are the first to wake.
        self.paused[number] = 1
        if self.chance.random() < 0.5 and (live := sorted(self.world.workers.live)):
            job_id = self.world.workers.live[self.chance.choice(live)].job_id
            for world in self.others()[:1]:
                with contextlib.suppress(JobNotRunningError, StoreUnavailableError):
                    world.cancel(job_id, settle=False)
        self.pass_lease()
        for task in list(self.world.workers.live.values()):
            self.commit(task)

    def pass_lease(self) -> None:
        """Longer than a lease, in which the others work on."""
        for _ in range(int(LEASE_SECONDS) + 3):
            self.world.clock.pass_(1)
            for world in self.others():
                self.on(world, self.tick)

    def die(self) -> None:
        """The machine burns down: its home never starts again, and nobody says so."""
        self.world.workers.live.clear()
        number = self.worlds.index(self.world)
        del self.worlds[number]
        self.paused = {n - (n > number): left for n, left in self.paused.items()}
        self.world = self.awake[0]

    def follow(self) -> None:
        self.world.follow()

    def crash(self) -> None:
        """The process dies, with all that it started; its home starts again now, or its lease runs out first."""
        if self.world.store.unavailable:
            return
        if self.others() and self.chance.random() < 0.3:
            self.die()
            return
        self.world.workers.live.clear()
        if self.chance.random() < 0.5:
            self.pass_lease()
        self.boot()

    @property
    def awake(self) -> list[World]:
        return [w for n, w in enumerate(self.worlds) if n not in self.paused]

    def others(self) -> list[World]:
        return [world for world in self.awake if world is not self.world]

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
        self.watch_permits(self.world)
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
        self.world = self.chance.choice(self.awake)
        if self.chance.random() < 0.04:
            self.pause()
            self.world = self.chance.choice(self.awake)
        elif self.chance.random() < 0.5:
            self.on(self.world, self.follow)
        super().step()
        for world in self.others():
            if self.chance.random() < 0.3:
                self.on(world, self.tick)

    def counts(self, task: Assignment) -> bool:
        """Whether an attempt is the one that counts: of the executor that holds its job, and not over."""
        memory = self.world.store.memory
        job, record = memory.jobs[task.job_id], memory.tasks[task.task_id]
        is_held = job.executor_id == self.world.executor.executor_id
        is_running = record.status is TaskStatus.RUNNING
        active = self.world.executor._running.get(task.task_id)
        if active is None or active.over:
            return False  # of an earlier holding of the job
        return is_held and is_running and record.attempt == task.attempt

    def end(self, task: Assignment, outcome: str | None = None) -> None:
        """An attempt that does not count any more can say what it likes, but commits nothing by it."""
        super().end(task, outcome if outcome or self.counts(task) else "lost")

    def judge_hand_back(self, held: set[str]) -> None:
        """What was let go of while others live is theirs to close; a stop may come before they have taken it."""
        if len(self.worlds) == 1:
            super().judge_hand_back(held)

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
                    if not self.counts(task) or world.job(task.job_id).is_terminal:
                        self.end(task, "lost")
                        continue
                    self.committed.setdefault(task.task_id, 1)
                    self.whole.add(task.task_id)
                    self.end(task, "success")
                world.later(1)
            if not any(world.workers.live for world in self.worlds):
                self.world.manager.rollbacks.finish()
                # A job whose stop was unconfirmed is over, and its task may have to be settled yet.
                if not self.world.store.unfinished() and not self.world.store.held_writers():
                    return
        left = self.world.store.unfinished()
        raise AssertionError(
            f"these never end: {left}, {[self.world.tasks(j.job_id) for j in left]}"
        )

    def judge(self) -> None:
        for world in self.worlds:
            for other in self.worlds:
                other.follow().later(
                    6
                )  # pauses before a retry of what is not held any more are over
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
