"""Gold: the answers. Each table is small, and is made anew from silver by every run."""

import polars as pl

from sluicegate import gold

gold.sql(
    "carrier_delays",
    """
    -- Who is late, and when? A flight counts as late from 15 minutes on.
    select
        carrier,
        airline,
        month(flight_date)                          as month,
        count(*)                                    as flights,
        count(*) filter (status = 'cancelled')      as cancelled,
        count(*) filter (arr_delay >= 15)           as late,
        avg(dep_delay)                              as mean_dep_delay,
        avg(arr_delay)                              as mean_arr_delay,
        max(arr_delay)                              as worst_arr_delay
    from silver.flights
    group by all
    order by carrier, month
    """,
)


@gold
def weather_delays(flights: pl.LazyFrame, weather: pl.LazyFrame) -> pl.LazyFrame:
    """How much of it is the weather? Departures by what it was like at their airport in that hour.

    The first condition that holds counts; hours without an observation are `unknown`.
    """
    condition = (
        pl.when(pl.col("temperature_celsius").is_null())
        .then(pl.lit("unknown"))
        .when(pl.col("rain_mm") > 0, pl.col("temperature_celsius") <= 0)
        .then(pl.lit("snow"))
        .when(pl.col("rain_mm") > 0)
        .then(pl.lit("rain"))
        .when(pl.col("visibility_km") < 5)
        .then(pl.lit("fog"))
        .when(pl.col("wind_kmh") >= 40)
        .then(pl.lit("wind"))
        .otherwise(pl.lit("fair"))
    )
    return (
        flights.join(weather, on=["origin", "time_hour"], how="left")
        .group_by("origin", condition.alias("condition"))
        .agg(
            flights=pl.len().cast(pl.Int64),
            cancelled=(pl.col("status") == "cancelled").sum().cast(pl.Int64),
            mean_dep_delay=pl.col("dep_delay").mean(),
            worst_dep_delay=pl.col("dep_delay").max(),
        )
        .sort("origin", "condition")
    )


@gold
def busiest_routes(flights: pl.LazyFrame) -> pl.LazyFrame:
    """The fifty busiest routes, with what a passenger would ask about them."""
    return (
        flights.group_by("origin", "dest", "dest_name")
        .agg(
            flights=pl.len().cast(pl.Int64),
            carriers=pl.col("carrier").n_unique().cast(pl.Int64),
            seats=pl.col("seats").sum().cast(pl.Int64),  # of the planes that are known
            mean_air_time=pl.col("air_time").mean(),
            mean_arr_delay=pl.col("arr_delay").mean(),
        )
        .sort("flights", "origin", "dest", descending=[True, False, False])
        .head(50)
        .with_row_index("rank", offset=1)
        .with_columns(pl.col("rank").cast(pl.Int64))
    )
