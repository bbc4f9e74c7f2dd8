"""Train the cartoon faces' checkpoint: a diffusers DDPMPipeline of cartoon faces, and the attribute model beside it.

    make faces

Interrupted and run again, it goes on from the last state it wrote. Every batch is drawn from (seed, step), so an
interruption does not change which images are seen.
"""

import hashlib
import json
import shlex
import sys
from pathlib import Path

import click
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from eigenbank.builders.label.attributes import AttributeModel
from faces.attributes import r_squared, save_attribute_model, train_attribute_model
from faces.loop import bars, train
from faces.render import render, sample_factors

SIZE = 32
CARD = """---
license: apache-2.0
library_name: diffusers
tags: [unconditional-image-generation, eigenbank]
---
# Cartoon faces, 32×32

A small `DDPMPipeline` ({parameters:.1f} M parameters) of cartoon faces, trained by the eigenbank project on its own renders
(`benchmarks/faces/render.py`), whose {count} factors are known exactly. It exists so that editing directions can be tried and
measured offline. Weights are float16, averaged (EMA) over training; v-prediction, zero terminal SNR: sample it with
DDIM and 15 or more steps.

- made by: `PYTHONPATH=benchmarks {command}` (torch {torch})
- `unet/diffusion_pytorch_model.safetensors` sha256: `{digest}`

`attributes/` holds a regressor of the factors from the image. Held-out R² on 2,000 renders:

| factor | R² |
|---|---|
{scores}
"""


def new_denoiser(seed: int) -> UNet2DModel:
    """The faces' U-Net, freshly initialised: self-attention at 16×16, at 8×8 and in the middle.

    Eight groups to a norm rather than 32: with two channels to a group, half of what an edit adds would be removed as
    the group's mean.
    """
    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=8,
    )


def new_scheduler() -> DDPMScheduler:
    """Cosine schedule ending in pure noise, v-prediction: few steps suffice and global colour obeys the model."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def loss_at(denoiser: nn.Module, scheduler: DDPMScheduler, step: int, seed: int, batch: int) -> Tensor:
    """Mean squared error of the predicted velocity on the batch that (seed, step) names; timesteps stratified."""
    device = next(denoiser.parameters()).device
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    images = render(sample_factors(batch, generator), SIZE)
    noise = torch.randn(images.shape, generator=generator)
    fraction = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    images, noise, times = images.to(device), noise.to(device), (fraction * 1000).long().clamp_max(999).to(device)
    velocity = scheduler.get_velocity(images, noise, times)
    predicted = denoiser(scheduler.add_noise(images, noise, times), times).sample
    return nn.functional.mse_loss(predicted, velocity)


def write_checkpoint(
    out: Path, pipeline: DDPMPipeline, attributes: AttributeModel, scores: dict[str, float], command: str
) -> None:
    """Write the checkpoint folder `out`: pipeline and attribute model in float16, and a README.md with the digest."""
    parameters = sum(p.numel() for p in pipeline.unet.parameters()) / 1e6
    pipeline.to(dtype=torch.float16).save_pretrained(out)
    save_attribute_model(attributes, out / "attributes", scores)
    digest = hashlib.sha256((out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()
    card = CARD.format(
        parameters=parameters,
        count=len(attributes.config.names),
        command=command,
        torch=torch.__version__,
        digest=digest,
        scores="\n".join(f"| {name} | {score:.3f} |" for name, score in scores.items()),
    )
    (out / "README.md").write_text(card, encoding="utf-8")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the finished checkpoint.")
@click.option("--state", type=click.Path(path_type=Path), default=Path(".train/state.pt"), show_default=True)
@click.option("--steps", type=click.IntRange(1), default=6000, show_default=True)
@click.option("--attribute-steps", type=click.IntRange(1), default=3000, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
def main(out: Path, state: Path, steps: int, attribute_steps: int, batch: int, seed: int, device: str) -> None:
    """Train the checkpoint and write it to OUT, ready for diffusers."""
    scheduler = new_scheduler()
    with bars() as progress:
        denoiser = train(
            "denoiser",
            new_denoiser(seed).to(device),
            lambda model, step: loss_at(model, scheduler, step, seed, batch),
            steps=steps,
            state=state,
            progress=progress,
        )
    click.echo("attribute model …")
    attributes = train_attribute_model(attribute_steps, seed, torch.device(device))
    scores = r_squared(attributes, seed=seed + 1)
    click.echo(json.dumps(scores, indent=1))
    pipeline = DDPMPipeline(unet=denoiser.cpu(), scheduler=new_scheduler())
    command = shlex.join(["python", "-m", "faces.train", *sys.argv[1:]])
    write_checkpoint(out, pipeline, attributes.cpu(), scores, command)
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
