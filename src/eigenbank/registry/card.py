"""The model card of a direction set: what README.md in its folder says."""

from eigenbank.schemas import Manifest


def model_card(manifest: Manifest) -> str:
    """Markdown with the Hub's YAML header: what the set is, its labelled directions, and how to use it."""
    checkpoint = manifest.checkpoint
    labelled = [(label, record) for record in manifest.directions for label in record.labels]
    labelled.sort(key=lambda pair: pair[0].text)
    rows = [
        f"| {_cell(label.text)} | `{record.id}` | {_number(label.confidence)} | "
        f"{_number(label.evidence.effect if label.evidence else None)} | {_cell(label.source.split(':')[0])} |"
        for label, record in labelled
    ]
    table = (
        "\n".join(
            ["| label | direction | confidence | effect per unit scale | source |", "|---|---|---|---|---|", *rows]
        )
        if rows
        else "No direction of this set is labelled yet: `eigenbank label` does it."
    )
    key = labelled[0][0].text if labelled else manifest.directions[0].id if manifest.directions else "…"
    recipes = ", ".join(f"`{slug}`" for slug in sorted({record.recipe.slug for record in manifest.directions}))
    return f"""---
library_name: eigenbank
base_model: {checkpoint.model_id}
base_model_relation: adapter
license: {manifest.licence}
tags: [eigenbank, eigen-directions]
---
# Eigen-directions of {checkpoint.model_id}

{len(manifest.directions)} editing directions of {len(manifest.layers)} self-attention layers, computed from the
checkpoint's weights alone (recipes {recipes}). Base revision: {checkpoint.revision or "a local folder"}; the base
checkpoint's licence: {checkpoint.licence or "unknown"}. Made by {manifest.builder}.

```python
import eigenbank as eb

with eb.steer(pipe, {{{key!r}: 1.0}}):
    images = pipe().images
```

{table}
"""


def _cell(text: str) -> str:
    """A text made safe for a cell of a Markdown table that is shown as HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;").replace("`", "&#96;")


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
