"""What pipelines declare, run for real: merges, states, programs, and inputs in every form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Here, until

from sluicegate.core.job import JobStatus, TaskStatus
from sluicegate.lake.log import current_content
from sluicegate.lake.tables import Lake

PIPELINES = '''
import os, signal, sys, time
from datetime import date

import duckdb, pandas as pd, polars as pl, pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from sluicegate import CancelPolicy, Task, bronze, silver, table

SOON = CancelPolicy(interrupt_after=0.2, terminate_after=1, kill_after=2)

# ------------------------------------------------------------ state

@bronze(mode="append")
def pages(task: Task):
    first = task.state.get("last", 0)
    for page in range(first, task.params.get("to", 3)):
        task.state["last"] = page + 1
        yield [{"page": page}]
        if page == task.params.get("hang_after"):
            print("ready", flush=True)
            time.sleep(600)

@bronze(mode="append", cancel=SOON)
def burst(task: Task):
    """Many tiny units, and then a wait for something."""
    for page in range(200):
        task.state["last"] = page + 1
        yield [{"page": page}]
    print("ready", flush=True)
    time.sleep(600)

@bronze(mode="append")
def nested(task: Task):
    """The change is deep inside, and rows come before, at, and after it."""
    seen = task.state.get("seen") or {"pages": []}
    first = len(seen["pages"])
    yield [{"row": f"before {first}"}]
    seen["pages"].append(first)
    task.state["seen"] = seen
    yield [{"row": f"at {first}"}]
    yield [{"row": f"after {first}"}]
    if task.params.get("fail"): raise ValueError("between two states")

@bronze(mode="append", retries=1)
def ended(task: Task):
    for page in range(task.state.get("last", 0), 6):
        if page == 3 and task.attempt == 1:
            how = task.params["how"]
            if how == "killed": os.kill(os.getpid(), signal.SIGKILL)
            if how == "raises": raise ValueError("page 3")
            write_deltalake(task.params["table"], pa.table({"page": [99]}), mode="append")
        task.state["last"] = page + 1
        yield [{"page": page}]

@bronze(mode="append")
def returned(task: Task):
    task.state["runs"] = task.state.get("runs", 0) + 1
    return [{"run": task.state["runs"]}] if task.params.get("rows", True) else None

@bronze
def replaced(task: Task):
    task.state["last"] = 1
    yield [{"n": 1}]

@bronze(mode="append")
def unkept(task: Task):
    task.state["first"] = 1
    yield [{"n": 1}]
    task.state["when"] = eval(task.params["value"])
    yield [{"n": 2}]

@bronze(files="days/*.csv")
def days(batch: pl.DataFrame, task: Task):
    if batch["n"][0] < 0: raise ValueError("a bad day")
    task.state["rows"] = task.state.get("rows", 0) + batch.height
    return batch

# ------------------------------------------------------------ merge

@bronze(files="changes/*.csv", mode="merge", keys=["id"])
def changed(batch: pl.DataFrame): return batch

@silver(mode="merge", keys=["id"])
def latest(task: Task):
    for rows in task.params["yields"]:
        if "state" in rows: task.state["at"] = rows.pop("state")
        yield pl.DataFrame(rows)

silver.sql("totals", "select id % 3 as id, sum(v)::bigint as v from silver.latest group by all",
           mode="merge", keys=["id"])

# ------------------------------------------------------------ programs

SH = ["sh", "-c"]
bronze.command("told", [sys.executable, "-c",
    "import os, sys; [print(n, os.environ['SLUICEGATE_' + n]) for n in ('PARAMS', 'JOB_ID', 'TASK_ID')];"
    "sys.stderr.write('no newline at the end')"])
bronze.command("fails", SH + ["for n in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $n; done; echo why >&2; exit 3"])
bronze.command("dies", SH + ["kill -SEGV $$"])
bronze.command("absent", ["no-such-program-anywhere"])
bronze.command("leaves", SH + ["sleep 600 & echo started"])
bronze.command("tree", SH + ["trap 'echo asked; exit 0' TERM; sleep 600 & echo ready; wait"], cancel=SOON)
DEAF = "trap '' TERM; sh -c \\"trap '' TERM; setsid sleep 600\\" & echo ready; while true; do sleep 1; done"
bronze.command("deaf", SH + [DEAF],
               cancel=CancelPolicy(interrupt_after=0.2, terminate_after=0.4, kill_after=0.6))
bronze.command("again", SH + ["echo try; exit 1"], retries=2)

@bronze(depends_on=["bronze.told"])
def after_told(): return [{"n": 1}]

# ------------------------------------------------------------ inputs

@bronze
def source(task: Task):
    for first in range(0, task.params.get("rows", 10), 100_000):
        yield pa.table({"n": range(first, min(first + 100_000, task.params.get("rows", 10)))})

@silver
def all_kinds(
    a: pl.LazyFrame = table("bronze.source"), b: pl.DataFrame = table("bronze.source"),
    c: pa.Table = table("bronze.source"), d: pa.RecordBatchReader = table("bronze.source"),
    e: duckdb.DuckDBPyRelation = table("bronze.source"), f: pd.DataFrame = table("bronze.source"),
    g: DeltaTable = table("bronze.source"), h=table("bronze.source"),
):
    counts = [a.collect().height, b.height, c.num_rows, d.read_all().num_rows,
              e.count("*").fetchall()[0][0], len(f), g.to_pyarrow_table().num_rows, h.read_all().num_rows]
    return [{"kind": type(one).__name__, "rows": count}
            for one, count in zip((a, b, c, d, e, f, g, h), counts)]
'''


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with Here(tmp_path_factory.mktemp("declaring"), PIPELINES) as service:
        yield service


def rows(here: Here, table: str) -> list[dict[str, Any]]:
    """All rows of a table, in one order."""
    found = Lake(str(here.settings.lake)).load(table).to_pyarrow_table().to_pylist()
    return sorted(found, key=lambda row: json.dumps(row, default=str))


def pages(here: Here) -> list[int]:
    """What `bronze.pages` holds."""
    return sorted(row["page"] for row in rows(here, "bronze.pages"))


def run(here: Here, pipeline: str, **options: Any) -> Any:
    """Run a pipeline to its end and return its task."""
    return here.task(here.run(pipeline, **options))


# ------------------------------------------------------------ state


def test_each_saved_state_is_a_unit_and_the_next_run_goes_on_from_it(here: Here) -> None:
    """That is what `task.state` is for: rows and position are one commit."""
    first = run(here, "bronze.pages")
    assert (first.status, first.stats.rows, first.stats.units) == (TaskStatus.SUCCESS, 3, 3)
    nothing = run(here, "bronze.pages")
    assert (nothing.stats.rows, nothing.stats.units) == (0, 0)
    assert run(here, "bronze.pages", params={"to": 5}).stats.rows == 2
    assert pages(here) == [0, 1, 2, 3, 4]

    job_id = here.start("bronze.pages", params={"to": 20, "hang_after": 8})
    here.said(job_id, "ready")
    here.stop(job_id, "force")
    stopped = here.task(job_id)
    assert (stopped.status, stopped.stats.rows) == (TaskStatus.CANCELLED, 4)
    assert pages(here) == list(range(9))
    assert run(here, "bronze.pages", params={"to": 12}).stats.rows == 3
    assert pages(here) == list(range(12))

    again = run(here, "bronze.pages", params={"to": 4}, full_refresh=True)
    assert (again.stats.rows, again.stats.units) == (4, 1), (
        "it began with an empty state, in one commit"
    )
    assert pages(here) == list(range(4))
    assert run(here, "bronze.pages", params={"to": 5}).stats.rows == 1


def test_units_that_share_a_commit_are_published_while_the_pipeline_waits(here: Here) -> None:
    """A feed can be silent for hours after a burst: what came must be seen, and kept by a stop."""
    job_id = here.start("bronze.burst")
    here.said(job_id, "ready")
    until(lambda: here.task(job_id).stats.rows == 200, "all rows of the burst to be published")
    here.stop(job_id, "force")
    stopped = here.task(job_id)
    assert (stopped.status, stopped.stats.rows) == (TaskStatus.CANCELLED, 200)
    assert stopped.stats.units < 200, "tiny units share commits"
    assert len(rows(here, "bronze.burst")) == 200


def test_rows_belong_to_the_state_that_comes_next(here: Here) -> None:
    """A yield after the state changed ends the unit, its own rows included; what follows is the next one's."""
    failed = run(here, "bronze.nested", params={"fail": True})
    assert (failed.status, failed.stats.rows, failed.stats.units) == (TaskStatus.FAILED, 2, 1)
    assert [row["row"] for row in rows(here, "bronze.nested")] == ["at 0", "before 0"]
    done = run(here, "bronze.nested")
    assert (done.status, done.stats.rows, done.stats.units) == (TaskStatus.SUCCESS, 3, 2)
    kept = ["after 1", "at 0", "at 1", "before 0", "before 1"]
    assert [row["row"] for row in rows(here, "bronze.nested")] == kept


