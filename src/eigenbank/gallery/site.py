"""Writing the site: every set of the catalog in turn, so that memory holds one of them at a time."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import eigenbank
from eigenbank.gallery.data import Shown, card_data, in_order, index_data, pages, script, set_data
from eigenbank.gallery.folder import MARK, new_site
from eigenbank.gallery.pictures import Cell, read_picture
from eigenbank.progress import Progress, unwatched
from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.hub.location import folder_of, parse
from eigenbank.registry.own import labelled, own_labels
from eigenbank.registry.sets.folder import read_manifest
from eigenbank.schemas.errors import SetError

ASSETS = "assets"
STYLE = "style.css"
SCRIPTS = (
    "dom.js",
    "state.js",
    "store.js",
    "search.js",
    "picture.js",
    "parts.js",
    "front.js",
    "checkpoint.js",
    "direction.js",
    "shell.js",
)
"""The page's scripts, in the order they are run."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """What became of a set: `outcome` is `shown` or `skipped`, with the reason."""

    model: str
    revision: str | None
    directions: int
    named: int
    pictures: int
    outcome: str
    reason: str = ""


@dataclass
class Site:
    """A site that was written."""

    folder: Path
    entries: list[Entry] = field(default_factory=list)

    @property
    def shown(self) -> list[Entry]:
        """The sets that are in it."""
        return [entry for entry in self.entries if entry.outcome == "shown"]


def write_site(
    target: Path,
    catalog: Catalog,
    *,
    wanted: Callable[[str], bool] = lambda _model: True,
    own: bool = False,
    force: bool = False,
    say: Say,
    progress: Progress = unwatched,
) -> Site:
    """Write the gallery of a catalog's sets as the folder `target`, which appears whole.

    `wanted` chooses by model id. `own`: the labels that people gave in this catalog are shown, too, with their names.
    A set that is missing or damaged is said and left out, a damaged picture likewise. The same catalog gives the same
    files. Raises GalleryError; the target is as it was then.
    """
    with new_site(target, force=force) as work:
        site = Site(target)
        cards = []
        for shown, entry in _write_sets(work, catalog, wanted, own, say, progress):
            site.entries.append(entry)
            if shown is not None:
                cards.append(shown)
        cards = in_order(cards)
        first, *more = pages(cards)
        for number, piece in enumerate(more, 1):
            name = f"cards-{number}"
            _write(work / "data" / f"{name}.js", script(name, piece))
        _write(work / "data" / "index.js", script("index", index_data(cards, first, len(more), eigenbank.__version__)))
        write_page(work, cards)
        mark = {"format": "eigenbank-gallery/1", "eigenbank": eigenbank.__version__, "sets": len(cards)}
        _write(work / MARK, json.dumps(mark, indent=1) + "\n")
    return site


def write_page(work: Path, cards: Sequence[dict[str, Any]]) -> None:
    """Write the page itself, its style and scripts, and the card of a static Space."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Everything is escaped: the page is HTML, and the Space's card Markdown, which may hold HTML.
    environment = Environment(
        loader=PackageLoader("eigenbank.gallery"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    facts = {
        "style": f"{ASSETS}/{STYLE}",
        "scripts": [*(f"{ASSETS}/{name}" for name in SCRIPTS), "data/index.js", f"{ASSETS}/start.js"],
        "cards": cards,
        "directions": sum(card["directions"] for card in cards),
        "named": sum(card["named"] for card in cards),
        "version": eigenbank.__version__,
    }
    for name in ("index.html", "README.md"):
        _write(work / name, environment.get_template(f"{name}.j2").render(facts))
    for asset in _assets():
        _write(work / ASSETS / asset.name, asset.read_text(encoding="utf-8"))


def _assets() -> list[Path]:
    return sorted((Path(str(files("eigenbank.gallery"))) / ASSETS).iterdir())


def _write_sets(
    work: Path, catalog: Catalog, wanted: Callable[[str], bool], own: bool, say: Say, progress: Progress
) -> Iterator[tuple[dict[str, Any] | None, Entry]]:
    rows = [row for row in catalog.sets() if wanted(row.model_id)]
    seen: set[str] = set()
    # Asked once: a catalog without people's labels is not searched for them set by set.
    people = not own and bool(catalog.label_counts(source="human"))
    left_out = 0
    for number, row in enumerate(rows):
        newest = row.model_id not in seen
        seen.add(row.model_id)
        try:
            shown = _open(row, catalog, newest=newest, own=own)
        except SetError as error:
            say(f"{row.model_id} is left out: {error}")
            yield None, Entry(row.model_id, row.revision, row.directions, 0, 0, "skipped", str(error))
            continue
        if people and newest:
            left_out += sum(map(len, own_labels(shown.manifest, catalog).values()))
        cells, damaged = _copy_pictures(shown, folder_of(row.location), work / "pictures" / shown.slug)
        if damaged:
            say(f"{row.model_id}: {len(damaged)} pictures are left out; the first: {damaged[0]}")
        card = card_data(shown, cells)
        _write(work / "data" / f"{shown.slug}.js", script(shown.slug, set_data(shown, cells)))
        yield (
            card,
            Entry(
                row.model_id,
                row.revision,
                card["directions"],
                card["named"],
                len(cells),
                "shown",
                "; ".join(damaged[:1]),
            ),
        )
        progress("sets", number + 1, len(rows))
    if left_out:
        say(
            f"{left_out} labels that people gave in this catalog are left out (--with-labels shows them, with their names)"
        )


def _open(row: SetRow, catalog: Catalog, *, newest: bool, own: bool) -> Shown:
    """A set of the catalog, from this machine. Raises SetError where it is not here, or is damaged."""
    at = parse(row.location)
    folder = folder_of(row.location)
    if at is not None and not (folder / "manifest.json").is_file():
        message = f"{at.short} is not on this machine. Fetch it: eigenbank pull {at.repo}"
        raise SetError(message)
    manifest = read_manifest(folder)
    if manifest.checkpoint.model_id != row.model_id:
        message = f"{folder} holds the directions of {manifest.checkpoint.model_id}. Build or pull the set again"
        raise SetError(message)
    if own and newest:
        manifest = labelled(manifest, own_labels(manifest, catalog))
    return Shown(row, manifest, newest)


def _copy_pictures(shown: Shown, folder: Path, target: Path) -> tuple[dict[int, Cell], list[str]]:
    """Copy a set's pictures, each named by its direction's or composite's number. Returns the sizes of their cells, and what is wrong."""
    cells: dict[int, Cell] = {}
    damaged = []
    for number, record in enumerate(shown.manifest.sliders):
        try:
            found = read_picture(folder, shown.manifest, record)
        except SetError as error:
            damaged.append(str(error))
            continue
        if found is not None:
            cells[number], data = found
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{number}.webp").write_bytes(data)
    return cells, damaged


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
