"""Explores every interleaving of the small model: all steps from all states, those that are near the beginning first.

Run it to see the counts: `python exploration.py`, or `python exploration.py large`.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import re
import sys
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Final

from small_model import Bounds, Model, State, Step, Violation

COLLECTED_EVERY: Final = 200_000
TASK_ID: Final = re.compile(r"task-\d+")

SMALL: Final = {"one stop, one crash": Bounds()}
LARGE: Final = {
    "one stop, one worker lost": Bounds(faults=frozenset({"loses_worker"})),
    "one crash, finer steps": Bounds(stops=0, fine=True),
    "one lease lost": Bounds(stops=0, faults=frozenset({"believes_dead"})),
}


@dataclass(frozen=True)
class Explored:
    """What was explored.

    Args:
        states: Distinct ones.
        steps: Taken, from each state all that are possible.
        ends: States in which nothing moves any more.
        longest: Steps to the state that is farthest from the beginning.
        schedules: Ways from the beginning to an end; `None`: without number, for some waits can go on.
    """

    states: int
    steps: int
    ends: int
    longest: int
    schedules: int | None


class Found(Exception):
    """A rule was violated; by the shortest schedule that does it."""

    def __init__(self, violation: Violation, schedule: list[Step]) -> None:
        steps = "\n".join(f"{n:4}. {describe(step)}" for n, step in enumerate(schedule, 1))
        super().__init__(f"{violation}\n{steps}")
        self.violation, self.schedule = violation, schedule


def describe(step: Step) -> str:
    name, what, *more = step
    return " ".join([name, what.replace("_", " "), *more])


def explore(bounds: Bounds, *, replay_every: int = 0) -> Explored:
    """Visit every state that can be reached, and hold each step to the rules.

    Args:
        replay_every: So many states apart, one is reached again from the beginning, without copies, and compared.

    Raises:
        Found: A rule does not hold, a job is stuck, or there is no way on to its end.
    """
    model = Model(bounds)
    logger = logging.getLogger("sluicegate.core")
    level = logger.level
    logger.addHandler(model.failures)
    logger.setLevel(logging.ERROR)
    often = gc.get_threshold()
    gc.set_threshold(
        COLLECTED_EVERY, *often[1:]
    )  # states are many, and few of them are garbage at once
    try:
        return _Exploration(model, replay_every).run()
    finally:
        logger.removeHandler(model.failures)
        logger.setLevel(level)
        gc.set_threshold(*often)


class _Exploration:
    def __init__(self, model: Model, replay_every: int) -> None:
        self._model, self._replay_every = model, replay_every
        self._numbers: dict[bytes, int] = {}  # of states, by digest
        self._came: list[tuple[int, Step] | None] = []  # by state: from which, by what
        self._depths: list[int] = []
        self._ways: list[list[int]] = []  # by state: where its steps lead, moves first
        self._moves: list[int] = []  # by state: how many of them are moves
        self._waiting: deque[tuple[int, State]] = deque()

    def run(self) -> Explored:
        self._model.put(self._model.initial)
        self._arrive(None)
        while self._waiting:
            self._expand(*self._waiting.popleft())
        self._all_can_end()
        return Explored(
            states=len(self._came),
            steps=sum(map(len, self._ways)),
            ends=self._moves.count(0),
            longest=max(self._depths),
            schedules=self._count_schedules(),
        )

    def _expand(self, number: int, state: State) -> None:
        model = self._model
        model.put(state)
        moves = model.moves()
        steps = moves + model.injections()
        self._moves[number] = len(moves)
        for step in steps:
            model.put(state)
            try:
                model.do(step)
                self._ways[number].append(self._arrive((number, step)))
            except Violation as violation:
                raise Found(violation, [*self._schedule(number), step]) from None

    def _arrive(self, came: tuple[int, Step] | None) -> int:
        digest = _digest(self._model)
        if (number := self._numbers.get(digest)) is not None:
            return number
        number = self._numbers[digest] = len(self._came)
        self._came.append(came)
        self._depths.append(0 if came is None else self._depths[came[0]] + 1)
        self._ways.append([])
        self._moves.append(0)
        state = self._model.state
        self._waiting.append((number, state))
        if not self._model.moves():
            self._model.judge_rest()
        if self._replay_every and number % self._replay_every == 0:
            self._replay(number, digest)
        return number

    def _schedule(self, number: int) -> list[Step]:
        schedule: list[Step] = []
        while (came := self._came[number]) is not None:
            number, step = came
            schedule.append(step)
        return schedule[::-1]

    def _replay(self, number: int, digest: bytes) -> None:
        again = Model(self._model.bounds)
        for step in self._schedule(number):
            again.do(step)
        assert _digest(again) == digest, "a copy of a state is not that state"

    def _all_can_end(self) -> None:
        """From everywhere there is a way to an end, without any further stop or fault."""
        back: dict[int, list[int]] = defaultdict(list)
        for number, ways in enumerate(self._ways):
            for to in ways[: self._moves[number]]:
                back[to].append(number)
        ending = {number for number, moves in enumerate(self._moves) if not moves}
        waiting = list(ending)
        while waiting:
            for number in back[waiting.pop()]:
                if number not in ending:
                    ending.add(number)
                    waiting.append(number)
        stuck = next((n for n in range(len(self._came)) if n not in ending), None)
        if stuck is not None:
            raise Found(Violation("the job can never end any more"), self._schedule(stuck))

    def _count_schedules(self) -> int | None:
        """How many ways there are from the beginning to an end, each one an order of all that happens."""
        entered = [0] * len(self._came)
        for ways in self._ways:
            for to in ways:
                entered[to] += 1
        arrivals = [0] * len(self._came)
        arrivals[0], total = 1, 0
        ready, done = [0] if not entered[0] else [], 0
        while ready:
            number = ready.pop()
            done += 1
            if not self._moves[number]:
                total += arrivals[number]
            for to in self._ways[number]:
                arrivals[to] += arrivals[number]
                entered[to] -= 1
                if not entered[to]:
                    ready.append(to)
        return total if done == len(self._came) else None


def _digest(model: Model) -> bytes:
    """A state's text, with tasks numbered as they appear: their ids are by the order of starts."""
    names: dict[str, str] = {}
    text = TASK_ID.sub(lambda found: names.setdefault(found[0], f"#{len(names)}"), model.tell())
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def main() -> None:
    models = SMALL | LARGE if "large" in sys.argv else SMALL
    for name, bounds in models.items():
        began = time.monotonic()
        found = explore(bounds)
        schedules = "no bound" if found.schedules is None else f"{found.schedules:,}"
        print(
            f"{name}: {found.states:,} states, {found.steps:,} steps, {found.ends} ends, longest {found.longest},"
            f" schedules {schedules}; {time.monotonic() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
