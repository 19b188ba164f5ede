"""Every task that does not want to stop is stopped, by both modes, in time, and leaves nothing alive.

The tasks are those of `sluicegate verify-stop`. The figures are printed; bounds are wide, for the machine is shared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from support import MARK, Here, end_marked, gone, marked, median, until

from sluicegate.config import Settings
from sluicegate.core.job import StopMode
from sluicegate.declare import Pipeline
from sluicegate.hostile import pipelines
from sluicegate.verify import Stop, Trial, open_trial
from sluicegate.workers.process_tree import find

NAMES = [name for name, value in vars(pipelines).items() if isinstance(value, Pipeline)]
# On a calm machine a graceful stop of any of them takes less than 2 s, and force less than 0.5 s.
MS_MAX = {StopMode.GRACEFUL: 5 * 2000.0, StopMode.FORCE: 5 * 500.0}
# The first stage that can end them; a later one may have to on a busy machine.
STAGES = {
    "interrupt": ("interrupt", "terminate", "kill"),
    "terminate": ("terminate", "kill"),
    "kill": ("kill",),
}
FIRST_STAGE = {
    "busy_loop": "interrupt",
    "long_sleep": "interrupt",
    "lock_never_released": "interrupt",
    "silent_socket": "interrupt",
    "waits_for_program": "interrupt",
    "holds_the_interpreter": "terminate",
    "deadlock_in_c": "terminate",
    "swallows_everything": "terminate",
    "ignores_signals": "kill",
    "own_handlers": "kill",
    "blocks_signals": "terminate",
    "hangs_in_finally": "terminate",
    "closes_descriptors": "interrupt",
    "fills_stdout": "kill",
    "forks_on_sigterm": "kill",
}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A runner of the hostile tasks; at the end nothing but itself is left of them, and then nothing at all."""
    folder = tmp_path_factory.mktemp("hostile")
    settings = Settings.load({"workers": 2}, environ={}, folder=folder)
    before, mark = os.environ.get(MARK, ""), uuid4().hex
    os.environ[MARK] = mark
    try:
        with open_trial(settings, folder) as opened:
            yield opened
            assert opened.strays() == []
        until(lambda: not marked(mark), "every process gone after closing", 10)
    finally:
        os.environ[MARK] = before
        end_marked(mark)


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[StopMode, list[Stop]]]:
    """What was measured."""
    found: dict[StopMode, list[Stop]] = {mode: [] for mode in MS_MAX}
    yield found
    for mode, stops in found.items():
        if took := [stop.took_ms or 0.0 for stop in stops]:
            worst = max(stops, key=lambda stop: stop.took_ms or 0.0)
            print(
                f"{mode}: {len(took)} stops, median {median(took):.0f} ms,"
                f" worst {worst.took_ms:.0f} ms ({worst.task})"
            )


def test_all_hostile_tasks_are_declared(trial: Trial) -> None:
    """What is tried here is what users try."""
    assert trial.names == NAMES
    assert len(NAMES) >= 24


@pytest.mark.parametrize("mode", list(MS_MAX))
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_task_is_stopped(
    trial: Trial, figures: dict[StopMode, list[Stop]], name: str, mode: StopMode
) -> None:
    """When its job says that it has stopped, no process that it started is alive."""
    stop = trial.check(name, mode)
    assert stop.problem is None
    assert stop.survivors == ()
    assert stop.took_ms is not None
    assert stop.took_ms < MS_MAX[mode]
    first = "kill" if mode is StopMode.FORCE else FIRST_STAGE.get(name, "interrupt")
    assert stop.stage in STAGES[first]
    figures[mode].append(stop)


BLIND = """
import pathlib, sys
if "sluicegate.workers.guard" in sys.orig_argv:
    import signal
    from sluicegate.workers import process_tree
    folder, real = pathlib.Path({folder!r}), process_tree.kill_tree
    def kill_tree(root, **options):
        with (folder / "asked").open("a") as asked: asked.write("asked\\n")
        if (folder / "mended").exists(): return real(root, **options)
        if "sleep" in process_tree.command(root): return 0
        process_tree.send_signal(root, signal.SIGKILL)
        return int(process_tree.wait_gone([root]))
    def kill_below(root, **options): return process_tree.Swept(0, True)
    process_tree.kill_tree, process_tree.kill_below = kill_tree, kill_below
"""
LEAVES_ONE = """
import subprocess, time
from sluicegate import bronze
@bronze
def leaves_one():
    print("left", subprocess.Popen(["sleep", "600"], start_new_session=True).pid, flush=True)
    time.sleep(600)
"""


def test_a_task_is_not_told_as_stopped_while_a_process_of_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process can wait for a disk and not die; here the guard is kept from ending it for a while."""
    (tmp_path / "sitecustomize.py").write_text(BLIND.format(folder=str(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    asked = tmp_path / "asked"
    with Here(tmp_path / "here", LEAVES_ONE) as here:
        job_id = here.start("bronze.leaves_one")
        left = find(int(here.said(job_id, "left")))
        assert left is not None
        here.cancel(job_id, "force")
        until(lambda: asked.exists() and asked.read_text().count("asked") >= 3, "three tries")
        assert not gone(left)
        assert here.job(job_id).stopping
        (tmp_path / "mended").touch()
        job = here.wait(job_id)
        assert gone(left)
        assert job.cancellation is not None
        [stopped] = job.cancellation.stopped
        assert stopped.processes_killed == 2
