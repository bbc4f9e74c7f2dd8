"""The command `eigenbank`: its group of commands, loaded when asked for, and the one map from errors to messages."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click

import eigenbank
from eigenbank.cli import interrupt
from eigenbank.cli.options import note_missing
from eigenbank.cli.output import printing
from eigenbank.schemas.errors import EigenbankError

COMMANDS = {
    "build": "eigenbank.cli.build:build",
    "layers": "eigenbank.cli.layers:layers",
    "label": "eigenbank.cli.label:label",
    "preview": "eigenbank.cli.preview:preview",
    "list": "eigenbank.cli.query:list_",
    "search": "eigenbank.cli.query:search",
    "show": "eigenbank.cli.directions:show",
    "models": "eigenbank.cli.models:models",
    "directions": "eigenbank.cli.directions:directions",
    "labels": "eigenbank.cli.labels:labels",
    "catalog": "eigenbank.cli.catalog:catalog",
    "publish": "eigenbank.cli.publish:publish",
    "pull": "eigenbank.cli.pull:pull",
    "sync": "eigenbank.cli.sync:sync",
    "verify": "eigenbank.cli.verify:verify",
    "plan": "eigenbank.cli.plan:plan",
    "match": "eigenbank.cli.match:match",
    "steer": "eigenbank.cli.picture:steer",
    "sweep": "eigenbank.cli.picture:sweep",
    "edit": "eigenbank.cli.edit:edit",
    "export": "eigenbank.cli.export:export",
    "play": "eigenbank.cli.play:play",
    "gallery": "eigenbank.cli.gallery:gallery",
    "demo": "eigenbank.cli.demo:demo",
    "plugins": "eigenbank.cli.plugins:plugins",
    "schema": "eigenbank.cli.schema:schema",
    "doctor": "eigenbank.cli.doctor:doctor",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if "_EIGENBANK_COMPLETE" in os.environ:
            importlib.import_module("eigenbank.cli.bash")  # in the place of click's own completion
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

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


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(eigenbank.__version__, "-V", "--version", prog_name="eigenbank")
@click.option("--debug", is_flag=True, help="Show a traceback for every error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Find, build and apply editing directions for diffusion models.

    \b
    Example:
      eigenbank demo      shows all of it on a checkpoint that ships
      eigenbank doctor    checks this installation
    """


def main() -> None:
    """Run the command line, as scripts installed before there was `start` do."""
    from eigenbank.cli.start import main as begin

    begin()


def _tell_made(missing: list[Path]) -> None:
    """Say which of the catalogs that were missing were made meanwhile."""
    for catalog in dict.fromkeys(missing):
        if catalog.exists():
            first = "there was no catalog there" if os.environ.get("EIGENBANK_CATALOG") else "this was the first run"
            click.echo(
                f"{first}: a catalog was made, {catalog}. It holds what ships; add to it: eigenbank build", err=True
            )


def _interrupted() -> int:
    """Say that the command was interrupted, and return the exit code of that."""
    click.echo(interrupt.SAID, err=True)
    return interrupt.CODE


def run(args: list[str]) -> int:
    """Run the command line and return its exit code; expected errors become one message on stderr.

    Bugs are not mapped: they look like bugs, with their traceback.
    """
    debug = "--debug" in args[:1]
    missing: list[Path] = []
    note_missing(missing)
    try:
        result: Any = cli.main(args, prog_name="eigenbank", standalone_mode=False, obj=missing)
        if sys.stdout is not None:
            with printing():
                sys.stdout.flush()
    except BaseException as error:
        if interrupt.arrived() or isinstance(error, click.Abort | KeyboardInterrupt):
            if debug:
                raise
            return _interrupted()
        if isinstance(error, click.ClickException):
            error.show()
            return error.exit_code
        if isinstance(error, EigenbankError) and not debug:
            _tell_made(missing)
            click.echo(f"error: {error}", err=True)
            return 1
        raise
    if interrupt.arrived():
        return _interrupted()
    _tell_made(missing)
    return result if isinstance(result, int) else 0
