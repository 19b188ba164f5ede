"""Do these declarations fit together? Names become tables, and everything wrong is listed. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Final

from sluicegate.problems import Problem, shown_place
from sluicegate.spec import LAYERS, PipelineSpec, TableInput

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


def resolve(specs: Iterable[PipelineSpec]) -> list[PipelineSpec]:
    """Return the specs with every input that was left to its name bound to a table.

    A name means the nearest layer below: for gold silver, then bronze; for silver bronze. An input
    whose name is found in none keeps `table=None`, for `check` to report.
    """
    listed = list(specs)
    known = {spec.pipeline_id for spec in listed}
    return [_resolved(spec, known) for spec in listed]


def _resolved(spec: PipelineSpec, known: set[str]) -> PipelineSpec:
    inputs = tuple(
        replace(one, table=one.table or _nearest(spec, one.parameter, known)) for one in spec.inputs
    )
    read = [one.table for one in inputs if one.table is not None]
    return replace(spec, inputs=inputs, depends_on=tuple(dict.fromkeys([*spec.depends_on, *read])))


def _nearest(spec: PipelineSpec, name: str, known: set[str]) -> str | None:
    return next((one for one in _candidates(spec, name) if one in known), None)


def _candidates(spec: PipelineSpec, name: str) -> list[str]:
    """The tables that `name` can mean for this pipeline, nearest first."""
    return [f"{layer}.{name}" for layer in reversed(LAYERS[: LAYERS.index(spec.layer)])]


def check(specs: Sequence[PipelineSpec], *, complete: bool = True) -> list[Problem]:
    """Return everything that is wrong between resolved `specs`; nothing when they can run.

    Args:
        specs: As `resolve` returned them, duplicates included.
        complete: Pass false when some declarations could not be read: then a name that is not
            found is no problem of its own.
    """
    known = {spec.pipeline_id for spec in specs}
    problems = [*_bad_names(specs), *_duplicates(specs)]
    commands = {spec.pipeline_id for spec in specs if spec.kind == "command"}
    for spec in specs:
        problems += _reads_above(spec)
        problems += _reads_commands(spec, commands)
        if complete:
            problems += _unknown_upstreams(spec, known)
            problems += [
                _unknown_parameter(spec, one, known) for one in spec.inputs if one.table is None
            ]
    return problems + _cycles(specs)


def _problem(spec: PipelineSpec, what: str, mend: str) -> Problem:
    return Problem(what, mend, spec.pipeline_id, spec.file, spec.line)


def _bad_names(specs: Sequence[PipelineSpec]) -> Iterator[Problem]:
    for spec in specs:
        if not _NAME.fullmatch(spec.name):
            yield _problem(
                spec,
                f"{spec.name!r} cannot name a table",
                "use lower-case letters, digits and _, beginning with a letter; name=... sets it",
            )


def _duplicates(specs: Sequence[PipelineSpec]) -> Iterator[Problem]:
    first: dict[str, PipelineSpec] = {}
    for spec in specs:
        before = first.setdefault(spec.pipeline_id, spec)
        if before is not spec:
            yield _problem(
                spec,
                f"is declared twice, first at {shown_place(before.file, before.line)}",
                "rename one of them: a table has one pipeline",
            )


def _reads_above(spec: PipelineSpec) -> Iterator[Problem]:
    above = LAYERS[LAYERS.index(spec.layer) + 1 :]
    for upstream in spec.depends_on:
        if upstream.partition(".")[0] in above:
            yield _problem(
                spec,
                f"reads {upstream}, which is in a layer above {spec.layer}",
                f"read from {spec.layer} or below, or move this pipeline up",
            )


def _reads_commands(spec: PipelineSpec, commands: set[str]) -> Iterator[Problem]:
    for one in spec.inputs:
        if one.table in commands:
            yield _problem(
                spec,
                f"reads {one.table}, which is a command and fills no table",
                f'wait for it with depends_on=["{one.table}"], and read what it wrote yourself',
            )


def _unknown_upstreams(spec: PipelineSpec, known: set[str]) -> Iterator[Problem]:
    for upstream in spec.depends_on:
        if upstream not in known:
            yield _problem(
                spec, f"depends on {upstream!r}, which is not declared", _offer(upstream, known)
            )


def _unknown_parameter(spec: PipelineSpec, one: TableInput, known: set[str]) -> Problem:
    tried = _candidates(spec, one.parameter)
    if one.parameter == "task":
        mend = "annotate it, if it is the task: task: Task (from sluicegate import Task)"
    elif not tried:
        mend = 'read files with files="folder/*.csv", or write table("layer.name")'
    else:
        mend = f'{_offer(tried[0], known)}; table("layer.name") names any table'
    found = f"there is no {' or '.join(tried)}" if tried else f"nothing is below {spec.layer}"
    return _problem(spec, f"parameter {one.parameter!r} names no table: {found}", mend)


def _offer(wanted: str, known: set[str]) -> str:
    close = difflib.get_close_matches(wanted, sorted(known), n=1)
    return f"did you mean {close[0]}?" if close else "declare it, or correct the name"


def _cycles(specs: Sequence[PipelineSpec]) -> list[Problem]:
    """Report each cycle once, with its path in the direction of the data."""
    by_id = {spec.pipeline_id: spec for spec in specs}
    graph = {one: set(spec.depends_on) & by_id.keys() for one, spec in by_id.items()}
    problems = []
    for _ in by_id:  # each turn takes one cycle apart
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            path: list[str] = error.args[1]
            spec = by_id[min(path)]
            start = path.index(spec.pipeline_id)
            turned = [*path[start:-1], *path[: start + 1]] if start else path
            problems.append(
                _problem(
                    spec,
                    f"is part of a cycle: {' → '.join(turned)}",
                    "let one of them read something else",
                )
            )
            graph = {one: ups - {path[0]} for one, ups in graph.items() if one != path[0]}
        else:
            break
    return problems
