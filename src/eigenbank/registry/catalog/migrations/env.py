"""Alembic's entry: the connection and its transaction come from `schema.migrate`."""

from alembic import context

from eigenbank.registry.catalog.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
