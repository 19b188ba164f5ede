"""What `on_cancel` registers: functions that end work elsewhere, each in a thread of its own, until it has worked.

A function is called when the stop comes, and again after a pause while it raises. Whether the work elsewhere ended is
told after each try. Knows threads and the runtime, and nothing of tables or processes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Protocol, Self

FIRST_PAUSE_SECONDS: Final = 0.1
PAUSE_SECONDS_MAX: Final = 2.0
JOIN_SECONDS: Final = 2.0
# The end of a shield is told; an interrupt at that very moment can keep it from being told.
SHIELD_LOOK_SECONDS: Final = 0.25
WHAT_CHARS_MAX: Final = 200


class Reporter(Protocol):
    """What the callbacks ask of the worker that runs the task."""

    def remote(self, number: int, what: str, outcome: str, tries: int) -> None:
        """Tell what is known of work elsewhere: it was registered, or it was tried to end it."""
        ...

    def failed_callback(self, what: str) -> None:
        """Say that a callback raised."""
        ...

    def uninterrupted(self) -> AbstractContextManager[None]:
        """A stretch in which no stop is raised in the task's own thread: a lock must not be left taken."""
        ...


class StopCallback:
    """One registered function. Call this, or reach the end of its `with` block, when the work it would stop is over.

    Then it is not called any more. A call that is under way is waited for, two seconds at most, so that it does not
    hit what comes next on the same connection. A block that the stop itself ends says nothing of the work: see `leave`.
    """

    def __init__(
        self,
        callbacks: StopCallbacks,
        number: int,
        stop: Callable[[], object],
        what: str,
        *,
        is_remote: bool,
        until_over: bool,
    ) -> None:
        self._callbacks, self.number, self.stop, self.what = callbacks, number, stop, what
        self.is_remote, self.until_over = is_remote, until_over
        self.tries = 0
        self.calling = False
        self.has_returned = False  # some try did
        self.over = False  # the work is: nothing is left to be stopped
        self.began = True
        self.finished = False
        self._at_work = threading.Lock()  # held until it has finished
        self._at_work.acquire()
        self.thread: threading.Thread | None = None
        self.telling = threading.Lock()
        self.told: tuple[str, int] | None = None

    def __call__(self, *, began: bool = True) -> None:
        """Forget it: the work is over; or it never began."""
        self._callbacks.forget(self, began=began)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self()
        else:
            self._callbacks.leave(self)

    def wait(self, seconds: float) -> None:
        """Wait until its thread has nothing more to do. An interrupt in the midst of this leaves nothing half-taken."""
        if self._at_work.acquire(timeout=seconds):
            self._at_work.release()

    def finish(self) -> None:
        """Its thread has nothing more to do."""
        self.finished = True
        self._at_work.release()

    @property
    def outcome(self) -> str:
        """What the receipt may say of it now; never more than is known."""
        if self.over and (not self.began or not self.tries):
            return "forgotten"
        if self.has_returned and (self.over or not self.until_over):
            return "confirmed"
        return "unconfirmed"

    @property
    def is_told(self) -> bool:
        """Whether the executor has heard how it stands."""
        return not self.is_remote or self.told == (self.outcome, self.tries)


