"""The slider for any words: screened on what is kept, confirmed by drawing, named with its evidence; or nothing, in words."""

import copy
import dataclasses
import json
import re
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
from builders.labelers.test_clip import VOCABULARY
from builders.labelers.test_clip import tiny as tiny_clip
from safetensors.torch import save_file
from torch import Tensor

import eigenbank as eb
from eigenbank.api import export_all
from eigenbank.builders.build import build
from eigenbank.builders.checkpoints.folder import open_folder
from eigenbank.builders.label import candidates
from eigenbank.builders.label.composites import NORM
from eigenbank.builders.label.criteria import Criteria
from eigenbank.builders.label.labeler import LabelerError
from eigenbank.builders.label.settings import LabelSettings
from eigenbank.cli.main import run
from eigenbank.loaders.export import choose
from eigenbank.loaders.measure import PipelineMeasurements
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.naming import label
from eigenbank.registry.local import store
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.registry.sets.displacements import Displacements
from eigenbank.registry.sets.folder import DISPLACEMENTS, check_set, manifest_text, read_manifest
from eigenbank.schemas import DisplacementRecord
from eigenbank.schemas.errors import SetError, SourceError

SETTINGS = LabelSettings(
    scale=2.0, seeds=(0, 1), confirm_seeds=(2, 3, 4, 5), confirm_most=8, chance_most=4, steps=2, null=2, quality_seeds=1,
    parts=3, agreement=-1.0,
)  # fmt: skip


class Colours:
    """Knows words as directions among an image's mean colours. A word not in `known` means what `axis` says."""

    source = "words:x"
    names: tuple[str, ...] = ("light", "warm")
    stds: Tensor | None = None
    features_width = 3

    def __init__(self, axis: Tensor | None = None, *, alone: bool = False) -> None:
        self.alone = alone  # then nothing else is to be seen beside the word
        self.axes = torch.tensor([[1.0, 1, 1], [1, 0, -1]])
        self.word = torch.tensor([0.0, 1, 0]) if axis is None else axis
        self.seen = 0
        self.asked: list[Sequence[str]] = []

    def features(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.mean(dim=(2, 3))

    def scores(self, features: Tensor) -> Tensor:
        return features @ self.axes.T

    def read(self, images: Tensor) -> Tensor:
        return self.scores(self.features(images))

    def axis(self, *_: Any) -> Tensor:
        return self.word

    def asking(self, text: str, positive: Sequence[str], neutral: Sequence[str]) -> "Colours":
        self.asked += [positive, neutral]
        new = copy.copy(self)
        new.names = (text, *self.names)
        others = self.axes - (self.axes @ self.word)[:, None] * self.word
        new.axes = torch.cat([self.word[None], 0 * others if self.alone else others])
        new.features = self.features  # type: ignore[method-assign]  # so that it counts here
        return new


@pytest.fixture(scope="module")
def bank(tiny_checkpoint: Path) -> DirectionSet:
    return build(open_folder(tiny_checkpoint), "a/b", recipes=["output-value:output"], top_k=2)


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint: Path) -> Any:
    return open_pipeline(tiny_checkpoint)


@pytest.fixture(scope="module")
def moved(bank: DirectionSet, pipe: Any) -> Tensor:
    """The colour in which the set's first direction moves pictures, of length 1."""
    _, plus, minus = PipelineMeasurements(pipe, 2).edited(
        [next(iter(bank))], Colours().features, scale=2.0, seeds=range(20, 24)
    )
    change = (plus - minus)[0].mean(0)
    return change / change.norm()


