"""The plan of a job: which pipelines, what each waits for. Fixed when the job is created. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter

from sluicegate.errors import SluicegateError
from sluicegate.spec import LAYERS, PipelineSpec


class PipelineNotFoundError(SluicegateError):
    """A job was asked for a pipeline that is not declared."""

    code = "pipeline_not_found"

    def __init__(self, pipeline: str, known: Iterable[str]) -> None:
        listed = sorted(known)
        shown = ", ".join(listed[:12]) + (" …" if len(listed) > 12 else "")
        super().__init__(
            f"there is no pipeline {pipeline!r}",
            mend=f"declared are: {shown or 'none'}",
        )
        self.pipeline = pipeline


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One pipeline of a plan and the pipelines of the same plan that it waits for."""

    pipeline: str
    depends_on: tuple[str, ...] = ()

    @property
    def layer(self) -> str:
        """The layer of the pipeline."""
        return self.pipeline.partition(".")[0]


@dataclass(frozen=True)
class Plan:
    """The steps of a job, in the order in which they are preferred when several could start.

    With `by_layer`, a layer starts when every step of the layers before it has ended, however it ended.
    """

    steps: tuple[PlanStep, ...] = ()
    by_layer: bool = False

    @cached_property
    def pipelines(self) -> tuple[str, ...]:
        """The pipeline ids in plan order."""
        return tuple(step.pipeline for step in self.steps)

    @cached_property
    def dependents(self) -> Mapping[str, tuple[str, ...]]:
        """For each pipeline of the plan, those that wait for it directly."""
        found: dict[str, list[str]] = {step.pipeline: [] for step in self.steps}
        for step in self.steps:
            for upstream in step.depends_on:
                found[upstream].append(step.pipeline)
        return {pipeline: tuple(after) for pipeline, after in found.items()}

    def downstream(self, pipeline: str) -> set[str]:
        """Everything in the plan that depends on `pipeline`, at any distance."""
        found: set[str] = set()
        queue = [pipeline]
        while queue:
            for after in self.dependents[queue.pop()]:
                if after not in found:
                    found.add(after)
                    queue.append(after)
        return found


def make_plan(
    specs: Mapping[str, PipelineSpec],
    pipelines: Sequence[str] = (),
    *,
    with_dependencies: bool = False,
    layers: Sequence[str] = (),
) -> Plan:
    """Return the plan of a run.

    Without `pipelines` it is the full pipeline, layer after layer, limited to `layers` when given.

    Raises:
        PipelineNotFoundError: one of `pipelines` is not declared; nothing is planned.
    """
    for pipeline in pipelines:
        if pipeline not in specs:
            raise PipelineNotFoundError(pipeline, specs)
    if pipelines:
        chosen = set(pipelines)
        if with_dependencies:
            chosen = _with_upstream(specs, chosen)
    else:
        chosen = {p for p, spec in specs.items() if not layers or spec.layer in layers}
    ordered = _ordered(specs, chosen)
    steps = tuple(
        PlanStep(p, tuple(d for d in specs[p].depends_on if d in chosen)) for p in ordered
    )
    return Plan(steps, by_layer=not pipelines)


def _with_upstream(specs: Mapping[str, PipelineSpec], chosen: set[str]) -> set[str]:
    found, queue = set(chosen), list(chosen)
    while queue:
        for upstream in specs[queue.pop()].depends_on:
            if upstream not in found:
                found.add(upstream)
                queue.append(upstream)
    return found


def _ordered(specs: Mapping[str, PipelineSpec], chosen: set[str]) -> list[str]:
    """Layer by layer, upstream first, then higher priority first, else as declared."""
    rank = {p: (-specs[p].priority, n) for n, p in enumerate(specs)}
    graph = {p: [d for d in specs[p].depends_on if d in chosen] for p in chosen}
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    upstream_first: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=rank.__getitem__)
        upstream_first += ready
        sorter.done(*ready)
    # A stable sort keeps upstream first within a layer; no layer depends on one above it.
    return sorted(upstream_first, key=lambda p: LAYERS.index(specs[p].layer))
