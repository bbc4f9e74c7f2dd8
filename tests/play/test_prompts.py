"""A pipeline that reads prompts, Stable Diffusion's layout at a tiny size, in the playground."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from playing import Served, named, start

from eigenbank.play.request import as_command, as_python, parse_request
from eigenbank.schemas import SliderSetting
from eigenbank.schemas.drawing import Drawing

if TYPE_CHECKING:
    from playwright.sync_api import Page

LABELS: dict[str, Any] = {"warmth": (1, (-1.0, 1.0)), "size": (-1, None)}


def save(folder: Path) -> None:
    """A Stable Diffusion of random weights, with a tokenizer of letters."""
    pytest.importorskip(
        "transformers", reason="no prompts: transformers is not installed (pip install 'eigenbank[text]')"
    )
    from tiny_pipelines import save as save_tiny

    save_tiny("sd", folder)


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """A home whose catalog has such a model, its id and its folder."""
    home = tmp_path_factory.mktemp("prompted")
    return home, *named(home, LABELS, save)


@pytest.fixture(scope="module")
def prompting(prompted: tuple[Path, str, Path]) -> Iterator[Served]:
    """Its playground."""
    home, model, folder = prompted
    found = start(home, model, "--checkpoint", str(folder))
    yield found
    found.process.terminate()
    found.process.wait(timeout=30)
    assert found.outside == ""


def test_prompt_and_guidance_and_sliders_make_the_picture_and_the_python_draws_it(
    prompted: tuple[Path, str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from eigenbank.play.playground import Playground, Session

    home, model, folder = prompted
    monkeypatch.setenv("EIGENBANK_HOME", str(home))
    playground, session = Playground({model: folder}), Session()
    loaded = playground.model(model)
    assert loaded.takes_prompt
    assert loaded.guidance == 7.5

    def shown(**more: Any) -> Any:
        found = playground.sample(
            session, parse_request(**{"model": model, "steps": 3, "prompt": "a b", "guidance": 4.0, **more})
        )
        assert found is not None
        return found

    slider = SliderSetting(key="warmth", scale=1.0)
    first, edited = shown(), shown(sliders=[slider])
    assert first.unedited.tobytes() == first.edited.tobytes() == edited.unedited.tobytes()
    others = [edited.edited, shown(prompt="c").edited, shown(guidance=1.0).edited, shown(seed=1).edited]
    others.append(shown(negative_prompt="c").edited)
    assert len({first.edited.tobytes(), *(each.tobytes() for each in others)}) == 6
    assert shown(width=24, height=32).edited.size == (24, 32)
    code = as_python(loaded, parse_request(model=model, steps=3, prompt="a b", guidance=4.0, sliders=[slider]))
    assert "prompt='a b', guidance_scale=4.0" in code
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {})
    assert Image.open(tmp_path / "edited.png").tobytes() == edited.edited.tobytes()
    asked = {"prompt": "a b", "negative_prompt": "c", "guidance": 4, "width": 24, "height": 32, "sampler": "Euler"}
    command = as_command(loaded, parse_request(model=model, sliders=[slider], **asked))
    assert "--prompt 'a b' --negative-prompt c --guidance-scale 4.0 --size 24x32" in command
    assert "--scheduler EulerDiscreteScheduler --seeds 0" in command


def test_the_page_starts_with_what_the_command_was_given(
    prompted: tuple[Path, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from eigenbank.play.playground import Playground

    home, model, folder = prompted
    monkeypatch.setenv("EIGENBANK_HOME", str(home))
    given = Drawing(prompts=("a cat",), guidance_scale=3, size=(24, 32), dtype="bfloat16")
    loaded = Playground({model: folder}, given).model(model)
    assert loaded.guidance == 3
    assert loaded.pipe.unet.dtype is torch.bfloat16
    assert loaded.arguments(parse_request(model=model, prompt="x"))["size"] == (24, 32)


@pytest.mark.browser
def test_a_prompt_is_typed_and_a_slider_moved_and_the_picture_follows(page: "Page", prompting: Served) -> None:
    from browser import Watch

    watched = Watch(page, prompting.url)
    page.goto(prompting.url)
    image = page.locator("#picture-edited img")
    image.wait_for()
    page.locator("#status", has_text="20 steps").wait_for()
    for name in ("Prompt", "Negative prompt"):  # neither was given to the command
        assert page.get_by_role("textbox", name=name, exact=True).input_value() == ""

    def changed(by: Callable[[], object]) -> bytes:
        before = image.get_attribute("src")
        by()
        page.wait_for_function("than => document.querySelector('#picture-edited img').src !== than", arg=before)
        source = image.get_attribute("src")
        assert source
        return page.request.get(source).body()

    def type_prompt() -> None:
        page.get_by_role("textbox", name="Prompt", exact=True).fill("a cat")
        page.get_by_role("textbox", name="Prompt", exact=True).press("Enter")

    assert page.locator("#guidance input[type=number]").input_value() == "7.5"
    seen = {changed(type_prompt)}
    page.locator("#python", has_text="prompt='a cat'").wait_for()
    row = page.locator(".slider-row", has_text="warmth").first
    seen.add(
        changed(lambda: (row.locator("input[type=number]").fill("1"), row.locator("input[type=number]").press("Enter")))
    )
    page.locator("#python", has_text="'warmth': 1.0").wait_for()
    assert len(seen) == 2
    assert watched.wrong == []
