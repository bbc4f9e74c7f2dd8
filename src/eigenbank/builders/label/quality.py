"""How well directions work as sliders, from readings at several scales. Pure, as `criteria.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eigenbank.builders.label.criteria import effects
from eigenbank.schemas import Quality

SCALES = (0.5, 1.0, 2.0)
"""Where a direction is read, in multiples of the scale at which it is labelled, on both sides."""
GROWTH = 0.25
"""A slider still grows where another step gives this share of what the same step gives at its beginning."""
CELLS = 16
REGION = 0.1
"""The share of a picture that counts as where a change happens, for locality."""


@dataclass(frozen=True)
class Swept:
    """Readings of f scores and pictures of c cells, for K directions on n seeds at S scales on both sides of 0.

    `base` `(n, f)`, `plus` and `minus` `(S, K, n, f)`; `shown` `(n, c)`, `shown_plus` and `shown_minus` `(K, n, c)` are
    thumbnails at the scale 1.
    """

    base: Tensor
    plus: Tensor
    minus: Tensor
    shown: Tensor
    shown_plus: Tensor
    shown_minus: Tensor


def thumbnails(images: Tensor) -> Tensor:
    """`(n, 3, h, w)` images as `(n, 3 · CELLS²)`: enough to say where they differ."""
    return nn.functional.adaptive_avg_pool2d(images.float(), CELLS).flatten(1)


def agreement(images: Tensor) -> Tensor:
    """`(n, 1)`: how far neighbouring pixels of `(n, 3, h, w)` images agree, as a correlation: 0 in noise, near 1 in pictures."""
    rest = images.float() - images.float().mean(dim=(2, 3), keepdim=True)
    size = rest.square().mean(dim=(2, 3)).clamp_min(1e-9)
    across = (rest[..., 1:] * rest[..., :-1]).mean(dim=(2, 3)) / size
    down = (rest[..., 1:, :] * rest[..., :-1, :]).mean(dim=(2, 3)) / size
    return ((across + down) / 2).mean(dim=1, keepdim=True)


def qualities(
    found: Swept, stds: Tensor, readable: Tensor, *, source: str, scale: float, seeds: Sequence[int], steps: int
) -> list[Quality]:
    """The quality of each direction. `stds` `(f,)` are the scores' deviations, `readable` `(f,)` bool which of them count.

    They were read at `scale` times `SCALES`. What is unknown because no score moves, or because pictures broke (NaN), is
    None; a range ends before pictures break.
    """
    at = SCALES.index(1.0)
    broken = (found.plus[at] + found.minus[at]).isnan().flatten(1).any(dim=1)
    one = effects(found.base, found.plus[at].nan_to_num(), found.minus[at].nan_to_num(), stds, scale).of(readable)
    led = one.mean.abs().argmax(dim=1)
    rows = torch.arange(len(led))
    sign = one.mean[rows, led].sign()
    up = ((found.plus - found.base) / stds)[:, rows, :, led]  # (K, S, n): the led score alone
    down = ((found.minus - found.base) / stds)[:, rows, :, led]
    drift = _drift(found, stds, readable, led, at)
    local = _locality(found)
    found_qualities = []
    for k in range(len(led)):
        how = {"source": source, "scale": scale, "seeds": tuple(seeds), "steps": steps}
        if broken[k] or not float(one.mean[k, led[k]]):
            found_qualities.append(Quality(locality=None if broken[k] else local[k], **how))  # type: ignore[arg-type]
            continue
        rise, fall = float(sign[k]) * up[k], float(sign[k]) * down[k]
        found_qualities.append(
            Quality(
                effect=abs(float(one.mean[k, led[k]])),
                selectivity=float(one.selectivity[k, led[k]]),
                consistency=float(one.consistency[k, led[k]]),
                linearity=_linearity(rise.mean(dim=1), fall.mean(dim=1)),
                recommended_range=(-scale * _reach(-fall, -rise), scale * _reach(rise, fall)),
                locality=local[k],
                drift=float(drift[k]),
                **how,  # type: ignore[arg-type]
            )
        )
    return found_qualities


def _linearity(rise: Tensor, fall: Tensor) -> float:
    """R² of the line through zero from the scales (both sides) to the mean changes `(S,)`; never below 0."""
    x = torch.tensor([*SCALES, *(-scale for scale in SCALES)])
    y = torch.cat([rise, fall])
    x, y = x[~y.isnan()], y[~y.isnan()]
    slope = (x * y).sum() / x.square().sum()
    return max(0.0, 1 - float((y - slope * x).square().sum() / y.square().sum().clamp_min(1e-12)))


def _reach(side: Tensor, other: Tensor) -> float:
    """The largest of `SCALES` up to which `side` `(S, n)`, the change wanted, grows and is odder than even; 0 if none."""
    odd = ((side - other) / 2).square().mean(dim=1).sqrt()
    even = ((side + other) / 2).square().mean(dim=1).sqrt()
    mean, slope = side.mean(dim=1), float(side[0].mean()) / SCALES[0]
    reach, before = 0.0, 0.0
    for number, scale in enumerate(SCALES):
        grown = float(mean[number]) - before
        if (
            not grown < torch.inf
            or slope <= 0
            or grown < GROWTH * slope * (scale - reach)
            or bool(even[number] > odd[number])
        ):
            break
        reach, before = scale, float(mean[number])
    return reach


def _drift(found: Swept, stds: Tensor, readable: Tensor, led: Tensor, at: int) -> Tensor:
    """`(K,)`: root mean square change of the readable scores that are not led, at ± the scale."""
    other = readable.repeat(len(led), 1).scatter(1, led[:, None], value=False)
    changes = torch.stack([found.plus[at] - found.base, found.minus[at] - found.base]) / stds
    squares = changes.square().mean(dim=(0, 2)) * other
    return (squares.sum(dim=1) / other.sum(dim=1).clamp_min(1)).sqrt()


def _locality(found: Swept) -> list[float | None]:
    """Share of the squared change that falls in the tenth of the picture that changes most over all seeds."""
    squares = torch.stack([found.shown_plus - found.shown, found.shown_minus - found.shown]).square().mean(dim=(0, 2))
    where = squares.reshape(len(squares), 3, CELLS * CELLS).sum(dim=1)
    most = where.topk(round(REGION * CELLS * CELLS), dim=1).values.sum(dim=1)
    total = where.sum(dim=1)
    return [None if not float(all_) else min(1.0, float(part / all_)) for part, all_ in zip(most, total, strict=True)]


def swept(by_scale: Mapping[float, tuple[Tensor, Tensor]], base: Tensor, scores: slice, pictures: slice) -> Swept:
    """Readings at each of `SCALES` (plus and minus `(K, n, f + c)`, base `(n, f + c)`), cut into scores and thumbnails."""
    plus, minus = by_scale[1.0]
    return Swept(
        base[:, scores],
        torch.stack([by_scale[scale][0][..., scores] for scale in SCALES]),
        torch.stack([by_scale[scale][1][..., scores] for scale in SCALES]),
        base[:, pictures],
        plus[..., pictures],
        minus[..., pictures],
    )
