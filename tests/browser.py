"""A real browser for tests: Debian's Chromium, headless, driven by Playwright. One for all, since one process runs one Playwright."""

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """A browser; tests that ask for one are skipped, saying why, where there is none."""
    api: Any = pytest.importorskip("playwright.sync_api", reason="no browser tests: Playwright is not installed")
    program = os.environ.get("EIGENBANK_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no browser tests: there is no Chromium here (apt-get install chromium, or EIGENBANK_CHROMIUM)")
    with api.sync_playwright() as running:
        args = ["--disable-gpu"]  # none is there, and imitating one takes longer than drawing
        args += [] if os.geteuid() else ["--no-sandbox"]  # Chromium refuses to run as root with one
        started = running.chromium.launch(executable_path=program, args=args)
        yield started
        started.close()


@pytest.fixture
def page(browser: "Browser") -> "Iterator[Page]":
    """A page of the browser's, closed whatever comes: one whose server is gone keeps asking for it."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(60_000)
    yield opened
    opened.close()


class Watch:
    """What a page should not do: errors it raises or logs, dialogs, and requests to elsewhere than `root`'s host."""

    def __init__(self, page: "Page", root: str) -> None:
        self.wrong: list[str] = []
        host = urlsplit(root).netloc
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("console", lambda line: self.wrong.append(f"console: {line.text}") if line.type == "error" else None)
        page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda asked: self._asked(asked.url, host))

    def _asked(self, url: str, host: str) -> None:
        found = urlsplit(url)
        if found.scheme not in ("data", "blob", "about") and found.netloc != host:
            self.wrong.append(f"asked {url}")
