"""The memory model against measured peaks, on a CPU at small sizes; and what it says of full-size models on real cards.

    python benchmarks/memory.py

Networks have the layouts of Stable Diffusion, SDXL and FLUX at a fraction of their widths, in float32, with random
weights. Denoising: how much more memory each further picture of a batch takes. Decoding: the peak of one picture. Every peak
is the process's own (VmHWM, reset before). The estimates must lie between 0.8 and 2.5 times the peaks: too low and the first
batch of every run fails, too high and devices idle. Results go to benchmarks/results/memory.json.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "memory.json"
BOUNDS = (0.8, 2.5)
SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


def vae(share: int, **config: Any) -> Any:
    from diffusers import AutoencoderKL

    share = 2 ** (share - 1).bit_length()  # its widths are halved to the end
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    widths = tuple(width // share for width in (128, 256, 512, 512))
    return AutoencoderKL(block_out_channels=widths, layers_per_block=2, norm_num_groups=8, **blocks, **config)


def stable_diffusion(share: int) -> Any:
    import diffusers

    widths = tuple(width // share for width in (320, 640, 1280, 1280))
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=widths, cross_attention_dim=768 // share, norm_num_groups=8, sample_size=64
    )
    return diffusers.StableDiffusionPipeline(
        vae=vae(share), unet=unet, scheduler=diffusers.DDIMScheduler(), text_encoder=None, tokenizer=None, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl(share: int) -> Any:
    import diffusers

    widths = tuple(width // share for width in (320, 640, 1280))
    config = {**SDXL, "projection_class_embeddings_input_dim": 1536 + 1280 // share}
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=widths, cross_attention_dim=2048 // share, norm_num_groups=8, sample_size=128, **config
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(share, force_upcast=True), unet=unet, scheduler=diffusers.DDIMScheduler(), text_encoder=None, text_encoder_2=None,
        tokenizer=None, tokenizer_2=None, add_watermarker=False,
    )  # fmt: skip


def flux(share: int) -> Any:
    import diffusers

    few = (
        {} if share == 1 else {"num_layers": 2, "num_single_layers": 2}
    )  # layers follow one another: two show the peak
    transformer = diffusers.FluxTransformer2DModel(
        num_attention_heads=24 // share, joint_attention_dim=4096 // share, pooled_projection_dim=768 // share, **few
    )
    coder = vae(share, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
    return diffusers.FluxPipeline(
        vae=coder, transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), text_encoder=None,
        tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip


def call_of(kind: str, n: int, share: int, side: int) -> dict[str, Any]:
    import torch

    width = {"stable_diffusion": 768, "sdxl": 2048, "flux": 4096}[kind] // share
    call: dict[str, Any] = {"prompt_embeds": torch.randn(n, 77, width), "height": side, "width": side}
    if kind != "flux":
        call |= {"negative_prompt_embeds": torch.randn(n, 77, width), "guidance_scale": 5.0}
    pooled = {"sdxl": 1280, "flux": 768}.get(kind, 0) // share
    if pooled:
        call["pooled_prompt_embeds"] = torch.randn(n, pooled)
    if kind == "sdxl":
        call["negative_pooled_prompt_embeds"] = torch.randn(n, pooled)
    return call


def peak(run: Any) -> int:
    """Bytes that a run takes beyond what the process held before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measured(kind: str, share: int, side: int) -> dict[str, float]:
    import torch

    from eigenbank.loaders.memory import picture_bytes

    pipe = globals()[kind](share)
    pipe.set_progress_bar_config(disable=True)
    few, many = 1, 4
    found = {}
    with torch.no_grad():
        for n in (few, few, many):  # the first one warms up
            call = call_of(kind, n, share, side)
            found[n] = peak(lambda call=call: pipe(**call, num_inference_steps=1, output_type="latent"))
        latents = torch.randn(1, pipe.vae.config.latent_channels, side // 8, side // 8)
        pipe.vae.decode(latents)
        decoding = peak(lambda: pipe.vae.decode(latents))
    denoising = (found[many] - found[few]) / (many - few)
    estimates = picture_bytes(pipe, side, side, guided=kind != "flux")
    return {
        "denoising": denoising, "denoising_estimate": estimates[0], "denoising_ratio": estimates[0] / denoising,
        "decoding": decoding, "decoding_estimate": estimates[1], "decoding_ratio": estimates[1] / decoding,
    }  # fmt: skip


def computed(kind: str, side: int, card: int) -> dict[str, float]:
    """What the model says of a full-size pipeline in half precision on a card of so many GiB."""
    import torch

    from eigenbank.loaders.memory import batch_size, picture_bytes

    with torch.device("meta"):
        pipe = globals()[kind](1).to(dtype=torch.bfloat16 if kind == "flux" else torch.float16)
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    weights = sum(each.numel() * each.element_size() for part in parts for each in part.parameters())
    weights += {"stable_diffusion": 246, "sdxl": 1635, "flux": 9760}[kind] * 10**6  # the text encoders
    denoising, decoding = picture_bytes(pipe, side, side, guided=kind != "flux")
    at_once = batch_size(pipe, height=side, width=side, free=card * 2**30 - weights)
    return {
        "card_gib": card,
        "weights": weights,
        "denoising": denoising,
        "decoding": decoding,
        "pictures_at_once": at_once,
    }


def main() -> None:
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:  # so that what is freed leaves the process at once
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    found: dict[str, Any] = {"measured": {}, "computed": {}}
    for kind, share, side in (
        ("stable_diffusion", 4, 256),
        ("stable_diffusion", 8, 512),
        ("sdxl", 4, 512),
        ("flux", 6, 512),
    ):
        found["measured"][f"{kind} 1/{share} {side}"] = measured(kind, share, side)
        print(
            kind,
            share,
            side,
            {name: f"{value:.3g}" for name, value in found["measured"][f"{kind} 1/{share} {side}"].items()},
            flush=True,
        )
    for kind, side, card in (("stable_diffusion", 512, 8), ("sdxl", 1024, 12), ("sdxl", 1024, 24), ("flux", 1024, 48)):
        found["computed"][f"{kind} {side} {card}GiB"] = computed(kind, side, card)
        print(
            kind,
            side,
            card,
            {name: f"{value:.3g}" for name, value in found["computed"][f"{kind} {side} {card}GiB"].items()},
        )
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    ratios = [value for each in found["measured"].values() for name, value in each.items() if name.endswith("ratio")]
    if not all(BOUNDS[0] <= ratio <= BOUNDS[1] for ratio in ratios):
        sys.exit(f"an estimate is off: {ratios}")


if __name__ == "__main__":
    main()
