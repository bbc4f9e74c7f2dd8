"""The catalog as the rest of the program sees it: questions, and changes."""

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, delete, insert, select, update

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import dialects, index, questions, search
from eigenbank.registry.catalog.database import (
    Database,
    Untouched,
    check_file,
    check_folder,
    check_parent,
    check_version,
    create,
    guarded,
    locate,
    name_of,
)
from eigenbank.registry.catalog.dialects import AGAIN, connect_file, connect_server
from eigenbank.registry.catalog.questions import Overwritten
from eigenbank.registry.catalog.rows import (
    MAX_LIMIT,
    DirectionName,
    DirectionRow,
    Filters,
    Page,
    SetEntry,
    SetRow,
    path_key,
    storable,
)
from eigenbank.registry.catalog.tables import VERSION, Base, BundledTable, PeopleLabelTable, SetTable
from eigenbank.registry.ranking import SORTS, Sort
from eigenbank.registry.sets import bundled
from eigenbank.schemas import Label, Manifest
from eigenbank.schemas.errors import CatalogError, UnknownNameError, explaining, unknown

__all__ = ["Catalog"]

T = TypeVar("T")
P = ParamSpec("P")


class Catalog:
    """Direction sets, their directions and labels, and where the sets are. Use as a context manager; safe between threads.

    Questions write nothing, and need no catalog: where there is none yet, they see what comes with eigenbank. The first change
    creates it. Every method is one transaction: readers see one state, and a change is made whole or not at all. Each raises
    CatalogError when the database cannot be used.
    """

    def __init__(self, place: Path | URL, *, shipped: bool) -> None:
        self._place = place
        self._shipped = shipped
        self._seen: object = None
        self._writing: Database | None = None
        self._opening = threading.RLock()
        self._reading = self._open()

    @classmethod
    def open(cls, url: str | os.PathLike[str] | None = None, *, shipped: bool = True) -> "Catalog":
        """Open a catalog; it is created by the first change. With `shipped`, it holds the sets that come with eigenbank, but
        for those that were removed or replaced.

        `url` is a path, `sqlite:///PATH` or `postgresql+psycopg://…`. None: the environment's `EIGENBANK_CATALOG`, else
        `catalog.db` at home. Raises CatalogError for what is not a catalog, one of a newer version, or a path in a folder that
        does not exist; nothing is written then.
        """
        place = locate(url)
        if isinstance(place, Path) and not place.exists():
            check_parent(place, url)
        return cls(place, shipped=shipped)

    @property
    def place(self) -> str:
        """The catalog's file, or its URL without the password."""
        return name_of(self._place)

    def close(self) -> None:
        """Close the connections. The catalog cannot be used after."""
        self._reading.close()
        if self._writing is not None:
            self._writing.close()

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # Opening

    def _open(self) -> Database:
        """Open the database for questions; where it is not there yet, or not up to date and not to be written to, a copy of it in
        memory that is.
        """
        self._seen = None
        if isinstance(self._place, URL):
            return self._open_server(self._place)
        if not self._place.exists():
            return self._in_memory(None)
        check_file(self._place)
        database = Untouched(self._place)
        try:
            version, missing, current = database.read(self._state)
            check_version(self.place, version or 0)
            if version == VERSION and missing:
                message = (
                    f"the catalog {self.place} lacks the tables {', '.join(sorted(missing))}: it is damaged. Nothing was changed. "
                    f"{AGAIN}"
                )
                raise CatalogError(message)
            if version == VERSION and current:
                return database
            if version != VERSION and self._may_write():
                self._writable()
                return database
            copy = self._in_memory(database)
        except BaseException:
            database.close()
            raise
        database.close()
        return copy

    def _open_server(self, url: URL) -> Database:
        database = Database(connect_server(url, self.place), self.place)
        try:
            version, _, current = database.read(self._state)
            if version is None:
                database.close()
                return self._in_memory(None)
            check_version(self.place, version)
            if (version != VERSION or not current) and database.read(dialects.may_write):
                database.write(self._bring_up_to_date)
        except BaseException:
            database.close()
            raise
        return database

    def _state(self, connection: Connection) -> tuple[int | None, set[str], bool]:
        """The version, the tables that are missing, and whether the sets that come with eigenbank are in."""
        version = dialects.version_of(connection, self.place)
        missing = Base.metadata.tables.keys() - dialects.tables(connection)
        return version, missing, version == VERSION and not missing and not self._lacking(connection)

    def _lacking(self, connection: Connection) -> set[str]:
        """The digests of the sets that come with eigenbank and were never put in."""
        if not self._shipped:
            return set()
        return set(bundled.shipped_digests()).difference(connection.scalars(select(BundledTable.digest)))

    def _in_memory(self, source: Database | None) -> Database:
        """A catalog in memory: a copy of another one, brought up to date."""
        self._seen = self._stamp()
        database = Database(connect_file(None), self.place)
        if source is not None and source.read(dialects.version_of, self.place) == VERSION:
            dialects.copy_file(source.engine, database.engine)
        else:
            database.write(dialects.create_tables, VERSION)
            if source is not None:
                source.read(lambda reading: database.write(lambda writing: index.copy(reading, writing)))
        database.write(self._bring_up_to_date)
        return database

    def _bring_up_to_date(self, connection: Connection) -> None:
        """Create the tables, or index a catalog of an earlier version again, and put in the sets that come with eigenbank."""
        version = dialects.version_of(connection, self.place)
        if version is None:
            dialects.create_tables(connection, VERSION)
        elif version < VERSION:
            index.rebuild(connection)
        lacking = self._lacking(connection)
        if lacking:
            indexer = index.Indexer(connection)
            for location, checkpoint_path, manifest, digest in bundled.shipped_sets():
                if digest in lacking:
                    indexer.add(SetEntry(manifest, location, digest, checkpoint_path))
                    connection.execute(insert(BundledTable), {"digest": digest})

    def _stamp(self) -> object:
        """What tells whether the file has changed since a copy of it was made."""
        if isinstance(self._place, URL):
            return object()  # a database without tables is cheap to look at again
        for name in (self._place, self._place.with_name(self._place.name + "-wal")):
            with suppress(OSError):
                found = name.stat()
                return found.st_ino, found.st_mtime_ns, found.st_size
        return "nothing"

    def _may_write(self) -> bool:
        return isinstance(self._place, URL) or (
            os.access(self._place, os.W_OK) and os.access(self._place.parent, os.W_OK)
        )

    def _writable(self) -> Database:
        """The database to make changes in, created if it is not there, and brought up to date."""
        with self._opening:
            if self._writing is None:
                self._writing = self._open_for_writing()
            return self._writing

    def _open_for_writing(self) -> Database:
        if isinstance(self._place, URL):
            database = Database(connect_server(self._place, self.place), self.place)
            if database.read(dialects.version_of, self.place) is not None and not database.read(dialects.may_write):
                database.close()
                raise self._read_only()
        else:
            if not self._place.exists():
                create(self._place)
            elif not self._may_write():
                raise self._read_only()
            check_folder(self._place.parent)
            database = Database(connect_file(self._place), self.place)
        try:
            version = database.read(dialects.version_of, self.place)
            if version is not None:
                check_version(self.place, version)
            if version != VERSION or database.read(self._lacking):
                database.write(self._bring_up_to_date)
        except BaseException:
            database.close()
            raise
        return database

    def _read_only(self) -> CatalogError:
        message = (
            f"the catalog {self.place} is read-only: nothing was changed. Check the permissions of the file and of "
            "its folder, or name another with --catalog or EIGENBANK_CATALOG."
        )
        return CatalogError(message)

    def ask(self, question: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function of a connection says of one state of the catalog. It may be asked twice, and must not write."""
        with self._opening:
            database = self._current()
            if self._seen is not None and database is self._reading:
                # In memory there is one connection, and another thread may open the file in its place.
                return database.read(question, *args, **kwargs)
        return database.read(question, *args, **kwargs)

    def _current(self) -> Database:
        """The database to ask: the one changes are made in, once there is one; else the one for reading, opened again if need be."""
        if self._writing is None and self._seen is not None and self._seen != self._stamp():
            self._reading.close()
            self._reading = self._open()
        return self._writing or self._reading

    def ask_once(self, question: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for a question whose answers have consequences of their own: it is asked but once."""
        self.ask(dialects.tables)  # so that the database is the right one
        return Database.read(self._writing or self._reading, question, *args, **kwargs)

    def change(self, change: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a change, given as a function of a connection: all of it or nothing. Returns what that returns."""
        return self._writable().write(change, *args, **kwargs)

    # Sets and names

    def get_set(self, model_id: str, revision: str | None = None) -> SetRow | None:
        """Return the set of a model, the newest one if no revision is named."""
        if not storable(model_id + (revision or "")):
            return None
        conditions = [SetTable.model_id == model_id, *([] if revision is None else [SetTable.revision == revision])]
        return next(iter(self.ask(questions.newest_first, *conditions, limit=1)), None)

    def sets_at(self, checkpoint_path: str) -> list[SetRow]:
        """Return the sets that were computed from the checkpoint in a local folder, the newest first."""
        if not storable(checkpoint_path):
            return []
        return self.ask(questions.newest_first, SetTable.checkpoint_path == path_key(checkpoint_path))

    def sets_with_layers(self, digests: Iterable[str]) -> list[tuple[SetRow, int]]:
        """Return the sets that have a layer whose weights have one of the digests, as a pipeline's do, and how many of their layers
        have: the most first, then the newest.
        """
        return self.ask(questions.sets_with_layers, list(digests))

    def sets(self) -> list[SetRow]:
        """Return all sets, by model id, the newest first within one."""
        return self.ask(questions.sets)

    def manifest(self, model_id: str, revision: str | None = None) -> Manifest | None:
        """Return the manifest of a model's set, the newest one if no revision is named. It is validated anew."""
        row = self.get_set(model_id, revision)
        if row is None:
            return None
        own = SetTable.model_id == model_id, SetTable.revision == (row.revision or "")
        packed = self.ask(lambda connection: connection.execute(select(SetTable.manifest).where(*own)).scalar())
        return None if packed is None else index.unpack_manifest(packed)

    def model_ids(self) -> list[str]:
        """Return the models that have a set, sorted."""
        return self.ask(questions.model_ids)

    def layer_names(self, model_id: str) -> list[str]:
        """Return the layers of a model's newest set, in the set's order."""
        return self.ask(questions.layer_names, model_id) if storable(model_id) else []

    def recipe_slugs(self, model_id: str | None = None) -> list[str]:
        """Return the recipes of a model's newest set, or of all sets, sorted."""
        return self.ask(questions.recipe_slugs, model_id) if storable(model_id or "") else []

    def label_texts(self, model_id: str | None = None) -> list[str]:
        """Return the different label texts of a model's newest set, or of all sets, sorted."""
        return self.ask(questions.label_texts, model_id) if storable(model_id or "") else []

    def label_counts(
        self, model_id: str | None = None, source: str | None = None
    ) -> list[tuple[str, int, float | None]]:
        """Return the label texts with how many directions have each and the highest confidence, the most frequent first.

        `model_id` limits them to a model's newest set; `source` is a label's source, its first part or a glob. Raises
        UnknownNameError for a model that is not there.
        """
        if not storable(model_id or ""):
            raise unknown(kind="model", name=str(model_id)[:200], known=self.model_ids())
        return self.ask(questions.label_counts, model_id, source)

    def near(self, text: str) -> dict[str, list[str]]:
        """Return the words of a query that nothing in the catalog begins with, each with the nearest words there are."""
        return self.ask(questions.near, text)

    # Directions

    def get_direction(self, full_id: str) -> DirectionRow | None:
        """Return a direction by `MODEL_ID#LAYER/RECIPE/RANK`, or a composite by `MODEL_ID#composite/NAME`, of the newest set
        of its model.
        """
        name = DirectionName.parse(full_id)
        return None if name is None else self.ask(questions.get_direction, name)

    def unknown_direction(self, full_id: str) -> UnknownNameError:
        """Return the error for a direction that is not there, with near matches."""
        return self.ask(questions.unknown_direction, full_id)

    def search(
        self,
        text: str | None = None,
        *,
        limit: int = 50,
        cursor: str | None = None,
        sort: Sort = "match",
        **filters: Any,
    ) -> Page:
        """Return a page of the directions and composites that meet every filter, best match first. `filters` are those of `Filters`.

        Words of `text` match the beginnings of words in labels, layers and model ids, `"in quotes"` they match as they
        stand (see `registry.ranking`). An empty text means no text. `limit` is 1 to 10,000; `cursor` is the one of the page before.

        Raises UnknownNameError for a model, layer, recipe or order given by its plain name that is not there,
        CatalogError for a cursor of another search, SearchError for a text of too many words.
        """
        if sort not in SORTS:
            raise unknown(kind="order", name=sort, known=SORTS)
        if not 1 <= limit <= MAX_LIMIT:
            message = (
                f"a page holds 1 to {MAX_LIMIT:,} directions, {limit} were asked for: ask for pages with a cursor."
            )
            raise CatalogError(message)
        if any(isinstance(value, float) and math.isnan(value) for value in filters.values()):
            message = "nan is no bound: give a number."
            raise CatalogError(message)
        asked = Filters(text=text if text is not None and text.strip() else None, sort=sort, **filters)
        return self.ask(search.page, asked, limit, cursor)

    # Changing sets

    def add_set(
        self,
        manifest: Manifest,
        *,
        location: str,
        digest: str,
        checkpoint_path: str | None = None,
        repo: str | None = None,
        commit: str | None = None,
        overwrite: bool = True,
    ) -> None:
        """Put a set in, in the place of the one of the same model id and revision. See `SetEntry` for what is given.

        People's labels (`human:…`) in the manifest become this catalog's; those it has are kept, and wait where the new set lacks
        their direction. Without `overwrite`, raises ReplaceError rather than replace a set with labels by labelers, composites or
        previews that this one lacks.
        """
        self.add_sets([SetEntry(manifest, location, digest, checkpoint_path, repo, commit)], overwrite=overwrite)

    def add_sets(self, entries: Iterable[SetEntry], *, overwrite: bool = True) -> None:
        """Put sets in, each as `add_set` does: all or none."""

        def add(connection: Connection) -> None:
            indexer = index.Indexer(connection)
            for entry in entries:
                if not overwrite:
                    checkpoint = entry.manifest.checkpoint
                    with explaining(outcome="the new set was not added, and the catalog has not changed"):
                        questions.check_overwrite(connection, checkpoint.model_id, checkpoint.revision, entry.manifest)
                indexer.add(entry)

        self.change(add)

    def remove_set(self, model_id: str, revision: str | None, *, digest: str, instead: SetEntry | None = None) -> int:
        """Take the set of a checkpoint out, by its manifest's digest too; `instead` is put into its place. People's labels
        wait for a set that has their directions. Returns how many do. Raises CatalogError where another set is there now.
        """
        own = SetTable.model_id == model_id, SetTable.revision == (revision or "")

        def remove(connection: Connection) -> int:
            if connection.execute(select(SetTable.digest).where(*own)).scalar() != digest:
                message = f"another program has just replaced or removed the set of {model_id}: nothing was removed. Try again."
                raise CatalogError(message)
            if instead is not None:
                index.Indexer(connection).add(instead)
            else:
                connection.execute(delete(SetTable).where(*own))
            return index.waiting(connection, model_id)

        return self.change(remove)

    def set_published(self, digest: str, repo: str, commit: str) -> bool:
        """Note where the set of a manifest digest was published. Returns whether the catalog has that set."""
        if not storable(digest):
            return False
        statement = update(SetTable).where(SetTable.digest == digest).values({"repo": repo, "commit": commit})
        return self.change(lambda connection: bool(connection.execute(statement).rowcount))

    def overwritten(self, model_id: str, revision: str | None, new: Manifest | None = None) -> Overwritten:
        """Return what the set of a checkpoint has that `new` in its place would lack; None is one without labels, composites
        and previews.
        """
        return self.ask(questions.overwritten, model_id, revision, new)

    def check_overwrite(self, model_id: str, revision: str | None, new: Manifest | None = None) -> None:
        """Raise ReplaceError where that is anything."""
        self.ask(questions.check_overwrite, model_id, revision, new)

    def reindex(self, progress: Progress = no_progress) -> None:
        """Drop everything that is derived from the sets' manifests, and index them again. People's labels stay."""
        self.change(index.rebuild, progress)

    def tidy(self) -> None:
        """Give unused room back to the disk; see `care.vacuum`."""
        database = self._writable()
        with guarded(self.place):
            dialects.tidy(database.engine)

    # People's labels

    def people_labels(self, model_id: str) -> dict[str, tuple[Label, ...]]:
        """Return what people call the directions and composites of a model, by the direction's id within it."""
        if not storable(model_id):
            return {}
        found = self.ask(index.people_labels, model_id)
        return {name: tuple(index.by_confidence(labels)) for name, labels in found.items()}

    def add_label(self, full_id: str, label: Label) -> None:
        """Give a direction a label; one of the same text and person is replaced. Raises UnknownNameError."""
        self.add_labels([full_id], label)

    def add_labels(self, full_ids: Sequence[str], label: Label) -> None:
        """Give directions a person's label (`human:…`), all of them or none; one of the same text and person is replaced.

        Raises UnknownNameError, with near matches, for a direction that is not there.
        """
        if not label.source.startswith(index.PEOPLE):
            message = f"a label by {label.source} is part of its set, not of the catalog: only labels by human:NAME can be added"
            raise CatalogError(message)

        def add(connection: Connection) -> None:
            names = list(_known(connection, full_ids))
            index.take_labels(connection, ((name, label) for name in names), newer=False)
            indexer = index.Indexer(connection)
            for name in names:
                indexer.relabel(name)

        self.change(add)

    def remove_label(self, full_id: str, text: str, source: str) -> bool:
        """Take a person's label off a direction. Returns whether it was there. Raises UnknownNameError."""
        return not self.remove_labels([full_id], text, source)

    def remove_labels(self, full_ids: Sequence[str], text: str, source: str) -> list[str]:
        """Take one person's label off directions: off all of them, or off none where some lack it. Returns those that lack it.

        Raises UnknownNameError, with near matches, for a direction that is not there.
        """

        def remove(connection: Connection) -> list[str]:
            names = list(_known(connection, full_ids))
            if not storable(text + source):
                return list(full_ids)
            said = PeopleLabelTable.text == text, PeopleLabelTable.source == source
            own = [
                (PeopleLabelTable.model_id == name[0], PeopleLabelTable.direction == name[1], *said) for name in names
            ]
            found = [connection.execute(select(PeopleLabelTable.label).where(*each)).first() for each in own]
            missing = [full_id for full_id, row in zip(full_ids, found, strict=True) if row is None]
            if not missing:
                indexer = index.Indexer(connection)
                for name, each in zip(names, own, strict=True):
                    connection.execute(delete(PeopleLabelTable).where(*each))
                    indexer.relabel(name)
            return missing

        return self.change(remove)


def _known(connection: Connection, full_ids: Iterable[str]) -> Iterator[index.Name]:
    """The names of directions that are there. Raises UnknownNameError for one that is not."""
    for full_id in full_ids:
        name = DirectionName.parse(full_id)
        if name is None or questions.direction_number(connection, name) is None:
            raise questions.unknown_direction(connection, full_id)
        yield name.model_id, name.bare
