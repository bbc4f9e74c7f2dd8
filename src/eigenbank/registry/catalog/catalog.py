"""The catalog as the rest of the program sees it: questions, and changes."""

import difflib
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import database as db
from eigenbank.registry.catalog import index
from eigenbank.registry.catalog.database import Database, run
from eigenbank.registry.catalog.index import PEOPLE, SetEntry, path_key
from eigenbank.registry.catalog.search import (
    DirectionName,
    DirectionRow,
    Filters,
    Page,
    bare_name,
    directions,
    label_sources,
    search,
    storable,
)
from eigenbank.registry.catalog.tables import VERSION, BundledTable
from eigenbank.registry.files import parse_as
from eigenbank.registry.ranking import SORTS, Query, Sort, words
from eigenbank.registry.sets import bundled
from eigenbank.schemas import Label, Manifest
from eigenbank.schemas.errors import CatalogError, ReplaceError, UnknownNameError, explaining, first_problem, unknown

T = TypeVar("T")
P = ParamSpec("P")

MAX_LIMIT = 10_000
"""Most directions of a page."""
_HINT = "Names have the form MODEL_ID#LAYER/RECIPE/RANK, MODEL_ID#composite/NAME or MODEL_ID#lora/NAME."
_MOST_TEXTS = 100_000
"""So many texts are looked through for near matches."""
_NEWEST = "(SELECT id FROM sets WHERE model_id = :model_id ORDER BY created DESC, id DESC LIMIT 1)"


@dataclass(frozen=True)
class SetRow:
    """A direction set in the catalog. `directions` and `labels` are counts; `created` is in UTC. Searches have equals in the order
    of `number`.
    """

    model_id: str
    revision: str | None
    location: str
    digest: str
    checkpoint_path: str | None
    created: datetime
    directions: int
    labels: int
    repo: str | None
    commit: str | None
    denoiser: str
    licence: str | None
    builder: str
    number: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Overwritten:
    """How much a set has that another in its place would lack; false where that is nothing. People's labels are never lost.

    LoRAs count among the composites.
    """

    labels: int = 0
    composites: int = 0
    previews: int = 0

    def __bool__(self) -> bool:
        return bool(self.labels or self.composites or self.previews)

    def __str__(self) -> str:
        counts = (("label{} by labelers", self.labels), ("composite{}", self.composites), ("preview{}", self.previews))
        found = [f"{count:,} {what.format('' if count == 1 else 's')}" for what, count in counts if count]
        return " and ".join(part for part in (", ".join(found[:-1]), *found[-1:]) if part)


