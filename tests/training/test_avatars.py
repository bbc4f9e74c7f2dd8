"""The demo checkpoint's training: factors, captions, text, the autoencoder's folding, the loop and the saved layout."""

import json
import random
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from torch import nn
from transformers import CLIPTokenizer

from avatars.captions import PHRASES, caption, choose, say
from avatars.factors import FACTORS, NAMES, SLIDERS, VALUES, one_hot, sample_factors, slider_weights, split_scores
from avatars.loop import Schedule, Workers, steps_done, train
from avatars.pipeline import assemble, draw, save
from avatars.reader import accuracy, new_reader, r_squared, read_values, save_reader, slider_reader, write_attributes
from avatars.renders import load_renders, render_chunks
from avatars.text import LENGTH, new_text_encoder, save_tokenizer, token_ids, train_tokenizer
from avatars.unet import new_unet, train_unet
from avatars.vae import encode, importance, new_vae, psnr, standardise
from avatars.words import save_words, share_found, train_words, values_read
from eigenbank.builders.label.attributes import open_attributes
from eigenbank.builders.label.clip import open_clip

ALONE = Workers(0, 1, torch.device("cpu"))
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return train_tokenizer(captions=2000)


def test_factors_are_drawn_with_their_odds_and_split_again() -> None:
    factors = sample_factors(4000, torch.Generator().manual_seed(0))
    shares = split_scores(one_hot(factors).mean(0, keepdim=True))
    for factor in FACTORS:
        odds = torch.tensor(factor.odds or (1.0,) * len(factor.values))
        assert torch.allclose(shares[factor.name][0], odds / odds.sum(), atol=0.04)
    assert len(set(VALUES)) == len(VALUES) == one_hot(factors).shape[1]


def test_a_caption_names_what_it_mentions_and_nothing_else() -> None:
    row, draw = sample_factors(1, torch.Generator().manual_seed(3))[0].tolist(), random.Random(0)
    for factor, number in zip(FACTORS, row, strict=True):
        texts = " | ".join(say(row, {factor.name}, draw) for _ in range(60))
        own, *others = sorted(PHRASES.get(factor.name, {}), key=lambda value: value != list(factor.values)[number]) or [
            ""
        ]
        assert not own or all(phrase in texts for phrase in PHRASES[factor.name][own])
        for phrase in (phrase for other in others for phrase in PHRASES[factor.name][other]):
            assert phrase not in texts or any(phrase in longer for longer in PHRASES[factor.name][own])
        for word, speaks in {"background": "background", "hair": "hair", "wearing": "clothes"}.items():
            assert word not in texts or factor.name.startswith(speaks)


def test_captions_speak_most_of_the_mouth_and_the_brows() -> None:
    draw = random.Random(0)
    counts = dict.fromkeys(NAMES, 0)
    for _ in range(2000):
        for name in choose(draw):
            counts[name] += 1
    assert set(sorted(counts, key=counts.__getitem__)[-3:]) == {"mouth", "eyebrows", "beard"}
    assert min(counts.values()) > 200


def test_every_caption_fits_and_any_prompt_can_be_spelled(tokenizer: CLIPTokenizer) -> None:
    draw = random.Random(1)
    texts = [caption(row, draw) for row in sample_factors(500, torch.Generator().manual_seed(1)).tolist()]
    assert max(len(tokenizer(text).input_ids) for text in texts) <= LENGTH
    strange = tokenizer("Zebra qux, 7ü 猫").input_ids
    assert tokenizer.eos_token_id not in strange[1:-1]
    assert tokenizer.decode(strange, skip_special_tokens=True) == "zebra qux , 7 ü 猫"


