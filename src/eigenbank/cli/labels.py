"""`eigenbank labels`: what directions are called, and by whom."""

import getpass
import re
from datetime import datetime, timezone
from typing import Any

import click

from eigenbank.cli import complete
from eigenbank.cli.output import log, names_given
from eigenbank.schemas.errors import UnknownNameError, first_problem

_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


def _by(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    if value is None:
        try:
            value = getpass.getuser()
        except (KeyError, OSError):
            message = "it is not known who gives the label: say --by NAME"
            raise click.UsageError(message) from None
    name = value.removeprefix("human:").strip()
    if not _NAME.fullmatch(name):
        message = f"{value!r}: expected a name, as in --by ann"
        raise click.BadParameter(message)
    return f"human:{name}"


by_option = click.option(
    "--by", "source", metavar="NAME", callback=_by, help="Who gives the label [default: your user name]."
)
directions_argument = click.argument(
    "directions", nargs=-1, required=True, metavar="DIRECTION... TEXT", shell_complete=complete.directions
)


@click.group(short_help="Add and remove labels.")
def labels() -> None:
    """Add and remove labels. You can remove only labels that you added.

    `eigenbank search --source human` finds what people labelled, `eigenbank show` prints a direction's labels.

    \b
    Example:
      eigenbank labels add 'eigenbank/avatars-64#mid_block.attentions.0.transformer_blocks.0.attn1/output-value/0' grin --by ann
    """


@labels.command(short_help="Label directions by hand.")
@directions_argument
@by_option
@click.option("--note", metavar="TEXT", help="Why, or what was seen.")
@click.option("--reverse", is_flag=True, help="The stored direction moves away from what the word says.")
def add(
    directions: tuple[str, ...],
    source: str,
    note: str | None,
    reverse: bool,
) -> None:
    """Label directions by hand. A label of the same text and person is replaced; all others stay.

    `-` instead of DIRECTION reads them from standard input, one a line. All are labelled, or none.

    \b
    Example:
      eigenbank labels add 'eigenbank/avatars-64#mid_block.attentions.0.transformer_blocks.0.attn1/output-value/0' grin --by ann
    """
    from pydantic import ValidationError

    from eigenbank.registry.catalog import Catalog
    from eigenbank.schemas import Label

    names, text = _names_and_text(directions)
    facts: dict[str, Any] = {"text": text, "polarity": -1 if reverse else 1, "source": source}
    facts |= {"note": note, "created": datetime.now(timezone.utc)}
    try:
        label = Label.model_validate(facts)
    except ValidationError as error:
        message = f"no label can be made of this: {first_problem(error)}"
        raise click.UsageError(message) from None
    with Catalog.open() as catalog:
        catalog.add_labels(names, label)
    log(f"{len(names)} labelled {text!r} by {source}")


@labels.command(short_help="Remove your own label from directions.")
@directions_argument
@by_option
def rm(directions: tuple[str, ...], source: str) -> None:
    """Remove a label that you added to directions. Other people's labels stay.

    `-` instead of DIRECTION reads them from standard input, one a line. It is removed from all, or from none.

    \b
    Example:
      eigenbank labels rm 'eigenbank/avatars-64#mid_block.attentions.0.transformer_blocks.0.attn1/output-value/0' grin --by ann
    """
    from eigenbank.registry.catalog import Catalog

    names, text = _names_and_text(directions)
    with Catalog.open() as catalog:
        missing = catalog.remove_labels(names, text, source)
        if missing:
            row = catalog.get_direction(missing[0])
            others = sorted({item.source for item in row.labels if item.text == text}) if row else []
            says = f"only by {', '.join(others)}" if others else "nobody says so"
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            message = f"{missing[0]}{more}: no label {text!r} by {source} there, {says}. Nothing was removed."
            raise UnknownNameError(message)
    log(f"{text!r} by {source} taken off {len(names)}")


def _names_and_text(given: tuple[str, ...]) -> tuple[list[str], str]:
    if len(given) < 2:
        message = "expected DIRECTION... TEXT: one direction or more (or -), and the label's text last"
        raise click.UsageError(message)
    return names_given(given[:-1]), given[-1]
