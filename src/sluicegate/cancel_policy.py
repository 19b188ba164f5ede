"""When a task that does not stop is pushed harder. Pure; declarations and the ladder both speak of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sluicegate.durations import Duration, parse_duration


@dataclass(frozen=True, slots=True)
class CancelPolicy:
    """When each stage of a stop begins; seconds or text, counted from the stop. `None` skips the stage."""

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
