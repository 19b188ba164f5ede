"""What ends work elsewhere: called until it has worked, each in its own thread, and told truthfully. No process."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from sluicegate import stop_callbacks
from sluicegate.stop_callbacks import StopCallbacks

Found = tuple[int, str, str, int]
PAUSES = (
    stop_callbacks.FIRST_PAUSE_SECONDS,
    stop_callbacks.PAUSE_SECONDS_MAX,
)  # before a test shortens them


class Told:
    """What the callbacks told the worker. `uninterrupted` is looked at by those who tell."""

    def __init__(self) -> None:
        self.remotes: list[Found] = []
        self.failed: list[str] = []

    def remote(self, number: int, what: str, outcome: str, tries: int) -> None:
        self.remotes.append((number, what, outcome, tries))

    def failed_callback(self, what: str) -> None:
        self.failed.append(what)

    def uninterrupted(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class World:
    """The callbacks of one attempt, a shield set by hand, and whatever hangs let go at the end."""

    def __init__(self) -> None:
        self.told = Told()
        self.shield = 0.0
        self.release = threading.Event()
        self.callbacks = StopCallbacks(self.told, lambda: self.shield)

    def hang(self) -> None:
        """A callback that does not come back."""
        self.release.wait(60)

    def last(self, number: int) -> tuple[str, int]:
        """What was last told of one of them."""
        return [(outcome, tries) for n, _, outcome, tries in self.told.remotes if n == number][-1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Pauses are short, so that a test of many tries takes no time."""
    monkeypatch.setattr(stop_callbacks, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(stop_callbacks, "PAUSE_SECONDS_MAX", 0.01)
    world = World()
    yield world
    world.release.set()
    world.callbacks.give_up()
    world.callbacks.settle(succeeded=False)


def until(fact: Callable[[], object], what: str) -> None:
    """Wait for a fact."""
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.001)


def raising(times: int) -> Callable[[], None]:
    """A callback that raises so many times, and then works."""
    left = iter(range(times))

    def stop() -> None:
        if next(left, None) is not None:
            raise OSError("not reachable")

    return stop


def test_what_is_registered_is_told_before_anything_happens_to_it(world: World) -> None:
    """A force kill calls nothing: the receipt must know all the same what may still run."""
    world.callbacks.add(world.hang, "a query")
    world.callbacks.add(world.hang)
    assert world.told.remotes == [
        (1, "a query", "unconfirmed", 0),
        (2, "World.hang", "unconfirmed", 0),
    ]


@pytest.mark.parametrize(
    ("stop", "name"),
    [
        (functools.partial(raising, 3), "raising"),
        (functools.partial(functools.partial(raising, 3)), "raising"),
        (threading.Event().set, "Event.set"),
        (Told(), "Told"),
    ],
)
def test_a_callback_without_a_name_is_called_by_its_function(
    world: World, stop: Callable[[], object], name: str
) -> None:
    """A line in a receipt must say something, whatever was handed over; and nothing of its values."""
    assert world.callbacks.add(stop).what == name


def test_a_callback_that_returns_is_confirmed(world: World) -> None:
    """One call, one line."""
    called = []
    world.callbacks.add(lambda: called.append(1), "a query")
    world.callbacks.stop()
    world.callbacks.stop()
    world.callbacks.settle(succeeded=False)
    assert called == [1]
    assert world.told.remotes == [(1, "a query", "unconfirmed", 0), (1, "a query", "confirmed", 1)]


def test_a_callback_that_raises_is_called_again_until_it_works(world: World) -> None:
    """The network was gone for a moment. Each try is told, and the same failure logged once."""
    world.callbacks.add(raising(2), "a query")
    world.callbacks.stop()
    world.callbacks.settle(succeeded=False)
    assert [found[2:] for found in world.told.remotes] == [
        ("unconfirmed", 0),
        ("unconfirmed", 1),
        ("unconfirmed", 2),
        ("confirmed", 3),
    ]
    assert world.told.failed == ["a query: OSError('not reachable')"]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_whatever_a_callback_raises_it_has_not_worked(world: World, error: BaseException) -> None:
    """A driver that calls `exit` must not count as one that ended its query."""
    errors = iter([error])

    def stop() -> None:
        for one in errors:
            raise one

    world.callbacks.add(stop)
    world.callbacks.stop()
    world.callbacks.settle(succeeded=False)
    assert world.last(1) == ("confirmed", 2)


