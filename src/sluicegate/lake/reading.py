"""One file of the landing zone as rows, in the form that a pipeline asked for."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sluicegate.input_kinds import KINDS
from sluicegate.lake.batches import ROWS_MAX
from sluicegate.lake.errors import FileUnreadableError, InputKindError
from sluicegate.lake.inputs import batch_reader
from sluicegate.lake.landing import landing_path

ISO_DATE: Final = r"^\d{4}-\d\d-\d\d"
NULL_VALUES: Final = ["", "NA"]
FILE_KINDS: Final = tuple(kind for kind in KINDS if kind != "deltalake.DeltaTable")


def read_file(root: Path, path: str, kind: str = "pyarrow.RecordBatchReader") -> Any:
    """Return the rows of one file as an object of type `kind`.

    By its name: CSV (`.csv`, `.csv.gz`), TSV (`.tsv`, `.tsv.gz`), JSON lines (`.jsonl`, `.ndjson`),
    a JSON array of objects (`.json`), Parquet (`.parquet`; lazy kinds stay lazy). Types of text
    formats come from the whole file; an empty field and `NA` are null; dates are recognised.

    Raises:
        FileUnreadableError: It is missing, malformed, or of a format that we do not know.
        InputKindError: An unknown kind, or its library is not installed.
        LandingPathError: The path leads out of the landing zone.
    """
    if kind not in FILE_KINDS:
        raise InputKindError(
            f"cannot hand over file {path!r} as {kind!r}",
            mend="annotate the first parameter with one of " + ", ".join(FILE_KINDS),
        )
    file = landing_path(root, path)
    read = next((read for suffix, read in _READERS.items() if path.lower().endswith(suffix)), None)
    if read is None:
        raise FileUnreadableError(
            path, "its format is unknown", mend="use one of " + ", ".join(_READERS)
        )
    try:
        return read(file, path, kind)
    except ModuleNotFoundError as error:
        raise InputKindError(
            f"cannot read file {path!r} as {kind!r}: {error.name} is not installed",
            mend=f"install {error.name}, for example with: pip install 'sluicegate[frames]'",
        ) from error
    except FileNotFoundError as error:
        raise FileUnreadableError(path, "it is no longer there", mend="put it back") from error


def _read_csv(separator: str) -> Callable[[Path, str, str], Any]:
    def read(file: Path, path: str, kind: str) -> Any:
        import polars as pl

        if file.suffix == ".gz" and not _is_gzip(file):  # polars would read it as plain text
            raise FileUnreadableError(path, "it is not compressed with gzip")
        try:
            frame = pl.read_csv(
                file,
                separator=separator,
                infer_schema_length=None,
                null_values=NULL_VALUES,
            )
        except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            line = _first_uneven_line(file, separator)
            raise FileUnreadableError(path, _first_line(error), line=line) from error
        return _convert(_with_dates(frame), kind)

    return read


def _with_dates(frame: Any) -> Any:
    """Give columns that hold nothing but ISO dates or instants that type.

    The CSV reader could do it itself, by guessing at every value: 78 ms for a file of 900 rows, against 6 ms.
    """
    import polars as pl

    found = {}
    for name in (name for name, kind in frame.schema.items() if kind == pl.String):
        column = frame[name]
        first = column.drop_nulls().head(1)
        if first.len() and first.str.contains(ISO_DATE)[0] and column.str.contains(ISO_DATE).all():
            for parse in _DATE_PARSERS:
                try:
                    found[name] = parse(column)
                    break
                except pl.exceptions.PolarsError:
                    continue
    return frame.with_columns(**found)


_DATE_PARSERS: Final[tuple[Callable[[Any], Any], ...]] = (
    lambda column: column.str.to_date("%Y-%m-%d"),
    lambda column: column.str.to_datetime(time_unit="us"),
    lambda column: column.str.to_datetime(time_unit="us", time_zone="UTC"),
)


def _read_json_lines(file: Path, path: str, kind: str) -> Any:
    import polars as pl

    try:
        frame = pl.read_ndjson(file, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise FileUnreadableError(path, _first_line(error), line=_first_bad_json(file)) from error
    return _convert(frame, kind)


def _read_json_array(file: Path, path: str, kind: str) -> Any:
    import polars as pl

    try:
        rows = json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        raise FileUnreadableError(path, error.msg, line=error.lineno) from error
    except UnicodeDecodeError as error:
        raise FileUnreadableError(path, "it is not UTF-8") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FileUnreadableError(path, "it is no array of objects")
    try:
        return _convert(pl.DataFrame(rows, infer_schema_length=None), kind)
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise FileUnreadableError(path, _first_line(error)) from error


def _read_parquet(file: Path, path: str, kind: str) -> Any:
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        dataset = ds.dataset(str(file), format="parquet")
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise FileUnreadableError(path, _first_line(error)) from error
    if kind == "polars.LazyFrame":
        import polars as pl

        return pl.scan_parquet(file)
    if kind == "pyarrow.RecordBatchReader":
        return batch_reader(dataset)
    if kind == "duckdb.DuckDBPyRelation":
        return _relation(dataset)
    try:
        table = dataset.to_table()
    except (pa.ArrowException, OSError) as error:
        raise FileUnreadableError(path, _first_line(error)) from error
    if kind == "polars.DataFrame":
        import polars as pl

        return pl.from_arrow(table)
    return table.to_pandas() if kind == "pandas.DataFrame" else table


_READERS: Final[dict[str, Callable[[Path, str, str], Any]]] = {
    ".csv": _read_csv(","),
    ".csv.gz": _read_csv(","),
    ".tsv": _read_csv("\t"),
    ".tsv.gz": _read_csv("\t"),
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json_array,
    ".parquet": _read_parquet,
}


def _convert(frame: Any, kind: str) -> Any:
    """Turn a polars frame into what was asked for, without a copy where there is a way."""
    if kind == "polars.DataFrame":
        return frame
    if kind == "polars.LazyFrame":
        return frame.lazy()
    table = frame.to_arrow()
    if kind == "pyarrow.RecordBatchReader":
        return table.to_reader(ROWS_MAX)
    if kind == "duckdb.DuckDBPyRelation":
        return _relation(table)
    return table.to_pandas() if kind == "pandas.DataFrame" else table


def _relation(source: Any) -> Any:
    from sluicegate.lake.sql import open_duckdb

    return open_duckdb().from_arrow(source)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_gzip(file: Path) -> bool:
    """Source: RFC 1952, section 2.3.1, ID1 and ID2."""
    with file.open("rb") as head:
        return head.read(2) == b"\x1f\x8b"


def _first_uneven_line(file: Path, separator: str) -> int | None:
    """Return the first line with more fields than the header, where that is what is wrong."""
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", newline="") as text:
            rows = csv.reader(text, delimiter=separator)
            header = next(rows, [])
            return next((rows.line_num for row in rows if len(row) > len(header)), None)
    except (OSError, UnicodeDecodeError, EOFError, csv.Error):
        return None


def _first_bad_json(file: Path) -> int | None:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                if line.strip() and not isinstance(json.loads(line), dict):
                    return number
            except ValueError:
                return number
    return None
