"""Indexing direction sets: from a manifest to the rows that searches read. Every function works in the caller's transaction.

A set's own labels come from its manifest, those of people (`human:…`) from the table `people_labels` alone: what people said in a
manifest is taken over into that table once, when the set is added.
"""

import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from sqlalchemy import Connection

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import tables
from eigenbank.registry.catalog.database import (
    add_words,
    create_tables,
    drop_tables,
    holding,
    inflated,
    insert,
    run,
)
from eigenbank.registry.catalog.names import DirectionName, named
from eigenbank.registry.catalog.search import pack, read, unpack
from eigenbank.registry.files import parse_as
from eigenbank.registry.ranking import words
from eigenbank.schemas import CompositeRecord, DirectionRecord, Label, Manifest
from eigenbank.schemas.direction import SliderRecord

PEOPLE = "human:"
"""What the source of a person's label begins with."""
_URL = re.compile(r"[a-z]{2,}:")
Name = tuple[str, str]
"""A direction: its model's id, and its name within the model."""


@dataclass(frozen=True)
class SetEntry:
    """A direction set to put into the catalog: its manifest and that file's digest, and where the set is.

    `checkpoint_path` is the local folder it was computed from (None leaves the known one), `repo` and `commit` where it was
    published.
    """

    manifest: Manifest
    location: str
    digest: str
    checkpoint_path: str | None = None
    repo: str | None = None
    commit: str | None = None


def path_key(path: str) -> str:
    """Return the one written form of a local path; a place such as `shipped:NAME` is that already."""
    return path if _URL.match(path) or "\x00" in path else os.path.realpath(path)


def read_manifest(packed: bytes) -> Manifest:
    """Return a manifest that the catalog keeps. Raises CatalogError for what is too large or damaged."""
    with holding("a manifest"):
        return parse_as(Manifest, inflated(packed))


def read_label(text: str) -> Label:
    """The same for a person's label."""
    with holding("a label"):
        return parse_as(Label, text.encode())


def by_confidence(labels: Sequence[Label]) -> Sequence[Label]:
    """Return one label of each text and source, the newest; the most confident first, those without a confidence last."""
    if len(labels) < 2:
        return labels
    kept = {(label.text, label.source): label for label in labels}
    if len(kept) < len(labels):
        kept = {(label.text, label.source): label for label in sorted(labels, key=_age)}
    return sorted(
        kept.values(), key=lambda each: (each.confidence is None, -(each.confidence or 0), each.text, each.source)
    )


def _age(label: Label) -> tuple[Any, str]:
    """A key that puts the newer label last; where both are as new, their contents decide."""
    return label.created, label.model_dump_json()


def _merged(labelers: Iterable[Label], people: Iterable[Label]) -> Sequence[Label]:
    """The labels of a direction: those that no person gave, and what people say now."""
    return by_confidence([*(label for label in labelers if not label.source.startswith(PEOPLE)), *people])


# Adding sets


_Spectrum = tuple[str, str] | None
"""A layer and a recipe; None for composites."""


def _own_name(record: SliderRecord) -> str:
    """The name that a composite or LoRA is kept under; '' for a direction."""
    if isinstance(record, DirectionRecord):
        return ""
    return record.name if isinstance(record, CompositeRecord) else record.id


