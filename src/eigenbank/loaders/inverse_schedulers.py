"""Inverse schedulers: they run a pipeline backwards, from an image to the noise it would be generated from.

A deterministic step of sampling is x_prev = A·x + B·f(x, t), with f the denoiser's output. To go back, x is wanted for a
known x_prev, but f needs x. DDIM inversion takes f(x_prev, t) instead; here that is only the first guess, and
x ← (x_prev − B·f(x, t)) / A is then repeated, which converges to the x that the step really leads from. The schedulers
show the pipeline every timestep once for the guess and once for each repetition, so that any pipeline with its prompts
and its guidance runs backwards by its own code.
"""

import inspect
from typing import Any

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from eigenbank.schemas.errors import SteerError


class _Backwards:
    """Shared by both schedulers: one step is solved over `repeats + 1` visits of its timestep."""

    repeats: int
    timesteps: Tensor

    def _restart(self) -> None:
        self._visit = 0
        self._known: Tensor | None = None
        self._moved = 0.0

    def _solve(self, output: Tensor, sample: Tensor, a: float, b: float) -> Tensor:
        first = self._visit % (self.repeats + 1) == 0
        self._visit += 1
        if first:
            self._known = sample
        assert self._known is not None
        found = ((self._known.float() - b * output.float()) / a).to(sample.dtype)
        moved = float((found - sample).float().norm())
        if not first and moved > self._moved:
            return sample  # the repetition leads away: the last but one was the best
        # The guess is measured against x_prev, which says nothing yet of how well repeating goes.
        self._moved = float("inf") if first else moved
        return found


class InverseDDIM(_Backwards, DDIMInverseScheduler):  # type: ignore[misc]
    """diffusers' inverse scheduler on the very timesteps of `forward`, with every step solved.

    With `repeats` 0 and a model that predicts the noise its steps are those of the class it extends.
    """

    def __init__(self, forward: DDIMScheduler, repeats: int) -> None:
        known = inspect.signature(DDIMInverseScheduler.__init__).parameters
        DDIMInverseScheduler.__init__(self, **{key: value for key, value in forward.config.items() if key in known})
        self.forward = forward
        self.repeats = repeats
        self._restart()

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        self.forward.set_timesteps(num_inference_steps, device=device)
        self.num_inference_steps = num_inference_steps
        self.timesteps = self.forward.timesteps.flip(0).repeat_interleave(self.repeats + 1)
        self._restart()

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        a, b = self._coefficients(int(timestep))
        found = self._solve(model_output, sample, a, b)
        return SchedulerOutput(found) if return_dict else (found,)

    def _coefficients(self, timestep: int) -> tuple[float, float]:
        """Return A and B of the forward step from `timestep`: equation 12 of arXiv 2010.02502 with η = 0, collected."""
        assert self.num_inference_steps is not None
        levels = self.forward.alphas_cumprod.double()
        before = timestep - self.forward.config.num_train_timesteps // self.num_inference_steps
        here = levels[timestep]
        there = levels[before] if before >= 0 else torch.as_tensor(self.forward.final_alpha_cumprod).double()
        alpha, sigma, alpha_to, sigma_to = (float(x.sqrt()) for x in (here, 1 - here, there, 1 - there))
        if self.forward.config.prediction_type == "v_prediction":
            return alpha_to * alpha + sigma_to * sigma, sigma_to * alpha - alpha_to * sigma
        return alpha_to / alpha, sigma_to - alpha_to * sigma / alpha


class InverseFlow(_Backwards, FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Euler steps of a rectified flow, backwards: x_prev = x + (σ_prev − σ)·v(x, t)."""

    def __init__(self, forward: FlowMatchEulerDiscreteScheduler, repeats: int) -> None:
        known = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
        given = {key: value for key, value in forward.config.items() if key in known}
        FlowMatchEulerDiscreteScheduler.__init__(self, **given)
        self.repeats = repeats
        self._levels: Tensor = self.sigmas
        self._restart()

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        super().set_timesteps(num_inference_steps, device=device, sigmas=sigmas, mu=mu, timesteps=timesteps)
        self._levels = self.sigmas.double().cpu()
        self.timesteps = self.timesteps.flip(0).repeat_interleave(self.repeats + 1)
        self._restart()

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True, **_ignored: Any
    ) -> Any:
        index = len(self._levels) - 2 - self._visit // (self.repeats + 1)
        found = self._solve(model_output, sample, 1.0, float(self._levels[index + 1] - self._levels[index]))
        return SchedulerOutput(found) if return_dict else (found,)


def scheduler_pair(scheduler: Any, repeats: int) -> tuple[Any, Any]:
    """Make a deterministic scheduler for the model behind `scheduler`, and its inverse.

    DDIM for models with a noise schedule of betas, Euler for rectified flows; clipping and thresholding are off, since
    what is clipped cannot be run backwards. Raises SteerError, naming the scheduler, for others.
    """
    config = dict(scheduler.config)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        known = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
        given = {key: value for key, value in config.items() if key in known} | {"stochastic_sampling": False}
        forward = FlowMatchEulerDiscreteScheduler(**given)
        return forward, InverseFlow(forward, repeats)
    if "beta_schedule" not in config:
        message = (
            f"a {type(scheduler).__name__} cannot be run backwards here: inversion is written for models with a noise "
            "schedule of betas (DDIM and its kin) and for FlowMatchEulerDiscreteScheduler. Nothing was edited"
        )
        raise SteerError(message)
    if config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        message = (
            f"a model that predicts the {config['prediction_type']} cannot be run backwards: its last step does not depend "
            "on the noise that is left. Nothing was edited"
        )
        raise SteerError(message)
    known = inspect.signature(DDIMScheduler.__init__).parameters
    given = {key: value for key, value in config.items() if key in known}
    if given.get("timestep_spacing") not in ("leading", "trailing", "linspace"):
        given.pop("timestep_spacing", None)
    forward = DDIMScheduler(**given | {"clip_sample": False, "thresholding": False})
    if given.get("prediction_type", "epsilon") == "epsilon" and given.get("rescale_betas_zero_snr"):
        message = "a model that predicts noise cannot start from pure noise (zero terminal SNR): nothing was edited"
        raise SteerError(message)
    return forward, InverseDDIM(forward, repeats)
