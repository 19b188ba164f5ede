"""The rules of the contract's section 3, read off tables, store and landing zone. Each tells what breaks it.

Imports nothing of Sluicegate, and knows no pipeline: what a table should hold is for others to say (`truth`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq

from chaos.history import TableHistory, read_lake
from chaos.records import Record, Records, read_store

ENDED = ("success", "failed", "partial", "cancelled")
TASK_ENDED = ("success", "failed", "cancelled")
RECOVERIES_MAX = 3
ATTEMPT_EVENTS = ("task.started", "task.waiting", "task.finished")


@dataclass(frozen=True)
class Evidence:
    """What is judged.

    Args:
        acknowledged: Job ids that were answered for, by the answer: `created`, `cancelled`, `rolled_back`.
        sources: The files that a table is read from: its pattern in the landing zone.
        line_tables: Those of them that hold one row for each line of the files that they were read from.
    """

    records: Records
    tables: dict[str, TableHistory]
    landing: Path
    acknowledged: Mapping[str, Collection[str]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    line_tables: Collection[str] = ()


Rule = Callable[[Evidence], Iterator[str]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    RULES.append(function)
    return function


def gather(store: str, lake: Path, landing: Path, **more: Any) -> Evidence:
    """Read a store (its URL) and a lake."""
    return Evidence(read_store(store), read_lake(lake), landing, **more)


def violations(evidence: Evidence) -> list[str]:
    """Return a line for everything that breaks a rule; none where all is well."""
    return [line for judge in RULES for line in judge(evidence)]


# ------------------------------------------------------------------ jobs and their tasks


@rule
def nothing_is_unfinished(evidence: Evidence) -> Iterator[str]:
    """Every job has ended, with all its tasks; no table is held, no rollback hangs."""
    for job_id, job in evidence.records.jobs.items():
        if job["status"] not in ENDED or job["completed_at"] is None:
            yield f"job {job_id} is {job['status']} and not over"
        if job["rollback"] and job["rollback"]["finished_at"] is None:
            yield f"job {job_id}: its rollback is not carried out"
    for task_id, task in evidence.records.tasks.items():
        if task["status"] not in TASK_ENDED or task["completed_at"] is None:
            yield f"task {task_id} ({task['pipeline']}) is {task['status']} and not over"
    for table, writer in evidence.records.writers.items():
        if writer["job_id"] is not None or writer["task_id"] is not None:
            yield f"{table} is still held by task {writer['task_id']} of job {writer['job_id']}"


@rule
def jobs_say_what_their_tasks_came_to(evidence: Evidence) -> Iterator[str]:
    """The status of a job follows from its tasks, in the contract's order of precedence, and so do its counts."""
    records = evidence.records
    for job_id, job in records.jobs.items():
        if job["status"] not in ENDED:
            continue
        tasks, plan = records.tasks_of(job_id), records.plans[job_id]
        count = Counter(task["status"] for task in tasks)
        if (status := _status(job, plan, count)) != job["status"]:
            yield f"job {job_id} is {job['status']}, its tasks say {status}: {dict(count)} of {len(plan)}"
        told = tuple(
            job[f"{name}_tasks"] for name in ("completed", "failed", "cancelled", "running")
        )
        real = tuple(count[name] for name in ("success", "failed", "cancelled", "running"))
        if told != real or job["total_tasks"] != len(plan):
            yield f"job {job_id} counts {told} of {job['total_tasks']}, its tasks are {real} of {len(plan)}"
        once = Counter(task["pipeline"] for task in tasks)
        if once.keys() - set(plan) or any(n > 1 for n in once.values()):
            yield f"job {job_id}: its tasks are not its plan's: {dict(once)}"
        if job["recoveries"] > RECOVERIES_MAX + 1:
            yield f"job {job_id} was taken up {job['recoveries']} times"


def _status(job: Record, plan: list[str], count: Counter[str]) -> str:
    if job["cancellation"] is not None:
        return "cancelled"
    if count["success"] == len(plan):
        return "success"
    if count["success"]:
        return "partial"
    return "failed" if count["failed"] else "cancelled"


