"""Pictures predicted by one step: the finished one at the last step, the same in any batch, and in an edit's own window."""

from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
from torch import Tensor

import eigenbank as eb
from eigenbank.builders.build import build
from eigenbank.builders.checkpoints.folder import open_folder
from eigenbank.loaders import predicted
from eigenbank.loaders.measure import PipelineMeasurements, step_to_look_at
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.predicted import PredictedPictures
from eigenbank.loaders.sample import sample_pictures
from eigenbank.loaders.steer import steer
from eigenbank.registry.sets.direction_set import Direction
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import SteerError

STEPS = 4
SEEDS = (3, 8, 11)
SIZE = (32, 32)
PROMPTS = ("abc", "cab ab")


@pytest.fixture(scope="module", params=sorted(tiny_pipelines.KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pipe(kind: str) -> Any:
    return tiny_pipelines.make(kind)


def test_the_last_step_predicts_the_finished_picture(pipe: Any) -> None:
    own, drawing = pipe.scheduler, Drawing(prompts=PROMPTS, size=SIZE)
    view = PredictedPictures(pipe, STEPS, STEPS - 1, drawing, {})
    assert view.lacks(SEEDS) == list(SEEDS)
    view.follow(SEEDS)
    assert view.lacks(SEEDS) == []
    found = view.draw(SEEDS).frames
    assert pipe.scheduler is own
    pipe.scheduler = view._kind.__mro__[2].from_config(view._config)  # type: ignore[attr-defined]
    try:
        drawn = sample_pictures(pipe, SEEDS, STEPS, drawing=drawing.part(SEEDS)).frames
    finally:
        pipe.scheduler = own
    # Where the last step ends beside no noise at all, that little is left.
    assert float((found - drawn).abs().mean()) < 2e-3
    assert float(found.std()) > 0


def test_a_picture_is_the_same_in_any_batch_and_an_edit_shows_in_it(pipe: Any, kind: str, tmp_path: Path) -> None:
    folder = tiny_pipelines.save(kind, tmp_path / kind)
    directions = build(open_folder(folder), f"zoo/{kind}", recipes=["output-value"], top_k=1)
    view = PredictedPictures(pipe, STEPS, 1, Drawing(prompts=PROMPTS, size=SIZE), {})
    view.follow(SEEDS)
    plain = view.draw(SEEDS).frames
    assert torch.allclose(view.draw(SEEDS[1:]).frames, plain[1:], atol=1e-3)
    slider = next(iter(directions))
    with steer(pipe, {slider: torch.tensor([0.0, 3.0, 0.0])}, force=True):
        edited = view.draw(SEEDS).frames
    assert torch.allclose(edited[::2], plain[::2], atol=1e-4)
    assert not torch.allclose(edited[1], plain[1], atol=1e-3)


def test_the_scheduler_is_put_back_after_an_error(pipe: Any) -> None:
    own = pipe.scheduler
    view = PredictedPictures(pipe, STEPS, 1, Drawing(prompts=PROMPTS, size=SIZE), {"output_type": "pt"})
    with pytest.raises(TypeError):
        view.follow(SEEDS)
    assert pipe.scheduler is own


def test_what_cannot_be_stopped_at_a_step_is_refused() -> None:
    from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline

    other = ConsistencyModelPipeline(unet=None, scheduler=CMStochasticIterativeScheduler())
    with pytest.raises(SteerError, match="CMStochasticIterativeScheduler"):
        PredictedPictures(other, STEPS, 1, Drawing(), {})


def _some(images: Tensor) -> Tensor:
    return images.flatten(1)[:, ::101]


def test_measuring_predicts_each_direction_in_its_window_and_keeps_readings(tmp_path: Path) -> None:
    folder = tiny_pipelines.save("sd", tmp_path / "sd")
    directions = list(build(open_folder(folder), "zoo/sd", recipes=["output-value", "output-value@0.5-1"], top_k=1))
    early, late = (step_to_look_at(each, 10) for each in (directions[0], directions[-1]))
    assert (early, late) == (3, 5)
    measurements = PipelineMeasurements(open_pipeline(folder), STEPS, drawing=Drawing(prompts=PROMPTS, size=SIZE))
    counts: list[tuple[int, int]] = []

    def found(sliders: list[Direction]) -> tuple[Tensor, Tensor]:
        return measurements.predicted(
            sliders, _some, scale=2.0, seeds=SEEDS, cache=tmp_path / "kept", progress=lambda *at: counts.append(at)
        )

    plus, minus = found(directions)
    assert plus.shape == minus.shape == (len(directions), len(SEEDS), plus.shape[2])
    assert min(float(row.abs().max()) for row in (*plus, *minus)) > 1e-4, "each acts in the step it is looked at"
    # Two kinds of windows: the unedited run is read at two steps.
    assert counts[0] == (0, (2 * len(directions) + 2) * len(SEEDS))
    assert counts[-1] == (counts[0][1], counts[0][1])
    again, _ = found(directions[::-1])
    assert counts[-1] == (0, 0), "nothing is drawn twice"
    assert torch.equal(again, plus.flip(0))


def test_of_two_denoisers_whole_pictures_are_drawn_as_a_pass_shows_one_alone(tmp_path: Path) -> None:
    pipe = open_pipeline(tiny_pipelines.save("wan", tmp_path / "wan"))
    with pytest.raises(SteerError, match="2 denoisers, and a single pass shows one of them"):
        PipelineMeasurements(pipe, 6).predicted([], _some, scale=1.0, seeds=SEEDS)


def test_large_latents_are_decoded_at_half_their_size_and_only_where_nothing_is_packed(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = PredictedPictures(pipe, STEPS, 1, Drawing(prompts=PROMPTS, size=SIZE), {})
    view.follow(SEEDS)
    decoded: list[torch.Size] = []
    decode = pipe.vae.decode

    def watched(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.append(latents.shape[-2:])
        return decode(latents, *args, **kwargs)

    monkeypatch.setattr(pipe.vae, "decode", watched)
    whole = view.draw(SEEDS).frames
    latents = view._latents[SEEDS[0]]
    monkeypatch.setattr(predicted, "SMALL", min(latents.shape[-2:]))
    found = view.draw(SEEDS).frames
    usual, small = decoded[0], decoded[-1]
    if latents.ndim == 4:
        assert small == (usual[0] // 2, usual[1] // 2)
        assert found.isfinite().all()
        assert float(found.std()) > 0
    else:
        assert torch.equal(found, whole)
    decoded.clear()
    sample_pictures(pipe, SEEDS[:1], STEPS, drawing=Drawing(prompts=PROMPTS[:1], size=SIZE))
    assert decoded == [usual], "a finished picture is decoded whole"


def test_a_tiny_autoencoder_decodes_in_place_of_the_own() -> None:
    from diffusers import AutoencoderTiny

    pipe = tiny_pipelines.make("sd")
    torch.manual_seed(0)
    blocks: dict[str, Any] = {f"{side}_block_out_channels": (8, 8) for side in ("encoder", "decoder")}
    pipe.vae = AutoencoderTiny(**blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
    size = (4 * SIZE[0], 4 * SIZE[1])
    measurements = PipelineMeasurements(pipe, STEPS, drawing=Drawing(prompts=PROMPTS, size=size))
    read = measurements.unedited(_some, SEEDS)
    plus, minus = measurements.predicted(list(eb.build(pipe, top_k=1)), _some, scale=2.0, seeds=SEEDS)
    assert read.shape[0] == plus.shape[1] == len(SEEDS)
    assert float((plus - minus).abs().max()) > 0
