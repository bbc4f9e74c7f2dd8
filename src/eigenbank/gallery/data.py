"""What the page reads: sets as plain data, short, since a browser fetches all of it. No markup is made here.

Repeated things are kept once, in tables, and named by their place in it; numbers keep six digits.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eigenbank.gallery.pictures import Cell
from eigenbank.gallery.words import MEASURES, measures, recipe_words, seeds_words, source_kind, source_words
from eigenbank.registry.catalog import SetRow
from eigenbank.schemas import CompositeRecord, DirectionRecord, Label, Layer, Manifest, Quality

Slider = DirectionRecord | CompositeRecord
PICKS = 4
"""How many strips a checkpoint's card shows."""
FIRST_CARDS = 64_000
"""Bytes of cards that come with the page; the others are read when they are asked for."""
MORE_CARDS = 128_000
"""Bytes of a file of further cards. A card that is larger has one of its own."""
CHOICES = 200
"""Most values a filter offers."""
HINTS = 24
"""Labels named to those who asked for what there is not."""


@dataclass(frozen=True)
class Shown:
    """A set that is shown. `newest` says whether the catalog means it by the model id alone."""

    row: SetRow
    manifest: Manifest
    newest: bool

    @property
    def name(self) -> str:
        """What the page calls it: the model id, and the revision where another set has the plain id."""
        checkpoint = self.manifest.checkpoint
        return checkpoint.model_id if self.newest else f"{checkpoint.model_id}@{checkpoint.revision or 'local'}"

    @property
    def slug(self) -> str:
        """Its file and folder name: safe anywhere, different for every set."""
        checkpoint = self.manifest.checkpoint
        digest = hashlib.sha256(f"{checkpoint.model_id}@{checkpoint.revision or ''}".encode()).hexdigest()
        plain = re.sub(r"[^a-z0-9]+", "-", checkpoint.model_id.lower()).strip("-")
        return f"{plain[:60]}-{digest[:8]}".lstrip("-")


@dataclass
class Table:
    """Different things, each once, by their place."""

    items: list[Any] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def place(self, item: Any) -> int:
        """The place of an item, added if it is new."""
        key = item if isinstance(item, str) else json.dumps(item)
        if key not in self.places:
            self.places[key] = len(self.items)
            self.items.append(item)
        return self.places[key]


