"""The options of a declaration: their names and types, and the one place where they are checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, Literal, TypedDict

from sluicegate.cancel_policy import DEFAULT_POLICY, CancelPolicy
from sluicegate.durations import Duration, parse_duration
from sluicegate.errors import SluicegateError

Complain = Callable[[str, str], None]
"""Called with what is wrong and its mend; the declaration goes on, so that all is found at once."""

STAGES: Final = ("interrupt_after", "terminate_after", "kill_after")


class SqlOptions(TypedDict, total=False):
    """What `layer.sql(name, query, ...)` takes; durations are seconds or text such as `"10m"`."""

    mode: Literal["overwrite", "append"]
    depends_on: Sequence[str]
    timeout: Duration | None
    retries: int
    retry_delay: Duration
    cancel: CancelPolicy | None
    schema: Literal["strict", "evolve"]
    priority: int
    tags: Sequence[str]


class PipelineOptions(SqlOptions, total=False):
    """What `@bronze(...)`, `@silver(...)` and `@gold(...)` take: those of SQL, and these two."""

    name: str
    files: str


_LATER: Final = {
    "keys": "leave keys out; rows are not matched by key in this release",
    "stall_timeout": "use timeout, which ends an attempt that takes too long",
}
_KNOWN: Final = (
    *PipelineOptions.__annotations__,
    *SqlOptions.__annotations__,
    *_LATER,
    "on_conflict",
)


def settle(options: Mapping[str, Any], complain: Complain, *, sql: bool = False) -> dict[str, Any]:
    """Return the fields of `PipelineSpec` that `options` decide; complain of the rest."""
    _refuse_unknown(options, complain, sql=sql)
    return {
        "mode": _mode(options, complain),
        "files": _files(options.get("files"), complain),
        "depends_on": _texts("depends_on", options, complain),
        "tags": _texts("tags", options, complain),
        "timeout_seconds": _seconds("timeout", options, complain, least=math.ulp(0)),
        "retries": _whole("retries", options, complain, least=0),
        "retry_delay_seconds": _seconds("retry_delay", options, complain) or 0.0,
        "cancel": _stages(options.get("cancel"), complain),
        "schema": _schema(options, complain),
        "priority": _whole("priority", options, complain),
    }


def _refuse_unknown(options: Mapping[str, Any], complain: Complain, *, sql: bool) -> None:
    known = [name for name in _KNOWN if not (sql and name in ("files", "name"))]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            offered = f"did you mean {close[0]}?" if close else ""
            complain(f"there is no option {name!r}", offered or f"options are: {', '.join(known)}")
    for name, mend in _LATER.items():
        if options.get(name):
            complain(f"{name}={options[name]!r} is not supported in this release", mend)
    if (choice := options.get("on_conflict", "queue")) != "queue":
        complain(
            f"on_conflict={choice!r} is not supported in this release",
            "leave it out: a job waits until its table is free",
        )


def _mode(options: Mapping[str, Any], complain: Complain) -> str:
    has_files = options.get("files") is not None
    mode: object = options.get("mode", "append" if has_files else "overwrite")
    if mode == "merge":
        complain(
            "mode='merge' is not supported in this release", "use mode='append' or 'overwrite'"
        )
    elif mode not in ("overwrite", "append"):
        complain(f"there is no mode {mode!r}", "use 'overwrite' or 'append'")
    elif has_files and mode == "overwrite":
        complain(
            "files= reads each file once, so mode='overwrite' would drop the rows of earlier files",
            "leave mode out (it is 'append'); to read every file again, run with full_refresh",
        )
    return str(mode)


def _files(pattern: object, complain: Complain) -> str | None:
    if pattern is None:
        return None
    path = PurePosixPath(pattern) if isinstance(pattern, str) else PurePosixPath()
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in str(path):
        complain(
            f"files={pattern!r} is no pattern within the landing zone",
            'write a relative path with wildcards, such as "weather/*.csv"',
        )
    return str(pattern)


def _texts(name: str, options: Mapping[str, Any], complain: Complain) -> tuple[str, ...]:
    value = options.get(name) or ()
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        return tuple(dict.fromkeys(value))
    complain(f"{name} must be a list of texts, got {value!r}", f'write {name}=["…"]')
    return ()


def _whole(
    name: str, options: Mapping[str, Any], complain: Complain, least: int | None = None
) -> int:
    value = options.get(name, 0)
    if isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least):
        return value
    bound = "" if least is None else f" of at least {least}"
    complain(f"{name} must be a whole number{bound}, got {value!r}", f"correct {name}")
    return 0


def _seconds(
    name: str, options: Mapping[str, Any], complain: Complain, least: float = 0.0
) -> float | None:
    value = options.get(name)
    if value is None:
        return None
    try:
        seconds = parse_duration(value)
    except SluicegateError as error:
        complain(f"{name}: {error.what}", error.mend)
        return None
    if seconds < least:
        complain(f"{name} must be longer than 0 seconds, got {value!r}", f"or leave {name} out")
        return None
    return seconds


def _stages(policy: object, complain: Complain) -> dict[str, float | None]:
    """Read a `CancelPolicy`, or anything with its attributes, in seconds."""
    if policy is None:
        return DEFAULT_POLICY.seconds()
    if not all(hasattr(policy, stage) for stage in STAGES):
        complain(f"cancel must be a CancelPolicy, got {policy!r}", "write cancel=CancelPolicy(…)")
        return DEFAULT_POLICY.seconds()
    values = {stage: getattr(policy, stage) for stage in STAGES}
    return {stage: _seconds(stage, values, complain) for stage in STAGES}


def _schema(options: Mapping[str, Any], complain: Complain) -> str:
    schema: object = options.get("schema", "strict")
    if schema not in ("strict", "evolve"):
        complain(f"there is no schema={schema!r}", "use 'strict' or 'evolve'")
    return str(schema)
