"""The playground with a LoRA among the sliders."""

from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
from loras import lora_of

import eigenbank as eb
from eigenbank.cli.main import run
from eigenbank.play.playground import Playground, Session
from eigenbank.play.request import parse_request
from eigenbank.schemas import SliderSetting
from eigenbank.schemas.drawing import Drawing

pytest.importorskip("peft")


def test_a_lora_slides_beside_directions_and_leaves_the_unedited_picture_alone(tmp_path: Path) -> None:
    folder = tiny_pipelines.save("sd", tmp_path / "sd")
    file = lora_of(eb.open_pipeline(folder, device="cpu").unet, "unet", tmp_path / "a.safetensors")
    assert run(["build", str(folder), "--model-id", "me/sd", "--top-k", "1"]) == 0
    assert run(["import-lora", str(file), "--model", "me/sd", "--label", "smile"]) == 0
    direction = next(iter(eb.load("me/sd"))).id

    def drawn(playground: Playground, **scales: float) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
        sliders = [SliderSetting(key=key, scale=scale) for key, scale in scales.items()]
        shown = playground.sample(Session(), parse_request(model="me/sd", steps=2, prompt="abc", sliders=sliders))
        assert shown is not None
        return np.asarray(shown.unedited), np.asarray(shown.edited)

    first, second = (Playground({"me/sd": folder}, Drawing(size=(32, 32))) for _ in range(2))
    plain, _ = drawn(first)
    pictures = [
        drawn(second, **scales)[1] for scales in ({"smile": 1.0}, {"smile": 2.0}, {"smile": 2.0, direction: 2.0})
    ]
    pictures.append(plain)
    assert all((a != b).any() for n, a in enumerate(pictures) for b in pictures[:n])
    assert (drawn(second)[0] == plain).all()
