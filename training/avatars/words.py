"""An image-text model of avatars, in CLIP's classes: it tells how well a picture and a text fit, for any text.

The text tower begins as the checkpoint's text encoder, which knows the words; the image tower learns from renders and their
captions which is whose, and beside that to name the factors. It never sees what the checkpoint draws.
"""

import random
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from avatars.captions import caption
from avatars.factors import FACTORS
from avatars.loop import Schedule, Workers, train
from avatars.reader import worn
from avatars.renders import SIZE, as_input
from avatars.text import save_tokenizer, token_ids

CHUNKS = range(9)
"""Chunks of renders to train on."""
SCHEDULE = Schedule(steps=2_000, batch=64, rate=1e-3)


def new_model(encoder: CLIPTextModel, seed: int = 0) -> CLIPModel:
    """A CLIP whose text tower is `encoder`, with an image tower of patches of 8 pixels."""
    torch.manual_seed(seed)
    width = encoder.config.hidden_size
    vision = CLIPVisionConfig(
        image_size=SIZE, patch_size=8, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=4,
        num_attention_heads=4, projection_dim=width,
    )  # fmt: skip
    model = CLIPModel(
        CLIPConfig(text_config=encoder.config.to_dict(), vision_config=vision.to_dict(), projection_dim=width)
    )
    missing = model.text_model.load_state_dict(
        {name.removeprefix("text_model."): tensor for name, tensor in encoder.float().state_dict().items()}
    )
    assert not missing.missing_keys
    return model


def train_words(
    tokenizer: CLIPTokenizer,
    encoder: CLIPTextModel,
    images: Tensor,
    factors: Tensor,
    state: Path,
    workers: Workers,
    stop: int | None = None,
) -> CLIPModel:
    """Train on uint8 renders, worn as the factor reader's are, and a new caption each time."""
    model = new_model(encoder)
    heads = nn.ModuleList(nn.Linear(model.config.projection_dim, len(factor.values)) for factor in FACTORS)
    rows = factors.tolist()

    def loss(_step: int, generator: torch.Generator, batch: int) -> Tensor:
        chosen = torch.randint(len(images), (batch,), generator=generator)
        draw = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        texts = [caption(rows[number], draw) for number in chosen.tolist()]
        pixels = worn(as_input(images[chosen]), generator).to(workers.device)
        found = model(input_ids=token_ids(tokenizer, texts).to(workers.device), pixel_values=pixels, return_loss=True)
        wanted = factors[chosen].to(workers.device)
        named = [
            functional.cross_entropy(head(found.image_embeds).float() * 10, column)
            for head, column in zip(heads, wanted.T, strict=True)
        ]
        total: Tensor = found.loss + torch.stack(named).mean()
        return total

    train("words", {"model": model, "heads": heads}, loss, SCHEDULE, state, workers, stop=stop)
    return model


@torch.no_grad()
def share_found(model: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, factors: Tensor) -> tuple[float, float]:
    """Of uint8 renders, in groups of 16: the share that finds its own caption, and the share of captions that find theirs."""
    draw = random.Random(-1)
    count = len(images) // 16 * 16
    texts = [caption(row, draw) for row in factors[:count].tolist()]
    found = model(input_ids=token_ids(tokenizer, texts), pixel_values=as_input(images[:count]))
    fits = torch.einsum(
        "gid,gtd->git", found.image_embeds.unflatten(0, (-1, 16)), found.text_embeds.unflatten(0, (-1, 16))
    )
    own = torch.arange(16)
    return float((fits.argmax(2) == own).float().mean()), float((fits.argmax(1) == own).float().mean())


def save_words(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write model and processor, in float16."""
    model.cpu().half().save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    half = [0.5, 0.5, 0.5]
    size = {"shortest_edge": SIZE}
    CLIPImageProcessor(
        size=size, crop_size={"height": SIZE, "width": SIZE}, image_mean=half, image_std=half
    ).save_pretrained(folder)
