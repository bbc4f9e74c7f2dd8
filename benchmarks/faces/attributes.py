"""Training and scoring the cartoon faces' attribute model, a network that reads the factors back from a picture of a face."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from eigenbank.builders.label.attributes import AttributeConfig, AttributeModel
from faces.render import FACTORS, NAMES, render, sample_factors

FACES = AttributeConfig(names=NAMES, stds=tuple(factor.std for factor in FACTORS))
"""The attribute model of the cartoon faces: the renderer's factors."""


def save_attribute_model(model: AttributeModel, folder: Path, r2: dict[str, float]) -> None:
    """Write `config.json` and, in float16, `model.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    config = model.config.model_copy(update={"r2": r2})
    (folder / "config.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def train_attribute_model(steps: int, seed: int, device: torch.device, batch: int = 64) -> AttributeModel:
    """Train on fresh renders, blurred and noised a little so that it also reads what a denoiser draws."""
    torch.manual_seed(seed)
    model = AttributeModel(FACES).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    std = torch.tensor(FACES.stds, device=device)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        factors = sample_factors(batch, generator)
        images = render(factors)
        level = 0.15 * torch.rand((batch, 1, 1, 1), generator=generator)
        images = images + level * torch.randn(images.shape, generator=generator)
        blur = torch.rand((batch, 1, 1, 1), generator=generator).square()
        images = images + 0.6 * blur * (nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False) - images)
        error = (model(images.to(device)) - factors.to(device)) / std
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def r_squared(model: AttributeModel, seed: int, n: int = 2000) -> dict[str, float]:
    """Share of each factor's variance that the model reads from `n` renders it has not seen."""
    factors = sample_factors(n, torch.Generator().manual_seed(seed))
    device = next(model.parameters()).device
    read = torch.cat([model(render(part).to(device)).cpu() for part in factors.split(250)])
    residual = (read - factors).square().mean(0) / factors.var(0, correction=0)
    return {name: round(1 - float(value), 4) for name, value in zip(model.config.names, residual, strict=True)}
