"""What can be wrong with pipelines, files and folders: one clear error each, and nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from deltalake import DeltaTable
from support import Here

from sluicegate.app import open_service
from sluicegate.config import Settings
from sluicegate.core.job import JobStatus, TaskStatus
from sluicegate.core.job_manager import NothingToRunError, RunRequest
from sluicegate.errors import SluicegateError
from sluicegate.problems import LoadError

PIPELINES = """
import os, sys
import polars as pl
from sluicegate import Task, bronze, silver, table

@bronze
def good():
    return [{"n": 1}]

@bronze
def bad(task: Task):
    kind = task.params.get("kind", "good")
    if kind == "good": return [{"n": 1, "s": "a"}]
    if kind == "raises": return {}["the key"]
    if kind == "number": return 42
    if kind == "text": return "rows"
    if kind == "object": return object()
    if kind == "list of numbers": return [1, 2]
    if kind == "uneven": return [{"n": 1, "s": "a"}, {"n": "x", "s": 2}]
    if kind == "other column": return [{"n": 1, "t": "a"}]
    if kind == "other type": return [{"n": "one", "s": "a"}]
    if kind == "half then raises": return halves()
    if kind == "no columns": return [{}]
    if kind == "exit": sys.exit("enough")
    if kind == "os._exit": os._exit(7)
    if kind == "deep": return deep(1)
    if kind == "assert": assert False

def halves():
    yield [{"n": 2, "s": "b"}]
    raise RuntimeError("in the middle")

def deep(n): return deep(n + 1)

@bronze(files="in/*.csv")
def files(batch: pl.DataFrame): return batch

@bronze(files="typed_b/*.csv")
def typed_b(batch: pl.DataFrame): return batch.select("n", "s")

@bronze(files="typed_c/*.csv")
def typed_c(batch: pl.DataFrame): return batch

@silver
def unknown_column(good: pl.LazyFrame): return good.select("nothing")

silver.sql("bad_query", "select nothing from bronze.good")

@silver
def follows(bad): return bad

@silver
def orphan(x=table("bronze.never_ran")): return x

@bronze
def never_ran(): return [{"n": 1}]
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """One service."""
    with Here(tmp_path_factory.mktemp("bad"), PIPELINES) as service:
        yield service


def rows(here: Here, table: str) -> list[dict[str, object]]:
    path = here.settings.lake / table.replace(".", "/")
    found: list[dict[str, object]] = DeltaTable(str(path)).to_pyarrow_table().to_pylist()
    return found


def error_of(here: Here, job_id: str, pipeline: str) -> str:
    """The error of a task that must have failed; it is in the job's logs, too."""
    task = here.tasks(job_id)[pipeline]
    assert task.status is TaskStatus.FAILED
    assert task.error
    first = task.error.splitlines()[0]
    assert any(first in line for line in here.lines(job_id, "job"))
    assert "sluicegate/workers" not in task.error
    print(task.error, "\n")
    return task.error


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("raises", ["KeyError", "'the key'", "pipelines.py:", "in bad"]),
        ("number", ["int"]),
        ("text", ["str"]),
        ("object", ["object"]),
        ("list of numbers", ["dict"]),
        ("uneven", ["n"]),
        ("other column", ["t", "s"]),
        ("other type", ["n", "int64", "string"]),
        ("half then raises", ["RuntimeError: in the middle", "in halves"]),
        ("no columns", ["column"]),
        ("exit", ["exit('enough')"]),
        ("os._exit", ["exited with code 7"]),
        ("deep", ["RecursionError"]),
        ("assert", ["AssertionError", "assert False"]),
    ],
)
def test_a_pipeline_that_goes_wrong_fails_alone(here: Here, kind: str, told: list[str]) -> None:
    """The error names what and where; what was published before stays; what depends on it does not run."""
    here.run("bronze.bad")
    job_id = here.run("bronze.good", "silver.follows", "bronze.bad", params={"kind": kind})
    job = here.job(job_id)
    assert job.status is JobStatus.PARTIAL
    assert (job.completed_tasks, job.failed_tasks) == (1, 1)
    error = error_of(here, job_id, "bronze.bad")
    assert [text for text in told if text not in error] == []
    assert "silver.follows" not in here.tasks(job_id)
    assert rows(here, "bronze.bad") == [{"n": 1, "s": "a"}]


@pytest.mark.parametrize(("content", "line"), [("n,s\n1,a\n2,b,c\n", 3), ('n,s\n1,"a\n2,b\n', 2)])
def test_a_malformed_file_is_named_with_its_line(here: Here, content: str, line: int) -> None:
    """The files before it in other units stay; once mended it is ingested."""
    folder = here.settings.landing / "in"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"good{line}{len(content)}.csv").write_text("n,s\n0,z\n")
    here.run("bronze.files")
    before = rows(here, "bronze.files")
    bad = folder / f"worse{line}{len(content)}.csv"
    bad.write_text(content)
    job_id = here.run("bronze.files")
    assert here.job(job_id).status is JobStatus.FAILED
    error = error_of(here, job_id, "bronze.files")
    assert f"in/{bad.name}" in error
    assert str(line) in error
    assert rows(here, "bronze.files") == before
    bad.write_text("n,s\n7,q\n")
    job_id = here.run("bronze.files")
    assert here.job(job_id).status is JobStatus.SUCCESS, here.task(job_id).error
    assert len(rows(here, "bronze.files")) == len(before) + 1


