"""Which pipelines a job is made of, in what order, and what each waits for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from sluicegate.core.plan import PipelineNotFoundError, Plan, PlanStep, make_plan
from sluicegate.spec import PipelineSpec


def specs(**declared: tuple[str, ...]) -> dict[str, PipelineSpec]:
    """Specs by id, in order; `bronze_a` is `bronze.a`."""
    made = {}
    for written, depends_on in declared.items():
        layer, _, name = written.partition("_")
        one = PipelineSpec(f"{layer}.{name}", layer, name, "python", depends_on=depends_on)
        made[one.pipeline_id] = one
    return made


MEDALLION = specs(
    gold_delays=("silver.flights", "silver.weather"),
    silver_flights=("bronze.flights",),
    bronze_flights=(),
    bronze_weather=(),
    silver_weather=("bronze.weather",),
    silver_clean=("silver.flights",),
)


def test_the_full_pipeline_is_all_layer_by_layer() -> None:
    """All of bronze, then all of silver, then all of gold, whatever the order of declaration."""
    plan = make_plan(MEDALLION)
    assert plan.by_layer
    assert [step.layer for step in plan.steps] == ["bronze"] * 2 + ["silver"] * 3 + ["gold"]
    assert plan.pipelines == (
        "bronze.flights",
        "bronze.weather",
        "silver.flights",
        "silver.weather",
        "silver.clean",
        "gold.delays",
    )


def test_layers_limit_the_full_pipeline_and_waits_for_nothing_outside() -> None:
    plan = make_plan(MEDALLION, layers=["silver"])
    assert plan.by_layer
    assert plan.steps == (
        PlanStep("silver.flights"),
        PlanStep("silver.weather"),
        PlanStep("silver.clean", ("silver.flights",)),
    )


def test_a_subset_is_only_what_was_asked_for() -> None:
    """What it depends on is taken as it lies in the lake."""
    plan = make_plan(MEDALLION, ["gold.delays", "silver.flights"])
    assert not plan.by_layer
    assert plan.steps == (
        PlanStep("silver.flights"),
        PlanStep("gold.delays", ("silver.flights",)),
    )


def test_with_dependencies_takes_everything_above_and_nothing_else() -> None:
    plan = make_plan(MEDALLION, ["silver.clean"], with_dependencies=True)
    assert plan.pipelines == ("bronze.flights", "silver.flights", "silver.clean")
    assert not plan.by_layer


def test_a_pipeline_that_was_named_twice_is_in_the_plan_once() -> None:
    assert len(make_plan(MEDALLION, ["silver.flights"] * 2).steps) == 1


def test_an_unknown_pipeline_is_said_with_those_that_are_known() -> None:
    """The mend is the list; a long list is cut."""
    with pytest.raises(PipelineNotFoundError, match=r"no pipeline 'silver.nope'") as caught:
        make_plan(MEDALLION, ["silver.flights", "silver.nope"])
    assert "bronze.flights" in caught.value.mend
    many = specs(**{f"bronze_p{n:02}": () for n in range(20)})
    with pytest.raises(PipelineNotFoundError) as cut:
        make_plan(many, ["x"])
    assert cut.value.mend.endswith("bronze.p11 …")
    with pytest.raises(PipelineNotFoundError, match="none"):
        make_plan({}, ["x"])


def test_nothing_declared_is_an_empty_plan() -> None:
    assert make_plan({}) == Plan((), by_layer=True)


def test_priority_goes_before_declaration_but_never_before_a_dependency() -> None:
    """What is urgent starts first among those that can start."""
    declared = specs(bronze_a=(), bronze_b=("bronze.a",), bronze_c=(), bronze_d=())
    declared["bronze.b"] = replace(declared["bronze.b"], priority=9)
    declared["bronze.d"] = replace(declared["bronze.d"], priority=1)
    assert make_plan(declared).pipelines == ("bronze.d", "bronze.a", "bronze.c", "bronze.b")


def test_downstream_is_everything_below_at_any_distance() -> None:
    """It is what a failure skips."""
    plan = make_plan(MEDALLION)
    assert plan.downstream("bronze.flights") == {"silver.flights", "silver.clean", "gold.delays"}
    assert plan.downstream("bronze.weather") == {"silver.weather", "gold.delays"}
    assert plan.downstream("gold.delays") == set()
    assert plan.dependents["silver.flights"] == ("silver.clean", "gold.delays")


def counted(do: Callable[[], object]) -> int:
    """How many Python functions are called: a measure that does not depend on the machine."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        do()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("shape", ["chain", "fan"])
def test_the_work_grows_with_the_plan_and_no_faster(shape: str) -> None:
    """10,000 pipelines are planned in well under a second; a square would be minutes."""

    def declared(count: int) -> dict[str, PipelineSpec]:
        before = (
            (lambda n: (f"bronze.p{n - 1}",)) if shape == "chain" else (lambda n: ("bronze.p0",))
        )
        return specs(**{f"bronze_p{n}": before(n) if n else () for n in range(count)})

    small, large = declared(1_000), declared(10_000)
    plan = make_plan(large)
    assert len(plan.steps) == 10_000
    assert len(plan.downstream("bronze.p0")) == 9_999
    ratio = counted(lambda: make_plan(large)) / counted(lambda: make_plan(small))
    assert ratio < 15
