"""Eigenvectors of a symmetric matrix: in order, with signs fixed by a rule, their shares and gaps."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

RESIDUAL = 1e-8
"""Largest ‖Mv − λv‖, over the largest eigenvalue, that an iterative solution may leave; else it is solved directly."""
ITERATIVE_WIDTH = 2048
"""Below this width a direct solution is as fast (measured: benchmarks/building.py)."""
ROUND_WIDTH = 128
"""A direct solution costs as much as one round of the iteration for every so many of the width."""
SMALLEST = 1e-8
"""Over the largest eigenvalue: below this an eigenvector of one side does not give the other's to full precision."""
_OVERSAMPLE = 24
_PROBE = 4


@dataclass(frozen=True)
class Spectrum:
    """The top `k` eigenpairs of a positive semidefinite matrix of width d.

    `vectors`: `(k, d)` float32 unit rows. `values`, `shares`, `gaps`: `(k,)` float64; `shares` over the trace, `gaps` to
    the nearest other eigenvalue, over the largest.
    """

    values: Tensor
    vectors: Tensor
    shares: Tensor
    gaps: Tensor


def decompose(gram: Tensor, k: int) -> Spectrum:
    """Compute the top `k` eigenpairs (or all) of `gram`, `(d, d)` float64 symmetric, in descending order.

    Runs on `gram`'s device; the result is on the CPU.

    A few of many are found by block iteration, believed only where their residual is as small as a direct solution's.
    The sign of an eigenvector is arbitrary and differs between devices: the entry of largest magnitude is made positive,
    the first of them where several are equal within rounding.
    """
    return _spectrum(gram, *_pairs(gram, k), k)


def decompose_sides(matrix: Tensor, k: int) -> tuple[Spectrum, Spectrum]:
    """Decompose MᵀM and MMᵀ of a matrix M `(d, d)` float64, for little more than the price of one.

    Where MᵀMv = λv, u = Mv/√λ has MMᵀu = λu. It is believed where λ is not too small for it and its residual is as small
    as an iteration's; else MMᵀ is solved too.
    """
    gram = matrix.T @ matrix
    values, rows = _pairs(gram, k)
    one = _spectrum(gram, values, rows, k)
    del gram
    others, kept = rows[:k] @ matrix.T, values[:k, None]
    if float(kept.min()) > SMALLEST * float(kept.max()):
        others = others / others.norm(dim=1, keepdim=True)
        residual = (others @ matrix @ matrix.T - kept * others).norm(dim=1).max()
        if float(residual) <= RESIDUAL * float(kept.max()):
            return one, Spectrum(one.values, signed(others.cpu()).float(), one.shares, one.gaps)
    return one, decompose(matrix @ matrix.T, k)


def _pairs(gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Compute eigenvalues, descending, and eigenvectors as rows: at least the first `k` and the next value."""
    found = None
    if gram.shape[0] >= ITERATIVE_WIDTH and k + 1 <= gram.shape[0] // 16:
        found = iterate(gram, k + 1, gram.shape[0] // ROUND_WIDTH)
    if found is not None:
        return found
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(0), vectors[:, -k:].T.flip(0)


def _spectrum(gram: Tensor, values: Tensor, rows: Tensor, k: int) -> Spectrum:
    """Make the spectrum from descending eigenvalues and eigenvectors as rows, `k + 1` of each where there are."""
    values, rows = values[: k + 1].clamp_min(0).cpu(), rows[:k].cpu()
    top = values[0].clamp_min(torch.finfo(torch.float64).tiny)
    # The distance to the neighbour above and below; the ends of the spectrum have one neighbour.
    steps = (values[:-1] - values[1:]) / top
    edge = torch.full((1,), torch.inf, dtype=torch.float64)
    gaps = torch.minimum(torch.cat([edge, steps]), torch.cat([steps, edge]))
    trace = gram.diagonal().sum().cpu().clamp_min(top)
    return Spectrum(values[:k], signed(rows).float(), values[:k] / trace, gaps[:k])


def iterate(gram: Tensor, k: int, rounds: int) -> tuple[Tensor, Tensor] | None:
    """Compute the top `k` eigenvalues, descending, and vectors as rows, by block Krylov iteration.

    Returns None where it does not converge within `rounds`, or after a few of them is not about to.

    Every round multiplies a block of k + 24 vectors with the matrix, keeps the last few blocks, and solves within their
    span (Musco and Musco, 2015). The start is fixed, so that a rebuild gives the same bytes.
    """
    width = gram.shape[0]
    block = k + _OVERSAMPLE
    start = torch.randn((width, block), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = torch.linalg.qr(start.to(gram.device)).Q
    before = torch.inf
    for number in range(rounds):
        blocks = [basis]
        for _ in range(3):
            following = gram @ blocks[-1]
            # Twice, because once is not orthogonal enough in floating point.
            for _ in range(2):
                for former in blocks:
                    following = following - former @ (former.T @ following)
            blocks.append(torch.linalg.qr(following).Q)
        span = torch.cat(blocks, dim=1)
        image = gram @ span
        small = span.T @ image
        values, inner = torch.linalg.eigh((small + small.T) / 2)
        values, inner = values.flip(0)[:block], inner.flip(1)[:, :block]
        basis = torch.linalg.qr(span @ inner).Q
        residual = (image @ inner[:, :k] - span @ inner[:, :k] * values[:k]).norm(dim=0).max()
        left = float(residual / values[0].clamp_min(torch.finfo(torch.float64).tiny)) / RESIDUAL
        if left <= 1:
            vectors = span @ inner[:, :k]
            return values[:k], (vectors / vectors.norm(dim=0)).T.contiguous()
        # The residual falls by about the same factor every round.
        if number >= _PROBE and (left >= before or number + math.log(left) / math.log(before / left) > rounds):
            return None
        before = left
    return None


def signed(vectors: Tensor) -> Tensor:
    """Apply the sign rule to `(k, d)` vectors: the largest entry is positive."""
    magnitude = vectors.abs()
    first = (magnitude >= magnitude.amax(dim=1, keepdim=True) * (1 - 1e-9)).int().argmax(dim=1, keepdim=True)
    return vectors * vectors.gather(1, first).sign()
