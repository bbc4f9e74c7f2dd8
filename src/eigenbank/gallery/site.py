"""Write the gallery as a static site, and serve it to this machine.

Sets are written one after another, so that memory holds one at a time.
"""

import functools
import http.server
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import eigenbank
from eigenbank.gallery.data import Card, Cell, GallerySet, in_order, index_data, make_card, pages, script, set_data
from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.files import move_folder, new_folder
from eigenbank.registry.hub.client import folder_of, parse_location
from eigenbank.registry.local import people_labels
from eigenbank.registry.sets.card import preview_name
from eigenbank.registry.sets.folder import open_preview, read_manifest, read_preview
from eigenbank.schemas import Manifest, SliderRecord
from eigenbank.schemas.errors import GalleryError, SetError

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

MARK = "gallery.json"
"""The file that marks a folder as a gallery."""
OURS = frozenset({MARK, "README.md", "assets", "data", "index.html", "pictures"})
NOTHING = "nothing was written"

HOST = "127.0.0.1"
HOST_NAMES = frozenset({HOST, "localhost"})

Log = Callable[[str], None]


@dataclass(frozen=True)
class SetOutcome:
    """The result for one set: `outcome` is `shown` or `skipped`, with the reason."""

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
    sets: list[SetOutcome] = field(default_factory=list)
    hidden_labels: int = 0
    """Labels that people gave in the catalog, and that are not shown."""

    @property
    def shown(self) -> list[SetOutcome]:
        """The sets that are in it."""
        return [each for each in self.sets if each.outcome == "shown"]


def write_site(
    target: Path,
    catalog: Catalog,
    *,
    wanted: Callable[[str], bool] = lambda _model: True,
    people: bool = False,
    force: bool = False,
    log: Log,
    progress: Progress = no_progress,
) -> Site:
    """Write the gallery of a catalog's sets to the folder `target`, whole or not at all.

    `wanted` chooses by model id. `people` also shows the labels that people gave in this catalog, with their names.
    Missing or damaged sets and pictures are logged and left out. The same catalog gives the same files. Raises
    GalleryError; the target is then unchanged.
    """
    _check_target(target, force=force)

    def put(work: Path, place: Path) -> None:
        _check_target(target, force=force)
        _put(work, place)

    with new_folder(target, GalleryError, put) as work:
        site = Site(target)
        cards = in_order(list(_write_sets(site, work, catalog, wanted, people, log, progress)))
        first, *more = pages(cards)
        for number, piece in enumerate(more, 1):
            name = f"cards-{number}"
            _write(work / "data" / f"{name}.js", script(name, piece))
        _write(work / "data" / "index.js", script("index", index_data(cards, first, len(more), eigenbank.__version__)))
        _write_page(work, cards)
        mark = {"format": "eigenbank-gallery/1", "eigenbank": eigenbank.__version__, "sets": len(cards)}
        _write(work / MARK, json.dumps(mark, indent=1) + "\n")
    return site


def _write_page(work: Path, cards: Sequence[Card]) -> None:
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
        "directions": sum(card.data["directions"] for card in cards),
        "named": sum(card.data["named"] for card in cards),
        "version": eigenbank.__version__,
    }
    for name in ("index.html", "README.md"):
        _write(work / name, environment.get_template(f"{name}.j2").render(facts))
    for asset in sorted((Path(str(files("eigenbank.gallery"))) / ASSETS).iterdir()):
        _write(work / ASSETS / asset.name, asset.read_text(encoding="utf-8"))


def _write_sets(
    site: Site,
    work: Path,
    catalog: Catalog,
    wanted: Callable[[str], bool],
    people: bool,
    log: Log,
    progress: Progress,
) -> Iterator[Card]:
    """Write the data and pictures of each set, note in `site` what became of it, and yield the cards of those shown."""
    rows = [row for row in catalog.sets() if wanted(row.model_id)]
    seen: set[str] = set()
    # Asked once: most catalogs have no labels of people.
    unasked = not people and bool(catalog.label_counts(source="human"))
    for number, row in enumerate(rows):
        newest = row.model_id not in seen
        seen.add(row.model_id)
        try:
            manifest = _manifest(row)
        except SetError as error:
            log(f"{row.model_id} is left out: {error}")
            site.sets.append(SetOutcome(row.model_id, row.revision, row.directions, 0, 0, "skipped", str(error)))
            continue
        if newest and (people or unasked):
            more = people_labels(manifest, catalog)
            if people:
                manifest = manifest.with_more_labels(more)
            else:
                site.hidden_labels += sum(map(len, more.values()))
        shown = GallerySet(row, manifest, newest)
        cells, damaged = _copy_pictures(manifest, folder_of(row.location), work / "pictures" / shown.slug)
        if damaged:
            log(f"{row.model_id}: {len(damaged)} pictures are left out; the first: {damaged[0]}")
        card = make_card(shown, cells)
        _write(work / "data" / f"{shown.slug}.js", script(shown.slug, set_data(shown, cells)))
        counts = card.data["directions"], card.data["named"], len(cells)
        site.sets.append(SetOutcome(row.model_id, row.revision, *counts, "shown", "; ".join(damaged[:1])))
        yield card
        progress("sets", number + 1, len(rows))


