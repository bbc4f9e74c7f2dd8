"""What an earlier schema left out of the catalog, and the sets on this machine can tell: their composites."""

from sqlalchemy import Connection

from eigenbank.registry.catalog import dump, read, write
from eigenbank.registry.catalog.content import composites_of
from eigenbank.registry.catalog.numbering import Numbering
from eigenbank.schemas.common import MAX_MANIFEST_BYTES
from eigenbank.schemas.errors import SetError

_SINCE = 7
"""The first schema that keeps them."""
_MENTION = b'"composites"'


def adopt_composites(connection: Connection, schema: int) -> None:
    """Enter the composites of every set whose manifest is where the catalog says, unchanged, into a catalog that was of a
    `schema` without. The others get theirs when they are built, pulled or synced again.
    """
    if schema >= _SINCE:
        return
    from eigenbank.registry.hub.client import folder_of
    from eigenbank.registry.sets.folder import MANIFEST, manifest_digest, read_manifest

    for row in read.sets(connection):
        try:
            folder = folder_of(row.location)
            path = folder / MANIFEST
            # Few sets have any: the others need not be validated.
            if path.stat().st_size > MAX_MANIFEST_BYTES or _MENTION not in path.read_bytes():
                continue
            if manifest_digest(folder) != row.digest:
                continue
            found = composites_of(read_manifest(folder))
        except (OSError, ValueError, SetError):
            continue
        entry = dump.checkpoint(connection, row.model_id, row.revision or "") if found else None
        if entry is not None and entry.set is not None and not entry.set.composites:
            entry.set.composites = found
            write.replace(Numbering(connection), entry)
