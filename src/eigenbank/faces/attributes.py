"""A small network that reads the factors back from a picture of a face."""

import hashlib
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eigenbank.faces.render import FACTORS, NAMES, render, sample_factors
from eigenbank.registry.sets.tensors import read_header
from eigenbank.schemas.common import Model, Text
from eigenbank.schemas.errors import SourceError, first_problem


class AttributeConfig(Model):
    """What an attribute model reads: `names` and, for each, the standard deviation over the population it was trained on.

    `size` is the images' height and width, `first_channels` the network's, `r2` each name's share of variance read from
    images it was not trained on.
    """

    names: tuple[Text, ...] = Field(min_length=1, max_length=1000)
    stds: tuple[Annotated[float, Field(gt=0)], ...]
    size: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = 32
    first_channels: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 32
    r2: dict[Text, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _paired(self) -> "AttributeConfig":
        if len(self.names) != len(self.stds) or len(set(self.names)) != len(self.names):
            message = f"{len(self.names)} names and {len(self.stds)} stds: expected as many, and no name twice"
            raise ValueError(message)
        return self


FACES = AttributeConfig(names=NAMES, stds=tuple(factor.std for factor in FACTORS))
"""The attribute model of the cartoon faces: the renderer's factors."""


class AttributeModel(nn.Module):
    """`(n, 3, size, size)` images in [-1, 1] → `(n, len(names))` attribute values.

    The head is a plain flatten rather than a global pool: where a thing is, is part of what is asked.
    """

    digest = ""
    """SHA-256 of the weights file it was read from; empty for a model just trained."""

    def __init__(self, config: AttributeConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = 3
        for step in range(3):
            out = config.first_channels * 2 ** min(step, 1)
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.GroupNorm(8, out), nn.SiLU()]
            layers += [nn.Conv2d(out, out, 3, stride=2, padding=1), nn.SiLU()]
            channels = out
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * (config.size // 8) ** 2, 128),
            nn.SiLU(),
            nn.Linear(128, len(config.names)),
        )

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """Attributes of `(n, 3, h, w)` images in [0, 1], as `(n, len(names))`; other sizes are resized to the model's."""
        if images.shape[-2:] != (self.config.size, self.config.size):
            images = nn.functional.interpolate(images, (self.config.size,) * 2, mode="bilinear", antialias=True)
        return torch.cat([self(part * 2 - 1) for part in images.split(256)])

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))  # type: ignore[no-any-return]


def save_attribute_model(model: AttributeModel, folder: Path, r2: dict[str, float]) -> None:
    """Write `config.json` and, in float16, `model.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    config = model.config.model_copy(update={"r2": r2})
    (folder / "config.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_attribute_model(folder: Path) -> AttributeModel:
    """Read what `save_attribute_model` wrote; nothing executable. Raises SourceError for anything else."""
    config_file, weights = folder / "config.json", folder / "model.safetensors"
    if not config_file.is_file() or not weights.is_file():
        message = (
            f"{folder} is no attribute model: expected config.json and model.safetensors in it. No label was given"
        )
        raise SourceError(message)
    try:
        config = AttributeConfig.model_validate_json(config_file.read_bytes())
    except ValidationError as error:
        message = f"{config_file} is no attribute model's config: {first_problem(error)}. No label was given"
        raise SourceError(message) from error
    read_header(weights)
    model = AttributeModel(config)
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    except RuntimeError as error:
        message = f"{weights} does not fit its config.json: no label was given. Its files belong to different models"
        raise SourceError(message) from error
    model.digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return model.eval()


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
