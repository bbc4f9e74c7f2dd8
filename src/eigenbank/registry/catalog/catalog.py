"""The catalog as the rest of the program sees it: opening and changing it. `reader` has the questions.

What only a change takes is imported where one is made: a search in a process of its own does not wait for it.
"""

import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from sqlalchemy import URL, select

from eigenbank.registry.catalog import names, read
from eigenbank.registry.catalog.content import CheckpointData, from_manifest
from eigenbank.registry.catalog.engine import Database
from eigenbank.registry.catalog.models import CheckpointTable, LabelTable, SourceTable, TextTable
from eigenbank.registry.catalog.numbering import Numbering
from eigenbank.registry.catalog.place import is_named, locate
from eigenbank.registry.catalog.reader import Reader
from eigenbank.registry.catalog.rows import parse_name
from eigenbank.registry.catalog.schema import open_file
from eigenbank.registry.catalog.sql import among, storable
from eigenbank.schemas import Label, Manifest
from eigenbank.schemas.errors import CatalogError

__all__ = ["Catalog"]


class Catalog(Reader):
    """Checkpoints, layers, directions, labels and where the sets are. Use as a context manager; safe between threads.

    Every method is one transaction: readers see one state, and a change is made whole or not at all. Each raises
    CatalogError when the database cannot be used.
    """

    def __init__(self, database: Database, *, writable: bool) -> None:
        super().__init__(database)
        self._writable = writable

    @classmethod
    def open(cls, url: str | os.PathLike[str] | None = None, *, shipped: bool = True) -> "Catalog":
        """Open a catalog, made if it is not there yet. With `shipped`, what comes with eigenbank is put in, once.

        `url` is a path, `sqlite:///PATH` or `postgresql+psycopg://…`. None: the environment's `EIGENBANK_CATALOG`, else
        `catalog.db` at home, whose folder is made, too. Raises CatalogError for what is not a catalog, one of a newer
        schema, or a path in a folder that does not exist; nothing is written then.
        """
        place = locate(url)
        if isinstance(place, URL):
            from eigenbank.registry.catalog.server import open_server

            database, writable = open_server(place)
        else:
            database, writable = open_file(place, folder=not is_named(url))
        catalog = cls(database, writable=writable)
        try:
            if shipped and writable:
                from eigenbank.registry.catalog import seed

                seed.offer_shipped(database)
        except BaseException:
            catalog.close()
            raise
        return catalog

    @property
    def place(self) -> str:
        """The catalog's file, or its URL without the password."""
        return self._database.place

    def close(self) -> None:
        """Close the connections. The catalog cannot be used after."""
        self._database.close()

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _change(self, *, much: bool = False) -> Any:
        if not self._writable:
            message = (
                f"the catalog {self.place} is read-only: nothing was changed. Check the permissions of the file and of "
                "its folder, or name another with --catalog or EIGENBANK_CATALOG."
            )
            raise CatalogError(message)
        return self._database.writing(much=much)

    # Changing

    def add_set(
        self,
        manifest: Manifest,
        *,
        location: str,
        digest: str,
        checkpoint_path: str | None = None,
        repo: str | None = None,
        commit: str | None = None,
        sparing: bool = False,
    ) -> None:
        """Put a set in, in the place of the one of the same model id and revision.

        People's labels (`human:…`) are carried over; those whose direction the new set lacks wait for one that has it.
        `location` is where the set is, `digest` its manifest's, `checkpoint_path` the local folder it was computed
        from (None leaves the known one), `repo` and `commit` where it was published. `sparing`: raise ReplaceError
        rather than take the place of a set with labels by labelers, composites or previews that this one lacks.
        """
        entry = from_manifest(
            manifest, location=location, digest=digest, checkpoint_path=checkpoint_path, repo=repo, commit=commit
        )
        self.add_sets([(manifest, entry)], sparing=sparing)

    def add_sets(self, sets: Sequence[tuple[Manifest, CheckpointData]], *, sparing: bool = False) -> None:
        """Put sets in, each as `add_set` does, given by their manifests and what the catalog keeps of them: all or none."""
        from eigenbank.registry.catalog import write
        from eigenbank.registry.catalog.losses import check_place

        with self._change() as connection:
            numbers = Numbering(connection)
            for manifest, entry in sets:
                if sparing:
                    check_place(connection, entry.model_id, entry.revision, manifest, "it was not entered")
                write.add(numbers, entry)

    def remove_set(
        self, model_id: str, revision: str | None, *, digest: str, instead: CheckpointData | None = None
    ) -> int:
        """Take the set of a checkpoint out, by its manifest's digest too; `instead` is put into its place. People's labels
        wait for a set that has their directions. Returns how many do. Raises CatalogError where another set is there now.
        """
        from eigenbank.registry.catalog import write

        with self._change() as connection:
            numbers = Numbering(connection)
            found = read.newest(
                connection, CheckpointTable.model_id == model_id, CheckpointTable.revision == (revision or "")
            )
            if found is None or found.digest != digest:
                message = f"another program has just replaced or removed the set of {model_id}: nothing was removed. Try again."
                raise CatalogError(message)
            if instead is not None:
                write.add(numbers, instead)
                return write.waiting(connection, model_id, revision or "")
            return write.remove(numbers, model_id, revision or "")

    def put(self, entries: Iterable[CheckpointData]) -> None:
        """Put many checkpoints' sets in at once, as `add_set` does each: all of them or none."""
        from eigenbank.registry.catalog import write

        with self._change(much=True) as connection, write.filling(connection) as numbers:
            for entry in entries:
                write.add(numbers, entry)

    def set_published(self, digest: str, repo: str, commit: str) -> bool:
        """Note where the set of a manifest digest was published. Returns whether the catalog has that set."""
        from eigenbank.registry.catalog import write

        if not storable(digest):
            return False
        with self._change() as connection:
            return write.set_published(connection, digest, repo, commit)

    def add_label(self, full_id: str, label: Label) -> None:
        """Give a direction a label; one of the same text and source is replaced. Raises UnknownNameError."""
        self.add_labels([full_id], label)

    def add_labels(self, full_ids: Sequence[str], label: Label) -> None:
        """Give directions a label, all of them or none; one of the same text and source is replaced.

        Raises UnknownNameError, with near matches, for a direction that is not there.
        """
        from eigenbank.registry.catalog import write_labels

        with self._change() as connection:
            for number in [self._number(connection, full_id) for full_id in full_ids]:
                write_labels.put_label(connection, number, label)

    def remove_label(self, full_id: str, text: str, source: str) -> bool:
        """Take one source's label off a direction. Returns whether it was there. Raises UnknownNameError."""
        return not self.remove_labels([full_id], text, source)

    def remove_labels(self, full_ids: Sequence[str], text: str, source: str) -> list[str]:
        """Take one source's label off directions: off all of them, or off none where some lack it. Returns those.

        Raises UnknownNameError, with near matches, for a direction that is not there.
        """
        from eigenbank.registry.catalog import write_labels

        with self._change() as connection:
            numbers = {self._number(connection, full_id): full_id for full_id in full_ids}
            if not (storable(text) and storable(source)):
                return list(numbers.values())
            texts = connection.execute(select(TextTable.id).where(TextTable.text == text)).scalar()
            sources = connection.execute(select(SourceTable.id).where(SourceTable.name == source)).scalar()
            own = [LabelTable.text_id == texts, LabelTable.source_id == sources]
            found = connection.scalars(
                select(LabelTable.direction_id).where(among(LabelTable.direction_id, list(numbers)), *own)
            )
            has = set(found)
            missing = [full_id for number, full_id in numbers.items() if number not in has]
            if not missing and texts is not None and sources is not None:
                for number in numbers:
                    write_labels.remove_label(connection, number, texts, sources)
            return missing

    def _number(self, connection: Any, full_id: str) -> int:
        name = parse_name(full_id)
        number = read.direction_id(connection, name) if name is not None and storable(full_id) else None
        if number is None:
            raise names.unknown_direction(connection, full_id)
        return number