def _manifest(row: SetRow) -> Manifest:
    """The manifest of a set of the catalog. Raises SetError where the set is not on this machine, or is damaged."""
    at = parse_location(row.location)
    folder = folder_of(row.location)
    if at is not None and not (folder / "manifest.json").is_file():
        message = f"{at.short} is not on this machine. Fetch it: eigenbank pull {at.repo}"
        raise SetError(message)
    manifest = read_manifest(folder)
    if manifest.checkpoint.model_id != row.model_id:
        message = f"{folder} holds the directions of {manifest.checkpoint.model_id}. Build or pull the set again"
        raise SetError(message)
    return manifest


def _copy_pictures(manifest: Manifest, folder: Path, target: Path) -> tuple[dict[int, Cell], list[str]]:
    """Copy a set's pictures, named by number. Returns the sizes of their cells, and the problems found."""
    cells: dict[int, Cell] = {}
    damaged = []
    for number, record in enumerate(manifest.sliders):
        try:
            found = _read_picture(folder, manifest, record)
        except SetError as error:
            damaged.append(str(error))
            continue
        if found is not None:
            cells[number], data = found
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{number}.webp").write_bytes(data)
    return cells, damaged


def _read_picture(folder: Path, manifest: Manifest, record: SliderRecord) -> tuple[Cell, bytes] | None:
    """Read a preview and the size of its cells; None where the set has none.

    Raises SetError for one that is missing, altered, no WebP picture, or not the grid that its record describes.
    """
    name = preview_name(record)
    if record.preview is None or name not in manifest.files:
        return None
    data = read_preview(folder, manifest, name)
    with open_preview(data, name) as image:
        width, height = image.size
    columns, rows = len(record.preview.scales), len(record.preview.seeds)
    if width % columns or height % rows:
        message = f"{name} is {width}×{height} pixels, no grid of {columns}×{rows} equal cells"
        raise SetError(message)
    return Cell(width // columns, height // rows), data


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


# The site's folder: it appears whole, replaces an earlier site, and never anything else


def _check_target(target: Path, *, force: bool) -> None:
    """Raise GalleryError where no site may go: over other files unless forced, over a home, through a link."""
    if target.is_symlink():
        problem = f"{target} is a symbolic link"
        raise GalleryError(problem, outcome=NOTHING, advice="Name the folder it leads to, or remove it")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    here = target.resolve()
    if here in (Path.cwd(), *Path.cwd().parents, Path.home(), *Path.home().parents) or here.is_mount():
        problem = f"{target} is where you are, your home, or holds them"
        raise GalleryError(problem, outcome=NOTHING, advice="Choose a folder of its own")
    if force:
        return
    strangers = _strangers(target)
    if strangers:
        more = " and more" if len(strangers) > 1 else ""
        problem = f"{target} holds {strangers[0]}{more}, which no gallery wrote"
        raise GalleryError(problem, outcome=NOTHING)


def _strangers(target: Path) -> list[str]:
    if not target.is_dir():
        return ["something that is no folder"]
    names = sorted(path.name for path in target.iterdir())
    if MARK not in names:
        return names
    return [name for name in names if name not in OURS]


def _put(work: Path, target: Path) -> None:
    """Move the new site into place. A folder cannot be replaced in one step: the old one steps aside just before.

    An earlier site is removed once the new one is there; anything else is set aside as `NAME.1`, `NAME.2`, ….
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        move_folder(work, target)
        return
    foreign = bool(_strangers(target))
    aside = _free_name(target) if foreign else Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}-", dir=target.parent))
    os.replace(target, aside)
    try:
        os.replace(work, target)
    except OSError:
        os.replace(aside, target)
        raise
    if not foreign:
        shutil.rmtree(aside, ignore_errors=True)


def _free_name(target: Path) -> Path:
    number = 1
    while (found := target.with_name(f"{target.name}.{number}")).exists():
        number += 1
    return found


# Serving it


class _SiteHandler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of one folder, to requests for this machine's own names only."""

    timeout = 60

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        try:
            names = {urlsplit(f"//{host}").hostname for host in self.headers.get_all("Host", [""])}
            if not names <= HOST_NAMES:
                self.send_error(HTTPStatus.FORBIDDEN, "This page is for this machine")
                return None
            return super().send_head()
        except (OSError, ValueError):  # half an address for a host, or a name that no file can have
            self.send_error(HTTPStatus.BAD_REQUEST)
            return None

    def list_directory(self, path: object) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log no requests."""


class _SiteServer(http.server.ThreadingHTTPServer):
    """A server to which a browser that hangs up is nothing to speak of."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def make_server(folder: Path) -> http.server.ThreadingHTTPServer:
    """Make a server for a site, on a free port of loopback."""
    return _SiteServer((HOST, 0), functools.partial(_SiteHandler, directory=str(folder)))


def serve(folder: Path, *, log: Log) -> None:
    """Serve a site until interrupted, and log its address."""
    with make_server(folder) as server:
        log(f"serving http://{HOST}:{server.server_port}/ until Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log("no longer served")
