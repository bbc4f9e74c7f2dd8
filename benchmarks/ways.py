"""Ways to get directions: eigenvectors, what is made of them, chance, and methods that look at samples."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from eigenbank.builders.label.composites import fit
from eigenbank.builders.label.criteria import Effects
from eigenbank.loaders.sample import sample
from eigenbank.loaders.steer import steer
from eigenbank.registry.sets.direction_set import Direction, DirectionSet

OURS, RANDOM = "eigenvectors", "random unit vectors"
UNTRAINED, GAUSSIAN = "eigenvectors of an untrained copy", "eigenvectors of Gaussian matrices"
BOTTOM = "bottom eigenvectors"
CHANCE = (RANDOM, UNTRAINED, GAUSSIAN, BOTTOM)
SIZES = (4, 8, 32)
"""Of how many directions at most composites are made."""
BATCH = 48
"""Pictures drawn at once where directions are made from them."""

Added = Callable[[Sequence[tuple[int, float]]], contextlib.AbstractContextManager[Any]]
"""Given a direction's number and a scale for each sample of a batch: adds them while the context lasts."""


@dataclass(frozen=True)
class Method:
    """A way to get directions: how many, how to add them, a digest of their vectors, and what it took to get them.

    `evaluations` counts passes of the denoiser, one per sample and step; a pass backwards counts as two. Where each
    direction was `made` for a factor, in their order, nothing has to be searched for.
    """

    name: str
    count: int
    added: Added
    digest: str
    evaluations: int
    seconds: float | None
    made: bool = False


def of_bank(name: str, pipe: Any, bank: DirectionSet, per_layer: int, seconds: float, bottom: bool = False) -> Method:
    """The first, or the last, directions of every layer of a bank."""
    chosen = chosen_of(bank, per_layer, bottom)
    return mixed(name, pipe, chosen, torch.eye(len(chosen)), 0, seconds)


def chosen_of(bank: DirectionSet, per_layer: int, bottom: bool = False) -> list[Direction]:
    """The first, or the last, directions of every layer."""

    def wanted(each: Direction) -> bool:
        return each.rank >= bank.layers[each.layer].width - per_layer if bottom else each.rank < per_layer

    return [each for each in bank if wanted(each)]


def mixed(
    name: str,
    pipe: Any,
    parts: Sequence[Direction],
    weights: Tensor,
    evaluations: int,
    seconds: float | None,
    made: bool = False,
) -> Method:
    """Sums of directions: `weights` `(K, parts)`."""

    def added(jobs: Sequence[tuple[int, float]]) -> Any:
        amounts = torch.stack([scale * weights[k] for k, scale in jobs], dim=1)
        edits = {part: amount for part, amount in zip(parts, amounts, strict=True) if bool(amount.any())}
        return steer(pipe, edits, force=True)

    vectors = torch.cat([weights.flatten(), *(each.vector for each in parts)])
    places = [parts[0].bank.model_id, *(each.id for each in parts)]
    return Method(name, len(weights), added, _digest(vectors, *places), evaluations, seconds, made)


def composites(name: str, pipe: Any, parts: Sequence[Direction], seen: Effects, most: int, evaluations: int) -> Method:
    """A composite for every factor, of `most` directions, fitted as labelling does it to what they were seen to do."""
    weights = fit(seen, most)
    return mixed(f"{name}, {most} parts", pipe, parts, weights, evaluations, None, made=True)


def rotated(name: str, pipe: Any, parts: Sequence[Direction], seen: Effects, evaluations: int) -> Method:
    """Each layer's directions turned within their span so that each is seen to move as few factors as can be."""
    weights = torch.zeros(len(parts), len(parts))
    for layer in dict.fromkeys(each.layer for each in parts):
        own = torch.tensor([k for k, each in enumerate(parts) if each.layer == layer])
        weights[own[:, None], own] = rotation(seen.mean[own].double()).float()
    return mixed(name, pipe, parts, weights, evaluations, None)


def rotation(mean: Tensor, rounds: int = 300, starts: int = 8) -> Tensor:
    """The orthogonal Q `(K, K)` with the largest sum of (Q·mean)⁴ (quartimax, Neuhaus and Wrigley 1954), `mean` `(K, f)`."""
    best, turned = -1.0, torch.eye(len(mean), dtype=mean.dtype)
    for start in range(starts):
        generator = torch.Generator().manual_seed(start)
        now = torch.linalg.qr(torch.randn(len(mean), len(mean), generator=generator, dtype=mean.dtype))[0]
        for _ in range(rounds):
            left, _, right = torch.linalg.svd((now @ mean) ** 3 @ mean.T)
            now = left @ right
        value = float(((now @ mean) ** 4).sum())
        if value > best:
            best, turned = value, now
    return turned


def untrained(pipe: Any, gaussian: bool, folder: Path, seed: int = 0) -> Path:
    """A checkpoint of the cartoon faces' shape that has learned nothing: as initialised, or its attention weights normal."""
    torch.manual_seed(seed)
    unet = UNet2DModel.from_config(pipe.unet.config)
    if gaussian:
        for name, weight in unet.named_parameters():
            if ".attentions." in name and weight.ndim == 2:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    unet.save_pretrained(folder / "unet")
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}), encoding="utf-8"
    )
    return folder


def elsewhere(bank: DirectionSet, home: DirectionSet) -> DirectionSet:
    """The vectors of `bank` at the places, and with the token lengths, of `home`."""
    return DirectionSet(home.manifest, vectors=bank.vectors)


