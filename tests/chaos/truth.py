"""What every version of every table of `pipelines` must hold, worked out from the landing zone and the recorded inputs.

Imports nothing of Sluicegate and nothing of `pipelines`: the rules are said a second time here.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from chaos.checker import Evidence
from chaos.history import Commit, Row, TableHistory

SOURCES = {"bronze.events": "events/*.csv", "bronze.changes": "changes/*.csv"}
LINE_TABLES = ("bronze.events",)
VISITS, LINES_A_PAGE = 20, 3
# Rows are values in the order of the columns' names. Of a merged table this one is the key.
KEY_AT = {"bronze.changes": 1, "silver.latest": 1}


def differences(evidence: Evidence) -> Iterator[str]:
    """Tell each version of a table that does not hold what it should: after that the table is not judged any more."""
    for name, table in evidence.tables.items():
        for commit, before, after in table.walk():
            try:
                wanted = _expected(evidence, table, commit, before)
            except LookupError as error:
                yield f"{name}@{commit.version}: {error.args[0]}"
                break
            if after != wanted:
                lost, more = wanted - after, after - wanted
                yield (
                    f"{name}@{commit.version} ({commit.facts.get('kind')}, task "
                    f"{commit.facts.get('task_id')}): {lost.total()} rows are lost, {more.total()} "
                    f"too many: {[*lost][:3]}, {[*more][:3]}"
                )
                break
    yield from _pages_that_were_wanted(evidence)


def _expected(
    evidence: Evidence, table: TableHistory, commit: Commit, before: Counter[Row]
) -> Counter[Row]:
    if commit.brings_back is not None:
        return table.rows(commit.brings_back)
    if not commit.is_data:
        return before
    base = Counter[Row]() if commit.replaces else before
    if commit.is_rollback:
        return base
    rows = _unit(evidence, table, commit)
    if (at := KEY_AT.get(table.name)) is not None:
        return _merged(base, rows, at)
    return base + Counter(rows)


def _unit(evidence: Evidence, table: TableHistory, commit: Commit) -> Iterable[Row]:
    """The rows of one unit, in the order in which they were written."""
    task = evidence.records.tasks.get(commit.facts["task_id"], {"inputs": None})
    match table.name:
        case "bronze.events" | "bronze.changes":
            files = sorted(path for path, *_ in commit.facts["marks"])
            return [row for path in files for row in _file(evidence.landing / path)]
        case "bronze.pages":
            contents = table.contents
            first = 0
            if not commit.replaces and commit.version:
                first = contents[commit.version - 1].state.get("page", 0)
            after = contents[commit.version].state.get("page", 0)
            return [(line, page) for page in range(first, after) for line in range(LINES_A_PAGE)]
        case "bronze.visits":
            return [(n, commit.facts["task_id"]) for n in range(VISITS)]
        case "silver.totals":
            return _totals(_input(evidence, task, "bronze.events"))
        case "silver.by_file":
            return _by_file(_input(evidence, task, "bronze.events"))
        case "silver.latest":
            changes = _input(evidence, task, "bronze.changes")
            return [row for row in changes.elements() if row[KEY_AT["bronze.changes"]] % 2 == 0]
        case "gold.summary":
            totals = _input(evidence, task, "silver.totals")
            latest = _input(evidence, task, "silver.latest")
            amount, values = (
                sum(row[n] for row in rows.elements()) for rows, n in ((totals, 0), (latest, 2))
            )
            return [(amount, totals.total(), values)]
        case _:
            raise LookupError("no pipeline fills such a table")


def _input(evidence: Evidence, task: dict[str, object], table: str) -> Counter[Row]:
    """The rows of an input at the version that the task has recorded."""
    versions = dict(task["inputs"] or ())  # type: ignore[call-overload]
    if versions.get(table) is None:
        raise LookupError(f"its task has not recorded which version of {table} it read")
    return evidence.tables[table].rows(versions[table])


def _totals(events: Counter[Row]) -> list[Row]:
    found: dict[int, list[int]] = defaultdict(list)
    for amount, _, key, _ in events.elements():
        found[key].append(amount)
    return [(sum(amounts), len(amounts), key) for key, amounts in found.items()]


def _by_file(events: Counter[Row]) -> list[Row]:
    found: dict[str, list[int]] = defaultdict(list)
    for amount, file, _, _ in events.elements():
        found[file].append(amount)
    return [(sum(amounts), len(amounts), file) for file, amounts in found.items()]


def _merged(base: Counter[Row], rows: Iterable[Row], at: int) -> Counter[Row]:
    by_key = {row[at]: row for row in base} | {row[at]: row for row in rows}
    return Counter(by_key.values())


@cache
def _file(path: Path) -> list[Row]:
    """The rows of a file of the landing zone; none where it is not there, which is told elsewhere."""
    if not path.is_file():
        return []
    with path.open(newline="") as lines:
        return [
            tuple(row[name] if name == "file" else int(row[name]) for name in sorted(row))
            for row in csv.DictReader(lines)
        ]


def _pages_that_were_wanted(evidence: Evidence) -> Iterator[str]:
    """A task that was to go on up to some page, and succeeded, has done so."""
    table = evidence.tables.get("bronze.pages")
    for task_id, task in evidence.records.tasks.items():
        if (task["pipeline"], task["status"]) != ("bronze.pages", "success"):
            continue
        until = evidence.records.jobs[task["job_id"]]["params"].get("until", 0)
        version = table.version_of_epoch(task["epoch"]) if table else None
        page = 0 if version is None else table.contents[version].state.get("page", 0)  # type: ignore[union-attr]
        if page < until:
            yield f"task {task_id} (bronze.pages) succeeded at page {page} of {until}"
