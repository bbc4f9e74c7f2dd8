"""Readings are kept under a key of all that shapes a picture: whatever changes one changes it, and nothing else does."""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import textpipes
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from eigenbank.loaders.measure import PipelineMeasurements

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
CALL = {**textpipes.CALLS["sdxl"], "height": 16, "width": 16}


def made() -> Any:
    """A tiny SDXL with a text encoder and a LoRA of two adapters."""
    from peft import LoraConfig

    pipe = textpipes.pipeline("sdxl")
    torch.manual_seed(1)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPTextConfig(**size, vocab_size=9, bos_token_id=1, eos_token_id=2)
    pipe.register_modules(text_encoder=CLIPTextModel(config))
    for name in ("first", "second"):
        pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), name)
    pipe.unet.set_adapters(["first"], [1.0])
    return pipe


def nudged(component: str) -> Callable[[Any], None]:
    """Change one value of a component, past what a version counter sees."""

    def change(pipe: Any) -> None:
        list(getattr(pipe, component).parameters())[-1].data.view(-1)[-1] += 1e-3

    return change


def rescheduled(kind: str, **config: Any) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **config)

    return change


CHANGES: dict[str, Callable[[Any], Any]] = {
    "the denoiser's weights": nudged("unet"),
    "the VAE's weights": nudged("vae"),
    "the text encoder's weights": nudged("text_encoder"),
    "the VAE's config": lambda pipe: pipe.vae.register_to_config(scaling_factor=1.0),
    "another scheduler": rescheduled("EulerDiscreteScheduler"),
    "the scheduler's config": rescheduled("DDIMScheduler", timestep_spacing="trailing"),
    "the scheduler's betas": lambda pipe: pipe.scheduler.betas.mul_(0.9),
    "a LoRA's weight": lambda pipe: pipe.unet.set_adapters(["first"], [0.5]),
    "another LoRA": lambda pipe: pipe.unet.set_adapters(["second"], [1.0]),
    "a LoRA switched off": lambda pipe: pipe.unet.disable_adapters(),
    "FreeU": lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.1, 1.2),
    "tiles": lambda pipe: pipe.vae.enable_tiling(),
    "the dtype": lambda pipe: pipe.to(torch.float16),
    "another attention": lambda pipe: pipe.unet.set_attn_processor(
        diffusers.models.attention_processor.AttnProcessor()
    ),
}
CALLS: dict[str, dict[str, Any]] = {
    "the prompt": {"prompt_embeds": CALL["prompt_embeds"] + 1e-3},
    "the guidance scale": {"guidance_scale": 5.0},
    "the size": {"height": 24},
    "what cannot be described": {"callback_on_step_end": lambda *_: {}},
}


@pytest.fixture(scope="module")
def key() -> str:
    return PipelineMeasurements(made(), 2, **CALL).fingerprint


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_pipeline_has_another_key(change: str, key: str) -> None:
    pipe = made()
    CHANGES[change](pipe)
    assert PipelineMeasurements(pipe, 2, **CALL).fingerprint != key


@pytest.mark.parametrize("change", CALLS)
def test_a_changed_call_has_another_key(change: str, key: str) -> None:
    assert PipelineMeasurements(made(), 2, **{**CALL, **CALLS[change]}).fingerprint != key


def test_other_steps_have_another_key(key: str) -> None:
    assert PipelineMeasurements(made(), 3, **CALL).fingerprint != key


def test_what_shapes_no_picture_leaves_the_key(key: str) -> None:
    pipe = made()
    pipe.vae.enable_slicing()
    pipe(**CALL, num_inference_steps=2)
    assert PipelineMeasurements(pipe, 2, **CALL).fingerprint == key
