"""The code and files that the page offers give the image it shows."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faces import MODEL_ID as FACES
from PIL import Image

from eigenbank.cli.main import run
from eigenbank.play.request import ImageRequest, as_command, as_json, as_python, parse_request
from eigenbank.registry.sliders import read_sliders
from eigenbank.schemas import SliderSetting
from eigenbank.schemas.recipe import Window

if TYPE_CHECKING:
    from eigenbank.play.playground import Playground

SLIDERS = (
    SliderSetting(key="skin tone", scale=0.8),
    SliderSetting(key="mid_block.attentions.0/output-value/3", scale=-0.25),
)


def shown(playground: "Playground", wanted: ImageRequest, photo: Path | None = None) -> Image.Image:
    from eigenbank.play.playground import Session

    session = Session()
    if photo is not None:
        wanted = wanted.model_copy(update={"photo": playground.read_photo(session, photo).digest})
    found = playground.sample(session, wanted)
    assert found is not None
    return found.edited


@pytest.mark.parametrize("sampler", ["DDIM", "DPM-Solver++", "DDPM"])
@pytest.mark.parametrize("sliders", [SLIDERS, ()], ids=["edited", "unedited"])
def test_the_python_draws_the_picture(
    playground: "Playground",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    sliders: tuple[SliderSetting, ...],
) -> None:
    wanted = parse_request(model=FACES, seed=4, steps=3, sampler=sampler, sliders=sliders)
    code = as_python(playground.model(FACES), wanted)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {})
    assert Image.open(tmp_path / "edited.png").tobytes() == shown(playground, wanted).tobytes()


@pytest.mark.filterwarnings("ignore::eigenbank.loaders.edit.PoorReconstructionWarning")
def test_the_python_of_a_photo_draws_its_edit(
    playground: "Playground", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = parse_request(model=FACES, seed=4, steps=3)
    shown(playground, plain).save(tmp_path / "photo.png")
    wanted = plain.model_copy(update={"sliders": SLIDERS, "photo": "0" * 64})
    code = as_python(playground.model(FACES), wanted)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {})
    edited = shown(playground, wanted, tmp_path / "photo.png")
    assert Image.open(tmp_path / "edited.png").tobytes() == edited.tobytes()


def test_the_command_and_the_file_are_the_edit(
    playground: "Playground", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex

    wanted = parse_request(model=FACES, seed=4, steps=2, sliders=[*SLIDERS, SliderSetting(key="beard", scale=0.0)])
    line = as_command(playground.model(FACES), wanted)
    (tmp_path / "sliders.json").write_text(as_json(wanted), encoding="utf-8")
    args = shlex.split(line)
    assert args[:3] == ["eigenbank", "steer", FACES]
    monkeypatch.chdir(tmp_path)
    assert run([*args[1:-1], "said.png"]) == 0
    file = ["--sliders", "sliders.json", "--seeds", "4", "--steps", "2", "--out", "file.png"]
    assert run(["steer", FACES, *file]) == 0
    edited = shown(playground, wanted)
    for name in ("said.png", "file.png"):
        # The sheet enlarges small pictures by whole factors: the edited one is at the bottom right.
        sheet = Image.open(tmp_path / name)
        cell = edited.resize((96, 96), Image.Resampling.NEAREST)
        left = next(
            x
            for x in range(sheet.width - 96, -1, -1)
            if sheet.crop((x, sheet.height - 106, x + 96, sheet.height - 10)).tobytes() == cell.tobytes()
        )
        assert left > 0


def test_hostile_names_are_words_to_python_and_the_shell(playground: "Playground") -> None:
    import ast
    import shlex

    names = ["it's; rm -rf ~", '"""', "$(id)", "`id`", "a=b", "\\", "{x}", "-"]
    sliders = [SliderSetting(key=name, scale=1.0) for name in names]
    wanted = parse_request(model=FACES, sliders=sliders)
    model = playground.model(FACES)
    with_item = next(
        node
        for node in ast.walk(ast.parse(as_python(model, wanted.model_copy(update={"sliders": wanted.sliders[:-1]}))))
        if isinstance(node, ast.With)
    )
    found = with_item.items[0].context_expr.args[1]  # type: ignore[attr-defined]
    assert ast.literal_eval(found) == dict.fromkeys(names[:-1], 1.0)
    spoken = wanted.model_copy(update={"sliders": wanted.sliders[:-1]})
    assert [f"{name}=1.0" for name in names[:-1]] == shlex.split(as_command(model, spoken))[4:-6:2]
    assert "--sliders sliders.json" in as_command(model, wanted), "a name of one dash is stdin to the command line"


def test_windows_and_sites_stay_in_the_file(playground: "Playground", tmp_path: Path) -> None:
    slider = SliderSetting(key="skin tone", scale=1.0, window=Window(start=0.25, end=1.0), branch="cond")
    wanted = parse_request(model=FACES, sliders=[slider])
    (tmp_path / "sliders.json").write_text(as_json(wanted), encoding="utf-8")
    assert read_sliders(tmp_path / "sliders.json").sliders == (slider,)
    assert playground.model(FACES).read_sliders(tmp_path / "sliders.json") == [slider]
    assert "'sliders.json'" in as_python(playground.model(FACES), wanted)
