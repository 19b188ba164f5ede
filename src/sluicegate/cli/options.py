"""Options that several commands share, and the settings that can be given as flags."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Concatenate, Final, ParamSpec, get_type_hints

import typer

from sluicegate.config import Settings

P = ParamSpec("P")

AsJson = Annotated[bool, typer.Option("--json", help="Print plain JSON on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="A job id, or the beginning of a recent one.")
]
Target = Annotated[
    str, typer.Argument(metavar="PIPELINES", help="A file, a folder or a module of pipelines.")
]

_FLAGS: Final[dict[str, Any]] = {
    "home": Annotated[
        str | None,
        typer.Option("--home", metavar="FOLDER", help="The folder of everything embedded."),
    ],
    "store": Annotated[
        str | None, typer.Option("--store", metavar="URL", help="Where jobs are kept.")
    ],
    "lake": Annotated[
        str | None, typer.Option("--lake", metavar="FOLDER", help="The folder of the tables.")
    ],
    "landing": Annotated[
        str | None,
        typer.Option("--landing", metavar="FOLDER", help="The folder that new files arrive in."),
    ],
    "executor": Annotated[
        str | None, typer.Option("--executor", metavar="NAME", help="What runs the tasks.")
    ],
    "workers": Annotated[str | None, typer.Option("--workers", metavar="N", help="Tasks at once.")],
    "lease_seconds": Annotated[
        str | None,
        typer.Option(
            "--lease-seconds", metavar="N", help="How soon a dead executor's jobs are taken over."
        ),
    ],
    "host": Annotated[
        str | None, typer.Option("--host", metavar="HOST", help="The address to listen at.")
    ],
    "port": Annotated[
        str | None, typer.Option("--port", metavar="N", help="The port to listen at.")
    ],
    "rate_limit": Annotated[
        str | None,
        typer.Option("--rate-limit", metavar="N/UNIT", help="Requests per key, as 600/minute."),
    ],
}
RUNNING: Final = ("home", "store", "lake", "landing", "executor", "workers", "lease_seconds")
SERVING: Final = (*RUNNING, "host", "port", "rate_limit")


def with_settings(
    *names: str,
) -> Callable[[Callable[Concatenate[Settings, P], None]], Callable[P, None]]:
    """Give a command its settings as first argument, and each of `names` as a flag."""

    def decorate(function: Callable[Concatenate[Settings, P], None]) -> Callable[P, None]:
        @wraps(function)
        def command(*args: P.args, **kwargs: P.kwargs) -> None:
            flags = {name: kwargs.pop(f"setting_{name}", None) for name in names}
            function(Settings.load(flags), *args, **kwargs)

        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]
        added = [
            inspect.Parameter(
                f"setting_{name}",
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=_FLAGS[name],
            )
            for name in names
        ]
        parameters = [
            *(p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in own),
            *added,
        ]
        command.__dict__["__signature__"] = inspect.Signature(parameters)
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        del command.__wrapped__
        return command

    return decorate
