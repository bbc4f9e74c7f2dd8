"""The demo's playground: as an object, and served, with a browser that looks at it."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from browser import Watch
from playing import Served, start

from eigenbank.registry.sets.bundled import DEMO_MODEL_ID, shipped_checkpoint

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from eigenbank.play.playground import Playground


@pytest.fixture(scope="session")
def playground() -> "Playground":
    """The demo's, without a page. Its models stay loaded over all tests."""
    from eigenbank.play.playground import Playground

    folder = shipped_checkpoint(DEMO_MODEL_ID)
    assert folder is not None
    return Playground({DEMO_MODEL_ID: folder})


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo's playground, served by the command. It is not to reach for anything outside, whatever the tests do."""
    found = start(tmp_path_factory.mktemp("served"), DEMO_MODEL_ID)
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
