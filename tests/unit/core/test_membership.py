"""Who is alive, by heartbeats that still change: pure, with times given by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sluicegate.core.membership import Membership
from sluicegate.core.ports import Executor

T0 = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = 15.0


def members(lease: float = LEASE, *predecessors: str) -> Membership:
    return Membership("me", lease, predecessors, 0.0)


def beats(**numbers: int) -> list[Executor]:
    """The rows of executors, and this one's own."""
    return [Executor(name, "host", 1, T0, beat) for name, beat in ({"me": 1} | numbers).items()]


def test_it_beats_three_times_a_lease_and_after_a_failure_at_once() -> None:
    """A renewal that failed is worth a second try before two thirds are over."""
    own = members()
    assert own.is_beat_due(0.0)
    own.renewed(0.0)
    assert not own.is_beat_due(4.9)
    assert own.is_beat_due(5.0)
    own.renewed(5.0)
    own.failed()
    assert own.is_beat_due(5.1)


def test_contact_is_lost_after_two_thirds_of_a_lease() -> None:
    """Counted from when the last renewal that succeeded was begun: others may have seen it as early as that."""
    own = members()
    assert not own.has_lost_contact(9.9), "its start counts as a renewal"
    assert own.has_lost_contact(10.0)
    own.renewed(100.0)
    assert not own.has_lost_contact(109.9)
    assert own.has_lost_contact(110.0)
    own.renewed(111.0)
    assert not own.has_lost_contact(112.0)


def test_one_whose_beat_changes_lives_however_long_ago_it_started() -> None:
    own = members()
    for now in range(200):
        assert own.look(beats(other=now // 5), float(now)) == frozenset()
    assert own.others == {"other"}


def test_one_whose_beat_does_not_change_for_a_lease_is_dead() -> None:
    """From when it was seen to change last, by the looker's clock; once."""
    own = members()
    found = [(now, own.look(beats(other=7), float(now))) for now in range(20)]
    assert [now for now, dead in found if dead] == [15]
    assert own.others == frozenset()
    assert own.ended == {"other"}


def test_each_is_judged_by_its_own_beats() -> None:
    """One lives, one is new, and two are found dead, of which one comes back."""
    own = members()
    for now in range(15):
        assert own.look(beats(a=now, b=7, c=7), float(now)) == frozenset()
    assert own.look(beats(a=15, new=3, b=7, c=7), 15.0) == {"b", "c"}
    assert own.others == {"a", "new"}
    assert own.look(beats(a=16, new=3, b=7, c=8), 16.0) == frozenset()
    assert (own.others, own.ended) == ({"a", "new", "c"}, {"b"})


@pytest.mark.parametrize(("lease", "late"), [(15.0, 3.0), (3.0, 1.5)])
def test_who_looks_a_little_late_still_judges(lease: float, late: float) -> None:
    """Up to three rounds: a busy machine must not keep a dead executor's jobs from being taken over."""
    own = members(lease)
    now, found = 0.0, frozenset[str]()
    while not found:
        found = own.look(beats(other=7), now)
        now += late
    assert now - late == lease


def test_a_pause_is_measured_in_rounds_of_this_lease() -> None:
    """With a short one beats come often, and many are missed in two seconds."""
    own = members(3.0)
    own.look(beats(other=7), 0.0)
    assert own.look(beats(other=7), 2.5) == frozenset()
    assert own.look(beats(other=7), 3.1) == frozenset()
    assert own.others == {"other"}


def test_one_that_comes_back_is_alive_again() -> None:
    """It was only out of reach; what was taken from it is not its any more."""
    own = members()
    for now in range(16):
        own.look(beats(other=7), float(now))
    assert own.look(beats(other=8), 16.0) == frozenset()
    assert (own.others, own.ended) == ({"other"}, set())


@pytest.mark.parametrize("pause", [4.0, 60.0, 6000.0])
def test_who_did_not_look_judges_nobody(pause: float) -> None:
    """This process was paused: the other one may have beaten, and been paused with it."""
    own = members()
    own.look(beats(other=7), 0.0)
    own.look(beats(other=7), 1.0)
    assert own.look(beats(other=7), 1.0 + pause) == frozenset()
    assert own.look(beats(other=7), 2.0 + pause) == frozenset()
    now = 2.0 + pause
    while not own.look(beats(other=7), now):
        now += 1.0
        assert now < pause + 20
    assert now - pause >= LEASE


def test_predecessors_have_ended_whatever_their_rows_say() -> None:
    """Their home is held by this process now."""
    own = members(LEASE, "before")
    own.look(beats(before=3), 0.0)
    assert own.ended == {"before"}
    assert own.others == frozenset()
    own.forget("before")
    assert (own.others, own.ended) == (frozenset(), set())
    own.look(beats(), 1.0)
    assert (own.others, own.ended) == (frozenset(), set())


@pytest.mark.parametrize(("lease", "look"), [(15.0, 1.0), (3.0, 0.6), (600.0, 1.0)])
def test_looks_are_often_enough_for_the_two_seconds(lease: float, look: float) -> None:
    """A takeover is at latest a lease and two looks after a death."""
    own = members(lease)
    assert own.look_seconds == look
    assert 2 * own.look_seconds <= 2.0
