"""The reference of all commands, made from their own help: `python docs/tools/reference.py docs/cli.md`.

With `--check` nothing is written; the exit code says whether the file is as it would be.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from eigenbank.cli.main import cli

HEAD = """\
# Commands

Made from the commands' own `--help` by `python docs/tools/reference.py docs/cli.md`; a test compares the two.
Every command takes `-h`. Data goes to stdout; progress, hints and warnings to stderr. Exit codes: 0, 1 for what went
wrong, 2 for a wrong call, 130 when interrupted (Ctrl-C). `eigenbank --debug COMMAND …` shows a traceback for every error.
"""


def reference() -> str:
    """The whole reference, in Markdown."""
    parts = [HEAD]
    for path, command, context in _commands(cli, click.Context(cli, info_name="eigenbank")):
        title = " ".join(path)
        text = _help(command, context)
        parts.append(f"{'#' * (1 + len(path))} {title}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _commands(
    command: click.Command, context: click.Context, path: tuple[str, ...] = ("eigenbank",)
) -> Iterator[tuple[tuple[str, ...], click.Command, click.Context]]:
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _commands(inner, click.Context(inner, info_name=name, parent=context), (*path, name))


def _help(command: click.Command, context: click.Context) -> str:
    context.terminal_width = context.max_content_width = 100
    context.help_option_names = ["-h", "--help"]
    formatter = context.make_formatter()
    command.format_help(context, formatter)
    return "\n".join(line.rstrip() for line in formatter.getvalue().rstrip().splitlines())


def main(args: list[str]) -> int:
    """Write the reference to a file, or check it."""
    check = "--check" in args
    path = Path(next((arg for arg in args if arg != "--check"), "docs/cli.md"))
    text = reference()
    if not check:
        path.write_text(text, encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    click.echo(f"{path} is not what the commands say: python docs/tools/reference.py {path}", err=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
