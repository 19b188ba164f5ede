"""The ladder: which stage of a stop is due, as pure functions of elapsed time. No clock, no process."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sluicegate.core.job import StopMode
from sluicegate.durations import Duration, parse_duration


class Stage(StrEnum):
    """A step of the ladder, in the order in which they are climbed."""

    CHECKPOINT = "checkpoint"
    INTERRUPT = "interrupt"
    TERMINATE = "terminate"
    KILL = "kill"


LADDER: Final = tuple(Stage)


@dataclass(frozen=True, slots=True)
class CancelPolicy:
    """When a task that does not stop is pushed harder; seconds or text, counted from the stop. `None` skips."""

    interrupt_after: Duration | None = "5s"
    terminate_after: Duration | None = "10s"
    kill_after: Duration | None = "15s"

    def seconds(self) -> dict[str, float | None]:
        """The same in seconds, by field name; the shape that crosses process borders."""
        return {
            name: None if value is None else parse_duration(value)
            for name in ("interrupt_after", "terminate_after", "kill_after")
            for value in (getattr(self, name),)
        }


DEFAULT_POLICY: Final = CancelPolicy()


def stage_due(
    policy: CancelPolicy, mode: StopMode, elapsed_seconds: float, deferred_seconds: float = 0.0
) -> Stage | None:
    """Return the highest stage that is due.

    Args:
        policy: When each stage begins.
        mode: `force` is at once the last stage; `drain` never reaches any by itself.
        elapsed_seconds: Since the stop was asked for, on a monotonic clock.
        deferred_seconds: For how long a shield has deferred the ladder; it shifts what remains.
    """
    if mode is StopMode.FORCE:
        return Stage.KILL
    if mode is StopMode.DRAIN:
        return None
    due = Stage.CHECKPOINT
    for stage, begins in stage_times(policy):
        if elapsed_seconds >= begins + deferred_seconds:
            due = stage
    return due


def next_stage_in(
    policy: CancelPolicy, mode: StopMode, elapsed_seconds: float, deferred_seconds: float = 0.0
) -> float | None:
    """Seconds until a higher stage is due, or `None` when no stage follows."""
    if mode is not StopMode.GRACEFUL:
        return None
    waits = (begins + deferred_seconds - elapsed_seconds for _, begins in stage_times(policy))
    return min((wait for wait in waits if wait > 0), default=None)


def stage_times(policy: CancelPolicy) -> list[tuple[Stage, float]]:
    """The stages after the checkpoint that this policy has, with their beginnings in seconds, in ladder order."""
    seconds = policy.seconds()
    listed = (
        (Stage.INTERRUPT, seconds["interrupt_after"]),
        (Stage.TERMINATE, seconds["terminate_after"]),
        (Stage.KILL, seconds["kill_after"]),
    )
    return [(stage, begins) for stage, begins in listed if begins is not None]
