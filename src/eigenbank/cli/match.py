"""`eigenbank match`: do the directions of a set belong to a checkpoint?"""

from collections import Counter

import click

from eigenbank.cli.options import catalog_option, source_options
from eigenbank.cli.output import emit, output_options, say

COLUMNS = ["direction", "verdict", "score", "reason"]


@click.command(short_help="Tell how a set's directions match a checkpoint.")
@click.argument("directions", metavar="SET")
@click.argument("model", metavar="PIPELINE_DIR")
@source_options
@catalog_option
@output_options
def match(
    directions: str, model: str, revision: str | None, variant: str | None, config: str | None, fmt: str, quiet: bool
) -> int:
    """Tell, from the checkpoint's own weights, how the directions of a set match it. Only attention tensors are read.

    SET is a set's folder or a model id; PIPELINE_DIR a folder, file or model id, as `build` takes it. `exact`: the very
    weights; `transfer`: others of which a direction is still an eigenvector, the score being cos∠(M′v, v);
    `structure`: quantised weights, of which only the shape can be compared; `foreign` and `incompatible` are refused
    by steer. Exits with 1 if no direction can be applied.

    \b
    Example:
      eigenbank match eigenbank/cartoon-faces-32 eigenbank/cartoon-faces-32 --format csv
    """
    from eigenbank.api import match as match_set

    found = match_set(directions, model, revision=revision, variant=variant, config=config)
    rows = [
        {
            "direction": each.direction.id,
            "layer": each.direction.layer,
            "verdict": each.verdict,
            "score": each.score,
            "reason": each.reason,
        }
        for each in found
    ]
    counts = Counter(each.verdict for each in found)
    say(f"{len(found)} directions: {', '.join(f'{count} {name}' for name, count in counts.items()) or 'none'}")
    emit(rows, COLUMNS, fmt=fmt, quiet=quiet, key="direction")
    return 0 if counts["exact"] + counts["transfer"] + counts["structure"] else 1
