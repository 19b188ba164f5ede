"""Columns: what Delta Lake can store, what a table has, and what changed between the two.

Pure: no disk.

Source:
    Delta Transaction Log Protocol, "Schema Serialization Format", for the types.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from sluicegate.lake.errors import OutputTypeError, SchemaMismatchError

_SIGNED = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.int64(),
}
_SAME = {
    pa.bool_(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.binary(),
    pa.date32(),
    pa.null(),
}
_STRINGS = {pa.large_string(), pa.string_view()}
_BINARIES = {pa.large_binary(), pa.binary_view()}
_MENDS = (
    (pa.types.is_duration, "store its seconds or microseconds as an integer"),
    (pa.types.is_time, "store it as text, or as seconds since midnight"),
    (pa.types.is_interval, "store its months, days and seconds as integers"),
)


def storable_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with which these columns are stored; all nullable, no metadata.

    A column without any type (all null) keeps the null type here: only the table can know it.

    Raises:
        OutputTypeError: A column that Delta Lake cannot hold, or two of one name.
    """
    fields: list[Any] = []
    seen: dict[str, str] = {}
    for item in schema:
        if _is_pandas_index(schema, item.name):
            continue
        other = seen.setdefault(item.name.lower(), item.name)
        if len(seen) != len(fields) + 1:
            raise OutputTypeError(
                f"cannot write columns {other!r} and {item.name!r}: Delta Lake does not tell "
                "upper from lower case in names",
                mend="rename one of them",
            )
        fields.append(pa.field(item.name, storable_type(item.type, item.name)))
    if not fields:
        raise OutputTypeError(
            "cannot write an output without columns", mend="return a table with columns, or None"
        )
    return pa.schema(fields)


def storable_type(kind: Any, column: str) -> Any:
    """Return the type with which values of type `kind` are stored."""
    types = pa.types
    if kind in _SAME:
        return kind
    if kind in _SIGNED:
        return _SIGNED[kind]
    if kind in _STRINGS:
        return pa.string()
    if kind in _BINARIES or types.is_fixed_size_binary(kind):
        return pa.binary()
    if types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if types.is_decimal(kind) and kind.precision <= 38 and 0 <= kind.scale <= kind.precision:
        return pa.decimal128(kind.precision, kind.scale)
    if types.is_dictionary(kind):
        return storable_type(kind.value_type, column)
    if types.is_float16(kind):
        return pa.float32()
    if types.is_date64(kind):
        return pa.date32()
    return _storable_nested(kind, column)


def _storable_nested(kind: Any, column: str) -> Any:
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return storable_type(kind.storage_type, column)
    if types.is_map(kind):
        return pa.map_(
            _inner(kind.key_type, f"{column}.key"), _inner(kind.item_type, f"{column}.value")
        )
    if types.is_struct(kind) and kind.num_fields:
        return pa.struct(
            [(part.name, _inner(part.type, f"{column}.{part.name}")) for part in kind.fields]
        )
    if hasattr(kind, "value_type") and "list" in str(kind):
        return pa.list_(_inner(kind.value_type, f"{column}.item"))
    mend = next((text for matches, text in _MENDS if matches(kind)), "convert or drop it")
    raise OutputTypeError(
        f"cannot write column {column!r}: Delta Lake has no type for {kind}", mend=mend
    )


def _inner(kind: Any, column: str) -> Any:
    stored = storable_type(kind, column)
    if pa.types.is_null(stored):
        raise untyped(column)
    return stored


def untyped(column: str) -> OutputTypeError:
    """The error for a column of which only nulls were seen."""
    return OutputTypeError(
        f"cannot write column {column!r}: it has only nulls, so that its type is unknown",
        mend="cast it to the type that it should have, for example string",
    )


def target_schema(
    output: pa.Schema, known: pa.Schema | None, table: str, *, evolve: bool
) -> pa.Schema:
    """Return the schema to write with: the known columns, in their order, and any new ones.

    Args:
        output: Columns of the output, as `storable_schema` returned them.
        known: Columns of the table, or of what this writer wrote before; `None` if neither is.

    Raises:
        SchemaMismatchError: They differ in more than `evolve` allows.
        OutputTypeError: A new column has only nulls.
    """
    added = [item for item in output if known is None or known.get_field_index(item.name) < 0]
    if known is not None and (lines := differences(output, known, evolve=evolve)):
        raise SchemaMismatchError(table, lines)
    for item in added:
        if pa.types.is_null(item.type):
            raise untyped(item.name)
    return pa.schema([*(known or ()), *added])


def differences(output: pa.Schema, known: pa.Schema, *, evolve: bool = False) -> list[str]:
    """Return one line per column that keeps `output` from being stored in `known`."""
    lines = []
    for item in output:
        index = known.get_field_index(item.name)
        if index < 0:
            if not evolve:
                lines.append(f"added    {item.name}: {item.type}")
        elif not is_lossless(item.type, known.field(index).type):
            lines.append(f"changed  {item.name}: {known.field(index).type} -> {item.type}")
    if not evolve:
        names = set(output.names)
        lines += [f"missing  {item.name}: {item.type}" for item in known if item.name not in names]
    return lines


def is_lossless(source: Any, target: Any) -> bool:
    """Whether every value of type `source` is also one of type `target`, overflow checked later."""
    types = pa.types
    if source == target or types.is_null(source):
        return True
    if types.is_integer(source):
        if types.is_integer(target):
            return bool(source.bit_width <= target.bit_width)
        return bool(types.is_float64(target))
    if types.is_float32(source):
        return bool(types.is_float64(target))
    if types.is_decimal(source) and types.is_decimal(target):
        whole = target.precision - target.scale >= source.precision - source.scale
        return bool(whole and target.scale >= source.scale)
    if types.is_list(source) and types.is_list(target):
        return is_lossless(source.value_type, target.value_type)
    if types.is_map(source) and types.is_map(target):
        return is_lossless(source.key_type, target.key_type) and is_lossless(
            source.item_type, target.item_type
        )
    if types.is_struct(source) and types.is_struct(target):
        return [part.name for part in source.fields] == [part.name for part in target.fields] and (
            all(
                is_lossless(mine.type, theirs.type)
                for mine, theirs in zip(source.fields, target.fields, strict=True)
            )
        )
    return False


def conform(batch: pa.RecordBatch, target: pa.Schema, table: str) -> pa.RecordBatch:
    """Return `batch` with exactly the columns of `target`; absent ones become null.

    Timestamps finer than a microsecond are cut off: Delta Lake has no nanoseconds.

    Raises:
        OutputTypeError: A value that does not fit, for example an unsigned integer over 2^63.
    """
    columns = []
    for item in target:
        index = batch.schema.get_field_index(item.name)
        if index < 0:
            columns.append(pa.nulls(batch.num_rows, item.type))
            continue
        column = batch.column(index)
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if pa.types.is_dictionary(column.type):
            column = _decoded(column)
        if column.type != item.type:
            try:
                column = column.cast(item.type, safe=not pa.types.is_timestamp(item.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise OutputTypeError(
                    f"cannot write column {item.name!r} of table {table!r} as {item.type}: {error}",
                    mend="convert it before it is returned or yielded",
                ) from error
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=target)


def _decoded(column: Any) -> Any:
    """Return a dictionary column's values; Arrow can take strings but not string views."""
    values = column.dictionary
    return values.cast(storable_type(values.type, "")).take(column.indices)


def _is_pandas_index(schema: pa.Schema, name: str) -> bool:
    return name.startswith("__index_level_") and b"pandas" in (schema.metadata or {})
