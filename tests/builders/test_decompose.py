"""Eigenvectors come ordered, with one sign on every machine, and say how alone they stand."""

import pytest
import torch

from eigenbank.builders.decompose import decompose, signed


def _gram(seed: int, d: int = 40) -> torch.Tensor:
    matrix = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return matrix.T @ matrix


def test_pairs_solve_the_eigenvalue_equation() -> None:
    gram = _gram(0)
    found = decompose(gram, 7)
    residual = gram @ found.vectors.double().T - found.vectors.double().T * found.values
    assert residual.norm(dim=0).max() <= 1e-6 * found.values[0]
    assert found.vectors.shape == (7, 40)


def test_the_sign_does_not_depend_on_the_solvers() -> None:
    vectors = torch.randn(9, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    flips = torch.tensor([1, -1] * 4 + [1], dtype=torch.float64)[:, None]
    assert torch.equal(signed(vectors), signed(vectors * flips))
    largest = signed(vectors).gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    assert bool((largest > 0).all())


def test_of_two_entries_equal_but_for_rounding_the_first_counts() -> None:
    vector = torch.tensor([[0.1, -0.7, 0.7 * (1 + 1e-12)]], dtype=torch.float64)
    assert signed(vector)[0, 1] > 0


def test_equal_eigenvalues_have_no_gap() -> None:
    found = decompose(torch.diag(torch.tensor([3.0, 3.0, 1.0], dtype=torch.float64)), 3)
    assert found.gaps.tolist() == pytest.approx([0, 0, 2 / 3])
    assert found.shares.tolist() == pytest.approx([3 / 7, 3 / 7, 1 / 7])


def test_a_zero_matrix_has_zero_eigenvalues() -> None:
    found = decompose(torch.zeros(4, 4, dtype=torch.float64), 2)
    assert found.values.tolist() == [0, 0]
    assert bool(found.shares.isfinite().all())
