"""The reference's pages that are made from the code: `python docs/tools/formats.py docs`.

File formats with their JSON Schemas. With `--check` nothing is written; the exit code says whether
all is as they would be. The page of commands is made by `reference.py`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import click

from eigenbank.schemas import Manifest, Sliders
from eigenbank.schemas.common import Model
from eigenbank.schemas.plan import Lock, Plan

MADE = "This page is made from the code by `python docs/tools/formats.py docs`; a test compares the two."

FORMATS: dict[str, tuple[type[Model], str]] = {
    "manifest": (Manifest, "A direction set's `manifest.json`: everything about the set but its vectors"),
    "sliders": (Sliders, "A sliders file: an edit, as `--save-sliders` writes it and `--sliders` reads it"),
    "plan": (Plan, "A plan file (TOML): the checkpoints to build and what is done with each"),
    "lock": (Lock, "A plan's lock file (TOML): the commit each checkpoint is built at"),
}
"""Name → model, and what the file is. A format's number is its model's field `format`."""


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a format."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **FORMATS[name][0].model_json_schema()}


def pages() -> dict[str, str]:
    """The text of every page and file, by its path inside docs/."""
    found = {
        "formats.md": _formats(),
    }
    for name in FORMATS:
        found[f"schemas/{name}.schema.json"] = json.dumps(json_schema(name), indent=1, ensure_ascii=False) + "\n"
    return found


def _formats() -> str:
    parts = [
        "# File formats\n",
        f"{MADE} It lists the top-level fields; the JSON Schemas have everything, with descriptions. What the numbers promise: "
        "[versions](versions.md).\n",
        "| file | format | JSON Schema |\n|---|---|---|",
    ]
    for name, (model, what) in FORMATS.items():
        number = model.model_fields["format"].default
        parts.append(f"| {what} | {number} | [{name}.schema.json](schemas/{name}.schema.json) |")
    parts.append(
        "\nUnknown fields are refused, as are files of a newer format; numbers are finite. The vectors of a set are in "
        "`directions.safetensors`, a tensor `(k, d)` of float32 unit rows per layer and basis, named `LAYER/BASIS`."
    )
    for name, (_, what) in FORMATS.items():
        schema = json_schema(name)
        parts.append(f"\n## {name}\n\n{what}.\n")
        parts += _fields(schema)
    return "\n".join(parts) + "\n"


def _fields(schema: dict[str, Any]) -> list[str]:
    rows = ["| field | kind | needed |", "|---|---|---|"]
    for field, said in schema.get("properties", {}).items():
        rows.append(f"| `{field}` | {_kind(said)} | {'yes' if field in schema.get('required', []) else ''} |")
    return rows


def _kind(said: dict[str, Any]) -> str:
    if "$ref" in said:
        return str(said["$ref"]).rpartition("/")[2]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in said:
            return " or ".join(_kind(one) for one in said[key])
    if "const" in said:
        return f"`{json.dumps(said['const'])}`"
    if "enum" in said:
        return ", ".join(f"`{json.dumps(one)}`" for one in said["enum"])
    if said.get("type") == "array":
        inner = said.get("items")
        return f"list of {_kind(inner)}" if isinstance(inner, dict) else "list"
    if said.get("type") == "object" and isinstance(said.get("additionalProperties"), dict):
        return f"map to {_kind(said['additionalProperties'])}"
    return str(said.get("format") or said.get("type", "any"))


def main(args: list[str]) -> int:
    """Write the pages into a folder, or check them there."""
    check = "--check" in args
    folder = Path(next((arg for arg in args if arg != "--check"), "docs"))
    stale = []
    for name, text in pages().items():
        path = folder / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if check and stale:
        click.echo(f"{', '.join(stale)}: not what the code says. python docs/tools/formats.py {folder}", err=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
