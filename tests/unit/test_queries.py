"""Which tables a query reads is found in the query itself."""

from __future__ import annotations

import sys

import pytest

from sluicegate.queries import QueryError, tables_read


@pytest.mark.parametrize(
    ("query", "tables"),
    [
        ("select 1", ()),
        ("from bronze.a", ("bronze.a",)),
        ("select * from bronze.a;", ("bronze.a",)),
        ('select * from "bronze"."a"', ("bronze.a",)),
        ("select * from Bronze.A", ("bronze.a",)),
        ("from bronze.a union all by name from silver.b", ("bronze.a", "silver.b")),
        (
            "from bronze.a join silver.b using (k) cross join gold.c",
            ("bronze.a", "gold.c", "silver.b"),
        ),
        ("select (select max(x) from bronze.b) from bronze.a", ("bronze.a", "bronze.b")),
        ("from bronze.a where exists (from bronze.b)", ("bronze.a", "bronze.b")),
        ("from bronze.a order by (select min(x) from bronze.b)", ("bronze.a", "bronze.b")),
        ("with t as (from bronze.a), u as (from t) from u", ("bronze.a",)),
        ("with T as materialized (from bronze.a) from t", ("bronze.a",)),
        ("with recursive r as (from bronze.a union all from r) from r", ("bronze.a",)),
        ("from (with t as (from bronze.a) from t), range(3)", ("bronze.a",)),
        ("from (pivot bronze.a on x in (1, 2) using sum(y))", ("bronze.a",)),
        ("select bronze.a.x from bronze.a", ("bronze.a",)),
        ("select 'from bronze.b' from bronze.a -- bronze.c", ("bronze.a",)),
    ],
)
def test_every_way_to_name_a_table_counts_and_ctes_do_not(
    query: str, tables: tuple[str, ...]
) -> None:
    """A dependency that is missed would run too early, and read yesterday's table."""
    assert tables_read(query) == tables


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("select * from flights", "'flights'"),
        ("select * from main.flights", "'main.flights'"),
        ("select * from lake.bronze.flights", "'lake.bronze.flights'"),
        ('select * from "bronze.flights"', "'bronze.flights'"),
        ("select * from 'flights.csv'", "'flights.csv'"),
        ("with t as (select 1) select * from (with u as (select 2) from u), u", "'u'"),
        ("selec 1", "syntax error"),
        ("", "0 statements"),
        ("select 1; select 2", "2 statements"),
        ("insert into bronze.a values (1)", "INSERT"),
        ("drop table bronze.a", "DROP"),
        ("describe bronze.a", "more than to select"),
        ("with a as (delete from bronze.a returning *) from a", "more than to select"),
    ],
)
def test_what_cannot_fill_a_table_is_refused_with_the_reason(query: str, what: str) -> None:
    """The mistake shows when the file is loaded, not an hour into the job."""
    with pytest.raises(QueryError, match=what) as caught:
        tables_read(query)
    assert caught.value.mend


def test_without_duckdb_the_mend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB is an extra; whoever lacks it should not have to guess its name."""
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(QueryError, match="DuckDB, which is not installed") as caught:
        tables_read("select 1")
    assert "pip install 'sluicegate[frames]'" in caught.value.mend
