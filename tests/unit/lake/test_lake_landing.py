"""The landing zone: putting, listing, telling new from changed, reading."""

from __future__ import annotations

import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sluicegate.errors import Cancelled
from sluicegate.lake.errors import FileUnreadableError, InputKindError, LandingPathError
from sluicegate.lake.landing import LandedFile, atomic_write, list_files, new_files
from sluicegate.lake.reading import FILE_KINDS, read_file


def names_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def test_a_file_appears_whole_under_its_name(tmp_path: Path) -> None:
    """While it is written nobody sees it."""
    path = tmp_path / "a.csv"
    with atomic_write(path) as partial:
        partial.write_text("n\n1\n")
        assert partial.name.startswith(".a.csv.")
        assert partial.name.endswith(".partial")
        assert not path.exists()
        assert list_files(tmp_path) == []
    assert path.read_text() == "n\n1\n"
    assert names_in(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("error", [ValueError, Cancelled, KeyboardInterrupt])
def test_on_any_exception_the_old_file_stays(tmp_path: Path, error: type[BaseException]) -> None:
    """A cancelled upload leaves nothing."""
    path = tmp_path / "a.csv"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path, replace=True) as partial:
            partial.write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.csv"]


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    """Also when it comes into being during the upload."""
    path = tmp_path / "a.csv"

    def race() -> None:
        with atomic_write(path) as partial:
            partial.write_text("mine")
            path.write_text("theirs")

    with pytest.raises(FileExistsError):
        race()
    assert path.read_text() == "theirs"
    with pytest.raises(FileExistsError), atomic_write(path):
        raise AssertionError("refused before anything is written")
    with atomic_write(path, replace=True) as partial:
        partial.write_text("mine")
    assert path.read_text() == "mine"
    assert names_in(tmp_path) == ["a.csv"]


def test_files_are_listed_by_pattern_and_sorted(tmp_path: Path) -> None:
    """Hidden files, partial files and what lies outside are not the landing zone's."""
    root = tmp_path / "landing"
    for name in ("weather/b.csv", "weather/a.csv", "weather/deep/c.csv", "x.parquet"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    for name in ("weather/.hidden.csv", "weather/.d.csv.12345678.partial", "weather/e.csv.partial"):
        (root / name).write_text("")
    (root / ".git").mkdir()
    (root / ".git" / "z.csv").write_text("")
    (tmp_path / "outside.csv").write_text("secret")
    (root / "weather" / "link.csv").symlink_to(tmp_path / "outside.csv")
    (root / "weather" / "dangling.csv").symlink_to(tmp_path / "nothing.csv")
    stat = (root / "weather/a.csv").stat()
    assert list_files(root, "weather/*.csv") == [
        LandedFile("weather/a.csv", stat.st_size, stat.st_mtime_ns),
        LandedFile("weather/b.csv", 13, (root / "weather/b.csv").stat().st_mtime_ns),
    ]
    assert [file.path for file in list_files(root, "**/*.csv")] == [
        "weather/a.csv",
        "weather/b.csv",
        "weather/deep/c.csv",
    ]
    assert [file.path for file in list_files(root)][-1] == "x.parquet"
    assert list_files(tmp_path / "absent", "*.csv") == []


@pytest.mark.parametrize(
    "path", ["../x.csv", "a/../../x.csv", "/etc/passwd", "", ".hidden", "a\\b", "a\0b"]
)
def test_no_path_leads_out_of_the_landing_zone(tmp_path: Path, path: str) -> None:
    """Paths come from uploads."""
    with pytest.raises(LandingPathError):
        list_files(tmp_path, path)
    with pytest.raises(LandingPathError):
        read_file(tmp_path, path)


def test_each_path_is_new_once_and_a_change_is_reported() -> None:
    """Files are known by path, size and time; only a full refresh reads a changed one again."""
    a, b, c = (LandedFile(f"{name}.csv", 1, 5) for name in "abc")
    assert new_files([a, b, c], {"a.csv": (1, 5), "b.csv": (1, 6)}) == ([c], [b])
    assert new_files([a], {"gone.csv": (1, 1)}) == ([a], [])


ROWS = [{"n": 1, "s": "x", "d": date(2013, 1, 1)}, {"n": None, "s": None, "d": date(2013, 1, 2)}]
CSV = "n,s,d\n1,x,2013-01-01\nNA,,2013-01-02\n"
JSON_ROWS = [{"n": 1, "s": "x"}, {"n": None, "s": None}]


def write_samples(root: Path) -> None:
    (root / "a.csv").write_text(CSV)
    (root / "a.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    (root / "a.tsv").write_text(CSV.replace(",", "\t"))
    (root / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in JSON_ROWS))
    (root / "a.ndjson").write_text("".join(json.dumps(row) + "\n" for row in JSON_ROWS))
    (root / "a.json").write_text(json.dumps(JSON_ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), root / "a.parquet")


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.ndjson", "a.json", "a.parquet"]
)
def test_every_format_is_read(tmp_path: Path, name: str) -> None:
    """Empty fields and NA are null, dates are dates."""
    write_samples(tmp_path)
    rows = read_file(tmp_path, name, "polars.DataFrame").to_dicts()
    assert rows == (JSON_ROWS if "json" in name else ROWS)