@pytest.fixture
def easy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever leads a little gets the name: the tiny checkpoint draws noise, in which nothing leads."""
    easy = Criteria(
        effect=0, selectivity=0, lead=0, consistency=0, asymmetry=1e9, confidence=0.2, null=0, hopeless=0, unlikely=0
    )
    monkeypatch.setattr(candidates, "Criteria", lambda: easy)


@pytest.mark.usefixtures("easy")
def test_a_word_is_screened_on_what_labelling_kept_and_drawn_to_confirm(
    bank: DirectionSet, pipe: Any, moved: Tensor, tmp_path: Path
) -> None:
    label(pipe, bank, [Colours()], SETTINGS, cache=tmp_path)
    reader, said = Colours(moved, alone=True), []
    looked = eb.find(
        pipe, bank, "wearing a hat", labeler=reader, settings=SETTINGS, confirm=False, cache=tmp_path, log=said.append
    )
    assert reader.seen == 0
    assert any("nothing is drawn for it" in line for line in said)
    assert any(line.startswith("at most 0 images") for line in said)
    assert looked.slider is None
    assert looked.directions is bank
    assert [each.effect for each in looked.nearest]

    found = eb.find(pipe, bank, "wearing a hat", labeler=reader, settings=SETTINGS, cache=tmp_path, log=said.append)
    assert found.slider is not None
    assert found.label is not None
    assert found.label.text == "wearing a hat"
    assert found.label.source == "words:x"
    assert found.label.evidence is not None
    assert found.label.evidence.seeds[:4] == SETTINGS.confirm_seeds
    assert found.slider.quality is not None
    assert found.directions["wearing a hat"].id == found.slider.id
    most = next(int(line.split()[2]) for line in reversed(said) if line.startswith("at most "))
    assert 0 < reader.seen <= most
    with eb.steer(pipe, {"wearing a hat": 1.0}, bank=found.directions):
        pass


@pytest.mark.usefixtures("easy")
def test_what_had_a_name_keeps_it(bank: DirectionSet, pipe: Any, moved: Tensor, tmp_path: Path) -> None:
    first = eb.find(pipe, bank, "hat", labeler=Colours(moved, alone=True), settings=SETTINGS, cache=tmp_path)
    assert first.slider is not None
    second = eb.find(
        pipe, first.directions, "cap", labeler=Colours(-moved, alone=True), settings=SETTINGS, cache=tmp_path
    )
    assert second.slider is not None
    hat, cap = (second.directions.named(word) for word in ("hat", "cap"))
    assert hat[0].polarity == -cap[0].polarity or hat[1].id != cap[1].id
    again = eb.find(
        pipe, second.directions, "hat", labeler=Colours(moved, alone=True), settings=SETTINGS, cache=tmp_path
    )
    assert sorted(again.directions.labels) == ["cap", "hat"]
    assert len(again.directions.composites) <= len(second.directions.composites)


@pytest.mark.usefixtures("easy")
def test_what_is_named_in_windows_alone_gets_a_slider_without_them_too(
    tiny_checkpoint: Path, pipe: Any, moved: Tensor, tmp_path: Path
) -> None:
    """Only that fits into a file for other programs, which is what `export` then takes of the two."""
    recipes = ["output-value:output", "output-value:output@0-0.5"]
    both = build(open_folder(tiny_checkpoint), "a/b", recipes=recipes, top_k=2)
    settings = dataclasses.replace(SETTINGS, parts=32)
    found = eb.find(pipe, both, "hat", labeler=Colours(moved, alone=True), settings=settings, cache=tmp_path).directions
    named = found.search('"hat"')
    windows = [{part.recipe.window.whole for part, _ in each.parts} for each in named]
    assert {True} in windows
    for each in found.composites:  # a scale of 1 is what it was measured at
        assert sum(weight**2 for _, weight in each.parts) ** 0.5 == pytest.approx(NORM * SETTINGS.scale)
        assert [label.evidence and label.evidence.scale for label in each.labels] == [1.0]
    assert any(False in each for each in windows)
    written, refused = export_all(found, tmp_path / "sliders", pipe=pipe)
    assert [path.name for path in written if path.suffix == ".safetensors"] == ["hat.safetensors"]
    assert not refused
    plain = build(open_folder(tiny_checkpoint), "a/b", recipes=recipes[:1], top_k=2)
    again = eb.find(pipe, plain, "hat", labeler=Colours(moved, alone=True), settings=settings, cache=tmp_path)
    assert len(again.directions.search('"hat"')) == 1


@pytest.mark.usefixtures("with_faces")
def test_what_was_seen_is_kept_in_the_set_and_searched_with_nothing_drawn(
    bank: DirectionSet, pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = label(pipe, bank, [Colours()], SETTINGS, cache=tmp_path / "kept")
    moved = labelled.displacements
    assert moved is not None
    assert moved.mean.shape == (len(bank), 3)
    assert (moved.mean.norm(dim=1) > 0).any()
    stored = store(labelled)
    assert stored.displacements is not None
    torch.testing.assert_close(stored.displacements.mean, moved.mean, atol=1e-3, rtol=1e-3)
    axis = moved.mean[0] / moved.mean[0].norm()
    effects, purity = stored.displacements.towards(axis)
    assert purity[0] > 0.99
    assert effects[0] > 0
    reader, said = Colours(), []
    reader.word = axis
    found = eb.like("anything", labeler=reader, log=said.append)
    assert found[0].direction.bank.model_id == "a/b"
    assert found == sorted(found, key=lambda each: abs(each.effect) * each.purity, reverse=True)
    assert reader.seen == 0
    assert [line.partition(" saw:")[0].partition("@")[0] for line in said] == [
        "eigenbank/avatars-64 keeps what clip:clip",
        "1 sets keep nothing that an image-text model",
    ]
    assert said[1].endswith(" saw: eigenbank/cartoon-faces-32")
    reader.source = "words:other"
    assert eb.like("anything", model="a/*", labeler=reader, log=said.append) == []
    assert "a/b keeps what words:x saw: it cannot be looked in with words:other" in said[-1]
    assert run(["search", "--like", "x", "smile"]) == 2
    assert "not with text" in capsys.readouterr().err
    assert run(["search", "x", "--not", "y"]) == 2
    assert "go with --like" in capsys.readouterr().err
    assert eb.like("anything", model="a/*", log=said.append) == []  # a stranger's model is not fetched unasked
    assert said[-1] == "a/b keeps what words:x saw: name that model"
    assert run(["search", "--like", "x", "--model", "a/*", "--labeler", "statistics"]) == 1
    assert "knows no words" in capsys.readouterr().err
    # Other labels, previews and composites leave it; random vectors have none.
    assert stored.labelled({}).composed([]).displacements is not None
    assert stored.randomised(1).displacements is None


@pytest.mark.parametrize("what", ["missing", "other shape", "not finite", "other type", "changed"])
def test_displacements_that_are_not_what_they_should_be_are_refused(
    what: str, bank: DirectionSet, tmp_path: Path
) -> None:
    record = DisplacementRecord(source="clip:x", scale=1.0, seeds=(0,), steps=2)
    folder = (
        bank.with_displacements(Displacements(record, torch.randn(len(bank), 4), torch.randn(5, 4)))
        .save(tmp_path / "set")
        .folder
    )
    assert folder is not None
    check_set(folder)
    rows, dtype = len(bank) - (what == "other shape"), torch.float32 if what == "other type" else torch.float16
    mean = torch.full((rows, 4), torch.inf if what == "not finite" else 1.0)
    path, manifest = folder / DISPLACEMENTS, read_manifest(folder)
    save_file({"mean": mean.to(dtype), "unedited": torch.zeros(5, 4).to(dtype)}, path)
    if what != "changed":
        manifest = manifest.with_files({DISPLACEMENTS: path.read_bytes()})
    if what == "missing":
        path.unlink()
        manifest = manifest.model_copy(
            update={"files": {name: each for name, each in manifest.files.items() if name != DISPLACEMENTS}}
        )
    (folder / "manifest.json").write_text(manifest_text(manifest))
    with pytest.raises(SetError, match=r"lacks|should hold|not finite|its manifest says"):
        check_set(folder)


def test_where_nothing_does_it_the_set_stays_and_what_comes_nearest_is_told(
    bank: DirectionSet, pipe: Any, tmp_path: Path
) -> None:
    weak = dataclasses.replace(SETTINGS, scale=1e-3)  # random directions do as much
    found = eb.find(pipe, bank, "a hat", labeler=Colours(), settings=weak, cache=tmp_path)
    assert found.slider is None
    assert found.directions is bank
    assert found.label is None
    assert all(each.also in Colours.names for each in found.nearest)
    hopeless = Colours(torch.zeros(3))  # a word that nothing can move
    nothing = eb.find(pipe, bank, "a ghost", labeler=hopeless, settings=SETTINGS, cache=tmp_path)
    assert nothing.slider is None
    assert nothing.nearest == ()
    assert nothing.directions is bank


def test_the_prompts_are_put_before_the_words(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pipe = eb.open_pipeline(str(tiny_pipelines.save("sd", tmp_path / "sd")))
    bank = eb.build(pipe, top_k=1)
    reader = Colours()
    few = dataclasses.replace(SETTINGS, seeds=(0,), confirm_seeds=(1,), confirm_most=1, chance_most=1)
    eb.find(
        pipe, bank, "a hat", without="no hat", labeler=reader, settings=few, confirm=False, prompts=["a man", "a woman"]
    )
    assert reader.asked == [["a man, a hat", "a woman, a hat"], ["a man, no hat", "a woman, no hat"]]


@pytest.mark.parametrize(
    "text", ["", " ", "x" * 10_000, "a\u200bb", "tab\there"], ids=["empty", "blank", "long", "hidden", "tab"]
)
def test_what_is_no_name_is_refused_before_anything_is_drawn(text: str, bank: DirectionSet, pipe: Any) -> None:
    reader = Colours()
    with pytest.raises(SourceError, match="no slider has such a name"):
        eb.find(pipe, bank, text, labeler=reader, settings=SETTINGS)
    with pytest.raises(SourceError, match="no slider has such a name"):
        eb.find(pipe, bank, "a hat", without=text, labeler=reader, settings=SETTINGS)
    assert reader.seen == 0


def test_a_word_beside_which_nothing_is_left_is_refused(bank: DirectionSet, pipe: Any) -> None:
    reader = Colours()
    # All that the vocabulary has means the same.
    reader.asking = lambda text, *_: types.SimpleNamespace(source="words:x", names=(text,), stds=None)  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(LabelerError, match="has one name, 'a hat'"):
        eb.find(pipe, bank, "a hat", labeler=reader, settings=SETTINGS)


def test_a_damaged_set_stops_no_search(bank: DirectionSet, tmp_path: Path) -> None:
    record = DisplacementRecord(source="words:x", scale=1.0, seeds=(0,), steps=2)
    mean = torch.nn.functional.normalize(torch.randn(len(bank), 3), dim=1)
    for name in ("good", "bad"):
        manifest = bank.manifest.model_copy(
            update={"checkpoint": bank.manifest.checkpoint.model_copy(update={"model_id": f"a/{name}"})}
        )
        stored = store(bank.replaced(manifest).with_displacements(Displacements(record, mean, torch.randn(5, 3))))
        assert stored.folder is not None
    path = stored.folder / DISPLACEMENTS
    path.write_bytes(path.read_bytes()[:-2] + b"ab")
    with pytest.raises(SetError, match="its manifest says"):
        _ = DirectionSet.open(stored.folder).displacements
    said: list[str] = []
    found = eb.like("anything", model="a/*", labeler=Colours(), log=said.append)
    assert {each.direction.bank.model_id for each in found} == {"a/good"}
    assert "a/bad was passed over" in said[0]


def test_a_labeler_that_knows_no_words_is_told_of(bank: DirectionSet, pipe: Any) -> None:
    with pytest.raises(LabelerError, match="knows no words"):
        eb.find(pipe, bank, "a hat", labeler="statistics")


def test_the_command_names_what_it_finds_or_says_what_comes_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a CLIP of random weights, which finds nothing, and whose words must differ."""
    folder = tiny_pipelines.save("sd", tmp_path / "checkpoint")
    vocabulary = tmp_path / "mine.json"
    vocabulary.write_text(json.dumps(VOCABULARY))
    clip = f"clip:{tiny_clip(tmp_path / 'clip', 'clip')}#{vocabulary}"
    assert run(["build", str(folder), "--model-id", "me/sd", "--top-k", "1"]) == 0
    call = ["find", "me/sd", "a face", "--labeler", clip, "--prompt", "zz", "--steps", "2", "--format", "json"]
    capsys.readouterr()
    assert run([*call, "--no-confirm"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["effect"]
    assert run([*call, "--no-confirm"]) == 0
    again = capsys.readouterr()
    assert "nothing is drawn for it" in again.err
    for before, after in zip(json.loads(said.out), json.loads(again.out), strict=True):
        assert after == {
            **before,
            "effect": pytest.approx(before["effect"], rel=1e-4),
            "selectivity": after["selectivity"],
        }
    code = run([*call, "--budget", "60"])
    confirmed = capsys.readouterr()
    assert code in (0, 1)
    assert ("earned the name 'a face'" in confirmed.err) == (code == 1)
    assert run([*call, "--not", "a face"]) == 1
    assert "are all one to" in capsys.readouterr().err
    assert run(["find", "me/sd", "a face", "--labeler", clip]) == 2  # it needs a prompt
    assert run(["find", "me/sd", "", "--labeler", clip, "--prompt", "zz"]) == 1
    assert "no slider has such a name" in capsys.readouterr().err


@pytest.fixture(scope="module")
def text_pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return eb.open_pipeline(str(tiny_pipelines.save("sd", tmp_path_factory.mktemp("text") / "sd")))


def test_without_drawing_the_words_alone_make_a_composite_that_nothing_has_measured(text_pipe: Any) -> None:
    bank, said, passes = eb.build(text_pipe, top_k=2), [], 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    hook = text_pipe.unet.register_forward_pre_hook(count)
    found = eb.find(text_pipe, bank, "a hat", without="a cap", draw=False, prompts=["a man"], log=said.append)
    hook.remove()
    assert passes == 0
    assert found.label is None
    assert found.slider is not None
    assert found.slider.id == "composite/a-hat"
    assert found.directions["composite/a-hat"].labels == ()
    assert {part.recipe.slug for part, _ in found.slider.parts} == {"output-value:output"}
    assert "Nothing was drawn or measured" in said[0]
    with eb.steer(text_pipe, {"composite/a-hat": 1.0}, bank=found.directions):
        pass
    again = eb.find(
        text_pipe, found.directions, "a hat", without="a cap", draw=False, prompts=["a man"], log=said.append
    )
    assert again.directions.manifest.composites == found.directions.manifest.composites
    other = eb.find(text_pipe, found.directions, "a hat", draw=False, prompts=["a man"], log=said.append)
    assert [each.id for each in other.directions.composites] == ["composite/a-hat", "composite/a-hat-2"]
    for text, without in (("", None), ("x" * 10_000, None), ("a b " * 100, None), ("a cap", "a cap")):
        with pytest.raises(SourceError, match=r"no slider has such a name|reads prompts of 77|makes no difference"):
            eb.find(text_pipe, bank, text, without=without, draw=False, prompts=["a man"])


@pytest.mark.usefixtures("easy")
def test_the_words_own_composite_is_confirmed_before_single_directions(text_pipe: Any, tmp_path: Path) -> None:
    bank, reader = eb.build(text_pipe, top_k=2, recipes="output-value:output"), Colours(alone=True)
    alone = eb.find(text_pipe, bank, "a hat", draw=False, prompts=["a man"], log=lambda _: None).slider
    said: list[str] = []
    kept = dataclasses.replace(SETTINGS, scale=0.5, parts=0)  # nothing is fitted
    found = eb.find(
        text_pipe, bank, "a hat", labeler=reader, settings=kept, cache=tmp_path, prompts=["a man"], log=said.append
    )
    assert alone is not None
    assert found.slider is not None
    assert {part.id for part, _ in found.slider.parts} == {part.id for part, _ in alone.parts}
    assert alone.branch == found.slider.branch == "cond"
    most = next(int(line.split()[2].replace(",", "")) for line in said if line.startswith("at most "))
    assert 0 < reader.seen <= most
    inputs = eb.build(text_pipe, top_k=1, recipes="value")
    eb.find(
        text_pipe,
        inputs,
        "a hat",
        labeler=reader,
        settings=kept,
        confirm=False,
        cache=tmp_path,
        prompts=["a man"],
        log=said.append,
    )
    assert any(line.startswith("no slider from the words alone: the set of") for line in said)


@pytest.mark.usefixtures("easy")
def test_after_screening_what_fits_into_a_file_is_confirmed_before_the_words_own_composite(
    text_pipe: Any, tmp_path: Path
) -> None:
    bank, reader = eb.build(text_pipe, top_k=2, recipes="output-value:output"), Colours(alone=True)
    how: dict[str, Any] = {"labeler": reader, "settings": SETTINGS, "cache": tmp_path, "prompts": ["a man"]}
    eb.find(text_pipe, bank, "a hat", confirm=False, **how)
    found = eb.find(text_pipe, bank, "a hat", **how)
    assert [slider for _, slider in found.directions.all_named("a hat")] == [found.slider]
    assert found.slider is not None
    assert found.slider.branch == "both"
    assert choose(found.directions, [found.slider])


@pytest.mark.usefixtures("easy")
def test_where_nothing_was_screened_the_words_own_composite_is_confirmed_first(text_pipe: Any, tmp_path: Path) -> None:
    bank, reader = eb.build(text_pipe, top_k=2, recipes="output-value:output"), Colours(alone=True)
    how: dict[str, Any] = {"labeler": reader, "settings": SETTINGS, "prompts": ["a man"]}
    said: list[str] = []
    found = eb.find(text_pipe, bank, "a hat", cache=tmp_path / "a", log=said.append, **how)
    alone = eb.find(text_pipe, bank, "a hat", draw=False, prompts=["a man"], log=said.append).slider
    assert found.slider is not None
    assert alone is not None
    assert {part.id: weight for part, weight in found.slider.parts} == pytest.approx(
        {part.id: SETTINGS.scale * weight for part, weight in alone.parts}
    )
    assert not any("screened" in line for line in said)
    drawn, reader.seen = reader.seen, 0
    # Nor is anything drawn to screen; where it fails the directions are.
    hard = dataclasses.replace(candidates.Criteria(), null=1e9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "Criteria", lambda: hard)
        eb.find(text_pipe, bank, "a hat", cache=tmp_path / "b", log=said.append, **how)
    assert any(line.endswith("does not earn the name: the directions are screened") for line in said)
    assert reader.seen > drawn


def test_the_command_stops_at_the_words_and_says_that_nothing_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_pipelines.save("sd", tmp_path / "checkpoint")
    assert run(["build", str(folder), "--model-id", "me/lens", "--top-k", "1"]) == 0
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()  # nothing could be drawn
    capsys.readouterr()
    call = ["find", "me/lens", "a hat", "--prompt", "a man", "--no-draw"]
    assert run([*call, "--format", "json"]) == 0
    said = capsys.readouterr()
    assert "Nothing was drawn or measured" in said.err
    rows = json.loads(said.out)
    kept = eb.load("me/lens")["composite/a-hat"]
    assert {row["direction"]: row["weight"] for row in rows} == {part.id: weight for part, weight in kept.parts}
    assert run(["show", "me/lens#composite/a-hat"]) == 0
    assert re.search(r"^branch +cond$", capsys.readouterr().out, re.M)
    assert run(["export", "me/lens", "composite/a-hat", "--out", str(tmp_path / "hat.safetensors")]) == 1
    assert "acts on one branch of guidance, cond" in capsys.readouterr().err
    assert not (tmp_path / "hat.safetensors").exists()
    assert run([*call, "--not", "a hat"]) == 1
    assert "makes no difference" in capsys.readouterr().err
    assert run([*call, "--no-confirm"]) == 2
    assert run([*call, "--budget", "60"]) == 2
