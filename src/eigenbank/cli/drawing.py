"""The options of every command that generates pictures: what to generate, and how to open the pipeline."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from eigenbank.cli import complete
from eigenbank.registry.files import read_bounded
from eigenbank.schemas.errors import first_problem

F = TypeVar("F", bound=Callable[..., Any])

PROMPTS_FILE_MOST = 10_000_000
"""Bytes of a prompts file to read, at most."""
_DTYPES = ("auto", "float32", "float16", "bfloat16")
_OFFLOADS = ("none", "model", "group", "sequential")


def _as_size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """`"512"` → `(512, 512)`, `"WxH"` → `(H, W)`. Raises BadParameter."""
    if value is None:
        return None
    width, x, height = value.lower().partition("x")
    try:
        return int(height if x else width), int(width)
    except ValueError:
        message = f"{value!r}: expected pixels, as in 512, or WIDTHxHEIGHT, as in 1024x768"
        raise click.BadParameter(message) from None


def _as_lora(value: str) -> dict[str, Any]:
    """`"lcm.safetensors=0.8"` → file and weight."""
    name, equals, weight = value.rpartition("=")
    try:
        return {"file": name, "weight": float(weight)} if equals else {"file": value}
    except ValueError:
        if Path(value).exists():  # an equals sign of the file's own name
            return {"file": value}
        message = f"{value!r}: {weight!r} is no weight, as in --lora lcm.safetensors=0.8"
        raise click.BadParameter(message, param_hint="--lora") from None


def _prompts_in(file: Path) -> list[str]:
    """Read a file's prompts, a line each. Raises BadParameter."""
    try:
        lines = [line.strip() for line in read_bounded(file, PROMPTS_FILE_MOST).decode("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        message = f"{file} cannot be read ({getattr(error, 'strerror', None) or error}): expected prompts in UTF-8, a line each"
        raise click.BadParameter(message, param_hint="--prompts-file") from None
    if not any(lines):
        message = f"{file} has no prompt: expected one a line"
        raise click.BadParameter(message, param_hint="--prompts-file")
    return [line for line in lines if line]


def drawing_options(command: F) -> F:
    """Add the options of every command that generates pictures; they arrive as one `drawing`, and `checkpoint`."""

    @functools.wraps(command)
    def with_drawing(
        *args: Any,
        prompts: tuple[str, ...],
        loras: tuple[str, ...],
        prompts_file: Path | None = None,
        unchecked: bool = False,
        **others: Any,
    ) -> Any:
        from pydantic import ValidationError

        from eigenbank.schemas.drawing import Drawing

        fields = {name: others.pop(name) for name in list(others) if name in Drawing.model_fields}
        fields["prompts"] = [*prompts, *(_prompts_in(prompts_file) if prompts_file else ())]
        fields["loras"] = [_as_lora(value) for value in loras]
        fields["safety_checker"] = not unchecked
        try:
            drawing = Drawing.model_validate(fields)
        except ValidationError as error:
            options = {"prompts": "--prompt", "loras": "--lora", "guidance_scale": "--guidance-scale"}
            field = str(error.errors(include_url=False)[0]["loc"][0])
            hint = options.get(field, f"--{field.replace('_', '-')}")
            raise click.BadParameter(first_problem(error), param_hint=hint) from None
        return command(*args, drawing=drawing, **others)

    path = click.Path(path_type=Path)
    for decorate in (
        click.option(
            "--checkpoint", metavar="WHERE", shell_complete=complete.models_or_folders,
            help="Checkpoint to use, a folder, file or id [default: the model's own].",
        ),
        click.option("--no-safety-checker", "unchecked", is_flag=True, help="Open the pipeline without its safety checker."),
        click.option("--variant", metavar="NAME", help="Weights to load if the checkpoint has several, e.g. fp16."),
        click.option(
            "--offload", type=click.Choice(_OFFLOADS), default="none", show_default=True,
            help="Keep weights in main memory until they are needed.",
        ),
        click.option("--device", default="auto", show_default=True, help="Where to generate: cpu, cuda, mps, …"),
        click.option(
            "--dtype", type=click.Choice(_DTYPES), default="auto", show_default=True,
            help="Precision; auto is the checkpoint's own, on a CPU float32.",
        ),
        click.option("--lora", "loras", multiple=True, metavar="FILE[=WEIGHT]", help="LoRA to load; repeatable."),
        click.option("--scheduler", metavar="NAME", help="Scheduler: a class of diffusers, or euler, dpmpp, lcm, …"),
        click.option("--steps", type=int, metavar="N", help="Denoising steps."),
        click.option("--size", callback=_as_size, metavar="N|WxH", help="Pixels of a side, or width and height."),
        click.option("--guidance-scale", type=float, metavar="X", help="Scale of classifier-free guidance."),
        click.option("--negative-prompt", metavar="TEXT", help="What not to generate."),
        click.option("--prompts-file", type=path, metavar="FILE", help="File of prompts, one a line."),
        click.option(
            "--prompt", "prompts", multiple=True, metavar="TEXT",
            help="What to generate; repeatable, images take them in turn.",
        ),
    ):  # fmt: skip
        with_drawing = decorate(with_drawing)
    return with_drawing  # type: ignore[return-value]


def without(*names: str) -> Callable[[click.Command], click.Command]:
    """Take away those of the `drawing_options` that change nothing of what a command does."""

    def changed(command: click.Command) -> click.Command:
        command.params = [param for param in command.params if param.name not in names]
        return command

    return changed
