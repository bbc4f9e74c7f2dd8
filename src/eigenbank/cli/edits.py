"""What an edit is, on the command line: names and scales, sliders files, and when and where it acts."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eigenbank.cli import complete
from eigenbank.cli.options import Numbers
from eigenbank.cli.output import say
from eigenbank.schemas.recipe import SITES

if TYPE_CHECKING:
    from eigenbank.schemas import Sliders

F = TypeVar("F", bound=Callable[..., Any])

set_option = click.option(
    "--set",
    "edits",
    multiple=True,
    metavar="NAME=SCALE",
    shell_complete=complete.scaled,
    help="A label or id and its scale; repeatable.",
)
sliders_option = click.option(
    "--sliders",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Sliders file: names, scales and the rest.",
)


def _as_window(_ctx: click.Context, _param: click.Parameter, value: tuple[float, ...] | None) -> Any:
    """Two numbers as a window. Raises BadParameter for what is none."""
    if value is None:
        return None
    from pydantic import ValidationError

    from eigenbank.schemas import Window

    try:
        start, end = value
        return Window(start=start, end=end)
    except (ValueError, ValidationError):
        message = "expected two fractions of the run, the first the smaller, as in 0.2,0.8"
        raise click.BadParameter(message) from None


def acting_options(command: F) -> F:
    """Add `--window`, `--guidance`, `--site`, `--mask` and `--fold`: when, where and how the directions act."""
    for decorate in (
        click.option("--fold", is_flag=True, help="Write the edit into the layers' biases: no cost per step."),
        click.option(
            "--mask",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="PICTURE",
            help="Act where this picture is white.",
        ),
        click.option(
            "--site",
            type=click.Choice([*SITES, *SITES.values()]),
            metavar=f"[{'|'.join(SITES)}]",
            help="Add there instead of at the recipe's site; the full names of sliders files are understood too.",
        ),
        click.option(
            "--guidance",
            type=click.Choice(["both", "conditional", "unconditional"]),
            help="Act on one half of classifier-free guidance [default: both].",
        ),
        click.option(
            "--window",
            type=Numbers(whole=False, most=2),
            callback=_as_window,
            metavar="START,END",
            help="Act in this part of the run only, in fractions of it, as in 0.2,0.8.",
        ),
    ):
        command = decorate(command)
    return command


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
