"""The one write path: gathers decisions while the previous fsync runs, and stores them in one step.

A decision is a pure function from a job's header to a change. It is evaluated here, on the writer thread, against
the newest header, so that a stop, a permit and a completion of one process never race; between processes the
store's version check judges, and a refused decision is evaluated again from what is stored.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final

from sluicegate.core.job import Event, Job, LogEntry
from sluicegate.core.ports import Accepted, Change, Refused, Store
from sluicegate.errors import SluicegateError

Decide = Callable[[Job], Change | None]

BATCH_MAX: Final = 512
WRITE_ATTEMPTS_MAX: Final = 20
HEADERS_KEPT_MAX: Final = 4096
LOG_BACKLOG_MAX: Final = 20_000


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
class _Lines:
    """Log lines on their way to the store."""

    entries: Sequence[LogEntry]


class Ledger:
    """Stores decisions in batches, on one thread. Safe to call from any thread.

    Args:
        store: Where they go.
        on_events: Told of each batch's events, with their ids, after they are durable, in order.
    """

    def __init__(self, store: Store, on_events: Callable[[Sequence[Event]], None]) -> None:
        self._store = store
        self._on_events = on_events
        self._queue: queue.SimpleQueue[list[_Item | _Creation] | _Lines | None] = (
            queue.SimpleQueue()
        )
        self._headers: OrderedDict[str, Job] = OrderedDict()
        self._log_backlog = 0
        self._backlog_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def submit(self, job_id: str, decide: Decide, done: Done) -> None:
        """Queue a decision. `done` is called on the writer thread with what it came to, or the error it raised."""
        self._queue.put([_Item(job_id, decide, done)])

    def submit_all(self, asked: Sequence[tuple[str, Decide, Done]]) -> None:
        """Queue decisions that are stored in one step, in order."""
        self._queue.put([_Item(*one) for one in asked])

    def write(self, job_id: str, decide: Decide) -> Written:
        """Queue a decision and wait until it is durable. Raises what `decide` or the store raised."""
        future: Future[Written] = Future()

        def done(result: Written | BaseException) -> None:
            if isinstance(result, Written):
                future.set_result(result)
            else:
                future.set_exception(result)

        self.submit(job_id, decide, done)
        return future.result()

    def create(self, change: Change) -> Accepted | Refused:
        """Store a new job and wait until it is durable."""
        future: Future[Accepted | Refused] = Future()
        self._queue.put([_Creation(change, future)])
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
        closing = False
        while not closing:
            batch: list[_Item | _Creation] = []
            lines: list[LogEntry] = []
            taken = self._queue.get()
            while True:
                if taken is None:
                    closing = True
                elif isinstance(taken, _Lines):
                    lines += taken.entries
                else:
                    batch += taken
                if len(batch) >= BATCH_MAX or self._queue.empty():
                    break
                taken = self._queue.get()
            self._write_batch(batch)
            if lines:
                self._write_logs(lines)

    def _write_batch(self, batch: Sequence[_Item | _Creation]) -> None:
        while batch:
            batch = self._write_once(batch)

    def _write_once(self, batch: Sequence[_Item | _Creation]) -> list[_Item | _Creation]:
        """Evaluate and store the batch; return what was refused and has to be evaluated again."""
        latest: dict[str, Job] = {}
        asked: list[tuple[_Item | _Creation, Change]] = []
        unchanged: list[tuple[_Item, Job]] = []
        for entry in batch:
            if isinstance(entry, _Creation):
                asked.append((entry, entry.change))
                continue
            try:
                before = latest.get(entry.job_id) or self._header(entry.job_id)
                change = entry.decide(before)
            except BaseException as error:  # noqa: BLE001 - handed to whoever asked
                entry.done(error)
                continue
            if change is None:
                unchanged.append((entry, before))
                continue
            latest[entry.job_id] = _advanced(change)
            asked.append((entry, change))
        again = self._commit(asked)
        for entry, before in unchanged:
            entry.done(Written(before, changed=False))
        return again

    def _commit(self, asked: Sequence[tuple[_Item | _Creation, Change]]) -> list[_Item | _Creation]:
        if not asked:
            return []
        try:
            outcomes = self._store.commit([change for _, change in asked])
        except BaseException as error:  # noqa: BLE001 - handed to whoever asked
            self._headers.clear()
            for entry, _ in asked:
                if isinstance(entry, _Creation):
                    entry.future.set_exception(error)
                else:
                    entry.done(error)
            return []
        for outcome in outcomes:
            if isinstance(outcome, Accepted):
                self._keep(outcome.job)
        events = [e for o in outcomes if isinstance(o, Accepted) for e in o.events]
        again: list[_Item | _Creation] = []
        for (entry, change), outcome in zip(asked, outcomes, strict=True):
            if isinstance(entry, _Creation):
                entry.future.set_result(outcome)
            elif isinstance(outcome, Accepted):
                entry.done(Written(outcome.job, changed=True))
            else:
                self._refused(entry, change, outcome, again)
        if events:
            self._on_events(events)
        return again

    def _refused(
        self, item: _Item, change: Change, refused: Refused, again: list[_Item | _Creation]
    ) -> None:
        self._headers.pop(item.job_id, None)
        item.attempts += 1
        if refused.stored is not None and refused.stored.version == change.made_from:
            item.done(Written(refused.stored, changed=False, conflict=True))
        elif item.attempts >= WRITE_ATTEMPTS_MAX:
            item.done(StoreContentionError(item.job_id, item.attempts))
        else:
            again.append(item)

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
