"""Alembic's entry: runs the migrations on the connection that ``migrate`` hands in."""

from alembic import context

from services.common.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
