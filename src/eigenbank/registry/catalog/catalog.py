"""The catalog as the rest of the program sees it: questions, and changes."""

import difflib
import math
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import URL, Connection

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import database as db
from eigenbank.registry.catalog import index, sets
from eigenbank.registry.catalog.database import Database, run
from eigenbank.registry.catalog.index import ONE_LABEL, PEOPLE, SetEntry, path_key
from eigenbank.registry.catalog.names import NEWEST, DirectionName, known_name, number_of, unknown_direction
from eigenbank.registry.catalog.search import DirectionRow, Filters, Page, label_sources, read, search
from eigenbank.registry.catalog.sets import Overwritten, SetRow
from eigenbank.registry.catalog.tables import VERSION, BundledTable
from eigenbank.registry.ranking import SORTS, Query, Sort, words
from eigenbank.registry.sets import bundled
from eigenbank.schemas import Label, Manifest
from eigenbank.schemas.errors import CatalogError, UnknownNameError, explaining, unknown

MAX_LIMIT = 10_000
"""Most directions of a page."""
_MOST_TEXTS = 100_000
"""So many texts are looked through for near matches."""


class Catalog:
    """Direction sets, their directions and labels, and where the sets are. Use as a context manager; safe between threads.

    Questions write nothing, and need no catalog: where there is none yet, they see what comes with eigenbank. The first change
    creates it. Every method is one transaction: readers see one state, and a change is made whole or not at all. Each raises
    CatalogError when the database cannot be used.
    """

    def __init__(self, at: Path | URL, *, shipped: bool) -> None:
        self.place = str(at) if isinstance(at, Path) else at.render_as_string(hide_password=True)
        """The catalog's file, or its URL without the password."""
        self._at = at
        self._shipped = shipped
        self._opened: Database | None = None
        self._memory: Database | None = None
        self._copied: object = None
        self._writable = False
        self._lock = threading.RLock()

    @classmethod
    def open(cls, url: str | os.PathLike[str] | None = None, *, shipped: bool = True) -> "Catalog":
        """Open a catalog; it is created by the first change. With `shipped`, it holds the sets that come with eigenbank, but
        for those that were removed or replaced.

        `url` is a path, `sqlite:///PATH` or `postgresql+psycopg://…`. None: the environment's `EIGENBANK_CATALOG`, else
        `catalog.db` at home. Raises CatalogError for what is not a catalog, one of a newer version, or a path in a folder that
        does not exist; nothing is written then.
        """
        at = db.locate(url)
        catalog = cls(at, shipped=shipped)
        # Where somebody named a file in a folder that is not there, the name may be mistyped.
        named = url is not None or bool(os.environ.get("EIGENBANK_CATALOG"))
        if isinstance(at, Path) and named and not at.parent.is_dir():
            message = (
                f"no catalog can be created at {at}: there is no folder {at.parent}. Nothing was created. Check the path "
                "(`catalog=` or EIGENBANK_CATALOG), or create the folder first."
            )
            raise CatalogError(message)
        if isinstance(at, URL) or at.exists():
            catalog._readable()
        return catalog

    def close(self) -> None:
        """Close the connections. The catalog cannot be used after."""
        for database in (self._opened, self._memory):
            if database is not None:
                database.close()

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # Opening

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that sees one state of the catalog and cannot write."""
        with self._lock:
            database = self._readable()
            if database is self._memory:
                # There is one connection to it, and another thread may open the file in its place.
                with database.reading() as connection:
                    yield connection
                return
        with database.reading() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection for a change: all of it or, where the block raises, nothing. Creates the catalog if it is not there."""
        with self._changeable().writing() as connection:
            yield connection

    def _readable(self) -> Database:
        """The database to ask: the catalog's own, or one in memory where that is not there, or lacks something and is not to be
        written to.
        """
        if self._opened is not None:
            return self._opened
        seen = self._state()
        if self._memory is not None:
            if seen == self._copied:
                return self._memory
            self._memory.close()
            self._memory = None
        self._copied = seen
        if isinstance(self._at, Path) and not db.is_catalog(self._at):
            self._memory = self._in_memory(None)
            return self._memory
        database = Database(self._at, self.place)
        try:
            with database.reading() as connection:
                version = db.version_of(connection, self.place)
                lacking = version == VERSION and isinstance(self._at, Path) and bool(self._lacking(connection))
            if version == VERSION and not lacking:
                self._opened = database
                return database
            if version is None or lacking or not self._may_write():
                self._memory = self._in_memory(None if version is None else database)
        finally:
            if database is not self._opened:
                database.close()
        return self._memory or self._changeable()  # an earlier version is indexed again

    def _state(self) -> object:
        """What tells whether the file has changed since a copy of it was made; nothing does on a server."""
        if isinstance(self._at, URL):
            return object()
        with suppress(OSError):
            found = self._at.stat()
            return found.st_ino, found.st_mtime_ns, found.st_size
        return None

    def _in_memory(self, source: Database | None) -> Database:
        """A catalog in memory: a copy of another one, or of none, brought up to date."""
        database = Database(None, self.place)
        if source is not None:
            with source.reading() as reading:
                current = db.version_of(reading, self.place) == VERSION
                if not current:
                    with database.writing() as writing:
                        db.create_tables(writing)
                        index.copy(reading, writing)
            if current:
                source.copy_to(database)
        with database.writing() as writing:
            self._bring_up_to_date(writing)
        return database

    def _lacking(self, connection: Connection) -> set[str]:
        """The digests of the sets that come with eigenbank and were never put in."""
        had = run(connection, "SELECT digest FROM bundled").scalars()
        return set(bundled.DIGESTS).difference(had) if self._shipped else set()

    def _bring_up_to_date(self, connection: Connection) -> None:
        """Create the tables, or index a catalog of an earlier version again, and put in the sets that come with eigenbank."""
        version = db.version_of(connection, self.place)
        if version is None:
            db.create_tables(connection)
        elif version < VERSION:
            index.rebuild(connection)
        lacking = self._lacking(connection)
        indexer = index.Indexer(connection)
        for entry in bundled.shipped_sets() if lacking else ():
            if entry.digest in lacking:
                indexer.add(SetEntry(entry.manifest, entry.location, entry.digest, entry.checkpoint))
                db.insert(connection, BundledTable, [(entry.digest,)])

    def _may_write(self) -> bool:
        if isinstance(self._at, URL):
            return True  # the server says so
        return all(os.access(each, os.W_OK) for each in (self._at, self._at.parent) if each.exists())

    def _changeable(self) -> Database:
        """The database to make changes in, created if it is not there, and brought up to date."""
        with self._lock:
            if self._opened is None or not self._writable:
                if isinstance(self._at, Path):
                    db.make_folder(self._at)
                    db.is_catalog(self._at)
                if not self._may_write():
                    message = (
                        f"the catalog {self.place} is read-only: nothing was changed. Check the permissions of the file and of "
                        "its folder, or name another with `catalog=` or EIGENBANK_CATALOG."
                    )
                    raise CatalogError(message)
                database = self._opened or Database(self._at, self.place, "rwc")
                try:
                    with database.writing() as connection:
                        self._bring_up_to_date(connection)
                except BaseException:
                    if database is not self._opened:
                        database.close()
                    raise
                self._opened, self._writable = database, True
            return self._opened

    # Sets and names

    def get_set(self, model_id: str, revision: str | None = None) -> SetRow | None:
        """Return the set of a model, the newest one if no revision is named."""
        own = "model_id = :model_id" if revision is None else sets.OF_REVISION
        with self.reading() as connection:
            return next(iter(sets.select(connection, own, model_id=model_id, revision=revision)), None)

    def sets_at(self, checkpoint_path: str) -> list[SetRow]:
        """Return the sets that were computed from the checkpoint in a local folder, the newest first."""
        with self.reading() as connection:
            return sets.select(connection, "checkpoint_path = :path", path=path_key(checkpoint_path))

    def sets_with_layer(self, digest: str) -> list[SetRow]:
        """Return the sets that have a layer whose weights have a digest, as a pipeline's layer may, the newest first."""
        with self.reading() as connection:
            return sets.select(
                connection, "id IN (SELECT set_id FROM layer_digests WHERE digest = :layer)", layer=digest
            )

    def sets(self) -> list[SetRow]:
        """Return all sets, by model id, the newest first within one."""
        with self.reading() as connection:
            return sorted(sets.select(connection), key=lambda row: row.model_id)

    def manifest(self, model_id: str, revision: str | None = None) -> Manifest | None:
        """Return the manifest of a model's set, the newest one if no revision is named. It is validated anew."""
        own = f"id = {NEWEST}" if revision is None else sets.OF_REVISION
        with self.reading() as connection:
            return sets.read_manifest(connection, own, model_id=model_id, revision=revision)

    def model_ids(self) -> list[str]:
        """Return the models that have a set, sorted."""
        return self._strings("SELECT DISTINCT model_id FROM sets ORDER BY model_id")

    def layer_names(self, model_id: str | None = None) -> list[str]:
        """Return the layers of a model's newest set, in the set's order, or of all sets."""
        places = "texts t JOIN spectra p ON p.name_id = t.id JOIN sets s ON s.id = p.set_id"
        return self._strings(
            f"SELECT t.text FROM {places} WHERE {_of_newest(model_id)} GROUP BY t.text ORDER BY min(p.id)", model_id
        )

    def recipe_slugs(self, model_id: str | None = None) -> list[str]:
        """Return the recipes of a model's newest set, or of all sets, sorted."""
        places = "spectra p JOIN sets s ON s.id = p.set_id WHERE p.recipe IS NOT NULL"
        return sorted(self._strings(f"SELECT DISTINCT p.recipe FROM {places} AND {_of_newest(model_id)}", model_id))

    def _strings(self, statement: str, model_id: str | None = None) -> list[str]:
        """What a SELECT of one column gives."""
        with self.reading() as connection:
            return list(run(connection, statement, model_id=model_id).scalars())

    def label_texts(self, model_id: str | None = None) -> list[str]:
        """Return the different label texts of a model's newest set, or of all sets, sorted."""
        with self.reading() as connection:
            return sorted(text for text, _, _ in _label_counts(connection, model_id))

    def label_counts(
        self, model_id: str | None = None, source: str | None = None
    ) -> list[tuple[str, int, float | None]]:
        """Return the label texts with how many directions have each and the highest confidence, the most frequent first.

        `model_id` limits them to a model's newest set; `source` is a label's source, its first part or a glob. Raises
        UnknownNameError for a model that is not there.
        """
        with self.reading() as connection:
            if model_id is not None and not sets.select(connection, "model_id = :model_id", model_id=model_id):
                raise unknown(kind="model", name=model_id, known=sets.model_ids(connection))
            return sorted(_label_counts(connection, model_id, source), key=lambda row: (-row[1], row[0]))

    def near(self, text: str) -> dict[str, list[str]]:
        """Return the words of a query that nothing in the catalog begins with, each with the nearest words there are."""
        columns = {"labels": "text_id", "spectra": "name_id", "directions": "name_id", "sets": "name_id"}
        used = " OR ".join(f"EXISTS (SELECT 1 FROM {table} WHERE {own} = t.id)" for table, own in columns.items())
        statement = f"SELECT t.text FROM texts t WHERE ({used})"
        lost: dict[str, None] = {}
        with self.reading() as connection:
            for word in (word for term in Query.parse(text).terms for word in term.words[:100]):
                holding = list(db.texts_with(connection, [word], prefix=True))
                if not run(connection, f"{statement} AND t.id IN :holding* LIMIT 1", holding=holding).first():
                    lost[word[:80]] = None
            texts = run(connection, f"{statement} LIMIT {_MOST_TEXTS}").scalars() if lost else ()
            known = {word for found in texts for word in words(found)}
        return {word: difflib.get_close_matches(word, known, n=3, cutoff=0.6) for word in lost}

    # Directions

    def get_direction(self, full_id: str) -> DirectionRow | None:
        """Return a direction by `MODEL_ID#LAYER/RECIPE/RANK`, or a composite by `MODEL_ID#composite/NAME`, of the newest set
        of its model.
        """
        with self.reading() as connection:
            number = number_of(connection, DirectionName.parse(full_id))
            return None if number is None else read(connection, [number])[0]

    def unknown_direction(self, full_id: str) -> UnknownNameError:
        """Return the error for a direction that is not there, with near matches."""
        with self.reading() as connection:
            return unknown_direction(connection, full_id)

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
        with self.reading() as connection:
            return search(connection, asked, limit, cursor)

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
        with self.writing() as connection, index.filling(connection) as indexer:
            for entry in entries:
                if not overwrite:
                    checkpoint = entry.manifest.checkpoint
                    with explaining(outcome="the new set was not added, and the catalog has not changed"):
                        sets.check_overwrite(connection, checkpoint.model_id, checkpoint.revision, entry.manifest)
                indexer.add(entry)

    def remove_set(self, model_id: str, revision: str | None, *, digest: str, instead: SetEntry | None = None) -> int:
        """Take the set of a checkpoint out, by its manifest's digest too; `instead` is put into its place. People's labels
        wait for a set that has their directions. Returns how many do. Raises CatalogError where another set is there now.
        """
        with self.writing() as connection:
            own = f"{sets.OF_REVISION} AND digest = :digest"
            found = sets.select(connection, own, model_id=model_id, revision=revision or "", digest=digest)
            if not found:
                message = f"another program has just replaced or removed the set of {model_id}: nothing was removed. Try again."
                raise CatalogError(message)
            if instead is not None:
                index.Indexer(connection).add(instead)
            else:
                index.remove(connection, found[0].number)
            return index.waiting(connection, model_id)

    def set_published(self, digest: str, repo: str, commit: str) -> None:
        """Note where the set of a manifest digest was published, if the catalog has it."""
        statement = 'UPDATE sets SET repo = :repo, "commit" = :head WHERE digest = :digest'
        with self.writing() as connection:
            run(connection, statement, repo=repo, head=commit, digest=digest)

    def overwritten(self, model_id: str, revision: str | None, new: Manifest | None = None) -> Overwritten:
        """Return what the set of a checkpoint has that `new` in its place would lack; None is one without labels, composites
        and previews.
        """
        with self.reading() as connection:
            return sets.overwritten(connection, model_id, revision, new)

    def check_overwrite(self, model_id: str, revision: str | None) -> None:
        """Raise ReplaceError where a set without labels, composites and previews in its place would lack anything."""
        with self.reading() as connection:
            sets.check_overwrite(connection, model_id, revision, None)

    def reindex(self, progress: Progress = no_progress) -> None:
        """Drop everything that is derived from the sets' manifests, and index them again. People's labels stay."""
        with self.writing() as connection:
            index.rebuild(connection, progress)

    def vacuum(self) -> tuple[int, int]:
        """Give unused room back to the disk and bring the database's statistics up to date. Returns bytes before and after."""
        with self.reading() as connection:
            before = db.size_of(connection, self.place)
        self._changeable().vacuum()
        with self.reading() as connection:
            return before, db.size_of(connection, self.place)

    # People's labels

    def people_labels(self, model_id: str) -> dict[str, tuple[Label, ...]]:
        """Return what people call the directions and composites of a model, by the direction's id within it."""
        with self.reading() as connection:
            found = index.people_labels(connection, model_id)
        return {name: tuple(index.by_confidence(labels)) for name, labels in found.items()}

    def add_labels(self, full_ids: Sequence[str], label: Label) -> None:
        """Give directions a person's label (`human:…`), all of them or none; one of the same text and person is replaced.

        Raises UnknownNameError, with near matches, for a direction that is not there.
        """
        if not label.source.startswith(PEOPLE):
            message = f"a label by {label.source} is part of its set, not of the catalog: only labels by human:NAME can be added"
            raise CatalogError(message)
        with self.writing() as connection:
            names = [known_name(connection, full_id) for full_id in full_ids]
            index.take_labels(connection, ((name, label) for name in names), newer=False)
            indexer = index.Indexer(connection)
            for name in names:
                indexer.relabel(name)

    def remove_labels(self, full_ids: Sequence[str], text: str, source: str) -> list[str]:
        """Take one person's label off directions: off all of them, or off none where some lack it. Returns those that lack it.

        Raises UnknownNameError, with near matches, for a direction that is not there.
        """
        with self.writing() as connection:
            keys = {}
            for full_id in full_ids:
                model_id, direction = known_name(connection, full_id)
                keys[full_id] = {"model_id": model_id, "direction": direction, "text": text, "source": source}
            missing = [
                full_id for full_id, key in keys.items() if run(connection, f"SELECT 1 {ONE_LABEL}", **key).first() is None
            ]  # fmt: skip
            indexer = index.Indexer(connection)
            for key in () if missing else keys.values():
                run(connection, f"DELETE {ONE_LABEL}", **key)
                indexer.relabel((key["model_id"], key["direction"]))
            return missing


# What several methods ask


def _of_newest(model_id: str | None) -> str:
    """The condition that a set s is a model's newest; any set where no model is named."""
    return "1 = 1" if model_id is None else f"s.id = {NEWEST}"


def _label_counts(
    connection: Connection, model_id: str | None, source: str | None = None
) -> list[tuple[str, int, float | None]]:
    """Return the label texts with how many directions have each and the highest confidence."""
    places, own = "labels l JOIN texts t ON t.id = l.text_id", _of_newest(model_id)
    if model_id is not None:
        places += " JOIN directions d ON d.id = l.direction_id JOIN spectra p ON p.id = d.spectrum_id JOIN sets s ON s.id = p.set_id"
    sources = None if source is None else label_sources(connection, source)
    if sources is not None:
        own += " AND l.source_id IN :sources*"
    columns = "t.text, count(DISTINCT l.direction_id), max(l.confidence)"
    statement = f"SELECT {columns} FROM {places} WHERE {own} GROUP BY t.id, t.text"
    return [(row[0], row[1], row[2]) for row in run(connection, statement, model_id=model_id, sources=sources)]
