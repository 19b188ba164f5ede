"""What one thread has to do: messages that came, things that are due, decisions under way to the store."""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

from sluicegate.core.ledger import Decide, Done, Ledger, Written
from sluicegate.core.ports import Clock
from sluicegate.core.store_errors import StoreUnavailableError

log = logging.getLogger(__name__)

STORE_PAUSE_SECONDS: Final = 0.5
GATHER_SECONDS: Final = 0.008

Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class Call:
    """Something to do on the agenda's thread."""

    do: Callable[[], None]


@dataclass(slots=True)
class Timer:
    """Something to do later. One that is not needed any more lets go of what it would have done."""

    do: Callable[[], None] | None

    def cancel(self) -> None:
        """Do nothing when it is due."""
        self.do = None


class Agenda(Generic[Message]):
    """The work of one thread, which never waits for anything but the next message.

    `post` may be called from any thread, all else from that thread alone.

    Args:
        act_on: What to do about a message.
        let_go: Told of a job about which a decision can never be stored.
    """

    def __init__(
        self,
        clock: Clock,
        ledger: Ledger,
        act_on: Callable[[Message], None],
        let_go: Callable[[str], None],
    ) -> None:
        self._clock, self._ledger, self._act_on, self._let_go = clock, ledger, act_on, let_go
        self._inbox: queue.SimpleQueue[Message | Call] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._outgoing: list[tuple[str, Decide, Done]] = []
        self._hold_until: float | None = None  # of what is outgoing, when nothing of it is urgent
        # Decisions and readings under way; nothing is handed back before they are known.
        self.unanswered = 0

    # ---------------------------------------------------------------- what comes

    def put(self, message: Message) -> None:
        """Have a message acted on. From any thread."""
        self._inbox.put(message)

    def post(self, do: Callable[[], None]) -> None:
        """Have something done soon. From any thread."""
        self._inbox.put(Call(do))

    def take(self, wait_seconds: float | None) -> None:
        """Act on what has come, waiting for the first message at most so long."""
        try:
            message = self._inbox.get(timeout=wait_seconds)
        except queue.Empty:
            return
        self.safely(partial(self._take, message))
        while not self._inbox.empty():
            self.safely(partial(self._take, self._inbox.get()))

    def _take(self, message: Message | Call) -> None:
        if isinstance(message, Call):
            message.do()
        else:
            self._act_on(message)

    def safely(self, do: Callable[[], None]) -> None:
        """Do one step. What it could not read is tried again; a mistake of ours in it must not spoil the others."""
        try:
            do()
        except StoreUnavailableError as error:
            log.warning("store_unavailable error=%s", error.what)
            self.pause(do)
        except Exception:
            log.exception("executor_step_failed")

    # ---------------------------------------------------------------- what is due

    def later(self, seconds: float, do: Callable[[], None]) -> Timer:
        """Have something done in so many seconds."""
        due, timer = self._clock.monotonic() + seconds, Timer(do)
        heapq.heappush(self._timers, (due, next(self._numbers), timer))
        return timer

    def pause(self, do: Callable[[], None]) -> None:
        """Have it done once the store may be back."""
        self.later(STORE_PAUSE_SECONDS, do)

    def do_what_is_due(self) -> None:
        """Do what was left for now."""
        now = self._clock.monotonic()
        while self._timers and (self._timers[0][0] <= now or self._timers[0][2].do is None):
            if (do := heapq.heappop(self._timers)[2].do) is not None:
                self.safely(do)

    @property
    def next_in(self) -> float | None:
        """Seconds until something is due, or `None`."""
        due = [self._timers[0][0]] if self._timers else []
        if self._outgoing and self._hold_until is not None:
            due.append(self._hold_until)
        return min(due) - self._clock.monotonic() if due else None

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing has come, nothing is on its way, and nothing is left for later."""
        waiting = [timer for _, _, timer in self._timers if timer.do is not None]
        return self._inbox.empty() and not (waiting or self._outgoing or self.unanswered)

    @property
    def has_messages(self) -> bool:
        """Whether something has come that was not acted on yet."""
        return not self._inbox.empty()

    # ---------------------------------------------------------------- what is decided

    def write(
        self,
        job_id: str,
        decide: Decide,
        then: Callable[[Written], None],
        failed: Callable[[], None] = lambda: None,
        *,
        can_wait: bool = False,
    ) -> None:
        """Store a decision; `then` runs on this thread. A store that is away for a while is asked again.

        Args:
            failed: Runs instead of `then` when it can never be stored; then the job is let go of.
            can_wait: For `GATHER_SECONDS` at most, when more is expected that can be stored in the same step.
        """
        self.unanswered += 1

        def submit() -> None:
            if not can_wait:
                self._hold_until = None
            elif not self._outgoing:
                self._hold_until = self._clock.monotonic() + GATHER_SECONDS
            self._outgoing.append((job_id, decide, done))

        def done(result: Written | BaseException) -> None:
            self.post(lambda: answered(result))

        def answered(result: Written | BaseException) -> None:
            if isinstance(result, StoreUnavailableError):
                log.warning("store_unavailable job_id=%s error=%s", job_id, result.what)
                self.pause(submit)
                return
            self.unanswered -= 1
            if isinstance(result, Written):
                self.safely(lambda: then(result))
            else:
                log.error("decision_failed job_id=%s", job_id, exc_info=result)
                failed()
                self._let_go(job_id)

        submit()

    def send_out(self, *, expects_more: bool = False) -> None:
        """Store what was decided since in one step: the end of a task and the start of the next share an fsync.

        Args:
            expects_more: Whether it is worth a moment's wait, where all that is decided can wait.
        """
        if not self._outgoing:
            return
        holds = expects_more and self._hold_until is not None
        if holds and self._clock.monotonic() < (self._hold_until or 0.0):
            return
        outgoing, self._outgoing = self._outgoing, []
        self._ledger.submit_all(outgoing)
