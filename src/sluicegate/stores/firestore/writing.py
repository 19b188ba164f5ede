"""Decide on changes and write them: read what they are judged by, judge, write; start over if others were first.

Every write that gives out ids holds the counters: it names the update time that `meta/counters` had when it was
read, and writes it anew. So between the reading and the writing nobody else has written anything that changes are
judged by, and ids grow in the order in which writes become visible (docs/decisions/0009).
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from sluicegate.core.job import Job, LogEntry
from sluicegate.core.ports import Change, Outcome
from sluicegate.core.store_errors import RecordTooLargeError, StoreUnavailableError
from sluicegate.stores import codec
from sluicegate.stores.batch import Batch, Counters, Rejection, Stored, judge, number_logs
from sluicegate.stores.firestore.connection import (
    Connection,
    Snapshot,
    WriteConflict,
    WriteInDoubtError,
)
from sluicegate.stores.firestore.documents import (
    BLOCK_BYTES_MAX,
    COUNTERS,
    Write,
    changed_job,
    event_write,
    idempotency_path,
    job_path,
    load_job,
    log_writes,
    new_job,
    plan_parts,
    size_bytes,
    task_write,
    writer_path,
    writer_write,
)

# A write of several changes keeps within what Firestore has always taken; a change that alone needs more is
# written whole, since it must not be cut: newer Firestore counts bytes only.
WRITES_MAX: Final = 500
REQUEST_BYTES_MAX: Final = 9_000_000
DOCUMENT_BYTES_MAX: Final = 1_000_000
# A new job leaves room in its document for all that will be said of it: it must be possible to end it.
NEW_DOCUMENT_BYTES_MAX: Final = 600_000
# Others may be first again and again; each time one of them has got on.
CONTENTION_SECONDS: Final = 30.0
# For so long a write is sent again while its answers are lost.
DOUBT_SECONDS: Final = 2.0
_LINES_MAX: Final = 2_000

# What changes are judged by; the rest of a document is not read.
_JUDGED: Final = ("event_id", "log_id", "position", "commits", "version", "revision", "job_id")

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Held:
    """The counters as they were read.

    `commits` grows with each write: one that changes nothing is no write. `token` is for the next write, and says
    whose it was.
    """

    counters: Counters
    commits: int
    updated_at: datetime
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def write(self, after: Counters | None = None) -> Write:
        """Return the write that fails if anybody has written since."""
        after = after or self.counters
        row = {"event_id": after.event_id, "log_id": after.log_id, "position": after.position}
        mine = {"commits": self.commits + 1, "token": self.token}
        return Write(COUNTERS, row | mine, condition=self.updated_at)


class Writing:
    """The writes of one opening. Those of one process take turns, so that it is never its own rival."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        # What this process wrote last; others may have written since, and a write that counts on it fails then.
        self._last: Held | None = None

    def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """Judge the changes in order and write those that are accepted, each with all that belongs to it.

        Many changes are written in several steps: each is whole, and they become visible in their order.
        """
        outcomes: list[Outcome] = []
        call = _Call()
        with self._lock:
            for some in _parts(changes):
                outcomes += self._commit_some(some, call)
        if call.too_large is not None:
            raise call.too_large
        return outcomes

    def append_logs(self, entries: Sequence[LogEntry]) -> None:
        """Write log lines and give them their ids."""
        for start in range(0, len(entries), _LINES_MAX):
            some = entries[start : start + _LINES_MAX]

            def append(held: Held, some: Sequence[LogEntry] = some) -> list[Write]:
                numbered, after = number_logs(some, held.counters)
                return [held.write(after), *log_writes(numbered)]

            with self._lock:
                self._until_first(lambda: self._append(append))

    def put(self, write: Write) -> None:
        """Write one document, whatever others do."""
        self._until_first(lambda: self._connection.write([write]))

    def decide(self, decide: Callable[[], tuple[list[Write], _Result]]) -> _Result:
        """Write what is decided from what `decide` reads; it is called again if anybody has written meanwhile."""

        def once() -> _Result:
            held = self._hold(self._connection.read([COUNTERS]))
            writes, result = decide()
            self._write(held, [held.write(), *writes])
            return result

        with self._lock:
            return self._until_first(once)

    # ---------------------------------------------------------------- one step

    def _commit_some(self, changes: Sequence[Change], call: _Call) -> list[Outcome]:
        """Write some changes in one step, or in more if they are too large for one.

        One that is too large by itself keeps only those from being stored that were derived from it.
        """
        try:
            batch, stored = self._until_first(lambda: self._judge_and_write(changes, call.refused))
        except RecordTooLargeError as error:
            if len(changes) == 1:
                call.too_large = call.too_large or error
                call.refused.add(changes[0].job.job_id)
                return []
            half = len(changes) // 2
            return [
                *self._commit_some(changes[:half], call),
                *self._commit_some(changes[half:], call),
            ]
        call.refused.update(v.job_id for v in batch.verdicts if isinstance(v, Rejection))
        return batch.outcomes(stored)

    def _judge_and_write(
        self, changes: Sequence[Change], refused: set[str]
    ) -> tuple[Batch, dict[str, Job]]:
        """Returns what was decided, and the stored headers of refused jobs.

        Raises: `RecordTooLargeError`: in one step it is too large; nothing was written.
        """
        read = self._connection.read(_named(changes), _JUDGED)
        held = self._hold(read)
        batch = judge(changes, _stored(held.counters, changes, read), refused)
        unread = batch.unread()
        snapshots = self._connection.read(map(job_path, unread))
        stored = {
            job_id: load_job(snapshots[path].to_dict() or {})
            for job_id in unread
            if (path := job_path(job_id)) in snapshots
        }
        if batch.created or batch.updated:
            writes = [held.write(batch.counters), *_writes(batch, read)]
            self._check_sizes(writes, {job_path(job_id) for job_id in batch.created})
            self._write(held, writes)
        return batch, stored

    def _check_sizes(self, writes: Sequence[Write], new_jobs: set[str]) -> None:
        """Raises: `RecordTooLargeError`: a document, or all of them together, is more than Firestore takes."""
        total = 0
        for one in writes:
            size = size_bytes(one.document)
            most = NEW_DOCUMENT_BYTES_MAX if one.path in new_jobs else DOCUMENT_BYTES_MAX
            if size > most:
                raise RecordTooLargeError(self._connection.where, one.path, size, most)
            total += size + 200
        if total > REQUEST_BYTES_MAX:
            path = writes[1].path
            raise RecordTooLargeError(self._connection.where, path, total, REQUEST_BYTES_MAX)

    def _append(self, append: Callable[[Held], list[Write]]) -> None:
        held = self._last or self._hold(self._connection.read([COUNTERS]))
        self._write(held, append(held))

    def _hold(self, read: dict[str, Snapshot]) -> Held:
        snapshot = read.get(COUNTERS)
        if snapshot is None:
            raise StoreUnavailableError(
                self._connection.where,
                f"its document {COUNTERS} is gone",
                mend="put it back from a backup, or open an empty database anew",
            )
        row = snapshot.to_dict() or {}
        counters = Counters(row["event_id"], row["log_id"], row["position"])
        return Held(counters, row["commits"], snapshot.update_time)

    def _write(self, held: Held, writes: Sequence[Write]) -> None:
        self._last = None
        updated_at = self._send(held, writes)
        row = writes[0].document
        assert row is not None, "the counters come first"
        counters = Counters(row["event_id"], row["log_id"], row["position"])
        self._last = Held(counters, held.commits + 1, updated_at)

    def _send(self, held: Held, writes: Sequence[Write]) -> datetime:
        """Write, and where the answer was lost find out whether it happened. Returns the counters' update time.

        Sent again it carries the same condition: of two that are on their way at most one can be written.
        """
        deadline = time.monotonic() + DOUBT_SECONDS
        doubt: WriteInDoubtError | None = None
        while True:
            try:
                return self._connection.write(writes)
            except WriteInDoubtError as error:
                doubt = error
                if time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.05, 0.2))
            except WriteConflict:
                if doubt is None:
                    raise
                found = self._connection.read([COUNTERS]).get(COUNTERS)
                if found is None or found.get("commits") != held.commits + 1:
                    # Several have written since: whether ours was among them cannot be seen.
                    raise doubt from None
                if found.get("token") != held.token:
                    raise  # it was another's: ours was not written, and cannot be any more
                written: datetime = found.update_time
                return written

    def _until_first(self, once: Callable[[], _Result]) -> _Result:
        """Do it again while others are first, after a pause that grows and differs from theirs."""
        deadline = time.monotonic() + CONTENTION_SECONDS
        pause_seconds = 0.002
        while True:
            try:
                return once()
            except WriteConflict as error:
                if time.monotonic() > deadline:
                    raise StoreUnavailableError(
                        self._connection.where,
                        f"others were writing first for {CONTENTION_SECONDS:.0f} s",
                        mend="try again",
                    ) from error
            time.sleep(random.uniform(0, pause_seconds))
            pause_seconds = min(2 * pause_seconds, 0.25)


