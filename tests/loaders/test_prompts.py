"""Prompts as text encoders read them, with nothing else of a pipeline."""

import shutil
from pathlib import Path

import pytest
import tiny_pipelines
import torch

import eigenbank as eb
from eigenbank.loaders.prompts import encode_prompts, open_text_side
from eigenbank.schemas.errors import SourceError


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "flux", "pixart"])
def test_the_text_side_alone_reads_as_the_whole_pipeline_does(kind: str, tmp_path: Path) -> None:
    folder = tiny_pipelines.save(kind, tmp_path / kind)
    whole = eb.open_pipeline(str(folder), dtype="float32")
    for path in folder.iterdir():  # what it does without
        if path.name.startswith(("unet", "transformer", "vae")):
            shutil.rmtree(path)
    side = open_text_side(folder)
    assert getattr(side, "vae", None) is None
    (expected,), (found,) = (encode_prompts(pipe, ["a man hat"]) for pipe in (whole, side))
    torch.testing.assert_close(found, expected)
    assert found.ndim == 2


def test_padding_that_a_mask_leaves_out_is_no_token(tmp_path: Path) -> None:
    side = open_text_side(tiny_pipelines.save("pixart", tmp_path / "pixart"))
    short, long = encode_prompts(side, ["a man", "a man hat"])
    assert len(short) < len(long) < 20


def test_what_it_cannot_read_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    side = open_text_side(tiny_pipelines.save("sd", tmp_path / "sd"))
    with pytest.raises(SourceError, match=r"reads prompts of 77 tokens, 'a a a .*has 102"):
        encode_prompts(side, ["a " * 100])
    with pytest.raises(SourceError, match="does not know all signs"):
        encode_prompts(open_text_side(tiny_pipelines.save("pixart", tmp_path / "pixart")), ["шляпа"])
    with pytest.raises(SourceError, match="has no text encoder"):
        encode_prompts(eb.open_pipeline(str(tiny_checkpoint)), ["a man"])
    with pytest.raises(SourceError, match="cannot be opened"):
        open_text_side(tmp_path / "nowhere")


def test_a_pipeline_that_encodes_in_a_way_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = open_text_side(tiny_pipelines.save("sd", tmp_path / "sd"))

    def asking_for_more(prompt: list[str], device: object, picture: object) -> None:
        raise AssertionError(prompt, device, picture)

    monkeypatch.setattr(side, "encode_prompt", asking_for_more)
    with pytest.raises(SourceError, match=r"cannot be asked by itself .*picture"):
        encode_prompts(side, ["a man"])
    monkeypatch.setattr(side, "encode_prompt", lambda prompt, device: {prompt[0]: device})
    with pytest.raises(SourceError, match="something else than tokens"):
        encode_prompts(side, ["a man"])
