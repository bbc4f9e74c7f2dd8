"""`eigenbank label`: name the directions of a set by what they are seen to do."""

from pathlib import Path

import click

from eigenbank.cli.options import SEEDS, catalog_option
from eigenbank.cli.output import emit, output_options, progress_bar, say


@click.command(short_help="Name directions by what they do to the images.")
@click.argument("model")
@click.option(
    "--attributes", type=click.Path(path_type=Path), help="Attribute model [default: the checkpoint's attributes/]."
)
@click.option(
    "--scale", type=click.FloatRange(0.01, 10), default=1.0, show_default=True, help="Measure at ± this scale."
)
@click.option("--seeds", type=SEEDS, default="100-103", show_default=True, help="Seeds to screen all directions on.")
@click.option(
    "--confirm-seeds", type=SEEDS, default="200-211", show_default=True, help="Seeds to confirm the found ones on."
)
@click.option("--steps", type=click.IntRange(1, 1000), default=10, show_default=True, help="Denoising steps per image.")
@click.option(
    "--most", type=click.IntRange(1, 1000), default=4, show_default=True, help="Directions to confirm per attribute."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the set to this new folder instead of the data folder."
)
@catalog_option
@output_options
def label(
    model: str,
    attributes: Path | None,
    scale: float,
    seeds: tuple[int, ...],
    confirm_seeds: tuple[int, ...],
    steps: int,
    most: int,
    out: Path | None,
    fmt: str,
    quiet: bool,
) -> None:
    """Name directions by what they do: an attribute model reads edited images; a clear, steady leader becomes the label.

    MODEL is a model id of the catalog. All directions are screened on a few seeds, the most promising ones for each
    attribute measured again on others. The set is written anew and takes the former one's place in the catalog.

    \b
    Example:
      eigenbank label eigenbank/cartoon-faces-32
    """
    from eigenbank.loaders.load import load
    from eigenbank.loaders.pipelines import open_pipeline
    from eigenbank.registry.bank import Bank
    from eigenbank.workflows import find_checkpoint, keep
    from eigenbank.workflows import label as label_bank

    model_id, checkpoint = find_checkpoint(model)
    folder = load(model_id).folder
    assert folder is not None
    bank = Bank.open(folder)  # as it lies there, without the labels that the catalog's people gave: those stay theirs
    with progress_bar() as progress:
        bank = label_bank(
            bank,
            open_pipeline(checkpoint),
            attributes or checkpoint / "attributes",
            scale=scale,
            seeds=seeds,
            confirm_seeds=confirm_seeds,
            steps=steps,
            most=most,
            progress=progress,
        )
    bank = keep(bank, checkpoint=checkpoint, out=out)
    rows = label_rows(bank)
    say(f"{len(rows)} labels on {len(bank)} directions of {model_id} → {bank.folder}")
    emit(rows, LABEL_COLUMNS, fmt=fmt, quiet=quiet, key="id")


LABEL_COLUMNS = ["label", "direction", "effect", "selectivity", "consistency", "confidence", "also_moves"]


def label_rows(bank: object) -> list[dict[str, object]]:
    """The labels of a bank as rows, the best direction of every label first."""
    from eigenbank.registry.bank import Bank

    assert isinstance(bank, Bank)
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
                            "selectivity": evidence and evidence.selectivity,
                            "consistency": evidence and evidence.consistency,
                            "confidence": found.confidence,
                            "also_moves": evidence and f"{evidence.runner_up} {evidence.runner_up_effect:+.2f}",
                            "source": found.source,
                        }
                    )
    return rows