@rule
def receipts_are_complete(evidence: Evidence) -> Iterator[str]:
    """A stop leaves a receipt that is closed, and keeps what the job's tasks have published."""
    records = evidence.records
    for job_id, job in records.jobs.items():
        if (receipt := job["cancellation"]) is None or job["completed_at"] is None:
            continue
        if receipt["stopped_at"] is None or receipt["outcome"] is None:
            yield f"job {job_id}: its receipt is not closed"
        if receipt["outcome"] == "unconfirmed" and receipt["confirmed_at"] is None:
            yield f"job {job_id}: its stop was never confirmed"
        tasks = records.tasks_of(job_id)
        kept = {(k["table"], k["version"], k["rows"]) for k in receipt["kept"]}
        real = {
            (t["pipeline"], t["stats"]["version"], t["stats"]["rows"])
            for t in tasks
            if t["stats"]["version"] is not None
        }
        if kept != real:
            yield f"job {job_id}: its receipt keeps {sorted(kept)}, its tasks published {sorted(real)}"
        if set(receipt["not_started"]) != set(records.plans[job_id]) - {
            t["pipeline"] for t in tasks
        }:
            yield f"job {job_id}: its receipt names others as not started: {receipt['not_started']}"


@rule
def resumes_are_linked_both_ways(evidence: Evidence) -> Iterator[str]:
    """A job that goes on as another, and the one that it goes on as, name each other."""
    jobs = evidence.records.jobs
    for job_id, job in jobs.items():
        for there, back in (("resumed_from", "resumed_by"), ("resumed_by", "resumed_from")):
            if (other := job[there]) and jobs.get(other, {}).get(back) != job_id:
                yield f"job {job_id}: {there} {other}, which does not say so"


@rule
def answers_hold(evidence: Evidence) -> Iterator[str]:
    """What a server has answered is stored, whatever was killed a moment later (rule 2)."""
    jobs = evidence.records.jobs
    told = evidence.acknowledged
    for job_id in told.get("created", ()):
        if job_id not in jobs:
            yield f"job {job_id} was answered for, and is not stored"
    for job_id in told.get("cancelled", ()):
        if job_id not in jobs or jobs[job_id]["cancellation"] is None:
            yield f"job {job_id} was answered to be cancelled, and is not"
    for job_id in told.get("rolled_back", ()):
        if job_id not in jobs or jobs[job_id]["rollback"] is None:
            yield f"job {job_id} was answered to be rolled back, and is not"


@rule
def timelines_are_in_order(evidence: Evidence) -> Iterator[str]:
    """Nothing starts after its job was cancelled (rule 3), nothing that ended starts again (rule 12)."""
    for job_id, job in evidence.records.jobs.items():
        cancelled = False
        ends = Counter[str]()
        attempt: dict[str, int] = {}
        finished: set[str] = set()
        running: set[str] = set()
        for event in evidence.records.events_of(job_id):
            kind, task_id = event["type"], event["task_id"]
            cancelled |= kind == "job.cancelled"
            ends[kind] += 1
            if kind not in ATTEMPT_EVENTS:
                continue
            at = f"job {job_id}, event {event['event_id']}: task {task_id}"
            if task_id in finished:
                yield f"{at} had finished, and then {kind}"
            if kind == "task.started":
                if cancelled:
                    yield f"{at} starts after its job was cancelled"
                if task_id in running:
                    yield f"{at} starts while an attempt of it runs"
                if event["data"]["attempt"] <= attempt.get(task_id, 0):
                    yield f"{at} starts attempt {event['data']['attempt']} again"
                attempt[task_id] = event["data"]["attempt"]
                running.add(task_id)
            else:
                running.discard(task_id)
            if kind == "task.finished":
                finished.add(task_id)
        if job["completed_at"] is not None and ends["job.finished"] + ends["job.stopped"] != 1:
            yield f"job {job_id} is over, and has {ends['job.finished']} + {ends['job.stopped']} ends"
        if cancelled != (job["cancellation"] is not None):
            yield f"job {job_id}: its timeline and its header differ about a stop"
        untold = {t["task_id"] for t in evidence.records.tasks_of(job_id)} ^ finished
        if job["completed_at"] is not None and untold:
            yield f"job {job_id}: tasks without an end in the timeline, or the reverse: {sorted(untold)}"


# ------------------------------------------------------------------ tasks and their commits


