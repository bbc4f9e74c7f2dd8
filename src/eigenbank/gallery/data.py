"""Turn direction sets into the data that the gallery's page reads: no markup, and short, since a browser fetches it.

Repeated values are stored once, in tables, and referred to by position. Numbers keep six digits. Labels come with their words
and their worth, so that the page searches by the rules of `eigenbank.registry.ranking`.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eigenbank.gallery.words import MEASURES, recipe_words, seeds_words, source_words
from eigenbank.registry.catalog import SetRow
from eigenbank.registry.ranking import UNSPACED, words
from eigenbank.registry.sets.card import WITHOUT_PROMPT
from eigenbank.schemas import DirectionRecord, Evidence, Label, Layer, Manifest, Quality, SliderRecord

PICKS = 4
"""How many strips a checkpoint's card shows."""
FIRST_CARDS = 64_000
"""Bytes of cards that come with the page; the others are loaded on demand."""
MORE_CARDS = 128_000
"""Bytes of a file of further cards. A larger card gets a file of its own."""
CHOICES = 200
"""Most values a filter offers."""
HINTS = 24
"""How many labels to suggest where a search finds nothing."""


@dataclass(frozen=True)
class Cell:
    """The size of one picture of a preview's grid, in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class GallerySet:
    """A set in the gallery. `newest`: it is the one that the model id alone means."""

    row: SetRow
    manifest: Manifest
    newest: bool

    @property
    def name(self) -> str:
        """The name on the page: the model id, with the revision where another set has the plain id."""
        checkpoint = self.manifest.checkpoint
        return checkpoint.model_id if self.newest else f"{checkpoint.model_id}@{checkpoint.revision or 'local'}"

    @property
    def slug(self) -> str:
        """Its file and folder name: safe anywhere, different for every set."""
        checkpoint = self.manifest.checkpoint
        digest = hashlib.sha256(f"{checkpoint.model_id}@{checkpoint.revision or ''}".encode()).hexdigest()
        plain = re.sub(r"[^a-z0-9]+", "-", checkpoint.model_id.lower()).strip("-")
        return f"{plain[:60]}-{digest[:8]}".lstrip("-")


@dataclass(frozen=True)
class Card:
    """A set on the front page: its data, and how often each label text is used."""

    data: dict[str, Any]
    labels: Counter[str]


@dataclass
class _Table:
    """A list without repetitions, and the position of each item."""

    items: list[Any] = field(default_factory=list)
    positions: dict[str, int] = field(default_factory=dict)

    def position(self, item: Any) -> int:
        """Return the position of an item, added if it is new."""
        key = item if isinstance(item, str) else json.dumps(item)
        if key not in self.positions:
            self.positions[key] = len(self.items)
            self.items.append(item)
        return self.positions[key]


_Tables = defaultdict[str, _Table]
"""The tables of one set: recipes, texts, sources, protocols, previews."""


def script(name: str, value: Any) -> str:
    """Write data as a script, `eigenbank.receive(NAME, VALUE);`: a page opened from disk may load nothing else."""
    text = json.dumps([name, value], ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f"eigenbank.receive(...{text});\n"


def set_data(shown: GallerySet, cells: Mapping[int, Cell]) -> dict[str, Any]:
    """Make the data of a set. `cells`: picture sizes, by the number of the direction or composite in the manifest."""
    manifest = shown.manifest
    layers = {layer.name: number for number, layer in enumerate(manifest.layers)}
    numbers = {record.id: number for number, record in enumerate(manifest.directions)}
    recipes = {record.recipe.slug: record for record in manifest.directions}
    tables: _Tables = defaultdict(_Table)
    directions = [
        [
            layers[record.layer],
            tables["recipes"].position(record.recipe.slug),
            record.rank,
            _short(record.eigenvalue),
            _short(record.share),
            _short(record.gap),
            *_common(record, cells.get(number), tables),
        ]
        for number, record in enumerate(manifest.directions)
    ]
    composites = [
        [
            composite.name,
            _words(composite.name),
            [[numbers[part.direction], _short(part.weight)] for part in composite.parts],
            all(_exportable(manifest.directions[numbers[part.direction]]) for part in composite.parts),
            *_common(composite, cells.get(len(numbers) + number), tables),
        ]
        for number, composite in enumerate(manifest.composites)
    ]
    first = len(numbers) + len(composites)
    composites += [
        [lora.id, _words(lora.id), [], False, *_common(lora, cells.get(first + number), tables)]
        for number, lora in enumerate(manifest.loras)
    ]
    return {
        "layers": [_layer(layer) for layer in manifest.layers],
        "recipes": [
            {"slug": slug, **recipe_words(recipes[slug].recipe), "exportable": _exportable(recipes[slug])}
            for slug in tables["recipes"].items
        ],
        "texts": [[text, _words(text)] for text in tables["texts"].items],
        "sources": [{"kind": _kind(source), "words": source_words(source)} for source in tables["sources"].items],
        "protocols": tables["protocols"].items,
        "previews": tables["previews"].items,
        "directions": directions,
        "composites": composites,
    }


def make_card(shown: GallerySet, cells: Mapping[int, Cell]) -> Card:
    """Make a set's card for the front page: what to filter and search by, and a few strips."""
    row, manifest = shown.row, shown.manifest
    checkpoint = manifest.checkpoint
    labels = [label for record in manifest.sliders for label in record.labels]
    texts = Counter(label.text for label in labels)
    names = [layer.name for layer in manifest.layers]
    searched = [
        checkpoint.model_id,
        *names,
        *(each.name for each in manifest.composites),
        *(each.id for each in manifest.loras),
        *texts,
    ]
    data = {
        "slug": shown.slug,
        "name": shown.name,
        "model": checkpoint.model_id,
        "modelWords": _words(checkpoint.model_id),
        "order": row.number,
        "revision": checkpoint.revision,
        "newest": shown.newest,
        "denoiser": checkpoint.denoiser,
        "readsText": checkpoint.denoiser not in WITHOUT_PROMPT,
        "licence": checkpoint.licence,
        "setLicence": manifest.licence,
        "builder": manifest.builder,
        "created": manifest.created.date().isoformat(),
        "repo": row.repo,
        "commit": row.commit,
        "directions": len(manifest.directions),
        "composites": len(manifest.composites) + len(manifest.loras),
        "named": sum(any(_kind(each.source) != "author" for each in record.labels) for record in manifest.sliders),
        "pictures": len(cells),
        "layers": len(names),
        "kinds": sorted({layer.kind for layer in manifest.layers}),
        "recipes": list(dict.fromkeys(record.recipe.slug for record in manifest.directions)),
        "sources": sorted({_kind(label.source) for label in labels}),
        "confidence": _short(max((label.confidence for label in labels if label.confidence is not None), default=None)),
        "words": " ".join(sorted({word for text in searched for word in words(text)})),
        "picks": [_pick(manifest, number, cells[number]) for number in _picks(manifest, cells)],
    }
    return Card(data, texts)