def test_the_tokenizer_is_read_from_its_old_files_too(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    text = "a person with long wavy red hair, winking"
    assert CLIPTokenizer.from_pretrained(tmp_path)(text).input_ids == tokenizer(text).input_ids


def test_each_value_is_seen_in_the_render_and_a_chunk_is_rendered_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "needs dicebear-core, dicebear-styles and resvg_py: training/requirements.txt"
    for module in ("dicebear", "dicebear_styles", "resvg_py"):
        pytest.importorskip(module, reason=reason)
    from avatars.renders import Renderer

    draw = Renderer()
    for column, factor in enumerate(FACTORS):
        rows = torch.zeros((len(factor.values), len(FACTORS)), dtype=torch.long)
        rows[:, column] = torch.arange(len(factor.values))
        pictures = torch.from_numpy(draw(rows)).float()
        for number in range(1, len(pictures)):
            assert (pictures[number] - pictures[:number]).abs().amax((1, 2, 3)).min() > 40
    monkeypatch.setattr("avatars.renders.CHUNK", 3)
    render_chunks(tmp_path, 0, range(2))
    images, factors = load_renders(tmp_path, range(2))
    assert images.shape == (6, 3, 64, 64)
    assert factors.shape == (6, 11)
    assert torch.equal(images[3:].permute(0, 2, 3, 1), torch.from_numpy(draw(factors[3:])))
    written = (tmp_path / "000.npz").stat().st_mtime_ns
    render_chunks(tmp_path, 0, range(2))
    assert (tmp_path / "000.npz").stat().st_mtime_ns == written


def test_standardising_folds_exactly() -> None:
    vae = new_vae(channels=(8, 16, 16)).eval()
    images = torch.randint(0, 256, (32, 3, 64, 64), dtype=torch.uint8)
    before = psnr(vae, images)
    standardise(vae, images)
    latents = encode(vae, images)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    assert psnr(vae, images) == pytest.approx(before, abs=1e-3)
    assert float(importance(16).mean()) == pytest.approx(1)


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def run(state: Path, *stops: int) -> list[torch.Tensor]:
        for stop in stops:
            torch.manual_seed(0)
            network = nn.Linear(3, 3)

            def loss(_step: int, generator: torch.Generator, batch: int, network: nn.Linear = network) -> torch.Tensor:
                return (network(torch.randn(batch, 3, generator=generator)) - 1).square().mean()

            train("line", {"line": network}, loss, Schedule(12, 4, 0.1, warmup=2), state, ALONE, stop=stop)
        return [parameter.detach() for parameter in network.parameters()]

    straight, resumed = run(tmp_path / "straight", 12), run(tmp_path / "resumed", 5, 9, 12)
    assert steps_done(tmp_path / "resumed", "line") == 12
    for one, other in zip(straight, resumed, strict=True):
        assert torch.equal(one, other)
    loaded = run(tmp_path / "resumed", 0)
    assert all(torch.equal(one, other) for one, other in zip(straight, loaded, strict=True))


def test_the_rate_rises_and_falls_along_a_cosine() -> None:
    schedule = Schedule(100, 1, 2.0, warmup=10)
    assert schedule.rate_at(0) == pytest.approx(0.2)
    assert schedule.rate_at(50) == pytest.approx(1.0)
    assert schedule.rate_at(99) < 0.01


def test_the_checkpoint_has_stable_diffusions_layout_and_opens_with_plain_diffusers(
    tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    pipeline = _tiny_pipeline(tokenizer)
    save(pipeline, tmp_path, step=3, steps_planned=10, renders=5)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("README.md", "NOTICE", "model_index.json"),
        *("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
    }
    classes = json.loads((tmp_path / "model_index.json").read_text())
    assert classes["_class_name"] == "StableDiffusionPipeline"
    assert [classes[part][1] for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")] == [
        "UNet2DConditionModel",
        "AutoencoderKL",
        "CLIPTextModel",
        "CLIPTokenizer",
        "DDIMScheduler",
    ]
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (tmp_path / "tokenizer").iterdir()}
    assert "Johan Melin" in (tmp_path / "README.md").read_text(encoding="utf-8")
    opened = DiffusionPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32)
    assert isinstance(opened, StableDiffusionPipeline)
    assert opened.vae.config.scaling_factor == 1
    opened.set_progress_bar_config(disable=True)
    pictures = draw(opened, ["a person with red hair"] * 2, [7, 7])
    assert pictures.shape == (2, 3, 64, 64)
    assert torch.equal(pictures, draw(opened, ["a person with red hair"] * 2, [7, 7]))


