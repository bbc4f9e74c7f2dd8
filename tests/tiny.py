"""Pipelines of the families people use, untrained and small enough to draw an image in milliseconds; no text encoders."""

from typing import Any

import torch
from torch import Tensor


def embeddings(*shape: int, seed: int = 5) -> Tensor:
    """What a text encoder might have made."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PROMPT = {"prompt_embeds": embeddings(1, 7, 16)}
POOLED = {**PROMPT, "pooled_prompt_embeds": embeddings(1, 16)}
GUIDED = {**PROMPT, "negative_prompt_embeds": embeddings(1, 7, 16, seed=6)}
CALLS: dict[str, dict[str, Any]] = {
    "stable-diffusion": {**GUIDED, "guidance_scale": 3.0},
    "sdxl": {**GUIDED, **POOLED, "negative_pooled_prompt_embeds": embeddings(1, 16, seed=7), "guidance_scale": 3.0},
    "sd3": {**GUIDED, **POOLED, "negative_pooled_prompt_embeds": embeddings(1, 16, seed=7), "guidance_scale": 3.0},
    "flux": {**POOLED, "guidance_scale": 1.0},
}
"""Arguments that stand for prompts, with classifier-free guidance where the family has it."""


def pipeline(family: str) -> Any:
    """A pipeline of one of the families of `CALLS`, drawing 16×16; the same every time."""
    torch.manual_seed(0)
    pipe = {"stable-diffusion": _stable_diffusion, "sdxl": _sdxl, "sd3": _sd3, "flux": _flux}[family]()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, family: str, steps: int = 3) -> Tensor:
    """One image `(1, 16, 16, 3)` of one seed."""
    generator = torch.Generator().manual_seed(0)
    call = {"height": 16, "width": 16, "num_inference_steps": steps, "output_type": "np", **CALLS[family]}
    return torch.from_numpy(pipe(generator=generator, **call).images)


def latent_diffusion() -> Any:
    """An unconditional pipeline on the latents of a VQ autoencoder, drawing 16×16."""
    from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel, VQModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    coder = VQModel(
        block_out_channels=(8, 16), latent_channels=3, norm_num_groups=4, num_vq_embeddings=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    pipe = LDMPipeline(vqvae=coder, unet=unet, scheduler=DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _coder(**config: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16), latent_channels=4, norm_num_groups=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **config,
    )  # fmt: skip


def _unet(**config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4, **config,
    )  # fmt: skip


def _ddim() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip


def _stable_diffusion() -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=_coder(scaling_factor=5.0), unet=_unet(), scheduler=_ddim(), text_encoder=None, tokenizer=None, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _sdxl() -> Any:
    from diffusers import StableDiffusionXLPipeline

    unet = _unet(addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=40)
    return StableDiffusionXLPipeline(
        vae=_coder(scaling_factor=5.0), unet=unet, scheduler=_ddim(), text_encoder=None, text_encoder_2=None, tokenizer=None,
        tokenizer_2=None, add_watermarker=False,
    )  # fmt: skip


def _sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16,
        dual_attention_layers=(0,),
    )  # fmt: skip
    coder = _coder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5)
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=coder, text_encoder=None,
        tokenizer=None, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


def _flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=[2, 2, 4],
    )  # fmt: skip
    coder = _coder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return FluxPipeline(
        transformer=transformer, scheduler=scheduler, vae=coder, text_encoder=None, tokenizer=None,
        text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip
