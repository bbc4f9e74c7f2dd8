"""`eigenbank demo`: build, name, store, load and steer on the checkpoint that ships. Every number is measured as it runs."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from eigenbank.cli.make import LABEL_COLUMNS, label_rows
from eigenbank.cli.output import echo_table, log, progress_bar
from eigenbank.cli.steer import check_picture
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import SteerError

RECIPES = ("output-value", "output-value:output")
WORDS = {
    "with blond hair": "with black hair",
    "on a yellow background": "on a blue background",
    "in a dress": "in a t-shirt",
}
"""What sliders are looked for, and what there is instead."""
DRAWING = Drawing(prompts=("a person", "an avatar of a person", "a cartoon face"))
"""How pictures are drawn to find them."""
SHOWN = ("a smiling person with short hair in a jacket", "a person with long wavy hair in a dress")
SEEDS = "1-6"
"""Prompts and seeds of the picture, three seeds for each prompt; nothing was found with either."""


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("demo.png"),
    show_default=True,
    help="PNG to write.",
)
def demo(out: Path) -> None:
    """Run everything on the checkpoint that ships, a small text-to-image model: build, find sliders for words, catalog,
    load, steer. It takes some minutes on two cores.

    It uses a temporary catalog and leaves yours alone.

    \b
    Example:
      eigenbank demo --out demo.png
    """
    check_picture(out)
    with tempfile.TemporaryDirectory(prefix="eigenbank-demo-") as home:
        os.environ["EIGENBANK_HOME"] = home
        os.environ.pop("EIGENBANK_CATALOG", None)
        run_demo(out)


def run_demo(out: Path, words: Mapping[str, str] = WORDS, top_k: int = 16, **settings: Any) -> None:
    """Go through all steps in the catalog of EIGENBANK_HOME, with so many directions a layer and recipe; `settings` are those of finding."""
    from dataclasses import replace

    from eigenbank.api import build, find_checkpoint
    from eigenbank.builders.label.labeler import open_labelers
    from eigenbank.builders.label.settings import FINDING
    from eigenbank.loaders.pipelines import open_pipeline
    from eigenbank.naming import find
    from eigenbank.registry.files import readings_folder
    from eigenbank.registry.local import store

    _, checkpoint = find_checkpoint(DEMO_MODEL_ID)
    log(f"1. Build: eigenvectors of the self-attention weights of {DEMO_MODEL_ID}")
    started = time.perf_counter()
    bank = build(DEMO_MODEL_ID, recipes=RECIPES, top_k=top_k)
    log(
        f"   {len(bank)} directions of {len(bank.layers)} layers in {time.perf_counter() - started:.2f} s (imports included), from weights alone"
    )

    log(
        "2. Find a slider for each word: hundreds of small images, read by the checkpoint's small image-text model; minutes"
    )
    started, pipe = time.perf_counter(), open_pipeline(checkpoint)
    (reader,) = open_labelers(["clip"], checkpoint)
    for text, without in words.items():
        with progress_bar("images") as progress:
            found = find(
                pipe, bank, text, without=without, labeler=reader, settings=replace(FINDING, quality_seeds=0, **settings),
                drawing=DRAWING, cache=readings_folder(), progress=progress, log=lambda _: None,
            )  # fmt: skip
        bank = found.directions
        log(f"   {text} (not {without}): {'nothing earned the name' if found.slider is None else found.slider.id}")
    log(f"   {len(bank.labels)} of {len(words)} words have a slider, in {time.perf_counter() - started:.0f} s")
    if not bank.labels:
        message = "no word has a slider. No picture was drawn"
        raise SteerError(message)

    log("3. Catalog: write the set, add it to the catalog")
    bank = store(bank, checkpoint=checkpoint, replace=True)

    log("4. Load it by its model id in a new process, steer, generate")
    command = ["sweep", DEMO_MODEL_ID, "--scales=-2,-1,0,1,2", f"--seeds={SEEDS}", "--steps=10", "--out", str(out)]
    command += [f"--prompt={prompt}" for prompt in SHOWN]
    safe = {**os.environ, "PYTHONSAFEPATH": "1"}  # not a folder called eigenbank in the working directory
    done = subprocess.run([sys.executable, "-m", "eigenbank", *command], check=False, env=safe)
    if done.returncode:
        message = f"`eigenbank {' '.join(command)}` failed with {done.returncode}: no picture was drawn"
        raise SteerError(message)

    rows = label_rows(bank)
    best = {row["label"]: row for row in reversed(rows)}
    echo_table([row for row in rows if best[row["label"]] is row], LABEL_COLUMNS)
    log(
        "effect: change of the word's score in standard deviations of the checkpoint's own pictures, per unit scale; "
        "at_random: root mean square of what random directions of equal length do to it there; "
        "selectivity: its share of all the change; consistency: share of the seeds that agree in sign"
    )
