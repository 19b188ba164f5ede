"""`sluicegate backup` and `restore`: a copy of the store while it is in use, and back."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sluicegate.cli.options import AsJson, Yes, with_settings
from sluicegate.config import Settings


@with_settings("home", "store")
def backup(
    settings: Settings,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file that is not there yet.")],
    as_json: AsJson = False,
) -> None:
    """Copy the SQLite store of this home to a file, as of one instant.

    A server that lives here goes on meanwhile. The lake is not part of it.
    """
    from sluicegate.backup import back_up
    from sluicegate.cli.terminal import out, plain, print_json

    size_bytes = back_up(settings, Path(file))
    if as_json:
        print_json({"file": file, "bytes": size_bytes})
    else:
        out().print(
            plain(f"the store is copied to {file}, {size_bytes / 1e6:,.1f} MB, and checked")
        )


@with_settings("home", "store", "lake")
def restore(
    settings: Settings,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE", help="The copy. Without: the store was put back by its own tools."
        ),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Put a copy of the store in its place, and bring it up to the lake.

    No server may live on this home. What was in the store is kept beside it.
    """
    from sluicegate.backup import restore as put_back
    from sluicegate.cli.terminal import can_ask, err, facts, listed, out, plain, print_json

    if file is not None and not yes:
        if not can_ask():
            raise typer.BadParameter(
                "a restore replaces the store, and there is nobody to ask: say --yes"
            )
        err().print(
            plain(f"jobs since {file} was made will be unknown; their rows stay in the tables")
        )
        if not typer.confirm("Put it in place of the store?", err=True):
            raise typer.Abort
    done = put_back(settings, None if file is None else Path(file), datetime.now(UTC))
    aside = None if done.aside is None else str(done.aside)
    if as_json:
        print_json({"file": file, "aside": aside, "tables_ahead": list(done.tables)})
        return
    console = out()
    console.print("the store is in place and fits the lake", style="bold")
    rows = [("before", aside), ("tables ahead of it", listed(done.tables))]
    console.print(facts(rows))
