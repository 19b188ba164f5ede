"""Climbing the ladder: one `TaskStopping` per task that has to end, driven by a monotonic clock. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from sluicegate.cancel_policy import CancelPolicy
from sluicegate.core.cancellation import LADDER, Stage, next_stage_in, stage_due
from sluicegate.core.job import StopMode
from sluicegate.core.receipt import Cause


@dataclass(slots=True)
class TaskStopping:
    """A task on its way to its end: since when, why, and how far the ladder was climbed.

    `is_own_timeout` tells a task's own timeout (it ends `failed`) from a stop (`cancelled`).
    """

    task_id: str
    since: float
    policy: CancelPolicy
    mode: StopMode
    cause: Cause
    requested_by: str | None = None
    reason: str | None = None
    delivered: Stage | None = None
    where: tuple[str, ...] = ()
    deferred_seconds: float = 0.0
    seen_begin: bool = True  # by this executor: else `since` is when it took the job up
    _shielded_since: float | None = field(default=None)
    _shielded_until: float = 0.0

    @property
    def is_own_timeout(self) -> bool:
        """Whether the attempt ran out of its own time; then it fails and may be retried."""
        return self.cause in (Cause.TIMEOUT, Cause.STALL) and self.requested_by is None

    def due(self, now: float) -> Stage | None:
        """Return the stage to deliver now, or `None` when nothing new is due."""
        if self._is_shielded(now):
            return None
        stage = stage_due(self.policy, self.mode, now - self.since, self.deferred_seconds)
        if stage is None or (
            self.delivered is not None and LADDER.index(stage) <= LADDER.index(self.delivered)
        ):
            return None
        self.delivered = stage
        return stage

    def next_in(self, now: float) -> float | None:
        """Seconds until something can be due, or `None`."""
        if self._is_shielded(now):
            return max(0.0, self._shielded_until - now)
        return next_stage_in(self.policy, self.mode, now - self.since, self.deferred_seconds)

    def shield(self, now: float, until_seconds: float | None) -> None:
        """The task entered a shield that lasts `until_seconds` at most, or left it (`None`).

        Shields nest: entering one, or coming back to an outer one, does not begin the deferral anew.
        """
        if self._shielded_since is not None and now >= self._shielded_until:
            self._unshield(self._shielded_until)
        if until_seconds is None:
            self._unshield(now)
            return
        if self._shielded_since is None:
            self._shielded_since = max(now, self.since)
        self._shielded_until = now + until_seconds

    def _is_shielded(self, now: float) -> bool:
        if self._shielded_since is None or self.mode is StopMode.FORCE:
            return False
        if now >= self._shielded_until:
            self._unshield(self._shielded_until)
            return False
        return True

    def _unshield(self, now: float) -> None:
        if self._shielded_since is not None:
            self.deferred_seconds += max(0.0, now - self._shielded_since)
            self._shielded_since = None