def in_order(cards: Sequence[Card]) -> list[Card]:
    """Sort cards as the front page shows them by default: the most named first."""
    return sorted(cards, key=lambda card: (-card.data["named"], -card.data["directions"]))


def pages(cards: Sequence[Card]) -> Iterator[list[dict[str, Any]]]:
    """Cut the cards' data into pieces: the first (it may be empty) goes into the index, each other into a file."""
    piece: list[dict[str, Any]] = []
    room, first = FIRST_CARDS, True
    for card in cards:
        size = len(script("", card.data).encode())
        if size > room and (piece or first):
            yield piece
            piece, room, first = [], MORE_CARDS, False
        piece.append(card.data)
        room -= size
    yield piece


def index_data(cards: Sequence[Card], first: Sequence[dict[str, Any]], more: int, version: str) -> dict[str, Any]:
    """Make the data that the page loads first: totals of all `cards`, and the `first` of them. `more` files hold the others."""
    labels: Counter[str] = Counter()
    for card in cards:
        labels.update(card.labels)
    every = [card.data for card in cards]
    pictured = next((card for card in every if card["picks"]), None)
    return {
        "eigenbank": version,
        "measures": [asdict(measure) for measure in MEASURES],
        "sourceKinds": _KINDS,
        "unspaced": "".join(f"\\u{{{first:x}}}-\\u{{{last:x}}}" for first, last in UNSPACED),
        "total": {
            "sets": len(cards),
            **{key: sum(card[key] for card in every) for key in ("directions", "composites", "named")},
        },
        "hero": pictured and {"slug": pictured["slug"], "name": pictured["name"], "pick": pictured["picks"][0]},
        "choices": {
            "family": sorted({card["denoiser"] for card in every})[:CHOICES],
            **{
                name: sorted({value for card in every for value in card[key]})[:CHOICES]
                for name, key in _CHOICES.items()
            },
        },
        "confidence": any(card["confidence"] is not None for card in every),
        "hints": labels.most_common(HINTS),
        "more": more,
        "sets": list(first),
    }