@pytest.mark.parametrize("kind", FILE_KINDS)
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_file_comes_as_asked_for(tmp_path: Path, name: str, kind: str) -> None:
    """The first parameter's annotation decides."""
    write_samples(tmp_path)
    types: dict[str, Any] = {
        "polars.LazyFrame": pl.LazyFrame,
        "polars.DataFrame": pl.DataFrame,
        "pyarrow.Table": pa.Table,
        "pyarrow.RecordBatchReader": pa.RecordBatchReader,
        "duckdb.DuckDBPyRelation": duckdb.DuckDBPyRelation,
        "pandas.DataFrame": pd.DataFrame,
    }
    value = read_file(tmp_path, name, kind)
    assert isinstance(value, types[kind])
    if isinstance(value, duckdb.DuckDBPyRelation):
        assert len(value.fetchall()) == 2
    elif isinstance(value, pa.RecordBatchReader):
        assert value.read_all().num_rows == 2


def test_types_come_from_the_whole_file(tmp_path: Path) -> None:
    """A fraction in the last of many lines is no error and no text."""
    (tmp_path / "a.csv").write_text("n\n" + "1\n" * 20_000 + "1.5\n")
    assert read_file(tmp_path, "a.csv", "polars.DataFrame")["n"].dtype == pl.Float64


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", b"a,b\n1,2\n1,2,3\n", 3),
        ("a.csv", b"", None),
        ("a.csv.gz", b"not gzip at all", None),
        ("a.csv.gz", gzip.compress(b"a,b\n" + bytes(range(32, 127)) * 50)[:-30], None),
        ("a.jsonl", b'{"n": 1}\n{"n": \n', 2),
        ("a.json", b'[{"n": 1},\n{"n" 2}]', 2),
        ("a.json", b'{"n": 1}', None),
        ("a.json", b'["\xff"]', None),
        ("a.parquet", b"not parquet", None),
        ("a.xml", b"<n/>", None),
    ],
)
def test_an_unreadable_file_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, line: int | None
) -> None:
    """Whoever delivered it can be told what is wrong with it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileUnreadableError, match=f"cannot read file '{name}'") as caught:
        read_file(tmp_path, name, "polars.DataFrame")
    assert caught.value.line == line
    assert caught.value.mend


def test_a_file_that_went_away_and_a_kind_that_is_none(tmp_path: Path) -> None:
    """Both have their error."""
    for name in ("a.csv", "a.parquet", "a.json", "a.jsonl"):
        with pytest.raises(FileUnreadableError, match="no longer there"):
            read_file(tmp_path, name)
    with pytest.raises(InputKindError, match=r"deltalake\.DeltaTable"):
        read_file(tmp_path, "a.csv", "deltalake.DeltaTable")
