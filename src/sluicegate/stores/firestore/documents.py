"""What is stored where: records <-> documents, and the paths of documents. Pure: knows no driver.

    jobs/{job_id}                    the header; besides, for people and queries: pipelines, layers, labels, terms
    jobs/{job_id}/plan/{n}           the plan, compressed, cut into parts that fit a document
    jobs/{job_id}/tasks/{task_id}    a task; there is none before its first start
    jobs/{job_id}/events/{event_id}  an event
    jobs/{job_id}/logs/{log_id}      some lines of one commit, named after the last of them
    writers/{table}, executors/{executor_id}, keys/{key_hash}, idempotency_keys/{sha256}
    meta/schema, meta/counters

A document has the keys of `codec`. Instants are real timestamps. A text that is longer than `TEXT_MAX` is
compressed bytes: a document holds 1 MiB.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import quote

from sluicegate.core.job import Event, Job, LogEntry, TaskRecord
from sluicegate.core.plan import Plan
from sluicegate.core.ports import Writer
from sluicegate.stores import codec

Document = Mapping[str, Any]

SCHEMA: Final = "meta/schema"
COUNTERS: Final = "meta/counters"

TEXT_MAX: Final = 32 * 1024
PART_BYTES_MAX: Final = 768 * 1024
BLOCK_LINES_MAX: Final = 500
BLOCK_BYTES_MAX: Final = 256 * 1024

# A job of more pipelines has one term for all of them, and who asks for a pipeline looks into its plan:
# each term costs an entry in several indexes, of which a document may have 40,000.
PIPELINES_MAX: Final = 100
MANY_PIPELINES: Final = "pipelines:many"
# Longer texts are cut off in an index (at 1,500 bytes), so that different ones would look the same.
TERM_BYTES_MAX: Final = 1000
# Of 1,500 that Firestore allows.
NAME_BYTES_MAX: Final = 1000

# A line of a log as it stands in the document of its block: a JSON list of these, one to a line of the text.
_LINE: Final = ("log_id", "at", "level", "stream", "task_id", "message", "job_id")

# Written once: what a job is found by is that of its creation.
_FIXED: Final = frozenset(
    {"job_id", "created_at", "user_id", "trigger", "labels", "idempotency_key"}
)


@dataclass(frozen=True, slots=True)
class Write:
    """One document to write; `document` is `None` where it is to be removed.

    `condition`: `False` when it must not exist yet, an update time when it must be of that time, `None` for
    neither. `merge`: fields that are not named stay. `first`: the fields whose lowest value ever is kept.
    """

    path: str
    document: Document | None
    condition: Literal[False] | datetime | None = None
    merge: bool = False
    first: tuple[str, ...] = ()


# ------------------------------------------------------------------ paths


def job_path(job_id: str) -> str:
    """Return the path of a job's document."""
    return f"jobs/{_name(job_id)}"


def plan_path(job_id: str, part: int) -> str:
    """Return the path of a part of a job's plan, counted from 0."""
    return f"{job_path(job_id)}/plan/{part}"


def writer_path(table: str) -> str:
    """Return the path of a table's writer."""
    return f"writers/{_name(table)}"


def executor_path(executor_id: str) -> str:
    """Return the path of an executor."""
    return f"executors/{_name(executor_id)}"


def key_path(key_hash: str) -> str:
    """Return the path of an API key."""
    return f"keys/{_name(key_hash)}"


def idempotency_path(key: str) -> str:
    """Return the path of what says which job has this idempotency key, as `codec` writes it."""
    return f"idempotency_keys/{hashlib.sha256(key.encode()).hexdigest()}"


def _name(text: str) -> str:
    """A document's name: no slash, no dots alone, no `__…__`, never empty, not too long.

    Whoever asks for a job by a name that none can have must be told that there is none.

    Source: Firestore documentation, 'Usage and limits', constraints on document ids.
    """
    name = quote(codec.encode_text(text), safe="(),;:@!$&*+= ")
    if len(name) > NAME_BYTES_MAX:
        return f"%sha256-{hashlib.sha256(name.encode()).hexdigest()}"
    is_reserved = name in ("", ".", "..") or (name.startswith("__") and name.endswith("__"))
    return f"%{name}" if is_reserved else name


# ------------------------------------------------------------------ rows