class Indexer:
    """Puts sets into the tables, within one transaction, in which nobody else writes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._next: dict[type[tables.Base], int] = {}
        self._known: dict[type[tables.Base], dict[str, int]] = {}

    def add(self, entry: SetEntry, *, take_over: bool = True) -> None:
        """Put a set in, in the place of the one of the same model id and revision. `take_over`: people's labels in its manifest
        become this catalog's; where the same person said so before, the newer label stays.
        """
        manifest, records = entry.manifest, entry.manifest.sliders
        checkpoint, layers = manifest.checkpoint, manifest.layers
        model_id, revision = checkpoint.model_id, checkpoint.revision or ""
        statement = "SELECT id, checkpoint_path FROM sets WHERE model_id = :model_id AND revision = :revision"
        before = run(self.connection, statement, model_id=model_id, revision=revision).first()
        if before is not None:
            remove(self.connection, before[0])
        if entry.checkpoint_path is not None:
            entry = replace(entry, checkpoint_path=path_key(entry.checkpoint_path))
        elif before is not None:
            entry = replace(entry, checkpoint_path=before[1])
        names = [record.id for record in records]
        if take_over:
            take_labels(self.connection, [
                ((model_id, name), label)
                for name, record in zip(names, records, strict=True)
                for label in record.labels
                if label.source.startswith(PEOPLE)
            ])  # fmt: skip
        people = people_labels(self.connection, model_id)
        labels = [_merged(each.labels, people.get(name, ())) for name, each in zip(names, records, strict=True)]
        texts = self._ids(tables.TextTable, [
            model_id, *(layer.name for layer in layers), *filter(None, map(_own_name, records)),
            *(label.text for own in labels for label in own),
        ])  # fmt: skip
        set_id = self._take(tables.SetTable)
        insert(self.connection, tables.SetTable, [(
            set_id, model_id, revision, entry.location, entry.digest, entry.checkpoint_path, entry.repo, entry.commit,
            manifest.created.isoformat(timespec="microseconds"), checkpoint.denoiser, checkpoint.licence, manifest.builder,
            texts[model_id], len(layers), len(manifest.directions), sum(map(len, labels)),
            zlib.compress(manifest.model_dump_json().encode(), 2),
        )])  # fmt: skip
        digests = {(one, set_id, number) for number, layer in enumerate(layers) for one in layer.digests.values()}
        insert(self.connection, tables.LayerDigestTable, sorted(digests))
        spectra: dict[_Spectrum, tuple[int, dict[str, Any]]] = {}
        rows = []
        first = self._take(tables.DirectionTable, len(records))
        for number, name, record, own in zip(count(first), names, records, labels, strict=False):
            key = (record.layer, record.recipe.slug) if isinstance(record, DirectionRecord) else None
            if key not in spectra:
                spectra[key] = self._take(tables.SpectrumTable), {}
            spectrum, details = spectra[key]
            details[name] = {"labels": own, "quality": record.quality}
            facts = (getattr(record, fact, None) for fact in ("rank", "eigenvalue", "share", "gap"))
            measured = (getattr(record.quality, measure, None) for measure in tables.QUALITY)
            confidence = own[0].confidence if own else None
            rows.append((number, spectrum, *facts, texts.get(_own_name(record)), len(own), confidence, *measured))
        insert(self.connection, tables.DirectionTable, rows)
        places = {each.name: (texts[each.name], each.kind, each.width) for each in layers}
        insert(self.connection, tables.SpectrumTable, [
            (spectrum, set_id, *((None,) * 4 if key is None else (*places[key[0]], key[1])), pack(details))
            for key, (spectrum, details) in spectra.items()
        ])  # fmt: skip
        self._put_labels([(number, label) for number, own in enumerate(labels, first) for label in own])

    def relabel(self, name: Name) -> None:
        """Bring what is derived from a direction's labels up to date with people's labels, in every set of the model."""
        said = people_labels(self.connection, *name).get(name[1], [])
        for set_id, number in named(self.connection, DirectionName.parse("#".join(name))):
            (row,) = read(self.connection, [number])
            labels = _merged(row.labels, said)
            run(
                self.connection,
                "UPDATE directions SET labels = :count, confidence = :confidence WHERE id = :number",
                number=number,
                count=len(labels),
                confidence=labels[0].confidence if labels else None,
            )
            run(
                self.connection,
                "UPDATE spectra SET details = :details WHERE id = (SELECT spectrum_id FROM directions WHERE id = :number)",
                number=number,
                details=pack({**unpack(row.details), row.name: {"labels": labels, "quality": row.quality}}),
            )
            run(self.connection, "DELETE FROM labels WHERE direction_id = :number", number=number)
            self._put_labels([(number, label) for label in labels])
            more = len(labels) - len(row.labels)
            run(self.connection, "UPDATE sets SET labels = labels + :more WHERE id = :set_id", more=more, set_id=set_id)

    def _put_labels(self, labelled: Sequence[tuple[int, Label]]) -> None:
        texts = self._ids(tables.TextTable, (label.text for _, label in labelled))
        sources = self._ids(tables.SourceTable, (label.source for _, label in labelled))
        insert(self.connection, tables.LabelTable, [
            (number, sources[label.source], texts[label.text], label.confidence, label.worth) for number, label in labelled
        ])  # fmt: skip

    def _ids(self, table: type[tables.TextTable] | type[tables.SourceTable], texts: Iterable[str]) -> dict[str, int]:
        """Return the numbers of texts or sources; new ones are put into their table, and texts into the full-text index."""
        known = self._known.setdefault(table, {})
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            rows = run(self.connection, f"SELECT text, id FROM {table.__tablename__} WHERE text IN :new*", new=new)
            known |= rows.all()
            new = [text for text in new if text not in known]
            numbered = list(enumerate(new, self._take(table, len(new))))
            insert(self.connection, table, numbered)
            if table is tables.TextTable:
                add_words(self.connection, [(number, words(text)) for number, text in numbered])
            known |= {text: number for number, text in numbered}
        return known

    def _take(self, table: type[tables.Base], count: int = 1) -> int:
        """Return the first of so many numbers that no row has."""
        if table not in self._next:
            found = run(self.connection, f"SELECT coalesce(max(id), 0) + 1 FROM {table.__tablename__}")
            self._next[table] = found.scalar_one()
        self._next[table] += count
        return self._next[table] - count


def remove(connection: Connection, set_id: int) -> None:
    """Take a set out, with all that is derived from it."""
    own = "SELECT id FROM spectra WHERE set_id = :set_id"
    for rows in (
        f"labels WHERE direction_id IN (SELECT id FROM directions WHERE spectrum_id IN ({own}))",
        f"directions WHERE spectrum_id IN ({own})",
        "spectra WHERE set_id = :set_id",
        "layer_digests WHERE set_id = :set_id",
        "sets WHERE id = :set_id",
    ):
        run(connection, f"DELETE FROM {rows}", set_id=set_id)


@contextmanager
def filling(connection: Connection) -> Iterator[Indexer]:
    """Yield an indexer for many sets. Where there are no directions yet, their indexes are made after the block: that takes half the
    time of keeping them as it runs.
    """
    empty = run(connection, "SELECT 1 FROM directions LIMIT 1").first() is None
    filled = [tables.Base.metadata.tables[name] for name in ("directions", "labels")] if empty else []
    indexes = [each for table in filled for each in sorted(table.indexes, key=lambda one: str(one.name))]
    for each in indexes:
        each.drop(connection)
    yield Indexer(connection)
    for each in indexes:
        each.create(connection)


# People's labels


def people_labels(connection: Connection, model_id: str, direction: str | None = None) -> dict[str, list[Label]]:
    """Return what people call the directions of a model, or one of them, by the direction's name."""
    found: dict[str, list[Label]] = {}
    own = "model_id = :model_id" + ("" if direction is None else " AND direction = :direction")
    statement = f"SELECT direction, label FROM people_labels WHERE {own} ORDER BY direction, text, source"
    for name, text in run(connection, statement, model_id=model_id, direction=direction):
        found.setdefault(name, []).append(read_label(text))
    return found


