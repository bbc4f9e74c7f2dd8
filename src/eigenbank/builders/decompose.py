"""The eigenvectors of a symmetric matrix, ordered, signed by rule, with how they stand in their spectrum."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
    """Top `k` eigenpairs of `gram`, `(d, d)` float64 symmetric, descending. Runs where `gram` lies; the result is on the CPU.

    The sign of an eigenvector is arbitrary and differs between devices: the entry of largest magnitude is made positive,
    the first of them where several are equal within rounding.
    """
    values, vectors = torch.linalg.eigh(gram)
    values, rows = values.flip(0).clamp_min(0).cpu(), vectors.T.flip(0).cpu()
    top = values[0].clamp_min(torch.finfo(torch.float64).tiny)
    # The distance to the neighbour above and below; the ends have one neighbour.
    steps = (values[:-1] - values[1:]) / top
    edge = torch.full((1,), torch.inf, dtype=torch.float64)
    gaps = torch.minimum(torch.cat([edge, steps]), torch.cat([steps, edge]))
    rows = signed(rows[:k])
    return Spectrum(values[:k], rows.float(), values[:k] / values.sum().clamp_min(top), gaps[:k])


def signed(vectors: Tensor) -> Tensor:
    """The same `(k, d)` vectors with the sign rule applied."""
    magnitude = vectors.abs()
    first = (magnitude >= magnitude.amax(dim=1, keepdim=True) * (1 - 1e-9)).int().argmax(dim=1, keepdim=True)
    return vectors * vectors.gather(1, first).sign()
