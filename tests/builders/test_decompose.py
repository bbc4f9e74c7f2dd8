"""Eigenvectors come ordered, with one sign on every machine, and say how alone they stand."""

from typing import Any

import pytest
import torch

from eigenbank.builders.decompose import RESIDUAL, decompose, decompose_sides, iterate, signed


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


@pytest.mark.parametrize(("rank", "k"), [(40, 7), (40, 40), (5, 12)])
def test_both_sides_of_a_matrix_come_out_as_each_alone(rank: int, k: int) -> None:
    generator = torch.Generator().manual_seed(9)
    left, right = (torch.randn(40, rank, dtype=torch.float64, generator=generator) for _ in range(2))
    matrix = left @ right.T
    for found, gram in zip(decompose_sides(matrix, k), (matrix.T @ matrix, matrix @ matrix.T), strict=True):
        alone = decompose(gram, k)
        assert torch.allclose(found.values, alone.values, rtol=1e-9, atol=1e-9 * float(alone.values[0]))
        rows = found.vectors.double()
        residual = (rows @ gram - found.values[:, None] * rows).norm(dim=1)
        assert residual.max() <= 1e-6 * alone.values[0]
        assert torch.allclose(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64), atol=1e-5)
        apart = alone.gaps > 1e-4
        assert torch.allclose(found.vectors[apart], alone.vectors[apart], atol=1e-5)


def test_a_few_of_many_are_as_exact_as_all() -> None:
    gram = _gram(5, d=256)
    found = iterate(gram, 9, rounds=40)
    assert found is not None
    values = torch.linalg.eigvalsh(gram).flip(0)
    assert torch.allclose(found[0], values[:9], rtol=1e-9)
    residual = gram @ found[1].T - found[1].T * found[0]
    assert residual.norm(dim=0).max() <= RESIDUAL * values[0] * 1.01


def test_what_does_not_converge_is_solved_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eigenbank.builders.decompose.ITERATIVE_WIDTH", 256)
    gram = torch.eye(256, dtype=torch.float64) + _gram(2, d=256) / 1e5
    assert iterate(gram, 4, rounds=2) is None
    found = decompose(gram, 3)
    assert torch.allclose(found.values, torch.linalg.eigvalsh(gram).flip(0)[:3])


def test_a_few_of_many_are_found_by_iteration_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eigenbank.builders.decompose.ITERATIVE_WIDTH", 256)
    monkeypatch.setattr("eigenbank.builders.decompose.ROUND_WIDTH", 8)
    gram = _gram(3, d=256)
    by_iteration = decompose(gram, 4)
    monkeypatch.setattr("torch.linalg.eigh", direct := _Counting(torch.linalg.eigh))
    assert torch.allclose(decompose(gram, 4).values, by_iteration.values)
    # Only small matrices were solved directly.
    assert max(direct.widths) < 256


class _Counting:
    """Calls through, and notes how wide the matrices were."""

    def __init__(self, call: Any) -> None:
        self.call, self.widths = call, [0]

    def __call__(self, matrix: torch.Tensor) -> Any:
        self.widths.append(matrix.shape[-1])
        return self.call(matrix)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("d", [320, 2048])
def test_cpu_and_gpu_give_the_same_spectrum(d: int) -> None:
    for gram in (_gram(seed, d) for seed in range(3)):
        cpu, gpu = decompose(gram, 16), decompose(gram.cuda(), 16)
        apart = cpu.gaps > 1e-4
        assert bool(((cpu.vectors * gpu.vectors).sum(dim=1)[apart] >= 1 - 1e-6).all())
        assert torch.allclose(cpu.values, gpu.values, rtol=1e-9)
