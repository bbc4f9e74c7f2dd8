"""The model card of a direction set, README.md in its folder. Texts from elsewhere are escaped."""

import hashlib
import json
import re

from eigenbank.registry.files import is_device
from eigenbank.schemas import Label, Manifest, SliderRecord

_LICENCES = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0
    grok2-community h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2
    llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openmdw-1.1 openrail
    openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
LICENCES = frozenset(_LICENCES.split())
"""The licence names that the Hub's validator accepts; any other becomes `other` in the header, and is named in the text."""

WITHOUT_PROMPT = frozenset({"UNet2DModel"})
"""Denoisers whose pipelines read no text, so that the card's code passes no prompt."""


def preview_name(record: SliderRecord) -> str:
    """Return the name, in a set's folder, of the preview of a direction, composite or LoRA.

    Ids with letters outside ASCII, or too long for a file name, are told apart by a digest.
    """
    plain = re.sub(r"[^\w.-]+", "-", record.id, flags=re.ASCII)
    if not record.id.isascii() or len(plain) > 150:
        plain = f"{plain[:150].lstrip('.-') or 'direction'}-{hashlib.sha256(record.id.encode()).hexdigest()[:12]}"
    return f"previews/{'_' if is_device(plain) else ''}{plain}.webp"


def model_card(manifest: Manifest, repo: str | None = None) -> str:
    """Make the card: the Hub's YAML header, what the set is, its labelled directions, and how to use it.

    `repo` is where the set is published; None for a set that is not.
    """
    checkpoint = manifest.checkpoint
    licence = manifest.licence if manifest.licence in LICENCES else "other"
    recipes = ", ".join(f"`{slug}`" for slug in sorted({record.recipe.slug for record in manifest.directions}))
    return f"""---
library_name: eigenbank
base_model: {_scalar(checkpoint.model_id)}
base_model_relation: adapter
license: {licence}
tags: [eigenbank, eigen-directions, diffusion, image-editing]
---
# Eigen-directions of {checkpoint.model_id}

{len(manifest.directions)} editing directions of {len(manifest.layers)} self-attention layers, computed from the
checkpoint's weights alone: no images, no training.

{_facts(manifest, recipes)}

## Use

```python
{snippet(manifest, repo)}
```

## Directions

{_table(manifest)}

{_digests(manifest)}
"""


def hub_config(manifest: Manifest) -> str:
    """Make the set's config.json. The Hub counts the requests for it as the downloads of the repository."""
    checkpoint = manifest.checkpoint
    facts = {
        "library_name": "eigenbank",
        "format": manifest.format,
        "base_model": checkpoint.model_id,
        "denoiser": checkpoint.denoiser,
        "layers": len(manifest.layers),
        "directions": len(manifest.directions),
        "composites": len(manifest.composites),
    }
    return json.dumps(facts, ensure_ascii=False, indent=2) + "\n"


def snippet(manifest: Manifest, repo: str | None = None) -> str:
    """Make the Python example: it loads the checkpoint and the set, and edits with the best labelled direction."""
    checkpoint = manifest.checkpoint
    best = _labelled(manifest)
    key = best[0][0].text if best else manifest.directions[0].id if manifest.directions else "…"
    revision = f", revision={checkpoint.revision!r}" if checkpoint.revision else ""
    source = f", repo={repo!r}" if repo else ""
    prompt = "" if checkpoint.denoiser in WITHOUT_PROMPT else "'a prompt of yours', "
    return f"""import eigenbank as eb
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({checkpoint.model_id!r}{revision})
bank = eb.load({checkpoint.model_id!r}{source})
with eb.steer(pipe, {{{key!r}: 1.5}}, bank=bank):
    images = pipe({prompt}num_inference_steps=50).images"""


def _facts(manifest: Manifest, recipes: str) -> str:
    checkpoint = manifest.checkpoint
    rows = [
        ("base checkpoint", f"`{checkpoint.model_id}`"),
        ("base revision", _escaped(checkpoint.revision) if checkpoint.revision else "unknown (a local folder)"),
        ("licence of the base checkpoint", _escaped(checkpoint.licence) if checkpoint.licence else "unknown"),
        ("licence of this set", _escaped(manifest.licence)),
        ("recipes", recipes or "none"),
        ("made by", _escaped(manifest.builder)),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _labelled(manifest: Manifest) -> list[tuple[Label, SliderRecord]]:
    """Return labels with their directions, the best sliders first."""
    pairs = [(label, record) for record in manifest.sliders for label in record.labels]
    pairs.sort(key=lambda pair: pair[0].worth, reverse=True)
    return pairs


def _table(manifest: Manifest) -> str:
    rows = []
    for label, record in _labelled(manifest):
        preview = preview_name(record)
        picture = f"![preview]({preview})" if preview in manifest.files else ""
        effect = label.evidence.effect if label.evidence else None
        source = _escaped(label.source.split(":")[0])
        numbers = f"{_number(label.confidence)} | {_number(effect)}"
        rows.append(f"| {_escaped(label.text)} | `{record.id}` | {numbers} | {source} | {picture} |")
    if not rows:
        return "No direction of this set is labelled yet: `eigenbank label` does it."
    head = [
        "| label | direction | confidence | effect per unit scale | source | preview |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows])


def _digests(manifest: Manifest) -> str:
    files = [f"- `{name}`: sha256 `{entry.sha256}`" for name, entry in manifest.files.items() if name != "README.md"]
    layers = [
        f"- `{layer.name}` ({layer.width} wide): `{layer.digests['float32'][:16]}…`"
        for layer in manifest.layers
        if "float32" in layer.digests
    ]
    lines = [
        "<details><summary>Digests</summary>",
        "",
        *files[:100],
        "",
        "Attention weights the directions were computed from, as float32:",
        "",
        *layers,
        "",
        "</details>",
    ]
    return "\n".join(lines)


def _scalar(text: str) -> str:
    """Write a text as a YAML scalar that is read back as that text, quoted where it could mean anything else."""
    return text if re.fullmatch(r"[A-Za-z][\w.-]*/[\w.-]+", text, re.ASCII) else json.dumps(text)


def _escaped(text: str) -> str:
    """Escape a text for Markdown that is shown as HTML: all but letters, digits, spaces and hyphens become entities."""
    return "".join(letter if letter.isalnum() or letter in " -" else f"&#{ord(letter)};" for letter in text)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
