"""The receipt of a stop: built from what stopped, never from what was hoped. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

CLOCKS_AGREE_SECONDS: Final = 1.0


class Cause(StrEnum):
    """Who or what asked for a stop."""

    USER = "user"
    TIMEOUT = "timeout"
    STALL = "stall"
    SUPERSEDED = "superseded"


class StopOutcome(StrEnum):
    """What a stop came to."""

    STOPPED = "stopped"
    FINISHED = "finished"
    UNCONFIRMED = "unconfirmed"


@dataclass(frozen=True, slots=True)
class Kept:
    """A table that holds what the job published: its version and the rows of this job's units."""

    table: str
    version: int
    rows: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """One task that the stop ended. `latency_ms` counts from the request to its last process gone."""

    task_id: str
    pipeline: str
    stage: str
    latency_ms: float
    processes_killed: int = 0
    where: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteStop:
    """Work elsewhere that an `on_cancel` callback was asked to stop."""

    what: str
    outcome: str
    tries: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """The record of one stop. It grows while the job is stopping and is whole when `stopped_at` is set."""

    requested_at: datetime
    requested_by: str
    cause: Cause = Cause.USER
    reason: str | None = None
    mode: str = "graceful"
    escalated_at: datetime | None = None
    stopped_at: datetime | None = None
    latency_ms: float | None = None
    not_started: tuple[str, ...] = ()
    kept: tuple[Kept, ...] = ()
    stopped: tuple[Stopped, ...] = ()
    remote: tuple[RemoteStop, ...] = ()
    outcome: StopOutcome | None = None
    # Of a stop that could not be confirmed in time: when it was at last.
    confirmed_at: datetime | None = None
    # What this platform lacks to end whole trees.
    missing_means: tuple[str, ...] = ()

    def with_stopped(self, stopped: Stopped, remote: Iterable[RemoteStop] = ()) -> Receipt:
        """Add one task that is gone."""
        return replace(self, stopped=(*self.stopped, stopped), remote=(*self.remote, *remote))

    def closed(
        self,
        now: datetime,
        *,
        not_started: Iterable[str],
        kept: Iterable[Kept],
        outcome: StopOutcome,
        lasted_seconds: float | None = None,
    ) -> Receipt:
        """Close it: the last task is gone, or cannot be reached (`unconfirmed`).

        `lasted_seconds`: how long it took by a monotonic clock, where one has seen it.
        """
        return replace(
            self,
            stopped_at=now,
            latency_ms=latency_ms(self.requested_at, now, lasted_seconds),
            not_started=tuple(not_started),
            kept=tuple(kept),
            outcome=outcome,
        )

    @property
    def is_unconfirmed(self) -> bool:
        """Whether a task could not be reached, and nothing was heard of it since."""
        return self.outcome is StopOutcome.UNCONFIRMED and self.confirmed_at is None


def latency_ms(since: datetime, now: datetime, at_least_seconds: float | None = None) -> float:
    """Milliseconds between two instants, never negative: clocks may lie.

    Args:
        at_least_seconds: What a monotonic clock says of most of that time; where the instants differ from it by more
            than a second, one of them was wrong, and this is told instead.
    """
    seconds = (now - since).total_seconds()
    if at_least_seconds is not None and abs(seconds - at_least_seconds) > CLOCKS_AGREE_SECONDS:
        seconds = at_least_seconds
    return round(max(0.0, seconds * 1000), 3)
