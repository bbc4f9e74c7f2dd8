"""Measured numbers as the catalog keeps them: whole ten-thousandths.

The schemas round them to four decimals, so nothing is lost; a third of a float's room is enough for them, and there are
twenty for every labelled direction.
"""

import math

PARTS = 10_000
"""So many make one."""
MOST = 10**12
"""No number that is kept is larger; beyond it lie only bounds."""


def parts(value: float | None) -> int | None:
    """Return a number that has four decimals in ten-thousandths; None is unknown."""
    return None if value is None else round(value * PARTS)


def number(kept: int | None) -> float | None:
    """Return the number that was kept, exactly."""
    return None if kept is None else kept / PARTS


def at_least(value: float | None) -> int | None:
    """Return the least kept number that is not below a bound, which may have any number of decimals."""
    return None if value is None else -_at_most(-value)


def at_most(value: float | None) -> int | None:
    """Return the largest kept number that is not above a bound."""
    return None if value is None else _at_most(value)


def _at_most(value: float) -> int:
    if not abs(value) < MOST / PARTS:
        return int(math.copysign(MOST, value))
    nearest = round(value * PARTS)
    return nearest - (nearest / PARTS > value)
