"""`sluicegate demo`: a year of flights, the full job over them, and the page to stop it in."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli import collector
from sluicegate.cli.options import SERVING, AsJson, with_settings
from sluicegate.config import Settings

if TYPE_CHECKING:
    from sluicegate.app import ServerInfo

SHOWN_ROWS: Final = 5
FULL_PIPELINE: Final[Mapping[str, Any]] = {"job_name": "demo: full pipeline"}


@with_settings(*SERVING)
def demo(
    settings: Settings,
    once: Annotated[
        bool, typer.Option("--once", help="Run it in the foreground, without a page, and exit.")
    ] = False,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Try it on real data, with a job to stop.

    The data are a year of flights from New York.
    """
    from sluicegate.demo import pipelines_path

    target = str(pipelines_path())
    _deliver(settings)
    if once:
        _run_once(settings, target, as_json=as_json)
    else:
        _serve(settings, target, open_browser=browser and _has_display(), as_json=as_json)


def _deliver(settings: Settings) -> None:
    """Put the data into the landing zone, saying so."""
    from sluicegate.cli.terminal import counted, err
    from sluicegate.demo import deliver

    console = err()
    with console.status("delivering a year of flights into the landing zone"):
        delivery = deliver(settings.landing)
    there = len(delivery.files) - delivery.written
    said = f"delivered {counted(delivery.written, 'file')}" if delivery.written else "no new files"
    console.print(f"{said}{f', {there:,} were there' if there else ''}", style="dim")


def _run_once(settings: Settings, target: str, *, as_json: bool) -> None:
    from sluicegate.cli.report import exit_code
    from sluicegate.cli.run import run_in_foreground, show_end

    job = run_in_foreground(settings, target, FULL_PIPELINE)
    show_end(job, as_json=as_json)
    if not as_json and exit_code(job) == 0:
        _print_gold(settings, job)
    raise typer.Exit(exit_code(job))


def _print_gold(settings: Settings, job: Mapping[str, Any]) -> None:
    """Print a few rows of the last gold table: what all of it was for."""
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.tables import print_rows
    from sluicegate.cli.terminal import out

    gold = [step["pipeline"] for step in job["plan"] if step["pipeline"].startswith("gold.")]
    if not gold:
        return
    with open_backend(settings) as backend:
        table = backend.table(gold[0], limit=SHOWN_ROWS)
    out().print(f"\nthe first rows of {gold[0]}:", style="dim")
    print_rows(out(), table)


def _serve(settings: Settings, target: str, *, open_browser: bool, as_json: bool) -> None:
    from sluicegate.app import serve
    from sluicegate.cli.serve import announce, say_stopped

    def ready(info: ServerInfo) -> None:
        collector.go_on()
        announce(settings, target, info, as_json=as_json)
        # The server calls this from its own thread and would wait for itself.
        starter = threading.Thread(target=_start_job, args=(settings, info, as_json), daemon=True)
        starter.start()

    serve(settings, target, open_browser=open_browser, on_ready=ready)
    say_stopped()


def _start_job(settings: Settings, info: ServerInfo, as_json: bool) -> None:
    from sluicegate.cli.backend import connect, find_server
    from sluicegate.cli.edge import warn
    from sluicegate.cli.terminal import out
    from sluicegate.errors import SluicegateError

    server = find_server(settings)
    try:
        with connect(info.url, server.api_key if server else None) as client:
            job = client.run(FULL_PIPELINE)
        if not as_json:
            out().print(
                "\nA job over all of it has started. Stop it on the page, or elsewhere with"
            )
            out().print(f"  sluicegate jobs cancel {job['job_id']}", style="cyan", soft_wrap=True)
    except SluicegateError as error:
        warn(f"the job was not started: {error.what}")


def _has_display() -> bool:
    """Whether a browser would be seen by whoever typed this."""
    if not sys.stdout.isatty() or os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