ONE_LABEL = (
    "FROM people_labels WHERE model_id = :model_id AND direction = :direction AND text = :text AND source = :source"
)


def take_labels(
    connection: Connection, labels: Iterable[tuple[Name, Label]], *, newer: bool = True
) -> list[tuple[Name, Label]]:
    """Keep labels of people, without indexing them; with `newer`, only where the same person has said nothing newer. Returns those
    that are new, or differ from what was there.
    """
    changed = []
    for (model_id, direction), label in labels:
        key = {"model_id": model_id, "direction": direction, "text": label.text, "source": label.source}
        text = label.model_dump_json()
        before = run(connection, f"SELECT label {ONE_LABEL}", **key).scalar()
        if before == text or (newer and before is not None and _age(read_label(before)) >= _age(label)):
            continue
        run(connection, f"DELETE {ONE_LABEL}", **key)
        insert(connection, tables.PeopleLabelTable, [(*key.values(), text)])
        changed.append(((model_id, direction), label))
    return changed


def waiting(connection: Connection, model_id: str | None = None) -> int:
    """Return how many of people's labels, of a model or of all, are of directions that no set has."""
    statement = "SELECT model_id, direction, count(*) FROM people_labels GROUP BY model_id, direction"
    return sum(
        number
        for model, name, number in run(connection, statement).all()
        if model_id in (None, model) and not named(connection, DirectionName.parse(f"{model}#{name}"))
    )


# All of it again


def entries(connection: Connection, table: str = "sets") -> Iterator[SetEntry]:
    """Yield the sets of a catalog with their manifests, in catalog order, one in memory at a time."""
    columns = 'manifest, location, digest, checkpoint_path, repo, "commit"'
    for number in run(connection, f"SELECT id FROM {table} ORDER BY id").scalars().all():
        packed, *facts = run(connection, f"SELECT {columns} FROM {table} WHERE id = :number", number=number).one()
        yield SetEntry(read_manifest(packed), *facts)


def copy(source: Connection, target: Connection, progress: Progress = no_progress) -> None:
    """Index everything that one catalog keeps in another one, which is empty: sets, people's labels, what was bundled."""
    total = run(source, "SELECT count(*) FROM sets").scalar_one()
    _fill(target, _kept(source), entries(source), total, progress)


def rebuild(connection: Connection, progress: Progress = no_progress) -> None:
    """Drop all that is derived, and index every set again from its manifest. People's labels stay."""
    kept = _kept(connection)
    columns = 'id, location, digest, checkpoint_path, repo, "commit", manifest'
    run(connection, f"CREATE TEMPORARY TABLE kept_sets AS SELECT {columns} FROM sets")
    drop_tables(connection)
    create_tables(connection)
    total = run(connection, "SELECT count(*) FROM kept_sets").scalar_one()
    _fill(connection, kept, entries(connection, "kept_sets"), total, progress)
    run(connection, "DROP TABLE kept_sets")


_Kept = dict[type[tables.Base], list[tuple[Any, ...]]]


def _kept(connection: Connection) -> _Kept:
    """What is derived from nothing, beside the sets."""
    people = run(connection, "SELECT model_id, direction, text, source, label FROM people_labels")
    bundled = run(connection, "SELECT digest FROM bundled")
    return {tables.PeopleLabelTable: list(map(tuple, people)), tables.BundledTable: list(map(tuple, bundled))}


def _fill(connection: Connection, kept: _Kept, found: Iterator[SetEntry], total: int, progress: Progress) -> None:
    for table, rows in kept.items():
        insert(connection, table, rows)
    with filling(connection) as indexer:
        for done, entry in enumerate(found, 1):
            indexer.add(entry, take_over=False)
            progress("sets", done, total)
