"""Pipelines for the page's tests: quick ones, slow ones, one that fails and one that hangs."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from sluicegate import CancelPolicy, Task, bronze, gold, silver


@bronze
def numbers() -> list[dict]:
    """Three rows, one of each kind of trouble for `text` on a page."""
    return [
        {"n": 2**60, "word": "<b>bold</b>"},
        {"n": 2, "word": None},
        {"n": 3, "word": ""},
    ]


@silver
def squares(numbers: pl.DataFrame) -> pl.DataFrame:
    return numbers.select(square=pl.col("n").cast(pl.Float64) ** 2)


@bronze
def nothing() -> None:
    """Ends at once and fills no table."""


@bronze
def slow(task: Task) -> Iterator[list[dict]]:
    """A minute of small steps. Each is a checkpoint; every twentieth writes a line."""
    for step in range(6000):
        task.checkpoint()
        task.progress(step, 6000, "steps")
        if step % 20 == 0:
            task.log.info("step %d", step)
        time.sleep(0.01)
    yield [{"steps": 6000}]


@bronze
def gated(task: Task) -> list[dict]:
    """Waits until the file of the parameter `gate` is there."""
    while not Path(task.params["gate"]).exists():
        task.checkpoint()
        time.sleep(0.01)
    return [{"open": True}]


@bronze(mode="append")
def paged(task: Task) -> Iterator[list[dict]]:
    """Three rows and a saved state; then it waits until the file of the parameter `gate` is there, for one row more."""
    if not task.state.get("page"):
        task.state["page"] = 1
        yield [{"n": 1}, {"n": 2}, {"n": 3}]
    while not Path(task.params["gate"]).exists():
        task.checkpoint()
        time.sleep(0.01)
    task.state["page"] = 2
    yield [{"n": 4}]


@silver
def after_paged(paged: pl.DataFrame) -> pl.DataFrame:
    return paged


@bronze
def remote(task: Task) -> None:
    """Has work in two other places: one can be stopped, the other one does not answer."""

    def unreachable() -> None:
        raise ConnectionError("no route to the warehouse")

    task.on_cancel(lambda: None, what="query 7 at the database")
    task.on_cancel(unreachable, what="job 12 at the warehouse")
    for step in range(6000):
        task.checkpoint()
        task.progress(step, 6000, "steps")
        time.sleep(0.01)


@silver
def after_slow(slow: pl.DataFrame) -> pl.DataFrame:
    return slow


@gold
def long_after_slow(after_slow: pl.DataFrame) -> pl.DataFrame:
    return after_slow


@bronze
def failing() -> list[dict]:
    raise ValueError("row 13 has no departure")


@silver
def after_failing(failing: pl.DataFrame) -> pl.DataFrame:
    return failing


@bronze(cancel=CancelPolicy(terminate_after=None, kill_after="50s"))
def hanging(task: Task) -> None:
    """Refuses to stop: only the last stage ends it, and that leaves a slow machine time to press a button."""
    deadline = time.monotonic() + 60
    task.log.info("hanging")
    while time.monotonic() < deadline:
        with contextlib.suppress(BaseException):  # That is the point of it.
            time.sleep(1)


@bronze
def speaks(task: Task) -> None:
    """Six hundred lines at once."""
    for n in range(600):
        task.log.info("line %d", n)


@bronze(mode="append")
def grows() -> list[dict]:
    """A row more with each run."""
    return [{"n": 1}]
