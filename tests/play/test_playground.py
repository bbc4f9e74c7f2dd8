"""Sliders, sessions and pictures, without a page."""

import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from faces import MODEL_ID as FACES
from playing import named

import eigenbank as eb
from eigenbank.loaders.image_grid import to_image
from eigenbank.loaders.sample import sample
from eigenbank.play.model import RANGE, LoadedModel, LruCache, Superseded
from eigenbank.play.request import MAX_SEED, MAX_SLIDERS, MAX_STEPS, ImageRequest, parse_request
from eigenbank.schemas import SliderSetting
from eigenbank.schemas.errors import PhotoError, SteerError, UnknownNameError

if TYPE_CHECKING:
    from eigenbank.play.playground import Playground, Session

UNLABELLED = "mid_block.attentions.0/output-value/3"


def asked(steps: int = 2, seed: int = 0, photo: str | None = None, **scales: float) -> ImageRequest:
    """A request for the demo; a slider's key with spaces is written with underscores."""
    sliders = [SliderSetting(key=key.replace("_", " "), scale=scale) for key, scale in scales.items()]
    return parse_request(model=FACES, steps=steps, seed=seed, photo=photo, sliders=sliders)


@pytest.fixture
def session() -> "Session":
    from eigenbank.play.playground import Session

    return Session()


def test_an_edited_picture_is_the_one_steer_makes(playground: "Playground", session: "Session") -> None:
    shown = playground.sample(session, asked(seed=7, skin_tone=0.8, beard=-0.5))
    assert shown is not None
    pipe, bank = eb.open_pipeline(FACES), eb.load(FACES)
    plain = sample(pipe, [7], 2)[0]
    with eb.steer(pipe, {"skin tone": 0.8, "beard": -0.5}, bank=bank):
        edited = sample(pipe, [7], 2)[0]
    assert shown.unedited.tobytes() == to_image(plain).tobytes()
    assert shown.edited.tobytes() == to_image(edited).tobytes()
    assert shown.edited.tobytes() != shown.unedited.tobytes()


def test_other_scales_other_sliders_and_back_leave_nothing_behind(
    playground: "Playground", session: "Session", monkeypatch: pytest.MonkeyPatch
) -> None:
    def edited(**scales: float) -> bytes:
        # What is kept would hide what is left attached.
        monkeypatch.setattr(playground.model(FACES), "_images", LruCache(0))
        shown = playground.sample(session, asked(seed=11, **scales))
        assert shown is not None
        return shown.edited.tobytes()

    first = edited()
    moved = edited(skin_tone=1.0)
    assert edited(skin_tone=-1.0) != moved
    assert edited(beard=1.0) != moved
    assert edited(skin_tone=1.0, beard=0.0) == moved
    assert edited(skin_tone=0.0) == first


def test_few_steps_while_dragging_unless_the_full_run_is_at_hand(playground: "Playground", session: "Session") -> None:
    wanted = asked(steps=3, seed=21, skin_tone=0.4)
    preview = playground.sample(session, wanted, dragging=1)
    assert preview is not None
    assert (preview.steps, preview.full) == (1, False)
    whole = playground.sample(session, wanted)
    assert whole is not None
    assert (whole.steps, whole.full) == (3, True)
    again = playground.sample(session, wanted, dragging=1)
    assert again is not None
    assert (again.steps, again.full, again.seconds) == (3, True, 0.0)
    assert again.edited is whole.edited


def test_what_a_session_asks_for_next_ends_what_it_is_having_drawn(
    playground: "Playground", session: "Session"
) -> None:
    from eigenbank.play.playground import Session

    found: dict[str, Any] = {}
    long = asked(steps=MAX_STEPS, seed=31, skin_tone=0.9)
    drawing = threading.Thread(target=lambda: found.update(long=playground.sample(session, long)))
    drawing.start()
    while session.current is None:
        time.sleep(0.001)
    assert playground.sample(session, long, dragging=1) is None, "a preview of what is being drawn in full"
    stranger = Session()
    elsewhere = threading.Thread(target=lambda: found.update(other=playground.sample(stranger, asked(seed=33))))
    elsewhere.start()
    assert playground.sample(session, asked(seed=32)) is not None
    drawing.join()
    elsewhere.join()
    assert found["long"] is None
    assert found["other"] is not None
    assert playground.model(FACES).cached(long) is None


def test_a_picture_cut_short_says_nothing_of_the_steps_it_did_not_come_to(playground: "Playground") -> None:
    model, calls = playground.model(FACES), iter([True, True, False])
    with pytest.raises(Superseded):
        model.sample(asked(steps=20, seed=51, skin_tone=0.9), None, lambda: next(calls))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(asked(steps=10, seed=52, skin_tone=0.9), None, lambda: True)


