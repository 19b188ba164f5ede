"""How fast a task passes its checkpoints, and what a stop would therefore cost now. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sluicegate.cancel_policy import CancelPolicy
from sluicegate.core.cancellation import stage_times

TOLD_EVERY_SECONDS: Final = 0.1
"""Checkpoints are told together when they come faster than this; then the moment of the last is not known."""

FADING: Final = 0.7
"""What is left of older intervals when newer ones are told."""

DELIVERY_SECONDS: Final = 0.002
"""From the decision to the flag in the worker, and from its end to the record; measured."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a stop of one running task would cost. Seconds; `None` while nothing was observed."""

    expected_stop_seconds: float | None
    lost_work_seconds: float | None


NO_OUTLOOK: Final = Outlook(None, None)


@dataclass(slots=True)
class Pace:
    """The intervals between a task's checkpoints, on a monotonic clock.

    `unit_since`: when the unit in hand was begun; what was done since then is lost by a stop.
    """

    unit_since: float
    passed_at: float = 0.0
    _seconds: float = 0.0
    _squares: float = 0.0

    def passed(self, now: float, seconds: float, squares: float) -> None:
        """The task passed a checkpoint: the intervals since it last said so, summed, and their squares, summed."""
        self.passed_at = now
        self._seconds = FADING * self._seconds + seconds
        self._squares = FADING * self._squares + squares

    @property
    def interval_seconds(self) -> float | None:
        """The mean interval, each weighed by its length: the one that a stop meets which comes at any moment."""
        return self._squares / self._seconds if self._seconds else None

    def committed(self, now: float) -> None:
        """A unit is in the table: what was done for it is not lost any more."""
        self.unit_since = now

    def outlook(self, now: float, policy: CancelPolicy) -> Outlook:
        """What a graceful stop would cost now."""
        if (interval := self.interval_seconds) is None:
            return NO_OUTLOOK
        stop = DELIVERY_SECONDS + self._to_next_checkpoint(now, interval)
        if (interrupt := next((begins for _, begins in stage_times(policy)), None)) is not None:
            stop = min(stop, interrupt + DELIVERY_SECONDS)
        return Outlook(stop, now - self.unit_since + stop)

    def _to_next_checkpoint(self, now: float, interval: float) -> float:
        since_last = now - self.passed_at
        if interval <= TOLD_EVERY_SECONDS or since_last >= interval:
            # At any point of an interval, or of one that lasts longer than those before it.
            return interval / 2
        return interval - since_last
