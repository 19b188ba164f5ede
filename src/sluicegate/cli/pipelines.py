"""`sluicegate pipelines`: what is declared, how it hangs together, and whether it can work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluicegate.cli.options import AsJson, Target, with_settings
from sluicegate.config import Settings

if TYPE_CHECKING:
    from rich.tree import Tree

app = typer.Typer(help="Look at what is declared.", no_args_is_help=True)

OptionalTarget = Annotated[
    str | None,
    typer.Argument(
        metavar="PIPELINES",
        help="A file, a folder or a module; the server's, or those of this folder, if left out.",
    ),
]


@app.command("list")
@with_settings("home")
def list_pipelines(
    settings: Settings, pipelines: OptionalTarget = None, as_json: AsJson = False
) -> None:
    """List the pipelines with what they depend on and how they went last."""
    from sluicegate.cli.terminal import age, grid, out, plain, print_json, state

    declared = _declared(settings, pipelines)
    if as_json:
        print_json({"pipelines": declared})
        return
    shown = grid("pipeline", "mode", "last run", "when", "depends on", fold=("depends on",))
    for one in declared:
        last = one["last_task"]
        reads = one["files"] if one["files"] and not one["depends_on"] else None
        shown.add_row(
            plain(one["pipeline"]),
            one["mode"] if one["table"] else one["kind"],
            state(last["status"]) if last else plain("never"),
            age(last["started_at"]) if last else "",
            plain(f"files {reads}" if reads else ", ".join(one["depends_on"])),
        )
    out().print(shown)


@app.command("graph")
@with_settings("home")
def show_graph(
    settings: Settings, pipelines: OptionalTarget = None, as_json: AsJson = False
) -> None:
    """Draw what flows where.

    Below each pipeline stands what reads it.
    """
    from sluicegate.cli.terminal import out, print_json

    declared = _declared(settings, pipelines)
    if as_json:
        edges = [{"pipeline": one["pipeline"], "depends_on": one["depends_on"]} for one in declared]
        print_json({"pipelines": edges})
        return
    for tree in _trees(declared):
        out().print(tree)


@app.command("check")
@with_settings()
def check_pipelines(settings: Settings, pipelines: Target, as_json: AsJson = False) -> None:
    """Load pipelines and say all that is wrong.

    Nothing is run.
    """
    from sluicegate.cli.terminal import counted, out, plain, print_json
    from sluicegate.problems import LoadError
    from sluicegate.registry import load

    try:
        specs = load(pipelines).specs()
    except LoadError as error:
        if not as_json:
            raise
        fields = ("what", "mend", "pipeline", "file", "line")
        problems = [{name: getattr(one, name) for name in fields} for one in error.problems]
        print_json({"ok": False, "pipelines": 0, "problems": problems})
        raise typer.Exit(1) from None
    if as_json:
        print_json({"ok": True, "pipelines": len(specs), "problems": []})
    else:
        out().print(plain(f"{counted(len(specs), 'pipeline')} in {pipelines}, no problems"))


def _declared(settings: Settings, target: str | None) -> list[dict[str, Any]]:
    """The pipelines of `target`, else of the server, else of the working folder."""
    import os

    from sluicegate.cli.backend import find_server, open_backend
    from sluicegate.cli.serve import default_target

    if target is None and (os.environ.get("SLUICEGATE_URL") or find_server(settings)):
        with open_backend(settings) as backend:
            return list(backend.pipelines()["pipelines"])
    return _loaded(settings, target or default_target())


def _loaded(settings: Settings, target: str) -> list[dict[str, Any]]:
    """Load the pipelines here; how they went last is read from the store, if there is one."""
    from datetime import UTC, datetime

    from sluicegate.core.render import pipeline_dict
    from sluicegate.registry import load

    specs = load(target).specs()
    last = {}
    if settings.store_may_exist:
        from sluicegate.app import open_local

        with open_local(settings) as service:
            last = service.store.latest_tasks(list(specs))
    now = datetime.now(UTC)
    return [pipeline_dict(spec, last.get(name), now) for name, spec in specs.items()]


def _trees(declared: list[dict[str, Any]]) -> list[Tree]:
    """One tree for each pipeline that reads no other. What was drawn once is only named again."""
    from rich.text import Text
    from rich.tree import Tree

    names = [one["pipeline"] for one in declared]
    upstream = {one["pipeline"]: [u for u in one["depends_on"] if u in names] for one in declared}
    readers: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        for above in upstream[name]:
            readers[above].append(name)
    drawn: set[str] = set()

    def label(name: str, below: str | None) -> Text:
        layer, _, rest = name.partition(".")
        text = Text.assemble((f"{layer}.", "dim"), rest)
        if others := [one for one in upstream[name] if one != below]:
            text.append(f"  also reads {', '.join(others)}", style="dim")
        return text

    def draw(branch: Tree, name: str) -> None:
        for reader in readers[name]:
            if reader in drawn:
                branch.add(Text(f"{reader} (above)", style="dim"))
                continue
            drawn.add(reader)
            draw(branch.add(label(reader, name)), reader)

    trees = []
    for name in names:
        if not upstream[name]:
            tree = Tree(label(name, None), guide_style="dim")
            draw(tree, name)
            trees.append(tree)
    return trees
