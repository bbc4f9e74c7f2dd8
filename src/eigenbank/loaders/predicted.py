"""Pictures predicted from one denoiser pass: what a step of an unedited run takes the finished picture to be.

The run up to that step is drawn once for each seed and kept. What an edit does is then seen in a single pass, so that
looking at a direction costs a tenth of drawing it, or less. How well it tells what the whole picture will show is
measured in `benchmarks/screening.py`.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from eigenbank.loaders.denoiser_calls import fixed_progress
from eigenbank.loaders.drawing import arguments, parameters_of
from eigenbank.loaders.inverse_schedulers import scheduler_pair
from eigenbank.loaders.memory import split_decoding
from eigenbank.loaders.pictures import Pictures, generate
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import SteerError

SMALL = 64
"""Latents of a side as long as this, or longer, are decoded at half their size: a picture of 256 pixels is enough to read."""


class _Reached(Exception):  # noqa: N818  # no error: the run has come to the step
    """Ends a run at the step whose latents are wanted."""


class PredictedPictures:
    """Predicts pictures of a pipeline at the step `at` of a run of `steps`, by DDIM or, for rectified flows, Euler.

    Raises SteerError for a pipeline that cannot be stopped and started at a step, e.g. for a scheduler of another kind.
    """

    def __init__(self, pipe: Any, steps: int, at: int, drawing: Drawing, call: dict[str, Any]) -> None:
        self.pipe = pipe
        self.steps = steps
        self.at = at
        self.drawing = drawing.model_copy(update={"steps": steps})
        self.call = call
        self._latents: dict[int, Tensor] = {}
        own = _plain(pipe.scheduler)
        self._kind = _one_step(type(own))
        self._config = own.config
        self._given = "latents" in parameters_of(pipe)
        if not self._given and not hasattr(sys.modules[type(pipe).__module__], "randn_tensor"):
            message = f"a {type(pipe).__name__} cannot be started from latents: its pictures cannot be predicted"
            raise SteerError(message)

    def lacks(self, seeds: Sequence[int]) -> list[int]:
        """Return the seeds whose runs up to the step have not been drawn."""
        return [seed for seed in dict.fromkeys(seeds) if seed not in self._latents]

    def follow(self, seeds: Sequence[int]) -> None:
        """Draw unedited runs up to the step, and keep where they are."""
        with self._scheduler(replay=False) as scheduler, contextlib.suppress(_Reached):
            self._generate(seeds, {})
        if scheduler.reached is None or len(scheduler.reached) != len(seeds):
            message = f"a {type(self.pipe).__name__} cannot be stopped at a step: its pictures cannot be predicted"
            raise SteerError(message)
        self._latents |= {seed: row.clone() for seed, row in zip(seeds, scheduler.reached.cpu().split(1), strict=True)}

    def draw(self, seeds: Sequence[int]) -> Pictures:
        """Return the pictures that the step predicts, for seeds whose runs are kept, with whatever edits the pipeline now."""
        latents = torch.cat([self._latents[seed] for seed in seeds]).to(self.pipe.device)
        with self._scheduler(replay=True), fixed_progress(self.at / self.steps):
            if self._given:
                return self._generate(seeds, {"latents": latents})
            # These pipelines take no latents, but draw their noise by a function of their module.
            module: Any = sys.modules[type(self.pipe).__module__]
            own, module.randn_tensor = module.randn_tensor, lambda *_, **__: latents
            try:
                return self._generate(seeds, {})
            finally:
                module.randn_tensor = own

    def _generate(self, seeds: Sequence[int], given: dict[str, Any]) -> Pictures:
        call = arguments(self.pipe, self.drawing.part(seeds), seeds, {**self.call, **given})
        call["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds]
        with split_decoding(self.pipe):
            return generate(self.pipe, len(seeds), call)

    @contextlib.contextmanager
    def _scheduler(self, *, replay: bool) -> "Iterator[_OneStep]":
        own = self.pipe.scheduler
        scheduler = self._kind.from_config(self._config)  # type: ignore[attr-defined]
        scheduler.at, scheduler.replay = self.at, replay
        scheduler.small = getattr(self.pipe, "vae", None) is not None and "mask_image" not in self.call
        self.pipe.scheduler = scheduler
        try:
            yield scheduler
        finally:
            self.pipe.scheduler = own


def _plain(scheduler: Any) -> Any:
    """Return DDIM, or Euler for a rectified flow, for the model behind a scheduler. Raises SteerError."""
    if scheduler.config.get("use_flow_sigmas"):
        return FlowMatchEulerDiscreteScheduler(shift=scheduler.config.get("flow_shift", 1.0))
    return scheduler_pair(scheduler, 1)[0]


def _one_step(kind: type) -> "type[_OneStep]":
    """Return the class of a scheduler of that kind which stops at a step. Pipelines look at the signature of `set_timesteps`."""
    made = type("OneStep", (_OneStep, kind), {})

    @functools.wraps(kind.set_timesteps)  # type: ignore[attr-defined]
    def set_timesteps(self: _OneStep, *args: Any, **kwargs: Any) -> None:
        _OneStep.set_timesteps(self, *args, **kwargs)

    made.set_timesteps = set_timesteps  # type: ignore[attr-defined]
    return made


class _OneStep:
    """A scheduler's run that ends at the step `at`; in `replay` it consists of that step alone, and ends with what it predicts."""

    at = 0
    replay = False
    small = False
    reached: Tensor | None = None
    timesteps: Tensor
    _calls = 0

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)  # type: ignore[misc]
        if self.replay:
            self.timesteps = self.timesteps[self.at : self.at + 1]

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.replay:
            found = self._predicted(model_output, timestep, sample)
            return DDIMSchedulerOutput(found, found) if kwargs.get("return_dict", True) else (found,)
        if self._calls == self.at:
            self.reached = sample.detach()
            raise _Reached
        self._calls += 1
        return super().step(model_output, timestep, sample, *args, **kwargs)  # type: ignore[misc]

    def _predicted(self, model_output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
        if hasattr(self, "sigmas"):  # a rectified flow
            found: Tensor = sample.float() - self.sigmas[self.at] * model_output.float()
        else:
            found = super().step(model_output, timestep, sample).pred_original_sample  # type: ignore[misc]
        if self.small and found.ndim == 4 and min(found.shape[2:]) >= SMALL:  # not where latents are packed into tokens
            found = torch.nn.functional.avg_pool2d(found.float(), 2)
        return found.to(model_output.dtype)
