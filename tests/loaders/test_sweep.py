"""A sweep is one batch whose pictures are those of single edits."""

from typing import Any

import pytest
import torch

import eigenbank as eb
from eigenbank.loaders.sample import sample

ID = "mid_block.attentions.0/output-value/0"


@pytest.fixture
def bank(tiny_set: eb.DirectionSet) -> eb.DirectionSet:
    return tiny_set


def test_every_picture_is_that_of_the_single_edit(pipe: Any, bank: eb.DirectionSet) -> None:
    swept = eb.sweep(pipe, ID, [-1, 0, 2], seeds=[4, 9], bank=bank, steps=4)
    assert swept.pixels.shape == (2, 3, 3, 8, 8)
    for row, seed in enumerate((4, 9)):
        for column, scale in enumerate((-1.0, 0.0, 2.0)):
            with eb.steer(pipe, {ID: scale}, bank=bank):
                single = sample(pipe, [seed], 4)[0]
            torch.testing.assert_close(swept.pixels[row, column], single, atol=1e-4, rtol=0)


def test_it_calls_the_denoiser_once_per_step(pipe: Any, bank: eb.DirectionSet) -> None:
    batches: list[int] = []
    counting = pipe.unet.register_forward_pre_hook(lambda _module, args: batches.append(len(args[0])))
    eb.sweep(pipe, ID, seeds=range(3), bank=bank, steps=4)
    counting.remove()
    assert batches == [15] * 4


def test_its_sheet_has_a_row_per_seed_and_a_column_per_scale(pipe: Any, bank: eb.DirectionSet) -> None:
    swept = eb.sweep(pipe, bank[ID], seeds=[0, 1], steps=2)
    assert len(swept.images) == 10
    assert swept.images[0].size == (8, 8)
    sheet = swept.grid()
    assert sheet.width > 5 * 96
    assert sheet.height > 2 * 96
