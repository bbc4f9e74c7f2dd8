"""Options that several commands share."""

import contextlib
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def note_missing(missing: Any) -> None:
    """Add the file of the catalog in use to `missing`, the list of a run of the command line, if it is not there yet."""
    from eigenbank.registry.paths import catalog_file
    from eigenbank.schemas.errors import EigenbankError

    with contextlib.suppress(EigenbankError, OSError, RuntimeError):
        file = catalog_file()
        if isinstance(missing, list) and file is not None and not file.exists():
            missing.append(file)


def _use_catalog(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None and not value.strip():
        message = "the catalog's place is empty: give a path or a database URL"
        raise click.BadParameter(message, param_hint="--catalog")
    if value is not None:
        os.environ["EIGENBANK_CATALOG"] = value
        note_missing(ctx.obj)


def catalog_option(command: F) -> F:
    """Add `--catalog URL`, which stands for `EIGENBANK_CATALOG` while the command runs."""
    return click.option(
        "--catalog",
        metavar="URL",
        expose_value=False,
        callback=_use_catalog,
        help="Catalog to use, a path or database URL [env: EIGENBANK_CATALOG; default: this user's].",
    )(command)


def _go_offline(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        os.environ["HF_HUB_OFFLINE"] = "1"


def offline_option(command: F) -> F:
    """Add `--offline`, which stands for `HF_HUB_OFFLINE=1`. It takes effect before the Hub's client is imported."""
    return click.option(
        "--offline",
        is_flag=True,
        expose_value=False,
        callback=_go_offline,
        help="Ask nothing of the Hub; use what is on this machine [env: HF_HUB_OFFLINE].",
    )(command)


def source_options(command: F) -> F:
    """Add `--revision`, `--variant` and `--config`, which say which checkpoint of several is meant."""
    for name, metavar, text in (
        ("--config", "WHERE", "Folder, file or Hub id with the config.json of a single-file checkpoint."),
        ("--variant", "NAME", "Weights to read where a folder has several, e.g. fp16."),
        ("--revision", "REV", "Branch, tag or commit of a Hub repository."),
    ):
        command = click.option(name, metavar=metavar, help=text)(command)
    return command


if TYPE_CHECKING:
    NumbersType = click.ParamType[tuple[float, ...]]
else:
    NumbersType = click.ParamType  # generic only in newer releases of click


class Numbers(NumbersType):
    """A comma-separated list of finite numbers, or of whole ones; `0-5` counts for whole ones."""

    def __init__(self, *, whole: bool, most: int) -> None:
        self.whole = whole
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
                kind = "whole numbers, as in 0,1,2 or 0-5" if self.whole else "numbers, as in -2,-1,0,1,2"
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
        if not 0 <= low <= high < 2**63 or high - low >= self.most:
            raise ValueError
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
