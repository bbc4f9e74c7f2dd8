"""Running backwards undoes running forwards, for every kind of model the schedulers are written for."""

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from eigenbank.loaders.inverse_schedulers import scheduler_pair
from eigenbank.schemas.errors import SteerError

START = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def model(sample: Tensor, step: Tensor) -> Tensor:
    """Something smooth and not linear that depends on both."""
    return torch.tanh(0.8 * sample.roll(1, -1) + 0.5 * torch.cos(step.float() / 300)) - 0.3 * sample


def run(scheduler: Any, sample: Tensor, steps: int = 12) -> Tensor:
    scheduler.set_timesteps(steps)
    for step in scheduler.timesteps:
        sample = scheduler.step(model(sample, step), step, sample, return_dict=False)[0]
    return sample


SCHEDULERS = {
    "epsilon": DDIMScheduler(clip_sample=True),
    "v, zero terminal SNR, trailing": DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    "linspace": DDIMScheduler(timestep_spacing="linspace", beta_schedule="scaled_linear"),
    "another class": PNDMScheduler(steps_offset=1, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow that was stochastic": FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
}  # fmt: skip


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_forwards_after_backwards_gives_the_start_back_the_better_the_more_repeats(kind: str) -> None:
    errors = []
    for repeats in (0, 2, 30):
        forward, inverse = scheduler_pair(SCHEDULERS[kind], repeats)
        errors.append(float((run(forward, run(inverse, START)) - START).abs().max()))
    assert errors[0] > 10 * errors[2]
    assert errors[0] > errors[1]
    assert errors[2] < 1e-3


def test_without_repeats_and_predicting_noise_it_is_diffusers_own_inverse() -> None:
    config = {"clip_sample": False, "beta_schedule": "scaled_linear"}
    _, inverse = scheduler_pair(DDIMScheduler(**config), 0)
    torch.testing.assert_close(
        run(inverse, START, 20), run(DDIMInverseScheduler(**config), START, 20), atol=1e-4, rtol=1e-4
    )


def test_a_timestep_is_shown_once_for_the_guess_and_once_for_each_repeat() -> None:
    _, inverse = scheduler_pair(DDIMScheduler(), 2)
    inverse.set_timesteps(4)
    assert inverse.timesteps.tolist() == [0] * 3 + [250] * 3 + [500] * 3 + [750] * 3


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (EDMEulerScheduler(), "a EDMEulerScheduler cannot be run backwards"),
        (DDIMScheduler(prediction_type="sample"), "predicts the sample cannot be run backwards"),
        (DDIMScheduler(rescale_betas_zero_snr=True), "cannot start from pure noise"),
    ],
)
def test_what_cannot_be_run_backwards_is_refused_by_name(scheduler: Any, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        scheduler_pair(scheduler, 1)
