"""Each statistic moves with what its word says, on pictures made so that the truth is known."""

from collections.abc import Callable

import pytest
import torch
from faces.render import NAMES as FACTORS
from faces.render import render, sample_factors
from torch import Tensor, nn

from eigenbank.builders.label.statistics import NAMES, StatisticsLabeler


def faces(n: int = 64, size: int = 48) -> Tensor:
    return (render(sample_factors(n, torch.Generator().manual_seed(0)), size) + 1) / 2


def shifted(images: Tensor, right: int, up: int) -> Tensor:
    """Moved, the border's colour moving in behind."""
    padded = nn.functional.pad(images, (max(right, 0), max(-right, 0), max(-up, 0), max(up, 0)), mode="replicate")
    height, width = images.shape[-2:]
    top, left = max(up, 0), max(-right, 0)
    return padded[..., top : top + height, left : left + width]


def larger(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    grown = nn.functional.interpolate(images, scale_factor=1.25, mode="bilinear", antialias=True)
    top, left = (grown.shape[-2] - height) // 2, (grown.shape[-1] - width) // 2
    return grown[..., top : top + height, left : left + width]


MEANINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": lambda x: (x + 0.1).clamp(0, 1),
    "contrast": lambda x: ((x - 0.5) * 1.3 + 0.5).clamp(0, 1),
    "saturation": lambda x: (x.mean(1, keepdim=True) + 1.4 * (x - x.mean(1, keepdim=True))).clamp(0, 1),
    "warmth": lambda x: (x + torch.tensor([0.06, 0.0, -0.06])[:, None, None]).clamp(0, 1),
    "green tint": lambda x: (x + torch.tensor([-0.04, 0.08, -0.04])[:, None, None]).clamp(0, 1),
    "sharpness": lambda x: (x + 0.5 * (x - nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False))).clamp(0, 1),
    "subject size": larger,
    "horizontal position": lambda x: shifted(x, 3, 0),
    "vertical position": lambda x: shifted(x, 0, 3),
    "symmetry": lambda x: (x + x.flip(-1)) / 2,
}


@pytest.mark.parametrize("name", MEANINGS)
def test_a_statistic_rises_with_what_its_word_says(name: str) -> None:
    images = faces()
    read = StatisticsLabeler().read
    moved = read(MEANINGS[name](images)) - read(images)
    column = moved[:, NAMES.index(name)]
    assert (column > 0).float().mean() >= 0.9


@pytest.mark.parametrize(
    ("factor", "statistic", "sign"),
    [
        ("head position", "horizontal position", 1),
        ("head width", "subject size", 1),
        ("background hue", "background warmth", -1),
        ("skin tone", "brightness", 1),
    ],
)
def test_a_known_factor_moves_its_statistic_most(factor: str, statistic: str, sign: int) -> None:
    """Of all statistics, in standard deviations of the population; the whole row is what a direction would show."""
    values = sample_factors(256, torch.Generator().manual_seed(1))
    low, high = values.clone(), values.clone()
    low[:, FACTORS.index(factor)], high[:, FACTORS.index(factor)] = -0.5, 0.5
    read = StatisticsLabeler().read
    both = [read((render(each) + 1) / 2) for each in (values, low, high)]
    effect = ((both[2] - both[1]) / both[0].std(0)).mean(0)
    if factor == "background hue":  # the whole picture's warmth follows its background's
        effect[NAMES.index("warmth")] = 0
    assert NAMES[int(effect.abs().argmax())] == statistic
    assert effect[NAMES.index(statistic)].sign() == sign


def test_large_and_blank_pictures_are_read() -> None:
    assert StatisticsLabeler().read(torch.rand(2, 3, 600, 400)).isfinite().all()
    blank = StatisticsLabeler().read(torch.zeros(2, 3, 32, 32))
    assert blank.shape == (2, len(NAMES))
    assert blank.isfinite().all()


def test_the_size_of_a_picture_says_nothing_about_where_its_subject_is() -> None:
    small, large = (
        StatisticsLabeler().read(faces(16, size))[:, NAMES.index("horizontal position")] for size in (48, 192)
    )
    torch.testing.assert_close(small, large, atol=0.03, rtol=0)
