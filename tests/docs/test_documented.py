"""Everything public is documented: it fails when one is forgotten, and when one is gone."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from doc_pages import REFERENCE, prose, sections, table_rows

import sluicegate
from sluicegate.api import Service, create_api
from sluicegate.api.errors import STATUS
from sluicegate.app import open_local
from sluicegate.clock import SystemClock
from sluicegate.config import NAMES, OTHER_VARIABLES, Settings
from sluicegate.core.cancellation import Stage
from sluicegate.core.hub import Hub
from sluicegate.core.job import JobStatus, TaskStatus
from sluicegate.errors import SluicegateError
from sluicegate.input_kinds import KINDS
from sluicegate.options import PipelineOptions, SqlOptions
from sluicegate.task import Task

PYTHON, HTTP, CLI, SETTINGS, ERRORS, GLOSSARY = (
    REFERENCE / f"{name}.md"
    for name in ("python-api", "http-api", "command-line", "settings", "errors", "glossary")
)
MEMBER = re.compile(r"`([a-z_]+)(?:\([^`]*\))?`")


def code_cells(page: Path) -> dict[str, list[str]]:
    """The rows of a page's tables whose first cell is one name in code, by that name."""
    return {
        row[0].strip("`"): row for row in table_rows(page.read_text()) if row[0].startswith("`")
    }


# ------------------------------------------------------------------ Python


