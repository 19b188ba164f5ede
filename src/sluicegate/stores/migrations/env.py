"""Alembic's entry: run the revisions in the transaction that `bring_to_head` was given."""

from __future__ import annotations

from alembic import context

from sluicegate.stores.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
