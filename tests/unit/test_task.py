"""`Task`: what pipeline code is given. No process, no sleeping; the clock of shields is set by hand."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from sluicegate import task as task_module
from sluicegate.errors import Cancelled
from sluicegate.task import Task


class Told:
    """What a task asked of its worker."""

    def __init__(self) -> None:
        self.progressed: list[tuple[float, float | None, str]] = []
        self.shields: list[float | None] = []
        self.failed: list[str] = []
        self.failing = threading.Event()
        self.remotes: list[tuple[int, str, str, int]] = []

    def progress(self, done: float, total: float | None, unit: str) -> None:
        self.progressed.append((done, total, unit))

    def shield(self, seconds: float | None) -> None:
        self.shields.append(seconds)

    def failed_callback(self, what: str) -> None:
        self.failed.append(what)
        self.failing.set()

    def remote(self, number: int, what: str, outcome: str, tries: int) -> None:
        self.remotes.append((number, what, outcome, tries))

    def uninterrupted(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The monotonic clock that the module reads; `now` is set by the test."""
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(task_module, "time", clock)
    return clock


@pytest.fixture
def task(told: Told) -> Task:
    return Task(
        job_id="j",
        task_id="t",
        attempt=2,
        params={"day": "2013-01-01"},
        log=logging.getLogger("task"),
        runtime=told,
    )


def test_a_checkpoint_stops_only_after_a_stop(task: Task) -> None:
    """It is called in every loop of every pipeline: until then it must be nothing."""
    task.checkpoint()
    assert not task.cancelled
    task.request_stop()
    assert task.cancelled
    for _ in range(2):
        with pytest.raises(Cancelled):
            task.checkpoint()


def test_params_cannot_be_changed(task: Task) -> None:
    """A retry is handed the same."""
    params: Any = task.params
    with pytest.raises(TypeError):
        params["day"] = "2014-01-01"


def test_a_shield_defers_the_checkpoint_to_its_end(
    task: Task, told: Told, clock: SimpleNamespace
) -> None:
    """An upload is finished, then the task stops."""
    finished = False
    with pytest.raises(Cancelled), task.shield("60s"):  # noqa: PT012 - the block is what is tested
        task.request_stop()
        task.checkpoint()
        finished = True
    assert finished
    assert told.shields == [60.0, None]
    assert not task.shielded


def test_a_shield_whose_time_has_run_out_defers_nothing(task: Task, clock: SimpleNamespace) -> None:
    """Its timeout is a promise to whoever waits for the stop."""
    with pytest.raises(Cancelled), task.shield(10):  # noqa: PT012 - the block is what is tested
        task.request_stop()
        clock.now += 9.9
        task.checkpoint()
        clock.now += 0.1
        task.checkpoint()
        pytest.fail("it went on")


def test_shields_nest_and_the_rest_of_the_outer_one_is_told(
    task: Task, told: Told, clock: SimpleNamespace
) -> None:
    """A library's shield within the author's must not end the author's."""
    with task.shield(60):
        clock.now += 10
        with task.shield(5):
            clock.now += 2
        assert task.shielded
    assert told.shields == [60.0, 5.0, 48.0, None]


def test_an_error_inside_a_shield_is_the_authors(task: Task, told: Told) -> None:
    """The stop must not hide why the upload failed."""
    with pytest.raises(ValueError, match="mine"), task.shield():  # noqa: PT012 - the block is what is tested
        task.request_stop()
        raise ValueError("mine")
    assert told.shields[-1] is None


def test_progress_is_told_a_few_times_a_second_and_the_last_never_lost(
    task: Task, told: Told, clock: SimpleNamespace
) -> None:
    """A loop over rows may call it for each."""
    for n in range(101):
        task.progress(n, 100)
        clock.now += 0.001
    assert len(told.progressed) <= 4
    task.flush_progress()
    task.flush_progress()
    assert told.progressed[-1] == (100, 100, "rows")
    assert told.progressed.count((100, 100, "rows")) == 1


def test_callbacks_are_called_once_from_another_thread(task: Task) -> None:
    """The task's own thread may be the one that hangs."""
    called: list[threading.Thread] = []
    done = threading.Event()
    task.on_cancel(lambda: (called.append(threading.current_thread()), done.set()))
    task.request_stop()
    task.request_stop()
    assert done.wait(10), "the callback was not called"
    assert len(called) == 1
    assert called[0] is not threading.current_thread()


def test_a_callback_that_comes_after_the_stop_is_called_at_once(task: Task) -> None:
    """The query was sent while the stop came: nobody else would end it."""
    task.request_stop()
    called = threading.Event()
    task.on_cancel(called.set)
    assert called.wait(10), "the callback was not called"


def test_a_callback_that_fails_is_told_and_keeps_no_other_from_its_work(
    task: Task, told: Told
) -> None:
    """Ending one remote query must not depend on another's driver."""
    done = threading.Event()

    def fail() -> None:
        raise OSError("gone")

    task.on_cancel(fail)
    task.on_cancel(done.set)
    task.request_stop()
    assert done.wait(10), "the second callback was not called"
    assert told.failing.wait(10), "the failure was not told"
    assert "OSError('gone')" in told.failed[0]


def test_a_program_that_fails_raises_with_its_output(task: Task) -> None:
    """Whoever reads the error sees what the program said."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        task.run(
            [sys.executable, "-c", "import sys; print('why'); sys.exit(3)"],
            stdout=subprocess.PIPE,
            text=True,
        )
    assert (caught.value.returncode, caught.value.output) == (3, "why\n")


def test_a_program_that_the_stop_ended_is_a_stop_and_no_failure(task: Task) -> None:
    """Its exit by SIGTERM is what was asked for."""
    task.request_stop()
    with pytest.raises(Cancelled):
        task.run([sys.executable, "-c", "import time; time.sleep(600)"])