class Bottleneck:
    """h-space: what the middle block gives, `(samples, c, h, w)` at every step; it can be read, and added to."""

    def __init__(self, pipe: Any, steps: int) -> None:
        self.pipe = pipe
        self.steps = steps
        self.evaluations = 0

    def trajectories(self, seeds: Sequence[int]) -> Tensor:
        """`(samples, steps, c, h, w)` of unedited runs."""
        parts = []
        for start in range(0, len(seeds), BATCH):
            part = seeds[start : start + BATCH]
            seen: list[Tensor] = []
            handle = self.pipe.unet.mid_block.register_forward_hook(
                lambda _m, _i, out, seen=seen: seen.append(out.cpu())
            )
            try:
                sample(self.pipe, part, self.steps)
            finally:
                handle.remove()
            parts.append(torch.stack(seen, dim=1))
            self.evaluations += len(part) * self.steps
        return torch.cat(parts)

    def method(self, name: str, directions: Tensor, length: Tensor, started: float) -> Method:
        """`directions` `(K, steps or 1, c, h, w)`, each step of norm 1; `length` `(steps,)`: of a scale of 1."""

        @contextlib.contextmanager
        def added(jobs: Sequence[tuple[int, float]]) -> Iterator[None]:
            number = iter(range(self.steps))
            which = torch.tensor([k for k, _ in jobs])
            scales = torch.tensor([scale for _, scale in jobs])[:, None, None, None]

            def add(_module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
                step = next(number)
                return out + (scales * length[step] * directions[which, min(step, directions.shape[1] - 1)]).to(out)

            handle = self.pipe.unet.mid_block.register_forward_hook(add)
            try:
                yield
            finally:
                handle.remove()

        return Method(
            name, len(directions), added, _digest(directions), self.evaluations, time.perf_counter() - started
        )


def principal(pipe: Any, count: int, samples: int, steps: int) -> Method:
    """Principal components of h-space over unedited runs, all steps of a run taken as one vector (Haas et al.,
    arXiv 2303.11073), each step then brought to equal length.
    """
    started = time.perf_counter()
    space = Bottleneck(pipe, steps)
    seen = space.trajectories(range(3_000_000, 3_000_000 + samples))
    flat = (seen - seen.mean(dim=0)).flatten(1)
    values, vectors = torch.linalg.eigh((flat @ flat.T).double())
    del values
    components = (vectors[:, -count:].flip(1).T.float() @ flat).unflatten(1, seen.shape[1:])
    return space.method("PCA of h-space", _unit(components), _lengths(seen), started)


def jacobian(pipe: Any, count: int, samples: int, steps: int, iterations: int) -> Method:
    """Right singular vectors of the Jacobian from h-space to the predicted noise, averaged over samples and steps, by
    subspace iteration (after Park et al., arXiv 2307.12868, and Haas et al.).
    """
    started = time.perf_counter()
    space = Bottleneck(pipe, steps)
    seeds = range(4_000_000, 4_000_000 + samples)
    seen = space.trajectories(seeds)
    inputs: list[tuple[Tensor, Tensor]] = []
    watch = pipe.unet.register_forward_pre_hook(
        lambda _m, args, kwargs: inputs.append((args[0].clone(), torch.as_tensor(args[1]))), with_kwargs=True
    )
    try:
        sample(pipe, seeds, steps)
    finally:
        watch.remove()
    space.evaluations += samples * steps
    at = [inputs[step] for step in range(1, steps, 3)]

    def shifted(images: Tensor, time: Tensor, shift: Tensor) -> Tensor:
        handle = pipe.unet.mid_block.register_forward_hook(lambda _m, _i, out: out + shift)
        try:
            return pipe.unet(images, time).sample
        finally:
            handle.remove()

    shape = seen.shape[2:]
    basis = torch.linalg.qr(torch.randn(shape.numel(), count, generator=torch.Generator().manual_seed(0)))[0]
    for _ in range(iterations):
        product = torch.zeros_like(basis)
        for images, moment in at:
            zero = torch.zeros(shape, device=images.device, requires_grad=True)
            plain = shifted(images, moment, zero)
            step = 0.01 * float(_lengths(seen).mean())
            for k in range(count):
                # Forwards by a central difference: forward-mode derivatives do not take this denoiser's norms.
                way = step * basis[:, k].reshape(shape).to(images.device)
                with torch.no_grad():
                    change = (shifted(images, moment, way) - shifted(images, moment, -way)) / (2 * step)
                product[:, k] += torch.autograd.grad(plain, zero, change, retain_graph=True)[0].flatten().cpu()
            space.evaluations += len(images) * (1 + count * 4)
        basis = torch.linalg.qr(product)[0]
    directions = basis.T.reshape(count, 1, *shape)
    return space.method("Jacobian of h-space", _unit(directions), _lengths(seen), started)


def _digest(vectors: Tensor, *places: str) -> str:
    """Of the vectors, and of where they are added where that is not always the same."""
    return hashlib.sha256("\n".join(places).encode() + vectors.contiguous().numpy().tobytes()).hexdigest()


def _unit(directions: Tensor) -> Tensor:
    """Norm 1 at every step."""
    return directions / directions.flatten(2).norm(dim=2).clamp_min(1e-12)[:, :, None, None, None]


def _lengths(seen: Tensor) -> Tensor:
    """The typical norm of h at each step, `(steps,)`: scale 1 adds as much, as it does at an attention layer."""
    return seen.flatten(2).norm(dim=2).square().mean(dim=0).sqrt()
