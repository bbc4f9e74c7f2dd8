"""`eigenbank label`: name the directions of a set by what they are seen to do."""

from pathlib import Path

import click

from eigenbank.cli import complete
from eigenbank.cli.options import SEEDS, catalog_option
from eigenbank.cli.output import emit, output_options, progress_bar, say


@click.command(short_help="Name directions by what they do to the images.")
@click.argument("model", shell_complete=complete.models_or_folders)
@click.option(
    "--labeler",
    "labelers",
    multiple=True,
    metavar="NAME[:ARGUMENT]",
    help="Who names: statistics, attributes:FOLDER, clip:MODEL@REVISION#VOCABULARY, or a plugin's; several may be given "
    "[default: the checkpoint's attributes/ where there are, else statistics].",
)
@click.option(
    "--scale", type=click.FloatRange(0.01, 10), default=1.0, show_default=True, help="Measure at ± this scale."
)
@click.option("--seeds", type=SEEDS, default="100-107", show_default=True, help="Seeds to screen all directions on.")
@click.option(
    "--confirm-seeds", type=SEEDS, default="200-223", show_default=True, help="Seeds to confirm the found ones on."
)
@click.option(
    "--confirm-most",
    type=click.IntRange(1, 1000),
    default=48,
    show_default=True,
    help="Where the seeds to confirm on do not settle it, more are taken, up to so many.",
)
@click.option(
    "--chance-most",
    type=click.IntRange(1, 1000),
    default=24,
    show_default=True,
    help="Where more seeds are taken, random directions go along up to so many, each on its share of them.",
)
@click.option("--steps", type=click.IntRange(1, 1000), default=10, show_default=True, help="Denoising steps per image.")
@click.option(
    "--most", type=click.IntRange(1, 1000), default=4, show_default=True, help="Directions to confirm per score."
)
@click.option(
    "--null",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Random directions at every place, which a labelled one must beat.",
)
@click.option(
    "--parts",
    type=click.IntRange(0, 1000),
    default=32,
    show_default=True,
    help="Most directions in a composite, one of which is tried for each score; 0 for none.",
)
@click.option(
    "--all-qualities", is_flag=True, help="Measure the quality of every direction, not of the labelled alone."
)
@click.option("--device", default="cpu", show_default=True, help="Where to draw: cpu, cuda, …")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the set to this new folder instead of the data folder."
)
@catalog_option
@output_options
def label(
    model: str,
    labelers: tuple[str, ...],
    scale: float,
    seeds: tuple[int, ...],
    confirm_seeds: tuple[int, ...],
    confirm_most: int,
    chance_most: int,
    steps: int,
    most: int,
    null: int,
    parts: int,
    all_qualities: bool,
    device: str,
    out: Path | None,
    fmt: str,
    quiet: bool,
) -> None:
    """Name directions by what they do: labelers read edited images; a clear, steady leader becomes the label.

    MODEL is a model id of the catalog. All directions are screened on a few seeds, the most promising ones for each
    score measured again on others, as is a composite of directions fitted to each; what does not beat random directions
    stays unnamed. The set is written anew and
    takes the former one's place in the catalog. Cut short and run again, it goes on.

    \b
    Example:
      eigenbank label eigenbank/cartoon-faces-32 --labeler attributes --labeler statistics
    """
    from eigenbank.api import find_checkpoint, keep
    from eigenbank.loaders.load import set_of
    from eigenbank.registry.paths import readings_folder
    from eigenbank.registry.sets.folder import check_new

    if out is not None:
        check_new(out)
    model_id, checkpoint = find_checkpoint(model)
    bank = set_of(model_id)
    from eigenbank.builders.label.labeler import open_labelers
    from eigenbank.builders.label.study import Plan
    from eigenbank.builders.label.study import label as label_bank
    from eigenbank.loaders.pipelines import open_pipeline

    opened = open_labelers(list(labelers), checkpoint)
    plan = Plan(
        scale=scale,
        seeds=seeds,
        confirm_seeds=confirm_seeds,
        confirm_most=confirm_most,
        chance_most=chance_most,
        steps=steps,
        most=most,
        null=null,
        parts=parts,
        all_qualities=all_qualities,
    )
    with progress_bar() as progress:
        pipe = open_pipeline(checkpoint, device)
        bank = label_bank(bank, pipe, opened, plan, cache=readings_folder(), progress=progress, say=say)
    bank = keep(bank, checkpoint=checkpoint, out=out, replace=True)
    rows = label_rows(bank)
    say(f"{len(rows)} labels on {len(bank)} directions of {model_id} → {bank.folder}")
    if not rows:
        say(
            f"nothing earned a name, which is common. Look yourself: eigenbank sweep {model_id} DIRECTION… --out sweep.png (ids: "
            f"eigenbank list --model {model_id}), and name what you see: eigenbank labels add --model {model_id} DIRECTION WORD. "
            "Or try more directions per score (--most), other seeds (--seeds, --confirm-seeds), or more recipes (eigenbank "
            "build --recipe)"
        )
    emit(rows, LABEL_COLUMNS, fmt=fmt, quiet=quiet, key="id")


LABEL_COLUMNS = ["label", "direction", "effect", "at_random", "selectivity", "consistency", "confidence", "also_moves"]


def label_rows(bank: object) -> list[dict[str, object]]:
    """The labels of a bank as rows, the best direction of every label first."""
    from eigenbank.registry.sets.direction_set import DirectionSet

    assert isinstance(bank, DirectionSet)
    rows: list[dict[str, object]] = []
    for text in bank.labels:
        for direction in bank.search(text):
            for found in direction.labels:
                if found.text == text:
                    evidence = found.evidence
                    rows.append(
                        {
                            "id": direction.full_id,
                            "label": text,
                            "direction": direction.id,
                            "polarity": found.polarity,
                            "effect": evidence and evidence.effect,
                            "at_random": evidence and evidence.null,
                            "selectivity": evidence and evidence.selectivity,
                            "consistency": evidence and evidence.consistency,
                            "confidence": found.confidence,
                            "also_moves": evidence and f"{evidence.runner_up} {evidence.runner_up_effect:+.2f}",
                            "source": found.source,
                        }
                    )
    return rows
