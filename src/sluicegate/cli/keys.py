"""`sluicegate keys`: who may use the API, and how far."""

from __future__ import annotations

from typing import Annotated

import typer

from sluicegate.cli.options import AsJson, with_settings
from sluicegate.config import Settings

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Whom or what the key is for.")]


@app.command("create")
@with_settings("home")
def create_key(
    settings: Settings,
    name: KeyName,
    role: Annotated[
        str, typer.Option("--role", help="viewer reads, operator runs and stops, admin does all.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It is shown only now."""
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.terminal import err, out, print_json
    from sluicegate.core.keys import InvalidRoleError, Role

    if role not in list(Role):
        raise InvalidRoleError(role)
    with open_backend(settings, create=True) as backend:
        answer = backend.create_key(name, role)
    key = {field: answer[field] for field in ("name", "role", "key")}
    if as_json:
        print_json(key)
        return
    # The key alone goes to stdout, so that it can be piped to where it is kept.
    err().print(f"key of {key['name']}, {key['role']}; it is shown only now:", style="dim")
    out().print(key["key"], markup=False, soft_wrap=True)


@app.command("list")
@with_settings("home")
def list_keys(settings: Settings, as_json: AsJson = False) -> None:
    """List the keys. The keys themselves are not kept."""
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.terminal import grid, local_time, out, plain, print_json

    with open_backend(settings) as backend:
        answer = backend.keys()
    if as_json:
        print_json(answer)
        return
    if not answer["keys"]:
        out().print("no keys yet", style="dim")
        return
    shown = grid("name", "role", "created", "revoked")
    for key in answer["keys"]:
        times = (local_time(key["created_at"]), local_time(key["revoked_at"]))
        style = "dim" if key["revoked_at"] else ""
        shown.add_row(plain(key["name"]), key["role"], *times, style=style)
    out().print(shown)


@app.command("revoke")
@with_settings("home")
def revoke_key(settings: Settings, name: KeyName, as_json: AsJson = False) -> None:
    """Revoke a key. It stops working at once."""
    from sluicegate.cli.backend import open_backend
    from sluicegate.cli.terminal import out, plain, print_json

    with open_backend(settings) as backend:
        answer = backend.revoke_key(name)
    if as_json:
        print_json(answer or {"name": name})
    else:
        out().print(plain(f"revoked the key of {name}"))
