"""What the README and the docs show, runs, page by page, against a Hub on loopback; and nothing in them leads nowhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forks
import pytest
import tiny_pipelines
from hub.server import Hub
from pages import blocks, loose, script

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
SLOW = {"how-it-works", "steering"}
"""Pages that draw much; CI runs them by themselves."""
RUN = [
    pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else [])
    for page in PAGES
    if script(page)
]
MOST_NOT_RUN = 20
STAND_INS = {"stabilityai/stable-diffusion-xl-base-1.0": "sdxl", "black-forest-labs/FLUX.1-schnell": "flux"}
"""Large models that pages speak of, and the tiny pipelines of the same classes that run in their place."""
"""Blocks that are shown and not run, in all."""


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, faces_checkpoint: Path) -> Path:
    """A folder with what the pages speak of: a checkpoint `acme-faces`, its set `acme/faces` in a catalog, a photo."""
    folder = tmp_path_factory.mktemp("ready")
    shutil.copytree(faces_checkpoint, folder / "acme-faces", ignore=shutil.ignore_patterns("directions"))
    code = """
import torch
from PIL import Image
from eigenbank.cli.main import run
from faces.render import render, sample_factors
face = render(sample_factors(1, torch.Generator().manual_seed(2024)))[0]
pixels = ((face.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
Image.fromarray(pixels).save("photo.jpg", quality=95)
assert run(["build", "acme-faces", "--model-id", "acme/faces", "--layers", "mid_block.*", "--top-k", "4"]) == 0
for text, name in {"smile": "output-value:output/0", "age": "output-value:output/1", "long hair": "output-value/0"}.items():
    assert run(["labels", "add", f"acme/faces#mid_block.attentions.0/{name}", text, "--by", "ann"]) == 0
"""
    environment = {
        **os.environ, "EIGENBANK_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT / "benchmarks"),
    }  # fmt: skip
    environment.pop("EIGENBANK_CATALOG", None)
    done = subprocess.run(
        [forks.python(), "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for kind in STAND_INS.values():
        tiny_pipelines.save(kind, folder / kind)
    return folder


@pytest.mark.skipif(shutil.which("bash") is None, reason="the pages are run by bash")
@pytest.mark.parametrize("page", RUN)
def test_the_page_runs(page: Path, ready: Path, tmp_path: Path) -> None:
    place = tmp_path / "reader"
    place.mkdir()
    shutil.copyfile(ready / "photo.jpg", place / "photo.jpg")
    (place / "acme-faces").symlink_to(ready / "acme-faces")
    shutil.copytree(ready / "home", tmp_path / "client" / "eigenbank")
    text = script(page)
    for name, kind in STAND_INS.items():
        text = text.replace(name, str(ready / kind))
    for name in ("Makefile", "examples", "benchmarks"):
        (place / name).symlink_to(ROOT / name)
    with Hub() as hub:
        environment = hub.environment(tmp_path / "client")
        environment["PATH"] = os.pathsep.join(
            [str(forks.programs()), str(Path(sys.executable).parent), environment["PATH"]]
        )
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr


def test_what_is_not_run_says_why_and_is_little() -> None:
    left_out = [(page.name, block.reason) for page in PAGES for block in blocks(page) if block.reason is not None]
    assert all(len(reason or "") > 10 for _, reason in left_out)
    assert len(left_out) <= MOST_NOT_RUN, left_out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_code_stand_in_blocks_that_run(page: Path) -> None:
    assert loose(page) == []
    for block in blocks(page):
        if page.name != "cli.md":
            assert block.language in ("sh", "python", "json", "toml", "bibtex", "ts"), (block.language, block.text[:60])


@pytest.mark.parametrize("page", [*PAGES, *sorted((DOCS / "decisions").glob("*.md"))], ids=lambda page: page.stem)
def test_links_and_pictures_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith(("http", "mailto")) or (page.parent / target).exists(), target


def test_the_tables_of_the_evaluation_are_those_of_the_results() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "tools" / "evaluation.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