class StopCallbacks:
    """All of one attempt. `add` and `forget` may be called from any thread.

    Args:
        held_back: For how many seconds more a shield holds back a stop; 0 without one.
    """

    def __init__(self, runtime: Reporter, held_back: Callable[[], float]) -> None:
        self._runtime, self._held_back = runtime, held_back
        self._changed = threading.Condition()
        self._all: dict[int, StopCallback] = {}
        self._count = 0
        self.stopping = False  # the one flag that a stop of the task was asked for
        self._given_up = False
        self._closed = False

    def add(
        self,
        stop: Callable[[], object],
        what: str | None = None,
        *,
        is_remote: bool = True,
        until_over: bool = False,
    ) -> StopCallback:
        """Have `stop` called once a stop comes; at once when it has come already.

        Args:
            what: Its name in the receipt.
            is_remote: Whether it is told: work in this very process and below it needs no line in a receipt.
            until_over: Its return is no proof (an `interrupt` that comes before the query does nothing): it is called
                again, with pauses, until it is forgotten or the task's own thread is done.
        """
        with self._runtime.uninterrupted():
            with self._changed:
                self._count += 1
                name = (what or _name(stop))[:WHAT_CHARS_MAX]
                one = StopCallback(
                    self, self._count, stop, name, is_remote=is_remote, until_over=until_over
                )
                if self._closed:
                    return one
                self._all[one.number] = one
                begins = self.stopping
            self._tell(one)
            if begins:
                self._begin([one])
        return one

    def forget(self, one: StopCallback, *, began: bool = True) -> None:
        """Call it no more: the work that it would stop is over, or never began."""
        with self._runtime.uninterrupted():
            with self._changed:
                if one.over:
                    return
                one.over, one.began = True, began
                if not self.stopping:
                    self._all.pop(one.number, None)
                self._changed.notify_all()
            self._tell(one)
        if one.thread is not None and one.thread is not threading.current_thread():
            one.thread.join(JOIN_SECONDS)

    def leave(self, one: StopCallback) -> None:
        """Its block was left by an exception. Once the stop has come that proves nothing: the work may run on.

        A checkpoint in the block is often quicker than the thread that makes the call. So it is not forgotten, and is
        waited for, two seconds at most; then it goes on beside whatever the task cleans up. Without a stop, and where
        the work is over when the block is, it is forgotten.
        """
        if not self.stopping or one.until_over or not one.is_remote:
            self.forget(one)
        elif not self._held_back() and one.thread is not threading.current_thread():
            one.wait(JOIN_SECONDS)

    def stop(self) -> None:
        """The stop has come: call them all, each in a thread of its own, so that none waits for another."""
        with self._changed:
            if self.stopping:
                return
            self.stopping = True
            waiting = [] if self._closed else list(self._all.values())
        self._begin(waiting)

    def look_again(self) -> None:
        """A shield has ended: those that it held back go on."""
        with self._runtime.uninterrupted(), self._changed:
            self._changed.notify_all()

    def settle(self, *, succeeded: bool) -> None:
        """The task's own thread is done: wait until every callback has worked, or `give_up` is called.

        Without a stop nothing is called; what a task that succeeded did not forget is over nevertheless.
        """
        with self._changed:
            left = list(self._all.values())
            for one in left:
                if self.stopping:
                    # Whatever the task's thread waited for has come back to it.
                    one.until_over = False
                    one.over = one.over or not one.is_remote
                else:
                    one.over = succeeded
            self._closed = not self.stopping
            self._changed.notify_all()
        while not self._is_settled(left):
            for one in left:
                # Also that a call has begun: should it hang, nobody else would say so.
                self._tell(one)
        for one in left:
            if one.thread is not None and not one.calling:
                one.thread.join(JOIN_SECONDS)  # else its worker would be taken for dirty
            self._tell(one)

    def _is_settled(self, left: list[StopCallback]) -> bool:
        """Wait until something has to be told, or nothing has to be waited for: then it is closed."""
        with self._changed:
            while not (self._closed or self._given_up or all(one.finished for one in left)):
                if not all(one.is_told for one in left):
                    return False
                self._changed.wait()
            self._closed = True
            self._changed.notify_all()
        return True

    def give_up(self) -> None:
        """Wait no longer once the task's own thread is done; tell of those that hang in their call."""
        with self._changed:
            self._given_up = True
            hanging = [one for one in self._all.values() if one.calling]
            self._changed.notify_all()
        for one in hanging:
            self._tell(one)

    def hanging(self) -> list[int]:
        """The threads of the callbacks that are in their call now."""
        with self._changed:
            threads = [one.thread for one in self._all.values() if one.calling]
        return [thread.ident for thread in threads if thread is not None and thread.ident]

    # ---------------------------------------------------------------- each one's thread

    def _begin(self, some: Iterable[StopCallback]) -> None:
        for one in some:
            name = f"on_cancel {one.what}"
            thread = threading.Thread(target=self._work, args=(one,), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the task has used up all threads that it may have
                self._finish(one)
                self._runtime.failed_callback(f"{one.what}: {error!r}")

    def _work(self, one: StopCallback) -> None:
        one.thread = threading.current_thread()
        try:
            with self._changed:
                while not one.over and not self._closed and (seconds := self._held_back()) > 0:
                    self._changed.wait(min(seconds, SHIELD_LOOK_SECONDS))
            self._try(one)
        finally:
            self._finish(one)

    def _try(self, one: StopCallback) -> None:
        pause, told = FIRST_PAUSE_SECONDS, ""
        while self._is_due(one):
            failure = _failure(one.stop)
            with self._changed:
                one.calling = False
                one.has_returned = one.has_returned or failure is None
                self._changed.notify_all()
            if failure is not None and failure != told:
                self._runtime.failed_callback(f"{one.what}: {failure}")
                told = failure
            if failure is not None or one.outcome == "confirmed":
                self._tell(one)
            with self._changed:
                self._changed.wait_for(lambda: self._is_decided(one), pause)
            self._tell(one)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)

    def _is_due(self, one: StopCallback) -> bool:
        """Whether it has to be called, once more or for the first time."""
        with self._changed:
            one.calling = not self._is_decided(one)
            one.tries += one.calling
            self._changed.notify_all()
            return one.calling

    def _is_decided(self, one: StopCallback) -> bool:
        return one.over or self._closed or one.outcome == "confirmed"

    def _finish(self, one: StopCallback) -> None:
        with self._changed:
            one.finish()
            self._changed.notify_all()

    def _tell(self, one: StopCallback) -> None:
        """Tell where it stands, if that is new. Each change is told by whoever made it, so the last word is true."""
        if not one.is_remote:
            return
        with one.telling:
            now = one.outcome, one.tries
            if now != one.told:
                one.told = now
                self._runtime.remote(one.number, one.what, *now)


def _failure(stop: Callable[[], object]) -> str | None:
    """Call it. Returns what it raised, `None` when it returned."""
    try:
        stop()
    except BaseException as error:  # noqa: BLE001 - `SystemExit` too: whatever it raises, the work may still run
        try:
            return repr(error)
        except Exception:  # noqa: BLE001 - the user's own __repr__ can fail, too
            return type(error).__name__
    return None


def _name(stop: Callable[[], object]) -> str:
    inner = getattr(stop, "func", stop)  # of a `functools.partial`
    return str(getattr(inner, "__qualname__", None) or type(inner).__qualname__)
