"""A small diffusion model that is no diffusers pipeline: names of its own, one matrix for q, k and v, a plain loop."""

import itertools

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn


class Mixer(nn.Module):
    """Self-attention over tokens `(n, tokens, d)`, with its norm before it; returns what it adds to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.pre = nn.LayerNorm(width)
        self.fused = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Every token looks at every other."""
        q, k, v = self.fused(self.pre(tokens)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        return self.merge(F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2))


class PlainNet(nn.Module):
    """Says the noise in pixels `(n, 3, 8, 8)` at noise level `sigma`."""

    def __init__(self, width: int = 32, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 2, 2)
        self.level = nn.Linear(1, width)
        self.mixers = nn.ModuleList(Mixer(width, heads) for _ in range(depth))
        self.paint = nn.ConvTranspose2d(width, 3, 2, 2)

    def forward(self, pixels: Tensor, sigma: Tensor) -> Tensor:
        """The noise."""
        grid = self.embed(pixels) + self.level(sigma.reshape(-1, 1))[:, :, None, None]
        tokens = grid.flatten(2).transpose(1, 2)
        for mixer in self.mixers:
            tokens = tokens + mixer(tokens)
        return self.paint(tokens.transpose(1, 2).unflatten(2, grid.shape[2:]))


class PlainSampler:
    """Draws pictures with a network, from the noisiest level to none."""

    def __init__(self, net: PlainNet) -> None:
        self.net = net

    @torch.no_grad()
    def draw(self, seed: int, n: int = 1, steps: int = 8) -> Tensor:
        """`(n, 3, 8, 8)` pictures of a seed."""
        pixels = torch.randn((n, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
        levels = torch.linspace(1, 0, steps + 1)
        for now, after in itertools.pairwise(levels):
            pixels = pixels + (after - now) * self.net(pixels, now.expand(n))
        return pixels
