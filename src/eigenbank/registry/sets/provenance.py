"""The provenance of a set: which steps made it, as `eigenbank 0.1.0 (build 1a2b3c4d5e6f, label 5f6e7d8c9b0a)`.

The text is the manifest's `builder`. A plan compares it with the steps it would run, and so knows which sets are up to
date without reading vectors.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

_FORM = re.compile(r"(?P<who>.*?)(?: \((?P<steps>[a-z]+ [0-9a-f]{12}(?:, [a-z]+ [0-9a-f]{12})*)\))?", re.DOTALL)


def key_of(facts: Any) -> str:
    """Hash the settings of a step to a short key; `facts` is anything JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def build_key(layers: Sequence[str], recipes: Sequence[str], top_k: int) -> str:
    """Return the key of a build: layer globs and written recipes, in any order, and directions per layer and recipe."""
    return key_of([sorted(set(layers)), sorted(set(recipes)), top_k])


def steps_of(builder: str) -> dict[str, str]:
    """Parse the steps and their keys from a set's builder text."""
    found = _FORM.fullmatch(builder)
    steps = found["steps"] if found else None
    return dict(step.split(" ") for step in steps.split(", ")) if steps else {}


def stamped(builder: str, *, without: Sequence[str] = (), **steps: str) -> str:
    """Return the builder text with more steps, replacing those of the same name, and `without` some that it had."""
    found = _FORM.fullmatch(builder)
    kept = {name: key for name, key in steps_of(builder).items() if name not in without}
    named = ", ".join(f"{name} {key}" for name, key in {**kept, **steps}.items())
    return f"{found['who'] if found else builder}{f' ({named})' if named else ''}"
