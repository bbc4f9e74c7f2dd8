"""What a pipeline's images do when directions are added: readings of the edited and the unedited images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eigenbank.loaders.pipelines import sample
from eigenbank.loaders.steer import steer
from eigenbank.registry.bank import Direction
from eigenbank.schemas.errors import SteerError

Read = Callable[[Tensor], Tensor]
"""Maps images `(n, 3, h, w)` in [0, 1] to `(n, f)` readings."""

BATCH = 64


@dataclass(frozen=True)
class Responses:
    """Readings of f attributes for K directions on n seeds: `base` `(n, f)`; `plus` and `minus` `(K, n, f)`."""

    base: Tensor
    plus: Tensor
    minus: Tensor
    scale: float
    seeds: tuple[int, ...]
    steps: int


def respond(
    pipe: Any,
    directions: Sequence[Direction],
    read: Read,
    *,
    scale: float,
    seeds: Sequence[int],
    steps: int,
    batch: int = BATCH,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    **call: Any,
) -> Responses:
    """Measure every direction at ±`scale` on every seed. Different directions share a batch: scales are per sample."""
    base = _checked(read(torch.cat([sample(pipe, part, steps, **call) for part in _parts(seeds, batch)])), len(seeds))
    jobs = [(k, sign, seed) for k in range(len(directions)) for sign in (1.0, -1.0) for seed in seeds]
    readings = []
    done = 0
    for part in _parts(jobs, batch):
        edits = {
            directions[k]: torch.tensor([sign * scale if k == job else 0.0 for job, sign, _ in part])
            for k in sorted({k for k, _, _ in part})
        }
        with steer(pipe, edits):
            images = sample(pipe, [seed for _, _, seed in part], steps, **call)
        readings.append(_checked(read(images), len(part)))
        done += len(part)
        progress(done, len(jobs))
    table = torch.cat(readings).reshape(len(directions), 2, len(seeds), -1)
    return Responses(base, table[:, 0], table[:, 1], scale, tuple(seeds), steps)


def _parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _checked(readings: Tensor, n: int) -> Tensor:
    if readings.ndim != 2 or readings.shape[0] != n or not bool(readings.isfinite().all()):
        message = (
            f"the attribute model gave readings of shape {list(readings.shape)} for {n} images"
            f"{'' if readings.isfinite().all() else ', some of them not finite'}: no label was given"
        )
        raise SteerError(message)
    return readings.float().cpu()