@dataclass(slots=True)
class _Call:
    """What the steps of one `commit` know of each other: refused jobs, and the first change that fits nowhere."""

    refused: set[str] = field(default_factory=set)
    too_large: RecordTooLargeError | None = None


# ------------------------------------------------------------------ what is read


def _named(changes: Sequence[Change]) -> list[str]:
    """The documents that changes are judged by."""
    paths = {COUNTERS: None}
    for change in changes:
        paths[job_path(change.job.job_id)] = None
        if change.creates is not None:
            paths[job_path(change.creates.job.job_id)] = None
        for writer in change.writers:
            paths[writer_path(writer.table)] = None
        if (key := _key(change)) is not None:
            paths[idempotency_path(key)] = None
    return list(paths)


def _stored(counters: Counters, changes: Sequence[Change], read: dict[str, Snapshot]) -> Stored:
    def value(path: str, field: str) -> Any:
        return read[path].get(field) if path in read else None

    job_ids = {change.job.job_id for change in changes}
    job_ids |= {change.creates.job.job_id for change in changes if change.creates is not None}
    tables = {writer.table for change in changes for writer in change.writers}
    keys = {key for change in changes if (key := _key(change)) is not None}
    found = (
        {job_id: value(job_path(job_id), "version") for job_id in job_ids},
        {table: value(writer_path(table), "revision") for table in tables},
        {key: value(idempotency_path(key), "job_id") for key in keys},
    )
    return Stored(
        counters, *({k: v for k, v in values.items() if v is not None} for values in found)
    )


