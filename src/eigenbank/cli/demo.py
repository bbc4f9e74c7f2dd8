"""`eigenbank demo`: build, name, store, load and steer on the checkpoint that ships. Every number is measured as it runs."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenbank.cli.make import LABEL_COLUMNS, label_rows
from eigenbank.cli.output import echo_table, log, progress_bar
from eigenbank.cli.steer import check_picture
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import SteerError

if TYPE_CHECKING:
    from eigenbank.registry.sets.direction_set import DirectionSet

Words = tuple[tuple[str, str, Drawing], ...]

FITTED = 2
"""So many of the words have sliders that are fitted to pictures, which any file can hold; the others are the words' own, and need all
directions that layers write."""
ANYBODY = Drawing(prompts=("a person", "an avatar of a person", "a cartoon face"))
SHAPES = Drawing(
    prompts=(
        "a smiling person with short hair and no beard in a t-shirt",
        "a laughing person with long hair and no beard in a dress",
        "a person with open eyes, spiky hair and a beard in a turtleneck",
    )
)
LOOKS = Drawing(
    prompts=(
        "a smiling person with short brown hair and tan skin in a blue t-shirt on a white background",
        "a person with long straight black hair and pale skin in a green dress on a blue background",
        "a laughing person with spiky red hair, brown skin and no beard in a white turtleneck on a yellow background",
        "someone with a short beard, cropped grey hair and dark skin in a red jacket on a green background",
        "a person with closed eyes, chin-length blond hair and tan skin in a purple cardigan on a pink background",
        "a face with an open mouth, a black bun and pale skin in a yellow t-shirt on a white background",
        "a winking person with side-combed brown hair, dark skin and a moustache in black clothes on a blue background",
        "a person with an angry mouth, shoulder-length red hair and brown skin in a pink dress on a green background",
    )
)
"""How pictures are drawn to find sliders. What a prompt says stays while a slider moves, so sliders of colours are found
with prompts that say shapes, and those of a mouth with prompts that say everything."""
WORDS = (
    ("with blond hair", "with black hair", ANYBODY),
    ("on a yellow background", "on a blue background", ANYBODY),
    ("smiling", "with an angry mouth", LOOKS),
    ("with grey hair", "with brown hair", SHAPES),
)
"""What sliders are looked for, what there is instead, and with which prompts. The last is the set's that ships alone: the demo is short."""
ON_MORE_SEEDS = {"confirm_most": 48, "chance_most": 24}
"""How the words' own sliders are confirmed: on the fewer seeds of the default, random vectors are not known well enough to tell them apart."""
SHOWN = ("a person with short hair and no beard in a jacket", "a person with long wavy hair in a dress")
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


def run_demo(out: Path, words: Words = WORDS[:3], top_k: int = 16, **settings: Any) -> None:
    """Go through all steps in the catalog of EIGENBANK_HOME, with so many directions a layer; `settings` are those of finding."""
    from eigenbank.api import build, find_checkpoint
    from eigenbank.registry.local import store

    _, checkpoint = find_checkpoint(DEMO_MODEL_ID)
    log(f"1. Build: eigenvectors of the self-attention weights of {DEMO_MODEL_ID}")
    started = time.perf_counter()
    bank = build(DEMO_MODEL_ID, top_k=top_k)
    log(
        f"   {len(bank)} directions of {len(bank.layers)} layers in {time.perf_counter() - started:.2f} s (imports included), from weights alone"
    )

    log(
        "2. Find a slider for each word: hundreds of small images, read by the checkpoint's small image-text model; minutes"
    )
    started = time.perf_counter()
    settings = {"quality_seeds": 0, **settings}
    bank = find_words(bank, words[:FITTED], **settings)
    if words[FITTED:]:
        bank = find_words(whole(bank), words[FITTED:], **(ON_MORE_SEEDS | settings))
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


def whole(bank: "DirectionSet") -> "DirectionSet":
    """The set with all directions that its layers write."""
    from dataclasses import replace

    import torch

    from eigenbank.api import build
    from eigenbank.registry.sets.direction_set import DirectionSet

    writes = build(DEMO_MODEL_ID, recipes=["output-value:output"], top_k=128)
    more = tuple(each for each in writes.manifest.directions if each.id not in bank)
    manifest = bank.manifest.model_copy(update={"directions": (*bank.manifest.directions, *more)})
    displacements = bank.displacements
    if displacements is not None:  # none of those that nothing was read of
        unread = displacements.mean.new_zeros(len(more), displacements.mean.shape[1])
        displacements = replace(displacements, mean=torch.cat([displacements.mean, unread]))
    return DirectionSet(manifest, vectors={**bank.vectors, **writes.vectors}, displacements=displacements)


def find_words(bank: "DirectionSet", words: Words = WORDS, **settings: Any) -> "DirectionSet":
    """The set with a slider for each of the words that has one; `settings` are those of finding."""
    from dataclasses import replace

    from eigenbank.api import find_checkpoint
    from eigenbank.builders.label.labeler import open_labelers
    from eigenbank.builders.label.settings import FINDING
    from eigenbank.loaders.pipelines import open_pipeline
    from eigenbank.naming import find
    from eigenbank.registry.files import readings_folder

    _, checkpoint = find_checkpoint(DEMO_MODEL_ID)
    pipe = open_pipeline(checkpoint)
    (reader,) = open_labelers(["clip"], checkpoint)
    for text, without, drawing in words:
        with progress_bar("images") as progress:
            found = find(
                pipe, bank, text, without=without, labeler=reader, settings=replace(FINDING, **settings),
                drawing=drawing, cache=readings_folder(), progress=progress, log=lambda _: None,
            )  # fmt: skip
        bank = found.directions
        log(f"   {text} (not {without}): {'nothing earned the name' if found.slider is None else found.slider.id}")
    return bank
