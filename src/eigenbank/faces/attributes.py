"""A small network that reads the factors back from a picture of a face."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from eigenbank.faces.render import FACTORS, NAMES, render, sample_factors


class AttributeModel(nn.Module):
    """`(n, 3, 32, 32)` images in [-1, 1] → `(n, len(names))` factor values, nominally in [-1, 1].

    The head is a plain flatten rather than a global pool: where a thing is, is part of what is asked.
    """

    def __init__(self, names: tuple[str, ...] = NAMES, size: int = 32, width: int = 32) -> None:
        super().__init__()
        self.names = names
        self.size = size
        self.width = width
        layers: list[nn.Module] = []
        channels = 3
        for step in range(3):
            out = width * 2 ** min(step, 1)
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.GroupNorm(8, out), nn.SiLU()]
            layers += [nn.Conv2d(out, out, 3, stride=2, padding=1), nn.SiLU()]
            channels = out
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * (size // 8) ** 2, 128), nn.SiLU(), nn.Linear(128, len(names))
        )

    digest = ""
    """SHA-256 of the weights file it was read from; empty for a model just trained."""

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """Factors of `(n, 3, size, size)` images in [0, 1], as `(n, len(names))`."""
        return torch.cat([self(part * 2 - 1) for part in images.split(256)])

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))  # type: ignore[no-any-return]


def load_attribute_model(folder: Path) -> AttributeModel:
    """Read the model that `save_attribute_model` wrote: `config.json` and `model.safetensors`, nothing executable."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = AttributeModel(tuple(config["names"]), config["size"], config["width"])
    weights = folder / "model.safetensors"
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    model.digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return model.eval()


def train_attribute_model(steps: int, seed: int, device: torch.device, batch: int = 64) -> AttributeModel:
    """Train on fresh renders, blurred and noised a little so that it also reads what a denoiser draws."""
    torch.manual_seed(seed)
    model = AttributeModel().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    std = torch.tensor([factor.std for factor in FACTORS], device=device)
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
    return {name: round(1 - float(value), 4) for name, value in zip(model.names, residual, strict=True)}
