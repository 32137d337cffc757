"""What Alembic runs for each command: on the connection that the caller opened, in the caller's transaction."""

from __future__ import annotations

from alembic import context

from homeport.vault.database import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    render_item=context.config.attributes.get("render"),
)
with context.begin_transaction():
    context.run_migrations()