def to_document(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a row of `codec`."""
    return {key: _stored(key, value) for key, value in row.items()}


def from_document(document: Document) -> dict[str, Any]:
    """Return the row of a document."""
    return {key: _loaded(value) for key, value in document.items()}


def _stored(key: str, value: Any) -> Any:
    if value is not None and (key == "at" or key.endswith("_at")):
        return codec.decode_instant(value)
    if isinstance(value, str) and len(value) > TEXT_MAX:
        return zlib.compress(value.encode())
    return value


def _loaded(value: Any) -> Any:
    if isinstance(value, datetime):
        return codec.encode_instant(value)
    if isinstance(value, bytes):
        return zlib.decompress(value).decode()
    return value


# ------------------------------------------------------------------ jobs


def new_job(job: Job, plan: Plan | None) -> dict[str, Any]:
    """Return the document of a new job: the header, and what it is found by."""
    row = codec.encode_job(job)
    pipelines = plan.pipelines if plan is not None else ()
    layers = {step.layer: None for step in plan.steps} if plan is not None else {}
    return to_document(row) | {
        "labels": [codec.encode_text(f"{key}={value}") for key, value in job.labels.items()],
        "labels_json": row["labels"],
        "pipelines": [codec.encode_text(pipeline) for pipeline in pipelines[:PIPELINES_MAX]],
        "layers": list(layers),
        "terms": terms(job, plan),
    }


def changed_job(job: Job) -> dict[str, Any]:
    """Return the fields that a change of a job's header writes."""
    row = codec.encode_job(job)
    return to_document({key: value for key, value in row.items() if key not in _FIXED})


def load_job(document: Document) -> Job:
    """Return the job of a document."""
    row = from_document({k: v for k, v in document.items() if not isinstance(v, list)})
    return codec.decode_job(row | {"labels": row["labels_json"]})


def terms(job: Job, plan: Plan | None) -> list[str]:
    """Return what a job is found by, besides status and time."""
    found = [indexable(term) for term in codec.encode_terms(job, plan)]
    if plan is not None and len(plan.steps) > PIPELINES_MAX:
        found = [term for term in found if not term.startswith("pipeline:")]
        found.append(MANY_PIPELINES)
    return found


def indexable(term: str) -> str:
    """Return the term, or what stands for it where it is too long for an index."""
    if len(term.encode()) <= TERM_BYTES_MAX:
        return term
    kind, _, rest = term.partition(":")
    return f"{kind}:sha256:{hashlib.sha256(rest.encode()).hexdigest()}"


def askable(text: str) -> str:
    """Return the text as a query may ask for it: one that is too long is nobody's id, nor is what it becomes."""
    text = codec.encode_text(text)
    return text if len(text.encode()) <= NAME_BYTES_MAX else text[:200] + "\uffff"


def plan_parts(job_id: str, plan: Plan) -> list[Write]:
    """Return the documents of a plan."""
    packed = zlib.compress(codec.encode_plan(plan).encode())
    starts = range(0, len(packed), PART_BYTES_MAX)
    return [
        Write(
            plan_path(job_id, n),
            {"parts": len(starts), "data": packed[start : start + PART_BYTES_MAX]},
        )
        for n, start in enumerate(starts)
    ]


def load_plan(parts: Iterable[Document]) -> Plan:
    """Return the plan of its parts, in order."""
    packed = b"".join(part["data"] for part in parts)
    return codec.decode_plan(zlib.decompress(packed).decode())


# ------------------------------------------------------------------ what belongs to a job


def task_write(task: TaskRecord, position: int) -> Write:
    """Return the write of a task. Its position is that of its first start, whatever is written later."""
    document = to_document(codec.encode_task(task)) | {"position": position}
    path = f"{job_path(task.job_id)}/tasks/{_name(task.task_id)}"
    return Write(path, document, merge=True, first=("position",))


def writer_write(writer: Writer, condition: Literal[False] | datetime | None) -> Write:
    """Return the write of a table's writer."""
    document = to_document(codec.encode_writer(writer))
    return Write(writer_path(writer.table), document, condition)


def event_write(event: Event) -> Write:
    """Return the write of an event."""
    path = f"{job_path(event.job_id)}/events/{event.event_id:016}"
    return Write(path, to_document(codec.encode_event(event)), condition=False)


def log_writes(entries: Sequence[LogEntry]) -> Iterator[Write]:
    """Return the writes of lines that have their ids: some lines of one job to a document, in order."""
    blocks: dict[str, list[LogEntry]] = {}
    sizes: dict[str, int] = {}
    for entry in entries:
        block = blocks.setdefault(entry.job_id, [])
        size = sizes.get(entry.job_id, 0) + 4 * len(entry.message) + 200
        if block and (len(block) >= BLOCK_LINES_MAX or size > BLOCK_BYTES_MAX):
            yield _log_write(block)
            block.clear()
            size = 4 * len(entry.message) + 200
        block.append(entry)
        sizes[entry.job_id] = size
    yield from (_log_write(block) for block in blocks.values())


def load_lines(document: Document) -> list[LogEntry]:
    """Return the lines of a document, oldest first."""
    lines: str = _loaded(document["lines"])
    return [
        codec.decode_log(dict(zip(_LINE, json.loads(line), strict=True)))
        for line in lines.split("\n")
    ]


def _log_write(block: Sequence[LogEntry]) -> Write:
    last = block[-1]
    document = {
        "log_id": last.log_id,
        "task_ids": list(dict.fromkeys(entry.task_id for entry in block if entry.task_id)),
        # As text: as fields of their own, a thousand lines took the driver 0.6 s to read and 0.1 s to write.
        "lines": _stored("lines", "\n".join(map(_line, block))),
    }
    path = f"{job_path(last.job_id)}/logs/{last.log_id:016}"
    return Write(path, document, condition=False)


def _line(entry: LogEntry) -> str:
    row = codec.encode_log(entry)
    return json.dumps([row[key] for key in _LINE], ensure_ascii=False, separators=(",", ":"))


# ------------------------------------------------------------------ sizes


def size_bytes(value: Any) -> int:
    """Return about how many bytes a value takes in a document and in a request, rather too many."""
    if isinstance(value, str):
        return 8 + (len(value) if value.isascii() else len(value.encode()))
    if isinstance(value, bytes):
        return 8 + len(value)
    if isinstance(value, Mapping):
        return 8 + sum(size_bytes(key) + size_bytes(item) for key, item in value.items())
    if isinstance(value, list):
        return 8 + sum(map(size_bytes, value))
    return 16
