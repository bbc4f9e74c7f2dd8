"""An image-text model of avatars, in CLIP's classes: it tells how well a picture and a text fit, for any text.

The text tower is the checkpoint's text encoder, which knows the words, and stays as it is but for its projection; the image tower
learns from renders and their captions which is whose. Beside that one set of heads names the factors off both embeddings, so that
what is said and what is shown of a factor lie in the same direction. It never sees what the checkpoint draws.
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

from avatars.captions import caption, choose, say
from avatars.factors import FACTORS, NAMES
from avatars.loop import Schedule, Workers, train
from avatars.reader import worn
from avatars.renders import SIZE, as_input
from avatars.text import save_tokenizer, token_ids

CHUNKS = range(9)
"""Chunks of renders to train on."""
SCHEDULE = Schedule(steps=2_400, batch=64, rate=1.5e-3)


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
    for parameter in model.text_model.parameters():
        parameter.requires_grad_(False)  # train would leave it untouched, having no gradient

    def loss(_step: int, generator: torch.Generator, batch: int) -> Tensor:
        chosen = torch.randint(len(images), (batch,), generator=generator)
        draw = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        said = [choose(draw) for _ in chosen]
        texts = [say(rows[number], names, draw) for number, names in zip(chosen.tolist(), said, strict=True)]
        pixels = worn(as_input(images[chosen]), generator).to(workers.device)
        found = model(input_ids=token_ids(tokenizer, texts).to(workers.device), pixel_values=pixels, return_loss=True)
        wanted = factors[chosen].to(workers.device)
        silent = torch.tensor([[name not in names for name in NAMES] for names in said], device=workers.device)
        told = wanted.masked_fill(silent, -100)  # what a caption does not say, nobody can read off it
        named = [
            functional.cross_entropy(head(embeds).float() * 10, column)
            for embeds, columns in ((found.image_embeds, wanted), (found.text_embeds, told))
            for head, column in zip(heads, columns.T, strict=True)
            if bool((column >= 0).any())
        ]
        total: Tensor = found.loss + 3 * torch.stack(named).mean()
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


@torch.no_grad()
def values_read(model: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, factors: Tensor) -> dict[str, float]:
    """For each factor the share of uint8 renders for which, of texts that say one value each, the right one fits best."""
    draw, shares = random.Random(0), {}
    shown = functional.normalize(model.get_image_features(pixel_values=as_input(images)).pooler_output, dim=-1)
    for column, factor in enumerate(FACTORS):
        said = []
        for number in range(len(factor.values)):
            row = [0] * len(FACTORS)
            row[column] = number
            ids = token_ids(tokenizer, [say(row, {factor.name}, draw) for _ in range(8)])
            said.append(functional.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1).mean(0))
        best = (shown @ torch.stack(said).T).argmax(dim=1)
        shares[factor.name] = float((best == factors[:, column]).float().mean())
    return shares


def save_words(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write model and processor, in float16."""
    model.cpu().half().save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    half = [0.5, 0.5, 0.5]
    size = {"shortest_edge": SIZE}
    CLIPImageProcessor(
        size=size, crop_size={"height": SIZE, "width": SIZE}, image_mean=half, image_std=half
    ).save_pretrained(folder)