@pytest.mark.parametrize("how", ["killed", "raises", "moved"])
def test_another_attempt_goes_on_from_the_last_unit(here: Here, how: str) -> None:
    """Whatever ended the first: its whole units stay, and no row is there twice."""
    table = Lake(str(here.settings.lake)).path("bronze.ended")
    options = {"params": {"how": how, "table": str(table)}, "full_refresh": False}
    if table.exists():
        shutil.rmtree(table)
    task = run(here, "bronze.ended", **options)
    assert (task.status, task.attempt, task.error) == (TaskStatus.SUCCESS, 2, None)
    assert task.stats.rows == 6, "both attempts count"
    wanted = [*range(6), *([99] if how == "moved" else [])]
    assert sorted(row["page"] for row in rows(here, "bronze.ended")) == wanted


def test_what_is_returned_is_one_unit_with_its_state(here: Here) -> None:
    """Also when there are no rows: the state alone is worth keeping, even before the first row."""
    alone = run(here, "bronze.returned", params={"rows": False})
    assert (alone.status, alone.stats.units, alone.stats.rows) == (TaskStatus.SUCCESS, 1, 0)
    for wanted in (2, 3):
        task = run(here, "bronze.returned")
        assert (task.stats.units, task.stats.rows) == (1, 1)
        assert rows(here, "bronze.returned")[-1] == {"run": wanted}
    run(here, "bronze.returned", params={"rows": False})
    run(here, "bronze.returned")
    assert [row["run"] for row in rows(here, "bronze.returned")] == [2, 3, 5]


