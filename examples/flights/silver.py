"""Silver: one clean table for each subject, in one set of units, every row once.

Three ways to write a pipeline, each where it fits: SQL (`weather`), polars (`airports`, `flights`,
`rejected_flights`) and plain Python (`planes`). What a pipeline reads is in its parameters: a bare
name is the table of that name in the layer below, `table("silver.planes")` is any other.
"""

from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from sluicegate import silver, table

silver.sql(
    "weather",
    """
    -- One row per airport and hour. The hour is an instant: by the clock on the wall, one o'clock
    -- came twice on the third of November, and both are kept. A gauge once read 1,048 miles an
    -- hour: no wind on this planet does that, so it counts as not known.
    select distinct on (origin, time_hour)
        origin,
        time_hour,
        (temp - 32) / 1.8                        as temperature_celsius,
        humid                                    as humidity_percent,
        case when wind_speed < 250 then wind_speed end * 1.609344 as wind_kmh,
        precip * 25.4                            as rain_mm,
        pressure                                 as pressure_hpa,
        visib * 1.609344                         as visibility_km
    from bronze.weather
    order by origin, time_hour
    """,
)


@silver
def airports(airports: pl.LazyFrame) -> pl.LazyFrame:
    """Airports by their code, in metres, with the time zone by name."""
    return airports.unique("faa").select(
        airport=pl.col("faa"),
        name=pl.col("name").str.strip_chars(),
        latitude=pl.col("lat"),
        longitude=pl.col("lon"),
        altitude_m=pl.col("alt") * 0.3048,
        time_zone=pl.col("tzone"),
    )


# The register has grown for decades, and so have the names in it.
MANUFACTURERS = {
    "AIRBUS INDUSTRIE": "AIRBUS",
    "BOMBARDIER INC": "BOMBARDIER",
    "CANADAIR LTD": "CANADAIR",
    "DOUGLAS": "MCDONNELL DOUGLAS",
    "MCDONNELL DOUGLAS AIRCRAFT CO": "MCDONNELL DOUGLAS",
    "MCDONNELL DOUGLAS CORPORATION": "MCDONNELL DOUGLAS",
}


@silver
def planes(planes: pa.RecordBatchReader) -> Iterator[list[dict]]:
    """Planes by their tail number. Plain Python: a loop over batches, and lists of dicts out.

    Every `yield` is a checkpoint, so even a long loop stops at once; all of them become one commit.
    """
    seen = set()
    for batch in planes:
        rows = []
        for plane in batch.to_pylist():
            if plane["tailnum"] in seen:
                continue
            seen.add(plane["tailnum"])
            manufacturer = plane["manufacturer"]
            rows.append(
                {
                    "tailnum": plane["tailnum"],
                    "manufacturer": MANUFACTURERS.get(manufacturer, manufacturer),
                    "model": plane["model"],
                    "built": plane["year"],
                    "engine": plane["engine"],
                    "seats": plane["seats"],
                }
            )
        yield rows


# No airline uses a flight number twice within an hour, so this tells one departure from another:
# a day that was delivered twice brings nothing new.
DEPARTURE = ["time_hour", "carrier", "flight"]


def checked(flights: pl.LazyFrame, airports: pl.LazyFrame) -> pl.LazyFrame:
    """Every departure once, with the `reason` why it cannot be used, or null."""
    known = airports.select(dest="airport", dest_name="name")
    reason = (
        pl.when(pl.col("tailnum").is_null())
        .then(pl.lit("no tail number"))
        .when(pl.col("dest_name").is_null())
        .then(pl.lit("unknown destination"))
    )
    return (
        flights.unique(DEPARTURE, keep="any")
        .join(known, on="dest", how="left")
        .with_columns(reason=reason)
    )


@silver
def flights(
    flights: pl.LazyFrame,
    airlines: pl.LazyFrame,
    airports: pl.LazyFrame = table("silver.airports"),
    planes: pl.LazyFrame = table("silver.planes"),
) -> pl.LazyFrame:
    """Departures that make sense, with real timestamps and all that is known about them.

    One plane in six is missing from the register. Those flights stay, without `built` and `seats`.
    """
    scheduled_at = pl.col("time_hour") + pl.duration(minutes=pl.col("minute"))
    status = (
        pl.when(pl.col("dep_time").is_null())
        .then(pl.lit("cancelled"))
        .when(pl.col("arr_delay").is_null())
        .then(pl.lit("diverted"))
        .otherwise(pl.lit("flown"))
    )
    return (
        checked(flights, airports)
        .filter(pl.col("reason").is_null())
        .join(airlines.select("carrier", airline="name"), on="carrier", how="left")
        .join(planes.select("tailnum", "manufacturer", "built", "seats"), on="tailnum", how="left")
        .select(
            "carrier",
            "airline",
            "flight",
            "tailnum",
            "origin",
            "dest",
            "dest_name",
            "time_hour",
            pl.date("year", "month", "day").alias("flight_date"),
            scheduled_at.alias("scheduled_at"),
            (scheduled_at + pl.duration(minutes=pl.col("dep_delay"))).alias("departed_at"),
            "dep_delay",
            "arr_delay",
            "air_time",
            (pl.col("distance") * 1.609344).alias("distance_km"),
            status.alias("status"),
            "manufacturer",
            "built",
            "seats",
        )
        .sort("scheduled_at", "carrier", "flight")
    )


@silver
def rejected_flights(
    flights: pl.LazyFrame, airports: pl.LazyFrame = table("silver.airports")
) -> pl.LazyFrame:
    """What did not make it into `silver.flights`, and why: nothing is dropped in silence."""
    return (
        checked(flights, airports)
        .filter(pl.col("reason").is_not_null())
        .select("reason", *DEPARTURE, "tailnum", "origin", "dest", "dep_delay", "arr_delay")
        .sort(*DEPARTURE)
    )
