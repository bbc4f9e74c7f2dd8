"""Whole pipelines at tiny sizes, untrained, called with made-up prompt embeddings, and banks for their denoisers.

`stable_diffusion`, `flux`, `wan` and `cogvideox` draw latents, around the denoisers of `zoo`, of which discovery knows the
layers; `pipeline` and `latent_diffusion` have autoencoders, and draw images of 16×16.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import zoo
from torch import Tensor

from eigenbank.loaders.plugins import target_of
from eigenbank.registry.sets.direction_set import Direction, DirectionSet
from eigenbank.schemas import HookPoint
from eigenbank.schemas.recipe import Site


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


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
    return _quiet(pipe)


def flux() -> Any:
    """FLUX: joint and single blocks; true guidance calls the denoiser twice a step."""
    import diffusers

    pipe = diffusers.FluxPipeline(
        vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, transformer=zoo.make("FluxTransformer2DModel"),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    return _quiet(pipe)


def wan(*, two: bool = False) -> Any:
    """Wan: video, guidance in two calls; with `two`, a second denoiser takes over in the low noise."""
    import diffusers

    low = zoo.make("WanTransformer3DModel") if two else None
    pipe = diffusers.WanPipeline(
        vae=None, text_encoder=None, tokenizer=None, transformer=zoo.make("WanTransformer3DModel"), transformer_2=low,
        boundary_ratio=0.5 if two else None, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    return _quiet(pipe)


def cogvideox() -> Any:
    """CogVideoX: video, joint blocks, both halves of guidance stacked into one batch."""
    import diffusers

    pipe = diffusers.CogVideoXPipeline(
        vae=None, text_encoder=None, tokenizer=None, transformer=zoo.make("CogVideoXTransformer3DModel"), scheduler=diffusers.CogVideoXDDIMScheduler(),
    )  # fmt: skip
    return _quiet(pipe)


def bank_for(pipe: Any) -> DirectionSet:
    """A bank of the pipeline's first denoiser, one direction for each layer."""
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    return zoo.bank_of(denoiser, zoo.layers_of(denoiser))


@contextlib.contextmanager
def biased(pipe: Any, edits: Mapping[Direction, float], site: Site | None = None) -> Iterator[None]:
    """What biases do: every direction is added at its site, or at that given, as long as the set says that a token is there."""
    target = target_of(pipe)
    denoiser = next(iter(target.denoisers.values()))
    with contextlib.ExitStack() as stack:
        for direction, scale in edits.items():
            layer = direction.bank.layers[direction.layer]
            where = site or direction.recipe.site
            point = target.hook_point(denoiser, layer, where)
            vector = direction.vector * (scale * layer.lengths[where].length)

            def add_before(
                _module: Any, args: Any, kwargs: Any, point: HookPoint = point, vector: Tensor = vector
            ) -> Any:
                if point.argument in kwargs:
                    return args, {
                        **kwargs,
                        point.argument: kwargs[point.argument] + vector.to(kwargs[point.argument].dtype),
                    }
                return (*args[: point.index], args[point.index] + vector, *args[point.index + 1 :]), kwargs

            def add(_module: Any, _args: Any, out: Any, point: HookPoint = point, vector: Tensor = vector) -> Any:
                given = out if isinstance(out, tuple) else (out,)
                shape = [1] * given[point.index].ndim
                shape[point.axis] = -1
                moved = given[point.index] + vector.reshape(shape).to(given[point.index].dtype)
                found = (*given[: point.index], moved, *given[point.index + 1 :])
                return found if isinstance(out, tuple) else found[0]

            for path in point.modules:
                module = denoiser.get_submodule(path)
                if point.at == "input":
                    stack.callback(module.register_forward_pre_hook(add_before, with_kwargs=True).remove)
                else:
                    stack.callback(module.register_forward_hook(add).remove)
        yield


def _embeds(n: int, length: int, width: int, seed: int, dtype: torch.dtype) -> Tensor:
    return embeddings(n, length, width, seed=seed).to(dtype)


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
    return _quiet(pipe)


def draw_image(pipe: Any, family: str, steps: int = 3) -> Tensor:
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
    return _quiet(pipe)


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
