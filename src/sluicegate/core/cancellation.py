"""The ladder: which stage of a stop is due, as pure functions of elapsed time. No clock, no process."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sluicegate.cancel_policy import CancelPolicy
from sluicegate.core.job import StopMode


class Stage(StrEnum):
    """A step of the ladder, in the order in which they are climbed."""

    CHECKPOINT = "checkpoint"
    INTERRUPT = "interrupt"
    TERMINATE = "terminate"
    KILL = "kill"


LADDER: Final = tuple(Stage)


def stage_due(
    policy: CancelPolicy, mode: StopMode, elapsed_seconds: float, deferred_seconds: float
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
    policy: CancelPolicy, mode: StopMode, elapsed_seconds: float, deferred_seconds: float
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
