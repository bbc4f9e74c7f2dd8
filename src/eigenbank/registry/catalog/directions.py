"""A direction as the catalog knows it: its name, its row, and its labels and quality, which are kept compressed."""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection

from eigenbank.registry.catalog.database import holding, run
from eigenbank.schemas import Label, Quality
from eigenbank.schemas.errors import UnknownNameError, unknown

COMPOSITE = "composite/"
"""What the name of a composite begins with."""
Document = dict[str, Any]
"""A manifest, or a part of one, as plain JSON."""
NEWEST = "(SELECT id FROM sets WHERE model_id = :model_id ORDER BY created DESC, id DESC LIMIT 1)"
"""The number of a model's newest set."""
_HINT = "Names have the form MODEL_ID#LAYER/RECIPE/RANK or MODEL_ID#composite/NAME."
# A rank has one written form: '03', '+3' and '³' name nothing.
_NAME = re.compile(
    r"([^#]+)#(?:composite/(?P<composite>[^/]+)|(?P<layer>.+)/(?P<recipe>[^/]*)/(?P<rank>0|[1-9][0-9]{0,8}))", re.DOTALL
)


@dataclass(frozen=True)
class DirectionName:
    """A direction's full name taken apart; a composite's has `composite` alone."""

    model_id: str
    layer: str = ""
    recipe: str = ""
    rank: int = 0
    composite: str | None = None

    @classmethod
    def parse(cls, text: str) -> "DirectionName | None":
        """Read `MODEL_ID#LAYER/RECIPE/RANK` or `MODEL_ID#composite/NAME`; None for what is of neither form."""
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        return cls(found[1], found["layer"] or "", found["recipe"] or "", int(found["rank"] or 0), found["composite"])


@dataclass(frozen=True)
class DirectionRow:
    """A direction or composite with everything the catalog knows of it. A composite has its name for `composite`, and None
    for layer, kind, width, recipe, rank, eigenvalue, share and gap.
    """

    model_id: str
    revision: str | None
    location: str
    layer: str | None
    kind: str | None
    width: int | None
    recipe: str | None
    rank: int | None
    eigenvalue: float | None
    share: float | None
    gap: float | None
    composite: str | None
    details: bytes | None
    """Labels and quality, compressed: read when they are asked for."""

    @cached_property
    def _known(self) -> Document:
        return unpack(self.details)

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """The labels, the most confident first, those without a confidence last. Raises CatalogError for what is damaged."""
        with holding("labels of a direction"):
            return tuple(map(Label.model_validate, self._known["labels"]))

    @cached_property
    def quality(self) -> Quality | None:
        """What was measured of it as a slider, None for nothing. Raises CatalogError for what is damaged."""
        found = self._known["quality"]
        with holding("a direction's quality"):
            return None if found is None else Quality.model_validate(found)

    @property
    def label_texts(self) -> list[str]:
        """The labels' texts, the most confident first."""
        return [label["text"] for label in self._known["labels"]]

    @property
    def confidence(self) -> float | None:
        """The highest confidence of any label; None where none says one."""
        labels = self._known["labels"]
        return labels[0]["confidence"] if labels else None

    @property
    def name(self) -> str:
        """The name within its model, `LAYER/RECIPE/RANK` or `composite/NAME`."""
        return f"{self.layer}/{self.recipe}/{self.rank}" if self.composite is None else f"{COMPOSITE}{self.composite}"

    @property
    def id(self) -> str:
        """The full name: `MODEL_ID#`, and the name within the model."""
        return f"{self.model_id}#{self.name}"


