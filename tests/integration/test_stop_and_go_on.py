"""Stopped again and again at any instant, an incremental pipeline ends with the table of an undisturbed run."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import pytest
from support import Here, servers, until

from sluicegate.core.job import JobNotRunningError, JobStatus, TaskStatus
from sluicegate.lake import log
from sluicegate.lake.commits import DRAFT_PREFIX
from sluicegate.lake.tables import Lake

pytestmark = pytest.mark.proof

STOPS = 10
PAGES = 160
FILES = 60

PIPELINES = f"""
import time
import polars as pl
from sluicegate import Task, bronze

PAGES = {PAGES}

def page(number):
    return [{{"id": f"{{number}}-{{n}}", "page": number}} for n in range(number % 4)]

@bronze(mode="append")
def added(task: Task):
    for number in range(task.state.get("next", 0), PAGES):
        time.sleep(0.004)
        rows = page(number)
        yield rows[:2]  # belongs to the same unit as the rest
        task.state["next"] = number + 1
        yield rows[2:]

@bronze(mode="merge", keys=["slot"])
def merged(task: Task):
    '''Each page replaces rows of earlier ones, and counts how often its slots were written.'''
    counts = task.state.setdefault("counts", {{}})
    for number in range(task.state.get("next", 0), PAGES):
        time.sleep(0.004)
        slots = [number % 7, 7 + number % 11]
        for slot in slots:
            counts[str(slot)] = counts.get(str(slot), 0) + 1
        task.state["next"] = number + 1
        yield [{{"slot": slot, "page": number, "writes": counts[str(slot)]}} for slot in slots]

@bronze(files="in/*.csv")
def read(batch: pl.DataFrame) -> pl.DataFrame:
    time.sleep(0.015)
    return batch

@bronze(files="in/*.csv", mode="merge", keys=["slot"])
def read_merged(batch: pl.DataFrame) -> pl.DataFrame:
    time.sleep(0.015)
    return batch.group_by("slot").agg(pl.col("id").max())
"""


def put_files(here: Here) -> None:
    folder = Path(here.settings.landing) / "in"
    folder.mkdir(parents=True)
    for number in range(FILES):
        lines = "".join(f"{number * 100 + n},{(number + n) % 40}\n" for n in range(number % 5 + 1))
        (folder / f"{number:04}.csv").write_text("id,slot\n" + lines)


def content(here: Here, table: str) -> list[dict[str, Any]]:
    rows = Lake(str(here.settings.lake)).load(table).to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: tuple(row.values()))


def left_over(here: Here, table: str) -> set[str]:
    """Files of the table that no version of it names."""
    lake = Lake(str(here.settings.lake))
    folder = lake.path(table)
    named: set[str] = set()
    for entry in log.entries_back(folder, lake.load(table).version()):
        named |= set(entry.added)
    found = {file.name for file in folder.glob("*.parquet")} - named
    return found | {file.name for file in (folder / "_delta_log").glob(f"{DRAFT_PREFIX}*")}


@pytest.mark.parametrize(
    ("pipeline", "longest"),
    [("added", 0.25), ("merged", 0.25), ("read", 0.7), ("read_merged", 0.7)],
)
@pytest.mark.timeout(300)
def test_every_row_is_there_exactly_once(tmp_path: Path, pipeline: str, longest: float) -> None:
    """The instants are random, and the same each time; every second stop is a SIGKILL."""
    table = f"bronze.{pipeline}"
    with Here(tmp_path / "undisturbed", PIPELINES) as here:
        put_files(here)
        assert here.job(here.run(table)).status is JobStatus.SUCCESS
        wanted = content(here, table)
    chance = random.Random(f"stops of {pipeline}")
    stopped = rows = 0
    killed: set[str] = set()
    with Here(tmp_path / "stopped", PIPELINES) as here:
        put_files(here)
        for number in range(STOPS):
            job_id = here.start(table)
            until(lambda job_id=job_id: here.tasks(job_id), "the task to start")  # type: ignore[misc]
            time.sleep(chance.uniform(0, longest))
            with contextlib.suppress(JobNotRunningError):
                here.stop(job_id, "force" if number % 2 else "graceful")
            task = here.task(job_id)
            stopped += task.status is TaskStatus.CANCELLED
            rows += task.stats.rows
            if task.stop is not None and task.stop.stage == "kill":
                killed.add(task.task_id)
            assert task.error is None, task.error
        last = here.run(table)
        assert here.job(last).status is JobStatus.SUCCESS, here.task(last).error
        rows += here.task(last).stats.rows
        assert content(here, table) == wanted
        left = {name for name in left_over(here, table) if not any(one in name for one in killed)}
        assert not left, "only a writer that was killed may leave files that no version names"
    assert stopped >= 2, "the stops came too late to try anything"
    if pipeline in ("added", "read"):
        assert rows == len(wanted), "what the tasks say they wrote is what is there"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pipeline", ["added", "merged"])
def test_a_kill_of_the_server_costs_no_row_and_doubles_none(tmp_path: Path, pipeline: str) -> None:
    """The job is taken up again by the next server, and goes on from the last state in the table's log."""
    table = f"bronze.{pipeline}"
    chance = random.Random(f"kills of {pipeline}")
    with Here(tmp_path / "undisturbed", PIPELINES) as here:
        here.run(table)
        wanted = content(here, table)
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / "pipelines.py").write_text(PIPELINES)
    with servers(folder) as start:
        server = start(folder / "pipelines.py")
        job_id = server.start(pipelines=[table])
        for _ in range(2):
            until(lambda: server.tasks(job_id), "the task to start", 30)  # noqa: B023
            time.sleep(chance.uniform(0.1, 0.4))
            server.kill()
            server = start(folder / "pipelines.py")
        assert server.wait(job_id)["status"] == "success"
    rows = Lake(str(folder / "home" / "lake")).load(table).to_pyarrow_table().to_pylist()
    assert sorted(rows, key=lambda row: tuple(row.values())) == wanted
