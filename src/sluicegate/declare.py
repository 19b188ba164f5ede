"""`bronze`, `silver`, `gold` and `table`: functions, SQL queries and programs become pipelines.

Declaring imports no dataframe library: the server reads every declaration and must stay light.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import update_wrapper
from types import CodeType
from typing import Any, Final, Unpack, overload

from sluicegate.input_kinds import KINDS, TASK, kind_of, shown_annotation
from sluicegate.options import CommandOptions, PipelineOptions, SqlOptions, settle
from sluicegate.problems import DeclarationError, Problem
from sluicegate.queries import QueryError, tables_read
from sluicegate.spec import LAYERS, FileParameter, PipelineSpec, TableInput

__all__ = [
    "DeclarationError",
    "FileParameter",
    "Pipeline",
    "PipelineSpec",
    "TableInput",
    "bronze",
    "gold",
    "silver",
    "table",
]


class Pipeline:
    """A declared pipeline: what is known of it (`spec`), and its function, if it has one.

    Calling it calls the function, so that a pipeline can be tested like any other function.
    """

    def __init__(self, spec: PipelineSpec, function: Callable[..., Any] | None) -> None:
        if function is not None:
            update_wrapper(self, function)
        self.spec, self.function = spec, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, as written, with your own inputs."""
        if self.function is None:
            what = "a SQL pipeline; run its spec.query" if self.spec.query else "a command; run it"
            raise TypeError(f"{self.spec.pipeline_id} is {what} instead")
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Pipeline {self.spec.pipeline_id}>"


@dataclass(frozen=True, slots=True)
class TableReference:
    """What `table()` returns: the default of a parameter that receives this table."""

    pipeline_id: str


def table(pipeline_id: str) -> Any:
    """Name the table that a parameter receives: `raw: pl.LazyFrame = table("bronze.flights")`.

    It is typed as `Any` so that the parameter can be annotated with what arrives.
    """
    return TableReference(pipeline_id)


