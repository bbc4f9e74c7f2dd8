"""Schedules: scales that change over the run, as callables from the fraction of the run that lies behind to a scale.

steer(pipe, {"smile": ramp(0, 1.5)})
steer(pipe, {"smile": windowed(1.5, 0.2, 0.8), "age": lambda done: 1 - done})
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eigenbank.schemas.common import MAX_SCALE
from eigenbank.schemas.errors import SteerError
from eigenbank.schemas.recipe import Window

Amount = float | Sequence[float] | Tensor
"""A scale, or one for each sample of the batch."""
Schedule = Callable[[float], Amount]
"""A scale for every fraction of the run that lies behind, in [0, 1): 0 at the first (noisiest) step."""
Scale = Amount | Schedule


def ramp(first: float, last: float, *, start: float = 0.0, end: float = 1.0) -> Schedule:
    """Make a schedule that goes from `first` to `last` in a straight line between two fractions of the run, and holds outside.

    Raises SteerError where `start` is not before `end`, both in [0, 1].
    """
    window = as_window((start, end))

    def scale(done: float) -> float:
        share = (done - window.start) / (window.end - window.start)
        return first + (last - first) * min(max(share, 0.0), 1.0)

    return scale


def windowed(scale: Scale, start: float, end: float) -> Schedule:
    """Limit a scale, or a schedule, to the run from `start` up to `end`, in fractions; it is 0 outside. Raises SteerError."""
    window = as_window((start, end))

    def inside(done: float) -> Amount:
        now = scale(done) if callable(scale) else scale
        return now if done in window else torch.zeros_like(torch.as_tensor(now, dtype=torch.float32))

    return inside


def as_window(window: tuple[float, float]) -> Window:
    """Make a window of the run from two fractions of it. Raises SteerError for what is none."""
    try:
        start, end = window
        return Window(start=start, end=end)
    except (TypeError, ValueError):
        message = (
            f"{window!r} is no window of the run: expected two fractions of it, as in (0.2, 0.8), the first the smaller"
        )
        raise SteerError(message) from None


def as_scale(scale: Amount, key: str) -> Tensor:
    """Convert a scale into a float32 tensor, `()` or `(samples,)`. Raises SteerError for what is none."""
    if isinstance(scale, float) and abs(scale) <= MAX_SCALE:  # by far the most: a lens has hundreds
        return torch.tensor(scale, dtype=torch.float32)
    try:
        value = torch.as_tensor(scale, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError, OverflowError, RuntimeError):
        value = torch.tensor(float("nan"))
    if value.ndim > 1 or value.numel() == 0 or not bool((value.abs() <= MAX_SCALE).all()):
        message = (
            f"the scale of {key!r} is {scale!r}: expected a number of at most ±{MAX_SCALE:g}, one per sample of the batch, "
            "or a callable that gives either for a fraction of the run"
        )
        raise SteerError(message)
    return value


def scale_at(scale: Scale, done: float, key: str) -> Tensor:
    """Return the scale of `key` when the fraction `done` of the run lies behind, as `as_scale` does.

    What a callable of the user's own raises is passed on, with a note saying for which direction and when.
    """
    if not callable(scale):
        return as_scale(scale, key)
    try:
        now = scale(done)
    except Exception as error:
        _add_note(error, f"raised by the scale given for {key!r}, asked for {done:.0%} of the run")
        raise
    return as_scale(now, key)


def _add_note(error: Exception, note: str) -> None:
    """`Exception.add_note`, which Python 3.10 lacks; there the note is kept where it would be."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        vars(error)["__notes__"] = [*vars(error).get("__notes__", []), note]
