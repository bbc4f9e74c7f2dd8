"""Where memory runs out, smaller batches are drawn: the same pictures. Denoiser and VAE split apart."""

from pathlib import Path
from typing import Any

import pytest
import textpipes
import tiny_pipelines
import torch
from torch import Tensor, nn

import eigenbank as eb
from eigenbank.cli.main import run
from eigenbank.loaders.measure import PipelineMeasurements
from eigenbank.loaders.memory import batch_size, is_out_of_memory
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample, sample_in_batches
from eigenbank.schemas.errors import SteerError

CALL = {**textpipes.CALLS["sdxl"], "height": 16, "width": 16}
NAME = "mid_block.attentions.0.transformer_blocks.0.attn1/output-value/0"


def colour(images: Tensor) -> Tensor:
    return images.mean(dim=(2, 3))


def limit(module: nn.Module, most: int, asked: list[int]) -> None:
    """Let a module run out of memory on batches of more than `most`; `asked` gets the size of each."""

    def check(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        batch = len(args[0] if args else kwargs["hidden_states"])
        asked.append(batch)
        if batch > most:
            raise torch.OutOfMemoryError

    module.register_forward_pre_hook(check, with_kwargs=True)


def test_a_denoiser_out_of_memory_gets_half_as_many(tiny_checkpoint: Path) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    sliders = list(eb.build(str(tiny_checkpoint), recipes=["output-value"], top_k=2))
    expected = PipelineMeasurements(pipe, 2).edited(sliders, colour, scale=0.8, seeds=(1, 2, 3))
    asked: list[int] = []
    limit(pipe.unet, 2, asked)
    found = PipelineMeasurements(pipe, 2, batch=9).edited(sliders, colour, scale=0.8, seeds=(1, 2, 3))
    assert asked[:5] == [3, 1, 1, 1, 1]  # two steps each
    assert asked[7:11] == [9, 4, 2, 2]
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)
    limit(pipe.unet, 0, asked)
    with pytest.raises(SteerError, match="a single picture"):
        PipelineMeasurements(pipe, 2).unedited(colour, (1, 2, 3))


def test_a_vae_out_of_memory_decodes_one_at_a_time_then_tiles(caplog: pytest.LogCaptureFixture) -> None:
    pipe = textpipes.pipeline("sdxl")
    expected = sample(pipe, [0, 1, 2], 2, **CALL)
    denoised: list[int] = []
    decoded: list[int] = []
    pipe.unet.register_forward_hook(lambda _module, args, _out: denoised.append(len(args[0])))
    limit(pipe.vae.decoder, 1, decoded)
    torch.testing.assert_close(sample(pipe, [0, 1, 2], 2, **CALL), expected, atol=1e-4, rtol=0)
    assert denoised == [6, 6], "the denoiser's batch is not split for it"
    assert decoded == [3, 1, 1, 1]
    assert not pipe.vae.use_slicing
    assert "decode" not in vars(pipe.vae)
    assert "tiles" not in caplog.text

    def small(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0].shape[-1] > 4:
            raise torch.OutOfMemoryError

    pipe.vae.decoder.register_forward_pre_hook(small)
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 4, 8
    assert sample(pipe, [0, 1, 2], 2, **CALL).shape == expected.shape
    assert "tiles are decoded" in caplog.text
    assert not pipe.vae.use_tiling
    limit(pipe.vae.decoder, 0, decoded)
    with pytest.raises(torch.OutOfMemoryError):
        sample(pipe, [0], 1, **CALL)


def test_every_commands_batch_splits(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps, previews and pictures of several seeds: with two samples at once, one for each branch of guidance."""
    folder = tiny_pipelines.save("sd", tmp_path / "sd")
    assert run(["build", str(folder), "--model-id", "me/sd", "--top-k", "1"]) == 0
    pipe = open_pipeline(folder)
    expected = eb.sweep(pipe, NAME, [-1, 0, 1], seeds=[0, 1], bank=eb.load("me/sd"), steps=2, prompt=["a", "b"])
    several = sample(pipe, range(3), 2, prompt=["a", "b"])
    asked: list[int] = []
    limit(pipe.unet, 2, asked)
    counts: list[int] = []
    how: dict[str, Any] = {"steps": 2, "prompt": ["a", "b"], "drawn": counts.append}
    found = eb.sweep(pipe, NAME, [-1, 0, 1], seeds=[0, 1], bank=eb.load("me/sd"), **how)
    assert asked[:3] == [12, 6, 2]
    torch.testing.assert_close(found.pixels, expected.pixels, atol=1e-3, rtol=0)
    torch.testing.assert_close(sample_in_batches(pipe, range(3), **how), several, atol=1e-3, rtol=0)
    assert counts == [1] * 9, "progress goes on with every batch"

    def opened(*args: Any, **kwargs: Any) -> Any:
        limited = open_pipeline(*args, **kwargs)
        limit(limited.unet, 2, asked)
        return limited

    monkeypatch.setattr("eigenbank.loaders.pipelines.open_pipeline", opened)
    drawn = ["--prompt", "a", "--prompt", "b", "--steps", "2", "--seeds", "0-2"]
    for command in (
        ["steer", "me/sd", "--set", f"{NAME}=1", *drawn, "--out", str(tmp_path / "a.png")],
        ["sweep", "me/sd", NAME, *drawn, "--out", str(tmp_path / "b.png")],
        ["preview", "me/sd", NAME, *drawn],
    ):
        asked.clear()
        assert run(command) == 0
        assert max(asked) > 2 >= asked[-1]


def test_the_first_batch_is_what_the_memory_holds(tiny_checkpoint: Path) -> None:
    pixel = open_pipeline(tiny_checkpoint)
    assert batch_size(pixel, free=2**30) == 64
    assert batch_size(pixel, height=512, width=512, free=2**40) == 4
    assert batch_size(pixel, height=2048, width=2048, free=2**40) == 1
    few = [batch_size(pixel, free=free) for free in (10**3, 10**6, 3 * 10**6, 10**7)]
    assert few == sorted(few)
    assert few[0] == 1
    assert 1 < few[2] < 64


@pytest.mark.parametrize(
    ("error", "meant"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_every_devices_error_is_known(error: Exception, meant: bool) -> None:
    assert is_out_of_memory(error) is meant
