"""How much labelling may draw, a number of images or a time, and how far it is."""

import re
import time
from dataclasses import dataclass, field

from eigenbank.progress import Count, Progress
from eigenbank.schemas.errors import EigenbankError

_UNITS = {"s": 1, "m": 60, "h": 3600}


class BudgetError(EigenbankError):
    """A text is no budget."""


@dataclass(frozen=True)
class Budget:
    """At most so many `images`, or `seconds`; one of them is None."""

    images: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.images:,} images" if self.seconds is None else f"{self.seconds / 60:g} minutes"


def as_budget(text: str) -> Budget:
    """`2000`, `2000 images`, `90s`, `30m` or `1.5h` as a budget. Raises BudgetError."""
    found = re.fullmatch(
        r"(?P<images>[0-9]{1,9})( ?images?)?|(?P<time>[0-9]{1,6}(\.[0-9]{1,3})?) ?(?P<unit>[smh])", text.strip()
    )
    if found is None or not float(found["images"] or found["time"]):
        message = f"{text!r} is no budget: expected images, as in 2000, or a time, as in 90s, 30m or 1.5h"
        raise BudgetError(message)
    if found["images"]:
        return Budget(images=int(found["images"]))
    return Budget(seconds=float(found["time"]) * _UNITS[found["unit"]])


@dataclass
class Spending:
    """What is left of a budget: `drawn` counts the images so far."""

    budget: Budget | None
    drawn: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def room(self) -> float:
        """How many images more there may be; of a time, at the pace so far."""
        if self.budget is None:
            return float("inf")
        if self.budget.images is not None:
            return self.budget.images - self.drawn
        assert self.budget.seconds is not None
        passed = time.monotonic() - self.started
        return (self.budget.seconds - passed) * (self.drawn / passed if self.drawn else float("inf"))

    def within(self, images: int) -> int:
        """So many images, or as many as a budget of images has left if those are fewer."""
        left = images if self.budget is None or self.budget.images is None else self.budget.images - self.drawn
        return max(0, min(images, left))


class Job:
    """How far the whole of a study is: `left` is how many images there are at most beside those of the part at work."""

    def __init__(self, progress: Progress, most: int, spending: Spending) -> None:
        self.progress = progress
        self.spending = spending
        self.left = most
        self.done = 0

    def part(self, what: str, most: int) -> Count:
        """Begin a part of so many images at most, and return what counts them."""
        before = self.done
        self.left = max(0, self.left - most)

        def count(done: int, total: int) -> None:
            self.spending.drawn += before + done - self.done
            self.done = before + done
            self.progress(what, self.done, self.done + self.spending.within(total - done + self.left))

        return count
