"""`sluicegate.__all__` is the promise: what is added or taken away is decided here, not by accident."""

from __future__ import annotations

import subprocess
import sys

import sluicegate

PROMISED = [
    "CancelPolicy",
    "Cancelled",
    "SluicegateError",
    "Task",
    "bronze",
    "gold",
    "silver",
    "table",
]


def test_the_public_names_are_exactly_the_promised_ones() -> None:
    """Pipelines of others are written against these."""
    assert sorted(sluicegate.__all__) == PROMISED


def test_every_public_name_is_there_and_documented() -> None:
    """An index of the API is made of their first lines."""
    for name in sluicegate.__all__:
        assert (getattr(sluicegate, name).__doc__ or "").strip(), name


def test_a_stop_is_no_error_that_user_code_can_swallow_by_accident() -> None:
    """`except Exception` around a download must let a stop through."""
    assert issubclass(sluicegate.Cancelled, BaseException)
    assert not issubclass(sluicegate.Cancelled, Exception)
    assert issubclass(sluicegate.SluicegateError, Exception)


def test_the_helpers_for_work_elsewhere_are_exactly_the_promised_ones() -> None:
    """`from sluicegate import remote`; a module of its own, since its names are those of drivers."""
    from sluicegate import remote

    helpers = {"bigquery", "duckdb", "postgresql", "spark", "subprocess"}
    assert set(remote.__all__) == {*helpers, "RemoteNotStoppableError", "RemoteWork"}
    for name in remote.__all__:
        assert (getattr(remote, name).__doc__ or "").strip(), name


def test_importing_the_package_loads_nothing_heavy() -> None:
    """It is imported by every worker and every command: frameworks and drivers come when they are used."""
    heavy = (
        "fastapi",
        "sqlalchemy",
        "pyarrow",
        "deltalake",
        "polars",
        "duckdb",
        "pandas",
        "typer",
        "uvicorn",
        "httpx",
        "rich",
        "psycopg",
        "google",
        "pyspark",
    )
    code = f"import sys, sluicegate, sluicegate.remote; print([m for m in {heavy!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