def test_a_state_of_a_table_that_is_replaced_each_time_is_refused(here: Here) -> None:
    """It would say that rows were kept which the next run throws away."""
    failed = run(here, "bronze.replaced")
    assert failed.status is TaskStatus.FAILED
    assert "bronze.replaced uses task.state, and its mode is 'overwrite'" in (failed.error or "")
    assert "mode='append'" in (failed.error or "")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("date(2020, 1, 1)", "datetime.date(2020, 1, 1) is of type date"),
        ("[1, {2: 3}]", "its key 2 is no text"),
        ("float('nan')", "nan is no JSON number"),
        ("'x' * 2_000_000", "over the limit"),
    ],
)
def test_a_state_that_cannot_be_kept_names_its_key(here: Here, value: str, told: str) -> None:
    """The units before it are whole, and stay."""
    failed = run(here, "bronze.unkept", params={"value": value}, full_refresh=False)
    assert failed.status is TaskStatus.FAILED
    assert "task.state['when']" in (failed.error or "")
    assert told in (failed.error or "")
    assert failed.stats.rows <= 1


def test_files_keep_a_state_with_their_rows(here: Here) -> None:
    """It is that of the last whole file: a bad file adds neither rows nor state."""
    folder = Path(here.settings.landing) / "days"
    folder.mkdir(parents=True)
    for name, numbers in (("a", [1, 2]), ("b", [3]), ("c", [-1])):
        (folder / f"{name}.csv").write_text("n\n" + "".join(f"{n}\n" for n in numbers))
    failed = run(here, "bronze.days")
    assert (failed.status, failed.stats.rows) == (TaskStatus.FAILED, 3)
    assert "days/c.csv" in (failed.error or "")
    (folder / "c.csv").write_text("n\n4\n5\n6\n")
    assert run(here, "bronze.days").stats.rows == 3
    lake = Lake(str(here.settings.lake))
    content = current_content(lake.path("bronze.days"), lake.load("bronze.days").version())
    assert content.state == {"rows": 6}
    assert set(content.marks) == {"days/a.csv", "days/b.csv", "days/c.csv"}


