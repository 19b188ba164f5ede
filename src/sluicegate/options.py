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

Kind = Literal["python", "sql", "command"]
"""What a pipeline is: a function, a query, or a program."""

STAGES: Final = ("interrupt_after", "terminate_after", "kill_after")
# The first of each is the default.
MODES: Final = ("overwrite", "append", "merge")
SCHEMAS: Final = ("strict", "evolve")
CONFLICTS: Final = ("queue", "reject", "cancel_running")


class CommandOptions(TypedDict, total=False):
    """What `layer.command(name, argv, ...)` takes; durations are seconds or text such as `"10m"`."""

    depends_on: Sequence[str]
    timeout: Duration | None
    stall_timeout: Duration | None
    retries: int
    retry_delay: Duration
    cancel: CancelPolicy | None
    priority: int
    tags: Sequence[str]
    on_conflict: Literal["queue", "reject", "cancel_running"]


class SqlOptions(CommandOptions, total=False):
    """What `layer.sql(name, query, ...)` takes: those of a command, and how the table is written."""

    mode: Literal["overwrite", "append", "merge"]
    keys: Sequence[str]
    schema: Literal["strict", "evolve"]


class PipelineOptions(SqlOptions, total=False):
    """What `@bronze(...)`, `@silver(...)` and `@gold(...)` take: those of SQL, and these two."""

    name: str
    files: str


_NAMES: Final[Mapping[Kind, tuple[str, ...]]] = {
    "python": tuple(PipelineOptions.__annotations__),
    "sql": tuple(SqlOptions.__annotations__),
    "command": tuple(CommandOptions.__annotations__),
}


def settle(
    options: Mapping[str, Any], complain: Complain, *, kind: Kind = "python"
) -> dict[str, Any]:
    """Return the fields of `PipelineSpec` that `options` decide; complain of the rest."""
    known = _NAMES[kind]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            offered = f"did you mean {close[0]}?" if close else ""
            complain(f"there is no option {name!r}", offered or f"options are: {', '.join(known)}")
    options = {name: value for name, value in options.items() if name in known}
    mode = _mode(options, complain)
    return {
        "mode": mode,
        "keys": _keys(mode, options, complain),
        "files": _files(options.get("files"), complain),
        "depends_on": _texts("depends_on", options, complain),
        "tags": _texts("tags", options, complain),
        "timeout_seconds": _seconds("timeout", options, complain, least=math.ulp(0)),
        "stall_timeout_seconds": _seconds("stall_timeout", options, complain, least=math.ulp(0)),
        "retries": _whole("retries", options, complain, least=0),
        "retry_delay_seconds": _seconds("retry_delay", options, complain) or 0.0,
        "cancel": _stages(options.get("cancel"), complain),
        "schema": _choice("schema", options, SCHEMAS, complain),
        "priority": _whole("priority", options, complain),
        "on_conflict": _choice("on_conflict", options, CONFLICTS, complain),
    }


def _mode(options: Mapping[str, Any], complain: Complain) -> str:
    has_files = options.get("files") is not None
    mode: object = options.get("mode", "append" if has_files else MODES[0])
    if mode not in MODES:
        complain(f"there is no mode {mode!r}", f"use one of {_listed(MODES)}")
    elif has_files and mode == "overwrite":
        complain(
            "files= reads each file once, so mode='overwrite' would drop the rows of earlier files",
            "leave mode out (it is 'append'), or merge by keys; "
            "to read every file again, run with full_refresh",
        )
    return str(mode)


def _keys(mode: str, options: Mapping[str, Any], complain: Complain) -> tuple[str, ...]:
    keys = _texts("keys", options, complain)
    if mode == "merge" and not options.get("keys"):
        complain(
            "mode='merge' matches rows by key, and keys is missing",
            'name the columns that tell one row from another: keys=["id"]',
        )
    elif keys and mode != "merge" and mode in MODES:
        complain(
            f"keys are given, but mode={mode!r} matches no rows by key",
            "write mode='merge', or leave keys out",
        )
    return keys


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


def _choice(
    name: str, options: Mapping[str, Any], choices: tuple[str, ...], complain: Complain
) -> str:
    """Read an option that is one of `choices`, the first being its default."""
    value: object = options.get(name, choices[0])
    if value not in choices:
        complain(f"there is no {name}={value!r}", f"use one of {_listed(choices)}")
    return str(value)


def _listed(choices: tuple[str, ...]) -> str:
    return ", ".join(map(repr, choices))
