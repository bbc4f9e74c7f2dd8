"""Alembic's migrations of the catalog. Run by `schema.migrate`."""
