"""The real time."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """`core.ports.Clock` of this machine."""

    def now(self) -> datetime:
        """The instant, aware, UTC. It may jump."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()
