"""Settings: which source wins, what is refused, and that all problems are told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sluicegate.config import NAMES, Settings, SettingsError
from sluicegate.errors import without_password


def load(
    folder: Path, flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None
) -> Settings:
    return Settings.load(flags, environ=environ or {}, folder=folder)


def test_defaults_lie_below_the_working_folder(tmp_path: Path) -> None:
    """Without any setting a project keeps everything in its own folder."""
    settings = load(tmp_path)
    assert settings.home == tmp_path / ".sluicegate"
    assert settings.store_path == tmp_path / ".sluicegate" / "jobs.db"
    assert (settings.lake, settings.landing) == (settings.home / "lake", settings.home / "landing")
    assert (settings.host, settings.port, settings.lease_seconds) == ("127.0.0.1", 8000, 15)
    assert {settings.source(name) for name in NAMES} == {"default"}


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    """The nearer to the command, the stronger; and `doctor` can say which it was."""
    (tmp_path / "sluicegate.toml").write_text('port = 1\nhost = "h1"\nworkers = 3\n')
    environ = {"SLUICEGATE_PORT": "2", "SLUICEGATE_HOST": "h2"}
    settings = load(tmp_path, {"port": "3", "host": None}, environ)
    assert (settings.port, settings.host, settings.workers) == (3, "h2", 3)
    assert settings.source("port") == "flag --port"
    assert settings.source("host") == "environment SLUICEGATE_HOST"
    assert settings.source("workers") == "sluicegate.toml"


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    """Compose files and CI pass variables on as empty text when they are not set."""
    assert load(tmp_path, environ={"SLUICEGATE_PORT": ""}).port == 8000


def test_home_carries_what_lies_below_it_along(tmp_path: Path) -> None:
    """Whoever moves the home moves store, lake and landing zone."""
    settings = load(tmp_path, environ={"SLUICEGATE_HOME": "elsewhere"})
    assert settings.home == tmp_path / "elsewhere"
    assert settings.lake == tmp_path / "elsewhere" / "lake"
    assert settings.store == f"sqlite:///{tmp_path / 'elsewhere' / 'jobs.db'}"


def test_paths_are_absolute_wherever_they_were_relative(tmp_path: Path) -> None:
    """A worker may change its folder; a relative lake would move under it."""
    settings = load(tmp_path, {"store": "sqlite:///db/jobs.db", "lake": "lake"})
    assert settings.store_path == tmp_path / "db" / "jobs.db"
    assert settings.lake.is_absolute()


@pytest.mark.parametrize("url", ["postgresql://me:pw@host/jobs", "postgres:///jobs?host=/run"])
def test_a_database_on_a_server_may_be_the_store(tmp_path: Path, url: str) -> None:
    """It is taken as it is; only opening it can tell whether there is a store in it."""
    settings = load(tmp_path, {"store": url})
    assert settings.store == url
    assert settings.store_may_exist
    assert not load(tmp_path).store_may_exist


def test_a_password_in_a_setting_is_not_shown(tmp_path: Path) -> None:
    """What is wrong with it is told without it; and settings are logged."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, {"store": "mysql://me:hunter2@host/jobs"})
    assert "hunter2" not in str(caught.value)
    assert "'mysql://me@host/jobs'" in str(caught.value)
    assert "hunter2" not in repr(load(tmp_path, {"store": "postgresql://me:hunter2@host/jobs"}))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:pw@host:5/jobs", "postgresql://me@host:5/jobs"),
        ("postgresql://me:p@w@host/jobs", "postgresql://me@host/jobs"),
        ("postgresql://me:p/w@host/jobs", "postgresql://me@host/jobs"),
        (
            "postgresql://host/jobs?user=me&password=pw&sslpassword=pw#x",
            "postgresql://host/jobs?user=me&password=***&sslpassword=***",
        ),
        ("postgresql:///jobs?host=/run", "postgresql:///jobs?host=/run"),
        ("sqlite:///a:b.db", "sqlite:///a:b.db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("name", "raw", "what"),
    [
        ("lease_seconds", "1", "LEASE_SECONDS must be at least 3, got 1"),
        ("workers", "0", "WORKERS must be at least 1, got 0"),
        ("port", "65536", "PORT must be at most 65535, got 65536"),
        ("port", "http", "PORT must be a whole number from 0 to 65535, got 'http'"),
        ("store", "mysql://x/y", "STORE must be an SQLite file, or a PostgreSQL or Firestore"),
        ("store", "postgresql://", "STORE must be an SQLite file, or a PostgreSQL or Firestore"),
        ("store", "firestore://", "STORE must be an SQLite file, or a PostgreSQL or Firestore"),
        ("store", "sqlite:///", "STORE must be an SQLite file, or a PostgreSQL or Firestore"),
        ("lake", "s3://bucket", "LAKE must be a folder in this release"),
        ("landing", "gs://bucket", "LANDING must be a folder in this release"),
        ("executor", "ray", "EXECUTOR must be 'local' in this release"),
        ("host", "http://x", "HOST must be a host name or address"),
        ("rate_limit", "fast", "RATE_LIMIT must be requests per second, minute or hour"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_mend(
    tmp_path: Path, name: str, raw: str, what: str
) -> None:
    """Two lines: what it must be and what we got; how to mend it, and where it was set."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, environ={f"SLUICEGATE_{name.upper()}": raw})
    first, second = str(caught.value).splitlines()
    assert first.startswith(what)
    assert raw in first
    assert "or remove it" in second
    assert f"environment SLUICEGATE_{name.upper()}" in second


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """Nobody should have to start a server five times to find five slips."""
    (tmp_path / "sluicegate.toml").write_text("prot = 1\nworkers = true\n")
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, {"lake": "s3://x"}, {"SLUICEGATE_PORT": "-1"})
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for word in ("'prot'", "WORKERS", "LAKE", "PORT"):
        assert word in text


def test_a_file_that_cannot_be_read_is_a_problem_like_others(tmp_path: Path) -> None:
    """A slip in the file must not look as if the file were not there."""
    (tmp_path / "sluicegate.toml").write_text("port = ")
    with pytest.raises(SettingsError, match=r"cannot read sluicegate\.toml"):
        load(tmp_path)