@pytest.mark.parametrize("name", sluicegate.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    """`__all__` is the promise; the page says what is promised."""
    assert f"`{name}`" in PYTHON.read_text()


def test_every_option_of_a_pipeline_is_documented() -> None:
    """The options are what an author looks up most."""
    told = code_cells(PYTHON)
    wanted = {*PipelineOptions.__annotations__, *SqlOptions.__annotations__}
    assert not wanted - told.keys()


def test_every_member_of_task_is_documented() -> None:
    """What the runner itself calls is left out: it is named in the list here, on purpose."""
    internal = {"flush_progress", "request_stop"}
    members = {name for name in vars(Task) if not name.startswith("_")} - internal
    members |= {"job_id", "task_id", "attempt", "params", "log"}
    told = {name for row in table_rows(PYTHON.read_text()) for name in MEMBER.findall(row[0])}
    assert not members - told


def test_every_kind_of_input_is_documented() -> None:
    """An annotation that the page does not name is one that nobody uses."""
    assert not [kind for kind in KINDS if f"`{kind}`" not in PYTHON.read_text()]


def test_every_status_and_stage_is_in_the_glossary() -> None:
    """These strings are what clients compare with."""
    text = GLOSSARY.read_text()
    assert not [one for one in (*JobStatus, *TaskStatus, *Stage) if f"`{one.value}`" not in text]


# ------------------------------------------------------------------ settings


def test_the_settings_are_documented_with_their_flags() -> None:
    """`sluicegate.toml` refuses unknown names, so a name on the page must be one that there is."""
    told = {name: row for name, row in code_cells(SETTINGS).items() if name.isupper()}
    told = {name: row for name, row in told.items() if not name.startswith("SLUICEGATE_")}
    assert told.keys() == {name.upper() for name in NAMES}
    for name in NAMES:
        assert told[name.upper()][1] == f"`--{name.replace('_', '-')}`"


def test_the_defaults_of_the_settings_are_documented(tmp_path: Path) -> None:
    """A default that changed and is still told as before is worse than none."""
    settings = Settings.load({}, environ={}, folder=tmp_path)
    told = code_cells(SETTINGS)
    for name in ("executor", "lease_seconds", "host", "port", "rate_limit"):
        assert told[name.upper()][2] == f"`{getattr(settings, name)}`"


def test_the_other_variables_are_documented() -> None:
    """They share the prefix of the settings and are none of them."""
    assert not set(OTHER_VARIABLES) - code_cells(SETTINGS).keys()


# ------------------------------------------------------------------ the command line


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    from sluicegate.cli.commands import app

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for part, below in command.commands.items():
                yield from walk(below, f"{name} {part}")
        else:
            yield name, command

    yield from walk(typer.main.get_command(app), "sluicegate")


def test_the_commands_are_documented() -> None:
    """One section a command, no more and no fewer."""
    told = {heading.strip("`") for heading in sections(CLI)}
    assert told == {name for name, _ in commands()}


@pytest.mark.parametrize(("name", "command"), [pytest.param(n, c, id=n) for n, c in commands()])
def test_the_options_of_a_command_are_documented(name: str, command: Any) -> None:
    """Settings have a page of their own, and `--json` and `--help` are told once, for all."""
    everywhere = {f"--{one.replace('_', '-')}" for one in NAMES} | {"--json", "--help", "-h"}
    flags = {
        flag
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
        if flag.startswith("-")
    }
    told = set(re.findall(r"`(--?[a-z][a-z-]*)`", sections(CLI)[f"`{name}`"]))
    assert not flags - everywhere - told
    assert not told - flags, "the page names options that the command does not have"


# ------------------------------------------------------------------ HTTP


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The paths of the application's own description."""
    folder = tmp_path_factory.mktemp("routes")
    with open_local(Settings.load({}, environ={}, folder=folder)) as local:
        service = Service(local.manager, local.store, local.tables, Hub(), SystemClock(), "0")
        paths: dict[str, dict[str, Any]] = create_api(service).openapi()["paths"]
    return paths


def test_the_routes_are_documented(routes: dict[str, dict[str, Any]]) -> None:
    """The table at the top of the page is the list that clients are written from."""
    wanted = {f"{method.upper()} {path}" for path, methods in routes.items() for method in methods}
    top = HTTP.read_text().partition("\n## ")[0]
    told = set(re.findall(r"`((?:GET|POST|PUT|DELETE) /(?:api|health)[^`]*)`", top))
    assert told == wanted


def test_the_parameters_and_fields_of_requests_are_documented(
    routes: dict[str, dict[str, Any]],
) -> None:
    """Unknown names are refused, so all known ones have to be told."""
    text = prose(HTTP)  # an example that happens to hold a name explains nothing
    names = {
        parameter["name"]
        for methods in routes.values()
        for route in methods.values()
        for parameter in route.get("parameters", ())
        if parameter["in"] == "query"
    }
    from sluicegate.api.schemas import (
        CancelJobsRequest,
        CancelTaskRequest,
        JobFilter,
        PruneRequest,
        RunJobRequest,
    )

    for request in (RunJobRequest, CancelJobsRequest, CancelTaskRequest, JobFilter, PruneRequest):
        names |= {*request.model_fields}
    assert not [name for name in names if not re.search(rf"[`\"?{{]{name}\b", text)]


# ------------------------------------------------------------------ errors


def error_codes() -> set[str]:
    """The code of every error class of every module, and those that the API makes by itself."""
    for module in pkgutil.walk_packages(sluicegate.__path__, "sluicegate."):
        if not re.search(r"__main__|\.migrations|\.examples", module.name):
            importlib.import_module(module.name)

    def below(kind: type[SluicegateError]) -> Iterator[type[SluicegateError]]:
        for derived in kind.__subclasses__():
            yield derived
            yield from below(derived)

    ours = {
        kind.code for kind in below(SluicegateError) if kind.__module__.startswith("sluicegate.")
    }
    return ours | STATUS.keys()


def test_the_error_codes_are_documented() -> None:
    """Codes are stable: clients and their authors rely on the list."""
    assert code_cells(ERRORS).keys() == error_codes() | {"error"}


def test_the_statuses_of_errors_are_documented() -> None:
    """The page's column and the table in the code are the same facts twice."""
    for code, row in code_cells(ERRORS).items():
        status = STATUS.get(code)
        told = row[1].partition(";")[0]
        assert told == ("none" if status is None else str(status)), code
        assert all(row[2:4]), f"{code} needs a what and a mend"
