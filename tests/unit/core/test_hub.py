"""Who watches hears of what became durable, for as long as it watches."""

from __future__ import annotations

from fakes import T0

from sluicegate.core.hub import Hub
from sluicegate.core.job import Event


def test_one_who_leaves_takes_nobody_along() -> None:
    """A page that is closed must not silence the pages of others, nor be told any more."""
    hub = Hub()
    one: list[Event] = []
    other: list[Event] = []
    leave = hub.watch(one.extend)
    hub.watch(other.extend)
    first, second = Event("first", "j", T0), Event("second", "j", T0)
    hub.publish([first])
    leave()
    leave()
    hub.publish([second])
    assert (one, other) == ([first], [first, second])