# ------------------------------------------------------------ merge


def test_a_pipeline_merges_units_whatever_commit_they_share(here: Here) -> None:
    """With states between them rows may come again; within one unit a key that is there twice is an error."""
    one = {"yields": [{"id": [1, 2], "v": [1, 2]}, {"id": [3], "v": [3]}]}
    assert run(here, "silver.latest", params=one).stats.units == 1
    states = {"yields": [{"id": [n % 5], "v": [100 + n], "state": n} for n in range(40)]}
    assert run(here, "silver.latest", params=states).status is TaskStatus.SUCCESS
    wanted = {id_: 135 + id_ for id_ in range(5)}
    assert {row["id"]: row["v"] for row in rows(here, "silver.latest")} == wanted
    assert len(rows(here, "silver.latest")) == 5

    twice = {
        "yields": [
            {"id": [9], "v": [0], "state": "s"},
            {"id": [7], "v": [1]},
            {"id": [7], "v": [2]},
        ]
    }
    failed = run(here, "silver.latest", params=twice)
    assert failed.status is TaskStatus.FAILED
    assert "1 keys are there more than once in one unit: (id=7)" in (failed.error or "")
    assert {row["id"] for row in rows(here, "silver.latest")} == {*range(5), 9}, (
        "the whole unit stays"
    )

    for _ in range(2):
        assert run(here, "silver.totals").status is TaskStatus.SUCCESS
    assert [row["id"] for row in rows(here, "silver.totals")] == [0, 1, 2]
    assert sum(row["v"] for row in rows(here, "silver.totals")) == sum(wanted.values())

    run(here, "silver.latest", params={"yields": [{"id": [1], "v": [1]}]}, full_refresh=True)
    assert rows(here, "silver.latest") == [{"id": 1, "v": 1}]


def test_files_merge_in_their_order_and_a_bad_one_keeps_those_before_it(here: Here) -> None:
    """Each file is a unit of its own, also where several share a commit."""
    folder = Path(here.settings.landing) / "changes"
    folder.mkdir(parents=True)
    (folder / "1.csv").write_text("id,v\na,1\nb,1\n")
    (folder / "2.csv").write_text("id,v\nb,2\nc,2\n")
    (folder / "3.csv").write_text("id,v\nx,3\nx,3\n")
    failed = run(here, "bronze.changed")
    assert failed.status is TaskStatus.FAILED
    assert "(id='x')" in (failed.error or "")
    assert "changes/3.csv" in (failed.error or "")
    assert {r["id"]: r["v"] for r in rows(here, "bronze.changed")} == {"a": 1, "b": 2, "c": 2}
    (folder / "3.csv").write_text("id,v\na,3\n")
    assert run(here, "bronze.changed").stats.rows == 1
    wanted = {"a": 3, "b": 2, "c": 2}
    assert {r["id"]: r["v"] for r in rows(here, "bronze.changed")} == wanted
    again = run(here, "bronze.changed", full_refresh=True)
    assert (again.status, again.stats.units) == (TaskStatus.SUCCESS, 1)
    assert {r["id"]: r["v"] for r in rows(here, "bronze.changed")} == wanted


