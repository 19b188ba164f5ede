"""Jobs remember which of their tasks were stopped alone, and their rollback."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the two columns; jobs of before have neither."""
    op.add_column("jobs", sa.Column("task_stops", _TEXT))
    op.add_column("jobs", sa.Column("rollback", _TEXT))
