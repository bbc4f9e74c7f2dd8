"""Options that several commands share: which checkpoint, which seeds and scales, which edit."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eigenbank.cli import complete
from eigenbank.cli.output import log
from eigenbank.schemas.recipe import SITES

if TYPE_CHECKING:
    from eigenbank.schemas import Sliders

F = TypeVar("F", bound=Callable[..., Any])


def source_options(command: F) -> F:
    """Add `--revision`, `--variant` and `--config`: which weights of a checkpoint to read."""
    for name, metavar, text in (
        ("--config", "WHERE", "Folder, file or Hub id with the config.json of a single-file checkpoint."),
        ("--variant", "NAME", "Weights to read if a folder has several, e.g. fp16."),
        ("--revision", "REV", "Branch, tag or commit of a Hub repository."),
    ):
        command = click.option(name, metavar=metavar, help=text)(command)
    return command


if TYPE_CHECKING:
    NumbersType = click.ParamType[tuple[float, ...]]
else:
    NumbersType = click.ParamType  # generic only in newer releases of click


class Numbers(NumbersType):
    """A comma-separated list of finite numbers, or of whole ones, among which `0-5` is a range."""

    def __init__(self, *, whole: bool, most: int, example: str = "-2,-1,0,1,2") -> None:
        self.whole = whole
        self.example = example
        self.most = most
        self.name = "seeds" if whole else "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if not isinstance(value, str):
            return tuple(value)
        numbers: list[float] = []
        for part in value.split(","):
            try:
                numbers.extend(self._part(part.strip()))
            except ValueError:
                kind = "whole numbers, as in 0,1,2 or 0-5" if self.whole else f"numbers, as in {self.example}"
                self.fail(f"{part!r} in {value!r}: expected {kind}", param, ctx)
        if not 0 < len(numbers) <= self.most:
            self.fail(f"{len(numbers)} values, expected 1 to {self.most}", param, ctx)
        return tuple(numbers)

    def _part(self, part: str) -> list[float]:
        if not self.whole:
            number = float(part)
            if not math.isfinite(number):
                raise ValueError
            return [number]
        first, dash, last = part.partition("-")
        low, high = int(first), int(last if dash else first)
        if not 0 <= low <= high < 2**63:
            raise ValueError
        if high - low >= self.most:
            message = f"{high - low + 1} values, expected 1 to {self.most}"
            raise click.BadParameter(message)
        return list(range(low, high + 1))


SCALES = Numbers(whole=False, most=64)
SEEDS = Numbers(whole=True, most=1024)


def parse_sets(values: tuple[str, ...]) -> dict[str, float]:
    """`("smile=1.5", …)` → `{"smile": 1.5}`. Raises BadParameter for anything else."""
    edits = {}
    for value in values:
        name, equals, number = value.rpartition("=")
        try:
            scale = float(number)
        except ValueError:
            scale = math.nan
        if not equals or not name.strip() or not math.isfinite(scale):
            message = f"{value!r}: expected NAME=SCALE, as in --set smile=1.5"
            raise click.BadParameter(message, param_hint="--set")
        if name.strip() in edits:
            message = f"{name.strip()!r} is given twice"
            raise click.BadParameter(message, param_hint="--set")
        edits[name.strip()] = scale
    return edits


force_option = click.option(
    "--force", is_flag=True, help="Apply directions that do not match the checkpoint's weights."
)
out_option = click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="PNG to write.")
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
    help="Sliders file to read: names, scales, and when and where they act.",
)


def _as_window(_ctx: click.Context, _param: click.Parameter, value: tuple[float, ...] | None) -> Any:
    """Make a window of two numbers. Raises BadParameter if they are not one."""
    if value is None:
        return None
    from pydantic import ValidationError

    from eigenbank.schemas import Window

    try:
        start, end = value
        return Window(start=start, end=end)
    except (ValueError, ValidationError):
        message = "expected two fractions of the run, the smaller first, as in 0.2,0.8"
        raise click.BadParameter(message) from None


def steering_options(command: F) -> F:
    """Add `--window`, `--branch`, `--site`, `--mask` and `--fuse`: when, where and how the directions act."""
    for decorate in (
        click.option("--fuse", is_flag=True, help="Fuse the edit into the layers' biases, so that it costs no time."),
        click.option(
            "--mask",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="PICTURE",
            help="Act only where this picture is white.",
        ),
        click.option(
            "--site",
            type=click.Choice([*SITES, *SITES.values()]),
            metavar=f"[{'|'.join(SITES)}]",
            help="Where in the layer to add [default: the recipe's site].",
        ),
        click.option(
            "--branch",
            type=click.Choice(["both", "cond", "uncond"]),
            help="Act on one branch of classifier-free guidance [default: both].",
        ),
        click.option(
            "--window",
            type=Numbers(whole=False, most=2, example="0.2,0.8"),
            callback=_as_window,
            metavar="START,END",
            help="Act only between these fractions of the run, as in 0.2,0.8.",
        ),
    ):
        command = decorate(command)
    return command


def wanted_sliders(
    edits: dict[str, float], file: Path | None, *, window: Any = None, branch: Any = None, site: Any = None
) -> "Sliders":
    """Combine a sliders file with `--set`, which replaces its sliders or adds to them.

    The options fill in what the file leaves open. Raises UsageError for no sliders at all, BadParameter, SteerError.
    """
    from pydantic import ValidationError

    from eigenbank.registry.sliders import read_sliders
    from eigenbank.schemas import Sliders, SliderSetting

    if not edits and file is None:
        message = "nothing to edit: give --set NAME=SCALE, or --sliders FILE"
        raise click.UsageError(message)
    given = None if file is None else read_sliders(file)
    settings = {} if given is None else {slider.key: dict(slider) for slider in given.sliders}
    for key, scale in edits.items():
        settings[key] = {**settings.get(key, {"key": key}), "scale": scale}
    options = {"window": window, "branch": branch, "site": site}
    for slider in settings.values():
        slider.update({name: value for name, value in options.items() if slider.get(name) is None})
    try:
        return Sliders(
            model=None if given is None else given.model,
            sliders=tuple(SliderSetting(**slider) for slider in settings.values()),
        )
    except ValidationError as error:
        message = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise click.BadParameter(message, param_hint="--set") from None


def save_sliders(sliders: "Sliders", model_id: str, out: Path) -> None:
    """Write a call's sliders to a file that names their model."""
    from eigenbank.registry.sliders import write_sliders

    write_sliders(out, sliders.model_copy(update={"model": model_id}))
    log(f"wrote {out}")
