"""Compare two direction sets: the cosines between their vectors, layer by layer."""

from typing import Any

from eigenbank.registry.sets.direction_set import Direction, DirectionSet
from eigenbank.schemas.errors import MatchError


def not_shared(one: DirectionSet, other: DirectionSet) -> list[str]:
    """Return the LAYER/RECIPEs of `one` that `other` lacks, so that they cannot be compared, in its order."""
    theirs = _groups(other)
    return [f"{name}/{slug}" for name, slug in _groups(one) if (name, slug) not in theirs]


def _groups(bank: DirectionSet) -> dict[tuple[str, str], list[Direction]]:
    """Group the directions by layer and recipe."""
    found: dict[tuple[str, str], list[Direction]] = {}
    for direction in bank:
        found.setdefault((direction.layer, direction.recipe.slug), []).append(direction)
    return found


def compare_sets(one: DirectionSet, other: DirectionSet) -> list[dict[str, Any]]:
    """Find for every direction of `one` the nearest of `other` at the same layer and recipe; the least alike first.

    A row holds `id`, `nearest` (both full names), `cosine` (signed) between them, and `same_rank_cosine` to the one of the
    same rank, None where there is none. Raises MatchError where the sets share no layer and recipe, or a layer's widths
    differ.
    """
    import torch

    ours, theirs = _groups(one), _groups(other)
    shared = [key for key in ours if key in theirs]
    if not shared:
        message = (
            f"{one.model_id} and {other.model_id} have no layer and recipe in common: nothing to compare. "
            f"Layers here: {', '.join(sorted(one.layers)[:4])}; there: {', '.join(sorted(other.layers)[:4])}"
        )
        raise MatchError(message)
    rows: list[dict[str, Any]] = []
    for key in shared:
        widths = one.layers[key[0]].width, other.layers[key[0]].width
        if widths[0] != widths[1]:
            message = (
                f"{key[0]} is {widths[0]} wide in {one.model_id} and {widths[1]} in {other.model_id}: their directions "
                "cannot be compared"
            )
            raise MatchError(message)
        cosines = (
            torch.stack([direction.vector for direction in ours[key]]).double()
            @ torch.stack([direction.vector for direction in theirs[key]]).double().T
        )
        ranks = {direction.rank: index for index, direction in enumerate(theirs[key])}
        best = cosines.abs().argmax(dim=1).tolist()
        for index, direction in enumerate(ours[key]):
            same = ranks.get(direction.rank)
            rows.append(
                {
                    "id": direction.full_id,
                    "nearest": theirs[key][best[index]].full_id,
                    "cosine": float(cosines[index, best[index]]),
                    "same_rank_cosine": None if same is None else float(cosines[index, same]),
                }
            )
    rows.sort(key=lambda row: abs(row["cosine"]))
    return rows
