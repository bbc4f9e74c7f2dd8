"""One training loop for every network: resumable, averaged, on a schedule fixed beforehand, alone or in parallel.

Started by `torchrun`, each process takes its share of every batch and the gradients are averaged (gloo). On a few CPU
cores, one process with one thread per core is much faster than one process with several threads.
"""

import csv
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import click
import torch
import torch.distributed as dist
from torch import Tensor, nn

SAVE_EVERY = 180.0
REPORT_EVERY = 60.0
DECAY = 0.9995
"""Of the averaged weights, reached slowly."""


@dataclass(frozen=True)
class Workers:
    """This process among those that train together."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls) -> "Workers":
        """Take part in torchrun's group, or work alone."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(1)
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1 and not dist.is_initialized():
            dist.init_process_group("gloo", timeout=timedelta(hours=12))
        return cls(int(os.environ.get("RANK", "0")), count, device)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all have come this far."""
        if self.count > 1:
            dist.barrier()

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. `batch` is of all processes together.

    The learning rate rises over `warmup` steps and falls along a cosine to zero at the last step.
    """

    steps: int
    batch: int
    rate: float
    warmup: int = 200
    weight_decay: float = 0.01

    def rate_at(self, step: int) -> float:
        rise = min(1.0, (step + 1) / self.warmup)
        return self.rate * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))


Loss = Callable[[int, torch.Generator, int], Tensor]
"""(step, generator, batch) → the loss on a batch drawn by the generator."""


def train(
    name: str,
    networks: Mapping[str, nn.Module],
    loss: Loss,
    schedule: Schedule,
    state: Path,
    workers: Workers,
    seed: int = 0,
    rates: Mapping[str, float] | None = None,
    stop: int | None = None,
) -> None:
    """Train `networks` to the schedule's end, or to step `stop`, and leave their averaged weights in them.

    The state is `state/NAME.pt`, saved every few minutes: call this again to go on, also after the end, when it only
    loads. `rates` makes some networks learn more slowly. Losses go to `state/NAME.csv`.
    """
    path = state / f"{name}.pt"
    parameters = [parameter for network in networks.values() for parameter in network.parameters()]
    share = [(rates or {}).get(key, 1.0) for key in networks]
    groups = [{"params": list(network.parameters())} for network in networks.values()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=schedule.weight_decay)
    for network in networks.values():
        network.to(workers.device).train()
    averaged = [parameter.detach().clone() for parameter in parameters]
    step = _resume(path, networks, averaged, optimizer, workers) if path.is_file() else 0
    end = schedule.steps if stop is None else min(stop, schedule.steps)
    clock = _Clock(name, step, schedule.steps, state, workers.first)
    saved = time.monotonic()
    while step < end:
        for group, part in zip(optimizer.param_groups, share, strict=True):
            group["lr"] = part * schedule.rate_at(step)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 64 + workers.rank)
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad(), torch.autocast(workers.device.type, torch.bfloat16):
            value = loss(step, generator, schedule.batch // workers.count)
        value.backward()
        workers.average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        decay = min(DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(averaged, [parameter.detach() for parameter in parameters], 1 - decay)
        clock.tick(step, float(value.detach()))
        if workers.first and time.monotonic() - saved > SAVE_EVERY:
            _save(path, step, networks, averaged, optimizer)
            saved = time.monotonic()
    if workers.first and clock.moved:
        _save(path, step, networks, averaged, optimizer)
    workers.wait()
    with torch.no_grad():
        for parameter, mean in zip(parameters, averaged, strict=True):
            parameter.copy_(mean)
    for network in networks.values():
        network.eval().requires_grad_(False)


def steps_done(state: Path, name: str) -> int:
    """The step that the saved state has reached; 0 where there is none."""
    path = state / f"{name}.pt"
    if not path.is_file():
        return 0
    return int(torch.load(path, weights_only=True, mmap=True)["step"])


def _save(
    path: Path, step: int, networks: Mapping[str, nn.Module], averaged: list[Tensor], optimizer: torch.optim.Optimizer
) -> None:
    partial = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {
        "step": step,
        "networks": {name: network.state_dict() for name, network in networks.items()},
        "averaged": averaged,
        "optimizer": optimizer.state_dict(),
    }
    torch.save(contents, partial)
    os.replace(partial, path)


def _resume(
    path: Path,
    networks: Mapping[str, nn.Module],
    averaged: list[Tensor],
    optimizer: torch.optim.Optimizer,
    workers: Workers,
) -> int:
    contents = torch.load(path, map_location=workers.device, weights_only=True)
    for name, network in networks.items():
        network.load_state_dict(contents["networks"][name])
    for mean, loaded in zip(averaged, contents["averaged"], strict=True):
        mean.copy_(loaded)
    optimizer.load_state_dict(contents["optimizer"])
    return int(contents["step"])


class _Clock:
    """Says once a minute how far training is and how long it has left, and keeps the curve as CSV."""

    def __init__(self, name: str, step: int, steps: int, state: Path, speaks: bool) -> None:
        self._name, self._steps, self._speaks = name, steps, speaks
        self._curve = state / f"{name}.csv"
        self._since, self._from = time.monotonic(), step
        self._sum = 0.0
        self.moved = False
        if speaks and 0 < step < steps:
            click.echo(f"{name}: goes on at step {step:,} of {steps:,}")

    def tick(self, step: int, loss: float) -> None:
        self.moved = True
        self._sum += loss
        passed = time.monotonic() - self._since
        if passed < REPORT_EVERY and step < self._steps:
            return
        count = step - self._from
        mean, pace = self._sum / count, passed / count
        if self._speaks:
            left = timedelta(seconds=round(pace * (self._steps - step)))
            click.echo(
                f"{self._name}: step {step:,} of {self._steps:,}, loss {mean:.4f}, {pace:.2f} s a step, {left} left"
            )
            self._curve.parent.mkdir(parents=True, exist_ok=True)
            with self._curve.open("a", newline="") as file:
                csv.writer(file).writerow([step, f"{mean:.5f}", f"{pace:.3f}", int(time.time())])
        self._since, self._from, self._sum = time.monotonic(), step, 0.0
