"""Measuring many directions in shared batches gives what measuring each alone gives."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import eigenbank as eb
from eigenbank.loaders.lengths import measure
from eigenbank.loaders.measure import PipelineMeasurements
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas.errors import SteerError


def _colour(images: Tensor) -> Tensor:
    return images.mean(dim=(2, 3))


def test_shared_batches_do_not_mix_directions(tiny_checkpoint: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    bank = eb.build(str(tiny_checkpoint), recipes=["output-value", "value@0.5-1"], top_k=2)
    directions = list(bank)[:5]
    base, plus, minus = PipelineMeasurements(pipe, 3, batch=7).edited(directions, _colour, scale=0.8, seeds=(1, 2, 3))
    torch.testing.assert_close(base, _colour(sample(pipe, (1, 2, 3), 3)), atol=1e-5, rtol=0)
    for number, direction in enumerate(directions):
        for sign, table in ((1, plus), (-1, minus)):
            with eb.steer(pipe, {direction: 0.8 * sign}):
                alone = _colour(sample(pipe, (1, 2, 3), 3))
            torch.testing.assert_close(table[number], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "bad", [lambda x: x.mean(), lambda x: x.mean(dim=(2, 3))[1:], lambda x: x.mean(dim=(2, 3)) * torch.nan]
)
def test_readings_of_another_shape_or_not_finite_are_refused(bad: object, tiny_checkpoint: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    with pytest.raises(SteerError, match="no label was given"):
        PipelineMeasurements(pipe, 2).edited([], bad, scale=1.0, seeds=(1, 2))  # type: ignore[arg-type]


def test_calibration_fills_in_what_no_norm_tells(tiny_checkpoint: Path) -> None:
    bank = eb.build(str(tiny_checkpoint), recipes=["output-value:output"], top_k=1)
    pipe = open_pipeline(tiny_checkpoint)
    calibrated = measure(pipe, bank)
    for name, layer in calibrated.layers.items():
        assert layer.lengths["block-output"].source == "calibration"
        assert layer.lengths["projection-input"] == bank.layers[name].lengths["projection-input"]
    assert measure(pipe, calibrated) is calibrated
    again = measure(pipe, bank)
    assert again.layers == calibrated.layers


def test_a_direction_taken_before_lengths_were_measured_has_them_in_the_set_that_measure_returns(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    bank = eb.build(str(tiny_checkpoint), recipes=["output-value:output"], top_k=2)
    pipe = open_pipeline(tiny_checkpoint)
    early = next(each for each in bank if each.layer == "down_blocks.1.attentions.0")
    with pytest.raises(SteerError, match="has no token length"):
        eb.steer(pipe, {early: 1.0}, fuse=True)
    measured = eb.measure(pipe, bank)
    files = [
        eb.export(measured, {key: 1.0}, tmp_path / name, pipe=pipe)[0]
        for name, key in (("early.safetensors", early), ("late.safetensors", early.id))
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    plain = sample(pipe, [1], 2)
    drawn = []
    for key in (early, early.id):
        with eb.steer(pipe, {key: 2.0}, fuse=True, bank=measured):
            drawn.append(sample(pipe, [1], 2))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], plain)


def test_a_direction_of_other_weights_stays_that_direction(tiny_checkpoint: Path) -> None:
    one = eb.build(str(tiny_checkpoint), recipes="output-value", top_k=1)
    direction = next(iter(one))
    assert (again := one.replaced(one.manifest)).own(direction) is again[direction.id]
    other = DirectionSet(one.manifest, vectors={name: -vectors for name, vectors in one.vectors.items()})
    assert other.own(direction) is direction


def test_the_reach_of_a_direction_is_what_it_adds_to_the_residual_stream(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    layer = pipe.unet.mid_block.attentions[0]
    layer.to_out[0].weight.data *= 0.2
    pipe.save_pretrained(tmp_path)
    bank = measure(pipe, eb.build(str(tmp_path), recipes=["output-value", "output-value:output", "qkv"], top_k=1))
    passed: list[tuple[Tensor, Tensor]] = []
    layer.register_forward_hook(lambda _module, args, out: passed.append((args[0], out)))
    images, time = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), 500
    read = bank.direction("mid_block.attentions.0/output-value/0")
    with torch.no_grad():
        pipe.unet(images, time)
        with eb.steer(pipe, {read: 0.01}):
            pipe.unet(images, time)
    (stream, plain), (_, edited) = passed
    added, length = ((each.square().sum(dim=1).mean().sqrt()) for each in ((edited - plain) / 0.01, stream))
    assert read.reach == pytest.approx(float(added / length), rel=0.3)
    # The stream itself is at this layer's output, and what attention writes into it.
    written = bank.direction("mid_block.attentions.0/output-value:output/0")
    assert written.reach == pytest.approx(float(plain.square().sum(dim=1).mean().sqrt() / length), rel=0.3)
    assert bank.direction("mid_block.attentions.0/qkv/0").reach is None, "not known"


def test_directions_of_a_layer_that_writes_next_to_nothing_do_not_act(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    pipe.unet.mid_block.attentions[0].to_out[0].weight.data *= 1e-5
    pipe.save_pretrained(tmp_path)
    bank = eb.build(str(tmp_path), recipes=["output-value"], top_k=2)
    assert all(each.acts for each in bank), "what was not measured is taken to act"
    measured = measure(pipe, bank)
    assert {each.layer for each in measured if not each.acts} == {"mid_block.attentions.0"}
