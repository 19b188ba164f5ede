"""`PipelineSpec`: all that is known of a pipeline without its code; it crosses processes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, Self

from sluicegate.cancel_policy import DEFAULT_POLICY

LAYERS: Final = ("bronze", "silver", "gold")


@dataclass(frozen=True, slots=True)
class TableInput:
    """A parameter that receives a table.

    `table` is its pipeline id, `None` only until loading has found the table of that name;
    `kind` is how it arrives, one of `input_kinds.KINDS`.
    """

    parameter: str
    table: str | None
    kind: str


@dataclass(frozen=True, slots=True)
class FileParameter:
    """The parameter that receives the rows of one file of the landing zone."""

    parameter: str
    kind: str


def _default_policy() -> dict[str, float | None]:
    return DEFAULT_POLICY.seconds()


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """One declared pipeline, checked, with every default filled in; durations are in seconds."""

    pipeline_id: str
    layer: str
    name: str
    kind: Literal["python", "sql", "command"]
    depends_on: tuple[str, ...] = ()
    inputs: tuple[TableInput, ...] = ()
    file_parameter: FileParameter | None = None
    takes_task: str | None = None
    mode: str = "overwrite"
    keys: tuple[str, ...] = ()
    files: str | None = None
    timeout_seconds: float | None = None
    stall_timeout_seconds: float | None = None
    retries: int = 0
    retry_delay_seconds: float = 0.0
    cancel: Mapping[str, float | None] = field(default_factory=_default_policy)
    """`interrupt_after`, `terminate_after` and `kill_after`; a stage that is `None` is skipped."""
    schema: str = "strict"
    priority: int = 0
    tags: tuple[str, ...] = ()
    on_conflict: str = "queue"
    query: str | None = None
    command: tuple[str, ...] = ()
    """The program of a command and its arguments."""
    file: str = ""
    line: int = 0
    doc: str = ""
    source: str = ""
    source_hash: str = ""
    """SHA-256 of `source`, in hexadecimal digits."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values; `from_dict` gives back an equal spec."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` wrote, also after a way through JSON."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        values["inputs"] = tuple(TableInput(**one) for one in data["inputs"])
        if data["file_parameter"] is not None:
            values["file_parameter"] = FileParameter(**data["file_parameter"])
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, (TableInput, FileParameter)):
        return {one.name: getattr(value, one.name) for one in fields(value)}
    return dict(value) if isinstance(value, Mapping) else value
