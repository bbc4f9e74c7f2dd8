"""The factor reader: says from a picture alone which value each factor has.

It is the judge of how well prompts are followed, and an attribute model for labelling like anyone's: it is trained on
renders, never on what the checkpoint draws.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from avatars.factors import FACTORS, SLIDERS, VALUES, one_hot, slider_weights, split_scores, value_odds
from avatars.loop import Schedule, Workers, train
from avatars.renders import SIZE, as_input
from eigenbank.builders.label.attributes import AttributeConfig, AttributeModel

SCHEDULE = Schedule(steps=1_500, batch=64, rate=2e-3, weight_decay=1e-3)


def new_reader(seed: int = 0) -> AttributeModel:
    """A convolutional network that scores every value of every factor; its deviations are those of the renders."""
    torch.manual_seed(seed)
    stds = [round(float(value), 6) for odds in value_odds() for value in (odds * (1 - odds)).sqrt()]
    return AttributeModel(AttributeConfig(names=VALUES, stds=tuple(stds), size=SIZE, first_channels=24))


def train_reader(
    images: Tensor, factors: Tensor, state: Path, workers: Workers, stop: int | None = None
) -> AttributeModel:
    """Train on uint8 renders, blurred, shifted and noised a little so that it also reads what a denoiser draws."""
    reader = new_reader()
    stds = torch.tensor(reader.config.stds, device=workers.device)

    def loss(_step: int, generator: torch.Generator, batch: int) -> Tensor:
        chosen = torch.randint(len(images), (batch,), generator=generator)
        inputs = worn(as_input(images[chosen]), generator).to(workers.device)
        error: Tensor = (reader(inputs).float() - one_hot(factors[chosen]).to(workers.device)) / stds
        return error.square().mean()

    train("reader", {"reader": reader}, loss, SCHEDULE, state, workers, stop=stop)
    return reader


def worn(images: Tensor, generator: torch.Generator) -> Tensor:
    batch = len(images)
    right, down = (int(torch.randint(-1, 2, (1,), generator=generator)) for _ in range(2))
    images = images.roll((down, right), (2, 3))
    blur = 0.8 * torch.rand((batch, 1, 1, 1), generator=generator).square()
    images = torch.lerp(images, functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False), blur)
    level = 0.12 * torch.rand((batch, 1, 1, 1), generator=generator)
    return images + level * torch.randn(images.shape, generator=generator)


def save_reader(reader: AttributeModel, images: Tensor, factors: Tensor, folder: Path) -> None:
    """Write the reader of values as an attribute model, with their R² on held-out renders."""
    reader = reader.cpu()
    reader.config = reader.config.model_copy(update={"r2": r_squared(reader, images, one_hot(factors))})
    write_attributes(reader, folder)


def write_attributes(reader: AttributeModel, folder: Path) -> None:
    """Write a reader as an attribute model, in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in reader.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(reader.config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def slider_reader(reader: AttributeModel, images: Tensor, factors: Tensor) -> AttributeModel:
    """The factor reader as a reader of `SLIDERS`: sums of its scores, folded into its last layer, with their R² on renders."""
    weights, wanted = slider_weights(), one_hot(factors) @ slider_weights().T
    variances, start = [], 0
    for odds in value_odds():
        part = weights[:, start : start + len(odds)]
        variances.append((part.square() @ odds) - (part @ odds).square())
        start += len(odds)
    stds = tuple(round(float(value), 6) for value in torch.stack(variances).sum(0).sqrt())
    config = reader.config.model_copy(update={"names": tuple(SLIDERS), "stds": stds, "r2": {}})
    found, last = AttributeModel(config).eval(), reader.head[-1]
    state = reader.state_dict()
    number = len(reader.head) - 1
    state[f"head.{number}.weight"] = weights @ last.weight.detach()
    state[f"head.{number}.bias"] = weights @ last.bias.detach()
    found.load_state_dict(state)
    found.config = config.model_copy(update={"r2": r_squared(found, images, wanted)})
    return found


def r_squared(reader: AttributeModel, images: Tensor, wanted: Tensor) -> dict[str, float]:
    """Share of the variance of each `wanted` score `(n, f)` that is read from uint8 renders."""
    residual = (reader.read(images.float() / 255) - wanted).square().mean(0) / wanted.var(0, correction=0)
    return {name: round(1 - float(value), 4) for name, value in zip(reader.config.names, residual, strict=True)}


def read_values(reader: AttributeModel, images: Tensor) -> Tensor:
    """Images in [0, 1] → `(n, 11)` the number of the value read for each factor."""
    scores = split_scores(reader.read(images))
    return torch.stack([part.argmax(1) for part in scores.values()], 1)


def accuracy(read: Tensor, wanted: Tensor) -> dict[str, float]:
    """Share of pictures in which each factor's value is the wanted one."""
    right = (read == wanted).float().mean(0)
    return {factor.name: float(share) for factor, share in zip(FACTORS, right, strict=True)}