_CHOICES = {"kind": "kinds", "recipe": "recipes", "source": "sources"}
_KINDS = {"human": "people", "attribute-model": "attribute models", "statistics": "image statistics", "clip": "CLIP"}


def _kind(source: str) -> str:
    """The kind of a label's source, which a filter knows."""
    return source.partition(":")[0]


def _picks(manifest: Manifest, cells: Mapping[int, Cell]) -> list[int]:
    """Pick the sliders on a set's card: the best of each label, then unlabelled directions by share."""
    sliders = manifest.sliders
    worth = {number: max((label.worth for label in sliders[number].labels), default=-1.0) for number in cells}
    order = sorted(cells, key=lambda number: worth[number], reverse=True)
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
        "words": _words(layer.name),
        "kind": layer.kind,
        "width": layer.width,
        "heads": layer.heads,
        "digest": digest[:16] if digest else None,
    }


def _common(record: SliderRecord, cell: Cell | None, tables: _Tables) -> list[Any]:
    """Return the fields of directions and composites alike: labels, quality, preview."""
    preview = None if cell is None else tables["previews"].position(_grid(record, cell))
    return [[_label(label, tables) for label in record.labels], _quality(record.quality, tables), preview]


def _label(label: Label, tables: _Tables) -> list[Any]:
    evidence = label.evidence
    text, source = tables["texts"].position(label.text), tables["sources"].position(label.source)
    found: list[Any] = [text, label.polarity, _short(label.confidence), source, label.worth]
    found += [label.created.date().isoformat(), label.note or None]
    if evidence is not None:
        numbers = (evidence.effect, evidence.selectivity, evidence.consistency, evidence.asymmetry, evidence.null)
        runner_up = [evidence.runner_up, _short(evidence.runner_up_effect)]
        found.append([*(_short(number) for number in numbers), *runner_up, _protocol(evidence, tables)])
    return found


def _quality(quality: Quality | None, tables: _Tables) -> list[Any] | None:
    if quality is None:
        return None
    numbers = [getattr(quality, measure.key) for measure in MEASURES]
    span = None if quality.recommended_range is None else list(quality.recommended_range)
    return [numbers, span, tables["sources"].position(quality.source), _protocol(quality, tables)]


def _protocol(measured: Evidence | Quality, tables: _Tables) -> int:
    """Return the position in the table of how something was measured."""
    return tables["protocols"].position([_short(measured.scale), seeds_words(measured.seeds), measured.steps])


def _words(text: str) -> str:
    return " ".join(words(text))


def _grid(record: SliderRecord, cell: Cell) -> dict[str, Any]:
    assert record.preview is not None
    return {
        "seeds": list(record.preview.seeds),
        "scales": list(record.preview.scales),
        "steps": record.preview.steps,
        "cell": [cell.width, cell.height],
    }


def _exportable(record: DirectionRecord) -> bool:
    """Whether a LoRA can hold a direction: added at a block's output, in every step."""
    return record.recipe.site == "block-output" and record.recipe.window.whole


def _short(value: float | None) -> float | None:
    """Round to six digits; whole numbers lose the point."""
    if value is None:
        return None
    short = float(f"{value:.6g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short