def test_an_error_that_cannot_be_shown_is_still_an_error(world: World) -> None:
    """The author's own exception may have a broken `__repr__`."""

    class Broken(Exception):
        def __repr__(self) -> str:
            raise ValueError

    def stop() -> None:
        raise Broken

    world.callbacks.add(stop, "a query")
    world.callbacks.stop()
    until(lambda: world.last(1)[1] >= 2, "a second try")
    assert world.told.failed == ["a query: Broken"]


def test_pauses_grow_to_their_bound(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in trouble is not hammered; one that comes back is reached within two seconds."""
    assert PAUSES == (0.1, 2.0)
    pauses: list[float] = []
    condition = world.callbacks._changed
    wait_for = condition.wait_for

    def noted(predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        pauses.append(timeout or 0.0)
        return wait_for(predicate, timeout)

    monkeypatch.setattr(condition, "wait_for", noted)
    world.callbacks.add(raising(5))
    world.callbacks.stop()
    world.callbacks.settle(succeeded=False)
    assert pauses[:5] == [0.002, 0.004, 0.008, 0.01, 0.01]


def test_one_that_hangs_delays_no_other(world: World) -> None:
    """Each has its own thread, and all are begun at once."""
    world.callbacks.add(world.hang)
    for _ in range(20):
        world.callbacks.add(raising(1))
    world.callbacks.stop()
    until(lambda: all(world.last(n) == ("confirmed", 2) for n in range(2, 22)), "all the others")
    assert world.last(1) == ("unconfirmed", 0)


def test_the_end_waits_for_a_slow_callback(world: World) -> None:
    """The task's own thread is done first; the receipt must not say less than came true."""
    began, ended = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        world.release.wait(60)
        ended.set()

    world.callbacks.add(slow)
    world.callbacks.stop()
    assert began.wait(20)
    threading.Timer(0.05, world.release.set).start()
    world.callbacks.settle(succeeded=False)
    assert ended.is_set()
    assert world.last(1) == ("confirmed", 1)


def test_a_call_that_begins_while_the_end_waits_is_told_at_once(world: World) -> None:
    """Where no interrupt stage follows, the process is ended in the midst of it: nobody could say it later."""
    world.shield = 60.0
    world.callbacks.add(world.hang, "hangs")
    world.callbacks.stop()

    def let_go() -> None:
        world.shield = 0.0
        world.callbacks.look_again()
        until(lambda: world.last(1) == ("unconfirmed", 1), "the call to be told")
        world.callbacks.give_up()

    other = threading.Thread(target=let_go)
    other.start()
    world.callbacks.settle(succeeded=False)
    other.join()
    assert world.last(1) == ("unconfirmed", 1)


def test_the_end_waits_no_longer_once_it_was_given_up(world: World) -> None:
    """The interrupt stage has come: one hangs, one raises for ever, and both are told as what they are."""
    world.callbacks.add(world.hang, "hangs")
    world.callbacks.add(raising(10**9), "raises")
    world.callbacks.stop()
    until(lambda: world.callbacks.hanging(), "a call that hangs")
    world.callbacks.give_up()
    world.callbacks.settle(succeeded=False)
    assert world.last(1) == ("unconfirmed", 1)
    outcome, tries = world.last(2)
    assert outcome == "unconfirmed"
    until(lambda: not _alive("raises"), "the thread that only paused to end")
    assert world.last(2) == (outcome, tries), "after the end it is not called any more"
    assert _alive("hangs")


def _alive(what: str) -> bool:
    return any(thread.name == f"on_cancel {what}" for thread in threading.enumerate())


def test_no_thread_is_left_of_callbacks_that_returned(world: World) -> None:
    """A worker with one thread more than before is taken for dirty, and replaced."""
    for _ in range(50):
        world.callbacks.add(raising(0), "quick")
    world.callbacks.stop()
    world.callbacks.settle(succeeded=False)
    assert not _alive("quick")


def test_what_is_forgotten_is_not_called(world: World) -> None:
    """The query has answered: its connection now does something else."""
    called = []
    with world.callbacks.add(lambda: called.append(1), "a query"):
        pass
    world.callbacks.stop()
    world.callbacks.settle(succeeded=False)
    assert called == []
    assert world.last(1) == ("forgotten", 0)


class Ended(BaseException):
    """As `Cancelled`: what a checkpoint in the block raises."""


def test_a_block_that_the_stop_ended_is_not_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task polls, and its checkpoint is quicker than the call: the work elsewhere must be stopped all the same."""
    called = threading.Event()
    begin = world.callbacks._begin
    late = threading.Timer(0.05, lambda: begin([one]))
    monkeypatch.setattr(world.callbacks, "_begin", lambda some: late.start())
    with pytest.raises(Ended), world.callbacks.add(called.set) as one:  # noqa: PT012
        world.callbacks.stop()
        raise Ended
    assert called.is_set(), "it is waited for: what comes next may be on the same connection"
    world.callbacks.settle(succeeded=False)
    assert world.last(1) == ("confirmed", 1)


def test_a_block_that_the_stop_ended_goes_on_being_tried(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service was not reached at first; the task's own thread has left long ago."""
    monkeypatch.setattr(stop_callbacks, "JOIN_SECONDS", 0.0)
    with pytest.raises(Ended), world.callbacks.add(raising(5)):  # noqa: PT012
        world.callbacks.stop()
        raise Ended
    world.callbacks.settle(succeeded=False)
    assert world.last(1) == ("confirmed", 6)


def test_a_block_that_the_stop_ended_under_a_shield_is_not_waited_for(world: World) -> None:
    """The shield holds the call back, and may itself wait for the end of this very block."""
    called = threading.Event()
    world.shield = 60.0
    began = time.monotonic()
    with pytest.raises(Ended), world.callbacks.add(called.set):  # noqa: PT012
        world.callbacks.stop()
        raise Ended
    assert time.monotonic() - began < stop_callbacks.JOIN_SECONDS
    assert not called.is_set()
    world.shield = 0.0
    world.callbacks.look_again()
    world.callbacks.settle(succeeded=False)
    assert world.last(1) == ("confirmed", 1)


@pytest.mark.parametrize("kind", [{"until_over": True}, {"is_remote": False}])
def test_a_block_whose_work_ends_with_it_is_over_however_it_ends(
    world: World, kind: dict[str, bool]
) -> None:
    """The driver came back, or the program is ended next: no call may hit what follows."""
    world.shield = 60.0  # so that none was made yet
    with pytest.raises(Ended), world.callbacks.add(world.hang, **kind):  # noqa: PT012
        world.callbacks.stop()
        raise Ended
    world.callbacks.settle(succeeded=False)
    assert all(found[2:] in {("unconfirmed", 0), ("forgotten", 0)} for found in world.told.remotes)


def test_a_block_that_fails_without_a_stop_is_forgotten(world: World) -> None:
    """`on_cancel` is for stops: a task that fails cleans up by itself."""
    called = threading.Event()
    with pytest.raises(Ended), world.callbacks.add(called.set):
        raise Ended
    world.callbacks.stop()
    world.callbacks.settle(succeeded=False)
    assert not called.is_set()


def test_forgetting_after_the_stop_ends_the_tries(world: World) -> None:
    """The work is over by itself. That the callback never worked is told nevertheless."""
    forget = world.callbacks.add(raising(10**9))
    world.callbacks.stop()
    until(lambda: world.last(1)[1] >= 2, "a second try")
    forget()
    forget()
    _, tries = world.last(1)
    world.callbacks.settle(succeeded=False)
    assert world.last(1) == ("unconfirmed", tries)


def test_forgetting_waits_for_a_call_that_is_under_way(world: World) -> None:
    """It would hit what comes next on the same connection."""
    began, ended = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        world.release.wait(60)
        ended.set()

    forget = world.callbacks.add(slow)
    world.callbacks.stop()
    assert began.wait(20)
    threading.Timer(0.05, world.release.set).start()
    forget()
    assert ended.is_set()
    assert world.last(1) == ("confirmed", 1)


def test_a_callback_can_forget_itself(world: World) -> None:
    """It must not wait for its own end."""
    world.callbacks.add(lambda: one())
    one = next(iter(world.callbacks._all.values()))
    world.callbacks.stop()
    world.callbacks.settle(succeeded=False)
    assert world.last(1) == ("confirmed", 1)


def test_work_that_never_began_needed_no_stop(world: World) -> None:
    """The stop came between the registration and the query: nothing is anywhere, whatever the callback met."""
    forget = world.callbacks.add(raising(10**9))
    world.callbacks.stop()
    until(lambda: world.last(1)[1] >= 1, "a try")
    forget(began=False)
    assert world.last(1)[0] == "forgotten"


def test_until_over_a_return_is_no_proof(world: World) -> None:
    """An interrupt that comes before the query starts does nothing: only the end of the work tells."""
    called = []
    forget = world.callbacks.add(lambda: called.append(1), until_over=True)
    world.callbacks.stop()
    until(lambda: len(called) >= 3, "a third call")
    assert world.last(1)[0] == "unconfirmed"
    forget()
    assert world.last(1) == ("confirmed", len(called))


def test_until_over_the_end_of_the_tasks_thread_is_proof(world: World) -> None:
    """Whatever it waited for has come back to it."""
    called = threading.Event()
    world.callbacks.add(called.set, until_over=True)
    world.callbacks.stop()
    assert called.wait(20)
    world.callbacks.settle(succeeded=False)
    assert world.last(1)[0] == "confirmed"


def test_until_over_a_call_that_never_worked_is_not_confirmed_by_the_end(world: World) -> None:
    """The line was cut: the driver came back with an error, and the query may still run."""
    world.callbacks.add(raising(10**9), until_over=True)
    world.callbacks.stop()
    until(lambda: world.last(1)[1] >= 2, "a second try")
    threading.Timer(0.05, world.callbacks.give_up).start()
    world.callbacks.settle(succeeded=False)
    assert world.last(1)[0] == "unconfirmed"


def test_a_shield_holds_them_back_until_it_ends(world: World) -> None:
    """An upload is finished first."""
    called = threading.Event()
    world.shield = 60.0
    world.callbacks.add(called.set)
    world.callbacks.stop()
    assert not called.wait(0.05)
    world.shield = 0.0
    world.callbacks.look_again()
    assert called.wait(20)


def test_one_that_comes_after_the_stop_is_called_at_once(world: World) -> None:
    """The query was sent while the stop came: nobody else would end it."""
    world.callbacks.stop()
    world.callbacks.add(raising(1))
    world.callbacks.settle(succeeded=False)
    assert world.last(1) == ("confirmed", 2)


def test_our_own_are_called_and_not_told(world: World) -> None:
    """A query in this very process needs no line in a receipt: its end is the task's."""
    called = threading.Event()
    world.callbacks.add(called.set, is_remote=False, until_over=True)
    world.callbacks.stop()
    assert called.wait(20)
    world.callbacks.settle(succeeded=False)
    assert world.told.remotes == []


@pytest.mark.parametrize(("succeeded", "outcome"), [(True, "forgotten"), (False, "unconfirmed")])
def test_without_a_stop_nothing_is_called(world: World, succeeded: bool, outcome: str) -> None:
    """A task that succeeded is done with what it did elsewhere; of one that failed nobody knows."""
    called = []
    world.callbacks.add(lambda: called.append(1))
    world.callbacks.settle(succeeded=succeeded)
    world.callbacks.stop()
    assert called == []
    assert world.last(1) == (outcome, 0)


def test_where_no_thread_can_be_had_the_stop_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task may have used up all that it is allowed; the thread that hears the executor must live."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    world.callbacks.add(world.hang, "a query")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    world.callbacks.stop()
    world.callbacks.settle(succeeded=False)
    assert world.last(1) == ("unconfirmed", 0)
    assert world.told.failed == ['a query: RuntimeError("can\'t start new thread")']
