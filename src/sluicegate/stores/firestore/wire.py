"""Writes as protocol buffers, built directly: the driver's own builders take milliseconds for each document.

Source: Firestore API, messages `Write`, `DocumentTransform.FieldTransform` and `Value`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from google.cloud.firestore_v1.types import CommitRequest

from sluicegate.stores.firestore.documents import Write


def commit_request(database: str, writes: Iterable[Write]) -> CommitRequest:
    """Return the request that stores all of the writes, or none.

    Args:
        database: `projects/<project>/databases/<database>`.
    """
    request = CommitRequest.pb(CommitRequest(database=database))
    for write in writes:
        _put(request.writes.add(), f"{database}/documents/{write.path}", write)
    wrapped: CommitRequest = CommitRequest.wrap(request)
    return wrapped


def _put(to: Any, name: str, write: Write) -> None:
    if write.document is None:
        to.delete = name
        if write.condition:
            _set_time(to.current_document.update_time, write.condition)
        return
    to.update.name = name
    for field, value in write.document.items():
        if field in write.first:
            transform = to.update_transforms.add()
            transform.field_path = field
            _set(transform.minimum, value)
        else:
            _set(to.update.fields[field], value)
    if write.condition is False:
        to.current_document.exists = False
    elif write.condition is not None:
        _set_time(to.current_document.update_time, write.condition)
    if write.merge or write.condition:
        to.update_mask.field_paths.extend(f for f in write.document if f not in write.first)


def _set(to: Any, value: Any) -> None:
    """Set a `Value`. Field names are words of ours, so none needs quoting."""
    if value is None:
        to.null_value = 0
    elif isinstance(value, bool):
        to.boolean_value = value
    elif isinstance(value, int):
        to.integer_value = value
    elif isinstance(value, float):
        to.double_value = value
    elif isinstance(value, str):
        to.string_value = value
    elif isinstance(value, bytes):
        to.bytes_value = value
    elif isinstance(value, datetime):
        _set_time(to.timestamp_value, value)
    elif isinstance(value, list):
        to.array_value.SetInParent()
        for item in value:
            _set(to.array_value.values.add(), item)
    elif isinstance(value, dict):
        to.map_value.SetInParent()
        for key, item in value.items():
            _set(to.map_value.fields[key], item)
    else:
        raise TypeError(f"no document holds a {type(value).__name__}")


def _set_time(to: Any, at: datetime) -> None:
    """Update times can be finer than a `datetime`; the driver's own class keeps that."""
    if (exact := getattr(at, "timestamp_pb", None)) is not None:
        to.CopyFrom(exact())
    else:
        to.FromDatetime(at)
