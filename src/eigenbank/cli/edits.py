"""What an edit is, on the command line: names and scales, sliders files, and when and where it acts."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eigenbank.cli.output import say

if TYPE_CHECKING:
    from eigenbank.schemas import Sliders

F = TypeVar("F", bound=Callable[..., Any])

set_option = click.option(
    "--set", "edits", multiple=True, metavar="NAME=SCALE", help="A label or id and its scale; repeatable."
)
sliders_option = click.option(
    "--sliders",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Sliders file: names, scales and the rest.",
)


def wanted_sliders(
    edits: dict[str, float], file: Path | None, *, window: Any = None, guidance: Any = None, site: Any = None
) -> "Sliders":
    """The sliders of a call: those of the file, with those of `--set` put in their place or behind them.

    What the file leaves open is as the options say. Raises UsageError where there are none, BadParameter, SteerError.
    """
    from pydantic import ValidationError

    from eigenbank.registry.sliders import read_sliders
    from eigenbank.schemas import Slider, Sliders

    if not edits and file is None:
        message = "an edit of nothing: give --set NAME=SCALE, or --sliders FILE"
        raise click.UsageError(message)
    given = None if file is None else read_sliders(file)
    said = {} if given is None else {slider.key: dict(slider) for slider in given.sliders}
    for key, scale in edits.items():
        said[key] = {**said.get(key, {"key": key}), "scale": scale}
    options = {"window": window, "guidance": guidance, "site": site}
    for slider in said.values():
        slider.update({name: value for name, value in options.items() if slider.get(name) is None})
    try:
        return Sliders(
            model=None if given is None else given.model, sliders=tuple(Slider(**slider) for slider in said.values())
        )
    except ValidationError as error:
        message = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise click.BadParameter(message, param_hint="--set") from None


def save_sliders(sliders: "Sliders", model_id: str, out: Path) -> None:
    """Write the sliders of a call to a file, with the model whose names they are."""
    from eigenbank.registry.sliders import write_sliders

    write_sliders(out, sliders.model_copy(update={"model": model_id}))
    say(f"wrote {out}")