def _key(change: Change) -> str | None:
    """The idempotency key of a creation, as it is stored."""
    key = change.job.idempotency_key
    return None if key is None or change.made_from else codec.encode_text(key)


# ------------------------------------------------------------------ what is written


def _parts(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Cut the changes into parts of at most `WRITES_MAX` writes, or of one change."""
    part: list[Change] = []
    room = WRITES_MAX - 1  # the counters
    for change in changes:
        writes = _writes_max(change)
        if part and writes > room:
            yield part
            part, room = [], WRITES_MAX - 1
        part.append(change)
        room -= writes
    if part:
        yield part


def _writes_max(change: Change) -> int:
    """At most how many writes a change comes to."""
    of_created = 0 if change.creates is None else _writes_max(change.creates)
    of_plan = 0 if change.plan is None else 1 + len(change.plan.steps) // 5_000
    of_logs = len(change.logs) and 1 + 4 * sum(200 + len(e.message) for e in change.logs) // (
        BLOCK_BYTES_MAX // 2
    )
    rows = len(change.tasks) + len(change.writers) + len(change.events)
    return 2 + of_plan + of_logs + rows + of_created  # the job, and its idempotency key


def _writes(batch: Batch, read: dict[str, Snapshot]) -> Iterator[Write]:
    """Yield the writes of all that was accepted."""
    for job in batch.created.values():
        document = new_job(job, batch.plans.get(job.job_id))
        yield Write(job_path(job.job_id), document, condition=False)
        if job.idempotency_key is not None:
            key = codec.encode_text(job.idempotency_key)
            row = {"key": key, "job_id": job.job_id}
            yield Write(idempotency_path(key), row, condition=False)
    for job in batch.updated.values():
        path = job_path(job.job_id)
        yield Write(path, changed_job(job), condition=read[path].update_time)
    for job_id, plan in batch.plans.items():
        yield from plan_parts(job_id, plan)
    first = batch.counters.position - len(batch.tasks) + 1
    for position, task in enumerate(batch.tasks.values(), first):
        yield task_write(task, position)
    for writer in batch.writers.values():
        known = read.get(writer_path(writer.table))
        yield writer_write(writer, known.update_time if known is not None else False)
    yield from map(event_write, batch.events)
    yield from log_writes(batch.logs)
