"""What ships with eigenbank appears in every catalog by itself, once."""

from collections.abc import Callable, Iterable

from sqlalchemy import insert, select

from eigenbank.registry.catalog.content import from_manifest
from eigenbank.registry.catalog.engine import Database
from eigenbank.registry.catalog.models import ShippedTable
from eigenbank.registry.catalog.numbering import Numbering
from eigenbank.schemas import Manifest

Entry = tuple[str, str, Manifest, str]
"""Location, checkpoint path, manifest, digest."""


def offer_shipped(database: Database) -> None:
    """Add the shipped sets that this catalog was never offered."""
    from eigenbank.registry.sets import bundled as shipped

    # Reading the manifests takes longer than opening a catalog: where their digests can be had alone, those come first.
    quick: Callable[[], Iterable[str]] | None = getattr(shipped, "shipped_digests", None)
    if quick is not None:
        with database.reading() as connection:
            if set(connection.scalars(select(ShippedTable.digest))).issuperset(quick()):
                return
    offer(database, shipped.shipped_sets())


def offer(database: Database, entries: Iterable[Entry]) -> None:
    """Add the sets whose digest this catalog was never offered. One that was since removed or rebuilt is left alone."""
    from eigenbank.registry.catalog import write

    entries = list(entries)
    with database.reading() as connection:
        if set(connection.scalars(select(ShippedTable.digest))).issuperset(entry[3] for entry in entries):
            return
    with database.writing() as connection:
        # Asked again: another process may have been faster.
        seen = set(connection.scalars(select(ShippedTable.digest)))
        numbers = Numbering(connection)
        for location, checkpoint_path, manifest, digest in entries:
            if digest in seen:
                continue
            write.add(
                numbers,
                from_manifest(manifest, location=location, digest=digest, checkpoint_path=checkpoint_path),
            )
            connection.execute(insert(ShippedTable), {"digest": digest})