# ------------------------------------------------------------ programs


def test_a_command_is_told_its_job_and_its_output_is_in_the_logs(here: Here) -> None:
    """It fills no table, and what waits for it runs after it."""
    job_id = here.run("bronze.after_told", "bronze.told", params={"day": "2020-01-01"})
    tasks = here.tasks(job_id)
    assert here.job(job_id).status is JobStatus.SUCCESS
    told = tasks["bronze.told"]
    assert told.completed_at is not None
    assert tasks["bronze.after_told"].started_at >= told.completed_at
    lines = here.lines(job_id)
    assert 'PARAMS {"day": "2020-01-01"}' in lines
    assert f"JOB_ID {job_id}" in lines
    assert f"TASK_ID {told.task_id}" in lines
    assert "no newline at the end" in here.lines(job_id, "stderr")
    assert not Lake(str(here.settings.lake)).path("bronze.told").exists()


@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        (
            "bronze.fails",
            ["'sh' ended with exit code 3", "  line 12", "  why", "in the job's logs"],
        ),
        ("bronze.dies", ["'sh' was ended by SIGSEGV"]),
        ("bronze.absent", ["cannot start 'no-such-program-anywhere'", "install it"]),
    ],
)
def test_a_command_that_fails_says_how_with_its_last_lines(
    here: Here, pipeline: str, told: list[str]
) -> None:
    """Nobody should have to look for the reason."""
    failed = run(here, pipeline)
    assert failed.status is TaskStatus.FAILED
    for part in told:
        assert part in (failed.error or "")
    assert "line 1\n" not in (failed.error or "")


def test_a_command_is_tried_again_and_leaves_nothing_behind(here: Here) -> None:
    """Retries count as for every task; what a program left running is ended with its worker."""
    job_id = here.run("bronze.again")
    assert here.lines(job_id, "stdout") == ["try"] * 3
    assert run(here, "bronze.leaves").status is TaskStatus.SUCCESS
    until(lambda: not _sleeping(here), "what the program left to be ended")


@pytest.mark.parametrize("mode", ["graceful", "force"])
@pytest.mark.parametrize("pipeline", ["bronze.tree", "bronze.deaf"])
def test_a_command_stops_as_a_whole_tree(here: Here, pipeline: str, mode: str) -> None:
    """SIGTERM first, to all of it; then the ladder. When it is recorded as stopped nothing of it is alive."""
    job_id = here.start(pipeline)
    here.said(job_id, "ready")
    assert _sleeping(here)
    job = here.stop(job_id, mode)
    assert not _sleeping(here)
    stopped = here.task(job_id)
    assert (job.status, stopped.status) == (JobStatus.CANCELLED, TaskStatus.CANCELLED)
    assert stopped.stop is not None
    if mode == "force":
        assert stopped.stop.stage == "kill"
    elif pipeline == "bronze.tree":
        assert stopped.stop.stage == "checkpoint"
        assert "asked" in here.lines(job_id)


def _sleeping(here: Here) -> set[Any]:
    """The programs of the commands that are alive."""

    def command(pid: int) -> bytes:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return b""

    return {one for one in here.alive() if command(one.pid).startswith((b"sleep\0", b"sh\0"))}


# ------------------------------------------------------------ inputs


def test_inputs_arrive_in_every_form_that_can_be_declared(here: Here) -> None:
    """In one pipeline, from one table at one version."""
    here.run("bronze.source", params={"rows": 250_000})
    done = run(here, "silver.all_kinds")
    assert done.status is TaskStatus.SUCCESS, done.error
    found = {row["kind"]: row["rows"] for row in rows(here, "silver.all_kinds")}
    assert set(found.values()) == {250_000}
    assert sorted(found) == sorted(
        ["LazyFrame", "DataFrame", "Table", "RecordBatchReader", "DuckDBPyRelation", "DeltaTable"]
    )
