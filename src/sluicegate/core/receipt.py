"""The receipt of a stop: built from what stopped, never from what was hoped. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum


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
    ) -> Receipt:
        """Close it: the last task is gone, or cannot be reached (`unconfirmed`)."""
        return replace(
            self,
            stopped_at=now,
            latency_ms=latency_ms(self.requested_at, now),
            not_started=tuple(not_started),
            kept=tuple(kept),
            outcome=outcome,
        )

    @property
    def is_unconfirmed(self) -> bool:
        """Whether a task could not be reached, and nothing was heard of it since."""
        return self.outcome is StopOutcome.UNCONFIRMED and self.confirmed_at is None


def latency_ms(since: datetime, now: datetime) -> float:
    """Milliseconds between two instants, never negative: clocks may lie."""
    return round(max(0.0, (now - since).total_seconds() * 1000), 3)
