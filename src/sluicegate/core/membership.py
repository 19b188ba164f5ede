"""Who of the executors on one store is alive: this one's own heartbeat, and whether those of the others still change.

Time is measured here and on the monotonic clock, so no machine has to believe another one's clock. Pure: no store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sluicegate.core.ports import Executor

BEATS_PER_LEASE: Final = 3
LOOK_SECONDS_MAX: Final = 1.0
LOOKS_PER_LEASE_MIN: Final = 5
# Of the lease: what cannot renew for so long ends its tasks, before others start them anew.
CONTACT_SHARE: Final = 2 / 3
# Who has not looked for so many rounds has missed beats, and may judge nobody by them.
ROUNDS_MISSED_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class _Beat:
    """The last heartbeat that was seen of another executor, and since when it has not changed."""

    number: int
    since: float


class Membership:
    """What one executor knows of itself and of the others. One thread.

    Args:
        lease_seconds: For how long a heartbeat that does not change is believed.
        predecessors: Executors that are known to have ended: they held the same home, and its lock died with them.
        now: By the monotonic clock, as every `now` here.
    """

    def __init__(
        self, own_id: str, lease_seconds: float, predecessors: Collection[str], now: float
    ) -> None:
        self._own_id, self.lease_seconds = own_id, lease_seconds
        self.look_seconds = min(LOOK_SECONDS_MAX, lease_seconds / LOOKS_PER_LEASE_MIN)
        self._renewed_at = self._beat_at = now
        self._is_beat_due = True
        self._looked_at: float | None = None
        self._beats: dict[str, _Beat] = {}
        self.ended: set[str] = set(predecessors)  # found dead, and not forgotten yet

    # ---------------------------------------------------------------- this one

    def is_beat_due(self, now: float) -> bool:
        """Whether it has to renew its lease now; after a failure at each look."""
        return self._is_beat_due or now - self._beat_at >= self.lease_seconds / BEATS_PER_LEASE

    def failed(self) -> None:
        """The store was not reached."""
        self._is_beat_due = True

    def renewed(self, began_at: float) -> None:
        """The lease was renewed, by a write that began at `began_at`."""
        self._renewed_at = self._beat_at = began_at
        self._is_beat_due = False

    def has_lost_contact(self, now: float) -> bool:
        """Whether the lease could not be renewed for two thirds of its time."""
        return now - self._renewed_at >= self.lease_seconds * CONTACT_SHARE

    # ---------------------------------------------------------------- the others

    def look(self, executors: Sequence[Executor], now: float) -> frozenset[str]:
        """Take in the heartbeats as they are stored; return those found dead by it.

        One that is seen for the first time is believed for a whole lease. After a pause of this process nobody is
        judged by what was missed meanwhile.
        """
        last, self._looked_at = self._looked_at, now
        missed = last is not None and now - last > ROUNDS_MISSED_MAX * self.look_seconds
        found: set[str] = set()
        beats: dict[str, _Beat] = {}
        for executor in executors:
            one = executor.executor_id
            if one == self._own_id:
                continue
            known = self._beats.get(one)
            if known is None or known.number != executor.beat or missed:
                beats[one] = _Beat(executor.beat, now)
                if known is not None and known.number != executor.beat:
                    self.ended.discard(one)  # it was only out of reach
                continue
            beats[one] = known
            if one not in self.ended and now - known.since >= self.lease_seconds:
                found.add(one)
        self._beats = beats
        self.ended |= found
        return frozenset(found)

    def forget(self, executor_id: str) -> None:
        """It has nothing left, and its row is gone."""
        self.ended.discard(executor_id)
        self._beats.pop(executor_id, None)

    @property
    def others(self) -> frozenset[str]:
        """The other executors that live, as far as is known."""
        return frozenset(self._beats.keys() - self.ended)
