"""One job in memory: what can start now, what a failure skips, what a restart finds."""

from __future__ import annotations

import random
from typing import Any

from fakes import T0
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.core.job import Job, JobStatus, TaskRecord, TaskStatus
from sluicegate.core.job_run import JobRun
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.spec import LAYERS

A, B, SA, SB, GA = "bronze.a", "bronze.b", "silver.a", "silver.b", "gold.a"
DIAMOND = (PlanStep(A), PlanStep(B), PlanStep(SA, (A,)), PlanStep(SB, (B,)), PlanStep(GA, (SA, SB)))


def run(
    *steps: PlanStep, by_layer: bool = False, records: tuple[TaskRecord, ...] = (), **fields: Any
) -> JobRun:
    job = Job("j", "j", JobStatus.RUNNING, T0, len(steps), **fields)
    return JobRun(job, Plan(steps, by_layer=by_layer), records)


def record(pipeline: str, status: TaskStatus) -> TaskRecord:
    return TaskRecord(f"t-{pipeline}", "j", pipeline, status)


def all_ready(one: JobRun) -> list[str]:
    """Take everything that can start now."""
    taken = []
    while (pipeline := one.take()) is not None:
        taken.append(pipeline)
    return taken


def test_what_is_given_back_twice_is_ready_once() -> None:
    """Its table became free while it was ready: taken and put aside, it must not start behind somebody's back."""
    one = run(PlanStep(A), PlanStep(B))
    assert one.take() == A
    for _ in range(3):
        one.give_back(A)
    assert one.ready_count == 2
    assert one.take() == A
    one.put_aside(A)
    assert all_ready(one) == [B]


def test_what_can_start_is_taken_in_the_order_of_the_plan() -> None:
    one = run(*DIAMOND)
    assert all_ready(one) == [A, B]
    one.end(B, succeeded=True)
    one.end(A, succeeded=True)
    assert all_ready(one) == [SA, SB]
    one.end(SA, succeeded=True)
    assert all_ready(one) == []
    one.end(SB, succeeded=True)
    assert all_ready(one) == [GA]
    assert not one.is_drained
    one.end(GA, succeeded=True)
    assert one.is_drained


def test_a_layer_waits_until_the_one_before_has_ended_however_it_ended() -> None:
    """A failure in bronze must not keep the rest of silver from running."""
    steps = (PlanStep(A), PlanStep(B), PlanStep(SA, (A,)), PlanStep(SB))
    one = run(*steps, by_layer=True)
    assert all_ready(one) == [A, B]
    one.end(A, succeeded=True)
    assert all_ready(one) == []
    one.end(B, succeeded=False)
    assert all_ready(one) == [SA, SB]


def test_a_layer_that_is_skipped_whole_opens_the_next() -> None:
    """Gold that depends on nothing skipped must still run."""
    one = run(PlanStep(A), PlanStep(SA, (A,)), PlanStep(GA), by_layer=True)
    assert all_ready(one) == [A]
    one.end(A, succeeded=False)
    assert all_ready(one) == [GA]


def test_without_layers_nothing_waits_for_strangers() -> None:
    assert all_ready(run(PlanStep(A), PlanStep(GA))) == [A, GA]


def test_a_failure_skips_exactly_what_depends_on_it() -> None:
    one = run(*DIAMOND)
    all_ready(one)
    one.end(A, succeeded=False)
    assert not one.is_drained
    one.end(B, succeeded=True)
    assert all_ready(one) == [SB]
    one.end(SB, succeeded=True)
    assert all_ready(one) == []
    assert one.is_drained


def test_what_is_given_back_can_be_taken_once_again() -> None:
    """A start that was refused, a retry, a turn at a table: given back twice is still one start."""
    one = run(PlanStep(A), PlanStep(B))
    assert one.take() == A
    one.give_back(A)
    one.give_back(A)
    assert all_ready(one) == [A, B]


def test_what_is_put_aside_is_not_taken_and_holds_nothing_up() -> None:
    """It waits for a pause or a table; a stop of the job must not wait with it."""
    one = run(PlanStep(A))
    assert one.take() == A
    one.put_aside(A)
    assert (one.take(), one.is_drained) == (None, False)
    one.job = Job("j", "j", JobStatus.CANCELLED, T0, 1)
    assert one.is_drained
    one.give_back(A)
    assert one.take() == A


def test_what_has_ended_cannot_be_given_back() -> None:
    """A late turn at a table must not run a pipeline twice."""
    one = run(PlanStep(A))
    one.take()
    one.end(A, succeeded=True)
    one.give_back(A)
    assert one.take() is None
    assert one.is_drained


