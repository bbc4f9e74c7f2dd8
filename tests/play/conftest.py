"""The playground of the cartoon faces: as an object, and served, with a browser that looks at it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faces
import pytest
from browser import Watch
from playing import Served, start

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from eigenbank.play.playground import Playground


@pytest.fixture(scope="session")
def faces_home(tmp_path_factory: pytest.TempPathFactory, faces_catalog: Path) -> Path:
    """A home whose catalog has the cartoon faces."""
    home = tmp_path_factory.mktemp("served")
    shutil.copyfile(faces_catalog, home / "catalog.db")
    return home


@pytest.fixture(autouse=True)
def _with_faces(with_faces: Path) -> None:
    """Every test's own home has them too."""


@pytest.fixture(scope="session")
def playground() -> "Playground":
    """That of the cartoon faces, without a page. Its models stay loaded over all tests."""
    from eigenbank.play.playground import Playground

    return Playground({faces.MODEL_ID: faces.FOLDER})


@pytest.fixture(scope="session")
def served(faces_home: Path) -> Iterator[Served]:
    """The cartoon faces' playground, served by the command. It is not to reach for anything outside, whatever the tests do."""
    found = start(faces_home, faces.MODEL_ID)
    yield found
    found.process.terminate()
    found.process.wait(timeout=30)
    assert found.outside == ""


@pytest.fixture
def visit(browser: "Browser") -> "Iterator[Callable[..., Page]]":
    """Open a playground in a tab of a new window. What it complains about, or asks of the outside, is an error."""
    contexts = []
    watched: list[Watch] = []

    def opened(served: Served, **more: Any) -> "Page":
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **more})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        watched.append(Watch(page, served.url))
        page.goto(served.url)
        page.locator("#picture-edited img").wait_for()
        page.locator("#status", has_text="20 steps").wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [each.wrong for each in watched] == [[] for _ in watched]
