"""The ladder: which stage is due when, and one task's way up."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.core.cancellation import (
    LADDER,
    CancelPolicy,
    Stage,
    next_stage_in,
    stage_due,
    stage_times,
)
from sluicegate.core.job import StopMode
from sluicegate.core.receipt import Cause
from sluicegate.core.stops import TaskStopping

POLICY = CancelPolicy()
GRACEFUL, FORCE, DRAIN = StopMode.GRACEFUL, StopMode.FORCE, StopMode.DRAIN
seconds = st.floats(0, 100, allow_nan=False)
policies = st.builds(CancelPolicy, *[st.none() | seconds] * 3)


def stopping(mode: StopMode = GRACEFUL, policy: CancelPolicy = POLICY) -> TaskStopping:
    return TaskStopping("t", 100.0, policy, mode, Cause.USER, "ann")


def climbed(stop: TaskStopping, until: float, step: float = 0.25) -> list[tuple[float, Stage]]:
    """The stages that become due, each with the seconds since the stop."""
    times = [n * step for n in range(int(until / step) + 1)]
    return [(t, stage) for t in times if (stage := stop.due(stop.since + t)) is not None]


# ------------------------------------------------------------------ pure functions of time


@pytest.mark.parametrize(
    ("elapsed", "stage"),
    [
        (0, "checkpoint"),
        (4.9, "checkpoint"),
        (5, "interrupt"),
        (9.9, "interrupt"),
        (10, "terminate"),
        (15, "kill"),
        (1e9, "kill"),
    ],
)
def test_the_default_ladder(elapsed: float, stage: str) -> None:
    """The promise of the contract: 5, 10 and 15 seconds."""
    assert stage_due(POLICY, GRACEFUL, elapsed, 0.0) == stage


@given(policies, seconds, seconds)
def test_force_is_at_once_the_last_stage_and_drain_never_any(
    policy: CancelPolicy, elapsed: float, deferred: float
) -> None:
    """Whatever the policy skips: who says force means it."""
    assert stage_due(policy, FORCE, elapsed, deferred) is Stage.KILL
    assert stage_due(policy, DRAIN, elapsed, deferred) is None
    for mode in (FORCE, DRAIN):
        assert next_stage_in(policy, mode, elapsed, deferred) is None


@given(policies, st.lists(seconds, min_size=2, max_size=2).map(sorted), seconds)
def test_time_never_lowers_the_stage(
    policy: CancelPolicy, times: list[float], deferred: float
) -> None:
    """A ladder is climbed, not descended."""
    first, second = (stage_due(policy, GRACEFUL, t, deferred) for t in times)
    assert first is not None
    assert second is not None
    assert LADDER.index(first) <= LADDER.index(second)


@given(policies, seconds, seconds)
def test_the_next_stage_is_due_when_it_is_said_to_be(
    policy: CancelPolicy, elapsed: float, deferred: float
) -> None:
    """The executor sleeps until then: too late would be a slow stop, too early a busy loop."""
    wait = next_stage_in(policy, GRACEFUL, elapsed, deferred)
    begins = [at + deferred for _, at in stage_times(policy)]
    if wait is None:
        assert all(at <= elapsed for at in begins)
    else:
        assert wait > 0
        assert min(abs(elapsed + wait - at) for at in begins) < 1e-6
        assert not any(elapsed < at < elapsed + wait - 1e-6 for at in begins)


@pytest.mark.parametrize("skipped", list(product([True, False], repeat=3)))
def test_a_stage_that_is_none_is_skipped(skipped: tuple[bool, ...]) -> None:
    """A pipeline may say that it must never be interrupted, or never killed."""
    policy = CancelPolicy(
        *(None if skip else at for skip, at in zip(skipped, ("1s", 2, "3s"), strict=True))
    )
    expected = [Stage.CHECKPOINT] + [
        stage for stage, skip in zip(LADDER[1:], skipped, strict=True) if not skip
    ]
    assert [stage for _, stage in climbed(stopping(policy=policy), 10)] == expected


# ------------------------------------------------------------------ one task's way


def test_each_stage_is_delivered_once_in_order_at_its_time() -> None:
    """A second SIGTERM, or one before the flag, would be another ladder than the documented one."""
    assert climbed(stopping(), 60) == [
        (0, Stage.CHECKPOINT),
        (5, Stage.INTERRUPT),
        (10, Stage.TERMINATE),
        (15, Stage.KILL),
    ]


def test_who_looks_late_delivers_the_highest_stage_alone() -> None:
    """An executor that was paused for long goes on where the ladder is now."""
    stop = stopping()
    assert stop.due(112.0) is Stage.TERMINATE
    assert stop.due(112.0) is None
    assert stop.due(115.0) is Stage.KILL
    assert stop.next_in(115.0) is None


@pytest.mark.parametrize(
    ("since_stop", "wait"), [(0.0, 5.0), (4.5, 0.5), (5.0, 5.0), (12.0, 3.0), (15.0, None)]
)
@pytest.mark.parametrize("deferred", [0.0, 7.0])
def test_who_sleeps_until_the_next_stage_is_told_how_long(
    since_stop: float, wait: float | None, deferred: float
) -> None:
    """Counted from the stop, and moved by what a shield has deferred."""
    stop = stopping()
    stop.shield(100.0, 60.0)
    stop.shield(100.0 + deferred, None)
    assert stop.next_in(100.0 + since_stop + deferred) == wait


@pytest.mark.parametrize("mode", [FORCE, DRAIN])
def test_a_stop_without_later_stages_is_not_waited_for(mode: StopMode) -> None:
    """Force is at its last stage at once, a drain never comes to any."""
    assert stopping(mode).next_in(101.0) is None


def test_a_stop_that_comes_within_a_shield_is_delivered_when_its_time_is_out() -> None:
    """At that very instant: who slept until then must not find that it is not due yet, and spin."""
    stop = stopping()
    stop.shield(90.0, 20.0)
    assert stop.due(109.5) is None
    assert stop.next_in(109.5) == 0.5
    assert stop.due(110.0) is Stage.CHECKPOINT
    assert stop.next_in(110.0) == 5.0
    assert climbed(stop, 30) == [
        (15, Stage.INTERRUPT),
        (20, Stage.TERMINATE),
        (25, Stage.KILL),
    ]


def test_escalation_jumps_to_the_last_stage_and_only_once() -> None:
    """From any stage, shielded or not."""
    for seen in (100.0, 105.0, 111.0):
        stop = stopping()
        stop.due(seen)
        stop.shield(seen, 60.0)
        stop.mode = FORCE
        assert stop.due(seen) is Stage.KILL
        assert stop.due(seen + 100) is None


def test_a_drain_is_pushed_only_by_its_escalation() -> None:
    stop = stopping(DRAIN)
    assert climbed(stop, 100) == []
    assert stop.next_in(200.0) is None
    stop.mode = FORCE
    assert stop.due(200.0) is Stage.KILL


def test_a_shield_defers_what_remains_by_the_time_that_it_lasted() -> None:
    """All times count from the stop; the shield shifts the remaining ones."""
    stop = stopping()
    assert stop.due(100.0) is Stage.CHECKPOINT
    stop.shield(102.0, 60.0)
    assert stop.due(120.0) is None
    assert stop.next_in(120.0) == 42.0
    stop.shield(122.0, None)
    assert climbed(stop, 60) == [
        (25, Stage.INTERRUPT),
        (30, Stage.TERMINATE),
        (35, Stage.KILL),
    ]


@pytest.mark.parametrize("looks", [True, False])
def test_a_shield_ends_with_its_timeout_whoever_looks_when(looks: bool) -> None:
    """It defers for as long as it was allowed to, and not until somebody notices."""
    stop = stopping()
    stop.due(100.0)
    stop.shield(100.0, 10.0)
    if looks:
        assert stop.due(110.0) is None
    stop.shield(130.0, None)
    assert stop.deferred_seconds == 10.0
    assert stop.due(130.0) is Stage.KILL


def test_a_shield_that_began_before_the_stop_defers_from_the_stop_on() -> None:
    """The time before belongs to nobody's ladder."""
    stop = stopping()
    stop.shield(90.0, 20.0)
    stop.shield(108.0, None)
    assert stop.deferred_seconds == 8.0


