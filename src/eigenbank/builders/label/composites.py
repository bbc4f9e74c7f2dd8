"""Composites: several directions added together so that one score moves and the others stay. Pure."""

import re
from collections.abc import Collection

import torch
from torch import Tensor

from eigenbank.builders.label.criteria import Effects
from eigenbank.schemas import CompositeRecord, Label, Quality

PARTS = 32
"""Most directions in a composite."""
NORM = 0.5
"""Root of the sum of a composite's squared weights. Images bear less at every layer at once than at one: at 1 they
break up where single directions still work as sliders.
"""
RIDGE = 0.1
"""Added to what the readings' scatter says of a direction's effect, in squared standard deviations per unit scale."""


def fit(found: Effects, parts: int = PARTS) -> Tensor:
    """For each score the weights `(f, K)`, of norm `NORM`, whose directions together should move it and no other score.

    Least squares with noise: the w that minimises E‖Rᵀw − e_j‖², R `(K, f)` being the mean effects, known as well as the
    readings on n seeds agree, and kept off the directions that do little by `RIDGE`. Of these the `parts` largest are
    kept, and fitted again. Zero for a score that nothing moves.
    """
    mean, noise = found.mean.double(), _noise(found)
    weights = _solve(mean, noise)
    if parts < len(mean):
        kept = torch.zeros_like(weights)
        for score, row in enumerate(weights):
            which = row.abs().topk(parts).indices
            kept[score, which] = _solve(mean[which], noise[which])[score]
        weights = kept
    weights = NORM * weights / weights.norm(dim=1, keepdim=True).clamp_min(1e-12)
    moved: Tensor = weights * (found.mean.abs().amax(dim=0) > 0)[:, None]
    return moved.float()


def _noise(found: Effects) -> Tensor:
    """`(K,)`: how little the readings tell of each direction's effects."""
    n = found.odd.shape[1]
    scatter: Tensor = found.odd.double().var(dim=1, correction=1 if n > 1 else 0).sum(dim=1) / n
    return scatter + RIDGE


def _solve(mean: Tensor, noise: Tensor) -> Tensor:
    """`(f, K)`: rows (R Rᵀ + diag(noise))⁻¹ R e_j, by way of an f × f system (Woodbury)."""
    scaled = mean / noise[:, None]
    inner = torch.eye(mean.shape[1], dtype=mean.dtype) + mean.T @ scaled
    solved: Tensor = torch.linalg.solve(inner, scaled.T)
    return solved


def predicted(found: Effects, weights: Tensor) -> Effects:
    """What composites would do if effects added up: `weights` `(C, K)`; the even part is not predicted, and 0."""
    odd: Tensor = torch.einsum("ck,knf->cnf", weights, found.odd)
    return Effects(odd, torch.zeros_like(odd))


def name_for(text: str, taken: Collection[str]) -> str:
    """A composite's name from a label's text: `hair length` becomes `hair-length`, or `hair-length-2` if that is taken."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:90] or "composite"
    name, number = plain, 2
    while name in taken:
        name, number = f"{plain}-{number}", number + 1
    return name


def in_own_unit(record: CompositeRecord, scale: float) -> CompositeRecord:
    """The composite such that its scale of 1 is the `scale` that it was measured at."""
    parts = tuple(part.model_copy(update={"weight": scale * part.weight}) for part in record.parts)
    return record.model_copy(update={"parts": parts})


def label_in_own_unit(label: Label, scale: float) -> Label:
    """A composite's label as it is of `in_own_unit`: effects per scale of 1 are `scale` times those measured."""
    evidence = label.evidence
    if evidence is None:
        return label
    effects = {name: getattr(evidence, name) for name in ("effect", "runner_up_effect", "null")}
    changed = {name: None if value is None else scale * value for name, value in effects.items()}
    return label.model_copy(
        update={"evidence": evidence.model_copy(update={**changed, "scale": evidence.scale / scale})}
    )


def quality_in_own_unit(quality: Quality, scale: float) -> Quality:
    """The same for a quality."""
    changed = {
        name: None if (value := getattr(quality, name)) is None else scale * value for name in ("effect", "drift")
    }
    between = quality.recommended_range
    return quality.model_copy(
        update={
            **changed,
            "recommended_range": None if between is None else (between[0] / scale, between[1] / scale),
            "scale": quality.scale / scale,
        }
    )
