"""Names of directions: what they name in a catalog, and near ones where that is nothing."""

import re
from dataclasses import dataclass

from sqlalchemy import Connection

from eigenbank.registry.catalog.database import run
from eigenbank.registry.catalog.search import bare_name
from eigenbank.schemas.errors import UnknownNameError, unknown

NEWEST = "(SELECT id FROM sets WHERE model_id = :model_id ORDER BY created DESC, id DESC LIMIT 1)"
"""The number of a model's newest set."""
_HINT = "Names have the form MODEL_ID#LAYER/RECIPE/RANK, MODEL_ID#composite/NAME or MODEL_ID#lora/NAME."
# A rank has one written form: '03', '+3' and '³' name nothing.
_NAME = re.compile(
    r"([^#]+)#(?:composite/(?P<composite>[^/]+)|(?P<lora>lora/[^/]+)|(?P<layer>.+)/(?P<recipe>[^/]*)/(?P<rank>0|[1-9][0-9]{0,8}))",
    re.DOTALL,
)


@dataclass(frozen=True)
class DirectionName:
    """A direction's full name taken apart; a composite's or LoRA's has `composite` alone."""

    model_id: str
    layer: str = ""
    recipe: str = ""
    rank: int = 0
    composite: str | None = None

    @classmethod
    def parse(cls, text: str) -> "DirectionName | None":
        """Read `MODEL_ID#LAYER/RECIPE/RANK`, `MODEL_ID#composite/NAME` or `MODEL_ID#lora/NAME`; None for what is of no such form."""
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        own = found["lora"] or found["composite"]
        return cls(found[1], found["layer"] or "", found["recipe"] or "", int(found["rank"] or 0), own)


def named(connection: Connection, name: DirectionName | None) -> list[tuple[int, int]]:
    """Return the numbers of the sets of a model and of the direction or composite of that name in them, the newest set first."""
    if name is None:
        return []
    if name.composite is not None:
        own = "p.name_id IS NULL AND d.name_id = (SELECT id FROM texts WHERE text = :composite)"
    else:
        own = "p.name_id = (SELECT id FROM texts WHERE text = :layer) AND p.recipe = :recipe AND d.rank = :rank"
    statement = (
        "SELECT s.id, d.id FROM sets s CROSS JOIN spectra p CROSS JOIN directions d WHERE s.model_id = :model_id "
        f"AND p.set_id = s.id AND d.spectrum_id = p.id AND {own} ORDER BY s.created DESC, s.id DESC"
    )
    return [(row[0], row[1]) for row in run(connection, statement, **vars(name))]


def number_of(connection: Connection, name: DirectionName | None) -> int | None:
    """Return the number of a direction or composite in the newest set of its model."""
    if name is None:
        return None
    newest = run(connection, f"SELECT {NEWEST}", model_id=name.model_id).scalar()
    return next((number for set_id, number in named(connection, name) if set_id == newest), None)


def known_name(connection: Connection, full_id: str) -> tuple[str, str]:
    """The name of a direction that is there. Raises UnknownNameError for one that is not."""
    name = DirectionName.parse(full_id)
    if name is None or number_of(connection, name) is None:
        raise unknown_direction(connection, full_id)
    return name.model_id, full_id.partition("#")[2]


def unknown_direction(connection: Connection, full_id: str) -> UnknownNameError:
    """Return the error for a direction that is not there: for its model, if that is what is missing."""
    name, models = (
        DirectionName.parse(full_id),
        list(run(connection, "SELECT DISTINCT model_id FROM sets ORDER BY model_id").scalars()),
    )
    model_id = full_id.partition("#")[0]
    if model_id not in models:
        if "#" in full_id:
            return unknown(kind="model", name=model_id, known=models, hint=_HINT)
        more = "What has a label is found by `eigenbank search LABEL`."
        return UnknownNameError(f"no direction {full_id[:200]!r}: {_HINT} {more}")
    if name is None:
        return UnknownNameError(f"no direction {full_id[:800]!r}: {_HINT}")
    places = "spectra p CROSS JOIN directions d CROSS JOIN texts t WHERE d.spectrum_id = p.id AND t.id = coalesce(p.name_id, d.name_id)"
    statement = f"SELECT t.text, p.recipe, max(d.rank) FROM {places} AND p.set_id = {NEWEST} GROUP BY t.text, p.recipe"
    rows = run(connection, statement, model_id=model_id).all()
    if name.composite is not None:
        known = [f"{model_id}#{bare_name(text)}" for text, recipe, _ in rows if recipe is None]
        return unknown(kind="composite", name=full_id, known=known, hint=_HINT)
    last = {(layer, recipe): rank for layer, recipe, rank in rows if recipe is not None}
    if (name.layer, name.recipe) in last:  # only the rank is wrong
        nearest = f"{full_id.rpartition('/')[0]}/{last[name.layer, name.recipe]}"
        return UnknownNameError(f"no direction {full_id!r}: did you mean {nearest!r}? That is the last rank there.")
    known = [f"{model_id}#{layer}/{recipe}/{name.rank}" for layer, recipe in last]
    return unknown(kind="direction", name=full_id, known=known, hint=_HINT)