def read(connection: Connection, numbers: Sequence[int]) -> list[DirectionRow]:
    """Return directions in the order of the numbers given."""
    statement = (
        "SELECT d.id, s.model_id, nullif(s.revision, ''), s.location, layer.text, p.kind, p.width, p.recipe, d.rank, d.eigenvalue, "
        "d.share, d.gap, composite.text, d.details FROM directions d JOIN spectra p ON p.id = d.spectrum_id "
        "JOIN sets s ON s.id = p.set_id LEFT JOIN texts layer ON layer.id = p.name_id "
        "LEFT JOIN texts composite ON composite.id = d.name_id WHERE d.id IN :numbers*"
    )
    rows = {row[0]: DirectionRow(*row[1:]) for row in run(connection, statement, numbers=list(numbers))}
    return [rows[number] for number in numbers]


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
            return unknown(kind="model", name=model_id[:200], known=models, hint=_HINT)
        more = "With --model, the part behind the # is enough. What has a label is found by `eigenbank search LABEL`."
        return UnknownNameError(f"no direction {full_id[:200]!r}: {_HINT} {more}")
    if name is None:
        return UnknownNameError(f"no direction {full_id[:800]!r}: {_HINT}")
    places = "spectra p CROSS JOIN directions d CROSS JOIN texts t WHERE d.spectrum_id = p.id AND t.id = coalesce(p.name_id, d.name_id)"
    statement = f"SELECT t.text, p.recipe, max(d.rank) FROM {places} AND p.set_id = {NEWEST} GROUP BY t.text, p.recipe"
    rows = run(connection, statement, model_id=model_id).all()
    if name.composite is not None:
        known = [f"{model_id}#{COMPOSITE}{text}" for text, recipe, _ in rows if recipe is None]
        return unknown(kind="composite", name=full_id[:800], known=known, hint=_HINT)
    last = {(layer, recipe): rank for layer, recipe, rank in rows if recipe is not None}
    if (name.layer, name.recipe) in last:  # only the rank is wrong
        nearest = f"{full_id.rpartition('/')[0]}/{last[name.layer, name.recipe]}"
        return UnknownNameError(f"no direction {full_id!r}: did you mean {nearest!r}? That is the last rank there.")
    known = [f"{model_id}#{layer}/{recipe}/{name.rank}" for layer, recipe in last]
    return unknown(kind="direction", name=full_id[:800], known=known, hint=_HINT)


# Labels and quality, compressed

_LIKELY = (
    b'"seeds":[200,201,202,203,204,205,206,207,208,209,210],"steps":10},"note":null,"created":"2026-01-01T00:00:00Z"},{"text":"'
    b'","polarity":-1,"confidence":1.0,"source":"human:","source":"clip:openai/clip-vit-large-patch14@","source":"statistics",'
    b'"evidence":null,"recommended_range":[-1.0,1.0],"locality":0.,"drift":0.,"scale":0.5,"quality":{"source":"attribute-model:",'
    b'"effect":0.,"selectivity":1.0,"consistency":1.0,"linearity":0.,"created":"2026-11-2T1:00:00Z"}],{"labels":[{"text":"",'
    b'"polarity":1,"confidence":0.,"source":"attribute-model:","evidence":{"effect":1.,"selectivity":0.,"consistency":1.0,'
    b'"asymmetry":0.,"null":0.,"runner_up":"","runner_up_effect":-0.,"scale":1.0,"seeds":[100,101,102,103,104,105,106,107,108,109,'
    b'110,111,112,113,114,115],"steps":20}'
)
"""What details are likely to hold: with it they take half the room. A change of it is a change of `tables.VERSION`."""
_COMPRESSOR = zlib.compressobj(3, zlib.DEFLATED, -12, 4, zlib.Z_DEFAULT_STRATEGY, _LIKELY)
"""Copied for each direction. A small window and little memory: setting them up would take longer than the work."""
_MAX_DETAILS = 64 * 2**20


def pack(labels: Sequence[Document], quality: Document | None) -> bytes | None:
    """Compress what is kept with a direction; None for nothing."""
    if not labels and quality is None:
        return None
    compressor = _COMPRESSOR.copy()
    return compressor.compress(to_json({"labels": labels, "quality": quality})) + compressor.flush()


def unpack(packed: bytes | None) -> Document:
    """Return what was packed: `labels` and `quality`. Raises CatalogError for what is damaged."""
    if packed is None:
        return {"labels": [], "quality": None}
    with holding("labels of a direction"):
        found: Document = json.loads(zlib.decompressobj(-12, _LIKELY).decompress(packed, _MAX_DETAILS))
        return found
