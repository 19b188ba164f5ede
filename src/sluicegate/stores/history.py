"""Which jobs meet a `JobQuery`, newest first, always by an index.

A condition is a few lists of job ids that an index can read from the newest on, one per
alternative. The condition that the fewest jobs meet leads; the others are probed for each job that
it finds. So a page costs what its rarest condition costs, never a walk over all jobs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, exists, func, literal, select

from sluicegate.core.job import JobQuery
from sluicegate.stores import codec
from sluicegate.stores.schema import job_terms, jobs

# Counting further than this would cost more than a better choice saves.
_COUNT_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class _Condition:
    """`lists`: the ids of the jobs that meet it, by alternative. `holds`: whether a job does."""

    lists: tuple[Select[tuple[str]], ...]
    holds: Callable[[ColumnElement[str]], ColumnElement[bool]]


def find_job_ids(connection: Connection, query: JobQuery) -> list[str]:
    """Return the ids of at most `query.limit` jobs that meet every condition, the highest first."""
    conditions = _conditions(query)
    if not conditions:
        return _page(connection, select(jobs.c.job_id), query, [])
    if len(conditions) > 1:
        conditions.sort(key=lambda condition: _count(connection, condition))
    leading, *others = conditions
    found: set[str] = set()
    for listed in leading.lists:
        found.update(_page(connection, listed, query, others))
    return sorted(found, reverse=True)[: query.limit]


def _page(
    connection: Connection, listed: Select[tuple[str]], query: JobQuery, others: list[_Condition]
) -> list[str]:
    job_id: ColumnElement[str] = listed.selected_columns[0]
    if query.before_job_id is not None:
        listed = listed.where(job_id < query.before_job_id)
    listed = listed.where(*(condition.holds(job_id) for condition in others))
    return list(connection.scalars(listed.order_by(job_id.desc()).limit(query.limit)))


def _count(connection: Connection, condition: _Condition) -> int:
    """How many jobs meet the condition, as far as it is worth knowing."""
    total = 0
    for listed in condition.lists:
        some = listed.limit(_COUNT_MAX).subquery()
        total += connection.scalar(select(func.count()).select_from(some)) or 0
        if total >= _COUNT_MAX:
            return _COUNT_MAX
    return total


def _conditions(query: JobQuery) -> list[_Condition]:
    """The conditions, usually the rarest first: that one leads when all are common."""
    labels: dict[str, list[str]] = {}
    for key, value in query.labels:
        labels.setdefault(key, []).append(codec.label_term(key, value))
    terms = [
        *labels.values(),
        [codec.pipeline_term(pipeline) for pipeline in query.pipelines],
        [codec.user_term(user_id) for user_id in query.user_ids],
        [codec.trigger_term(trigger) for trigger in query.triggers],
        [codec.layer_term(layer) for layer in query.layers],
    ]
    conditions = [_having(alternatives) for alternatives in terms if alternatives]
    if query.statuses:
        conditions.append(_status_in([status.value for status in query.statuses]))
    if query.created_after is not None or query.created_before is not None:
        conditions.append(_created_within(query))
    return conditions


def _having(terms: list[str]) -> _Condition:
    other = job_terms.alias("other_terms")
    return _Condition(
        tuple(
            select(job_terms.c.job_id).where(job_terms.c.term == term)
            for term in dict.fromkeys(terms)
        ),
        lambda job_id: _exists(other, other.c.job_id == job_id, other.c.term.in_(terms)),
    )


def _status_in(statuses: list[str]) -> _Condition:
    other = jobs.alias("job_of_status")
    return _Condition(
        tuple(
            select(jobs.c.job_id).where(jobs.c.status == status)
            for status in dict.fromkeys(statuses)
        ),
        lambda job_id: _exists(other, other.c.job_id == job_id, other.c.status.in_(statuses)),
    )


def _created_within(query: JobQuery) -> _Condition:
    """From `created_after` on, and before `created_before`."""

    def within(column: ColumnElement[int]) -> list[ColumnElement[bool]]:
        bounds = []
        if query.created_after is not None:
            bounds.append(column >= codec.encode_instant(query.created_after))
        if query.created_before is not None:
            bounds.append(column < codec.encode_instant(query.created_before))
        return bounds

    other = jobs.alias("job_of_time")
    return _Condition(
        (select(jobs.c.job_id).where(*within(jobs.c.created_at)),),
        lambda job_id: _exists(other, other.c.job_id == job_id, *within(other.c.created_at)),
    )


def _exists(table: Any, *where: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(select(literal(1)).select_from(table).where(*where))