def test_the_reader_is_an_attribute_model_like_anyones(tmp_path: Path) -> None:
    reader = new_reader().eval()
    images = torch.randint(0, 256, (64, 3, 64, 64), dtype=torch.uint8)
    factors = sample_factors(64, torch.Generator().manual_seed(0))
    save_reader(reader, images, factors, tmp_path)
    labeler = open_attributes(tmp_path)
    assert labeler.names == VALUES
    assert torch.allclose(labeler.read(images / 255), reader.read(images / 255), atol=1e-2)
    assert set(r_squared(reader, images, one_hot(factors))) == set(VALUES)
    sliders = slider_reader(reader, images, factors)
    write_attributes(sliders, tmp_path / "sliders")
    labeler = open_attributes(tmp_path / "sliders")
    assert labeler.names == tuple(SLIDERS)
    values = reader.read(images / 255)
    assert torch.allclose(labeler.read(images / 255), values @ slider_weights().T, atol=5e-2)
    assert set().union(*SLIDERS.values()) <= set(VALUES)
    drawn = one_hot(sample_factors(20_000, torch.Generator().manual_seed(1))) @ slider_weights().T
    assert torch.allclose(drawn.std(0), torch.tensor(sliders.config.stds), rtol=0.05)
    assert accuracy(read_values(reader, images / 255), factors).keys() == set(NAMES)
    assert accuracy(factors, factors)["mouth"] == 1


@pytest.mark.slow
def test_the_denoiser_trains_twenty_steps_and_resumes(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    factors = sample_factors(16, torch.Generator().manual_seed(0))
    latents = torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    schedule = Schedule(20, 4, 1e-3, warmup=2)

    def run(state: Path, *stops: int) -> dict[str, torch.Tensor]:
        for stop in stops:
            pipeline = _tiny_pipeline(tokenizer)
            networks = pipeline.unet, pipeline.text_encoder
            before = {name: tensor.clone() for name, tensor in pipeline.text_encoder.state_dict().items()}
            train_unet(*networks, tokenizer, latents, factors.tolist(), state, ALONE, schedule, stop)
        after = pipeline.text_encoder.state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in after)
        assert draw(pipeline, ["a person"], [0]).isfinite().all()
        return pipeline.unet.state_dict()

    straight, resumed = run(tmp_path / "straight", 20), run(tmp_path / "resumed", 8, 20)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in straight.items())


def _tiny_pipeline(tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    encoder = new_text_encoder(tokenizer, width=32, layers=1)
    assert token_ids(tokenizer, ["a person"]).shape == (1, LENGTH)
    unet = new_unet(channels=(16, 16, 32), text_width=32)
    return assemble(new_vae(channels=(8, 16, 16)).eval(), encoder.eval(), tokenizer, unet.eval())


def test_the_image_text_model_learns_goes_on_and_opens_as_a_labeler(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    factors = sample_factors(64, torch.Generator().manual_seed(0))
    images = torch.randint(256, (64, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def trained(state: Path, stop: int) -> list[torch.Tensor]:
        encoder = new_text_encoder(tokenizer)
        model = train_words(tokenizer, encoder, images, factors, state, ALONE, stop=stop)
        text = model.text_model.state_dict()
        assert all(
            torch.equal(text[name.removeprefix("text_model.")], each) for name, each in encoder.state_dict().items()
        )
        return [each.detach() for each in model.parameters()]

    trained(tmp_path / "cut", 1)
    resumed, whole = trained(tmp_path / "cut", 2), trained(tmp_path / "whole", 2)
    assert all(torch.equal(one, other) for one, other in zip(resumed, whole, strict=True))
    model = train_words(tokenizer, new_text_encoder(tokenizer), images, factors, tmp_path / "whole", ALONE, stop=2)
    assert all(0 <= share <= 1 for share in share_found(model, tokenizer, images, factors))
    assert values_read(model, tokenizer, images, factors).keys() == set(NAMES)
    save_words(model, tokenizer, tmp_path / "clip")
    vocabulary = {
        "name": "mine",
        "concepts": [
            {"name": name, "positive": [f"with {name}"], "neutral": ["a person"]} for name in ("red hair", "a smile")
        ],
    }
    (tmp_path / "clip" / "vocabulary.json").write_text(json.dumps(vocabulary))
    labeler = open_clip(None, tmp_path / "clip")
    assert labeler.names == ("red hair", "a smile")
    assert labeler.read(images[:2].float() / 255).shape == (2, 2)
