"""Train a second checkpoint of another kind on the same faces: a latent pipeline with a transformer denoiser.

    PYTHONPATH=benchmarks python -m faces.train_latent --out benchmarks/checkpoints/cartoon-faces-dit-64

A diffusers `DiTPipeline`: an `AutoencoderKL` makes 16×16 latents of 64×64 faces, a `DiTTransformer2DModel` denoises them.
It exists so that what is found on the U-Net in pixels can be held against something built differently. Resumable, as
`faces.train` is.
"""

import hashlib
import shlex
import sys
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import Tensor, nn

from faces.loop import bars, train
from faces.render import render, sample_factors
from faces.train import new_scheduler

SIZE = 64
CARD = """---
license: apache-2.0
library_name: diffusers
tags: [eigenbank]
---
# Cartoon faces, 64×64, latent transformer

A small `DiTPipeline` ({parameters:.1f} M parameters in the transformer) of cartoon faces, trained by the eigenbank project
on its own renders (`benchmarks/faces/render.py`). One class, 0; sample it with DDIM, 15 or more steps and
`guidance_scale=1`. Weights are float16, averaged (EMA) over training; v-prediction, zero terminal SNR.

- made by: `PYTHONPATH=benchmarks {command}` (torch {torch})
- `transformer/diffusion_pytorch_model.safetensors` sha256: `{digest}`
- round trip of the autoencoder on 256 held-out renders: {rms:.4f} root mean square, images in [-1, 1]
"""


def new_autoencoder(seed: int) -> AutoencoderKL:
    """64×64 images to 16×16 latents of four channels, without attention."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def new_transformer(seed: int) -> DiTTransformer2DModel:
    """Six blocks of width 128 over 64 tokens, each 2×2 latents."""
    torch.manual_seed(seed)
    return DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=4,
        out_channels=4,
        num_layers=6,
        sample_size=SIZE // 4,
        patch_size=2,
        num_embeds_ada_norm=1,
    )


def faces(step: int, seed: int, batch: int, device: torch.device) -> tuple[Tensor, torch.Generator]:
    """The batch of images that (seed, step) names, `(batch, 3, 64, 64)` in [-1, 1], and the generator that drew it."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return render(sample_factors(batch, generator), SIZE).to(device), generator


def reconstruction_loss(model: AutoencoderKL, step: int, seed: int, batch: int) -> Tensor:
    """Absolute and squared error of the round trip, and a little divergence from the normal distribution."""
    images, generator = faces(step, seed, batch, next(model.parameters()).device)
    posterior = model.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(images.device)
    difference: Tensor = model.decode(posterior.mean + posterior.std * noise).sample - images
    kl: Tensor = posterior.kl().mean()
    return difference.abs().mean() + difference.square().mean() + 1e-5 * kl


@torch.no_grad()
def encoded(vae: AutoencoderKL, seed: int, count: int = 8192, batch: int = 32) -> Tensor:
    """Latents `(count, 4, 16, 16)` of faces, of deviation 1: encoded once, for that costs half of a training step."""
    device = next(vae.parameters()).device
    parts = [vae.encode(faces(number, seed, batch, device)[0]).latent_dist.mean for number in range(count // batch)]
    scale: float = vae.config.scaling_factor
    return torch.cat(parts) * scale


def velocity_loss(
    model: DiTTransformer2DModel, scheduler: DDPMScheduler, pool: Tensor, step: int, seed: int, batch: int
) -> Tensor:
    """Mean squared error of the velocity predicted on a batch of the pool; timesteps stratified."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    latents = pool[torch.randint(len(pool), (batch,), generator=generator)]
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    fraction = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    times = (fraction * 1000).long().clamp_max(999).to(latents.device)
    predicted = model(scheduler.add_noise(latents, noise, times), times, torch.zeros_like(times)).sample
    return nn.functional.mse_loss(predicted, scheduler.get_velocity(latents, noise, times))


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the finished checkpoint.")
@click.option("--state", type=click.Path(path_type=Path), default=Path(".train/latent"), show_default=True)
@click.option("--autoencoder-steps", type=click.IntRange(1), default=2000, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=5000, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
def main(out: Path, state: Path, autoencoder_steps: int, steps: int, seed: int, device: str) -> None:
    """Train the latent checkpoint and write it to OUT, ready for diffusers."""
    with bars() as progress:
        vae = train(
            "autoencoder",
            new_autoencoder(seed).to(device),
            lambda model, step: reconstruction_loss(model, step, seed, batch=16),
            steps=autoencoder_steps,
            state=state / "autoencoder.pt",
            progress=progress,
            peak=2e-3,
        ).requires_grad_(requires_grad=False)
        images, _ = faces(0, seed + 1, 256, torch.device(device))
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean
            rms = (vae.decode(latents).sample - images).square().mean().sqrt().item()
        vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
        scheduler = new_scheduler()
        pool = encoded(vae, seed)
        transformer = train(
            "transformer",
            new_transformer(seed).to(device),
            lambda model, step: velocity_loss(model, scheduler, pool, step, seed, batch=32),
            steps=steps,
            state=state / "transformer.pt",
            progress=progress,
        )
    pipeline = DiTPipeline(transformer, vae, scheduler, id2label={0: "face"})
    pipeline.to("cpu", torch.float16).save_pretrained(out)
    weights = out / "transformer" / "diffusion_pytorch_model.safetensors"
    card = CARD.format(
        parameters=sum(p.numel() for p in transformer.parameters()) / 1e6,
        command=shlex.join(["python", "-m", "faces.train_latent", *sys.argv[1:]]),
        torch=torch.__version__,
        digest=hashlib.sha256(weights.read_bytes()).hexdigest(),
        rms=rms,
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    click.echo(f"wrote {out}: round trip {rms:.4f}")


if __name__ == "__main__":
    main()
