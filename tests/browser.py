"""A real browser for tests: Debian's chromium, headless, driven by Playwright; nothing may go elsewhere than loopback."""

import os
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser; tests that ask for it are skipped, saying why, where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="no browser test: Playwright is not installed")
    path = os.environ.get("EIGENBANK_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser test: none of {', '.join(NAMES)} is on PATH (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        # Without a sandbox, which does not start for root or inside of containers; only pages of our own are opened.
        made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


class Watch:
    """What a page did besides being looked at: errors it raised or logged, and requests to elsewhere."""

    def __init__(self, page: Any) -> None:
        self.errors: list[str] = []
        self.outside: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: self._asked(request.url))

    def _asked(self, url: str) -> None:
        found = urlsplit(url)
        if found.scheme not in ("data", "blob", "file", "about") and found.hostname not in ("127.0.0.1", "localhost"):
            self.outside.append(url)
