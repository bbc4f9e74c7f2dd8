"""Faces are what their factors say, each factor by itself."""

import pytest
import torch

from eigenbank.faces.render import FACTORS, NAMES, render, sample_factors


def _face(**factors: float) -> torch.Tensor:
    values = torch.zeros(1, len(FACTORS))
    for name, value in factors.items():
        values[0, NAMES.index(name.replace("_", " "))] = value
    return render(values)[0]


def test_a_face_is_a_function_of_its_factors() -> None:
    factors = sample_factors(8, torch.Generator().manual_seed(3))
    assert torch.equal(render(factors), render(factors))
    assert torch.allclose(render(factors)[5:6], render(factors[5:6]))
    assert render(factors).shape == (8, 3, 32, 32)
    assert render(factors, 64).shape == (8, 3, 64, 64)
    assert render(factors).abs().max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_every_factor_changes_the_picture_smoothly(name: str) -> None:
    values = torch.zeros(41, len(FACTORS))
    values[:, NAMES.index(name)] = torch.linspace(-1, 1, 41)
    steps = render(values).diff(dim=0).flatten(1).norm(dim=1)
    ends = (render(values[[0, -1]]).diff(dim=0)).norm()
    assert ends > 2
    assert steps.max() < 0.5 * ends


def test_the_population_is_what_the_factors_say() -> None:
    factors = sample_factors(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(factors.std(dim=0), torch.tensor([factor.std for factor in FACTORS]), atol=0.02, rtol=0)
    correlation = torch.corrcoef(factors.T) - torch.eye(len(FACTORS))
    assert correlation.abs().max() < 0.03
    assert set(factors[:, NAMES.index("glasses")].tolist()) == {-1.0, 1.0}


def test_factors_mean_what_their_words_say() -> None:
    cheek = (slice(None), 18, 12)
    assert (_face(skin_tone=1, glasses=-1, beard=-1)[cheek] > _face(skin_tone=-1, glasses=-1, beard=-1)[cheek]).all()
    top = (slice(None), 3, 16)
    assert (_face(hair_colour=1)[top] > _face(hair_colour=-1)[top]).all()
    corner = (slice(None), 0, 0)
    orange, violet = _face(background_hue=-1)[corner], _face(background_hue=1)[corner]
    assert orange[0] > orange[2]
    assert violet[2] > violet[0]
    left, right = (_face(head_position=side, hair_colour=-1)[:, 5].sum(0) for side in (-1, 1))
    assert left[:16].sum() < right[:16].sum()