def test_an_end_that_is_told_twice_counts_once() -> None:
    one = run(PlanStep(A), PlanStep(B), PlanStep(SA, (A, B)))
    all_ready(one)
    one.end(A, succeeded=True)
    one.end(A, succeeded=True)
    assert all_ready(one) == []


def test_a_restart_goes_on_from_the_stored_records() -> None:
    """Finished stays finished, failed keeps skipping, pending and unknown can start."""
    stored = (
        record(SA, TaskStatus.FAILED),
        record(A, TaskStatus.SUCCESS),
        record(B, TaskStatus.PENDING),
    )
    one = run(*DIAMOND, records=stored)
    assert all_ready(one) == [B]
    one.end(B, succeeded=True)
    assert all_ready(one) == [SB]
    one.end(SB, succeeded=True)
    assert one.is_drained


def test_a_job_that_takes_no_more_is_drained_once_nothing_runs() -> None:
    one = run(*DIAMOND)
    one.take()
    one.job = Job("j", "j", JobStatus.CANCELLED, T0, 5)
    assert not one.is_drained
    one.end(A, succeeded=True)
    assert one.is_drained


def test_an_empty_plan_is_drained() -> None:
    assert run().is_drained


def test_who_is_served_first() -> None:
    """Higher priority, then the older job."""
    low, high = run(PlanStep(A), priority=0), run(PlanStep(A), priority=5)
    assert high.order < low.order


# ------------------------------------------------------------------ any plan


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A random DAG over the layers; dependencies point to earlier steps."""
    count = draw(st.integers(1, 14))
    layers = sorted(
        draw(st.lists(st.sampled_from(LAYERS), min_size=count, max_size=count)), key=LAYERS.index
    )
    names = [f"{layer}.p{n}" for n, layer in enumerate(layers)]
    steps = []
    for n, name in enumerate(names):
        before = draw(st.sets(st.sampled_from(names[:n]), max_size=3)) if n else set()
        steps.append(PlanStep(name, tuple(sorted(before))))
    return Plan(tuple(steps), by_layer=draw(st.booleans()))


@settings(max_examples=100, deadline=None)
@given(plans(), st.integers(0, 2**32))
def test_every_pipeline_ends_once_or_is_skipped_for_a_reason(plan: Plan, seed: int) -> None:
    """Any plan, order of ends, outcome, restart: nothing starts too early, runs twice or is lost."""
    chance = random.Random(seed)
    job = Job("j", "j", JobStatus.RUNNING, T0, len(plan.steps))
    one = JobRun(job, plan, ())
    depends = {step.pipeline: step.depends_on for step in plan.steps}
    running: list[str] = []
    outcome: dict[str, bool] = {}

    def skipped(pipeline: str) -> bool:
        return any(outcome.get(up) is False or skipped(up) for up in depends[pipeline])

    for _ in range(20 * len(plan.steps)):
        if one.is_drained:
            break
        action = chance.choice(["take", "take", "end", "give back", "restart"])
        if action == "take" and (pipeline := one.take()) is not None:
            assert all(outcome.get(up) is True for up in depends[pipeline])
            if plan.by_layer:
                earlier = LAYERS[: LAYERS.index(pipeline.partition(".")[0])]
                assert all(
                    p in outcome or skipped(p)
                    for p in plan.pipelines
                    if p.partition(".")[0] in earlier
                )
            assert pipeline not in running
            assert pipeline not in outcome
            running.append(pipeline)
        elif action == "give back" and running:
            one.give_back(running.pop(chance.randrange(len(running))))
        elif action == "end" and running:
            pipeline = running.pop(chance.randrange(len(running)))
            outcome[pipeline] = chance.random() < 0.7
            one.end(pipeline, succeeded=outcome[pipeline])
        elif action == "restart":
            ended = [
                record(p, TaskStatus.SUCCESS if good else TaskStatus.FAILED)
                for p, good in outcome.items()
            ]
            waiting = [record(p, TaskStatus.PENDING) for p in running]
            one, running = (
                JobRun(job, plan, chance.sample(ended + waiting, len(ended + waiting))),
                [],
            )
    while not one.is_drained:
        pipeline = running.pop() if running else one.take()
        assert pipeline is not None, "it hangs: nothing runs, nothing can start, something is left"
        outcome[pipeline] = True
        one.end(pipeline, succeeded=True)
    for pipeline in plan.pipelines:
        assert (pipeline in outcome) != skipped(pipeline)