@pytest.mark.parametrize(("name", "content"), [("b.csv", "n;s\n1;a\n"), ("c.csv", "n,s\none,a\n")])
def test_whole_files_before_a_bad_one_are_kept(here: Here, name: str, content: str) -> None:
    """However small they are: one bad file must not hold up all that came before it, run after run."""
    folder = here.settings.landing / f"typed_{name[0]}"
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("n,s\n1,x\n")
    (folder / name).write_text(content)
    job_id = here.run(f"bronze.typed_{name[0]}")
    assert here.job(job_id).status is JobStatus.FAILED
    assert f"typed_{name[0]}/{name}" in error_of(here, job_id, f"bronze.typed_{name[0]}")
    assert rows(here, f"bronze.typed_{name[0]}") == [{"n": 1, "s": "x"}]
    assert here.task(job_id).stats.rows == 1


@pytest.mark.parametrize("pipeline", ["silver.unknown_column", "silver.bad_query"])
def test_an_unknown_column_is_named(here: Here, pipeline: str) -> None:
    """With those that there are, where the engine says them."""
    here.run("bronze.good")
    job_id = here.run(pipeline)
    assert "nothing" in error_of(here, job_id, pipeline)


def test_a_missing_upstream_table_is_named_with_the_mend(here: Here) -> None:
    """It was declared and never ran."""
    job_id = here.run("silver.orphan")
    error = error_of(here, job_id, "silver.orphan")
    assert "bronze.never_ran" in error
    assert len(error.splitlines()) >= 2


def test_an_unknown_pipeline_creates_no_job(here: Here) -> None:
    """The error names those that are near."""
    with pytest.raises(SluicegateError) as caught:
        here.start("bronze.godo")
    assert "bronze.godo" in caught.value.what
    assert "bronze.good" in caught.value.what + caught.value.mend


def test_a_layer_without_pipelines_is_nothing_to_run(here: Here) -> None:
    """That is an error of the request and no job."""
    with pytest.raises(NothingToRunError):
        here.start(layers=("gold",))


def test_an_empty_plan_is_a_success(tmp_path: Path) -> None:
    """Everything of nothing was done."""
    settings = Settings.load({"home": str(tmp_path / "home")}, environ={}, folder=tmp_path)
    with open_service(settings, None) as service:
        job, _ = service.manager.create(RunRequest(), user_id="tester")
        assert service.wait(job.job_id, 20).status is JobStatus.SUCCESS


@pytest.mark.parametrize("what", ["the lake", "a layer", "a table", "a log"])
def test_a_lake_that_cannot_be_written_is_one_clear_error(tmp_path: Path, what: str) -> None:
    """A file stands where a folder should be: permission bits do not bind root."""
    with Here(tmp_path, PIPELINES) as here:
        lake = here.settings.lake
        blocked = {
            "the lake": lake,
            "a layer": lake / "bronze",
            "a table": lake / "bronze" / "good",
            "a log": lake / "bronze" / "good" / "_delta_log",
        }[what]
        blocked.parent.mkdir(parents=True, exist_ok=True)
        blocked.write_text("in the way")
        job_id = here.run("bronze.good")
        assert here.job(job_id).status is JobStatus.FAILED
        error = error_of(here, job_id, "bronze.good")
        what, mend = error.splitlines()
        assert "bronze.good" in what
        assert str(lake) in what
        assert "SLUICEGATE_LAKE" in mend
        blocked.unlink()
        assert here.job(here.run("bronze.good")).status is JobStatus.SUCCESS


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import sys; sys.exit(3)", "exit(3)"),
        ("import os; os._exit(3)", "ended its process"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("def broken(:", "broken"),
        ("1 / 0", "ZeroDivisionError"),
        (
            "from sluicegate import silver\n@silver\ndef a(nothing): return nothing\n",
            "nothing",
        ),
        (
            "from sluicegate import silver, table\n"
            "@silver\ndef a(x=table('silver.b')): return x\n"
            "@silver\ndef b(x=table('silver.a')): return x\n",
            "silver.a",
        ),
    ],
)
def test_pipelines_that_cannot_be_loaded_start_nothing(
    tmp_path: Path, source: str, told: str
) -> None:
    """The error names the file; no process is left."""
    here = Here(tmp_path, source)
    with pytest.raises(LoadError) as caught, here:
        pass
    text = str(caught.value)
    assert told in text
    assert "pipelines.py" in text
    assert here.alive() == set()


def test_code_that_breaks_while_the_server_runs_fails_its_tasks(tmp_path: Path) -> None:
    """New workers load what is there now; a file that cannot be loaded is said, and waits for its mend."""
    with Here(tmp_path, PIPELINES, workers=1) as here:
        here.run("bronze.good")
        here.pipelines.write_text("1 / 0")
        here.run("bronze.bad", params={"kind": "os._exit"})
        job_id = here.run("bronze.good")
        assert "ZeroDivisionError" in error_of(here, job_id, "bronze.good")
        here.pipelines.write_text("import os; os._exit(9)")
        job_id = here.run("bronze.good")
        assert here.task(job_id).status is TaskStatus.FAILED
