"""`eigenbank demo`: build, label, store, load and steer on the checkpoint that ships. Every number is measured as it runs."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eigenbank.cli.make import LABEL_COLUMNS, label_rows
from eigenbank.cli.output import echo_table, log, progress_bar
from eigenbank.cli.steer import check_picture
from eigenbank.schemas.errors import SteerError

if TYPE_CHECKING:
    from eigenbank.builders.label.settings import LabelSettings

RECIPES = ("output-value@0-0.5", "output-value@0.3-0.8", "qkv@0.2-0.6")
TOP_K = 8
FACES = "5,18,27"
"""Seeds of three faces that differ in skin, hair and beard; labelling does not use them."""


@click.command()
@click.option(
    "--top-k", type=click.IntRange(1, 64), default=TOP_K, show_default=True, help="Directions per layer and recipe."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("demo.png"),
    show_default=True,
    help="PNG to write.",
)
def demo(top_k: int, out: Path) -> None:
    """Build, label, catalog, load and steer on the shipped checkpoint of cartoon faces; a few minutes on two cores.

    It uses a temporary catalog and leaves yours alone.

    \b
    Example:
      eigenbank demo --out demo.png
    """
    from eigenbank.builders.label.settings import LabelSettings

    few = LabelSettings(seeds=tuple(range(100, 116)), quality_seeds=0)  # two minutes or three
    check_picture(out)
    with tempfile.TemporaryDirectory(prefix="eigenbank-demo-") as home:
        os.environ["EIGENBANK_HOME"] = home
        os.environ.pop("EIGENBANK_CATALOG", None)
        run_demo(top_k, out, few)


def run_demo(top_k: int, out: Path, settings: "LabelSettings", layers: str = "*") -> None:
    """Go through all steps in the catalog of EIGENBANK_HOME, with so many directions a layer and recipe."""
    from eigenbank.api import build, find_checkpoint
    from eigenbank.builders.label.labeler import open_labelers
    from eigenbank.loaders.pipelines import open_pipeline
    from eigenbank.naming import label
    from eigenbank.registry.local import store
    from eigenbank.registry.sets.bundled import DEMO_MODEL_ID

    _, checkpoint = find_checkpoint(DEMO_MODEL_ID)
    log(f"1. Build: eigenvectors of the self-attention weights of {DEMO_MODEL_ID}")
    started = time.perf_counter()
    bank = build(DEMO_MODEL_ID, layers=layers, recipes=RECIPES, top_k=top_k)
    log(
        f"   {len(bank)} directions of {len(bank.layers)} layers in {time.perf_counter() - started:.2f} s (imports included), from weights alone"
    )

    log(
        "2. Label: what does each direction do to the faces? This generates hundreds of small images: two minutes or three"
    )
    started = time.perf_counter()
    with progress_bar("images") as progress:
        bank = label(
            open_pipeline(checkpoint),
            bank.labelled({direction.id: () for direction in bank}),
            open_labelers(["attributes"], checkpoint),
            settings,
            progress=progress,
        )
    named = sum(bool(direction.labels) for direction in bank)
    log(
        f"   {named} of {len(bank)} directions and {len(bank.composites)} composites of them have names ({len(bank.labels)} labels), in {time.perf_counter() - started:.0f} s"
    )

    if not bank.labels:
        message = "no direction could be named: build more of them (--top-k). No picture was drawn"
        raise SteerError(message)
    log("3. Catalog: write the set, add it to the catalog")
    bank = store(bank, checkpoint=checkpoint, replace=True)

    log("4. Load it by its model id in a new process, steer, generate")
    command = ["sweep", DEMO_MODEL_ID, "--scales=-2,-1,0,1,2", f"--seeds={FACES}", "--out", str(out)]
    safe = {**os.environ, "PYTHONSAFEPATH": "1"}  # not a folder called eigenbank in the working directory
    done = subprocess.run([sys.executable, "-m", "eigenbank", *command], check=False, env=safe)
    if done.returncode:
        message = f"`eigenbank {' '.join(command)}` failed with {done.returncode}: no picture was drawn"
        raise SteerError(message)

    rows = label_rows(bank)
    best = {row["label"]: row for row in reversed(rows)}
    echo_table([row for row in rows if best[row["label"]] is row], LABEL_COLUMNS)
    log(
        "effect: change of the labelled factor in standard deviations of the population, per unit scale; "
        "at_random: root mean square of what random directions of equal length do to it there; "
        "selectivity: its share of all the change; consistency: share of the seeds that agree in sign"
    )
