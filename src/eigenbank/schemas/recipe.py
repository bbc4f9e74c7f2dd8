"""A recipe: which matrix of a layer is decomposed, on which side, and where and when its vectors are added."""

import re
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from eigenbank.schemas.common import Model
from eigenbank.schemas.errors import UnknownNameError

Side = Literal["input", "output"]
Site = Literal["projection-input", "block-output", "block-input"]
Branch = Literal["both", "cond", "uncond"]
"""The branches of classifier-free guidance that a slider acts on."""
SITES: dict[str, Site] = {"input": "block-input", "projection": "projection-input", "output": "block-output"}
"""The sites by their short names."""

_SLUG = re.compile(
    r"(?P<matrix>[a-z][a-z0-9-]*)(?:\.h(?P<head>\d+))?(?::(?P<side>input|output))?(?:@(?P<start>[\d.]+)-(?P<end>[\d.]+))?"
)


Fraction = Annotated[float, Field(ge=0, le=1), AfterValidator(lambda value: round(value, 4))]


class Window(Model):
    """The steps to act in: start and end as fractions of the denoising run; 0 is the first (noisiest) step, 1 the end."""

    start: Fraction = 0.0
    end: Fraction = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> "Window":
        if self.start >= self.end:
            message = f"a window ends after it starts: start={self.start}, end={self.end}"
            raise ValueError(message)
        return self

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.end == 1

    def __contains__(self, progress: float) -> bool:
        """Whether the step that begins at `progress` (in [0, 1)) lies in the window."""
        return self.start <= progress < self.end


class Recipe(Model):
    """How directions are computed from a layer's weights: which matrix, side and head, and in which steps they act.

    `matrix` names an entry of the recipe registry (`value`, `output-value`, `query-key`, `qkv`). `side` says which
    Gram matrix is decomposed: `input`, MᵀM, what the layer reads; `output`, MMᵀ, what it writes. Written as
    `MATRIX[.hHEAD][:SIDE][@START-END]`, the side left out where it is `input` and the window where it is the whole run:
    `output-value`, `output-value:output`, `output-value@0.6-1`.
    """

    matrix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=60)]
    side: Side = "input"
    head: Annotated[int, Field(ge=0, le=4096)] | None = None
    window: Window = Window()

    @classmethod
    def parse(cls, slug: str) -> "Recipe":
        """Parse a recipe such as `output-value:output@0.6-1`. Raises UnknownNameError for anything else."""
        found = _SLUG.fullmatch(slug)
        try:
            if found is None:
                raise ValueError
            window = Window(start=float(found["start"]), end=float(found["end"])) if found["start"] else Window()
            head = None if found["head"] is None else int(found["head"])
            return cls(
                matrix=found["matrix"],
                side="output" if found["side"] == "output" else "input",
                head=head,
                window=window,
            )
        except ValueError:
            message = (
                f"{slug!r} is not a recipe: expected MATRIX[.hHEAD][:input|:output][@START-END], "
                "as in 'output-value' or 'output-value:output@0.6-1'"
            )
            raise UnknownNameError(message) from None

    @property
    def basis(self) -> str:
        """The written form without the window: recipes that differ only in the window share their vectors."""
        if self.head is None and self.side == "input":
            return self.matrix
        head = "" if self.head is None else f".h{self.head}"
        return f"{self.matrix}{head}{'' if self.side == 'input' else f':{self.side}'}"

    @property
    def slug(self) -> str:
        """The written form; `Recipe.parse` reads it back."""
        return _slug(self.basis, self.window.start, self.window.end)

    @property
    def site(self) -> Site:
        """Where a vector of this recipe is added: after the norm for what a layer reads, at its block's output for what it
        writes. `query-key` reads on both sides, since both its factors act on the layer's input.
        """
        return "block-output" if self.side == "output" and self.matrix != "query-key" else "projection-input"


@lru_cache(maxsize=10_000)  # asked for every direction of a set, again and again; a set has a handful
def _slug(basis: str, start: float, end: float) -> str:
    return basis if (start, end) == (0, 1) else f"{basis}@{_plain(start)}-{_plain(end)}"


def _plain(fraction: float) -> str:
    """Format a fraction without an exponent, to the four decimals of a window."""
    return f"{fraction:.4f}".rstrip("0").rstrip(".")
