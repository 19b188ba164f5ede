"""All commands, in the order in which the help lists them."""

from __future__ import annotations

import typer

from sluicegate.cli import (
    backup,
    demo,
    doctor,
    jobs,
    keys,
    pipelines,
    project,
    prune,
    run,
    serve,
    tables,
    verify_stop,
)
from sluicegate.cli.edge import Commands

app = typer.Typer(
    cls=Commands,
    help="Runs medallion data pipelines and stops them cleanly.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("init")(project.init)
app.command("demo")(demo.demo)
app.command("serve")(serve.serve)
app.command("run")(run.run)
app.add_typer(jobs.app, name="jobs")
app.add_typer(pipelines.app, name="pipelines")
app.add_typer(tables.app, name="tables")
app.add_typer(keys.app, name="keys")
app.command("verify-stop")(verify_stop.verify_stop)
app.command("prune")(prune.prune)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("doctor")(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sluicegate {version('sluicegate')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_show_version, is_eager=True
    ),
) -> None:
    pass
