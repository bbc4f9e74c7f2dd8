"""A scale counts root mean square tokens of the image: of each sample, at each site, in each pass."""

from pathlib import Path

import pytest
import textpipes
import torch

import eigenbank as eb
from eigenbank.loaders.hooks import Addition, SiteHook, TokenCounter, token_lengths
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample
from eigenbank.schemas import HookPoint, TokenCount

WIDTH = 8


def hook(vector: torch.Tensor, *, axis: int = -1, image: str = "all", tokens: int | None = None) -> SiteHook:
    count = None if image == "all" else TokenCount(module="embed", at="output", axes=(1,))
    point = HookPoint(modules=("x",), at="output", axis=axis, image=image, count=count)  # type: ignore[arg-type]
    addition = Addition(point, WIDTH)
    addition.set(vector.expand(1, -1) if vector.ndim == 1 else vector)
    if count is not None:
        addition.counter = TokenCounter(count)
        addition.counter.tokens = tokens
    made = SiteHook(point)
    made.additions["edit"] = addition
    return made


@pytest.fixture
def tokens() -> torch.Tensor:
    return (
        torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 3.0, 0.2])[:, None, None]
    )


@pytest.fixture
def vector() -> torch.Tensor:
    found = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    return found / found.norm()


def rms(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.double().square().sum(-1).flatten(1).mean(1).sqrt()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_each_sample_moves_by_its_own_token_length_in_every_dtype(
    dtype: torch.dtype, tokens: torch.Tensor, vector: torch.Tensor
) -> None:
    moved = hook(vector).handle(tokens.to(dtype)).double() - tokens.to(dtype).double()
    expected = rms(tokens)[:, None, None] * vector.double()
    rounding = 4 * torch.finfo(dtype).eps * float(tokens.abs().max() + 8)
    torch.testing.assert_close(moved, expected.expand_as(moved), atol=max(rounding, 1e-6), rtol=0)


def test_text_tokens_neither_move_nor_count(tokens: torch.Tensor, vector: torch.Tensor) -> None:
    text = 100 * torch.ones(3, 4, WIDTH)
    for image, joint in (("first", torch.cat([tokens, text], 1)), ("last", torch.cat([text, tokens], 1))):
        moved = hook(vector, image=image, tokens=5).handle(joint)
        alone = hook(vector).handle(tokens)
        assert torch.equal(moved, torch.cat([alone, text] if image == "first" else [text, alone], 1))


def test_channels_may_come_first(tokens: torch.Tensor, vector: torch.Tensor) -> None:
    moved = hook(vector, axis=1).handle(tokens.movedim(-1, 1))
    torch.testing.assert_close(moved.movedim(1, -1), hook(vector).handle(tokens))


def test_frames_folded_into_the_batch_have_their_samples_length(tokens: torch.Tensor, vector: torch.Tensor) -> None:
    video = (
        torch.randn(2, 3, 5, WIDTH, generator=torch.Generator().manual_seed(2))
        * torch.tensor([1, 5.0, 2])[:, None, None]
    )
    lengths = token_lengths(video.flatten(0, 1), -1, 2)
    torch.testing.assert_close(lengths, rms(video).float().repeat_interleave(3))


def test_tokens_without_length_and_tokens_that_are_no_numbers_stay(vector: torch.Tensor) -> None:
    assert torch.equal(hook(vector).handle(torch.zeros(2, 5, WIDTH)), torch.zeros(2, 5, WIDTH))
    broken = torch.ones(2, 5, WIDTH)
    broken[0, 0, 0] = float("inf")
    moved = hook(vector).handle(broken)
    assert torch.equal(moved[0], broken[0])
    assert bool(moved[1].isfinite().all())
    assert not torch.equal(moved[1], broken[1])


def test_edits_of_a_site_add_up_and_none_lengthens_the_others_token(tokens: torch.Tensor, vector: torch.Tensor) -> None:
    one, other = hook(5 * vector), hook(-2 * vector)
    one.additions["second"] = other.additions["edit"]
    expected = tokens + 3 * rms(tokens)[:, None, None].float() * vector
    torch.testing.assert_close(one.handle(tokens), expected, atol=1e-5, rtol=0)


def test_each_sample_has_its_own_scale(tokens: torch.Tensor) -> None:
    scales = torch.tensor([[1.0], [0.0], [-2.0]])
    vector = torch.eye(WIDTH)[0]
    moved = hook(scales * vector).handle(tokens)
    assert torch.equal(moved[1], tokens[1])
    torch.testing.assert_close(moved[2], tokens[2] - 2 * rms(tokens)[2].float() * vector)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["flux", "pixels"])
def test_a_fresh_set_steers_a_pipeline_of_half_precision_as_it_does_one_of_float32(
    kind: str, dtype: torch.dtype, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pipe = textpipes.flux() if kind == "flux" else open_pipeline(tiny_checkpoint)
    denoiser = "transformer" if kind == "flux" else "unet"
    getattr(pipe, denoiser).save_pretrained(tmp_path / denoiser)
    edits = dict.fromkeys(eb.build(str(tmp_path / denoiser), top_k=1, recipes=["output-value"]), 3.0)

    def draw(dtype: torch.dtype) -> torch.Tensor:
        drawn = textpipes.draw(pipe, 1, 1, dtype=dtype) if kind == "flux" else sample(pipe, [0], 4)
        return drawn.float()

    found = {}
    for each in (torch.float32, dtype):
        pipe.to(each)
        plain = draw(each)
        with eb.steer(pipe, edits) as handle:
            assert {term.match for term in handle.terms} == {"exact"}
            found[each] = (plain, draw(each))
        assert torch.equal(draw(each), plain)
    (plain, edited), (plain_half, edited_half) = found[torch.float32], found[dtype]
    rounding = max(float((plain_half - plain).norm()), torch.finfo(dtype).eps * float(plain.norm()))
    assert float((edited_half - edited).norm()) < 3 * rounding < float((edited - plain).norm())
