"""Load a file, a folder or a module of pipelines and check it; all problems are told at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sluicegate.checks import check, resolve
from sluicegate.code_version import code_version
from sluicegate.declare import Pipeline, collecting
from sluicegate.importing import import_target
from sluicegate.problems import LoadError, Problem
from sluicegate.spec import PipelineSpec
from sluicegate.targets import TargetNotFoundError, find_target

__all__ = ["LoadError", "Problem", "Registry", "check", "code_version", "load"]


@dataclass(frozen=True, slots=True)
class Registry:
    """The pipelines of one target, checked, by id and in the order in which they were declared."""

    target: str
    pipelines: dict[str, Pipeline]

    def specs(self) -> dict[str, PipelineSpec]:
        """Return the specs by pipeline id, every input bound to its table."""
        return {pipeline_id: one.spec for pipeline_id, one in self.pipelines.items()}


def load(target: str) -> Registry:
    """Import what `target` names, and return the pipelines that it declares.

    A target is a `.py` file, a folder (see `find_target`) or a dotted module. Each load reads the
    files anew and knows nothing of an earlier one; helper modules beside the pipelines can be
    imported from them, now and while they run, until the next load.

    Raises:
        LoadError: with every problem of every file. Nothing is kept of the load.
    """
    target = str(target)
    try:
        found = find_target(target)
    except TargetNotFoundError as error:
        raise LoadError(target, [Problem(error.what, error.mend)]) from None
    with collecting() as collector:
        unread = import_target(found)
    pipelines = _once(collector.pipelines)
    specs = resolve([one.spec for one in pipelines])
    problems = [*unread, *collector.problems, *check(specs, complete=not unread)]
    if not pipelines and not problems:
        what = f"no pipelines are declared in {target!r}"
        problems.append(Problem(what, "declare some with @bronze, @silver or @gold"))
    if problems:
        raise LoadError(target, sorted(problems, key=lambda one: (one.file or "", one.line or 0)))
    return Registry(
        target,
        {
            spec.pipeline_id: Pipeline(spec, one.function)
            for spec, one in zip(specs, pipelines, strict=True)
        },
    )


def _once(pipelines: Iterable[Pipeline]) -> list[Pipeline]:
    """Drop what is there again only because its file was imported under a second name."""
    first: dict[tuple[str, str, int], str | None] = {}
    kept = []
    for one in pipelines:
        module = getattr(one.function, "__module__", None)
        place = (one.spec.pipeline_id, one.spec.file, one.spec.line)
        if first.setdefault(place, module) == module:
            kept.append(one)
    return kept
