"""Questions about sets and names. Every function works in the caller's transaction."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from eigenbank.registry.catalog.dialects import among, texts_with
from eigenbank.registry.catalog.index import PEOPLE, directions_named, moment, unpack_manifest
from eigenbank.registry.catalog.rows import COMPOSITE, DirectionName, DirectionRow, SetRow
from eigenbank.registry.catalog.search import directions, label_tests
from eigenbank.registry.catalog.tables import (
    DirectionTable,
    LabelTable,
    LayerDigestTable,
    LayerTable,
    SetTable,
    SpectrumTable,
    TextTable,
)
from eigenbank.registry.ranking import Query, words
from eigenbank.schemas import Manifest
from eigenbank.schemas.errors import ReplaceError, UnknownNameError, unknown

_HINT = "Names have the form MODEL_ID#LAYER/RECIPE/RANK or MODEL_ID#composite/NAME."
_MOST_TEXTS = 100_000
"""So many texts are looked through for near matches."""

_SETS = select(
    SetTable.id.label("number"),
    SetTable.model_id,
    SetTable.revision,
    SetTable.location,
    SetTable.digest,
    SetTable.checkpoint_path,
    SetTable.created,
    SetTable.directions,
    SetTable.labels,
    SetTable.repo,
    SetTable.commit,
    SetTable.denoiser,
    SetTable.licence,
    SetTable.builder,
)
_NEWEST_FIRST = SetTable.created.desc(), SetTable.id.desc()


def _rows(connection: Connection, statement: Any) -> list[SetRow]:
    found = [dict(row) for row in connection.execute(statement).mappings()]
    return [SetRow(**row | {"revision": row["revision"] or None, "created": moment(row["created"])}) for row in found]


def sets(connection: Connection, *conditions: Any) -> list[SetRow]:
    """Return the sets that meet the conditions, by model id, the newest first within one."""
    return _rows(connection, _SETS.where(*conditions).order_by(SetTable.model_id, *_NEWEST_FIRST))


def newest_first(connection: Connection, *conditions: Any, limit: int | None = None) -> list[SetRow]:
    """Return the sets that meet the conditions, the newest first."""
    return _rows(connection, _SETS.where(*conditions).order_by(*_NEWEST_FIRST).limit(limit))


def sets_with_layers(connection: Connection, digests: Iterable[str]) -> list[tuple[SetRow, int]]:
    """Return the sets that have a layer with one of the digests, and how many of their layers do: the most first, then the newest."""
    counts = (
        select(LayerTable.set_id, func.count(LayerTable.id.distinct()))
        .join(LayerDigestTable, LayerDigestTable.layer_id == LayerTable.id)
        .where(among(LayerDigestTable.digest, digests))
        .group_by(LayerTable.set_id)
    )
    found = [
        (newest_first(connection, SetTable.id == number)[0], count) for number, count in connection.execute(counts)
    ]
    return sorted(found, key=lambda pair: (-pair[1], -pair[0].created.timestamp(), pair[0].model_id))


def newest_id(model_id: str) -> Any:
    """Select the number of a model's newest set."""
    return select(SetTable.id).where(SetTable.model_id == model_id).order_by(*_NEWEST_FIRST).limit(1).scalar_subquery()


def model_ids(connection: Connection) -> list[str]:
    """Return the models that have a set, sorted."""
    return list(connection.scalars(select(SetTable.model_id).distinct().order_by(SetTable.model_id)))


def layer_names(connection: Connection, model_id: str) -> list[str]:
    """Return the layers of a model's newest set, in the set's order."""
    statement = select(TextTable.text).join(LayerTable, LayerTable.name_id == TextTable.id)
    return list(connection.scalars(statement.where(LayerTable.set_id == newest_id(model_id)).order_by(LayerTable.id)))


def recipe_slugs(connection: Connection, model_id: str | None) -> list[str]:
    """Return the recipes of a model's newest set, or of all sets, sorted."""
    statement = select(SpectrumTable.recipe).where(SpectrumTable.recipe.is_not(None)).distinct()
    if model_id is not None:
        statement = statement.where(SpectrumTable.set_id == newest_id(model_id))
    return sorted(slug for slug in connection.scalars(statement) if slug)


