"""Durations as users write them: seconds, or text such as "90s". Pure."""

from __future__ import annotations

import math
import re
from typing import Final

from sluicegate.errors import SluicegateError

Duration = float | int | str

SECONDS_PER_UNIT: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TEXT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.ASCII)


class DurationError(SluicegateError, ValueError):
    """A duration that cannot be read; `value` is what was given."""

    code = "duration_invalid"

    def __init__(self, value: object) -> None:
        super().__init__(
            f"not a duration: {value!r}",
            mend='write seconds (90) or a number with a unit ("500ms", "90s", "10m", "2h", "1d")',
        )
        self.value = value


def parse_duration(value: Duration) -> float:
    """Return `value` in seconds: a number as it is, text by its unit (none means seconds).

    Raises:
        DurationError: it is negative, infinite, or written in another way.
    """
    seconds = math.nan
    if isinstance(value, str):
        if match := _TEXT.fullmatch(value.strip()):
            seconds = float(match[1]) * SECONDS_PER_UNIT[match[2] or "s"]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise DurationError(value)
    return seconds
