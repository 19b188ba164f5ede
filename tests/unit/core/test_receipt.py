"""The receipt of a stop: it grows with what stopped, and is closed once."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fakes import T0

from sluicegate.core.receipt import Kept, Receipt, RemoteStop, StopOutcome, Stopped, latency_ms

ONE, TWO = Stopped("t1", "bronze.a", "checkpoint", 3.0), Stopped("t2", "bronze.b", "kill", 15.0, 2)


def test_what_stopped_is_listed_in_the_order_in_which_it_was_gone() -> None:
    """Built from what stopped, never from what was hoped."""
    remote = RemoteStop("query", "confirmed", 1)
    receipt = Receipt(T0, "ann").with_stopped(ONE).with_stopped(TWO, [remote])
    assert (receipt.stopped, receipt.remote) == ((ONE, TWO), (remote,))
    assert (receipt.stopped_at, receipt.outcome, receipt.latency_ms) == (None, None, None)


@pytest.mark.parametrize("outcome", StopOutcome)
def test_closing_says_when_and_what_it_came_to(outcome: StopOutcome) -> None:
    """What was stopped before stays in it."""
    receipt = Receipt(T0, "ann", reason="why").with_stopped(ONE)
    closed = receipt.closed(
        T0 + timedelta(milliseconds=12.5),
        not_started=["gold.a"],
        kept=[Kept("bronze.a", 3, 10)],
        outcome=outcome,
    )
    assert (closed.outcome, closed.latency_ms, closed.stopped) == (outcome, 12.5, (ONE,))
    assert (closed.not_started, closed.kept) == (("gold.a",), (Kept("bronze.a", 3, 10),))
    assert closed.reason == "why"


def test_a_clock_that_ran_backwards_makes_no_negative_latency() -> None:
    """Clocks may lie; a figure below nothing would be a lie of ours."""
    assert latency_ms(T0, T0 - timedelta(hours=1)) == 0.0
    assert latency_ms(T0, T0 + timedelta(microseconds=1234)) == 1.234


@pytest.mark.parametrize(
    ("lasted_seconds", "told_ms"), [(None, 5000.0), (4.0, 5000.0), (3.98765432, 3987.654)]
)
def test_instants_that_differ_by_more_than_a_second_from_what_was_measured_are_not_told(
    lasted_seconds: float | None, told_ms: float
) -> None:
    """One of them was set by a wrong clock. To a microsecond, as all latencies."""
    assert latency_ms(T0, T0 + timedelta(seconds=5), lasted_seconds) == told_ms
