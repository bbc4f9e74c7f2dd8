"""`eigenbank schema`: the JSON Schema of the files eigenbank writes."""

import json

import click

from eigenbank.schemas.formats import FORMATS, json_schema


@click.command(short_help=f"Print the JSON Schema of a file: {', '.join(FORMATS)}.")
@click.argument("what", type=click.Choice(list(FORMATS)), default="manifest")
def schema(what: str) -> None:
    """Print the JSON Schema of a file that eigenbank writes; by default of a direction set's manifest.json.

    \b
    Example:
      eigenbank schema > manifest.schema.json
    """
    click.echo(json.dumps(json_schema(what), indent=2))