def _of_set(statement: Any, set_id: Any) -> Any:
    """Limit a statement on labels to a set's."""
    statement = statement.join(DirectionTable, DirectionTable.id == LabelTable.direction_id)
    statement = statement.join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
    return statement.where(SpectrumTable.set_id == set_id)


def label_texts(connection: Connection, model_id: str | None) -> list[str]:
    """Return the different label texts of a model's newest set, or of all sets, sorted."""
    statement = select(TextTable.text).order_by(TextTable.text)
    if model_id is None:
        used = select(LabelTable.text_id).where(LabelTable.text_id == TextTable.id).exists()
        return list(connection.scalars(statement.where(used)))
    own = _of_set(select(LabelTable.text_id).distinct(), newest_id(model_id))
    return list(connection.scalars(statement.where(TextTable.id.in_(own))))


def label_counts(
    connection: Connection, model_id: str | None, source: str | None
) -> list[tuple[str, int, float | None]]:
    """Return the label texts with how many directions have each and the highest confidence, the most frequent first."""
    statement = (
        select(TextTable.text, func.count(LabelTable.direction_id.distinct()), func.max(LabelTable.confidence))
        .join(LabelTable, LabelTable.text_id == TextTable.id)
        .where(*(condition(column) for column, condition in label_tests(connection, source)))
        .group_by(TextTable.id, TextTable.text)
    )
    if model_id is not None:
        if not newest_first(connection, SetTable.model_id == model_id, limit=1):
            raise unknown(kind="model", name=model_id[:200], known=model_ids(connection))
        statement = _of_set(statement, newest_id(model_id))
    return sorted(
        ((row[0], row[1], row[2]) for row in connection.execute(statement)), key=lambda row: (-row[1], row[0])
    )


# Directions by their names


def direction_number(connection: Connection, name: DirectionName | None) -> int | None:
    """Return the number of a direction or composite in the newest set of its model."""
    if name is None:
        return None
    newest = connection.execute(select(newest_id(name.model_id))).scalar()
    return next((number for set_id, number in directions_named(connection, name) if set_id == newest), None)


def get_direction(connection: Connection, name: DirectionName) -> DirectionRow | None:
    """Return a direction or composite of the newest set of its model."""
    number = direction_number(connection, name)
    return None if number is None else directions(connection, [number])[0]


def unknown_direction(connection: Connection, full_id: str) -> UnknownNameError:
    """Return the error for a direction that is not there: for its model, if that is what is missing."""
    name = DirectionName.parse(full_id)
    models = model_ids(connection)
    model_id = full_id.partition("#")[0]
    if model_id not in models:
        if "#" in full_id:
            return unknown(kind="model", name=model_id[:200], known=models, hint=_HINT)
        more = "With --model, the part behind the # is enough. What has a label is found by `eigenbank search LABEL`."
        return UnknownNameError(f"no direction {full_id[:200]!r}: {_HINT} {more}")
    if name is None:
        return UnknownNameError(f"no direction {full_id[:800]!r}: {_HINT}")
    own = SpectrumTable.set_id == newest_id(name.model_id)
    spectra = select(TextTable.text, SpectrumTable.recipe, func.max(DirectionTable.rank))
    spectra = spectra.join(LayerTable, LayerTable.name_id == TextTable.id)
    spectra = spectra.join(SpectrumTable, SpectrumTable.layer_id == LayerTable.id)
    spectra = spectra.join(DirectionTable, DirectionTable.spectrum_id == SpectrumTable.id)
    last = {
        (row[0], row[1]): row[2]
        for row in connection.execute(spectra.where(own).group_by(TextTable.text, SpectrumTable.recipe))
    }
    if name.composite is not None:
        names = select(TextTable.text).join(DirectionTable, DirectionTable.name_id == TextTable.id)
        names = names.join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id).where(own)
        known = [f"{model_id}#{COMPOSITE}{composite}" for composite in connection.scalars(names)]
        return unknown(kind="composite", name=full_id[:800], known=known, hint=_HINT)
    if (name.layer, name.recipe) in last:  # only the rank is wrong
        near = f"{full_id.rpartition('/')[0]}/{last[name.layer, name.recipe]}"
        return UnknownNameError(f"no direction {full_id!r}: did you mean {near!r}? That is the last rank there.")
    known = [f"{model_id}#{layer}/{recipe}/{name.rank}" for layer, recipe in last]
    return unknown(kind="direction", name=full_id[:800], known=known, hint=_HINT)


