"""Which jobs meet a `JobQuery`, newest first, and other reads that take more than one call, page by page.

Firestore answers a conjunction with one index only if that index has all its fields. So a query asks for the
statuses, one condition on terms and the time, and what it finds is judged here again by everything. Where more
conditions were asked for, it walks on until the page is full: complete, in bounded steps, at the price of reading
what only the first conditions meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sluicegate.core.job import Job, JobQuery
from sluicegate.core.plan import Plan
from sluicegate.stores import codec
from sluicegate.stores.firestore.connection import Connection, Query, Snapshot, meets
from sluicegate.stores.firestore.documents import (
    MANY_PIPELINES,
    Document,
    indexable,
    load_job,
)

PAGE_MAX: Final = 300
# Firestore multiplies out the alternatives of a query and takes no more than 30 in all.
ALTERNATIVES_MAX: Final = 30

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Condition:
    """Terms of which a job must have one. `wanted` are those of the terms that stand for pipelines, by their ids."""

    terms: tuple[str, ...]
    pipelines: frozenset[str] = frozenset()


def find_jobs(connection: Connection, query: JobQuery, plan_of: Callable[[str], Plan]) -> list[Job]:
    """Return at most `query.limit` jobs that meet every condition, the highest id first.

    Args:
        plan_of: Reads the plan of a job that has too many pipelines for terms.
    """
    conditions = _conditions(query)
    native = _native(conditions, max(1, len(query.statuses)))
    is_exact = len(conditions) <= (native is not None)
    page = min(PAGE_MAX, max(1, query.limit)) if is_exact else PAGE_MAX
    found: list[Job] = []
    asked = _asked(connection, query, native)
    for snapshot in walk(connection, asked, "job_id", query.before_job_id, page, descending=True):
        document = snapshot.to_dict() or {}
        if _meets_all(document, query, conditions, plan_of):
            found.append(load_job(document))
            if len(found) == query.limit:
                break
    return found


def walk(
    connection: Connection,
    query: Query,
    field: str,
    after: Any,
    page: int,
    *,
    descending: bool = False,
) -> Iterator[Snapshot]:
    """Yield all that a query finds beyond `after`, in the order of a field that no two share; a page at a time."""
    query = query.order_by(field, direction="DESCENDING" if descending else "ASCENDING").limit(page)
    while True:
        beyond = query
        if after is not None:
            beyond = query.where(filter=meets(field, "<" if descending else ">", after))
        found = connection.run(beyond)
        yield from found
        if len(found) < page:
            return
        after = found[-1].get(field)


def chunks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Cut a list into pieces."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _conditions(query: JobQuery) -> list[Condition]:
    """The conditions on terms, usually the rarest first: that one is asked for."""
    labels: dict[str, list[str]] = {}
    for key, value in query.labels:
        labels.setdefault(key, []).append(codec.label_term(key, value))
    pipelines = [codec.pipeline_term(pipeline) for pipeline in query.pipelines]
    conditions = [
        *(_condition(terms) for terms in labels.values()),
        Condition((*_condition(pipelines).terms, MANY_PIPELINES), frozenset(query.pipelines))
        if pipelines
        else Condition(()),
        _condition([codec.user_term(user_id) for user_id in query.user_ids]),
        _condition([codec.trigger_term(trigger) for trigger in query.triggers]),
        _condition([codec.layer_term(layer) for layer in query.layers]),
    ]
    return [condition for condition in conditions if condition.terms]


def _condition(terms: Sequence[str]) -> Condition:
    return Condition(tuple(dict.fromkeys(map(indexable, terms))))


def _native(conditions: Sequence[Condition], statuses: int) -> Condition | None:
    """The condition that Firestore is asked for: the first that leaves few enough alternatives."""
    fit = (one for one in conditions if len(one.terms) * statuses <= ALTERNATIVES_MAX)
    return next(fit, None)


def _asked(connection: Connection, query: JobQuery, native: Condition | None) -> Query:
    asked = connection.collection("jobs")
    if query.statuses:
        asked = asked.where(filter=meets("status", "in", [s.value for s in query.statuses]))
    if native is not None:
        asked = asked.where(filter=meets("terms", "array_contains_any", list(native.terms)))
    if query.created_after is not None:
        asked = asked.where(filter=meets("created_at", ">=", query.created_after))
    if query.created_before is not None:
        asked = asked.where(filter=meets("created_at", "<", query.created_before))
    return asked


def _meets_all(
    document: Document,
    query: JobQuery,
    conditions: Sequence[Condition],
    plan_of: Callable[[str], Plan],
) -> bool:
    """Whether the job has a term of each condition; statuses and times were asked for."""
    terms = set(document["terms"])
    for condition in conditions:
        having = terms.intersection(condition.terms)
        if having == {MANY_PIPELINES}:
            if condition.pipelines.isdisjoint(plan_of(document["job_id"]).pipelines):
                return False
        elif not having:
            return False
    return True
