"""Names that are not there, and those that are near them."""

import difflib

from sqlalchemy import Connection, func, select

from eigenbank.registry.catalog import fts, read
from eigenbank.registry.catalog.content import COMPOSITE
from eigenbank.registry.catalog.models import (
    CheckpointTable,
    DirectionTable,
    LayerTable,
    NameTable,
    RecipeTable,
    SpectrumTable,
    TextTable,
)
from eigenbank.registry.catalog.rows import CompositeName, parse_name
from eigenbank.registry.catalog.words import MAX_TERMS, MAX_WORD, Term, parse, split
from eigenbank.schemas.errors import UnknownNameError, unknown

_HINT = "Names have the form MODEL_ID#LAYER/RECIPE/RANK or MODEL_ID#composite/NAME."
_MOST_TEXTS = 100_000
"""So many texts are looked through for near matches."""


def unknown_model(connection: Connection, model_id: str) -> UnknownNameError:
    """Return the error for a model that is not there."""
    models = read.strings(connection, select(CheckpointTable.model_id).distinct())
    return unknown(kind="model", name=model_id[:200], known=models)


def unknown_direction(connection: Connection, full_id: str) -> UnknownNameError:
    """Return the error for a direction that is not there: for its model, if that is what is missing."""
    name = parse_name(full_id)
    models = read.strings(connection, select(CheckpointTable.model_id).distinct())
    if name is None or name.model_id not in models:
        model_id = full_id.partition("#")[0]
        if "#" not in full_id and model_id not in models:
            more = (
                "With --model, the part behind the # is enough. What has a label is found by `eigenbank search LABEL`."
            )
            return UnknownNameError(f"no direction {full_id[:200]!r}: {_HINT} {more}")
        if model_id not in models:
            return unknown(kind="model", name=model_id[:200], known=models, hint=_HINT)
        return UnknownNameError(f"no direction {full_id[:800]!r}: {_HINT}")
    composites = [f"{name.model_id}#{COMPOSITE}{one}" for one in read.composite_names(connection, name.model_id)]
    if isinstance(name, CompositeName):
        return unknown(kind="composite", name=full_id[:800], known=composites, hint=_HINT)
    near = select(NameTable.name, RecipeTable.slug).where(
        LayerTable.set_id == read.newest_set_id(name.model_id).scalar_subquery(),
        NameTable.id == LayerTable.name_id,
        SpectrumTable.layer_id == LayerTable.id,
        RecipeTable.id == SpectrumTable.recipe_id,
    )
    known = [f"{name.model_id}#{layer}/{slug}/{name.rank}" for layer, slug in connection.execute(near)]
    if full_id in known:  # only the rank is wrong
        ranks = (
            select(func.max(DirectionTable.rank))
            .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
            .join(RecipeTable, RecipeTable.id == SpectrumTable.recipe_id)
            .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
            .join(NameTable, NameTable.id == LayerTable.name_id)
            .where(
                LayerTable.set_id == read.newest_set_id(name.model_id).scalar_subquery(),
                NameTable.name == name.layer,
                RecipeTable.slug == name.recipe,
            )
        )
        last = connection.execute(ranks).scalar()
        stem = full_id.rpartition("/")[0]
        return UnknownNameError(f"no direction {full_id!r}: did you mean '{stem}/{last}'? That is the last rank there.")
    return unknown(kind="direction", name=full_id[:800], known=known, hint=_HINT)


def near(connection: Connection, text: str) -> dict[str, list[str]]:
    """Return the words of a query that nothing begins with, each with the nearest words of labels, layers and models."""
    kinds: tuple[fts.Kind, ...] = ("texts", "names", "models")
    lost: list[str] = []
    for term in parse(text)[:MAX_TERMS]:
        for word in term.words[:MAX_TERMS]:
            whole = Term((word,), prefix=term.prefix)
            short = len(word) <= MAX_WORD
            if not (short and any(fts.having(connection, [(kind, whole, True) for kind in kinds]))):
                lost.append(word)
    if not lost:
        return {}
    known: set[str] = set()
    for column in (TextTable.text, NameTable.name, CheckpointTable.model_id):
        for found in read.strings(connection, select(column).distinct().limit(_MOST_TEXTS)):
            known.update(split(found))
    return {word[:80]: difflib.get_close_matches(word[:80], known, n=3, cutoff=0.6) for word in dict.fromkeys(lost)}
