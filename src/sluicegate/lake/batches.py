"""Whatever a pipeline hands over, as record batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from sluicegate.lake.errors import OutputTypeError

ROWS_MAX: Final = 128 * 1024
BYTES_MAX: Final = 32 * 1024 * 1024

ALLOWED = (
    "a polars, pandas or pyarrow table, a DuckDB relation, anything else that speaks the "
    "Arrow PyCapsule interface, or a list of dicts"
)


def to_reader(data: Any) -> pa.RecordBatchReader | None:
    """Return `data` as a stream of record batches; `None` for an empty list: no rows, no columns.

    Raises:
        OutputTypeError: It is nothing that could be rows.
    """
    module = type(data).__module__.partition(".")[0]
    if module == "polars" and hasattr(data, "collect_schema") and hasattr(data, "sink_parquet"):
        return _from_lazy_frame(data)
    if module in {"duckdb", "_duckdb"} and hasattr(data, "to_arrow_reader"):
        return data.to_arrow_reader(ROWS_MAX)
    if isinstance(data, list):
        return _from_rows(data)
    try:
        if hasattr(data, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(data)
        if hasattr(data, "__arrow_c_array__"):
            batch = pa.record_batch(data)
            return pa.RecordBatchReader.from_batches(batch.schema, [batch])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise _refused(data, f", which is no table ({error})") from error
    raise _refused(data, "")


def bounded(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield `batch` in slices (no copies) of at most `ROWS_MAX` rows and about `BYTES_MAX`."""
    bytes_per_row = batch.nbytes / batch.num_rows if batch.num_rows else 0
    rows = ROWS_MAX
    if bytes_per_row * rows > BYTES_MAX:
        rows = max(1, int(BYTES_MAX / bytes_per_row))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _refused(data: Any, more: str) -> OutputTypeError:
    kind = f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")
    return OutputTypeError(
        f"cannot write what the pipeline returned or yielded: got {kind}{more}",
        mend=f"return or yield {ALLOWED}",
    )


def _from_lazy_frame(frame: Any) -> pa.RecordBatchReader:
    """Run a lazy frame with the streaming engine, a batch at a time where polars can."""
    empty = frame.collect_schema().to_frame()
    schema = pa.RecordBatchReader.from_stream(empty).schema
    if not hasattr(frame, "collect_batches"):  # polars < 1.34
        return pa.RecordBatchReader.from_stream(frame.collect(engine="streaming"))

    def batches() -> Iterator[pa.RecordBatch]:
        for chunk in frame.collect_batches(chunk_size=ROWS_MAX, engine="streaming"):
            for batch in pa.RecordBatchReader.from_stream(chunk):
                yield batch.cast(schema) if batch.schema != schema else batch

    return pa.RecordBatchReader.from_batches(schema, batches())


def _from_rows(rows: list[Any]) -> pa.RecordBatchReader | None:
    """Turn dicts into columns; a key that a row lacks is null there."""
    if not rows:
        return None
    names: dict[str, None] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise _refused(rows, f" whose item {number} is a {type(row).__name__}, not a dict")
        names.update(dict.fromkeys(row))
    columns = {}
    for name in names:
        try:
            columns[str(name)] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise OutputTypeError(
                f"cannot write column {name!r} of a list of dicts: its values have no common "
                f"type ({error})",
                mend="convert the values to one type before yielding them",
            ) from error
    return pa.table(columns).to_reader()
