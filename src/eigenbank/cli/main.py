"""The command `eigenbank`: its commands by what people want to do, and the one map from errors to messages.

A command's module is imported when the command is called, so that `eigenbank --help` is instant.
"""

import contextlib
import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import eigenbank
from eigenbank.cli import start
from eigenbank.cli.output import guard_messages, log, printing
from eigenbank.schemas.errors import DrawingError, EigenbankError
from eigenbank.schemas.printable import printable

GROUPS = {
    "Make directions": {
        "build": ("cli.make:build", "Compute a checkpoint's directions from its weights."),
        "label": ("cli.make:label", "Name directions by what they do to the images."),
        "find": ("cli.find:find", "Find the slider for any words."),
        "preview": ("cli.make:preview", "Generate preview pictures of a set's directions."),
        "measure": ("cli.make:measure", "Measure token lengths for `steer --fuse` and `export`."),
        "import-lora": ("cli.lora:import_lora", "Add a LoRA slider to a set, to compare."),
        "plan": ("cli.plan:plan", "Build, label and publish many checkpoints."),
    },
    "Find them": {
        "search": ("cli.search:search", "Search the directions of all models."),
        "list": ("cli.search:list_", "List the models in the catalog, or the directions of one."),
        "show": ("cli.show:show", "Show directions or models, with the evidence for their labels."),
        "labels": ("cli.labels:labels", "Add and remove labels."),
        "match": ("cli.export:match", "Check how well a set's directions match a checkpoint, or another set."),
    },
    "Use them": {
        "steer": ("cli.steer:steer", "Generate images with directions added."),
        "sweep": ("cli.steer:sweep", "Generate a grid: directions by scales."),
        "edit": ("cli.steer:edit", "Edit a photo."),
        "play": ("cli.serve:play", "Move sliders in a browser and see the picture."),
        "export": ("cli.export:export", "Write directions as a LoRA, npz or json file."),
    },
    "Share them": {
        "publish": ("cli.share:publish", "Publish a direction set on the Hub."),
        "pull": ("cli.share:pull", "Fetch a published direction set."),
        "sync": ("cli.share:sync", "Add every published set to the catalog."),
        "gallery": ("cli.serve:gallery", "Write, serve or publish a website of the catalog's directions."),
    },
    "Look after it": {
        "catalog": ("cli.catalog:catalog", "Look after the catalog: import, export, remove, reindex."),
        "verify": ("cli.catalog:verify", "Check the catalog and the files of sets."),
        "doctor": ("cli.doctor:doctor", "Check this installation and its plugins."),
        "demo": ("cli.demo:demo", "Run the whole thing on the shipped checkpoint."),
    },
}
"""Where every command is and what it does, under the headings of `eigenbank --help`."""
COMMANDS = {name: where for group in GROUPS.values() for name, (where, _) in group.items()}

_GOES_ON = "what was finished is kept; run it again, and it goes on from there"
LEFT = {
    "label": _GOES_ON,
    "plan": _GOES_ON,
    "pull": _GOES_ON,
    "sync": _GOES_ON,
    "publish": "whether the set arrived on the Hub is not known; run it again, which finds out and uploads nothing twice",
    "gallery": "a page that was being published may have arrived, or not; run it again, which finds out",
}
"""What Ctrl-C leaves behind, of the commands that do not do all or nothing."""


class GroupedCommands(click.Group):
    """A group that imports a command's module when the command is called, and lists the commands under headings."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if "_EIGENBANK_COMPLETE" in os.environ:
            importlib.import_module("eigenbank.cli.complete")  # instead of click's own completion
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"eigenbank.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, commands in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:11}", text) for name, (_, text) in commands.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f": did you mean {close[0]!r}?" if close else f". Commands: {', '.join(COMMANDS)}"
            message = f"no command {args[0]!r}{hint}"
            raise click.UsageError(message, ctx)
        return super().resolve_command(ctx, args)


def _use_catalog(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None and not value.strip():
        message = "it is empty: give a path or a database URL"
        raise click.BadParameter(message)
    if value is not None:
        os.environ["EIGENBANK_CATALOG"] = value


def _go_offline(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:  # before the Hub's client is imported, which reads it then
        os.environ["HF_HUB_OFFLINE"] = "1"


@click.command(
    cls=GroupedCommands,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.option(
    "--catalog",
    metavar="URL",
    expose_value=False,
    callback=_use_catalog,
    help="Catalog to use, a path or database URL [env: EIGENBANK_CATALOG; default: yours].",
)
@click.option(
    "--offline",
    is_flag=True,
    expose_value=False,
    callback=_go_offline,
    help="Never ask the Hub [env: HF_HUB_OFFLINE].",
)
@click.option("--debug", is_flag=True, help="Show a traceback for every error.")
@click.version_option(eigenbank.__version__, "-V", "--version", prog_name="eigenbank")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Find, build and apply editing directions for diffusion models.

    \b
    Example:
      eigenbank demo      shows all of it on a checkpoint that ships
      eigenbank doctor    checks this installation
    """
    start.state["begun"] = True
    if isinstance(ctx.obj, Call):
        ctx.obj.command = ctx.invoked_subcommand or ""
        ctx.obj.debug = debug
        ctx.obj.missing = _missing_catalog()


@dataclass
class Call:
    """What is known of one call of the command line: `missing` is the catalog's file where there is none yet."""

    command: str = ""
    debug: bool = False
    missing: Path | None = None


def _missing_catalog() -> Path | None:
    from eigenbank.registry.files import catalog_file

    with contextlib.suppress(EigenbankError, OSError, RuntimeError):
        file = catalog_file()
        if file is not None and not file.exists():
            return file
    return None


def run(args: list[str]) -> int:
    """Run the command line and return its exit code; expected errors become one message on stderr.

    Bugs are not mapped: they look like bugs, with their traceback.
    """
    call = Call()
    guard_messages()
    try:
        Path.cwd()
    except FileNotFoundError:  # libraries fail in it in many ways
        log("error: the folder you are in was deleted: nothing was done. Change to another")
        return 1
    try:
        result: Any = cli.main(args, prog_name="eigenbank", standalone_mode=False, obj=call)
        if sys.stdout is not None:
            with printing():
                sys.stdout.flush()
    except BaseException as error:
        if start.arrived or isinstance(error, click.Abort | KeyboardInterrupt):
            if call.debug:
                raise
            return _interrupted(call)
        if start.is_out_of_memory(error) and not call.debug:
            log(start.NO_MEMORY)
            return 1
        if isinstance(error, click.ClickException):
            vars(error)["message"] = printable(error.message)  # a shell's `*` may give any file's name
            error.show()
            return error.exit_code
        _report_created(call.missing)
        if isinstance(error, EigenbankError) and not call.debug:
            log(f"error: {error}")
            return 2 if isinstance(error, DrawingError) else 1
        raise
    if start.arrived:
        return _interrupted(call)
    _report_created(call.missing)
    return result if isinstance(result, int) else 0


def _interrupted(call: Call) -> int:
    left = LEFT.get(call.command)
    log(start.MESSAGE if left is None else f"interrupted: {left}")
    return start.CODE


def _report_created(missing: Path | None) -> None:
    if missing is not None and missing.exists():
        log(f"created a catalog, {missing}. It holds what ships; add to it: eigenbank build")
