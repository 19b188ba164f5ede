"""Judge the changes of one call, in order, against what is stored.

Pure, and the same for every back end that can hold its stored state still meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sluicegate.core.job import Event, Job, LogEntry, TaskRecord
from sluicegate.core.plan import Plan
from sluicegate.core.ports import Accepted, Change, Outcome, Refused, Writer
from sluicegate.core.records import replace
from sluicegate.stores import codec


@dataclass(frozen=True, slots=True)
class Counters:
    """The last ids given out. Ids grow in the order in which commits become visible."""

    event_id: int
    log_id: int
    position: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored of all that the changes name; nobody else can change it before the commit.

    `versions` by job id, `revisions` by table, `keys`: idempotency key to the job created with it.
    """

    counters: Counters
    versions: Mapping[str, int]
    revisions: Mapping[str, int]
    keys: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A refused change. `pending` is the job's header if this call has changed it before."""

    job_id: str
    pending: Job | None
    duplicate_of: str | None = None


@dataclass(slots=True)
class Batch:
    """All that the accepted changes come to: of several writes of one row only the last.

    Invariant: a job is in `created` or in `updated`, never in both.
    """

    counters: Counters
    created: dict[str, Job] = field(default_factory=dict)
    updated: dict[str, Job] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    writers: dict[str, Writer] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    logs: list[LogEntry] = field(default_factory=list)
    verdicts: list[Accepted | Rejection] = field(default_factory=list)

    def unread(self) -> list[str]:
        """The refused jobs whose stored header has to be read for `outcomes`."""
        refused = (v for v in self.verdicts if isinstance(v, Rejection) and v.pending is None)
        return list(dict.fromkeys(v.job_id for v in refused))

    def outcomes(self, stored: Mapping[str, Job]) -> list[Outcome]:
        """Return the outcome of each change; `stored`: the `unread` jobs as before this call."""
        return [
            verdict
            if isinstance(verdict, Accepted)
            else Refused(verdict.pending or stored.get(verdict.job_id), verdict.duplicate_of)
            for verdict in self.verdicts
        ]


def judge(changes: Sequence[Change], stored: Stored, spoiled: Collection[str] = ()) -> Batch:
    """Accept or refuse each change; a later one sees what the earlier ones lead to.

    After a refusal the later changes of that job are refused: they were derived from it. `spoiled` are the jobs of
    which a change was refused already.
    """
    batch = Batch(stored.counters)
    keys = dict(stored.keys)
    refused = set(spoiled)
    for change in changes:
        job_id = change.job.job_id
        pending = batch.created.get(job_id) or batch.updated.get(job_id)
        version = pending.version if pending else stored.versions.get(job_id, 0)
        key = _key(change)
        duplicate_of = None if key is None else keys.get(key)
        if duplicate_of == job_id:
            duplicate_of = None  # the same creation again: its version says so
        if (
            job_id in refused
            or version != change.made_from
            or duplicate_of is not None
            or not _writers_match(batch, stored, change.writers)
            or (change.creates is not None and change.creates.job.job_id in stored.versions)
        ):
            refused.add(job_id)
            batch.verdicts.append(Rejection(job_id, pending, duplicate_of))
            continue
        if key is not None:
            keys[key] = job_id
        batch.verdicts.append(_accept(batch, change, is_new=job_id not in stored.versions))
    batch.counters = replace(batch.counters, position=batch.counters.position + len(batch.tasks))
    return batch


def number_logs(entries: Iterable[LogEntry], counters: Counters) -> tuple[list[LogEntry], Counters]:
    """Give each line its id; return them and the counters after them."""
    numbered = [replace(e, log_id=n) for n, e in enumerate(entries, counters.log_id + 1)]
    return numbered, replace(counters, log_id=counters.log_id + len(numbered))


def _key(change: Change) -> str | None:
    """The idempotency key of a creation, as it is stored."""
    key = change.job.idempotency_key
    return None if key is None or change.made_from else codec.encode_text(key)


def _writers_match(batch: Batch, stored: Stored, writers: Sequence[Writer]) -> bool:
    return all(
        writer.revision
        == (
            batch.writers[writer.table].revision
            if writer.table in batch.writers
            else stored.revisions.get(writer.table, 0)
        )
        for writer in writers
    )


def _accept(batch: Batch, change: Change, *, is_new: bool) -> Accepted:
    version = change.made_from + 1
    # A caller that has given the header its new version spares the copy.
    job = change.job if change.job.version == version else replace(change.job, version=version)
    (batch.created if is_new else batch.updated)[job.job_id] = job
    if change.plan is not None:
        batch.plans[job.job_id] = change.plan
    batch.tasks.update((task.task_id, task) for task in change.tasks)
    batch.writers.update(
        (writer.table, replace(writer, revision=writer.revision + 1)) for writer in change.writers
    )
    first = batch.counters.event_id + 1
    events = tuple(replace(event, event_id=n) for n, event in enumerate(change.events, first))
    batch.events += events
    batch.counters = replace(batch.counters, event_id=batch.counters.event_id + len(events))
    if change.logs:
        logs, batch.counters = number_logs(change.logs, batch.counters)
        batch.logs += logs
    if change.creates is not None:
        events += _accept(batch, change.creates, is_new=True).events
    return Accepted(job, events)
