"""What a pipeline's images do when directions are added: readings of the edited and the unedited images."""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eigenbank.loaders.pipelines import sample
from eigenbank.loaders.steer import steer
from eigenbank.registry.bank import Composite, Direction
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

    def joined(self, more: "Responses", rows: Sequence[int]) -> "Responses":
        """Of some of the directions, `rows`, with what was read of just these on more seeds."""
        picked = list(rows)
        return Responses(
            torch.cat([self.base, more.base]),
            torch.cat([self.plus[picked], more.plus], dim=1),
            torch.cat([self.minus[picked], more.minus], dim=1),
            self.scale,
            (*self.seeds, *more.seeds),
            self.steps,
        )


def respond(
    pipe: Any,
    directions: Sequence[Direction | Composite],
    read: Read,
    *,
    scale: float,
    seeds: Sequence[int],
    steps: int,
    batch: int = BATCH,
    force: bool = False,
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    **call: Any,
) -> Responses:
    """Measure every direction at ±`scale` on every seed. Different directions share a batch: scales are per sample.

    `force` takes directions that are none of the pipeline's weights, as in `steer`. `cache` is a folder that keeps what
    was read, batch by batch, so that a run cut short goes on from there; it must be of this very measurement.
    """
    base = read_unedited(pipe, read, seeds, steps, batch=batch, cache=cache, **call)
    jobs = [(k, sign, seed) for k in range(len(directions)) for sign in (1.0, -1.0) for seed in seeds]
    readings = []
    done = 0
    for number, part in enumerate(_parts(jobs, batch)):

        def draw(part: Sequence[tuple[int, float, int]] = part) -> Tensor:
            edits = {
                directions[k]: torch.tensor([sign * scale if k == job else 0.0 for job, sign, _ in part])
                for k in sorted({k for k, _, _ in part})
            }
            with steer(pipe, edits, force=force):
                images = sample(pipe, [seed for _, _, seed in part], steps, **call)
            return _checked(read(images), len(part))

        readings.append(_kept(cache, f"edited-{number}", draw))
        done += len(part)
        progress(done, len(jobs))
    table = torch.cat(readings).reshape(len(directions), 2, len(seeds), -1)
    return Responses(base, table[:, 0], table[:, 1], scale, tuple(seeds), steps)


def read_unedited(
    pipe: Any,
    read: Read,
    seeds: Sequence[int],
    steps: int,
    *,
    batch: int = BATCH,
    cache: Path | None = None,
    **call: Any,
) -> Tensor:
    """Readings `(n, f)` of the pipeline's own images.

    Raises SteerError where these are all one colour: a pipeline that draws nothing has nothing to be named.
    """

    def draw() -> Tensor:
        images = torch.cat([sample(pipe, part, steps, **call) for part in _parts(seeds, batch)])
        if not bool(images.isfinite().all()) or float(images.flatten(1).std(dim=1).max()) < 1e-3:
            message = (
                f"the pipeline's {len(seeds)} unedited images are blank or not finite: no label was given. "
                "Draw one and look at it; a half-precision overflow makes such images"
            )
            raise SteerError(message)
        return _checked(read(images), len(seeds))

    return _kept(cache, "unedited", draw)


def _kept(cache: Path | None, name: str, draw: Callable[[], Tensor]) -> Tensor:
    """What `draw` gives, from the cache where it has been drawn before."""
    if cache is None:
        return draw()
    path = cache / f"{name}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, KeyError):
        return load_file(path)["readings"]
    readings = draw()
    with contextlib.suppress(OSError):  # a full disk costs the cache, not the work
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        save_file({"readings": readings.contiguous()}, partial)
        os.replace(partial, path)
    return readings


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
