"""The autoencoder: 64×64 images to 16×16 latents of four channels, each of mean 0 and deviation 1.

It is trained first, and finished before the denoiser sees it.
"""

import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from avatars.loop import Schedule, Workers, train
from avatars.renders import SIZE, as_input

SCHEDULE = Schedule(steps=8_000, batch=8, rate=1.2e-3, weight_decay=0.0)


def new_vae(seed: int = 0, channels: tuple[int, ...] = (24, 48, 96)) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
    )


def importance(size: int = SIZE) -> Tensor:
    """`(size, size)`, mean 1: how much an error counts. Brows, eyes, mouth and clothes are small and are what captions
    speak of."""
    weights = torch.ones(SIZE, SIZE)
    weights[28:50, 18:46] += 1.5
    weights[50:, 10:54] += 1.0
    weights = functional.adaptive_avg_pool2d(weights[None, None], size)[0, 0]
    relative: Tensor = weights / weights.mean()
    return relative


def reconstruction_loss(vae: AutoencoderKL, images: Tensor, generator: torch.Generator) -> Tensor:
    """Absolute and squared error and that of the edges, weighted, and a little divergence from the normal distribution."""
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(images.device)
    difference = vae.decode(posterior.mean + posterior.std * noise).sample.float() - images
    weights = importance().to(images.device)
    edges = difference.diff(dim=-1).abs() * weights[:, 1:], difference.diff(dim=-2).abs() * weights[1:]
    error: Tensor = ((difference.abs() + 2 * difference.square()) * weights).mean() + 0.5 * (
        edges[0].mean() + edges[1].mean()
    )
    divergence: Tensor = posterior.kl().float().mean()
    return error + 1e-6 * divergence


def train_vae(images: Tensor, state: Path, workers: Workers, stop: int | None = None) -> AutoencoderKL:
    """The autoencoder trained on `(n, 3, 64, 64)` uint8 renders, its latents standardised."""
    vae = new_vae()

    def loss(_step: int, generator: torch.Generator, batch: int) -> Tensor:
        chosen = images[torch.randint(len(images), (batch,), generator=generator)]
        return reconstruction_loss(vae, as_input(chosen).to(workers.device), generator)

    train("vae", {"vae": vae}, loss, SCHEDULE, state, workers, stop=stop)
    standardise(vae, images[:: max(1, len(images) // 2048)].to(workers.device))
    return vae


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: Tensor) -> None:
    """Fold each latent channel's mean and deviation into the convolutions beside it, exactly.

    Latents then have mean 0 and deviation 1, so that `scaling_factor` is 1 and nothing else needs to know.
    """
    latents = encode(vae, images)
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    (inner, inner_bias), (outer, outer_bias) = (
        (convolution.weight, convolution.bias) for convolution in (vae.quant_conv, vae.post_quant_conv)
    )
    half = len(mean)
    inner[:half] /= deviation[:, None, None, None]
    inner_bias[:half] = (inner_bias[:half] - mean) / deviation
    inner_bias[half:] -= 2 * deviation.log()
    outer_bias += (outer[:, :, 0, 0] * mean).sum(1)
    outer *= deviation[:, None, None]


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """uint8 renders → latents `(n, 4, 16, 16)` float32."""
    return torch.cat([vae.encode(as_input(part)).latent_dist.mean for part in images.split(64)])


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Peak signal to noise of the way through the latents, in dB, over `(n, 3, 64, 64)` uint8 renders."""
    device = next(vae.parameters()).device
    errors = []
    for part in images.split(64):
        inputs = as_input(part).to(device)
        back = vae.decode(vae.encode(inputs).latent_dist.mean).sample.clamp(-1, 1)
        errors.append((back - inputs).square().mean((1, 2, 3)))
    return 10 * math.log10(4 / float(torch.cat(errors).mean()))