def script(name: str, value: Any) -> str:
    """A file of data as a script, since a page from a disk may read no other: `eigenbank.receive(NAME, VALUE);`."""
    text = json.dumps([name, value], ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f"eigenbank.receive(...{text});\n"


def set_data(shown: Shown, cells: Mapping[int, Cell]) -> dict[str, Any]:
    """All of a set's directions and composites. `cells`: those that have a picture, by their number in the manifest."""
    manifest = shown.manifest
    layers = {layer.name: number for number, layer in enumerate(manifest.layers)}
    recipes, sources, protocols, previews = Table(), Table(), Table(), Table()
    words: dict[str, Any] = {}
    directions = []
    for number, record in enumerate(manifest.directions):
        recipe = record.recipe.slug
        if recipe not in words:
            words[recipe] = {"slug": recipe, **recipe_words(record.recipe), "exportable": _exportable(record)}
        directions.append(
            [
                layers[record.layer],
                recipes.place(recipe),
                record.rank,
                _short(record.eigenvalue),
                _short(record.share),
                _short(record.gap),
                [_label(label, sources, protocols) for label in record.labels],
                _quality(record.quality, sources, protocols),
                _preview(record, cells.get(number), previews),
            ]
        )
    numbers = {record.id: number for number, record in enumerate(manifest.directions)}
    composites = [
        [
            composite.name,
            [[numbers[part.direction], _short(part.weight)] for part in composite.parts],
            all(_exportable(manifest.directions[numbers[part.direction]]) for part in composite.parts),
            [_label(label, sources, protocols) for label in composite.labels],
            _quality(composite.quality, sources, protocols),
            _preview(composite, cells.get(len(numbers) + number), previews),
        ]
        for number, composite in enumerate(manifest.composites)
    ]
    return {
        "layers": [_layer(layer) for layer in manifest.layers],
        "recipes": [words[slug] for slug in recipes.items],
        "sources": _sources(sources.items),
        "protocols": protocols.items,
        "previews": previews.items,
        "directions": directions,
        "composites": composites,
    }


def card_data(shown: Shown, cells: Mapping[int, Cell]) -> dict[str, Any]:
    """A set as the front page knows it: what to filter and search it by, and a few strips."""
    row, manifest = shown.row, shown.manifest
    labels: dict[str, list[Any]] = {}
    named = 0
    sources: set[str] = set()
    confidence: float | None = None
    for record in manifest.sliders:
        named += bool(record.labels)
        for label in record.labels:
            entry = labels.setdefault(label.text, [label.text, 0])
            entry[1] += 1
            sources.add(source_kind(label.source))
            if label.confidence is not None:
                confidence = max(confidence or 0.0, label.confidence)
    recipes = Counter(record.recipe.slug for record in manifest.directions)
    return {
        "slug": shown.slug,
        "name": shown.name,
        "model": manifest.checkpoint.model_id,
        "revision": manifest.checkpoint.revision,
        "newest": shown.newest,
        "denoiser": manifest.checkpoint.denoiser,
        "licence": manifest.checkpoint.licence,
        "setLicence": manifest.licence,
        "builder": manifest.builder,
        "created": manifest.created.date().isoformat(),
        "repo": row.repo,
        "commit": row.commit,
        "directions": len(manifest.directions),
        "composites": len(manifest.composites),
        "bare": [each.name for each in manifest.composites if not each.labels],
        "named": named,
        "pictures": len(cells),
        "layers": [layer.name for layer in manifest.layers],
        "kinds": sorted({layer.kind for layer in manifest.layers}),
        "recipes": list(recipes),
        "sources": sorted(sources),
        "confidence": _short(confidence),
        "labels": list(labels.values()),
        "picks": [_pick(manifest, number, cells[number]) for number in _picks(manifest, cells)],
    }


def in_order(cards: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cards in the order the front page shows them unless asked otherwise: the most named first."""
    return sorted(cards, key=lambda card: (-card["named"], -card["directions"]))


def pages(cards: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cards in their order, in pieces: the first for the index, which may be empty, each other for a file of its own."""
    piece: list[dict[str, Any]] = []
    room, first = FIRST_CARDS, True
    for card in cards:
        size = len(script("", card).encode())
        if size > room and (piece or first):
            yield piece
            piece, room, first = [], MORE_CARDS, False
        piece.append(card)
        room -= size
    yield piece


def index_data(
    cards: Sequence[dict[str, Any]], first: Sequence[dict[str, Any]], more: int, version: str
) -> dict[str, Any]:
    """What the page reads first, however many `cards` there are: what sums them up, and the `first` of them.

    `more` is the number of files that hold the others.
    """
    labels: Counter[str] = Counter()
    for card in cards:
        labels.update(dict(card["labels"]))
    shown = next((card for card in cards if card["picks"]), None)
    return {
        "eigenbank": version,
        "measures": measures(),
        "sourceKinds": _KINDS,
        "total": {
            "sets": len(cards),
            **{key: sum(card[key] for card in cards) for key in ("directions", "composites", "named")},
        },
        "hero": shown and {"slug": shown["slug"], "name": shown["name"], "pick": shown["picks"][0]},
        "choices": {
            "family": sorted({card["denoiser"] for card in cards})[:CHOICES],
            **{
                name: sorted({value for card in cards for value in card[key]})[:CHOICES]
                for name, key in _CHOICES.items()
            },
        },
        "confidence": any(card["confidence"] is not None for card in cards),
        "hints": labels.most_common(HINTS),
        "more": more,
        "sets": list(first),
    }


_CHOICES = {"kind": "kinds", "recipe": "recipes", "source": "sources"}
_KINDS = {"human": "people", "attribute-model": "attribute models", "statistics": "image statistics", "clip": "CLIP"}


def worth(record: Slider) -> float:
    """How good a slider the best of the labels promises; -1 without a label."""
    return max((label.worth for label in record.labels), default=-1.0)


def _picks(manifest: Manifest, cells: Mapping[int, Cell]) -> list[int]:
    """The sliders that stand for a set: the best one of each label, then unlabelled directions by their share."""
    sliders = manifest.sliders
    order = sorted(cells, key=lambda number: worth(sliders[number]), reverse=True)
    chosen: dict[str, int] = {}
    for number in order:
        labels = sliders[number].labels
        if labels:
            chosen.setdefault(labels[0].text.casefold(), number)
    bare = [number for number in order if number < len(manifest.directions) and not sliders[number].labels]
    bare.sort(key=lambda number: -manifest.directions[number].share)
    return [*chosen.values(), *bare][:PICKS]


def _pick(manifest: Manifest, number: int, cell: Cell) -> dict[str, Any]:
    record = manifest.sliders[number]
    assert record.preview is not None
    return {
        "number": number,
        "id": record.id,
        "label": record.labels[0].text if record.labels else None,
        "polarity": record.labels[0].polarity if record.labels else 1,
        "preview": _grid(record, cell),
    }


def _layer(layer: Layer) -> dict[str, Any]:
    digest = layer.digests.get("float32")
    return {
        "name": layer.name,
        "kind": layer.kind,
        "width": layer.width,
        "heads": layer.heads,
        "digest": digest[:16] if digest else None,
    }


def _label(label: Label, sources: Table, protocols: Table) -> list[Any]:
    evidence = label.evidence
    found: list[Any] = [label.text, label.polarity, _short(label.confidence), sources.place(label.source)]
    found += [label.created.date().isoformat(), label.note or None]
    if evidence is not None:
        numbers = (evidence.effect, evidence.selectivity, evidence.consistency, evidence.asymmetry, evidence.null)
        protocol = protocols.place([_short(evidence.scale), seeds_words(evidence.seeds), evidence.steps])
        runner_up = [evidence.runner_up, _short(evidence.runner_up_effect)]
        found.append([*(_short(number) for number in numbers), *runner_up, protocol])
    return found


def _quality(quality: Quality | None, sources: Table, protocols: Table) -> list[Any] | None:
    if quality is None:
        return None
    protocol = protocols.place([_short(quality.scale), seeds_words(quality.seeds), quality.steps])
    numbers = [getattr(quality, measure.key) for measure in MEASURES]
    span = None if quality.recommended_range is None else list(quality.recommended_range)
    return [numbers, span, sources.place(quality.source), protocol]


def _preview(record: Slider, cell: Cell | None, previews: Table) -> int | None:
    return None if cell is None else previews.place(_grid(record, cell))


def _grid(record: Slider, cell: Cell) -> dict[str, Any]:
    assert record.preview is not None
    return {
        "seeds": list(record.preview.seeds),
        "scales": list(record.preview.scales),
        "steps": record.preview.steps,
        "cell": [cell.width, cell.height],
    }


def _sources(sources: Sequence[str]) -> list[dict[str, str]]:
    return [{"kind": source_kind(source), "words": source_words(source)} for source in sources]


def _exportable(record: DirectionRecord) -> bool:
    """Whether a LoRA can carry the directions of a recipe: added at a block's output, in every step."""
    return record.recipe.site == "block-output" and record.recipe.window.whole


def _short(value: float | None) -> float | None:
    """A number with six digits; whole ones without a point."""
    if value is None:
        return None
    short = float(f"{value:.6g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short
