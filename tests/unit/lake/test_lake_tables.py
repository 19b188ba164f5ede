"""What the lake tells about its tables."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from sluicegate.lake.errors import (
    LakeUnsupportedError,
    TableNotFoundError,
    TableVersionNotFoundError,
)
from sluicegate.lake.tables import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


def test_tables_are_listed_by_layer_then_name(lake: Lake) -> None:
    """Folders that are no tables do not count."""
    assert lake.list_tables() == []
    for table in ("gold.a", "bronze.z", "bronze.b", "silver.c"):
        write_deltalake(str(lake.path(table)), pa.table({"n": [1]}))
    (lake.root / "bronze" / "stray").mkdir()
    assert lake.list_tables() == ["bronze.b", "bronze.z", "silver.c", "gold.a"]


@pytest.mark.parametrize(
    "name", ["bronze", "bronze.", "iron.x", "bronze.../x", "bronze.a/b", "silver.x.y"]
)
def test_a_name_never_leads_out_of_the_lake(lake: Lake, name: str) -> None:
    """Names come from URLs."""
    with pytest.raises(TableNotFoundError, match=r"layer\.name"):
        lake.describe(name)


def test_a_lake_that_is_no_folder_is_refused() -> None:
    """Better than a folder called `gs:`."""
    with pytest.raises(LakeUnsupportedError, match="only a folder"):
        Lake("gs://bucket/lake")


def test_an_unknown_table_is_an_error(lake: Lake) -> None:
    """With its code, for the API."""
    with pytest.raises(TableNotFoundError, match=r"'bronze\.none'") as caught:
        lake.describe("bronze.none")
    assert caught.value.code == "table_not_found"


def test_a_table_is_described_in_plain_json(lake: Lake) -> None:
    """Every value survives every JSON reader."""
    row = {
        "number": 1,
        "nan": float("nan"),
        "at": datetime(2013, 1, 1, 5, 30, tzinfo=UTC),
        "local": datetime(2013, 1, 1, 5, 30),
        "day": date(2013, 1, 1),
        "price": Decimal("1.50"),
        "raw": b"\xff\x00",
        "nested": [{"when": date(2013, 1, 2), "inf": float("inf")}],
        "nothing": None,
    }
    table = pa.Table.from_pylist([row]).cast(
        pa.schema(
            [
                *[pa.field(k, pa.array([v]).type) for k, v in row.items() if v is not None],
                pa.field("nothing", pa.string()),
            ]
        )
    )
    write_deltalake(str(lake.path("gold.all")), table)
    described = lake.describe("gold.all")
    assert set(described) == {"name", "schema", "version", "row_count", "preview"}
    assert (described["name"], described["version"], described["row_count"]) == ("gold.all", 0, 1)
    assert described["schema"][2] == {
        "name": "at",
        "type": "timestamp[us, tz=UTC]",
        "nullable": True,
    }
    assert json.loads(json.dumps(described["preview"], allow_nan=False)) == [
        {
            "number": 1,
            "nan": "NaN",
            "at": "2013-01-01T05:30:00Z",
            "local": "2013-01-01T05:30:00",
            "day": "2013-01-01",
            "price": "1.50",
            "raw": "/wA=",
            "nested": [{"when": "2013-01-02", "inf": "Infinity"}],
            "nothing": None,
        }
    ]


def test_an_instant_beyond_python_is_shown_as_text(lake: Lake) -> None:
    """One odd row must not hide the whole preview."""
    far = pa.array([2**60], pa.timestamp("us"))
    write_deltalake(str(lake.path("gold.far")), pa.table({"at": far}))
    assert lake.describe("gold.far")["preview"][0]["at"] == f"<value out of range: {2**60}>"


def test_an_earlier_version_is_shown_as_it_was_and_limit_holds(lake: Lake) -> None:
    """`version` is that of the last change of data up to there; upkeep does not count."""
    folder = str(lake.path("silver.t"))
    write_deltalake(folder, pa.table({"n": [1, 2, 3]}))
    write_deltalake(folder, pa.table({"n": [4]}), mode="append")
    lake.load("silver.t").optimize.compact()
    now, before = lake.describe("silver.t", 2), lake.describe("silver.t", version=0)
    assert (now["version"], now["row_count"], len(now["preview"])) == (1, 4, 2)
    assert (before["version"], before["row_count"], len(before["preview"])) == (0, 3, 3)
    assert lake.describe("silver.t", 0)["preview"] == []
    assert lake.data_version("silver.t") == 1
    lake.load("silver.t").restore(0)
    assert lake.data_version("silver.t") == 3


@pytest.mark.parametrize("version", [-1, 7])
def test_a_version_that_is_not_there_is_an_error(lake: Lake, version: int) -> None:
    """It says which there are."""
    write_deltalake(str(lake.path("silver.t")), pa.table({"n": [1]}))
    with pytest.raises(
        TableVersionNotFoundError, match=f"version {version} .* newest version is 0"
    ):
        lake.describe("silver.t", version=version)


def test_a_version_whose_files_were_vacuumed_is_an_error(lake: Lake) -> None:
    """Retention is said, not a missing Parquet file."""
    folder = str(lake.path("silver.t"))
    for n in (1, 2):
        write_deltalake(folder, pa.table({"n": [n]}), mode="overwrite")
    table = lake.load("silver.t")
    table.vacuum(0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(TableVersionNotFoundError, match="files were removed"):
        lake.describe("silver.t", version=0)
