"""Bring a schema to the newest revision. Alembic is imported only when there is something to do."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from sluicegate.core.store_errors import StoreTooNewError

# The revision that this version of the code reads and writes: the newest file in `versions/`.
HEAD: Final = "0002"

# Alembic hands its configuration to `env.py` through module globals.
_one_at_a_time = threading.Lock()


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the database's schema, `None` when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def bring_to_head(connection: Connection, where: str) -> None:
    """Run what is missing, in the transaction that the caller has begun and commits.

    That transaction must keep other writers out, so that of two processes that start together one
    finds it done.

    Raises:
        StoreTooNewError: the revision is not one that this version knows; nothing was changed.
    """
    revision = current_revision(connection)
    if revision == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    here = str(Path(__file__).parent)
    config.set_main_option("script_location", here.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise StoreTooNewError(where, revision, HEAD)
    with _one_at_a_time:
        command.upgrade(config, "head")