def test_a_shield_within_a_shield_loses_nothing_of_what_was_deferred() -> None:
    """A worker tells the outer one's rest when the inner one ends: that is no new beginning."""
    stop = stopping()
    stop.due(100.0)
    stop.shield(100.0, 60.0)
    stop.shield(110.0, 5.0)
    stop.shield(112.0, 48.0)
    stop.shield(130.0, None)
    assert stop.deferred_seconds == 30.0
    assert stop.due(134.0) is None
    assert stop.due(135.0) is Stage.INTERRUPT


def test_two_shields_one_after_the_other_add_up() -> None:
    stop = stopping()
    stop.due(100.0)
    stop.shield(101.0, 2.0)  # runs out at 103
    stop.shield(104.0, 2.0)
    stop.shield(105.0, None)
    assert stop.deferred_seconds == 3.0


shield_events = st.lists(
    st.tuples(st.floats(0.1, 8), st.none() | st.floats(0.1, 8), st.booleans()), max_size=25
)


@settings(max_examples=200)
@given(policies, shield_events)
def test_whatever_shields_do_stages_come_once_in_order_and_never_early(
    policy: CancelPolicy, events: list[tuple[float, float | None, bool]]
) -> None:
    """The property behind all of the above; a stage may come late, never before its time."""
    stop, now = stopping(policy=policy), 100.0
    times = dict(stage_times(policy))
    seen: list[Stage] = []
    for passed, until, looks in events:
        stop.shield(now, until)
        now += passed
        if looks and (stage := stop.due(now)) is not None:
            seen.append(stage)
            assert now - stop.since + 1e-9 >= times.get(stage, 0.0) + stop.deferred_seconds
    assert seen == sorted(set(seen), key=LADDER.index)
    assert 0 <= stop.deferred_seconds <= now - stop.since


@pytest.mark.parametrize(
    ("cause", "requested_by", "own"),
    [
        (Cause.TIMEOUT, None, True),
        (Cause.STALL, None, True),
        (Cause.TIMEOUT, "timeout", False),
        (Cause.USER, "ann", False),
        (Cause.SUPERSEDED, None, False),
    ],
)
def test_a_tasks_own_time_is_told_from_a_stop_of_its_job(
    cause: Cause, requested_by: str | None, own: bool
) -> None:
    """The one fails the attempt, the other cancels the task."""
    stop = TaskStopping("t", 0.0, POLICY, GRACEFUL, cause, requested_by)
    assert stop.is_own_timeout is own