def near(connection: Connection, text: str) -> dict[str, list[str]]:
    """Return the words of a query that nothing begins with, each with the nearest words of labels, layers and models."""
    used = (LabelTable.text_id, LayerTable.name_id, DirectionTable.name_id, SetTable.name_id)
    is_used = [select(column).where(column == TextTable.id).exists() for column in used]
    statement = select(TextTable.text).where(is_used[0] | is_used[1] | is_used[2] | is_used[3])
    lost = []
    for term in Query.parse(text).terms:
        for word in term.words[:100]:
            holding = texts_with(connection, [word], prefix=True)
            if (
                not holding
                or connection.execute(statement.where(among(TextTable.id, holding)).limit(1)).first() is None
            ):
                lost.append(word)
    if not lost:
        return {}
    known = {word for found in connection.scalars(statement.limit(_MOST_TEXTS)) for word in words(found)}
    return {word[:80]: difflib.get_close_matches(word[:80], known, n=3, cutoff=0.6) for word in dict.fromkeys(lost)}


# What would be lost with a set


@dataclass(frozen=True)
class Overwritten:
    """How much a set has that another in its place would lack; false where that is nothing. People's labels are never lost."""

    labels: int = 0
    composites: int = 0
    previews: int = 0

    def __bool__(self) -> bool:
        return bool(self.labels or self.composites or self.previews)

    def __str__(self) -> str:
        counts = (("label{} by labelers", self.labels), ("composite{}", self.composites), ("preview{}", self.previews))
        found = [f"{count:,} {what.format('' if count == 1 else 's')}" for what, count in counts if count]
        return " and ".join(part for part in (", ".join(found[:-1]), *found[-1:]) if part)


def overwritten(connection: Connection, model_id: str, revision: str | None, new: Manifest | None) -> Overwritten:
    """Return what the catalog's set of a checkpoint has that `new` lacks; None is a set without labels, composites and previews."""
    own = SetTable.model_id == model_id, SetTable.revision == (revision or "")
    packed = connection.execute(select(SetTable.manifest).where(*own)).scalar()
    if packed is None:
        return Overwritten()
    former, records = unpack_manifest(packed), () if new is None else new.sliders
    named = {(record.id, label.text, label.source) for record in records for label in record.labels}
    pictured = {record.id for record in records if record.preview is not None}
    return Overwritten(
        labels=sum(
            not label.source.startswith(PEOPLE) and (record.id, label.text, label.source) not in named
            for record in former.sliders
            for label in record.labels
        ),
        composites=len({record.id for record in former.composites} - {record.id for record in records}),
        previews=len({record.id for record in former.sliders if record.preview is not None} - pictured),
    )


def check_overwrite(connection: Connection, model_id: str, revision: str | None, new: Manifest | None) -> None:
    """Raise ReplaceError where the catalog's set of a checkpoint has what `new` in its place would lack."""
    lost = overwritten(connection, model_id, revision, new)
    if lost:
        (row,) = newest_first(connection, SetTable.model_id == model_id, SetTable.revision == (revision or ""))
        problem = f"the catalog's set of {model_id}, at {row.location}, has {lost} that the new one lacks and would be replaced by it"
        advice = "Build the new one under another name, as with --model-id me/middle, or give --replace"
        raise ReplaceError(problem, advice=advice)
