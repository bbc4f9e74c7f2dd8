"""Checkpoints of many families, small enough to be built in milliseconds, and what a run of a plan left behind."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import textpipes
import tiny_pipelines
import torch
import zoo
from hub.server import Hub
from making import make_checkpoint

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.sets.folder import VECTORS, read_manifest

DEFAULTS = """\
[defaults]
top_k = 2
drawing = {steps = 2}
measurement = {seeds = [100], confirm_seeds = [200, 201], null = 1}
previews = {seeds = [0], scales = [-1, 1]}
"""
DRAWN = ("ddpm", "ldm", "sd")
"""Families that are whole pipelines; the others are denoisers alone, which nothing can be drawn with."""


@cache
def _home() -> Path:
    return Path(mkdtemp(prefix="plans-"))


@cache
def checkpoint(family: str, seed: int) -> Path:
    """The folder of a checkpoint: `ddpm`, `ldm`, `sd` with a text encoder, or a denoiser class of the zoo."""
    folder = _home() / f"{family}-{seed}"
    if family == "ddpm":
        return make_checkpoint(folder, seed=seed)
    if family in DRAWN:
        pipe = textpipes.latent_diffusion() if family == "ldm" else tiny_pipelines.make("sd")
        stir(pipe.unet, seed)
        pipe.save_pretrained(folder)
    else:
        model = zoo.make(family)
        stir(model, seed)
        model.save_pretrained(folder)
    return folder


def stir(model: Any, seed: int) -> None:
    """Give a model weights of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def put(hub: Hub, repo: str, family: str = "ddpm", seed: int = 0, **more: bytes) -> str:
    """Push a checkpoint to the Hub. Returns the commit."""
    folder = checkpoint(family, seed)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return hub.put(repo, {**files, "README.md": b"---\nlicense: mit\n---\n", **more})


def write_plan(path: Path, entries: dict[str, str], more: str = "") -> Path:
    """Write a plan of these ids and families."""
    lines = [DEFAULTS + more]
    for name, family in entries.items():
        steps = "" if family in DRAWN else '\nsteps = ["build", "publish"]'
        prompt = '\ndrawing = {prompts = ["a face"]}' if family == "sd" else ""
        lines.append(f'[[checkpoint]]\nid = "{name}"{steps}{prompt}\n')
    path.write_text("\n".join(lines))
    return path


def left_behind(home: Path, hub: Hub) -> dict[str, Any]:
    """What a run left in the catalog, in the sets and on the Hub, without times and places."""
    found = {}
    with Catalog.open(home / "eigenbank" / "catalog.db", shipped=False) as catalog:
        rows = [row for row in catalog.sets() if row.model_id.startswith("zoo/")]
    for row in rows:
        manifest = read_manifest(Path(row.location))
        facts = (row.denoiser, row.licence, row.builder, row.directions, row.labels, row.repo)
        vectors = (Path(row.location) / VECTORS).read_bytes()
        published = hub.files(row.repo) if row.repo else {}
        assert not published or published[VECTORS] == vectors
        previews = {name: data for name, data in published.items() if name.startswith("previews/")}
        records = timeless(manifest.model_dump(mode="json", include={"checkpoint", "layers", "directions"}))
        found[row.model_id, row.revision] = (facts, records, vectors, sorted(published), previews)
    return found


def timeless(value: Any) -> Any:
    """A JSON document without the times in it."""
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if key != "created"}
    return [timeless(each) for each in value] if isinstance(value, list) else value
