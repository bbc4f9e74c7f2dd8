"""Image statistics as a labeler: what such words as "brightness" mean can be computed, on the images of any checkpoint.

Hue is an angle and has no more or less; it is read as two opponent axes, `warmth` (blue to orange) and `green tint`
(magenta to green). The subject is what differs in colour from the picture's border.
"""

import torch
from torch import Tensor, nn

NAMES = (
    "brightness",
    "contrast",
    "saturation",
    "warmth",
    "green tint",
    "sharpness",
    "subject size",
    "horizontal position",
    "vertical position",
    "symmetry",
    "background brightness",
    "background warmth",
    "background green tint",
)
LUMA = (0.299, 0.587, 0.114)
LONGEST = 256
"""Larger pictures are read at this size, so that sharpness means the same and reading costs little."""


class StatisticsLabeler:
    """Reads the statistics `NAMES`. Their deviations are those of the checkpoint's own images."""

    source = "statistics"
    names: tuple[str, ...] = NAMES
    stds: Tensor | None = None

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """`(n, 3, h, w)` in [0, 1] → `(n, 13)`. Positions are in −1 … 1, right and up positive."""
        images = _at_most(images.float())
        luma = (images * images.new_tensor(LUMA)[:, None, None]).sum(1)
        warmth = (images[:, 0] + 0.5 * images[:, 1]) - 1.5 * images[:, 2]
        green = images[:, 1] - (images[:, 0] + images[:, 2]) / 2
        chroma = images.amax(1) - images.amin(1)
        border = _border(images.shape[-2:], images.device)
        behind = images[..., border].mean(-1)
        subject = (images - behind[:, :, None, None]).square().sum(1).sqrt()
        size, across, up = _moments(subject)
        contrast = luma.flatten(1).std(1)
        edges = luma.diff(dim=1).abs().flatten(1).mean(1) + luma.diff(dim=2).abs().flatten(1).mean(1)
        blurred = nn.functional.avg_pool2d(luma[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
        detail = (luma - blurred).abs().flatten(1).mean(1)
        return torch.stack(
            [
                luma.flatten(1).mean(1),
                contrast,
                chroma.flatten(1).mean(1),
                warmth.flatten(1).mean(1),
                green.flatten(1).mean(1),
                detail / edges.clamp_min(1e-4),
                size,
                across,
                up,
                -(luma - luma.flip(-1)).abs().flatten(1).mean(1) / contrast.clamp_min(1e-4),
                luma[:, border].mean(1),
                warmth[:, border].mean(1),
                green[:, border].mean(1),
            ],
            dim=1,
        )


def _at_most(images: Tensor) -> Tensor:
    longest = max(images.shape[-2:])
    if longest <= LONGEST:
        return images
    factor = LONGEST / longest
    return nn.functional.interpolate(images, scale_factor=factor, mode="bilinear", antialias=True)


def _border(size: "torch.Size", device: torch.device) -> Tensor:
    """`(h, w)` bool: the outer tenth of the picture at the top and the sides; the bottom is often the subject's."""
    height, width = size
    wide = max(1, min(height, width) // 10)
    mask = torch.zeros(height, width, dtype=torch.bool, device=device)
    mask[:wide] = True
    mask[:, :wide] = True
    mask[:, -wide:] = True
    return mask


def _moments(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Root mean square radius, and centre to the right and up, of `(n, h, w)` weights; the picture spans −1 … 1."""
    height, width = weight.shape[-2:]
    x = torch.linspace(-1, 1, width, device=weight.device)
    y = torch.linspace(1, -1, height, device=weight.device)[:, None]
    # The square puts little weight on faint differences, which cover much of the picture.
    weight = weight.square() + 1e-6
    total = weight.sum((1, 2))
    across = (weight * x).sum((1, 2)) / total
    up = (weight * y).sum((1, 2)) / total
    spread = (x - across[:, None, None]).square() + (y - up[:, None, None]).square()
    return (weight * spread).sum((1, 2)).div(total).sqrt(), across, up
