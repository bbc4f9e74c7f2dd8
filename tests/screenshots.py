"""Take the screenshots of the docs: the gallery of the demo checkpoint, and its playground, in Debian's Chromium.

    make screenshots        # or: python tests/screenshots.py gallery-front gallery-phone

Colours are reduced to a palette, so that the files stay small. Look at each before it is committed.
"""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

DOCS = Path(__file__).parents[1] / "docs"
MODEL = "eigenbank/avatars-64"
SLIDERS = (("with blond hair", "1"), ("on a yellow background", "-1"))


@dataclass(frozen=True)
class Shot:
    """A picture to take: of which view, how large, and in which colours."""

    name: str
    view: str
    width: int
    height: int
    scheme: Any = "light"


GALLERY = (
    Shot("gallery-front", "", 1200, 1130),
    Shot("gallery-checkpoint", f"#model={MODEL}", 1200, 1240),
    Shot("gallery-composite", f"#direction={MODEL}%23composite/with-blond-hair&scale=1", 1200, 1240),
    Shot("gallery-dark", f"#direction={MODEL}%23composite/on-a-yellow-background&scale=-1", 1200, 1240, "dark"),
    Shot("gallery-phone", "#q=hair", 390, 844),
)
PLAYGROUND = Shot("playground", "", 1200, 900)


def save(page: "Page", shot: Shot) -> None:
    """Write what a page shows as a small PNG."""
    image = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    path = DOCS / f"{shot.name}.png"
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(DOCS.parent)}: {path.stat().st_size / 1000:.0f} kB")


@contextmanager
def opened(browser: Any, shot: Shot, url: str) -> "Iterator[Page]":
    """A view in a window of its own, with every picture near it read."""
    size = {"width": shot.width, "height": shot.height}
    context = browser.new_context(viewport=size, color_scheme=shot.scheme, is_mobile=shot.width < 500)
    page = context.new_page()
    page.goto(url)
    page.locator("main h1").wait_for(state="attached")
    page.wait_for_timeout(500)
    page.evaluate("Promise.all([...document.images].filter(each => each.complete).map(each => each.decode()))")
    yield page
    context.close()


def gallery(browser: Any, wanted: set[str], folder: Path) -> None:
    """The gallery of the catalog as it ships."""
    from eigenbank.gallery.site import write_site
    from eigenbank.registry.catalog import Catalog

    with Catalog.open(folder / "catalog.db") as catalog:
        write_site(folder / "site", catalog, log=print)
    for shot in GALLERY:
        if shot.name in wanted:
            with opened(browser, shot, (folder / "site/index.html").as_uri() + shot.view) as page:
                save(page, shot)


def playground(browser: Any) -> None:
    """The playground, with two sliders moved."""
    from eigenbank.play import launch
    from eigenbank.schemas.drawing import Drawing

    served = launch(MODEL, drawing=Drawing(prompts=("a smiling person",), guidance_scale=4.0), wait=False)
    page = browser.new_page(viewport={"width": PLAYGROUND.width, "height": PLAYGROUND.height}, color_scheme="light")
    page.goto(served.local_url)
    page.locator("#picture-edited img").wait_for()
    page.locator("#status", has_text="20 steps").wait_for()
    for label, value in SLIDERS:
        number = page.locator(".slider-row", has_text=label).first.locator("input[type=number]")
        number.fill(value)
        number.press("Enter")
        page.locator("#python", has_text=f"'{label}': {float(value)}").wait_for()
    page.wait_for_timeout(1000)
    save(page, PLAYGROUND)
    page.close()
    served.close()


def main(names: list[str]) -> None:
    """Take the screenshots that are named, or all."""
    from playwright.sync_api import sync_playwright

    known = [*(shot.name for shot in GALLERY), PLAYGROUND.name]
    if unknown := set(names) - set(known):
        sys.exit(f"no screenshots: {', '.join(sorted(unknown))}. There are {', '.join(known)}")
    wanted = set(names or known)
    program = os.environ.get("EIGENBANK_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory(prefix="eigenbank-screenshots-") as home, sync_playwright() as running:
        os.environ["EIGENBANK_HOME"] = home
        os.environ.pop("EIGENBANK_CATALOG", None)
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium refuses to run as root with one
        browser = running.chromium.launch(executable_path=program, args=sandbox)
        if wanted - {PLAYGROUND.name}:
            gallery(browser, wanted, Path(home))
        if PLAYGROUND.name in wanted:
            playground(browser)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