@rule
def statuses_and_logs_agree(evidence: Evidence) -> Iterator[str]:
    """What a task says that it has committed is what its table's log says (rule 5)."""
    for task_id, task in evidence.records.tasks.items():
        table = evidence.tables.get(task["pipeline"])
        units = table.units_of(task_id) if table else []
        stats, where = task["stats"], f"task {task_id} ({task['pipeline']}, {task['status']})"
        told = (stats["units"], stats["rows"], stats["bytes"], stats["files"])
        real = (len(units), *(sum(u.facts[n] for u in units) for n in ("rows", "bytes", "files")))
        if told != real:
            yield f"{where} says units, rows, bytes, files {told}, the log says {real}"
        elif units and stats["version"] != units[-1].version:
            yield f"{where} says version {stats['version']}, the log says {units[-1].version}"
        if task["permits"] < len(units):
            yield f"{where} was permitted {task['permits']} commits and made {len(units)}"
        if any(unit.facts["final"] for unit in units) and task["status"] == "failed":
            yield f"{where} has committed all of its output, and failed"


@rule
def commits_belong_to_tasks(evidence: Evidence) -> Iterator[str]:
    """Every change of a table was made by a task or a rollback that is told of, in its turn (rule 4)."""
    tasks, jobs = evidence.records.tasks, evidence.records.jobs
    rollbacks = {j["rollback"]["rollback_id"]: j for j in jobs.values() if j["rollback"]}
    for name, table in evidence.tables.items():
        units: Counter[str] = Counter()
        for commit in table.commits:
            where, facts = f"{name}@{commit.version}", commit.facts
            if not facts:
                yield f"{where}: nobody of ours wrote it: {commit.operation}"
            elif commit.is_rollback:
                job = rollbacks.get(facts["task_id"])
                if job is None or name not in [t[0] for t in job["rollback"]["tables"]]:
                    yield f"{where}: it takes back what no rollback is told to take back"
            elif (task := tasks.get(facts["task_id"])) is None:
                yield f"{where}: it is of task {facts['task_id']}, which nobody knows"
            elif (task["job_id"], task["pipeline"]) != (facts["job_id"], name):
                yield f"{where}: it is of task {task['task_id']}, which is {task['pipeline']} of another job"
            elif facts["attempt"] > task["attempt"] or (commit.epoch or 0) > task["epoch"]:
                yield f"{where}: attempt {facts['attempt']} and epoch {commit.epoch} were never given out"
            elif commit.is_unit:
                units[task["task_id"]] += 1
                if facts["unit"] != units[task["task_id"]]:
                    yield f"{where}: unit {facts['unit']} comes as number {units[task['task_id']]}"
                if task["completed_at"] and commit.timestamp_ms > task["completed_at"] / 1000:
                    yield f"{where}: it comes after its task {task['task_id']} had ended"


@rule
def writers_only_move_on(evidence: Evidence) -> Iterator[str]:
    """Epochs grow with a table's versions: who was replaced has written nothing after that."""
    for name, table in evidence.tables.items():
        newest = 0
        for commit in table.commits:
            if commit.epoch is None or commit.epoch < newest:
                yield f"{name}@{commit.version}: epoch {commit.epoch} after {newest}"
            newest = max(newest, commit.epoch or 0)
        given = evidence.records.writers.get(name, {"epoch": 0})["epoch"]
        if newest > given:
            yield f"{name}: its log is at epoch {newest}, the store has given out {given}"


@rule
def rollbacks_are_carried_out(evidence: Evidence) -> Iterator[str]:
    """Every table of a rollback was put back, once, to the very content that was promised."""
    for job_id, job in evidence.records.jobs.items():
        rollback = job["rollback"]
        if rollback is None or rollback["finished_at"] is None:
            continue
        for name, from_version, to_version in rollback["tables"]:
            where = f"job {job_id}: the rollback of {name} to {to_version}"
            table = evidence.tables[name]
            found = [
                c
                for c in table.commits
                if c.is_rollback and c.facts["task_id"] == rollback["rollback_id"]
            ]
            if len(found) != 1:
                yield f"{where} is {len(found)} times in its log"
                continue
            version = found[0].version
            if version <= from_version:
                yield f"{where} comes before version {from_version}, which it takes back"
            if to_version is None:
                if table.files[version]:
                    yield f"{where} left rows there"
            elif table.contents[version] != table.contents[to_version]:
                yield f"{where} brought back other marks or another state"
            elif table.row_count(version) != table.row_count(to_version):
                yield f"{where} brought back {table.row_count(version)} rows of {table.row_count(to_version)}"


# ------------------------------------------------------------------ tables and files


