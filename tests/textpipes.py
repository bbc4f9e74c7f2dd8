"""Whole text pipelines at tiny sizes, called with made-up prompt embeddings, and banks for their denoisers."""

from typing import Any

import torch
import zoo
from torch import Tensor

from eigenbank.registry.bank import Bank


def vae(channels: int = 4) -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=8, latent_channels=channels, sample_size=8,
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
    )  # fmt: skip


def stable_diffusion(kind: str = "StableDiffusionPipeline") -> Any:
    """Stable Diffusion's layout: a U-Net with text, both halves of guidance stacked into one batch."""
    import diffusers

    pipe = getattr(diffusers, kind)(
        vae=vae(), text_encoder=None, tokenizer=None, unet=zoo.make("UNet2DConditionModel"), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
        scheduler=diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux() -> Any:
    """FLUX: joint and single blocks; true guidance calls the denoiser twice a step."""
    import diffusers

    pipe = diffusers.FluxPipeline(
        vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, transformer=zoo.make("FluxTransformer2DModel"),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def wan(*, two: bool = False) -> Any:
    """Wan: video, guidance in two calls; with `two`, a second denoiser takes over in the low noise."""
    import diffusers

    low = zoo.make("WanTransformer3DModel") if two else None
    pipe = diffusers.WanPipeline(
        vae=None, text_encoder=None, tokenizer=None, transformer=zoo.make("WanTransformer3DModel"), transformer_2=low,
        boundary_ratio=0.5 if two else None, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def cogvideox() -> Any:
    """CogVideoX: video, joint blocks, both halves of guidance stacked into one batch."""
    import diffusers

    pipe = diffusers.CogVideoXPipeline(
        vae=None, text_encoder=None, tokenizer=None, transformer=zoo.make("CogVideoXTransformer3DModel"), scheduler=diffusers.CogVideoXDDIMScheduler(),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def bank_for(pipe: Any) -> Bank:
    """A bank of the pipeline's first denoiser, one direction for each layer."""
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    return zoo.bank_of(denoiser, zoo.layers_of(denoiser))


def _embeds(n: int, length: int, width: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn((n, length, width), generator=torch.Generator().manual_seed(seed)).to(dtype)


def draw(
    pipe: Any, n: int = 1, steps: int = 3, *, guided: bool = True, dtype: torch.dtype = torch.float32, **more: Any
) -> Tensor:
    """Latents of `n` samples, each of a seed of its own."""
    kind = type(pipe).__name__
    call: dict[str, Any] = {
        "generator": [torch.Generator().manual_seed(seed) for seed in range(n)], "num_inference_steps": steps, "output_type": "latent",
        "return_dict": False, "height": 16, "width": 16,
    }  # fmt: skip
    if "Flux" in kind:
        more = {"true_cfg_scale": 4.0 if guided else 1.0, **more}
        call |= {
            "height": 64,
            "width": 64,
            "pooled_prompt_embeds": _embeds(n, 1, 32, 3, dtype)[:, 0],
            "prompt_embeds": _embeds(n, 6, 32, 1, dtype),
            "max_sequence_length": 6,
        }
        if guided:
            call |= {
                "negative_prompt_embeds": _embeds(n, 6, 32, 2, dtype),
                "negative_pooled_prompt_embeds": _embeds(n, 1, 32, 4, dtype)[:, 0],
            }
    elif "CogVideoX" in kind:
        call |= {"prompt_embeds": _embeds(n, 6, 16, 1, dtype), "negative_prompt_embeds": _embeds(n, 6, 16, 2, dtype)}
        call |= {"num_frames": 9, "height": 64, "width": 64, "max_sequence_length": 6}
        more = {"guidance_scale": 4.0 if guided else 1.0, **more}
    elif "Wan" in kind:
        call |= {"prompt_embeds": _embeds(n, 6, 16, 1, dtype), "negative_prompt_embeds": _embeds(n, 6, 16, 2, dtype)}
        call |= {"num_frames": 9, "height": 32, "width": 32}
        more = {"guidance_scale": 4.0 if guided else 1.0, **more}
    else:
        call |= {
            "prompt_embeds": _embeds(n, 6, 16, 1, dtype),
            "negative_prompt_embeds": _embeds(n, 6, 16, 2, dtype),
            "height": 8,
            "width": 8,
        }
        more = {"guidance_scale": 4.0 if guided else 1.0, **more}
    with torch.no_grad():
        found: Tensor = pipe(**call, **more)[0]
    return found
