"""Commands in this process: what they print, what they refuse, and what they leave alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sluicegate.cli import project as project_command
from sluicegate.cli.commands import app

SOURCES = Path(__file__).parents[2] / "src"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and no settings from outside."""
    for name in os.environ:
        if name.startswith("SLUICEGATE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(SOURCES))  # may be relative, and we go elsewhere
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="sluicegate")


def test_help_loads_nothing_heavy() -> None:
    """Help that takes a second feels broken; the time is in the imports."""
    heavy = ["rich", "httpx", "fastapi", "uvicorn", "pyarrow", "polars", "duckdb", "sqlalchemy"]
    code = (
        "import sys\n"
        "from sluicegate.cli import main\n"
        "sys.argv = ['sluicegate', '--help']\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert done.code == 0\n"
        f"print('loaded', [name for name in {heavy} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "loaded []" in answer.stdout, answer.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "show", "no-such-job"],
        ["jobs", "cancel", "no-such-job"],
        ["jobs", "logs", "no-such-job"],
        ["jobs", "watch", "no-such-job"],
        ["tables", "show", "gold.nothing"],
        ["tables", "show", "nothing"],
        ["keys", "revoke", "nobody"],
        ["keys", "create", "ci", "--role", "boss"],
        ["keys", "create", "a b", "--role", "viewer"],
        ["serve"],
        ["serve", "nothing.py", "--port", "0"],
        ["run", "nothing.py"],
        ["run", "silver.flights"],
        ["pipelines", "list"],
        ["pipelines", "check", "nothing.py"],
        ["doctor", "--port", "high"],
        ["serve", "--lease-seconds", "1"],
    ],
)
def test_every_error_is_one_line_what_and_one_line_mend(arguments: list[str]) -> None:
    """Whoever meets an error needs to know what to do next, and scripts need the code."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    what, mend = result.stderr.splitlines()
    assert what.startswith("error: ")
    assert mend.startswith(" mend: ")
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["run"],
        ["run", "pipelines.py", "silver.a", "--full"],
        ["run", "pipelines.py", "--param", "novalue"],
        ["jobs", "list", "--status", "lost"],
        ["jobs", "list", "--limit", "0"],
        ["jobs", "cancel", "x", "--force", "--drain"],
        ["keys", "create", "ci"],
        ["demo", "--nonsense"],
    ],
)
def test_a_command_written_wrongly_exits_with_2(arguments: list[str]) -> None:
    """A slip of the fingers is told apart from a thing that could not be done."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    what, mend = result.stderr.splitlines()
    assert what.startswith("error: ")
    assert mend.endswith("--help`")


def test_a_mistake_of_ours_shows_an_incident_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A traceback helps us, not whoever typed the command; they can ask for it."""

    def slip(folder: Path) -> None:
        raise KeyError("slip")

    monkeypatch.setattr(project_command, "_copy_starter", slip)
    result = run("init")
    assert result.exit_code == 1
    assert "incident" in result.stderr
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("SLUICEGATE_DEBUG", "1")
    assert "Traceback" in run("init").stderr


def test_looking_makes_no_files(here: Path) -> None:
    """Who lists jobs in the wrong folder must not leave a store there."""
    assert run("jobs", "list").stdout == "no jobs yet\n"
    assert json.loads(run("jobs", "list", "--json").stdout) == {
        "jobs": [],
        "count": 0,
        "next_cursor": None,
    }
    assert json.loads(run("tables", "list", "--json").stdout) == {"tables": []}
    assert json.loads(run("keys", "list", "--json").stdout) == {"keys": []}
    assert run("doctor").exit_code == 0
    assert list(here.iterdir()) == []


def test_init_makes_what_is_missing_and_overwrites_nothing(here: Path) -> None:
    """Somebody's work may be in that folder."""
    shop = here / "shop"
    shop.mkdir()
    (shop / "README.md").write_text("mine")
    made = json.loads(run("init", "shop", "--json").stdout)
    assert (made["made"], made["kept"]) == (["pipelines.py", "sluicegate.toml"], ["README.md"])
    assert (shop / "README.md").read_text() == "mine"
    again = json.loads(run("init", "shop", "--json").stdout)
    assert again["made"] == []