def test_what_is_prepared_is_what_the_first_move_needs(playground: "Playground", session: "Session") -> None:
    wanted = asked(steps=3, seed=41)
    playground.prepare(session, wanted, 1)
    assert playground.model(FACES).cached(asked(steps=1, seed=41)) is not None
    assert playground.model(FACES).cached(wanted) is None


@pytest.mark.filterwarnings("ignore::eigenbank.loaders.edit.PoorReconstructionWarning")
def test_a_photo_is_edited_as_edit_does(playground: "Playground", session: "Session", tmp_path: Path) -> None:
    shown = playground.sample(session, asked(steps=4, seed=3))
    assert shown is not None
    shown.unedited.save(tmp_path / "face.png")
    photo = playground.read_photo(session, tmp_path / "face.png")
    edited = playground.sample(session, asked(steps=4, photo=photo.digest, skin_tone=0.7))
    assert edited is not None
    found = eb.edit(eb.open_pipeline(FACES), tmp_path / "face.png", {"skin tone": 0.7}, steps=4)
    assert edited.edited.tobytes() == found.image.tobytes()
    assert edited.error == pytest.approx(found.error)
    assert edited.photo is not None
    assert edited.photo.tobytes() == shown.unedited.tobytes()


def test_a_photo_of_another_session_or_none_is_refused(
    playground: "Playground", session: "Session", tmp_path: Path
) -> None:
    with pytest.raises(SteerError, match="no longer has the photo"):
        playground.sample(session, asked(photo="0" * 64))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(PhotoError, match="cannot be read as a picture"):
        playground.read_photo(session, tmp_path / "text.png")
    assert session.photo is None


def test_a_slider_can_be_had_for_every_direction_by_name(playground: "Playground") -> None:
    model = playground.model(FACES)
    assert [each.key for each in model.first_sliders()] == eb.load(FACES).labels
    assert model.slider_range(f" {FACES}#{UNLABELLED} ").key == UNLABELLED
    with pytest.raises(UnknownNameError, match="did you mean 'hair length'"):
        model.slider_range("hair lenght")
    with pytest.raises(UnknownNameError, match=r"did you mean 'mid_block\.attentions\.0/output-value/"):
        model.slider_range("mid_block.attentions.0/output-value/333")


def test_ranges_are_the_recommended_ones_the_way_the_label_says(tmp_path: Path) -> None:
    labels = {
        "straight": (1, (-0.5, 1.5)),
        "turned": (-1, (-0.5, 1.5)),
        "one-sided": (1, (0.25, 1.0)),
        "unknown": (1, None),
    }
    model = LoadedModel(*named(tmp_path / "home", labels))
    ranges = {each: model.slider_range(each) for each in labels}
    found = {each: (one.low, one.high, one.measured) for each, one in ranges.items()}
    assert found == {
        "straight": (-0.5, 1.5, True),
        "turned": (-1.5, 0.5, True),
        "one-sided": (0.0, 1.0, True),
        "unknown": (*RANGE, False),
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("seed", MAX_SEED + 1),
        ("steps", 0),
        ("steps", MAX_STEPS + 1),
        ("steps", None),
        ("prompt", "x" * 1001),
        ("guidance", float("inf")),
        ("model", "../../etc/passwd"),
        ("sliders", [{"key": "a", "scale": float("nan")}]),
        ("sliders", [{"key": "a", "scale": 1e5}]),
        ("sliders", [{"key": "a\nb", "scale": 1.0}]),
        ("sliders", [{"key": str(number), "scale": 1.0} for number in range(MAX_SLIDERS + 1)]),
        ("photo", "../../../etc/passwd"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(SteerError, match=rf"^{field}.*Nothing was sampled"):
        parse_request(**{"model": FACES, field: value})


def test_unknown_models_and_samplers_get_what_is_near(playground: "Playground", session: "Session") -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'eigenbank/cartoon-faces-32'"):
        playground.sample(session, parse_request(model="eigenbank/cartoon-faces-23"))
    with pytest.raises(UnknownNameError, match=r"no sampler of .* 'DDIN': did you mean 'DDIM'"):
        playground.sample(session, parse_request(model=FACES, sampler="DDIN"))


def test_what_is_kept_is_bounded_and_the_least_used_goes_first() -> None:
    cache: LruCache[str, bytes] = LruCache(10, len)
    cache.put("a", bytes(4))
    cache.put("b", bytes(4))
    assert cache.get("a") == bytes(4)
    cache.put("c", bytes(4))
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True]
    cache.put("large", bytes(100))
    assert len(cache) == 1
    assert cache.get("large") is not None
