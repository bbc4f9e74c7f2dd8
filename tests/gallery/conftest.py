"""A browser, galleries of made-up catalogs, and pages that fail the test when they complain or ask the outside."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eigenbank.gallery.site import Site, write_site
from eigenbank.registry.catalog import Catalog

from .catalogs import EVIDENCE, LAYERS, add, add_copies, composed, label, make_bank

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FAMOUS = "acme/faces"
GIVEN_UP = "assets/icon.svg", "net::ERR_ABORTED"
"""The one file that may be in the air when a page is left, and what the browser says of it then."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOSTILE = (
    "<script>window.owned=1</script>",
    "<img src=x onerror=window.owned=1>",
    "\"'><svg/onload=window.owned=1>",
    "';window.owned=1;//",
    "{{7*7}} ${7*7} &lt;b&gt;",
    "שלום مرحبا",
    "back\\slash \\u003c </script>",
    "javascript:window.owned=1",
    "x" * 400,
)


def write(folder: Path, catalog: Catalog, **more: Any) -> Site:
    """Write a gallery, and say nothing."""
    return write_site(folder, catalog, log=lambda _: None, **more)


@pytest.fixture(scope="session")
def gallery_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of three checkpoints, one of them published. Not to be changed."""
    folder = tmp_path_factory.mktemp("gallery")
    with Catalog.open(folder / "catalog.db", shipped=False) as catalog:
        named = {0: [label("warm smile")], 1: [label("age", polarity=-1, confidence=0.8)], 6: [label("warm hat", confidence=0.9)],
                 20: [label("grin", source="human:ann", confidence=None, evidence=None, note="seen by eye")]}  # fmt: skip
        add(catalog, make_bank(FAMOUS, labels=named), folder / "faces", repo="acme/faces-directions", commit=COMMIT)
        cats = make_bank("acme/cats", labels={2: [label("fluffy ears", confidence=0.6)]}, pictures=3, layers=LAYERS[1:])
        add(catalog, cats, folder / "cats")
        bare = make_bank("zeta/rooms", pictures=0, denoiser="DiTTransformer2DModel", licence=None, recipes=["value"])
        add(catalog, bare, folder / "rooms")
        write(folder / "site", catalog)
    return folder / "site"


@pytest.fixture(scope="session")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of a checkpoint whose texts are all hostile, and whose ids are strange."""
    folder = tmp_path_factory.mktemp("hostile")
    with Catalog.open(folder / "catalog.db", shipped=False) as catalog:
        labels = {
            number: [label(text, note=text, source=f"human:{text[:200]}", evidence=None)]
            for number, text in enumerate(HOSTILE)
        }
        bank = make_bank("con/aux.-_模型", labels=labels, licence="<b>free</b>")
        add(catalog, bank, folder / "one", repo="me/x", commit=COMMIT)
        add(catalog, make_bank("CON/AUX.-_模型", ranks=1, layers=["層.ж"]), folder / "two")
        write(folder / "site", catalog)
    return folder / "site"


@pytest.fixture(scope="session")
def composite_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of two checkpoints: one with a composite that is better than the direction of its name, one without any."""
    folder = tmp_path_factory.mktemp("composites")
    weak = EVIDENCE.model_copy(update={"effect": 0.3, "selectivity": 0.4})
    with Catalog.open(folder / "catalog.db", shipped=False) as catalog:
        named = {0: [label("big smile", evidence=weak, confidence=1)], 5: [label("age", evidence=weak, confidence=1)]}
        add(catalog, composed(make_bank(FAMOUS, labels=named), "big smile"), folder / "faces")
        add(catalog, make_bank("acme/cats", labels={2: [label("fluffy ears")]}, pictures=3), folder / "cats")
        write(folder / "site", catalog)
    return folder / "site"


MANY = 1000


@pytest.fixture(scope="session")
def many_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of a thousand checkpoints. The last of the front page's order is named `one of a kind`."""
    folder = tmp_path_factory.mktemp("many")
    labels = {0: [label("TEXT", note="TEXT")], 1: [label("warm smile")]}
    bank = make_bank("made-up/model", labels=labels, ranks=4, layers=LAYERS[:1], recipes=["output-value"], pictures=4)
    texts = [*(f"thing {number % 50}" for number in range(MANY - 1)), "one of a kind"]
    names = ((f"made-up/checkpoint-of-some-length-{number:04}", text) for number, text in enumerate(texts))
    with Catalog.open(folder / "catalog.db", shipped=False) as catalog:
        add_copies(catalog, bank, folder / "sets", names)
        write(folder / "site", catalog)
    return folder / "site"


@pytest.fixture
def visit(browser: "Browser") -> "Iterator[Callable[..., Page]]":
    """Open a page: `visit(folder, "#q=smile", width=390)`. Whatever it complains about or asks of the outside is an error."""
    contexts = []
    wrong: list[str] = []

    def opened(folder: Path | str, hash: str = "", *, width: int = 1280, height: int = 900, **more: Any) -> "Page":
        context = browser.new_context(viewport={"width": width, "height": height}, **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        start = folder if isinstance(folder, str) else (folder / "index.html").as_uri()
        root = start.rpartition("/")[0]
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda asked: wrong.append(f"asked {asked.url}") if not asked.url.startswith(root) else None)
        page.on(
            "requestfailed",
            lambda asked: (
                None
                if (asked.url.removeprefix(f"{root}/"), asked.failure) == GIVEN_UP
                else wrong.append(f"failed: {asked.url}")
            ),
        )
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.goto(start + hash)
        return page

    opened.wrong = wrong  # type: ignore[attr-defined]
    yield opened
    for context in contexts:
        context.close()
    assert not wrong
