"""Declaring: functions and queries become pipelines, or say what is wrong with them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from sluicegate.declare import (
    DeclarationError,
    Pipeline,
    PipelineSpec,
    bronze,
    collecting,
    gold,
    silver,
    table,
)

if TYPE_CHECKING:
    from sluicegate.task import Task


def problems_of(declare: Callable[[], Any]) -> list[str]:
    """Everything that is wrong with a declaration, what and mend of each on one line."""
    with pytest.raises(DeclarationError) as caught:
        declare()
    for problem in caught.value.problems:
        assert problem.mend
        assert problem.file == __file__
        assert problem.line
    return [f"{problem.what} | {problem.mend}" for problem in caught.value.problems]


def test_a_bare_decorator_fills_in_every_default() -> None:
    """What the contract calls the default is what the runtime is told."""

    @bronze
    def flights(task: Task) -> None:
        """All flights."""

    assert isinstance(flights, Pipeline)
    spec = flights.spec
    assert (spec.pipeline_id, spec.layer, spec.name) == ("bronze.flights", "bronze", "flights")
    assert (spec.kind, spec.mode, spec.schema, spec.on_conflict) == (
        "python",
        "overwrite",
        "strict",
        "queue",
    )
    assert (spec.retries, spec.retry_delay_seconds, spec.timeout_seconds) == (0, 0.0, None)
    assert spec.cancel == {"interrupt_after": 5.0, "terminate_after": 10.0, "kill_after": 15.0}
    assert (spec.takes_task, spec.inputs, spec.depends_on) == ("task", (), ())
    assert spec.doc == "All flights."
    assert spec.source.startswith("@bronze\ndef flights(task: Task)")
    assert spec.source_hash == hashlib.sha256(spec.source.encode()).hexdigest()
    assert spec.file == __file__
    assert spec.line == flights.function.__code__.co_firstlineno  # type: ignore[union-attr]


def test_options_arrive_in_seconds_and_plain_values() -> None:
    """The spec crosses processes, so nothing in it may need our classes or another look."""

    @dataclass
    class Policy:
        interrupt_after: str | None = "1s"
        terminate_after: str | None = None
        kill_after: float | None = 2

    @gold(
        name="delays",
        mode="append",
        depends_on=["bronze.a"],
        timeout="10m",
        retries=2,
        retry_delay="500ms",
        cancel=Policy(),  # type: ignore[arg-type]
        schema="evolve",
        stall_timeout="2m",
        on_conflict="cancel_running",
        priority=-3,
        tags=["daily", "slow"],
    )
    def whatever() -> None: ...

    spec = whatever.spec
    assert spec.pipeline_id == "gold.delays"
    assert spec.mode == "append"
    assert spec.depends_on == ("bronze.a",)
    assert (spec.timeout_seconds, spec.retries, spec.retry_delay_seconds) == (600.0, 2, 0.5)
    assert spec.cancel == {"interrupt_after": 1.0, "terminate_after": None, "kill_after": 2.0}
    assert (spec.schema, spec.priority, spec.tags) == ("evolve", -3, ("daily", "slow"))
    assert (spec.stall_timeout_seconds, spec.on_conflict) == (120.0, "cancel_running")


@pytest.mark.parametrize("files", [None, "a/*.csv"])
def test_merging_names_the_keys_that_tell_rows_apart(files: str | None) -> None:
    """With files it is allowed as well: a file then replaces rows of earlier ones."""

    def flights(batch: pl.DataFrame) -> None: ...

    spec = silver(mode="merge", keys=["day", "id", "day"], files=files)(flights).spec  # type: ignore[arg-type]
    assert (spec.mode, spec.keys) == ("merge", ("day", "id"))


def test_a_command_is_a_program_without_a_table() -> None:
    """Its arguments are handed over as they are: no shell reads them."""
    declared = silver.command(
        "models",
        ["dbt", "build"],
        depends_on=["bronze.a"],
        stall_timeout="5m",
        on_conflict="reject",
        retries=1,
    )
    spec = declared.spec
    assert (spec.pipeline_id, spec.kind, spec.command) == (
        "silver.models",
        "command",
        ("dbt", "build"),
    )
    assert (spec.depends_on, spec.inputs, spec.query) == (("bronze.a",), (), None)
    assert (spec.stall_timeout_seconds, spec.on_conflict, spec.retries) == (300.0, "reject", 1)
    assert spec.file == __file__
    other = silver.command("models", ["dbt", "run"]).spec
    assert spec.source_hash != other.source_hash
    with pytest.raises(TypeError, match="command"):
        declared()


@pytest.mark.parametrize("argv", ["dbt build", [], ["dbt", 1], None])
def test_a_command_that_is_no_list_of_texts_is_refused(argv: Any) -> None:
    """A text would have to be split, and nobody knows how."""
    [one] = problems_of(lambda: silver.command("models", argv))
    assert "a command must be a list of texts" in one


@pytest.mark.parametrize("option", ["mode", "keys", "schema", "files"])
def test_a_command_takes_no_option_of_a_table(option: str) -> None:
    """It fills none."""
    [one] = problems_of(lambda: silver.command("models", ["dbt"], **{option: "x"}))  # type: ignore[arg-type]
    assert f"there is no option {option!r}" in one


def test_a_declared_function_is_still_called_as_a_function() -> None:
    """Whoever writes a pipeline should be able to test it without us."""

    @silver
    def doubled(numbers: pl.DataFrame) -> pl.DataFrame:
        return numbers * 2

    assert doubled(pl.DataFrame({"n": [1, 2]}))["n"].to_list() == [2, 4]
    assert doubled.__name__ == "doubled"


def test_each_annotation_chooses_how_the_input_arrives() -> None:
    """The annotations of this file are text: they are looked up, and mean what they mean here."""

    @silver
    def all_of_them(
        a: pl.LazyFrame,
        b: pl.DataFrame,
        c: pa.Table,
        d: pa.RecordBatchReader,
        e: duckdb.DuckDBPyRelation,
        f: pd.DataFrame,
        g: DeltaTable,
        h,  # type: ignore[no-untyped-def]
    ) -> None: ...

    assert [one.kind for one in all_of_them.spec.inputs] == [
        "polars.LazyFrame",
        "polars.DataFrame",
        "pyarrow.Table",
        "pyarrow.RecordBatchReader",
        "duckdb.DuckDBPyRelation",
        "pandas.DataFrame",
        "deltalake.DeltaTable",
        "pyarrow.RecordBatchReader",
    ]


def test_annotations_work_as_classes_too() -> None:
    """Files without the `__future__` import hand over the classes themselves."""

    def written(a, b, c):  # type: ignore[no-untyped-def]
        return None

    written.__annotations__ = {"a": pl.LazyFrame, "b": duckdb.DuckDBPyRelation, "c": "'pa.Table'"}
    kinds = [one.kind for one in silver(written).spec.inputs]
    assert kinds == ["polars.LazyFrame", "duckdb.DuckDBPyRelation", "pyarrow.Table"]


def test_a_name_that_exists_only_for_the_type_checker_is_read_as_text() -> None:
    """`Task` of this very file is imported under TYPE_CHECKING, as many files do."""
    namespace: dict[str, Any] = {"silver": silver}
    code = "def f(a: 'polars.DataFrame', b: 'pd.DataFrame', c: 'LazyFrame', t: 'Task'): ..."
    exec(code, namespace)
    spec = silver(namespace["f"]).spec
    kinds = [one.kind for one in spec.inputs]
    assert kinds == ["polars.DataFrame", "pandas.DataFrame", "polars.LazyFrame"]
    assert spec.takes_task == "t"


def test_inputs_are_tables_by_default_value_or_left_to_their_name() -> None:
    """Only loading knows what else is declared, so names stay open until then."""

    @gold
    def delays(flights: pl.LazyFrame, raw: pl.LazyFrame = table("bronze.flights")) -> None: ...

    assert [(one.parameter, one.table) for one in delays.spec.inputs] == [
        ("flights", None),
        ("raw", "bronze.flights"),
    ]
    assert delays.spec.depends_on == ("bronze.flights",)


def test_with_files_the_first_parameter_receives_rows_and_appending_is_the_default() -> None:
    """The task may come first; it is recognised by its annotation, not its place."""

    @bronze(files="weather/*.csv")
    def weather(
        task: Task, batch: pl.DataFrame, known: pl.DataFrame = table("bronze.known")
    ) -> None: ...

    spec = weather.spec
    assert spec.file_parameter is not None
    assert (spec.file_parameter.parameter, spec.file_parameter.kind) == (
        "batch",
        "polars.DataFrame",
    )
    assert (spec.files, spec.mode, spec.takes_task) == ("weather/*.csv", "append", "task")
    assert [one.parameter for one in spec.inputs] == ["known"]


def test_a_query_finds_its_own_dependencies() -> None:
    """Nobody should write them twice."""
    declared = silver.sql(
        "hourly", "select * from bronze.weather", timeout="1m", depends_on=["bronze.a"]
    )
    spec = declared.spec
    assert (spec.pipeline_id, spec.kind) == ("silver.hourly", "sql")
    assert spec.depends_on == ("bronze.a", "bronze.weather")
    assert [(one.table, one.kind) for one in spec.inputs] == [
        ("bronze.weather", "duckdb.DuckDBPyRelation")
    ]
    assert spec.query == spec.source == "select * from bronze.weather"
    assert spec.file == __file__
    assert spec.line > 0
    with pytest.raises(TypeError, match="SQL"):
        declared()


def test_a_spec_survives_the_way_through_json() -> None:
    """Server and worker must see the same pipeline, to the last field."""

    @bronze(files="a/*.csv", tags=["x"], timeout=5)
    def ingest(
        batch: pa.Table, task: Task, known: pl.LazyFrame = table("bronze.known")
    ) -> None: ...

    merged = silver.sql("q", "from bronze.a", mode="merge", keys=["id"], stall_timeout=3)
    for spec in (ingest.spec, merged.spec, silver.command("c", ["a", "b"]).spec):
        assert PipelineSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
        assert PipelineSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"mode": "merge"}, "keys is missing | name the columns that tell one row from another"),
        ({"mode": "merge", "keys": []}, "keys is missing"),
        ({"mode": "merge", "keys": "id"}, "keys must be a list of texts, got 'id'"),
        ({"keys": ["id"]}, "mode='overwrite' matches no rows by key | write mode='merge'"),
        ({"mode": "append", "keys": ["id"]}, "mode='append' matches no rows by key"),
        ({"files": "a/*.csv", "keys": ["id"]}, "mode='append' matches no rows by key"),
        ({"mode": "replace"}, "there is no mode 'replace' | use one of 'overwrite', 'append'"),
        ({"files": "a/*.csv", "mode": "overwrite"}, "mode='overwrite' would drop the rows"),
        ({"files": "../a.csv"}, "no pattern within the landing zone"),
        ({"files": "/a.csv"}, "no pattern within the landing zone"),
        ({"files": ""}, "no pattern within the landing zone"),
        ({"stall_timeout": 0}, "stall_timeout must be longer than 0 seconds, got 0"),
        ({"stall_timeout": "soon"}, "stall_timeout: not a duration: 'soon'"),
        ({"on_conflict": "wait"}, "there is no on_conflict='wait' | use one of 'queue', 'reject'"),
        ({"schema": "loose"}, "there is no schema='loose' | use one of 'strict', 'evolve'"),
        ({"timeout": "soon"}, "timeout: not a duration: 'soon'"),
        ({"timeout": 0}, "timeout must be longer than 0 seconds, got 0"),
        ({"retry_delay": -1}, "retry_delay: not a duration: -1"),
        ({"retries": -1}, "retries must be a whole number of at least 0, got -1"),
        ({"retries": "2"}, "retries must be a whole number of at least 0, got '2'"),
        ({"priority": 1.5}, "priority must be a whole number, got 1.5"),
        ({"tags": "daily"}, "tags must be a list of texts, got 'daily'"),
        ({"depends_on": "bronze.a"}, "depends_on must be a list of texts, got 'bronze.a'"),
        ({"cancel": "5s"}, "cancel must be a CancelPolicy, got '5s'"),
        ({"retry": 2}, "there is no option 'retry' | did you mean retries?"),
    ],
)
def test_an_option_that_cannot_be_is_refused_never_ignored(
    options: dict[str, Any], what: str
) -> None:
    """An ignored option is a promise that nobody keeps."""

    def pipeline(batch: pl.DataFrame) -> None: ...

    assert any(what in one for one in problems_of(lambda: bronze(**options)(pipeline)))


def test_parameters_that_no_table_can_fill_are_refused() -> None:
    """Each is named, so that a function with many inputs is mended in one go."""

    def f(
        a: int, b: pl.LazyFrame | None, *c: Any, d: str = "x", e: Task, g: Task, h=table("x")
    ): ...  # type: ignore[no-untyped-def]

    found = problems_of(lambda: silver(f))
    for what in (
        "parameter 'a' is annotated 'int'",
        "parameter 'b' is annotated 'pl.LazyFrame | None'",
        "parameter '*c' cannot be given by name",
        "parameter 'd' is annotated 'str'",
        "parameter 'g' is annotated 'Task', a second task",
        "parameter 'h' has a default that names no table: 'x'",
    ):
        assert any(what in one for one in found), (what, found)
    assert len(found) == 6


def test_files_need_a_parameter_for_the_rows() -> None:
    """Otherwise every file would be marked as ingested, and nothing kept of it."""

    def nothing(task: Task) -> None: ...

    def a_table(batch: DeltaTable) -> None: ...

    def known(batch: pl.DataFrame = table("bronze.known")) -> None: ...

    [one] = problems_of(lambda: bronze(files="a.csv")(nothing))
    assert "no parameter receives the rows" in one
    for function in (a_table, known):
        [one] = problems_of(lambda function=function: bronze(files="a.csv")(function))  # type: ignore[misc]
        assert "is declared as a table" in one


def test_only_plain_functions_become_pipelines() -> None:
    """Classes, coroutines and pipelines themselves would fail much later, inside a worker."""

    async def waits() -> None: ...

    @bronze
    def flights() -> None: ...

    assert "async function" in problems_of(lambda: bronze(waits))[0]
    for thing in (int, "flights", flights):
        assert "is no plain function" in problems_of(lambda thing=thing: silver(thing))[0]  # type: ignore[misc, call-overload]


def test_a_bad_query_is_shown_with_its_place() -> None:
    """DuckDB's own words and the line of the declaration, not of our code."""
    [one] = problems_of(lambda: silver.sql("q", "selec 1"))
    assert "syntax error" in one
    [one] = problems_of(lambda: silver.sql("q", "select 1", files="a.csv"))  # type: ignore[call-arg]
    assert "there is no option 'files'" in one


def test_collected_declarations_raise_nothing_and_stay_apart() -> None:
    """One bad pipeline must not hide the next, and a load must not see those of another."""
    with collecting() as first:
        silver.sql("bad", "selec 1")
        silver.sql("good", "select 1")
    with collecting() as second:
        silver.sql("other", "select 1")
    assert [one.spec.name for one in first.pipelines] == ["bad", "good"]
    assert [one.pipeline for one in first.problems] == ["silver.bad"]
    assert [one.spec.name for one in second.pipelines] == ["other"]
    assert not second.problems


def test_declaring_imports_no_dataframe_library() -> None:
    """The server reads declarations all day and must stay light."""
    heavy = (
        "{'polars', 'duckdb', 'pyarrow', 'pandas', 'deltalake', 'numpy', 'sqlalchemy', 'fastapi'}"
    )
    code = (
        "import sys; from sluicegate.declare import bronze\n"
        "@bronze(files='a.csv')\n"
        "def a(batch: 'pl.DataFrame'): ...\n"
        f"sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