class Layer:
    """A layer, as a decorator: bare (`@silver`) or with options (`@silver(retries=2)`)."""

    def __init__(self, name: str) -> None:
        self.name = name

    @overload
    def __call__(self, function: Callable[..., Any], /) -> Pipeline: ...

    @overload
    def __call__(
        self, /, **options: Unpack[PipelineOptions]
    ) -> Callable[[Callable[..., Any]], Pipeline]: ...

    def __call__(
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> Pipeline | Callable[[Callable[..., Any]], Pipeline]:
        """Declare the pipeline `<layer>.<name>` that fills the table of that name.

        Raises:
            DeclarationError: it cannot work as declared. While `registry.load` reads a file, the
                problems are gathered instead, and reading goes on.
        """
        if function is None:
            return lambda decorated: _declare_function(self.name, decorated, options)
        return _declare_function(self.name, function, options)

    def sql(self, name: str, query: str, **options: Unpack[SqlOptions]) -> Pipeline:
        """Declare a pipeline whose table is the result of a query, written in DuckDB's SQL.

        The tables that it reads are found in the query, wherever they are written as `layer.name`.
        """
        caller = sys._getframe(1)
        draft = _Draft(f"{self.name}.{name}", caller.f_code.co_filename, caller.f_lineno)
        return _declare_query(draft, query, options)

    def command(
        self, name: str, argv: Sequence[str], **options: Unpack[CommandOptions]
    ) -> Pipeline:
        """Declare a pipeline that is a program; it fills no table, and stops as a whole tree.

        Args:
            argv: The program and its arguments; no shell reads them.
        """
        caller = sys._getframe(1)
        draft = _Draft(f"{self.name}.{name}", caller.f_code.co_filename, caller.f_lineno)
        return _declare_command(draft, argv, options)

    def __repr__(self) -> str:
        return f"<Layer {self.name}>"


bronze: Final = Layer("bronze")
silver: Final = Layer("silver")
gold: Final = Layer("gold")


# --- collecting -------------------------------------------------------------------------------


@dataclass
class Collector:
    """What was declared while a target was loaded, in order, and what was wrong with it."""

    pipelines: list[Pipeline] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


_collector: ContextVar[Collector | None] = ContextVar("sluicegate_collector", default=None)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Gather every declaration made in this block, in this thread, and no other."""
    collector = Collector()
    token = _collector.set(collector)
    try:
        yield collector
    finally:
        _collector.reset(token)


class _Draft:
    """A declaration being read: where it is written, and what was found wrong so far."""

    def __init__(self, pipeline_id: str, file: str, line: int) -> None:
        self.pipeline_id, self.file, self.line = pipeline_id, file, line
        self.problems: list[Problem] = []

    def complain(self, what: str, mend: str) -> None:
        self.problems.append(Problem(what, mend, self.pipeline_id, self.file, self.line))

    def finish(self, function: Callable[..., Any] | None, **fields: Any) -> Pipeline:
        """Hand the pipeline and its problems to the collector; raise where nobody collects."""
        layer, _, name = self.pipeline_id.partition(".")
        source = fields.pop("source")
        spec = PipelineSpec(
            pipeline_id=self.pipeline_id,
            layer=layer,
            name=name,
            file=self.file,
            line=self.line,
            source=source,
            source_hash=hashlib.sha256(source.encode()).hexdigest(),
            **fields,
        )
        pipeline = Pipeline(spec, function)
        collector = _collector.get()
        if collector is not None:
            collector.pipelines.append(pipeline)
            collector.problems.extend(self.problems)
        elif self.problems:
            raise DeclarationError(self.problems)
        return pipeline


# --- functions --------------------------------------------------------------------------------


def _declare_function(
    layer: str, function: Callable[..., Any], options: Mapping[str, Any]
) -> Pipeline:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if not isinstance(code, CodeType) or isinstance(function, Pipeline):
        caller = sys._getframe(2)
        draft = _Draft(f"{layer}.?", caller.f_code.co_filename, caller.f_lineno)
        draft.complain(
            f"{function!r} is no plain function", "decorate a function: @bronze, then def …"
        )
        raise DeclarationError(draft.problems)
    name = options.get("name", function.__name__)
    draft = _Draft(f"{layer}.{name}", code.co_filename, code.co_firstlineno)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        draft.complain("an async function cannot be a pipeline", "write a plain def")
    settled = settle(options, draft.complain)
    parameters = _read_parameters(function, draft, has_files=settled["files"] is not None)
    named = [one.table for one in parameters.inputs if one.table is not None]
    settled["depends_on"] = tuple(dict.fromkeys([*settled["depends_on"], *named]))
    return draft.finish(
        function,
        kind="python",
        inputs=tuple(parameters.inputs),
        file_parameter=parameters.file,
        takes_task=parameters.task,
        doc=inspect.getdoc(function) or "",
        source=_source_of(code),
        **settled,
    )


@dataclass
class _Parameters:
    """What a function asks for."""

    inputs: list[TableInput] = field(default_factory=list)
    file: FileParameter | None = None
    task: str | None = None


def _read_parameters(
    function: Callable[..., Any], draft: _Draft, *, has_files: bool
) -> _Parameters:
    """Sort a function's parameters into the task, the rows of a file, and tables."""
    found = _Parameters()
    namespace = getattr(inspect.unwrap(function), "__globals__", {})
    for parameter in inspect.signature(function).parameters.values():
        name = parameter.name
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            draft.complain(
                f"parameter {str(parameter).split(':')[0]!r} cannot be given by name",
                "give every input a plain parameter of its own",
            )
            continue
        kind = kind_of(parameter.annotation, namespace)
        if kind == TASK and found.task is None:
            found.task = name
        elif kind is None or kind == TASK:
            draft.complain(
                f"parameter {name!r} is annotated {shown_annotation(parameter.annotation)!r}, "
                f"{'a second task' if kind else 'which no input can arrive as'}",
                f"use one of {', '.join(KINDS)}, or Task once",
            )
        elif has_files and found.file is None:
            found.file = _file_parameter(parameter, kind, draft)
        else:
            found.inputs.append(TableInput(name, _table_of(parameter, draft), kind))
    if has_files and found.file is None and not draft.problems:
        draft.complain(
            "files= is given, but no parameter receives the rows",
            "add a first parameter, such as batch: pl.DataFrame",
        )
    return found


def _file_parameter(parameter: inspect.Parameter, kind: str, draft: _Draft) -> FileParameter:
    if kind == "deltalake.DeltaTable" or parameter.default is not parameter.empty:
        draft.complain(
            f"parameter {parameter.name!r} receives the rows of a file, and is declared as a table",
            "make the first parameter a frame without a default, such as batch: pl.DataFrame",
        )
    return FileParameter(parameter.name, kind)


def _table_of(parameter: inspect.Parameter, draft: _Draft) -> str | None:
    """Return the table named by the parameter's default; `None` leaves it to be found by name."""
    default = parameter.default
    if default is parameter.empty:
        return None
    pipeline_id = default.pipeline_id if isinstance(default, TableReference) else None
    if isinstance(pipeline_id, str) and pipeline_id.partition(".")[0] in LAYERS:
        return pipeline_id
    draft.complain(
        f"parameter {parameter.name!r} has a default that names no table: "
        f"{default.pipeline_id if isinstance(default, TableReference) else default!r}",
        'write table("layer.name"), or read settings from task.params',
    )
    return None


def _source_of(code: CodeType) -> str:
    """Return the text of a function with its decorators, or nothing where no file holds it."""
    try:
        return textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError):
        return ""


# --- queries ----------------------------------------------------------------------------------


def _declare_query(draft: _Draft, query: str, options: Mapping[str, Any]) -> Pipeline:
    text = textwrap.dedent(query).strip()
    settled = settle(options, draft.complain, kind="sql")
    try:
        read = tables_read(text)
    except QueryError as error:
        draft.complain(error.what, error.mend)
        read = ()
    settled["depends_on"] = tuple(dict.fromkeys([*settled["depends_on"], *read]))
    inputs = tuple(TableInput(upstream, upstream, "duckdb.DuckDBPyRelation") for upstream in read)
    return draft.finish(None, kind="sql", inputs=inputs, query=text, source=text, **settled)


# --- programs ---------------------------------------------------------------------------------


def _declare_command(draft: _Draft, argv: object, options: Mapping[str, Any]) -> Pipeline:
    settled = settle(options, draft.complain, kind="command")
    command: tuple[str, ...] = ()
    if isinstance(argv, (list, tuple)) and argv and all(isinstance(one, str) for one in argv):
        command = tuple(argv)
    else:
        draft.complain(
            f"a command must be a list of texts, got {argv!r}",
            'write the program and its arguments: ["dbt", "build"]',
        )
    return draft.finish(
        None, kind="command", command=command, source=json.dumps(command), **settled
    )
