"""Bronze: the files of the landing zone as they came, one table each.

Every pipeline here ingests files. It is called once for each file that it has not seen yet, with
the rows of that file, and returns the rows to keep. A stop between two files loses nothing: the
next run goes on with the file after.

A file's types are guessed from its content, so a day without a single delay may look different from
all other days. That is why each pipeline says which columns it wants, and as what.
"""

import time

import polars as pl

from sluicegate import Task, bronze

INSTANT = pl.Datetime("us", "UTC")

FLIGHTS = {
    "year": pl.Int32,
    "month": pl.Int32,
    "day": pl.Int32,
    "dep_time": pl.Int32,  # local time as a number: 517 is 5:17
    "sched_dep_time": pl.Int32,
    "dep_delay": pl.Int32,  # minutes, negative when early, null when it never left
    "arr_time": pl.Int32,
    "sched_arr_time": pl.Int32,
    "arr_delay": pl.Int32,
    "carrier": pl.String,
    "flight": pl.Int32,
    "tailnum": pl.String,
    "origin": pl.String,
    "dest": pl.String,
    "air_time": pl.Int32,
    "distance": pl.Int32,  # miles
    "hour": pl.Int32,
    "minute": pl.Int32,
    "time_hour": INSTANT,  # the scheduled hour of departure
}

WEATHER = {
    "origin": pl.String,
    "year": pl.Int32,
    "month": pl.Int32,
    "day": pl.Int32,
    "hour": pl.Int32,
    "temp": pl.Float64,  # Fahrenheit
    "dewp": pl.Float64,
    "humid": pl.Float64,  # percent
    "wind_dir": pl.Int32,  # degrees
    "wind_speed": pl.Float64,  # miles per hour
    "wind_gust": pl.Float64,
    "precip": pl.Float64,  # inches
    "pressure": pl.Float64,  # millibars
    "visib": pl.Float64,  # miles
    "time_hour": INSTANT,
}

PLANES = {
    "tailnum": pl.String,
    "year": pl.Int32,
    "type": pl.String,
    "manufacturer": pl.String,
    "model": pl.String,
    "engines": pl.Int32,
    "seats": pl.Int32,
    "speed": pl.Int32,
    "engine": pl.String,
}

AIRPORTS = {
    "faa": pl.String,
    "name": pl.String,
    "lat": pl.Float64,
    "lon": pl.Float64,
    "alt": pl.Int32,  # feet
    "tz": pl.Int32,
    "dst": pl.String,
    "tzone": pl.String,
}

AIRLINES = {"carrier": pl.String, "name": pl.String}


@bronze(files="flights/*.csv")
def flights(batch: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Every departure from New York, one file a day. Some days are delivered twice.

    Run it with `--param pace_ms=50` to give each file 50 ms more: time to watch, and to press Stop.
    """
    time.sleep(int(task.params.get("pace_ms", 0)) / 1000)
    return batch.select(*FLIGHTS).cast(FLIGHTS)


@bronze(files="weather/*.csv")
def weather(batch: pl.DataFrame) -> pl.DataFrame:
    """The weather at each New York airport, hour by hour, one file a month."""
    return batch.select(*WEATHER).cast(WEATHER)


@bronze(files="reference/planes.csv")
def planes(batch: pl.DataFrame) -> pl.DataFrame:
    """The register of planes, as far as it is known."""
    return batch.select(*PLANES).cast(PLANES)


@bronze(files="reference/airports.csv")
def airports(batch: pl.DataFrame) -> pl.DataFrame:
    """The airports of the United States."""
    return batch.select(*AIRPORTS).cast(AIRPORTS)


@bronze(files="reference/airlines.csv")
def airlines(batch: pl.DataFrame) -> pl.DataFrame:
    """The airlines by their two-letter code."""
    return batch.select(*AIRLINES).cast(AIRLINES)