def test_what_init_makes_can_be_loaded(here: Path) -> None:
    """The first thing anybody runs must work."""
    run("init")
    assert json.loads(run("pipelines", "check", "pipelines.py", "--json").stdout)["ok"] is True
    listed = json.loads(run("pipelines", "list", "--json").stdout)["pipelines"]
    assert [one["pipeline"] for one in listed] == [
        "bronze.orders",
        "silver.clean_orders",
        "gold.cups_by_item",
    ]
    assert "└── gold.cups_by_item" in run("pipelines", "graph").stdout
    assert run("doctor").exit_code == 0


def test_check_tells_all_problems(here: Path) -> None:
    """In CI, one run should be enough to see everything."""
    (here / "bad.py").write_text(
        "from sluicegate import silver\n"
        "@silver(retries=-1)\ndef a(x): ...\n"
        "@silver(mode='sideways')\ndef b(x): ...\n"
    )
    result = run("pipelines", "check", "bad.py")
    assert result.exit_code == 1
    assert result.stderr.count("error:") == result.stderr.count("mend:") >= 2
    answer = run("pipelines", "check", "bad.py", "--json")
    assert answer.exit_code == 1
    shown = json.loads(answer.stdout)
    assert shown["ok"] is False
    assert {"what", "mend", "pipeline", "file", "line"} == set(shown["problems"][0])


def test_doctor_shows_each_setting_with_its_source(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to "why does it listen there?"."""
    (here / "sluicegate.toml").write_text("workers = 3\n")
    monkeypatch.setenv("SLUICEGATE_PORT", "9000")
    monkeypatch.setenv("SLUICEGATE_PROT", "9001")
    shown = json.loads(run("doctor", "--host", "::1", "--json").stdout)
    settings = shown["settings"]
    assert settings["workers"] == {"value": 3, "source": "sluicegate.toml"}
    assert settings["port"] == {"value": 9000, "source": "environment SLUICEGATE_PORT"}
    assert settings["host"] == {"value": "::1", "source": "flag --host"}
    assert settings["rate_limit"]["source"] == "default"
    assert any("SLUICEGATE_PROT" in check["what"] for check in shown["checks"])


def test_a_key_is_made_listed_and_revoked(here: Path) -> None:
    """The secret is printed once, alone on stdout, and never again."""
    made = json.loads(run("keys", "create", "ci", "--role", "operator", "--json").stdout)
    assert set(made) == {"name", "role", "key"}
    assert run("keys", "create", "ci", "--role", "viewer").exit_code == 1
    (listed,) = json.loads(run("keys", "list", "--json").stdout)["keys"]
    assert (listed["name"], listed["role"], listed["revoked_at"]) == ("ci", "operator", None)
    assert made["key"] not in run("keys", "list").stdout
    assert run("keys", "revoke", "ci").exit_code == 0
    (listed,) = json.loads(run("keys", "list", "--json").stdout)["keys"]
    assert listed["revoked_at"] is not None
    plain = run("keys", "create", "other", "--role", "viewer")
    assert plain.stdout.strip().startswith("sg_")
    assert len(plain.stdout.splitlines()) == 1


@pytest.mark.parametrize("stale", ["{}", "not json", '{"url": "http://127.0.0.1:1", "pid": 1}'])
def test_a_server_that_is_gone_counts_as_none(here: Path, stale: str) -> None:
    """After a crash its note stays behind, and commands must still work."""
    (here / ".sluicegate").mkdir()
    (here / ".sluicegate" / "server.json").write_text(stale)
    assert run("jobs", "list").exit_code == 0
