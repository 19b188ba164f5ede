"""`sluicegate tables`: what the pipelines have filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli.options import AsJson, with_settings
from sluicegate.config import Settings

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Look at tables.", no_args_is_help=True)

CELL_MAX: Final = 40


@app.command("list")
@with_settings("home", "lake")
def list_tables(settings: Settings, as_json: AsJson = False) -> None:
    """List the tables with their versions and sizes."""
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.terminal import count, grid, out, plain, print_json

    with open_backend(settings) as backend:
        answer = backend.tables()
    if as_json:
        print_json(answer)
        return
    if not answer["tables"]:
        out().print("no tables yet", style="dim")
        return
    shown = grid("table", "version", "rows", "columns", right=("version", "rows", "columns"))
    for table in answer["tables"]:
        version = "" if table["version"] is None else str(table["version"])
        columns = table["columns"]
        width = columns if isinstance(columns, int) else len(columns)
        shown.add_row(plain(table["name"]), version, count(table["row_count"]), str(width))
    out().print(shown)


@app.command("show")
@with_settings("home", "lake")
def show_table(
    settings: Settings,
    name: Annotated[str, typer.Argument(metavar="TABLE", help="As silver.flights.")],
    limit: Annotated[int, typer.Option("--limit", min=0, max=1000, help="Rows to show.")] = 10,
    version: Annotated[
        int | None, typer.Option("--version", min=0, help="As it was at this version.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one table: its columns and first rows."""
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.terminal import count, facts, out, print_json

    with open_backend(settings) as backend:
        table = backend.table(name, limit=limit, version=version)
    if as_json:
        print_json(table)
        return
    console = out()
    console.print(table["name"], style="bold", markup=False)
    at = "none yet" if table["version"] is None else str(table["version"])
    console.print(facts([("version", at), ("rows", count(table["row_count"]))]))
    console.print()
    console.print(_columns(table["schema"]))
    if table["preview"]:
        console.print()
        print_rows(console, table)


def print_rows(console: Console, table: Mapping[str, Any]) -> None:
    """Print the rows of a preview; columns that do not fit are counted below."""
    from sluicegate.cli.terminal import counted, grid, plain

    rows = table["preview"]
    if not rows:
        console.print("no rows", style="dim")
        return
    names = list(rows[0])
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [
        min(CELL_MAX, max(len(name), *(len(row[at]) for row in cells)))
        for at, name in enumerate(names)
    ]
    fitting, used = 0, 0
    while fitting < len(names) and used + widths[fitting] <= console.width:
        used += widths[fitting] + 2
        fitting += 1
    fitting = max(1, fitting)
    numbers = {
        name for name in names if all(isinstance(row.get(name), int | float | None) for row in rows)
    }
    shown = grid(*names[:fitting], right=numbers, upper=False)
    for row in cells:
        shown.add_row(*(plain(cell) for cell in row[:fitting]))
    console.print(shown)
    if fitting < len(names):
        left = counted(len(names) - fitting, "more column")
        console.print(f"and {left}", style="dim")


def _columns(schema: Any) -> Any:
    """The columns with their types, whatever of the two usual shapes the schema has."""
    from sluicegate.cli.terminal import columns, plain

    pairs = schema.items() if isinstance(schema, dict) else ((c["name"], c["type"]) for c in schema)
    shown = columns("left", "left")
    for name, kind in pairs:
        shown.add_row(plain(str(name)), plain(str(kind)), style="")
    return shown


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    text = text.replace("\n", " ")
    return text if len(text) <= CELL_MAX else f"{text[: CELL_MAX - 1]}…"
