"""Labels of a distilled checkpoint, or another relative, as candidates for its base: the same directions by their vectors."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from eigenbank.builders.label.composites import name_for
from eigenbank.registry.sets.direction_set import Direction, DirectionSet
from eigenbank.schemas import CompositeRecord, Weighted

LIKE = 0.7
"""Least cosine of a direction with the one in whose place it is taken."""
WHOLE = 0.9
"""Least share of a slider's squared weights that has to be found again."""


@dataclass(frozen=True)
class Carried:
    """What may have labels: by text the ids, best first, of directions and of the `composites`; and what was not `found` again."""

    ids: Mapping[str, list[str]]
    composites: tuple[CompositeRecord, ...]
    lost: tuple[str, ...]

    @property
    def count(self) -> int:
        return sum(len(ids) for ids in self.ids.values())


def carried(source: DirectionSet, target: DirectionSet, names: Collection[str]) -> Carried:
    """What has one of the `names` in one set, in the directions of another: for each part the direction of the same layer and recipe
    that is most like it, with its sign. Vectors are read.
    """
    ids: dict[str, list[str]] = {}
    composites: list[CompositeRecord] = []
    lost: list[str] = []
    places: dict[tuple[str, str], list[Direction]] = {}
    for each in target:
        places.setdefault((each.layer, each.recipe.slug), []).append(each)
    taken = {each.name for each in target.manifest.composites}
    for text in (each for each in source.labels if each in names):
        for label, slider in source.all_named(text):
            if not slider.parts:  # a LoRA
                continue
            weights: dict[str, float] = {}
            found = 0.0
            for part, weight in slider.parts:
                like = _most_like(part, places.get((part.layer, part.recipe.slug), []))
                if like is not None:
                    weights[like[0]] = weights.get(like[0], 0.0) + weight * like[1]
                    found += weight**2
            if found < WHOLE * sum(weight**2 for _, weight in slider.parts):
                lost.append(f"{slider.id} ({text})")
            elif len(slider.parts) == 1:
                ids.setdefault(label.text, []).append(next(iter(weights)))
            else:
                name = name_for(text, taken)
                taken.add(name)
                parts = tuple(Weighted(direction=each, weight=weight) for each, weight in weights.items())
                composites.append(CompositeRecord(name=name, parts=parts, branch=slider.branch))
                ids.setdefault(label.text, []).append(composites[-1].id)
    return Carried(ids, tuple(composites), tuple(lost))


def _most_like(direction: Direction, others: list[Direction]) -> tuple[str, int] | None:
    """The id and sign of the direction most like another, None where none is."""
    cosines = [float(each.vector @ direction.vector) if _same_width(each, direction) else 0.0 for each in others]
    best = max(range(len(others)), key=lambda number: abs(cosines[number]), default=None)
    if best is None or abs(cosines[best]) < LIKE:
        return None
    return others[best].id, 1 if cosines[best] > 0 else -1


def _same_width(one: Direction, other: Direction) -> bool:
    return one.vector.shape == other.vector.shape