@rule
def tables_are_whole(evidence: Evidence) -> Iterator[str]:
    """Each entry can be read, and each file that it names is there, whole, with the rows that it says (rule 4)."""
    for name, table in evidence.tables.items():
        yield from table.problems
        for commit in table.commits:
            for path, add in commit.added.items():
                damage = _damage(table.folder / unquote(path), add["size"], table.row_counts[path])
                if damage is not None:
                    yield f"{name}@{commit.version}: {path}: {damage}"


@rule
def units_hold_the_rows_that_they_say(evidence: Evidence) -> Iterator[str]:
    """A unit adds its rows, whatever it replaces; upkeep changes no count."""
    for name, table in evidence.tables.items():
        for commit in table.commits:
            change = sum(table.row_counts[path] for path in commit.added) - sum(
                table.row_counts[path] for path in commit.removed
            )
            where = f"{name}@{commit.version}"
            if commit.facts.get("kind") in ("fence", "schema", "maintenance") and change:
                yield f"{where}: upkeep changed the number of rows by {change}"
            if commit.is_unit and not commit.removed and change != commit.facts["rows"]:
                yield f"{where}: {change} rows in the files of a unit of {commit.facts['rows']}"


@rule
def every_file_is_there_once(evidence: Evidence) -> Iterator[str]:
    """A file that counts as ingested is the one in the landing zone; its rows are there as often as it has lines."""
    for name, table in evidence.tables.items():
        for path, (size, mtime_ns) in table.contents[-1].marks.items() if table.contents else ():
            file = evidence.landing / path
            if not file.is_file():
                yield f"{name}: {path} counts as ingested, and is not there"
            elif (file.stat().st_size, file.stat().st_mtime_ns) != (size, mtime_ns):
                yield f"{name}: {path} is another one than was ingested"
        if name not in evidence.line_tables:
            continue
        for commit in table.commits:
            if not commit.is_unit:
                continue
            lines = sum(_lines(evidence.landing / path) for path, *_ in commit.facts["marks"])
            if lines != commit.facts["rows"]:
                yield f"{name}@{commit.version}: {commit.facts['rows']} rows of {lines} lines"
        if table.commits:
            lines = sum(_lines(evidence.landing / path) for path in table.contents[-1].marks)
            if (rows := table.row_count(-1)) != lines:
                yield f"{name}: {rows} rows, and {lines} lines in the files that count as ingested"


@rule
def files_that_were_there_are_in(evidence: Evidence) -> Iterator[str]:
    """A task that ingests files and succeeded has left none behind that lay there before its job was made."""
    for task_id, task in evidence.records.tasks.items():
        name = task["pipeline"]
        if task["status"] != "success" or name not in evidence.sources:
            continue
        table = evidence.tables.get(name)
        version = table.version_of_epoch(task["epoch"]) if table else None
        marks = table.contents[version].marks if table and version is not None else {}
        made_at = evidence.records.jobs[task["job_id"]]["created_at"]
        missing = [
            path.relative_to(evidence.landing).as_posix()
            for path in sorted(evidence.landing.glob(evidence.sources[name]))
            if path.stat().st_mtime_ns // 1000 < made_at
            and path.relative_to(evidence.landing).as_posix() not in marks
        ]
        if missing:
            yield f"task {task_id} ({name}) succeeded without {missing}"


def orphan_files(tables: Mapping[str, TableHistory]) -> list[str]:
    """Return the files in the tables' folders that no entry of their logs names. Nobody sees them; they take room."""
    found = []
    for name, table in tables.items():
        named = {unquote(path) for commit in table.commits for path in commit.added}
        found += [f"{name}/{p.name}" for p in table.folder.glob("*.parquet") if p.name not in named]
        found += [f"{name}/{p.name}" for p in (table.folder / "_delta_log").glob(".*")]
    return sorted(found)


def _damage(path: Path, size: int, rows: int) -> str | None:
    try:
        found = path.stat().st_size
        held = pq.ParquetFile(path).metadata.num_rows
    except FileNotFoundError:
        return "it is not there"
    except Exception as error:  # noqa: BLE001 - whatever a torn file raises
        return f"it cannot be read: {error!r}"
    if (found, held) != (size, rows):
        return f"it has {found} bytes and {held} rows, not {size} and {rows}"
    return None


def _lines(path: Path) -> int:
    """Lines of a text file, its header not counted; a file that is not there has none."""
    return _lines_of(path, path.stat().st_mtime_ns) if path.is_file() else 0


@cache
def _lines_of(path: Path, _mtime_ns: int) -> int:
    return max(0, len(path.read_bytes().splitlines()) - 1)
