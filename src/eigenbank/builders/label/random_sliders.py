"""Random sliders, beside which a slider has to earn its name."""

from collections.abc import Sequence

from eigenbank.builders.label.settings import Spot, spot_of
from eigenbank.registry.sets.direction_set import DirectionSet, Slider
from eigenbank.schemas.common import MAX_RANKS


class RandomSliders:
    """Random sliders in the spots of others, in several draws: vectors of equal length where a direction's is added, the
    same for all of that spot, and a composite's weights on such vectors.
    """

    def __init__(self, directions: DirectionSet, draws: int, wanted: Sequence[Slider]) -> None:
        self._draws = [
            directions.randomised(MAX_RANKS, seed=number).composed(directions.manifest.composites)
            for number in range(draws)
        ]
        asked = {spot_of(each) for each in wanted}
        # By the first slider of a spot: the same random vectors, whatever else is asked about.
        self._first = {spot_of(each): each.id for each in reversed(list(directions.sliders)) if spot_of(each) in asked}

    def at(self, spots: Sequence[Spot]) -> list[list[Slider]]:
        """For each draw those in the spots."""
        return [[draw[self._first[spot]] for spot in spots] for draw in self._draws]
