"""Indexing direction sets: from a manifest to the rows that searches read. Every function works in the caller's transaction.

A set's own labels come from its manifest, those of people (`human:…`) from the table `people_labels` alone: what people said in a
manifest is taken over into that table once, when the set is added.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, and_, delete, func, insert, select, update

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import dialects
from eigenbank.registry.catalog.dialects import among
from eigenbank.registry.catalog.rows import DirectionName, SetEntry, path_key
from eigenbank.registry.catalog.tables import (
    VERSION,
    Base,
    BundledTable,
    DirectionTable,
    LabelTable,
    LayerDigestTable,
    LayerTable,
    PeopleLabelTable,
    SetTable,
    SourceTable,
    SpectrumTable,
    TextTable,
)
from eigenbank.registry.files import parse_as
from eigenbank.registry.ranking import words
from eigenbank.schemas import CompositeRecord, DirectionRecord, Label, Manifest, Quality
from eigenbank.schemas.common import MAX_MANIFEST_BYTES, Model
from eigenbank.schemas.errors import CatalogError, first_problem

PEOPLE = "human:"
"""What the source of a person's label begins with."""
MEASURES = ("effect", "selectivity", "consistency", "linearity", "locality", "drift")
"""What directions are searched by of their quality."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
PEOPLE_KEY = PeopleLabelTable.model_id, PeopleLabelTable.direction, PeopleLabelTable.text, PeopleLabelTable.source
Name = tuple[str, str]
"""A direction: its model's id, and its name within the model."""


class Details(Model):
    """A direction's labels and quality, as the catalog keeps them with it."""

    labels: tuple[Label, ...] = ()
    quality: Quality | None = None


_LIKELY = (
    b'"seeds":[200,201,202,203,204,205,206,207,208,209,210],"steps":10},"note":"","created":"2026-01-01T00:00:00Z"},{"text":"'
    b'","polarity":-1,"confidence":1.0,"source":"human:","source":"clip:openai/clip-vit-large-patch14@","source":"statistics",'
    b'"recommended_range":[-1.0,1.0],"locality":0.,"drift":0.,"scale":0.5,"quality":{"source":"attribute-model:","effect":0.,'
    b'"selectivity":1.0,"consistency":1.0,"linearity":0.,"created":"2026-11-2T1:00:00Z"}],{"labels":[{"text":"","confidence":0.,'
    b'"source":"attribute-model:","evidence":{"effect":1.,"selectivity":0.,"consistency":1.0,"asymmetry":0.,"null":0.,"runner_up"'
    b':"","runner_up_effect":-0.,"scale":1.0,"seeds":[100,101,102,103,104,105,106,107,108,109,110,111,112,113,114,115],"steps":20}'
)
"""What details are likely to hold: with it they take half the room. A change of it is a change of `tables.VERSION`."""
_MAX_DETAILS = 64 * 2**20


def pack(labels: Sequence[Label], quality: Quality | None) -> bytes | None:
    """Compress what is kept with a direction; None for nothing."""
    if not labels and quality is None:
        return None
    details = Details.model_construct(labels=tuple(labels), quality=quality)
    # A small window and little memory: setting them up would take longer than the work.
    compressor = zlib.compressobj(3, zlib.DEFLATED, -12, 4, zlib.Z_DEFAULT_STRATEGY, _LIKELY)
    return compressor.compress(details.model_dump_json(exclude_defaults=True).encode()) + compressor.flush()


def unpack(packed: bytes | None) -> Details:
    """Return what was packed. Raises CatalogError for what is damaged."""
    if packed is None:
        return Details()
    try:
        text = zlib.decompressobj(-12, _LIKELY).decompress(packed, _MAX_DETAILS)
        return Details.model_validate_json(text)
    except (zlib.error, TypeError, ValidationError) as error:
        message = f"the catalog holds a direction whose labels cannot be read ({error}). Run: eigenbank catalog reindex"
        raise CatalogError(message) from error


def pack_manifest(manifest: Manifest) -> bytes:
    """Compress a manifest as the catalog keeps it."""
    return zlib.compress(manifest.model_dump_json().encode(), 3)


