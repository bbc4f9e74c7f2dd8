"""The filters of a search as options, shared by the commands that list directions."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from eigenbank.cli import complete
from eigenbank.registry.orders import SORTS

F = TypeVar("F", bound=Callable[..., Any])
_RATE = click.FloatRange(0, 1)

_OPTIONS = (
    click.option("--model", metavar="GLOB", shell_complete=complete.models, help="Model id, e.g. 'google/*'."),
    click.option("--family", "denoiser", metavar="GLOB", help="Kind of denoiser, e.g. 'UNet2D*'."),
    click.option("--layer", metavar="GLOB", shell_complete=complete.layers, help="Layer name, e.g. 'up_blocks.*'."),
    click.option("--kind", metavar="GLOB", help="Kind of layer: spatial, temporal, joint or undecided."),
    click.option("--width", type=int, metavar="N", help="Width of the layer."),
    click.option("--recipe", metavar="GLOB", shell_complete=complete.recipes, help="Recipe, e.g. output-value:output."),
    click.option("--rank", type=int, metavar="N", help="Place in the spectrum; 0 has the largest eigenvalue."),
    click.option("--min-eigenvalue", type=float, metavar="X", help="Smallest eigenvalue."),
    click.option("--max-eigenvalue", type=float, metavar="X", help="Largest eigenvalue."),
    click.option("--min-share", type=float, metavar="X", help="Smallest share of the spectrum, 0 to 1."),
    click.option("--max-share", type=float, metavar="X", help="Largest share of the spectrum."),
    click.option("--source", metavar="GLOB", help="Who says the label: 'human', 'human:ann', 'clip:*'."),
    click.option("--min-confidence", type=_RATE, metavar="P", help="Least confidence of the label."),
    click.option("--labelled/--unlabelled", default=None, help="Only directions with a label, or only those without."),
    click.option("--min-effect", type=float, metavar="X", help="Least effect, in deviations per unit scale."),
    click.option("--min-selectivity", type=_RATE, metavar="P", help="Least share of one score in all that it moves."),
    click.option("--min-consistency", type=_RATE, metavar="P", help="Least share of seeds on which the sign agrees."),
    click.option("--min-linearity", type=_RATE, metavar="P", help="Least R² of a line from the scale to the effect."),
    click.option(
        "--min-locality", type=_RATE, metavar="P", help="Least share of the change in a tenth of the picture."
    ),
    click.option("--max-drift", type=float, metavar="X", help="Most change of the other scores, in deviations."),
    click.option("--min-gap", type=float, metavar="X", help="Least distance to the next eigenvalue, over the largest."),
    click.option(
        "--composites/--no-composites", default=None, help="Only composites of directions, or only single directions."
    ),
    click.option("--licence", metavar="GLOB", help="Licence of the checkpoint."),
    click.option("--location", metavar="GLOB", help="Where the set is: a folder, or shipped:NAME."),
    click.option("--sort", type=click.Choice(SORTS), default="match", show_default=True, help="Order of the rows."),
    click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most rows to print."),
    click.option("--cursor", metavar="CURSOR", help="Go on after the page that printed this cursor."),
)


def filter_options(command: F) -> F:
    """Add the filters, --sort, --limit and --cursor to a command; they arrive under `Catalog.search`'s names."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def names_given(names: tuple[str, ...], model: str | None = None, *, what: str = "direction") -> list[str]:
    """The names of a command's arguments; `-` stands for those on standard input, one a line, as `-q` prints them. Of a
    `model`, if given, are those that name none.
    """
    found: list[str] = []
    for name in names:
        if name != "-":
            found.append(name)
            continue
        lines = [line.rstrip("\r\n") for line in sys.stdin]
        given = [line for line in lines if line.strip()]
        if not given:
            message = f"no {what} on standard input: expected one a line, as `eigenbank search WORD -q` prints them"
            raise click.UsageError(message)
        found += given
    return list(dict.fromkeys(f"{model}#{name}" if model and "#" not in name else name for name in found))
