"""Masks: an image-sized map of where an edit acts, resized to the grid of a layer's tokens."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from eigenbank.loaders.photo import open_picture
from eigenbank.schemas.errors import MatchError, SteerError


def as_mask(value: Any) -> Tensor:
    """Convert a mask into `(m, h, w)` float32 in [0, 1], m being 1 or the number of samples.

    Takes a tensor, an array or nested lists of `(h, w)` or `(m, h, w)`, of which whole numbers beyond 1 count as 0 to 255;
    or a picture, of Pillow or by its path: its brightness, black where it is transparent. Raises SteerError or PhotoError.
    """
    if isinstance(value, (str, Path)):
        value = open_picture(Path(value))
    try:
        if hasattr(value, "convert"):
            mask = _brightness(value)
        else:
            mask = torch.as_tensor(value)
            if mask.is_complex() or mask.is_meta:
                kind = "has no values, it is on the meta device" if mask.is_meta else "is of complex numbers"
                message = f"a mask is a map of numbers from 0 to 1, as large as the image: this one {kind}"
                raise SteerError(message)
            if not mask.is_floating_point() and mask.numel() and 1 < int(mask.max()) <= 255:
                mask = mask.float() / 255
            mask = mask.detach().float().cpu()
    except (TypeError, ValueError, RuntimeError, OSError, SyntaxError) as error:
        message = f"a mask is a map of numbers from 0 to 1, as large as the image: {error}"
        raise SteerError(message) from None
    mask = mask[None] if mask.ndim == 2 else mask
    fits = mask.ndim == 3 and mask.numel() and bool(((mask >= 0) & (mask <= 1)).all())
    if not fits:
        message = (
            f"the mask has shape {list(mask.shape)} and values that are not all in [0, 1]: expected (height, width), or "
            "(samples, height, width), as large as the image"
        )
        raise SteerError(message)
    if not bool(mask.any()):
        message = "the mask is 0 everywhere (a picture: black or transparent): the edit would do nothing"
        raise SteerError(message)
    return mask


def _brightness(picture: Any) -> Tensor:
    """Return the brightness of a Pillow image, `(h, w)` float32 in [0, 1], 0 where it is transparent. Raises SteerError."""
    if picture.mode.startswith("I"):
        # Sixteen bits a pixel: convert() would clip them to the lowest eight.
        picture = picture.convert("F").point(lambda level: level / 257)
    alpha = None
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = _levels(picture.getchannel("A"))
    level = _levels(picture.convert("L"))
    if picture.mode == "L" and int(level.max()) == 1:
        message = (
            "the picture given as a mask has levels 0 and 1 of 255, and is as good as black: white (255) is where the edit "
            "acts. Multiply it by 255, or give the numbers as an array"
        )
        raise SteerError(message)
    return level / 255 if alpha is None else level * alpha / 255**2


def _levels(picture: Any) -> Tensor:
    """Return the levels of a Pillow image in mode L, `(h, w)` float32 from 0 to 255."""
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(picture.size[::-1]).float()


class Mask:
    """A mask for one call of a denoiser: `rows` `(r, h, w)`, one for all samples or one for each row of the batch.

    `batch` and `latent` are the shape of the denoiser's own input: its rows, and its spatial shape where it has one.
    """

    def __init__(self, rows: Tensor, batch: int, latent: Sequence[int] = ()) -> None:
        self.rows = rows
        self.batch = batch
        self.latent = tuple(latent)
        self._made: dict[Any, Tensor] = {}

    def weights(self, hidden: Tensor, axis: int) -> Tensor:
        """Return the weight of each token of `hidden`, in a shape that broadcasts with it. Raises MatchError."""
        spatial = tuple(hidden.shape[2:] if axis == 1 else hidden.shape[1:-1])
        key = (spatial, hidden.shape[0], hidden.dtype, hidden.device)
        if key not in self._made:
            self._made[key] = self._weights(hidden, spatial, axis)
        return self._made[key]

    def _weights(self, hidden: Tensor, spatial: tuple[int, ...], axis: int) -> Tensor:
        frames = self.latent[0] if len(self.latent) == 3 else 1
        folded = hidden.shape[0] // self.batch
        if len(spatial) == 2:
            grid = (1, *spatial)
        elif len(spatial) == 3:
            grid = (spatial[0], spatial[1], spatial[2])
        else:
            grid = token_grid(
                math.prod(spatial), tuple(self.rows.shape[-2:]), self.latent[-2:], frames // max(1, folded)
            )
        small = F.interpolate(self.rows[:, None], size=grid[1:], mode="area")[:, 0]
        whole = small[:, None].expand(-1, grid[0], -1, -1).reshape(small.shape[0], *spatial)
        if whole.shape[0] > 1:
            whole = whole.repeat_interleave(hidden.shape[0] // whole.shape[0], 0)
        return (whole.unsqueeze(1) if axis == 1 else whole.unsqueeze(-1)).to(hidden)


def token_grid(
    tokens: int, image: tuple[int, ...], latent: tuple[int, ...] = (), frames: int = 1
) -> tuple[int, int, int]:
    """Return the frames, rows and columns of a layer's tokens, row by row, for an image of (height, width).

    `latent` is the height and width of the denoiser's input where they are known: the grid is then that, divided. Else
    the grid's proportions are the image's, as nearly as whole numbers can be. Raises MatchError where no grid fits.
    """
    for count in dict.fromkeys((max(1, frames), (frames + 1) // 2, 1)):
        if not count or tokens % count:
            continue
        each = tokens // count
        for part in range(1, max(latent, default=0) + 1):
            height, width = (math.ceil(extent / part) for extent in latent)
            if height * width == each:
                return count, height, width
        pairs = [(h, each // h) for h in range(1, each + 1) if each % h == 0]
        h, w = min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] * image[1] / image[0])))
        if not latent and abs(math.log(h / w * image[1] / image[0])) < 0.25:
            return count, h, w
    message = (
        f"a mask of {image[0]}×{image[1]} does not fit a layer of {tokens} tokens: they are no grid of the image's "
        "proportions. Give a mask of the image's size, or leave that layer's directions out of the masked edit"
    )
    raise MatchError(message)
