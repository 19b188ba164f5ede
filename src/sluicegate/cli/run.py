"""`sluicegate run`: a job in the foreground, by the server of this home or by this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli import collector
from sluicegate.cli.options import RUNNING, AsJson, Target, with_settings
from sluicegate.cli.report import exit_code
from sluicegate.config import Settings

if TYPE_CHECKING:
    from sluicegate.app import RunningService

LAYERS: Final = ("bronze", "silver", "gold")


@with_settings(*RUNNING)
def run(
    settings: Settings,
    pipelines: Target,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="What to run, as silver.flights; none: all of it."),
    ] = None,
    with_dependencies: Annotated[
        bool, typer.Option("--with-dependencies", help="Also run what they depend on.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Run the full pipeline.")] = False,
    full_refresh: Annotated[
        bool, typer.Option("--full-refresh", help="Read everything again.")
    ] = False,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="K=V", help="A parameter; V is JSON, or else text."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run pipelines in the foreground.

    Ctrl-C stops them gracefully, a second one by force.

    Exit codes: 0 success, 1 failed or partial, 130 cancelled.
    """
    if ids and full:
        raise typer.BadParameter("--full runs all pipelines, so no ID can be given")
    _refuse_id_as_target(pipelines)
    request = {
        "pipelines": ids or [],
        "with_dependencies": with_dependencies,
        "full_refresh": full_refresh,
        "params": parse_params(param or []),
    }
    job = run_in_foreground(settings, pipelines, request)
    show_end(job, as_json=as_json)
    raise typer.Exit(exit_code(job))


def run_in_foreground(settings: Settings, target: str, request: Mapping[str, Any]) -> Any:
    """Run a job to its end with its progress on stderr, and return it."""
    from sluicegate.cli.backend import connect, find_server
    from sluicegate.cli.edge import warn
    from sluicegate.cli.local import LocalBackend
    from sluicegate.cli.progress import Stopper, follow
    from sluicegate.cli.terminal import err
    from sluicegate.targets import find_target

    find_target(target)
    if server := find_server(settings):
        with connect(server.url, server.api_key) as client:
            warn(f"{client.where} runs this, with its own pipelines")
            job = client.run(request)
            stopper = Stopper(client, job["job_id"])
            with stopper.listening():
                return follow(client, job, stopper)

    from sluicegate.app import open_service

    with ExitStack() as stack:
        try:
            with err().status(f"loading {target}"):
                service = stack.enter_context(open_service(settings, target))
        except KeyboardInterrupt:
            warn("interrupted; nothing was started")
            raise
        collector.go_on()
        backend = LocalBackend(service)
        job = backend.run(request)
        job_id = job["job_id"]
        stopper = Stopper(backend, job_id)
        with stopper.listening():
            return follow(backend, job, stopper, _listener(service, job_id))


def _listener(service: RunningService, job_id: str) -> Callable[[float], None]:
    """Return a pause that also hears of stops which other processes wrote to the store."""
    heard = 0

    def pause(seconds: float) -> None:
        nonlocal heard
        job = service.wait(job_id, seconds)
        if (job.stopping or job.task_stops) and job.version != heard:
            heard = job.version
            service.executor.wake(job_id)

    return pause


def show_end(job: Any, *, as_json: bool) -> None:
    """Print what a job came to."""
    from sluicegate.cli.report import print_summary
    from sluicegate.cli.terminal import out, print_json

    if as_json:
        print_json(job)
    else:
        print_summary(out(), job)


def parse_params(pairs: list[str]) -> dict[str, Any]:
    """Return `k=v` texts as parameters: values that read as JSON are that, others are text."""
    params: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"a parameter is written K=V, got {pair!r}")
        try:
            params[name] = json.loads(text)
        except ValueError:
            params[name] = text
    return params


def _refuse_id_as_target(target: str) -> None:
    """Explain the likeliest slip: an id where the pipelines' file belongs."""
    from pathlib import Path

    layer, _, name = target.partition(".")
    if layer in LAYERS and name.isidentifier() and name != "py" and not Path(target).exists():
        from sluicegate.cli.edge import fail

        fail(
            f"{target!r} is the id of a pipeline, not where pipelines are declared",
            f"name the file, folder or module first: sluicegate run pipelines.py {target}",
        )
