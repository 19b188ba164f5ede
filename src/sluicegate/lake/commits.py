"""The single steps that change a table's log: each commits exactly the next version, or raises.

Every step carries the writer's epoch as an application transaction and is never tried again by
the library (`max_commit_retries=0`): whether it may be, only the caller knows. Tried with
deltalake 1.6: a handle loaded at version v commits v+1 or raises `CommitFailedError`; of many
creators of a table exactly one writes version 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, TableFeatures, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, create_table_with_add_actions

from sluicegate.lake.data_files import DataFile
from sluicegate.lake.durable import flush_to_disk
from sluicegate.lake.log import APP_ID, entry_path

BLANK_COLUMN: Final = "_sluicegate_blank"
"""The only column of a table that was fenced before it had content; Delta Lake wants one."""

DRAFT_PREFIX: Final = ".sluicegate-"
"""How a log entry is named that has not got its version yet; then its task, its attempt, 8 hex digits."""

CHECKPOINT_EVERY_VERSIONS: Final = 100  # as deltalake does by itself
WRITER_VERSION_MAX: Final = (
    3  # append-only tables, invariants and check constraints; we look for each
)
_KNOWN_FEATURES: Final = {"timestampNtz", "appendOnly", "invariants", "checkConstraints"}
_BLANK_SCHEMA: Final = pa.schema([(BLANK_COLUMN, pa.bool_())])
_CONFIGURATION: Final = {
    "delta.enableExpiredLogCleanup": "false",  # the log is our memory
    "delta.dataSkippingNumIndexedCols": "0",  # see `DataFile.stats`; for compaction's files
}


@dataclass(frozen=True)
class WriterIdentity:
    """Who writes: handed out by the job store in the write that started the attempt.

    Args:
        epoch: The table's writer number; a later attempt or job has a higher one.
    """

    job_id: str
    task_id: str
    attempt: int
    epoch: int

    def facts(self, kind: str, **more: Any) -> dict[str, Any]:
        """Return the metadata of a commit: `kind` is `data`, `fence`, `schema` or `maintenance`."""
        return {
            "kind": kind,
            "job_id": self.job_id,
            "task_id": self.task_id,
            "attempt": self.attempt,
            "epoch": self.epoch,
            **more,
        }


@dataclass(frozen=True)
class RemovedFile:
    """A file of the table that a commit takes out of it; `path` is as the log has it."""

    path: str
    bytes: int

    def action(self, now_ms: int, *, changes_data: bool) -> dict[str, Any]:
        """Return it as the log wants it."""
        return {
            "path": self.path,
            "deletionTimestamp": now_ms,
            "dataChange": changes_data,
            "extendedFileMetadata": True,
            "partitionValues": {},
            "size": self.bytes,
        }


def load(folder: Path) -> DeltaTable | None:
    """Return the table at its newest version, or `None` where there is none."""
    if not (folder / "_delta_log").is_dir() or not DeltaTable.is_deltatable(str(folder)):
        return None
    return DeltaTable(str(folder))


def epoch_of(table: DeltaTable | None) -> int:
    """Return the epoch of the last writer of ours in this snapshot; 0 before the first."""
    return 0 if table is None else table.transaction_version(APP_ID) or 0


def schema_of(table: DeltaTable | None) -> pa.Schema | None:
    """Return the table's columns; `None` where it is absent or was only fenced."""
    if table is None:
        return None
    schema = pa.schema(table.schema())
    return None if schema.names == [BLANK_COLUMN] else schema


def create(
    folder: Path,
    schema: pa.Schema | None,
    files: list[DataFile],
    who: WriterIdentity,
    facts: dict[str, Any],
) -> None:
    """Write version 0, put-if-absent; without a schema, a blank table that only holds a fence."""
    folder.mkdir(parents=True, exist_ok=True)
    create_table_with_add_actions(
        str(folder),
        Schema.from_arrow(_BLANK_SCHEMA if schema is None else schema),
        _adds(files),
        "error",
        [],
        configuration=_CONFIGURATION,
        commit_properties=properties(who, facts),
    )
    flush_entry(folder, 0)


def add(
    table: DeltaTable,
    folder: Path,
    schema: pa.Schema,
    files: list[DataFile],
    who: WriterIdentity,
    facts: dict[str, Any],
    *,
    replace: bool,
) -> None:
    """Write the next version: `files` beside what is there, or instead of it."""
    table.create_write_transaction(
        _adds(files),
        "overwrite" if replace else "append",
        Schema.from_arrow(schema),
        commit_properties=properties(who, facts),
    )
    version = table.version() + 1
    flush_entry(folder, version)
    table.update_incremental()
    if table.version() != version:  # somebody was quick; the next commit has to meet it
        table.load_as_version(version)


