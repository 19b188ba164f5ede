"""The one write path: gathers decisions while the previous fsync runs, and stores them in one step.

A decision is a pure function from a job's header to a change. It is evaluated here, on the writer thread, against
the newest header, so that a stop, a permit and a completion of one process never race; between processes the
store's version check judges, and a refused decision is evaluated again from what is stored.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from sluicegate.core.job import Event, Job, JobNotFoundError, LogEntry
from sluicegate.core.ports import Accepted, Change, Refused, Store
from sluicegate.core.records import replace
from sluicegate.errors import SluicegateError

log = logging.getLogger(__name__)

Decide = Callable[[Job], Change | None]

BATCH_MAX: Final = 512
LINES_MAX: Final = 1000
WRITE_ATTEMPTS_MAX: Final = 20
HEADERS_KEPT_MAX: Final = 4096
READ_AHEAD_MIN: Final = 4
LOG_BACKLOG_MAX: Final = 4_000


class StoreContentionError(SluicegateError):
    """Other writers were first, every time."""

    code = "store_contention"

    def __init__(self, job_id: str, attempts: int) -> None:
        super().__init__(
            f"could not write job {job_id!r}: another writer was first {attempts} times",
            mend="try again; if it stays, look for two servers that hold the same job",
        )


@dataclass(frozen=True, slots=True)
class Written:
    """What a decision came to: the header as stored. `changed` is false when it decided to change nothing.

    `conflict` says that the change was refused for another reason than the job's version: a table's writer.
    """

    job: Job
    changed: bool
    conflict: bool = False


Done = Callable[["Written | BaseException"], None]


@dataclass(slots=True)
class _Item:
    """One decision on its way to the store."""

    job_id: str
    decide: Decide
    done: Done
    attempts: int = 0


@dataclass(slots=True)
class _Creation:
    """A new job on its way to the store."""

    change: Change
    future: Future[Accepted | Refused]


@dataclass(frozen=True, slots=True)
class _Judged:
    """One entry of a batch as it was evaluated: a change to store, or what it came to without one.

    `is_derived`: from a header that an earlier decision of the batch leads to. `is_cached`: from one that was kept.
    """

    entry: _Item | _Creation
    change: Change | None
    said: Written | BaseException | None = None
    is_derived: bool = False
    is_cached: bool = False

    @property
    def is_assumed(self) -> bool:
        """Whether it holds only if the store takes the batch."""
        return self.change is not None or self.is_derived


@dataclass(frozen=True, slots=True)
class _Lines:
    """Log lines on their way to the store."""

    entries: Sequence[LogEntry]


_Entries = list[_Item | _Creation]


@dataclass(frozen=True, slots=True)
class _Urgent:
    """What somebody waits for: a stop, a new job. It passes the log lines that wait."""

    entries: _Entries


class Ledger:
    """Stores decisions in batches, on one thread. Safe to call from any thread.

    Lines are stored before the decisions that were queued after them, so that the logs of an ended job are whole.

    Args:
        store: Where they go.
        on_events: Told of each batch's events, with their ids, after they are durable, in order.
    """

    def __init__(self, store: Store, on_events: Callable[[Sequence[Event]], None]) -> None:
        self._store = store
        self._on_events = on_events
        self._queue: queue.SimpleQueue[_Entries | _Urgent | _Lines | None] = queue.SimpleQueue()
        self._waiting: deque[_Entries | _Lines] = deque()
        self._headers: OrderedDict[str, Job] = OrderedDict()
        self._log_backlog = 0
        self._backlog_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._begin()

    def _begin(self) -> None:
        self._thread.start()

    def submit_all(self, asked: Sequence[tuple[str, Decide, Done]]) -> None:
        """Queue decisions that are stored in one step, in order.

        Each `Done` is called on the writer thread with what its decision came to, or the error it raised.
        """
        self._queue.put([_Item(*one) for one in asked])

    def write(
        self, job_id: str, decide: Decide, then: Callable[[Job], None] = lambda _: None
    ) -> Written:
        """Queue a decision and wait until it is durable. Raises what `decide` or the store raised.

        Args:
            then: Told of the header as stored, at once, on the writer thread: before the caller's thread has its turn.
        """
        return self.write_soon(job_id, decide, then).result()

    def write_soon(
        self, job_id: str, decide: Decide, then: Callable[[Job], None] = lambda _: None
    ) -> Future[Written]:
        """Queue a decision that somebody waits for; as `write`, but for who must not block."""
        future: Future[Written] = Future()

        def done(result: Written | BaseException) -> None:
            if isinstance(result, Written):
                then(result.job)
                future.set_result(result)
            else:
                future.set_exception(result)

        self._queue.put(_Urgent([_Item(job_id, decide, done)]))
        return future

    def write_all(self, asked: Sequence[tuple[str, Decide]]) -> list[Written | BaseException]:
        """Queue many decisions and wait until they are durable; other writers get their turn in between.

        Returns: per decision, in order, what it came to, or what it or the store raised.
        """
        results: list[Written | BaseException] = []
        for n in range(0, len(asked), BATCH_MAX):
            some = asked[n : n + BATCH_MAX]
            futures: list[Future[Written | BaseException]] = [Future() for _ in some]
            items = [
                _Item(job_id, decide, future.set_result)
                for (job_id, decide), future in zip(some, futures, strict=True)
            ]
            self._queue.put(_Urgent(list(items)))
            results += [future.result() for future in futures]
        return results

    def create(self, change: Change) -> Accepted | Refused:
        """Store a new job and wait until it is durable."""
        future: Future[Accepted | Refused] = Future()
        self._queue.put(_Urgent([_Creation(change, future)]))
        return future.result()

    def log(self, entries: Sequence[LogEntry]) -> None:
        """Queue log lines. They are stored in order, soon after."""
        with self._backlog_lock:
            self._log_backlog += len(entries)
        self._queue.put(_Lines(entries))

    @property
    def congested(self) -> bool:
        """Whether so many log lines are waiting that their source should pause."""
        return self._log_backlog > LOG_BACKLOG_MAX

    def close(self) -> None:
        """Store what is queued, then stop."""
        self._queue.put(None)
        self._thread.join()

    # ---------------------------------------------------------------- the writer thread

    def _run(self) -> None:
        while self._write_some():
            pass

    def _write_some(self) -> bool:
        """Store a part of what waits, or wait for something. Returns whether more can come."""
        urgent, is_closing = self._fetch()
        lines, batch = self._next_part()
        if lines:
            self._write_batch(urgent)
            self._write_logs(lines)
            self._write_batch(batch)
        else:
            self._write_batch(urgent + batch)
        if is_closing and self._waiting:
            self._queue.put(None)
            is_closing = False
        return not is_closing

    def _fetch(self) -> tuple[_Entries, bool]:
        """Take all that has come; what is urgent is returned, the rest waits in order."""
        urgent: _Entries = []
        is_closing = False
        while not (self._queue.empty() and (self._waiting or is_closing)):
            taken = self._queue.get()
            if taken is None:
                is_closing = True
            elif not isinstance(taken, _Urgent):
                self._waiting.append(taken)
            elif any(isinstance(waiting, _Lines) for waiting in self._waiting):
                urgent += taken.entries
            else:
                self._waiting.append(taken.entries)
        return urgent, is_closing

    def _next_part(self) -> tuple[list[LogEntry], _Entries]:
        """Take from what waits: some lines, and the decisions up to the first line that is left."""
        lines: list[LogEntry] = []
        batch: _Entries = []
        while self._waiting and len(batch) < BATCH_MAX and len(lines) < LINES_MAX:
            taken = self._waiting.popleft()
            if isinstance(taken, _Lines):
                room = LINES_MAX - len(lines)
                lines += taken.entries[:room]
                if taken.entries[room:]:
                    self._waiting.appendleft(_Lines(taken.entries[room:]))
            else:
                batch += taken
        return lines, batch

    def _write_batch(self, batch: Sequence[_Item | _Creation]) -> None:
        while batch:
            batch = self._write_once(batch)

    def _write_once(self, batch: Sequence[_Item | _Creation]) -> list[_Item]:
        """Evaluate and store the batch; return what has to be evaluated again from what is stored."""
        ahead: dict[str, Job] = {}
        self._read_ahead(batch)
        judged = [self._evaluate(entry, ahead) for entry in batch]
        asked = [one.change for one in judged if one.change is not None]
        try:
            outcomes = iter(self._store.commit(asked) if asked else ())
        except BaseException as error:  # noqa: BLE001 - handed to whoever asked
            self._headers.clear()
            for one in judged:
                self._answer(one.entry, error if one.is_assumed else one.said)
            return []
        again: list[_Item] = []
        events: list[Event] = []
        spoiled: set[str] = set()  # jobs of which a change was refused: what follows did not happen
        for one in judged:
            outcome = next(outcomes) if one.change is not None else None
            if isinstance(outcome, Accepted):
                self._keep(outcome.job)
                events += outcome.events
            if isinstance(one.entry, _Creation):
                self._answer(one.entry, outcome)
            elif (said := self._said(one.entry, one, outcome, spoiled)) is None:
                again.append(one.entry)
            else:
                self._answer(one.entry, said)
        if events:
            self._tell(events)
        return again

    def _read_ahead(self, batch: Sequence[_Item | _Creation]) -> None:
        """Read the headers of many jobs in one step; one that cannot be read now is asked for again alone."""
        unread = {e.job_id for e in batch if isinstance(e, _Item)} - self._headers.keys()
        if len(unread) >= READ_AHEAD_MIN:
            with contextlib.suppress(SluicegateError):
                for job in self._store.get_many(list(unread)).values():
                    self._keep(job)

    def _evaluate(self, entry: _Item | _Creation, ahead: dict[str, Job]) -> _Judged:
        """Decide from the header as the decisions before in this batch leave it, `ahead` of what is stored."""
        if isinstance(entry, _Creation):
            return _Judged(entry, entry.change)
        is_derived, is_cached = entry.job_id in ahead, entry.job_id in self._headers
        try:
            before = ahead[entry.job_id] if is_derived else self._header(entry.job_id)
            change = entry.decide(before)
        except BaseException as error:  # noqa: BLE001 - handed to whoever asked
            return _Judged(entry, None, error, is_derived, is_cached)
        if change is None:
            return _Judged(entry, None, Written(before, changed=False), is_derived, is_cached)
        after = ahead[entry.job_id] = _advanced(change)
        return _Judged(
            entry, replace(change, job=after)
        )  # as it will be stored: the store need not copy it

    def _said(
        self, item: _Item, one: _Judged, outcome: Accepted | Refused | None, spoiled: set[str]
    ) -> Written | BaseException | None:
        """What a decision came to, or `None` when it has to be evaluated again."""
        if isinstance(outcome, Accepted):
            return Written(outcome.job, changed=True)
        was_spoiled = item.job_id in spoiled
        if isinstance(outcome, Refused):
            spoiled.add(item.job_id)
            self._headers.pop(item.job_id, None)
            stored, change = outcome.stored, one.change
            assert change is not None
            if not was_spoiled and stored is not None and stored.version == change.made_from:
                return Written(stored, changed=False, conflict=True)
        elif not (was_spoiled or (one.is_cached and self._is_outdated(item.job_id))):
            return one.said
        item.attempts += 1
        if item.attempts >= WRITE_ATTEMPTS_MAX:
            return StoreContentionError(item.job_id, item.attempts)
        return None

    def _is_outdated(self, job_id: str) -> bool:
        """Whether another process has changed or removed the job since its header was kept; then that is let go."""
        kept = self._headers.get(job_id)
        if kept is None:
            return True  # let go of meanwhile, perhaps for that reason: it is not known
        try:
            if self._store.get(job_id).version == kept.version:
                return False
        except JobNotFoundError:
            pass  # it was pruned
        except SluicegateError:
            return False  # it cannot be said now; the decision stands on what was last known
        del self._headers[job_id]
        return True

    def _answer(
        self,
        entry: _Item | _Creation,
        said: Written | Accepted | Refused | BaseException | None,
    ) -> None:
        """Tell whoever asked. Their mistake must not end the one thread that writes."""
        try:
            if isinstance(entry, _Item):
                assert isinstance(said, (Written, BaseException))
                entry.done(said)
            elif isinstance(said, BaseException):
                entry.future.set_exception(said)
            else:
                assert isinstance(said, (Accepted, Refused))
                entry.future.set_result(said)
        except Exception:
            log.exception("ledger_answer_failed")

    def _tell(self, events: Sequence[Event]) -> None:
        try:
            self._on_events(events)
        except Exception:
            log.exception("ledger_watcher_failed")

    def _write_logs(self, lines: list[LogEntry]) -> None:
        try:
            self._store.append_logs(lines)
        except SluicegateError:
            # The store says at its next commit what is wrong with it; lines are not worth a job.
            pass
        finally:
            with self._backlog_lock:
                self._log_backlog -= len(lines)

    def _header(self, job_id: str) -> Job:
        return self._headers.get(job_id) or self._store.get(job_id)

    def _keep(self, job: Job) -> None:
        self._headers[job.job_id] = job
        self._headers.move_to_end(job.job_id)
        while len(self._headers) > HEADERS_KEPT_MAX:
            self._headers.popitem(last=False)


def _advanced(change: Change) -> Job:
    """The header as it will be stored if the change is accepted."""
    return replace(change.job, version=change.made_from + 1)
