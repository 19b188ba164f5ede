"""Bring a schema to the newest revision.

A new database is made from `schema` in one go; Alembic is imported only where an older one has to be changed. Tests see
that both ways lead to the same schema, to the last index.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from sluicegate.core.store_errors import StoreTooNewError
from sluicegate.stores.schema import METADATA, counters

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
    if revision is None:
        _make(connection)
    elif revision != HEAD:
        upgrade(connection, where, revision)


def _make(connection: Connection) -> None:
    """Make all tables. Where some are there but no revision is, that is not a store of ours: the database refuses."""
    METADATA.create_all(connection, checkfirst=False)
    connection.execute(counters.insert().values(id=1, event_id=0, log_id=0, position=0))
    # As Alembic makes it, which reads it when there is a newer revision.
    connection.exec_driver_sql(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL,"
        " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def upgrade(connection: Connection, where: str, revision: str | None) -> None:
    """Run the revisions after `revision`, all of them for `None`. Raises: `StoreTooNewError`."""
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
