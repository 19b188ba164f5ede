"""What the flights demo must come to, worked out a second time: in SQL, straight from the files.

Nothing here shares code with the pipelines of `examples/flights`. `TABLES` says again what each
table should hold, `FIGURES` what is counted in it, and the two functions count both sides.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import duckdb

Figures = dict[str, dict[str, Any]]

FLIGHTS_COUNTED = {
    "dep_delay": "sum(dep_delay)::bigint",
    "arr_delay": "sum(arr_delay)::bigint",
    "never_left": "count(*) filter (dep_delay is null)",
    "destinations": "count(distinct dest)",
    "first_hour": "epoch(min(time_hour))::bigint",
    "last_hour": "epoch(max(time_hour))::bigint",
    "hours": "sum(epoch(time_hour)::bigint)::bigint",
}

FIGURES: dict[str, dict[str, str]] = {
    "bronze.flights": FLIGHTS_COUNTED
    | {
        "dep_time": "sum(dep_time)::bigint",
        "sched_arr_time": "sum(sched_arr_time)::bigint",
        "distance": "sum(distance)::bigint",
        "air_time": "sum(air_time)::bigint",
        "minute": "sum(minute)::bigint",
        "flight": "sum(flight)::bigint",
        "no_tailnum": "count(*) filter (tailnum is null)",
        "days": "count(distinct (year, month, day))",
    },
    "bronze.weather": {
        "temp": "sum(temp)",
        "wind_dir": "sum(wind_dir)::bigint",
        "wind_gust": "sum(wind_gust)",
        "precip": "sum(precip)",
        "no_pressure": "count(*) filter (pressure is null)",
        "hours": "sum(epoch(time_hour)::bigint)::bigint",
    },
    "bronze.planes": {
        "year": "sum(year)::bigint",
        "seats": "sum(seats)::bigint",
        "speed": "sum(speed)::bigint",
        "manufacturers": "count(distinct manufacturer)",
    },
    "bronze.airports": {"lat": "sum(lat)", "alt": "sum(alt)::bigint", "tz": "sum(tz)::bigint"},
    "bronze.airlines": {"names": "string_agg(name, ',' order by carrier)"},
    "silver.weather": {
        "temperature_celsius": "sum(temperature_celsius)",
        "wind_kmh": "sum(wind_kmh)",
        "max_wind_kmh": "max(wind_kmh)",
        "rain_mm": "sum(rain_mm)",
        "visibility_km": "sum(visibility_km)",
        "hours": "count(distinct (origin, time_hour))",
    },
    "silver.airports": {
        "altitude_m": "sum(altitude_m)",
        "longitude": "sum(longitude)",
        "time_zones": "count(distinct time_zone)",
    },
    "silver.planes": {
        "built": "sum(built)::bigint",
        "seats": "sum(seats)::bigint",
        "airbus": "count(*) filter (manufacturer = 'AIRBUS')",
        "manufacturers": "count(distinct manufacturer)",
    },
    "silver.flights": FLIGHTS_COUNTED
    | {
        "distance_km": "sum(distance_km)",
        "departures": "count(distinct (scheduled_at, carrier, flight))",
        "scheduled": "sum(epoch(scheduled_at)::bigint)::bigint",
        "departed": "sum(epoch(departed_at)::bigint)::bigint",
        "cancelled": "count(*) filter (status = 'cancelled')",
        "diverted": "count(*) filter (status = 'diverted')",
        "unknown_plane": "count(*) filter (manufacturer is null)",
        "built": "sum(built)::bigint",
        "seats": "sum(seats)::bigint",
        "airlines": "count(distinct airline)",
        "dest_names": "count(distinct dest_name)",
        "days": "count(distinct flight_date)",
        "last_day": "max(flight_date)::varchar",
    },
    "silver.rejected_flights": FLIGHTS_COUNTED
    | {
        "no_tail_number": "count(*) filter (reason = 'no tail number')",
        "unknown_destination": "count(*) filter (reason = 'unknown destination')",
    },
    "gold.carrier_delays": {
        "flights": "sum(flights)::bigint",
        "cancelled": "sum(cancelled)::bigint",
        "late": "sum(late)::bigint",
        "mean_dep_delay": "sum(mean_dep_delay)",
        "mean_arr_delay": "sum(mean_arr_delay * month)",
        "worst_arr_delay": "sum(worst_arr_delay)::bigint",
        "airlines": "count(distinct airline)",
    },
    "gold.weather_delays": {
        "flights": "sum(flights)::bigint",
        "cancelled": "sum(cancelled)::bigint",
        "mean_dep_delay": "sum(mean_dep_delay)",
        "worst_dep_delay": "sum(worst_dep_delay)::bigint",
        "each": "string_agg(origin || ' ' || condition || ' ' || flights, ',' "
        "order by origin, condition)",
    },
    "gold.busiest_routes": {
        "flights": "sum(flights)::bigint",
        "carriers": "sum(carriers)::bigint",
        "seats": "sum(seats)::bigint",
        "mean_air_time": "sum(mean_air_time * rank)",
        "mean_arr_delay": "sum(mean_arr_delay)",
        "routes": "string_agg(origin || '-' || dest, ',' order by rank)",
    },
}

TABLES: dict[str, str] = {
    "bronze.flights": """
        select year::int as year, month::int as month, day::int as day, dep_time::int as dep_time,
            sched_arr_time::int as sched_arr_time, dep_delay::int as dep_delay,
            arr_delay::int as arr_delay, carrier, flight::int as flight, tailnum, origin, dest,
            air_time::int as air_time, distance::int as distance, minute::int as minute,
            time_hour::timestamptz as time_hour
        from read_csv($landing || '/flights/*.csv', all_varchar=true, nullstr=['NA', ''])""",
    "bronze.weather": """
        select origin, temp::double as temp, wind_dir::int as wind_dir,
            wind_speed::double as wind_speed, wind_gust::double as wind_gust,
            precip::double as precip, pressure::double as pressure, visib::double as visib,
            time_hour::timestamptz as time_hour
        from read_csv($landing || '/weather/*.csv', all_varchar=true, nullstr=['NA', ''])""",
    "bronze.planes": """
        select tailnum, year::int as year, manufacturer, seats::int as seats, speed::int as speed
        from read_csv($landing || '/reference/planes.csv', all_varchar=true, nullstr=['NA', ''])
        """,
    "bronze.airports": """
        select faa, name, lat::double as lat, lon::double as lon, alt::int as alt, tz::int as tz,
            tzone
        from read_csv($landing || '/reference/airports.csv', all_varchar=true, nullstr=['NA', ''])
        """,
    "bronze.airlines": """
        select carrier, name
        from read_csv($landing || '/reference/airlines.csv', all_varchar=true, nullstr=['NA', ''])
        """,
    "silver.weather": """
        select origin, time_hour, any_value((temp - 32) * 5 / 9) as temperature_celsius,
            any_value(if(wind_speed > 1000, null, wind_speed) * 1.609344) as wind_kmh,
            any_value(precip * 25.4) as rain_mm, any_value(visib * 1.609344) as visibility_km
        from bronze.weather group by origin, time_hour""",
    "silver.airports": """
        select faa as airport, name, lon as longitude, alt * 0.3048::double as altitude_m,
            tzone as time_zone
        from bronze.airports""",
    "silver.planes": """
        select tailnum, year as built, seats,
            case
                when manufacturer like 'AIRBUS%' then 'AIRBUS'
                when manufacturer in ('BOMBARDIER', 'BOMBARDIER INC') then 'BOMBARDIER'
                when manufacturer like 'CANADAIR%' then 'CANADAIR'
                when manufacturer = 'DOUGLAS' or manufacturer like 'MCDONNELL DOUGLAS%'
                    then 'MCDONNELL DOUGLAS'
                else manufacturer
            end as manufacturer
        from bronze.planes""",
    "departures": """
        select distinct year, month, day, dep_time, dep_delay, arr_delay, carrier, flight, tailnum,
            origin, dest, air_time, distance, minute, time_hour
        from bronze.flights""",
    "silver.flights": """
        select f.carrier, l.name as airline, f.flight, f.origin, f.dest, a.name as dest_name,
            f.time_hour, make_date(f.year, f.month, f.day) as flight_date,
            f.time_hour + to_minutes(f.minute) as scheduled_at,
            f.time_hour + to_minutes(f.minute) + to_minutes(f.dep_delay) as departed_at,
            f.dep_delay, f.arr_delay, f.air_time, f.distance * 1.609344::double as distance_km,
            case when f.dep_time is null then 'cancelled' when f.arr_delay is null then 'diverted'
                else 'flown' end as status,
            p.manufacturer, p.built, p.seats
        from departures f
            semi join bronze.airports known on known.faa = f.dest
            left join bronze.airports a on a.faa = f.dest
            left join bronze.airlines l on l.carrier = f.carrier
            left join silver.planes p on p.tailnum = f.tailnum
        where f.tailnum is not null""",
    "silver.rejected_flights": """
        select dep_delay, arr_delay, dest, time_hour,
            if(tailnum is null, 'no tail number', 'unknown destination') as reason
        from departures
        where tailnum is null or dest not in (select faa from bronze.airports)""",
    "gold.carrier_delays": """
        select carrier, airline, extract(month from flight_date) as month, count(*) as flights,
            sum((status = 'cancelled')::int) as cancelled,
            sum(coalesce(arr_delay >= 15, false)::int) as late,
            sum(dep_delay) / count(dep_delay) as mean_dep_delay,
            sum(arr_delay) / count(arr_delay) as mean_arr_delay,
            max(arr_delay) as worst_arr_delay
        from silver.flights group by 1, 2, 3""",
    "gold.weather_delays": """
        select f.origin,
            case
                when w.temperature_celsius is null then 'unknown'
                when w.rain_mm > 0 then if(w.temperature_celsius <= 0, 'snow', 'rain')
                when w.visibility_km < 5 then 'fog'
                when w.wind_kmh >= 40 then 'wind'
                else 'fair'
            end as condition,
            count(*) as flights, sum((status = 'cancelled')::int) as cancelled,
            sum(dep_delay) / count(dep_delay) as mean_dep_delay, max(dep_delay) as worst_dep_delay
        from silver.flights f
            left join silver.weather w on w.origin = f.origin and w.time_hour = f.time_hour
        group by 1, 2""",
    "gold.busiest_routes": """
        select row_number() over (order by count(*) desc, origin, dest) as rank, origin, dest,
            count(*) as flights, count(distinct carrier) as carriers,
            coalesce(sum(seats), 0) as seats,
            sum(air_time) / count(air_time) as mean_air_time,
            sum(arr_delay) / count(arr_delay) as mean_arr_delay
        from silver.flights group by origin, dest qualify rank <= 50""",
}


def expected(landing: Path) -> Figures:
    """Return the figures that each table must show, from the files of the landing zone alone."""
    with _connection() as connection:
        for name, query in TABLES.items():
            given = {"landing": str(landing)} if "$landing" in query else {}
            connection.execute(f"create table {name} as {query}", given)
        return {table: _counted(connection, table) for table in FIGURES}


def actual(lake_root: Path) -> Figures:
    """Return the same figures from the Delta tables, for those that exist."""
    from deltalake import DeltaTable

    found = {}
    with _connection() as connection:
        for table in FIGURES:
            path = lake_root / table.replace(".", "/")
            if not (path / "_delta_log").is_dir():
                continue
            connection.register("delta", DeltaTable(str(path)).to_pyarrow_table())
            found[table] = _counted(connection, "delta", FIGURES[table])
            connection.unregister("delta")
    return found


def differences(wanted: Figures, found: Figures) -> list[str]:
    """Return a line for each figure that is not as wanted; fractions may differ by rounding."""
    lines = []
    for table, figures in wanted.items():
        if table not in found:
            lines.append(f"{table}: there is no such table")
            continue
        for name, value in figures.items():
            other = found[table][name]
            if isinstance(value, float) and isinstance(other, (int, float)):
                same = math.isclose(value, other, rel_tol=1e-9, abs_tol=1e-9)
            else:
                same = value == other
            if not same:
                lines.append(f"{table}: {name} is {other!r}, not {value!r}")
    return lines


def _connection() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config={"threads": 2})
    for layer in ("bronze", "silver", "gold"):
        connection.execute(f"create schema {layer}")
    return connection


def _counted(
    connection: duckdb.DuckDBPyConnection, table: str, figures: dict[str, str] | None = None
) -> dict[str, Any]:
    wanted = {"rows": "count(*)"} | (FIGURES[table] if figures is None else figures)
    [row] = connection.execute(f"select {', '.join(wanted.values())} from {table}").fetchall()
    return dict(zip(wanted, row, strict=True))
