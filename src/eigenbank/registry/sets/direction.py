"""What a bank holds and an edit adds: directions, and composites of them."""

from typing import TYPE_CHECKING, Generic, TypeVar

from eigenbank.schemas import CompositeRecord, DirectionRecord, Label, Quality, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from eigenbank.registry.sets.direction_set import DirectionSet

R = TypeVar("R", DirectionRecord, CompositeRecord)


class Slider(Generic[R]):
    """What can be named and steered by: its record, and the bank it is of."""

    __slots__ = ("bank", "record")

    def __init__(self, bank: "DirectionSet", record: R) -> None:
        self.bank = bank
        self.record: R = record

    @property
    def id(self) -> str:
        """The name within its model: `LAYER/RECIPE/RANK`, or `composite/NAME`."""
        return self.record.id

    @property
    def full_id(self) -> str:
        """The name everywhere: `MODEL_ID#`, and the name within the model."""
        return f"{self.bank.model_id}#{self.record.id}"

    @property
    def labels(self) -> tuple[Label, ...]:
        """The names it was given, none being the normal state."""
        return self.record.labels

    @property
    def quality(self) -> Quality | None:
        """How it behaves as a slider, None where that was not measured."""
        return self.record.quality

    @property
    def names(self) -> tuple[str, str]:
        """What search finds it by beside its labels: its layer (a composite's own name), and the model's id."""
        record = self.record
        return record.name if isinstance(record, CompositeRecord) else record.layer, self.bank.model_id

    @property
    def parts(self) -> "tuple[tuple[Direction, float], ...]":
        """The directions it adds, and the weight of each."""
        raise NotImplementedError

    def __repr__(self) -> str:
        names = ", ".join(label.text for label in self.labels)
        return f"<{type(self).__name__} {self.full_id}{f' ({names})' if names else ''}>"


class Direction(Slider[DirectionRecord]):
    """One direction of a bank: its record, and its vector when asked for."""

    __slots__ = ()

    @property
    def layer(self) -> str:
        """Name of the self-attention layer, as the denoiser's module path."""
        return self.record.layer

    @property
    def recipe(self) -> Recipe:
        """How the vector was made, and where and when it is added."""
        return self.record.recipe

    @property
    def rank(self) -> int:
        """Place in the spectrum; 0 is the largest eigenvalue."""
        return self.record.rank

    @property
    def eigenvalue(self) -> float:
        """Eigenvalue of the recipe's Gram matrix."""
        return self.record.eigenvalue

    @property
    def vector(self) -> "Tensor":
        """The unit vector, `(d,)` float32, its largest-magnitude entry positive."""
        return self.bank.vectors[f"{self.layer}/{self.recipe.basis}"][self.rank]

    @property
    def parts(self) -> "tuple[tuple[Direction, float], ...]":
        """Itself, once."""
        return ((self, 1.0),)


class Composite(Slider[CompositeRecord]):
    """Several directions of a bank that do one thing together."""

    __slots__ = ()

    @property
    def parts(self) -> tuple[tuple[Direction, float], ...]:
        """The directions it adds, and the weight of each."""
        return tuple((self.bank.direction(part.direction), part.weight) for part in self.record.parts)
