"""Records survive the way into a flat dict and back, whatever they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.core.job import (
    ApiKey,
    Event,
    Job,
    JobStatus,
    LogEntry,
    TaskInput,
    TaskProgress,
    TaskRecord,
    TaskStats,
    TaskStatus,
    TaskStop,
)
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.ports import Executor, Writer
from sluicegate.core.receipt import Cause, Kept, Receipt, RemoteStop, StopOutcome, Stopped
from sluicegate.stores import codec

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
# Inside JSON even what no database takes as a text survives.
ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=8)
COUNT = st.integers(0, 2**63 - 1)
NUMBER = st.floats(allow_nan=False)
INSTANT = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3.5))]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBER | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(ANY_TEXT, JSON, max_size=3)
WHERE = st.lists(ANY_TEXT, max_size=3).map(tuple)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def tuples_of(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=3).map(tuple)


RECEIPT = st.builds(
    Receipt,
    requested_at=INSTANT,
    requested_by=ANY_TEXT,
    cause=st.sampled_from(Cause),
    reason=maybe(ANY_TEXT),
    mode=ANY_TEXT,
    escalated_at=maybe(INSTANT),
    stopped_at=maybe(INSTANT),
    latency_ms=maybe(NUMBER),
    not_started=WHERE,
    kept=tuples_of(st.builds(Kept, ANY_TEXT, COUNT, COUNT)),
    stopped=tuples_of(
        st.builds(Stopped, ANY_TEXT, ANY_TEXT, ANY_TEXT, NUMBER, COUNT, WHERE),
    ),
    remote=tuples_of(st.builds(RemoteStop, ANY_TEXT, ANY_TEXT, COUNT)),
    outcome=maybe(st.sampled_from(StopOutcome)),
)
JOB = st.builds(
    Job,
    job_id=TEXT,
    job_name=TEXT,
    status=st.sampled_from(JobStatus),
    created_at=INSTANT,
    total_tasks=COUNT,
    user_id=TEXT,
    trigger=TEXT,
    started_at=maybe(INSTANT),
    completed_at=maybe(INSTANT),
    running_tasks=COUNT,
    completed_tasks=COUNT,
    failed_tasks=COUNT,
    cancelled_tasks=COUNT,
    params=OBJECT,
    labels=st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=3),
    priority=st.integers(-(2**63), 2**63 - 1),
    timeout_seconds=maybe(NUMBER),
    full_refresh=st.booleans(),
    resumed_from=maybe(TEXT),
    resumed_by=maybe(TEXT),
    code_version=maybe(TEXT),
    error=maybe(TEXT),
    cancellation=maybe(RECEIPT),
    idempotency_key=maybe(TEXT),
    executor_id=maybe(TEXT),
    lease=COUNT,
    recoveries=COUNT,
    version=COUNT,
)
TASK = st.builds(
    TaskRecord,
    task_id=TEXT,
    job_id=TEXT,
    pipeline=TEXT,
    status=st.sampled_from(TaskStatus),
    started_at=maybe(INSTANT),
    completed_at=maybe(INSTANT),
    attempt=COUNT,
    epoch=COUNT,
    permits=COUNT,
    retries_used=COUNT,
    message=maybe(TEXT),
    error=maybe(TEXT),
    inputs=tuples_of(st.builds(TaskInput, ANY_TEXT, maybe(COUNT))),
    stats=st.builds(TaskStats, COUNT, COUNT, COUNT, COUNT, maybe(COUNT)),
    progress=maybe(st.builds(TaskProgress, NUMBER, maybe(NUMBER), ANY_TEXT)),
    stop=maybe(
        st.builds(
            TaskStop,
            ANY_TEXT,
            maybe(ANY_TEXT),
            maybe(ANY_TEXT),
            ANY_TEXT,
            INSTANT,
            NUMBER,
            COUNT,
            WHERE,
        )
    ),
)
STEP = st.builds(PlanStep, TEXT, tuples_of(TEXT))
CASES: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "job": (JOB, codec.encode_job, codec.decode_job),
    "task": (TASK, codec.encode_task, codec.decode_task),
    "writer": (
        st.builds(Writer, TEXT, COUNT, maybe(TEXT), maybe(TEXT), COUNT),
        codec.encode_writer,
        codec.decode_writer,
    ),
    "event": (
        st.builds(Event, TEXT, TEXT, INSTANT, maybe(TEXT), OBJECT, COUNT),
        codec.encode_event,
        codec.decode_event,
    ),
    "log": (
        st.builds(LogEntry, TEXT, INSTANT, TEXT, maybe(TEXT), TEXT, TEXT, COUNT),
        codec.encode_log,
        codec.decode_log,
    ),
    "executor": (
        st.builds(Executor, TEXT, TEXT, COUNT, INSTANT, COUNT),
        codec.encode_executor,
        codec.decode_executor,
    ),
    "key": (
        st.builds(ApiKey, TEXT, TEXT, TEXT, INSTANT, maybe(INSTANT)),
        codec.encode_key,
        codec.decode_key,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_record_comes_back_exactly(name: str) -> None:
    """What a store hands out is what was given to it; and a row has scalars only."""
    strategy, encode, decode = CASES[name]

    @settings(max_examples=40, deadline=None)
    @given(strategy)
    def check(record: Any) -> None:
        row = encode(record)
        names = {field.name for field in fields(record)}
        assert {"table" if key == "table_name" else key for key in row} == names
        assert {type(value) for value in row.values()} <= {str, int, float, bool, type(None)}
        assert decode(row) == record

    check()


@settings(max_examples=40, deadline=None)
@given(st.builds(Plan, tuples_of(STEP), st.booleans()))
def test_a_plan_comes_back_exactly(plan: Plan) -> None:
    assert codec.decode_plan(codec.encode_plan(plan)) == plan


@given(INSTANT, INSTANT)
def test_instants_sort_as_their_numbers(one: datetime, other: datetime) -> None:
    """Indexes compare the numbers."""
    assert (one < other) == (codec.encode_instant(one) < codec.encode_instant(other))
    assert codec.decode_instant(codec.encode_instant(one)).tzinfo is UTC


def test_a_naive_datetime_is_no_instant() -> None:
    with pytest.raises(TypeError):
        codec.encode_instant(datetime(2026, 1, 1))


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_becomes_one_that_every_database_holds(text: str) -> None:
    """Output of tasks holds anything; one such line must not fail the write of others."""
    clean = codec.encode_text(text)
    clean.encode("utf-8")
    assert "\0" not in clean
    assert len(clean) == len(text)


@given(st.tuples(ANY_TEXT, ANY_TEXT), st.tuples(ANY_TEXT, ANY_TEXT))
def test_two_labels_never_share_a_term(one: tuple[str, str], other: tuple[str, str]) -> None:
    """`a=b` with value `c` is not `a` with value `b=c`."""
    same = [codec.encode_text(part) for part in one] == [codec.encode_text(p) for p in other]
    assert (codec.label_term(*one) == codec.label_term(*other)) == same


def test_the_terms_of_a_job_are_what_the_history_asks_for() -> None:
    job = Job("j", "n", JobStatus.PENDING, datetime.now(UTC), 2, labels={"team": "core"})
    plan = Plan((PlanStep("bronze.a"), PlanStep("silver.b", ("bronze.a",)), PlanStep("silver.c")))
    assert codec.encode_terms(job, plan) == [
        "user:local",
        "trigger:api",
        "label:team=core",
        "layer:bronze",
        "layer:silver",
        "pipeline:bronze.a",
        "pipeline:silver.b",
        "pipeline:silver.c",
    ]
    assert codec.encode_terms(job, None) == ["user:local", "trigger:api", "label:team=core"]
