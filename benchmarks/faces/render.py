"""Draw cartoon faces from a vector of factors: the world whose truth is known exactly.

Every factor is a number in [-1, 1] with a word for either end. Shapes are signed distance functions evaluated on the
whole batch at once; a pixel's coverage is its distance to the edge, clipped to one pixel, so that the image changes
smoothly with every factor.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factor:
    """One thing that varies between faces: what -1 and +1 look like, and whether anything lies between."""

    name: str
    low: str
    high: str
    binary: bool = False

    @property
    def std(self) -> float:
        """Standard deviation of the factor over the training population (uniform on [-1, 1], or ±1)."""
        return 1.0 if self.binary else 3**-0.5


FACTORS = (
    Factor("smile", "frowning", "smiling"),
    Factor("glasses", "no glasses", "glasses", binary=True),
    Factor("hair colour", "dark hair", "blond hair"),
    Factor("hair length", "short hair", "long hair"),
    Factor("skin tone", "dark skin", "light skin"),
    Factor("head width", "narrow head", "wide head"),
    Factor("head position", "head to the left", "head to the right"),
    Factor("eye size", "small eyes", "large eyes"),
    Factor("gaze", "looking left", "looking right"),
    Factor("background hue", "orange background", "violet background"),
    Factor("beard", "no beard", "full beard"),
)
NAMES = tuple(factor.name for factor in FACTORS)


def sample_factors(n: int, generator: torch.Generator) -> Tensor:
    """Draw `(n, len(FACTORS))` float32 factor vectors of the training population: independent, uniform or ±1."""
    values = torch.rand((n, len(FACTORS)), generator=generator) * 2 - 1
    binary = torch.tensor([factor.binary for factor in FACTORS])
    return torch.where(binary, values.sign() + (values == 0), values)


def render(factors: Tensor, size: int = 32) -> Tensor:
    """Draw faces: `(n, len(FACTORS))` factors in [-1, 1] → `(n, 3, size, size)` RGB in [-1, 1].

    Values outside [-1, 1] are clamped. Deterministic; differentiable almost everywhere.
    """
    # One (n, 1, 1) column per factor, broadcast against the (size, size) grid.
    unit = (factors.clamp(-1, 1) + 1) / 2
    f = dict(zip(NAMES, unit.T[:, :, None, None], strict=True))
    axis = (torch.arange(size, device=factors.device, dtype=factors.dtype) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    pixel = 2 / size

    image = _hue(0.08 + 0.68 * f["background hue"]).expand(-1, 3, size, size)
    skin = _mix((0.36, 0.21, 0.13), (1.0, 0.84, 0.72), f["skin tone"])
    hair = _mix((0.13, 0.07, 0.06), (0.97, 0.82, 0.30), f["hair colour"])

    def paint(colour: Tensor, distance: Tensor, opacity: Tensor | float = 1.0) -> None:
        nonlocal image
        coverage = (0.5 - distance / pixel).clamp(0, 1) * opacity
        image = image + coverage[:, None] * (colour.to(image.device) - image)

    x = x - 0.22 * (2 * f["head position"] - 1)  # everything but the background moves with the head
    width = 0.40 + 0.26 * f["head width"]
    head = _ellipse(x, y - 0.08, width, 0.72)

    hair_bottom = -0.22 + 1.12 * f["hair length"]
    paint(hair, _rounded_box(x, y, width + 0.13, -0.92, hair_bottom, 0.34))
    hairline = 0.12 * (x / width).square() - 0.40
    paint(skin, torch.maximum(head, hairline - y))
    jaw = 0.74 - 0.60 * f["beard"] + 0.25 * (x / width).square() * (1 - 2 * f["beard"])
    paint(0.75 * hair, torch.maximum(head, jaw - y), (f["beard"] * 6).clamp(0, 1))

    eye = 0.11 + 0.12 * f["eye size"]
    apart = 0.16 + 0.14 * f["head width"] + 0.05
    side = x.abs() - apart
    paint(_rgb(1.0, 1.0, 1.0), _ellipse(side, y + 0.08, eye, eye))
    look = 0.6 * eye * (2 * f["gaze"] - 1)
    for sign in (-1, 1):
        paint(_rgb(0.08, 0.10, 0.22), _ellipse(x - sign * apart - look, y + 0.08, 0.55 * eye, 0.55 * eye))
    rim = _ellipse(side, y + 0.08, 0.235, 0.235).abs() - 0.035
    bridge = torch.maximum((y + 0.08).abs() - 0.03, x.abs() - (apart - 0.235))
    paint(_rgb(0.05, 0.05, 0.05), torch.minimum(rim, bridge), f["glasses"])

    paint(0.72 * skin, _ellipse(x, y - 0.17, 0.05, 0.08))
    bend = 0.19 * (2 * f["smile"] - 1)
    lips = y - 0.46 - bend * (0.5 - (x / 0.27).square())
    slope = 1 + (2 * bend * x / 0.27**2).square()
    paint(_rgb(0.80, 0.10, 0.14), torch.maximum(lips.abs() / slope.sqrt() - 0.06, x.abs() - 0.27))
    return image * 2 - 1


def _rgb(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue])[None, :, None, None]


def _mix(low: tuple[float, float, float], high: tuple[float, float, float], t: Tensor) -> Tensor:
    """Linear ramp between two RGB colours: `(n, 1, 1)` → `(n, 3, 1, 1)`."""
    start, end = _rgb(*low).to(t.device), _rgb(*high).to(t.device)
    return start + t[:, None] * (end - start)


def _hue(hue: Tensor, saturation: float = 0.55, value: float = 0.88) -> Tensor:
    """HSV to RGB at fixed saturation and value: `(n, 1, 1)` → `(n, 3, 1, 1)`."""
    phase = (hue[:, None] * 6 + _rgb(5.0, 3.0, 1.0).to(hue.device)) % 6
    return value * (1 - saturation * torch.minimum(phase, 4 - phase).clamp(0, 1))


def _ellipse(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """Distance to an axis-parallel ellipse, exact to first order at its edge."""
    scaled = ((x / a).square() + (y / b).square()).sqrt()
    gradient = ((x / a**2).square() + (y / b**2).square()).sqrt().clamp_min(1e-6)
    return scaled * (scaled - 1) / gradient


def _rounded_box(x: Tensor, y: Tensor, half_width: Tensor, top: float, bottom: Tensor, radius: float) -> Tensor:
    """Distance to a box between `top` and `bottom` (y grows downwards) whose upper corners are round."""
    middle, half_height = (top + bottom) / 2, (bottom - top) / 2
    corner = torch.where(y < middle, radius, 0.08)
    corner = torch.minimum(corner, half_height)
    dx, dy = x.abs() - half_width + corner, (y - middle).abs() - half_height + corner
    outside = (dx.clamp_min(0).square() + dy.clamp_min(0).square()).sqrt()
    return outside + torch.maximum(dx, dy).clamp_max(0) - corner
