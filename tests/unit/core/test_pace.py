"""What a stop would cost, told from the checkpoints that were passed."""

from __future__ import annotations

import pytest

from sluicegate.cancel_policy import DEFAULT_POLICY, CancelPolicy
from sluicegate.core.pace import DELIVERY_SECONDS, NO_OUTLOOK, TOLD_EVERY_SECONDS, Pace

NEVER_PUSHED = CancelPolicy(None, None, None)


def pace(interval: float) -> Pace:
    """A task that passed its last checkpoint at 100 s, as long after the one before; its unit began at 90 s."""
    made = Pace(unit_since=90.0)
    made.passed(100.0, 1.0, interval)
    return made


@pytest.mark.parametrize(
    ("interval", "since_last", "left"),
    [
        (4.0, 1.0, 3.0),  # the moment of the last one is known: what is left of the interval
        (4.0, 4.0, 2.0),  # it lasts longer than the one before: any point of it
        (4.0, 9.0, 2.0),
        (TOLD_EVERY_SECONDS, 0.0, TOLD_EVERY_SECONDS / 2),  # told together: any point of it
        (0.04, 0.01, 0.02),
    ],
)
def test_the_next_checkpoint_is_awaited_from_the_last_where_that_is_known(
    interval: float, since_last: float, left: float
) -> None:
    """A dry run is believed: it must not say twice the time, nor none at all."""
    outlook = pace(interval).outlook(100.0 + since_last, NEVER_PUSHED)
    assert outlook.expected_stop_seconds == pytest.approx(left + DELIVERY_SECONDS)
    assert outlook.lost_work_seconds == pytest.approx(10 + since_last + left + DELIVERY_SECONDS)


def test_the_first_stage_that_pushes_bounds_a_stop_and_its_delivery_is_counted() -> None:
    """Whoever is interrupted ends a delivery after that, not before it."""
    slow = pace(60.0)
    interrupted = slow.outlook(100.0, DEFAULT_POLICY).expected_stop_seconds
    assert interrupted == pytest.approx(5 + DELIVERY_SECONDS, abs=1e-6)
    killed = slow.outlook(100.0, CancelPolicy(None, None, "20s")).expected_stop_seconds
    assert killed == pytest.approx(20 + DELIVERY_SECONDS, abs=1e-6)


def test_nothing_observed_is_nothing_told() -> None:
    """A guess would look like a measurement."""
    assert Pace(unit_since=90.0).outlook(100.0, DEFAULT_POLICY) == NO_OUTLOOK