def replace_files(
    table: DeltaTable,
    folder: Path,
    files: list[DataFile],
    removed: list[RemovedFile],
    who: WriterIdentity,
    facts: dict[str, Any],
    *,
    same_rows: bool = False,
) -> None:
    """Write the next version: `files` instead of those `removed`, the rest as it is.

    deltalake can only add files, or replace all of them; its own compaction leaves our epoch out, and tries again by
    itself. So the entry is ours: a file that is whole before it gets its name by a link, which fails if another was
    first.

    Args:
        same_rows: The new files hold just the rows of the old ones: it is a compaction.

    Raises: `CommitFailedError`: somebody else has written this version.

    Source: Delta Transaction Log Protocol, "Add File and Remove File", "Transaction Identifiers", "Commit Provenance
    Information"; link(2): EEXIST.
    """
    now_ms = int(time.time() * 1000)
    info: dict[str, Any] = {
        "timestamp": now_ms,
        "operation": "OPTIMIZE" if same_rows else "MERGE",
        "operationParameters": {},
        "engineInfo": APP_ID,
        APP_ID: json.dumps(facts, separators=(",", ":")),
    }
    actions: list[dict[str, Any]] = [
        {"commitInfo": info},
        {"txn": {"appId": APP_ID, "version": who.epoch, "lastUpdated": now_ms}},
    ]
    actions += [{"remove": item.action(now_ms, changes_data=not same_rows)} for item in removed]
    actions += [
        {
            "add": {
                "path": item.name,
                "partitionValues": {},
                "size": item.bytes,
                "modificationTime": now_ms,
                "dataChange": not same_rows,
                "stats": item.stats,
            }
        }
        for item in files
    ]
    version = table.version() + 1
    entry = entry_path(folder, version)
    draft = entry.with_name(f"{DRAFT_PREFIX}{who.task_id}-{who.attempt}-{secrets.token_hex(4)}")
    try:
        draft.write_text("\n".join(json.dumps(action) for action in actions) + "\n")
        flush_to_disk(draft)
        os.link(draft, entry)
    except FileExistsError as error:
        raise CommitFailedError(f"version {version} is there already") from error
    finally:
        draft.unlink(missing_ok=True)
    flush_to_disk(entry.parent)
    table.update_incremental()
    if table.version() != version:
        table.load_as_version(version)
    if version % CHECKPOINT_EVERY_VERSIONS == 0:
        with contextlib.suppress(DeltaError, OSError):  # it only makes reading the log faster
            table.create_checkpoint()


def unsupported_feature(table: DeltaTable) -> str | None:
    """Return what another program gave the table that an entry of our own would break, or `None`."""
    protocol, settings = table.protocol(), table.metadata().configuration
    strange = {
        *(protocol.writer_features or ()),
        *(protocol.reader_features or ()),
    } - _KNOWN_FEATURES
    for name in sorted(settings):
        if name.startswith("delta.constraints.") or (
            name in ("delta.appendOnly", "delta.enableChangeDataFeed")
            and settings[name].lower() == "true"
        ):
            return f"the property {name}"
    if strange:
        return f"the table feature {min(strange)}"
    if protocol.min_writer_version > WRITER_VERSION_MAX and not protocol.writer_features:
        return f"writer version {protocol.min_writer_version}"
    return None


def fence(table: DeltaTable, folder: Path, who: WriterIdentity) -> None:
    """Write the next version with nothing but the epoch in it."""
    schema = pa.schema(table.schema())
    add(table, folder, schema, [], who, who.facts("fence"), replace=False)


def prepare_columns(
    table: DeltaTable, schema: pa.Schema, who: WriterIdentity, *, add_new: bool
) -> None:
    """Write what the log needs before files with these columns: new columns, a type's feature."""
    facts = properties(who, who.facts("schema"))
    features = table.protocol().writer_features or []
    if "timestampNtz" not in features and any(_has_plain_timestamp(item.type) for item in schema):
        table.alter.add_feature(
            TableFeatures.TimestampWithoutTimezone,
            allow_protocol_versions_increase=True,
            commit_properties=facts,
        )
    if add_new:
        known = set(pa.schema(table.schema()).names)
        fresh = pa.schema([item for item in schema if item.name not in known])
        if len(fresh):
            table.alter.add_columns(Schema.from_arrow(fresh).fields, commit_properties=facts)


def properties(who: WriterIdentity, facts: dict[str, Any]) -> CommitProperties:
    """Return what makes a commit ours."""
    return CommitProperties(
        custom_metadata={APP_ID: json.dumps(facts, separators=(",", ":"))},
        max_commit_retries=0,
        app_transactions=[Transaction(APP_ID, who.epoch)],
    )


def _adds(files: list[DataFile]) -> list[Any]:
    now_ms = int(time.time() * 1000)
    return [AddAction(item.name, item.bytes, {}, now_ms, True, item.stats) for item in files]


def flush_entry(folder: Path, version: int) -> None:
    """Make the entry as durable as the data that it names."""
    entry = entry_path(folder, version)
    flush_to_disk(entry)
    flush_to_disk(entry.parent)
    if version == 0:
        flush_to_disk(folder)


def _has_plain_timestamp(kind: Any) -> bool:
    if pa.types.is_timestamp(kind):
        return kind.tz is None
    if pa.types.is_struct(kind):
        return any(_has_plain_timestamp(part.type) for part in kind.fields)
    if pa.types.is_map(kind):
        return _has_plain_timestamp(kind.key_type) or _has_plain_timestamp(kind.item_type)
    return pa.types.is_list(kind) and _has_plain_timestamp(kind.value_type)
