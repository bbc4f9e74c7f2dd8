"""What the page's controls do with whatever is sent to them, without a browser."""

import asyncio
import gc
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from faces import MODEL_ID as FACES
from playing import controls

import eigenbank as eb
from eigenbank.play.request import MAX_SLIDERS
from eigenbank.schemas.errors import UnknownNameError

if TYPE_CHECKING:
    from eigenbank.play.page import PlayPage
    from eigenbank.play.playground import Playground, Session


@pytest.fixture(scope="module")
def page(playground: "Playground") -> "PlayPage":
    with warnings.catch_warnings():
        # Gradio makes event loops for a page that is not served, and leaves them open.
        warnings.simplefilter("ignore", ResourceWarning)
        gradio: Any = pytest.importorskip("gradio", reason="no playground: Gradio is not installed")
        from eigenbank.play.page import Layout, PlayPage

        with gradio.Blocks(analytics_enabled=False) as blocks:
            made = PlayPage(playground, Layout([FACES], FACES), blocks)
        asyncio.set_event_loop(None)
        gc.collect()
    return made


@pytest.fixture
def session(page: "PlayPage") -> "Session":
    """A session that has opened the demo."""
    opened: Session = page.open(None, FACES)[0]
    return opened


def said(**changes: Any) -> list[Any]:
    """What the controls send, two steps and all sliders at zero unless said otherwise."""
    return controls(FACES, **{"steps": 2, **changes})[1:]


def problem(found: list[Any]) -> str:
    """The word said beside pictures that stay as they are."""
    assert 'class="note problem" role="alert"' in found[3]
    assert not any(hasattr(each, "value") for each in found[:3])
    return str(found[3])


def test_pictures_and_texts_come_together(page: "PlayPage", session: "Session") -> None:
    photo, unedited, edited, status, python, command, sliders = page.sample(session, *said(sliders=[0.5, *[0.0] * 23]))
    assert not photo.visible
    assert unedited.value != edited.value
    assert "2 steps" in status
    first = eb.load(FACES).labels[0]
    assert first in python
    assert f"--set '{first}=0.5'" in command
    assert '"scale": 0.5' in sliders


def test_a_session_the_server_has_forgotten_is_told_to_reload(page: "PlayPage") -> None:
    assert "reload" in problem(page.sample(None, *said()))
    assert "reload" in page.add_slider(None, FACES, "beard")[-1]
    assert "reload" in page.read_sliders(None, FACES, "x.json")[-1]
    assert "reload" in page.read_photo(None, "x.png")[0]


def test_there_is_room_for_so_many_sliders_and_no_more(page: "PlayPage", session: "Session") -> None:
    names = [name for name in page.playground.model(FACES).names if "/" in name]
    for name in names[: MAX_SLIDERS - len(session.sliders)]:
        assert "added a slider for" in page.add_slider(session, FACES, name, *[0.0] * MAX_SLIDERS)[-1]
    assert len(session.sliders) == MAX_SLIDERS
    assert "remove one first" in page.add_slider(session, FACES, names[-1], *[0.0] * MAX_SLIDERS)[-1]
    assert "has a slider already" in page.add_slider(session, FACES, "beard", *[0.0] * MAX_SLIDERS)[-1]
    for empty in (None, "", "  "):
        assert "name a label" in page.add_slider(session, FACES, empty, *[0.0] * MAX_SLIDERS)[-1]


def test_a_sliders_file_of_another_model_or_none_is_refused(
    page: "PlayPage", session: "Session", tmp_path: Any
) -> None:
    before = session.sliders
    for text, word in {
        '{"format": 1, "model": "a/b", "sliders": [{"key": "beard", "scale": 1}]}': "the sliders are of a/b",
        '{"format": 1, "sliders": [{"key": "bread", "scale": 1}]}': "did you mean &#x27;beard&#x27;",
        "no json": "is not JSON",
        '{"format": 1, "sliders": []}': "is no valid sliders file",
    }.items():
        (tmp_path / "sliders.json").write_text(text, encoding="utf-8")
        found = page.read_sliders(session, FACES, str(tmp_path / "sliders.json"))[-1]
        assert word in found
        assert str(tmp_path) not in found
    assert session.sliders == before


def test_words_that_nothing_is_called_get_the_nearest_direction_and_are_told_so(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed (pip install 'eigenbank[text]')")
    import tiny_pipelines
    from builders.labelers.test_clip import VOCABULARY, tiny

    from eigenbank.builders.build import build
    from eigenbank.builders.checkpoints.folder import open_folder
    from eigenbank.builders.label.clip import open_clip
    from eigenbank.play.model import LoadedModel
    from eigenbank.play.page import _named
    from eigenbank.registry.local import store
    from eigenbank.registry.sets.displacements import Displacements
    from eigenbank.schemas import DisplacementRecord

    folder = tiny_pipelines.save("sd", tmp_path / "sd")
    tiny(folder / "clip", "clip")
    (folder / "clip" / "vocabulary.json").write_text(json.dumps(VOCABULARY))
    reader = open_clip(None, folder / "clip")
    bank = build(open_folder(folder), "me/words", top_k=1)
    axis = reader.axis("smiling", ["a picture, smiling"], ["a picture"])
    mean = torch.zeros(len(bank), 12)
    mean[2] = -0.1 * axis
    record = DisplacementRecord(source=reader.source, scale=1.0, seeds=(0,), steps=2)
    store(bank.with_displacements(Displacements(record, mean, torch.randn(8, 12))), checkpoint=folder)
    model = LoadedModel("me/words", folder)
    key, said = _named(model, "smiling")
    assert key == list(bank)[2].id
    assert (
        f"nothing is called 'smiling'; nearest, by what an image-text model saw, comes its negative side of {key}"
        in said
    )
    assert "purity 1.00" in said
    assert _named(model, key) == (key, f"added a slider for {key}")
    store(bank, checkpoint=folder, replace=True)  # without what a model saw there is no telling
    with pytest.raises(UnknownNameError):
        _named(LoadedModel("me/words", folder), "smiling")