class Catalog:
    """Direction sets, their directions and labels, and where the sets are. Use as a context manager; safe between threads.

    Questions write nothing, and need no catalog: where there is none yet, they see what comes with eigenbank. The first change
    creates it. Every method is one transaction: readers see one state, and a change is made whole or not at all. Each raises
    CatalogError when the database cannot be used.
    """

    def __init__(self, place: Path | URL, *, shipped: bool) -> None:
        self._place = place
        self._shipped = shipped
        self._opened: Database | None = None
        self._writable = False
        self._copy: tuple[object, Database] | None = None
        self._opening = threading.RLock()

    @classmethod
    def open(cls, url: str | os.PathLike[str] | None = None, *, shipped: bool = True) -> "Catalog":
        """Open a catalog; it is created by the first change. With `shipped`, it holds the sets that come with eigenbank, but
        for those that were removed or replaced.

        `url` is a path, `sqlite:///PATH` or `postgresql+psycopg://…`. None: the environment's `EIGENBANK_CATALOG`, else
        `catalog.db` at home. Raises CatalogError for what is not a catalog, one of a newer version, or a path in a folder that
        does not exist; nothing is written then.
        """
        place = db.locate(url)
        catalog = cls(place, shipped=shipped)
        if isinstance(place, Path) and not place.exists():
            db.check_parent(place, url)
        else:
            catalog._current()
        return catalog

    @property
    def place(self) -> str:
        """The catalog's file, or its URL without the password."""
        return db.name_of(self._place)

    def close(self) -> None:
        """Close the connections. The catalog cannot be used after."""
        for database in (self._opened, self._copy and self._copy[1]):
            if database is not None:
                database.close()

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # Opening

    def _current(self) -> Database:
        """The database to ask: the catalog's own, or a copy in memory where that is not there, or not up to date and not to be
        written to.
        """
        if self._opened is None:
            seen = self._state_of_file()
            if self._copy is not None and self._copy[0] == seen:
                return self._copy[1]
            if self._copy is not None:
                self._copy[1].close()
                self._copy = None
            if isinstance(self._place, Path) and not db.is_catalog(self._place):
                self._copy = seen, self._copied(None)
                return self._copy[1]
            mode = "rw" if isinstance(self._place, URL) or os.access(self._place, os.W_OK) else "ro"
            database = Database(self._place, self.place, mode)
            try:
                version, lacking = database.read(self._lacking)
                if version is not None and version < VERSION and self._may_write():
                    database.write(self._bring_up_to_date)
                elif version != VERSION or (lacking and isinstance(self._place, Path)):
                    self._copy = seen, self._copied(database)
                    database.close()
                    return self._copy[1]
            except BaseException:
                database.close()
                raise
            self._opened = database
        return self._opened

    def _copied(self, source: Database | None) -> Database:
        """A catalog in memory: a copy of another one, or of none, brought up to date."""
        database = Database(None, self.place)
        version = None if source is None else source.read(db.version_of, self.place)
        if source is not None and version == VERSION:
            source.copy_to(database)
        else:
            database.write(db.create_tables)
            if source is not None and version is not None:
                source.read(lambda reading: database.write(lambda writing: index.copy(reading, writing)))
        database.write(self._bring_up_to_date)
        return database

    def _state_of_file(self) -> object:
        """What tells whether the file has changed since a copy of it was made; nothing does on a server."""
        if isinstance(self._place, URL):
            return object()
        with suppress(OSError):
            found = self._place.stat()
            return found.st_ino, found.st_mtime_ns, found.st_size
        return None

    def _lacking(self, connection: Connection) -> tuple[int | None, set[str]]:
        """The version, and the digests of the sets that come with eigenbank and were never put in."""
        version = db.version_of(connection, self.place)
        if version != VERSION or not self._shipped:
            return version, set()
        return version, set(bundled.DIGESTS).difference(run(connection, "SELECT digest FROM bundled").scalars())

    def _bring_up_to_date(self, connection: Connection) -> None:
        """Create the tables, or index a catalog of an earlier version again, and put in the sets that come with eigenbank."""
        version = db.version_of(connection, self.place)
        if version is None:
            db.create_tables(connection)
        elif version < VERSION:
            index.rebuild(connection)
        _, lacking = self._lacking(connection)
        indexer = index.Indexer(connection)
        for entry in bundled.shipped_sets() if lacking else ():
            if entry.digest in lacking:
                indexer.add(SetEntry(entry.text, entry.location, entry.digest, entry.checkpoint))
                db.insert(connection, BundledTable, [(entry.digest,)])

    def _may_write(self) -> bool:
        if isinstance(self._place, URL):
            return True  # the server says so
        return all(os.access(each, os.W_OK) for each in (self._place, self._place.parent) if each.exists())

    def _for_changes(self) -> Database:
        """The database to make changes in, created if it is not there, and brought up to date."""
        with self._opening:
            if not self._writable:
                if isinstance(self._place, Path):
                    db.make_folder(self._place)
                    db.is_catalog(self._place)
                if not self._may_write():
                    message = (
                        f"the catalog {self.place} is read-only: nothing was changed. Check the permissions of the file and of "
                        "its folder, or name another with --catalog or EIGENBANK_CATALOG."
                    )
                    raise CatalogError(message)
                database = self._opened or Database(self._place, self.place, "rwc")
                try:
                    database.write(self._bring_up_to_date)
                except BaseException:
                    if database is not self._opened:
                        database.close()
                    raise
                self._opened, self._writable = database, True
            assert self._opened is not None
            return self._opened

    def ask(self, question: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function of a connection says of one state of the catalog. It cannot write."""
        with self._opening:
            database = self._current()
            if database is not self._opened:
                # In memory there is one connection, and another thread may open the file in its place.
                return database.read(question, *args, **kwargs)
        return database.read(question, *args, **kwargs)

    def change(self, change: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a change, given as a function of a connection: all of it or nothing. Returns what that returns."""
        return self._for_changes().write(change, *args, **kwargs)

    def _strings(self, statement: str, **values: Any) -> list[str]:
        """What a SELECT of one column gives; nothing for a value that no database can hold."""
        if not all(storable(value) for value in values.values()):
            return []
        return self.ask(lambda connection: list(run(connection, statement, **values).scalars()))

    # Sets and names

    def get_set(self, model_id: str, revision: str | None = None) -> SetRow | None:
        """Return the set of a model, the newest one if no revision is named."""
        own = "model_id = :model_id" + ("" if revision is None else " AND revision = :revision")
        given = {"model_id": model_id} | ({} if revision is None else {"revision": revision})
        return next(iter(self.ask(_sets, own, **given)), None)

    def sets_at(self, checkpoint_path: str) -> list[SetRow]:
        """Return the sets that were computed from the checkpoint in a local folder, the newest first."""
        path = path_key(checkpoint_path) if storable(checkpoint_path) else checkpoint_path
        return self.ask(_sets, "checkpoint_path = :path", path=path)

    def sets_with_layers(self, digests: Iterable[str]) -> list[SetRow]:
        """Return the sets that have a layer whose weights have one of the digests, as a pipeline's do: those of the most such layers
        first, then the newest.
        """
        counts = "SELECT set_id, count(DISTINCT layer) FROM layer_digests WHERE digest IN :digests* GROUP BY set_id"

        def found(connection: Connection) -> list[SetRow]:
            counted = dict(run(connection, counts, digests=list(digests)).all())
            rows = _sets(connection, "id IN :numbers*", numbers=list(counted))
            return sorted(rows, key=lambda row: -counted[row.number])

        return self.ask(found)

    def sets(self) -> list[SetRow]:
        """Return all sets, by model id, the newest first within one."""
        return sorted(self.ask(_sets), key=lambda row: row.model_id)

    def manifest(self, model_id: str, revision: str | None = None) -> Manifest | None:
        """Return the manifest of a model's set, the newest one if no revision is named. It is validated anew."""
        row = self.get_set(model_id, revision)
        if row is None:
            return None
        statement = "SELECT manifest FROM sets WHERE id = :number"
        packed = self.ask(lambda connection: run(connection, statement, number=row.number).scalar())
        return None if packed is None else _manifest(packed)

    def model_ids(self) -> list[str]:
        """Return the models that have a set, sorted."""
        return self._strings("SELECT DISTINCT model_id FROM sets ORDER BY model_id")

    def layer_names(self, model_id: str | None = None) -> list[str]:
        """Return the layers of a model's newest set, in the set's order, or of all sets."""
        own, given = _of_newest(model_id)
        places = "texts t JOIN spectra p ON p.name_id = t.id JOIN sets s ON s.id = p.set_id"
        return self._strings(f"SELECT t.text FROM {places} WHERE {own} GROUP BY t.text ORDER BY min(p.id)", **given)

    def recipe_slugs(self, model_id: str | None = None) -> list[str]:
        """Return the recipes of a model's newest set, or of all sets, sorted."""
        own, given = _of_newest(model_id)
        places = "spectra p JOIN sets s ON s.id = p.set_id"
        return sorted(
            self._strings(f"SELECT DISTINCT recipe FROM {places} WHERE recipe IS NOT NULL AND {own}", **given)
        )

    def label_texts(self, model_id: str | None = None) -> list[str]:
        """Return the different label texts of a model's newest set, or of all sets, sorted."""
        return sorted(text for text, _, _ in self.ask(_label_counts, model_id, None))

    def label_counts(
        self, model_id: str | None = None, source: str | None = None
    ) -> list[tuple[str, int, float | None]]:
        """Return the label texts with how many directions have each and the highest confidence, the most frequent first.

        `model_id` limits them to a model's newest set; `source` is a label's source, its first part or a glob. Raises
        UnknownNameError for a model that is not there.
        """
        if model_id is not None and self.get_set(model_id) is None:
            raise unknown(kind="model", name=model_id[:200], known=self.model_ids())
        return sorted(self.ask(_label_counts, model_id, source), key=lambda row: (-row[1], row[0]))

    def near(self, text: str) -> dict[str, list[str]]:
        """Return the words of a query that nothing in the catalog begins with, each with the nearest words there are."""
        return self.ask(_near, text)

    # Directions

    def get_direction(self, full_id: str) -> DirectionRow | None:
        """Return a direction by `MODEL_ID#LAYER/RECIPE/RANK`, or a composite by `MODEL_ID#composite/NAME`, of the newest set
        of its model.
        """
        name = DirectionName.parse(full_id)

        def found(connection: Connection) -> DirectionRow | None:
            number = _direction_number(connection, name)
            return None if number is None else directions(connection, [number])[0]

        return None if name is None else self.ask(found)

    def unknown_direction(self, full_id: str) -> UnknownNameError:
        """Return the error for a direction that is not there, with near matches."""
        return self.ask(_unknown_direction, full_id)

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
        return self.ask(search, asked, limit, cursor)

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
            with index.filling(connection):
                for entry in entries:
                    if not overwrite:
                        assert isinstance(entry.manifest, Manifest)
                        checkpoint = entry.manifest.checkpoint
                        with explaining(outcome="the new set was not added, and the catalog has not changed"):
                            _check_overwrite(connection, checkpoint.model_id, checkpoint.revision, entry.manifest)
                    indexer.add(entry)

        self.change(add)

    def remove_set(self, model_id: str, revision: str | None, *, digest: str, instead: SetEntry | None = None) -> int:
        """Take the set of a checkpoint out, by its manifest's digest too; `instead` is put into its place. People's labels
        wait for a set that has their directions. Returns how many do. Raises CatalogError where another set is there now.
        """

        def remove(connection: Connection) -> int:
            own = "model_id = :model_id AND revision = :revision AND digest = :digest"
            found = _sets(connection, own, model_id=model_id, revision=revision or "", digest=digest)
            if not found:
                message = f"another program has just replaced or removed the set of {model_id}: nothing was removed. Try again."
                raise CatalogError(message)
            if instead is not None:
                index.Indexer(connection).add(instead)
            else:
                index.remove(connection, found[0].number)
            return index.waiting(connection, model_id)

        return self.change(remove)

    def set_published(self, digest: str, repo: str, commit: str) -> bool:
        """Note where the set of a manifest digest was published. Returns whether the catalog has that set."""
        if not storable(digest):
            return False
        statement = 'UPDATE sets SET repo = :repo, "commit" = :head WHERE digest = :digest'
        return self.change(
            lambda connection: bool(run(connection, statement, repo=repo, head=commit, digest=digest).rowcount)
        )

    def overwritten(self, model_id: str, revision: str | None, new: Manifest | None = None) -> Overwritten:
        """Return what the set of a checkpoint has that `new` in its place would lack; None is one without labels, composites
        and previews.
        """
        return self.ask(_overwritten, model_id, revision, new)

    def check_overwrite(self, model_id: str, revision: str | None, new: Manifest | None = None) -> None:
        """Raise ReplaceError where that is anything."""
        self.ask(_check_overwrite, model_id, revision, new)

    def reindex(self, progress: Progress = no_progress) -> None:
        """Drop everything that is derived from the sets' manifests, and index them again. People's labels stay."""
        self.change(index.rebuild, progress)

    def vacuum(self) -> tuple[int, int]:
        """Give unused room back to the disk and bring the database's statistics up to date. Returns bytes before and after."""
        before = self.ask(db.size_of, self.place)
        self._for_changes().tidy()
        return before, self.ask(db.size_of, self.place)

    # People's labels

    def people_labels(self, model_id: str) -> dict[str, tuple[Label, ...]]:
        """Return what people call the directions and composites of a model, by the direction's id within it."""
        found = self.ask(index.people_labels, model_id) if storable(model_id) else {}
        return {
            name: tuple(Label.model_validate(label) for label in index.by_confidence(labels))
            for name, labels in found.items()
        }

    def add_labels(self, full_ids: Sequence[str], label: Label) -> None:
        """Give directions a person's label (`human:…`), all of them or none; one of the same text and person is replaced.

        Raises UnknownNameError, with near matches, for a direction that is not there.
        """
        if not label.source.startswith(PEOPLE):
            message = f"a label by {label.source} is part of its set, not of the catalog: only labels by human:NAME can be added"
            raise CatalogError(message)
        document = label.model_dump(mode="json")

        def add(connection: Connection) -> None:
            names = list(_known(connection, full_ids))
            index.take_labels(connection, ((name, document) for name in names), newer=False)
            indexer = index.Indexer(connection)
            for name in names:
                indexer.relabel(name)

        self.change(add)

    def remove_labels(self, full_ids: Sequence[str], text: str, source: str) -> list[str]:
        """Take one person's label off directions: off all of them, or off none where some lack it. Returns those that lack it.

        Raises UnknownNameError, with near matches, for a direction that is not there.
        """

        def remove(connection: Connection) -> list[str]:
            names = dict(zip(full_ids, _known(connection, full_ids), strict=True))
            missing = [
                full_id
                for full_id, name in names.items()
                if not any(
                    (label["text"], label["source"]) == (text, source)
                    for label in index.people_labels(connection, *name).get(name[1], ())
                )
            ]
            indexer = index.Indexer(connection)
            for model_id, direction in () if missing else names.values():
                own = "model_id = :model_id AND direction = :direction AND text = :text AND source = :source"
                given = {"model_id": model_id, "direction": direction, "text": text, "source": source}
                run(connection, f"DELETE FROM people_labels WHERE {own}", **given)
                indexer.relabel((model_id, direction))
            return missing

        return self.change(remove)


# What the methods ask, in one transaction


def _sets(connection: Connection, /, conditions: str = "1 = 1", **values: Any) -> list[SetRow]:
    """Return the sets that meet the conditions, the newest first; none for a value that no database can hold."""
    if not all(storable(value) for value in values.values() if isinstance(value, str)):
        return []
    statement = (
        "SELECT model_id, nullif(revision, ''), location, digest, checkpoint_path, created, directions, labels, repo, \"commit\", "
        f"denoiser, licence, builder, id FROM sets WHERE {conditions} ORDER BY created DESC, id DESC"
    )
    rows = run(connection, statement, **values)
    return [SetRow(*(*row[:5], index.moment(row[5]), *row[6:])) for row in rows]


def _manifest(packed: bytes) -> Manifest:
    """Return a manifest that the catalog keeps, validated anew. Raises CatalogError for what is none."""
    try:
        return parse_as(Manifest, index.unpack_manifest(packed).encode())
    except ValueError as error:
        message = f"the catalog holds a manifest that is none ({first_problem(error)}). {db.AGAIN}"
        raise CatalogError(message) from error


def _of_newest(model_id: str | None) -> tuple[str, dict[str, str]]:
    """The condition that a set s is a model's newest, and its value; any set where no model is named."""
    return ("1 = 1", {}) if model_id is None else (f"s.id = {_NEWEST}", {"model_id": model_id})


def _label_counts(
    connection: Connection, model_id: str | None, source: str | None
) -> list[tuple[str, int, float | None]]:
    own, given = _of_newest(model_id)
    if model_id is not None and not storable(model_id):
        return []
    values: dict[str, Any] = dict(given)
    places = "labels l JOIN texts t ON t.id = l.text_id"
    if model_id is not None:
        places += " JOIN directions d ON d.id = l.direction_id JOIN spectra p ON p.id = d.spectrum_id JOIN sets s ON s.id = p.set_id"
    if source is not None:
        values["sources"] = label_sources(connection, source)
        own += " AND l.source_id IN :sources*"
    columns = "t.text, count(DISTINCT l.direction_id), max(l.confidence)"
    rows = run(connection, f"SELECT {columns} FROM {places} WHERE {own} GROUP BY t.id, t.text", **values)
    return [(row[0], row[1], row[2]) for row in rows]


def _direction_number(connection: Connection, name: DirectionName | None) -> int | None:
    """Return the number of a direction or composite in the newest set of its model."""
    if name is None:
        return None
    newest = run(connection, f"SELECT {_NEWEST}", model_id=name.model_id).scalar()
    return next((number for set_id, number in index.directions_named(connection, name) if set_id == newest), None)


def _known(connection: Connection, full_ids: Iterable[str]) -> Iterator[index.Name]:
    """The names of directions that are there. Raises UnknownNameError for one that is not."""
    for full_id in full_ids:
        name = DirectionName.parse(full_id)
        if name is None or _direction_number(connection, name) is None:
            raise _unknown_direction(connection, full_id)
        yield name.model_id, name.bare


def _unknown_direction(connection: Connection, full_id: str) -> UnknownNameError:
    """Return the error for a direction that is not there: for its model, if that is what is missing."""
    name = DirectionName.parse(full_id)
    models = list(run(connection, "SELECT DISTINCT model_id FROM sets ORDER BY model_id").scalars())
    model_id = full_id.partition("#")[0]
    if model_id not in models:
        if "#" in full_id:
            return unknown(kind="model", name=model_id[:200], known=models, hint=_HINT)
        more = "With --model, the part behind the # is enough. What has a label is found by `eigenbank search LABEL`."
        return UnknownNameError(f"no direction {full_id[:200]!r}: {_HINT} {more}")
    if name is None:
        return UnknownNameError(f"no direction {full_id[:800]!r}: {_HINT}")
    places = "spectra p CROSS JOIN directions d CROSS JOIN texts t WHERE d.spectrum_id = p.id AND t.id = coalesce(p.name_id, d.name_id)"
    statement = f"SELECT t.text, p.recipe, max(d.rank) FROM {places} AND p.set_id = {_NEWEST} GROUP BY t.text, p.recipe"
    rows = run(connection, statement, model_id=model_id).all()
    if name.composite is not None:
        known = [f"{model_id}#{bare_name(text)}" for text, recipe, _ in rows if recipe is None]
        return unknown(kind="composite", name=full_id[:800], known=known, hint=_HINT)
    last = {(layer, recipe): rank for layer, recipe, rank in rows if recipe is not None}
    if (name.layer, name.recipe) in last:  # only the rank is wrong
        nearest = f"{full_id.rpartition('/')[0]}/{last[name.layer, name.recipe]}"
        return UnknownNameError(f"no direction {full_id!r}: did you mean {nearest!r}? That is the last rank there.")
    known = [f"{model_id}#{layer}/{recipe}/{name.rank}" for layer, recipe in last]
    return unknown(kind="direction", name=full_id[:800], known=known, hint=_HINT)


def _near(connection: Connection, text: str) -> dict[str, list[str]]:
    used = (
        "EXISTS (SELECT 1 FROM labels WHERE text_id = t.id) OR EXISTS (SELECT 1 FROM spectra WHERE name_id = t.id) "
        "OR EXISTS (SELECT 1 FROM directions WHERE name_id = t.id) OR EXISTS (SELECT 1 FROM sets WHERE name_id = t.id)"
    )
    statement = f"SELECT t.text FROM texts t WHERE ({used})"
    lost = []
    for term in Query.parse(text).terms:
        for word in term.words[:100]:
            holding = list(db.texts_with(connection, [word], prefix=True))
            if (
                not holding
                or not run(connection, f"{statement} AND t.id IN :holding* LIMIT 1", holding=holding).first()
            ):
                lost.append(word)
    if not lost:
        return {}
    known = {word for found in run(connection, f"{statement} LIMIT {_MOST_TEXTS}").scalars() for word in words(found)}
    return {word[:80]: difflib.get_close_matches(word[:80], known, n=3, cutoff=0.6) for word in dict.fromkeys(lost)}


def _overwritten(connection: Connection, model_id: str, revision: str | None, new: Manifest | None) -> Overwritten:
    statement = "SELECT manifest FROM sets WHERE model_id = :model_id AND revision = :revision"
    packed = run(connection, statement, model_id=model_id, revision=revision or "").scalar()
    if packed is None:
        return Overwritten()
    former = _manifest(packed)
    records = () if new is None else new.sliders
    named = {(record.id, label.text, label.source) for record in records for label in record.labels}
    pictured = {record.id for record in records if record.preview is not None}
    return Overwritten(
        labels=sum(
            not label.source.startswith(PEOPLE) and (record.id, label.text, label.source) not in named
            for record in former.sliders
            for label in record.labels
        ),
        composites=len({each.id for each in former.sliders[len(former.directions) :]} - {each.id for each in records}),
        previews=len({record.id for record in former.sliders if record.preview is not None} - pictured),
    )


def _check_overwrite(connection: Connection, model_id: str, revision: str | None, new: Manifest | None) -> None:
    lost = _overwritten(connection, model_id, revision, new)
    if lost:
        (row,) = _sets(
            connection, "model_id = :model_id AND revision = :revision", model_id=model_id, revision=revision or ""
        )
        problem = f"the catalog's set of {model_id}, at {row.location}, has {lost} that the new one lacks and would be replaced by it"
        advice = "Build the new one under another name, as with --model-id me/middle, or give --replace"
        raise ReplaceError(problem, advice=advice)
