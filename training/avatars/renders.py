"""Render avatars from their factors, and keep the data set on disk.

Needs `dicebear-core`, `dicebear-styles` and `resvg_py` (`training/requirements.txt`): pure Python and one renderer of
SVG, no network.
"""

import io
import json
import os
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from avatars.factors import FACTORS, sample_factors

SIZE = 64
FRAME = {"scale": 1.1, "translateY": 1}
"""The crop: the whole hair, and eleven rows of the clothes."""
SUPERSAMPLING = 3
CHUNK = 1024
COLOURS = {"hair colour", "skin", "clothes colour", "background"}


class Renderer:
    """Draws avatars of the style "ToonHead" by Johan Melin (CC BY 4.0)."""

    def __init__(self) -> None:
        import resvg_py
        from dicebear import Avatar, Style

        definition = files("dicebear_styles").joinpath("toon-head.json").read_text("utf-8")
        self._style = Style(json.loads(definition))
        self._avatar = Avatar
        self._rasterise = resvg_py.svg_to_bytes

    def __call__(self, factors: Tensor) -> np.ndarray:
        """`(n, 11)` value numbers → `(n, 64, 64, 3)` uint8."""
        return np.stack([self._draw(row.tolist()) for row in factors])

    def _draw(self, row: list[int]) -> np.ndarray:
        options: dict[str, object] = {"seed": "0", "size": SIZE * SUPERSAMPLING, **FRAME}
        for factor, number in zip(FACTORS, row, strict=True):
            value = list(factor.values.values())[number]
            if factor.name in COLOURS:
                options[f"{factor.option}Color"] = [value]
            else:
                options[f"{factor.option}Probability"] = 0 if value is None else 100
                if value is not None:
                    options[f"{factor.option}Variant"] = [value]
        picture = self._rasterise(svg_string=self._avatar(self._style, options).to_string())
        with Image.open(io.BytesIO(picture)) as image:
            return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX))


def render_chunks(folder: Path, seed: int, chunks: Iterable[int]) -> None:
    """Write the data set's chunks, `CHUNK` avatars each, but those that are there. Chunk i depends on (seed, i) alone."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in chunks if not (folder / f"{number:03d}.npz").is_file()]
    if not missing:
        return
    draw = Renderer()
    for number in missing:
        factors = sample_factors(CHUNK, torch.Generator().manual_seed(seed * 1_000_003 + number))
        partial = folder / f"{number:03d}.part"
        with partial.open("wb") as file:
            np.savez(file, images=draw(factors), factors=factors.numpy().astype(np.uint8))
        os.replace(partial, folder / f"{number:03d}.npz")


def load_renders(folder: Path, chunks: range) -> tuple[Tensor, Tensor]:
    """Images `(n, 3, 64, 64)` uint8 and factors `(n, 11)` int64 of the chunks asked for."""
    images, factors = [], []
    for number in chunks:
        with np.load(folder / f"{number:03d}.npz") as file:
            images.append(torch.from_numpy(file["images"]).permute(0, 3, 1, 2).contiguous())
            factors.append(torch.from_numpy(file["factors"]).long())
    return torch.cat(images), torch.cat(factors)


def as_input(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1
