"""`eigenbank schema`: the JSON Schema of the files eigenbank writes."""

import json

import click


@click.command(short_help="Print the JSON Schema of a manifest.")
def schema() -> None:
    """Print the JSON Schema of a direction set's manifest.json.

    \b
    Example:
      eigenbank schema > manifest.schema.json
    """
    from eigenbank.schemas import Manifest

    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}
    click.echo(json.dumps(document, indent=2))