def unpack_manifest(packed: bytes) -> Manifest:
    """Return a manifest that the catalog keeps. Raises CatalogError for what is too large, damaged or none."""
    try:
        opened = zlib.decompressobj()
        text = opened.decompress(packed, MAX_MANIFEST_BYTES)
        if not opened.eof:
            message = f"it ends early, or is of more than {MAX_MANIFEST_BYTES:,} bytes"
            raise zlib.error(message)
        return parse_as(Manifest, text)
    except ValueError as error:
        message = f"the catalog holds a manifest that is none: {first_problem(error, 'the manifest')}. {dialects.AGAIN}"
        raise CatalogError(message) from error
    except (zlib.error, TypeError) as error:
        message = f"the catalog holds a manifest that cannot be read ({error}). {dialects.AGAIN}"
        raise CatalogError(message) from error


def microseconds(moment: datetime) -> int:
    """Return a point in time as microseconds since 1970; without a zone it is taken as UTC."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)) - _EPOCH) // _MICROSECOND


def moment(since: int) -> datetime:
    """Return the point in time that is so many microseconds after 1970, in UTC."""
    return _EPOCH + _MICROSECOND * since


def by_confidence(labels: Iterable[Label]) -> list[Label]:
    """Return one label of each text and source, the newest; the most confident first, those without a confidence last."""
    kept: dict[tuple[str, str], Label] = {}
    for label in labels:
        other = kept.get((label.text, label.source))
        if other is None or _age(label) > _age(other):
            kept[label.text, label.source] = label
    return sorted(
        kept.values(), key=lambda each: (each.confidence is None, -(each.confidence or 0), each.text, each.source)
    )


def _age(label: Label) -> tuple[int, str]:
    """A key that puts the newer label last; where both are as new, their contents decide."""
    return microseconds(label.created), label.model_dump_json()


class Indexer:
    """Puts sets into the tables, within one transaction, in which nobody else writes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._numbers: dict[type[Base], int] = {}
        self._texts: dict[str, int] = {}
        self._sources: dict[str, int] = {}

    def add(self, entry: SetEntry, *, take_over: bool = True) -> None:
        """Put a set in, in the place of the one of the same model id and revision. `take_over`: people's labels in its manifest
        become this catalog's; where the same person said so before, the newer label stays.
        """
        checkpoint = entry.manifest.checkpoint
        model_id, revision = checkpoint.model_id, checkpoint.revision or ""
        own = and_(SetTable.model_id == model_id, SetTable.revision == revision)
        path = self.connection.execute(select(SetTable.checkpoint_path).where(own)).scalar()
        if entry.checkpoint_path is not None:
            path = path_key(entry.checkpoint_path)
        self.connection.execute(delete(SetTable).where(own))
        if take_over:
            said = [(record.id, label) for record in entry.manifest.sliders for label in record.labels]
            take_labels(
                self.connection, [((model_id, name), label) for name, label in said if label.source.startswith(PEOPLE)]
            )
        self._put(entry, path)

    def _put(self, entry: SetEntry, path: str | None) -> None:
        manifest, checkpoint = entry.manifest, entry.manifest.checkpoint
        people = people_labels(self.connection, checkpoint.model_id)
        records = manifest.sliders
        labels = [
            by_confidence(
                [*(label for label in record.labels if not label.source.startswith(PEOPLE)), *people.get(record.id, ())]
            )
            for record in records
        ]
        texts = self._number_texts(
            [checkpoint.model_id, *(layer.name for layer in manifest.layers), *(each.name for each in manifest.composites),
             *(label.text for each in labels for label in each)]
        )  # fmt: skip
        set_id = self._take(SetTable)
        self._insert(SetTable, [(
            set_id, checkpoint.model_id, checkpoint.revision or "", entry.location, entry.digest, path, entry.repo, entry.commit,
            microseconds(manifest.created), checkpoint.denoiser, checkpoint.licence, manifest.builder, texts[checkpoint.model_id],
            len(manifest.directions), sum(map(len, labels)), pack_manifest(manifest),
        )])  # fmt: skip
        layers = self._put_layers(set_id, manifest, texts)
        spectra = self._put_spectra(set_id, records, layers)
        first = self._take(DirectionTable, len(records))
        rows = []
        for number, (record, own) in enumerate(zip(records, labels, strict=True), first):
            if isinstance(record, DirectionRecord):
                facts: tuple[Any, ...] = (record.rank, record.eigenvalue, record.share, record.gap, None)
            else:
                facts = (None, None, None, None, texts[record.name])
            measured = [getattr(record.quality, name, None) for name in MEASURES]
            details = pack(own, record.quality)
            rows.append((number, spectra[_spectrum(record)], *facts, *_summary(own), *measured, details))
        self._insert(DirectionTable, rows)
        self._put_labels(zip(range(first, first + len(records)), labels, strict=True), texts)

    def _put_layers(self, set_id: int, manifest: Manifest, texts: dict[str, int]) -> dict[str, int]:
        first = self._take(LayerTable, len(manifest.layers))
        numbers = {layer.name: number for number, layer in enumerate(manifest.layers, first)}
        facts = [
            (numbers[each.name], set_id, texts[each.name], each.kind, each.width, each.heads)
            for each in manifest.layers
        ]
        self._insert(LayerTable, facts)
        digests = [(digest, numbers[layer.name]) for layer in manifest.layers for digest in set(layer.digests.values())]
        self._insert(LayerDigestTable, digests)
        return numbers

    def _put_spectra(
        self, set_id: int, records: Sequence[DirectionRecord | CompositeRecord], layers: dict[str, int]
    ) -> dict[tuple[str, str] | None, int]:
        counts = Counter(_spectrum(record) for record in records)
        first = self._take(SpectrumTable, len(counts))
        numbers = {key: number for number, key in enumerate(counts, first)}
        self._insert(SpectrumTable, [
            (numbers[key], set_id, None if key is None else layers[key[0]], None if key is None else key[1], count)
            for key, count in counts.items()
        ])  # fmt: skip
        return numbers

    def _put_labels(self, labelled: Iterable[tuple[int, Sequence[Label]]], texts: dict[str, int]) -> None:
        found = [(number, label) for number, labels in labelled for label in labels]
        self._sources.update(self._known(SourceTable.name, {label.source for _, label in found} - self._sources.keys()))
        new = sorted({label.source for _, label in found} - self._sources.keys())
        numbers = dict(zip(new, range(self._take(SourceTable, len(new)), 2**31), strict=False))
        self._insert(SourceTable, [(number, source) for source, number in numbers.items()])
        self._sources.update(numbers)
        self._insert(LabelTable, [
            (number, texts[label.text], self._sources[label.source], label.confidence, label.worth) for number, label in found
        ])  # fmt: skip

    def relabel(self, name: Name) -> None:
        """Bring what is derived from a direction's labels up to date with people's labels, in every set of the model."""
        said = people_labels(self.connection, name[0], name[1]).get(name[1], [])
        for set_id, number in directions_named(self.connection, DirectionName.parse("#".join(name))):
            before = unpack(
                self.connection.execute(select(DirectionTable.details).where(DirectionTable.id == number)).scalar()
            )
            labels = by_confidence([*(label for label in before.labels if not label.source.startswith(PEOPLE)), *said])
            count, confidence = _summary(labels)
            facts = {"labels": count, "confidence": confidence, "details": pack(labels, before.quality)}
            self.connection.execute(update(DirectionTable).where(DirectionTable.id == number).values(facts))
            self.connection.execute(delete(LabelTable).where(LabelTable.direction_id == number))
            self._put_labels([(number, labels)], self._number_texts([label.text for label in labels]))
            more = SetTable.labels + len(labels) - len(before.labels)
            self.connection.execute(update(SetTable).where(SetTable.id == set_id).values(labels=more))

    def _number_texts(self, texts: Iterable[str]) -> dict[str, int]:
        """Return the numbers of texts; those that are new are put into the table and the full-text index."""
        wanted = dict.fromkeys(texts)
        self._texts.update(self._known(TextTable.text, wanted.keys() - self._texts.keys()))
        new = [text for text in wanted if text not in self._texts]
        numbers = dict(zip(new, range(self._take(TextTable, len(new)), 2**31), strict=False))
        self._insert(TextTable, [(number, text) for text, number in numbers.items()])
        dialects.add_words(self.connection, [(number, words(text)) for text, number in numbers.items()])
        self._texts.update(numbers)
        return self._texts

    def _known(self, column: Any, values: Iterable[str]) -> dict[str, int]:
        wanted = list(values)
        if not wanted:
            return {}
        found = self.connection.execute(select(column, column.class_.id).where(among(column, wanted)))
        return {row[0]: row[1] for row in found}

    def _take(self, table: Any, count: int = 1) -> int:
        """Return the first of so many numbers that no row has."""
        if table not in self._numbers:
            self._numbers[table] = (self.connection.execute(select(func.max(table.id))).scalar() or 0) + 1
        first = self._numbers[table]
        self._numbers[table] += count
        return first

    def _insert(self, table: type[Base], rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows, all columns in the table's order, by the driver itself: with SQLAlchemy's it takes twice as long."""
        if rows:
            columns = [f'"{column.name}"' for column in table.__table__.columns]
            marks = ["%s" if dialects.is_server(self.connection) else "?"] * len(columns)
            statement = f"INSERT INTO {table.__tablename__} ({', '.join(columns)}) VALUES ({', '.join(marks)})"
            self.connection.exec_driver_sql(statement, list(rows))


def _spectrum(record: DirectionRecord | CompositeRecord) -> tuple[str, str] | None:
    return (record.layer, record.recipe.slug) if isinstance(record, DirectionRecord) else None


def _summary(labels: Sequence[Label]) -> tuple[int, float | None]:
    """How many labels there are, and the highest confidence."""
    return len(labels), labels[0].confidence if labels else None


# People's labels


def people_labels(connection: Connection, model_id: str, direction: str | None = None) -> dict[str, list[Label]]:
    """Return what people call the directions of a model, or one of them, by the direction's name."""
    statement = select(PeopleLabelTable.direction, PeopleLabelTable.label).where(PeopleLabelTable.model_id == model_id)
    if direction is not None:
        statement = statement.where(PeopleLabelTable.direction == direction)
    found: dict[str, list[Label]] = {}
    for name, text in connection.execute(statement.order_by(*PEOPLE_KEY)):
        found.setdefault(name, []).append(read_label(text))
    return found


def read_label(text: str) -> Label:
    """Return a label that the catalog keeps as JSON. Raises CatalogError for what is none."""
    try:
        return Label.model_validate_json(text)
    except ValueError as error:
        message = f"the catalog holds a label that is none: {first_problem(error, 'the label')}. {dialects.AGAIN}"
        raise CatalogError(message) from error


def take_labels(
    connection: Connection, labels: Iterable[tuple[Name, Label]], *, newer: bool = True
) -> list[tuple[Name, Label]]:
    """Keep labels of people, without indexing them; with `newer`, only where the same person has said nothing newer. Returns those
    that are new, or differ from what was there.
    """
    changed = []
    for (model_id, direction), label in labels:
        key = {"model_id": model_id, "direction": direction, "text": label.text, "source": label.source}
        own = and_(*(getattr(PeopleLabelTable, name) == value for name, value in key.items()))
        text = label.model_dump_json()
        before = connection.execute(select(PeopleLabelTable.label).where(own)).scalar()
        if before == text or (newer and before is not None and _age(read_label(before)) >= _age(label)):
            continue
        connection.execute(delete(PeopleLabelTable).where(own))
        connection.execute(insert(PeopleLabelTable).values(**key, label=text))
        changed.append(((model_id, direction), label))
    return changed


def waiting(connection: Connection, model_id: str | None = None) -> int:
    """Return how many of people's labels, of a model or of all, are of directions that no set has."""
    statement = select(PeopleLabelTable.model_id, PeopleLabelTable.direction, func.count()).group_by(
        PeopleLabelTable.model_id, PeopleLabelTable.direction
    )
    if model_id is not None:
        statement = statement.where(PeopleLabelTable.model_id == model_id)
    rows = connection.execute(statement).all()
    return sum(
        count for model, name, count in rows if not directions_named(connection, DirectionName.parse(f"{model}#{name}"))
    )


_NAMED = (
    select(SetTable.id, DirectionTable.id)
    .join(SpectrumTable, SpectrumTable.set_id == SetTable.id)
    .join(DirectionTable, DirectionTable.spectrum_id == SpectrumTable.id)
    .order_by(SetTable.created.desc(), SetTable.id.desc())
)


def directions_named(connection: Connection, name: DirectionName | None) -> list[tuple[int, int]]:
    """Return the numbers of the sets of a model and of the direction or composite of that name in them, the newest set first."""
    if name is None:
        return []
    text = select(TextTable.id).where(TextTable.text == (name.composite or name.layer)).scalar_subquery()
    if name.composite is not None:
        statement = _NAMED.where(SpectrumTable.layer_id.is_(None), DirectionTable.name_id == text)
    else:
        layer = and_(LayerTable.id == SpectrumTable.layer_id, LayerTable.name_id == text)
        own = SpectrumTable.recipe == name.recipe, DirectionTable.rank == name.rank
        statement = _NAMED.join(LayerTable, layer).where(*own)
    return [(row[0], row[1]) for row in connection.execute(statement.where(SetTable.model_id == name.model_id))]


# All of it again


def entries(connection: Connection, *conditions: Any) -> Iterator[SetEntry]:
    """Yield the sets of a catalog with their manifests, in catalog order, one in memory at a time."""
    numbers = connection.scalars(select(SetTable.id).where(*conditions).order_by(SetTable.id)).all()
    facts = (
        SetTable.manifest,
        SetTable.location,
        SetTable.digest,
        SetTable.checkpoint_path,
        SetTable.repo,
        SetTable.commit,
    )
    for number in numbers:
        row = dict(connection.execute(select(*facts).where(SetTable.id == number)).mappings().one())
        yield SetEntry(**row | {"manifest": unpack_manifest(row["manifest"])})


def copy(source: Connection, target: Connection, progress: Progress = no_progress) -> None:
    """Index everything that one catalog keeps in another one, which is empty: sets, people's labels, what was bundled."""
    for table in (PeopleLabelTable, BundledTable):
        rows = source.execute(select(table.__table__)).mappings().all()
        if rows:
            target.execute(insert(table), [dict(row) for row in rows])
    total = source.execute(select(func.count()).select_from(SetTable)).scalar_one()
    indexer = Indexer(target)
    for done, entry in enumerate(entries(source), 1):
        indexer.add(entry, take_over=False)
        progress("sets", done, total)


def rebuild(connection: Connection, progress: Progress = no_progress) -> None:
    """Drop all that is derived, and index every set again from its manifest. People's labels stay."""
    kept = {
        "sets": 'id, model_id, location, digest, checkpoint_path, repo, "commit", manifest',
        "people_labels": "model_id, direction, text, source, label",
        "bundled": "digest",
    }
    for table, columns in kept.items():
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE kept_{table} AS SELECT {columns} FROM {table}")
    dialects.drop_tables(connection)
    dialects.create_tables(connection, VERSION)
    for table, columns in kept.items():
        if table != "sets":
            connection.exec_driver_sql(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM kept_{table}")
    numbers = connection.exec_driver_sql("SELECT id FROM kept_sets ORDER BY id").scalars().all()
    indexer = Indexer(connection)
    for done, number in enumerate(numbers, 1):
        row = connection.exec_driver_sql(
            'SELECT manifest, location, digest, checkpoint_path, repo, "commit" FROM kept_sets WHERE id = '
            + str(int(number))
        ).one()
        indexer.add(SetEntry(unpack_manifest(row[0]), *row[1:]), take_over=False)
        progress("sets", done, len(numbers))
    for table in kept:
        connection.exec_driver_sql(f"DROP TABLE kept_{table}")
