"""`eigenbank schema`: the JSON Schema of the files eigenbank writes."""

import json

import click


@click.command(short_help="Print the JSON Schema of a manifest or a sliders file.")
@click.argument("what", type=click.Choice(["manifest", "sliders"]), default="manifest")
def schema(what: str) -> None:
    """Print the JSON Schema of a direction set's manifest.json, or of a sliders file.

    \b
    Example:
      eigenbank schema > manifest.schema.json
    """
    from eigenbank.schemas import Manifest, Sliders

    model = Manifest if what == "manifest" else Sliders
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    click.echo(json.dumps(document, indent=2))
