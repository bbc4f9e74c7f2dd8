"""axe-core finds nothing serious on any view, light or dark, wide or narrow. Needs npm and its registry, once."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .catalogs import LAYERS
from .conftest import FAMOUS

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

VERSION = "4.14.1"
SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
DIRECTION = f"#direction={FAMOUS}%23{LAYERS[0]}/output-value"


@pytest.fixture(scope="session")
def axe(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core's script, from the npm registry, of that very digest; kept in pytest's cache."""
    kept = pytestconfig.cache.mkdir("axe-core") / f"{VERSION}.tgz" if pytestconfig.cache else None
    if kept is None or not kept.is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("no accessibility tests: there is no npm here to fetch axe-core with")
        folder = tmp_path_factory.mktemp("axe")
        done = subprocess.run([npm, "pack", "--silent", f"axe-core@{VERSION}"], cwd=folder, capture_output=True, text=True, check=False, timeout=120)  # fmt: skip
        found = list(folder.glob("*.tgz"))
        if done.returncode or not found:
            pytest.skip(f"no accessibility tests: axe-core could not be fetched: {done.stderr.strip()[-200:]}")
        kept = Path(shutil.move(found[0], kept or folder / "axe.tgz"))
    digest = hashlib.sha512(kept.read_bytes()).digest()
    assert base64.b64encode(digest).decode() == SHA512, f"{kept} is not axe-core {VERSION}"
    with tarfile.open(kept) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious(
    visit: "Callable[..., Page]",
    axe: str,
    gallery_folder: Path,
    hostile_folder: Path,
    composite_folder: Path,
    scheme: str,
    width: int,
) -> None:
    views = [
        "",
        "#q=warm",
        "#q=nothing+like+it",
        f"#model={FAMOUS}",
        f"{DIRECTION}/0",
        f"{DIRECTION}/3",
        "#model=zeta/rooms",
    ]
    found = []
    composites = [
        "",
        "#of=composites",
        f"#model={FAMOUS}",
        f"#direction={FAMOUS}%23composite/big-smile",
        f"{DIRECTION}:output/0",
    ]
    pages = [*((gallery_folder, view) for view in views), *((composite_folder, view) for view in composites)]
    for folder, hash in [*pages, (hostile_folder, "#named=yes")]:
        page = visit(folder, hash, width=width, color_scheme=scheme)
        page.locator("main h1").wait_for(state="attached")
        page.wait_for_timeout(300)
        page.evaluate(axe)
        result = page.evaluate("axe.run({preload: false, resultTypes: ['violations', 'passes']})")
        assert len(result["passes"]) > 10
        for each in result["violations"]:
            if each["impact"] in ("serious", "critical"):
                nodes = [f"{node['target']}: {node['failureSummary']}" for node in each["nodes"][:3]]
                found.append(f"{hash or 'front'}: {each['id']}: {each['help']}: {nodes}")
        page.context.close()
    assert not found, "\n".join(found)
