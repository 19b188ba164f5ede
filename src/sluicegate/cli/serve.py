"""`sluicegate serve`: the API, the page and an executor, until Ctrl-C."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sluicegate.cli import collector
from sluicegate.cli.options import SERVING, AsJson, with_settings
from sluicegate.config import Settings

if TYPE_CHECKING:
    from sluicegate.app import ServerInfo

DEFAULT_TARGETS: Final = ("pipelines.py", "pipelines")


@with_settings(*SERVING)
def serve(
    settings: Settings,
    pipelines: Annotated[
        str | None,
        typer.Argument(
            metavar="PIPELINES",
            help="A file, a folder or a module; pipelines.py or pipelines/ if left out.",
        ),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Serve the API and the page, and run jobs.

    Ctrl-C stops the server.
    """
    from sluicegate.app import serve as serve_app

    target = pipelines or default_target()

    def ready(info: ServerInfo) -> None:
        collector.go_on()
        announce(settings, target, info, as_json=as_json)

    serve_app(settings, target, open_browser=open_browser, on_ready=ready)
    say_stopped()


def default_target() -> str:
    """Return the pipelines of the working folder. Raises: `SluicegateError` when there are none."""
    for target in DEFAULT_TARGETS:
        if Path(target).exists():
            return target
    from sluicegate.cli.edge import fail

    return fail(
        f"there is neither {DEFAULT_TARGETS[0]} nor {DEFAULT_TARGETS[1]}/ here",
        "name the pipelines, or make a project with `sluicegate init`",
    )


def announce(settings: Settings, target: str, info: ServerInfo, *, as_json: bool = False) -> None:
    """Say where the server listens and how to sign in."""
    from sluicegate.cli.terminal import facts, out, print_json

    if as_json:
        print_json(
            {
                "url": info.url,
                "pid": os.getpid(),
                "pipelines": info.pipelines,
                "sign_in_link": info.sign_in_link,
            },
            line=True,
        )
        return
    console = out()
    console.print(f"[bold]Sluicegate[/] listens at [bold]{info.url}[/]")
    console.print(
        facts([("pipelines", shown_path(Path(target))), ("home", shown_path(settings.home))])
    )
    if info.sign_in_link:
        console.print()
        console.print("Sign in with this link; it works once:")
        console.print(f"  {info.sign_in_link}", style="cyan", soft_wrap=True, markup=False)
    console.print()
    console.print("Ctrl-C stops the server; running jobs go on when it starts again.", style="dim")


def say_stopped() -> None:
    """Say that the server is gone, below what the terminal made of Ctrl-C."""
    from sluicegate.cli.terminal import err

    console = err()
    console.print("\nstopped" if console.is_terminal else "stopped", style="dim")


def shown_path(path: Path) -> str:
    """Return a path as short as it can be said from here."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)
