"""Token buckets: how many calls for a key, how many failed sign-ins for an address. No clock."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from sluicegate.errors import SluicegateError

SECONDS: Final = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
BUCKETS_KEPT_MAX: Final = 10_000


class InvalidRateLimitError(SluicegateError):
    """A rate limit that cannot be read."""

    code = "invalid_rate_limit"

    def __init__(self, text: str) -> None:
        super().__init__(
            f"RATE_LIMIT cannot be {text!r}",
            mend="write a number and a unit, such as 600/minute: second, minute, hour or day",
        )


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many calls in so many seconds; as many may come at once."""

    calls: int
    per_seconds: float


def parse_rate_limit(text: str) -> RateLimit:
    """Read `600/minute`. Raises: `InvalidRateLimitError`."""
    match = re.fullmatch(r"\s*([1-9][0-9]{0,8})\s*/\s*(second|minute|hour|day)s?\s*", text)
    if match is None:
        raise InvalidRateLimitError(text)
    return RateLimit(int(match[1]), SECONDS[match[2]])


class Buckets:
    """A token bucket for each name, full at first. Thread-safe; the least used are forgotten."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, name: str, now_seconds: float) -> float:
        """Take one token; return 0, or the seconds until there is one when the bucket is empty."""
        per_second = self._limit.calls / self._limit.per_seconds
        with self._lock:
            level, since = self._levels.pop(name, (float(self._limit.calls), now_seconds))
            refilled = level + max(0.0, now_seconds - since) * per_second
            level = min(float(self._limit.calls), refilled)
            wait_seconds = 0.0 if level >= 1 else (1 - level) / per_second
            self._levels[name] = (level if wait_seconds else level - 1, now_seconds)
            while len(self._levels) > BUCKETS_KEPT_MAX:
                self._levels.popitem(last=False)
        return wait_seconds
