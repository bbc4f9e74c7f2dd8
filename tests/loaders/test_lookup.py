"""A bank is found by its model id, by its folder, and for a pipeline by where that was loaded from."""

import shutil
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from faces import MODEL_ID as DEMO
from making import make_checkpoint
from PIL import Image

import eigenbank as eb
from eigenbank.api import find_checkpoint
from eigenbank.cli.main import run
from eigenbank.loaders.lookup import SETTLED, OtherModelWarning, set_for_pipeline
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.registry.catalog import Catalog
from eigenbank.registry.load import load_without_people_labels
from eigenbank.registry.local import store
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID
from eigenbank.schemas import Label, Sliders, SliderSetting
from eigenbank.schemas.errors import SourceError, UnknownNameError

pytestmark = pytest.mark.usefixtures("with_faces")


def test_by_model_id_and_by_folder(kept: eb.DirectionSet) -> None:
    assert kept.folder is not None
    for key in ("acme/tiny", str(kept.folder)):
        found = eb.load(key)
        assert [direction.full_id for direction in found] == [direction.full_id for direction in kept]


def test_labels_given_in_the_catalog_are_there(kept: eb.DirectionSet, tiny_checkpoint: Path) -> None:
    direction = next(iter(kept))
    with Catalog.open() as catalog:
        label = Label(text="warm light", polarity=-1, source="human:ann", created=datetime.now(timezone.utc))
        catalog.add_labels([direction.full_id], label)
    assert eb.load("acme/tiny")["warm light"].id == direction.id
    assert set_for_pipeline(open_pipeline(tiny_checkpoint)).labels == ["warm light"]
    assert load_without_people_labels("acme/tiny").labels == []


def test_an_open_set_is_not_read_again_until_its_files_change(
    kept: eb.DirectionSet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pipe, direction = open_pipeline(tiny_checkpoint), next(iter(kept))
    time.sleep(2 * SETTLED / 1e9)
    first = set_for_pipeline(pipe)
    assert set_for_pipeline(pipe) is first
    assert eb.load("acme/tiny") is not first  # what a user may change is a copy
    label = Label(text="warm light", source="statistics", created=datetime.now(timezone.utc))
    kept.labelled({direction.id: (label,)}).save(tmp_path / "new")
    assert kept.folder is not None
    shutil.rmtree(kept.folder)
    (tmp_path / "new").rename(kept.folder)
    assert set_for_pipeline(pipe).labels == ["warm light"]


def test_an_unknown_model_is_refused_with_near_matches(kept: eb.DirectionSet) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'acme/tiny'"):
        eb.load("acme/tyni")


@pytest.mark.parametrize("name", [None, 3, "", " ", b"acme/tiny", "a\0b"])
def test_what_is_no_name_is_refused(name: Any, kept: eb.DirectionSet) -> None:
    with pytest.raises(UnknownNameError, match="is no model id: expected one, as in"):
        eb.load(name)


def test_a_name_longer_than_any_folder_is_unknown(kept: eb.DirectionSet) -> None:
    with pytest.raises(UnknownNameError, match="no direction set of"):
        eb.load("x" * 100_000)


def test_for_a_pipeline(kept: eb.DirectionSet, tiny_checkpoint: Path) -> None:
    from diffusers import DDPMPipeline, UNet2DModel

    for pipe in (
        open_pipeline(tiny_checkpoint),
        DDPMPipeline.from_pretrained(tiny_checkpoint, low_cpu_mem_usage=False),
        UNet2DModel.from_pretrained(tiny_checkpoint / "unet", low_cpu_mem_usage=False),
        UNet2DModel.from_pretrained(tiny_checkpoint, subfolder="unet", low_cpu_mem_usage=False),
    ):
        assert set_for_pipeline(pipe).model_id == "acme/tiny"


def test_a_pipeline_of_unknown_origin_needs_a_bank() -> None:
    from diffusers import UNet2DModel

    unet = UNet2DModel(sample_size=8, block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1,
                       down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))  # fmt: skip
    with pytest.raises(UnknownNameError, match="pass bank="):
        set_for_pipeline(unet)


def test_a_checkpoint_is_found_by_the_id_it_was_built_under(kept: eb.DirectionSet, tiny_checkpoint: Path) -> None:
    assert find_checkpoint("acme/tiny") == ("acme/tiny", tiny_checkpoint.resolve())
    assert find_checkpoint(str(tiny_checkpoint))[0] == "acme/tiny"


def test_a_checkpoint_that_was_moved_away_is_said(kept: eb.DirectionSet, tmp_path: Path) -> None:
    store(kept, checkpoint=tmp_path / "gone")
    with pytest.raises(SourceError, match="not on this machine"):
        find_checkpoint("acme/tiny")


def test_of_several_sets_of_one_checkpoint_the_one_it_was_opened_as(demo_checkpoint: Path) -> None:
    few = {"layers": "mid_block.*", "recipes": ["value"], "top_k": 1}
    store(eb.build(DEMO_MODEL_ID, model_id="me/middle", **few), checkpoint=demo_checkpoint)  # type: ignore[arg-type]
    for model_id in (DEMO_MODEL_ID, "me/middle"):
        assert set_for_pipeline(eb.open_pipeline(model_id)).model_id == model_id
    for where in (demo_checkpoint, str(demo_checkpoint)):
        assert set_for_pipeline(open_pipeline(Path(where))).model_id == DEMO_MODEL_ID
    assert set_for_pipeline(eb.open_pipeline(str(demo_checkpoint)).unet).model_id == DEMO_MODEL_ID
    pipe = eb.open_pipeline(DEMO_MODEL_ID)
    label = eb.load(DEMO_MODEL_ID).labels[0]
    eb.steer(pipe, {label: 1.0})
    assert eb.sweep(pipe, label, [1.0], steps=4, prompt="a person").name == label


def test_a_word_of_another_set_of_the_checkpoint_says_which(
    faces_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"layers": "mid_block.*", "recipes": ["value"], "top_k": 1}
    store(eb.build(DEMO, model_id="me/middle", **few), checkpoint=faces_checkpoint)  # type: ignore[arg-type]
    pipe, message = eb.open_pipeline("me/middle"), "The set eigenbank/cartoon-faces-32 of the same checkpoint has it"
    tried: list[Callable[[], object]] = [
        lambda: eb.steer(pipe, {"Skin Tone": 1.0}),
        lambda: eb.steer(pipe, Sliders(sliders=(SliderSetting(key="skin tone", scale=1.0),))),
        lambda: eb.sweep(pipe, "skin tone", [1.0], steps=1),
        lambda: eb.edit(pipe, torch.zeros(3, 32, 32), {f"{DEMO}#mid_block.attentions.0/qkv/0": 1.0}, steps=1),
    ]
    for call in tried:
        with pytest.raises(UnknownNameError, match=f"{message}: pass bank=eb.load"):
            call()
    with pytest.raises(UnknownNameError, match=r"no label in me/middle: 'no such word'.*list --model me/middle$"):
        eb.steer(pipe, {"no such word": 1.0})
    out = ["--out", str(tmp_path / "out.png")]
    photo = tmp_path / "photo.png"
    Image.new("RGB", (32, 32)).save(photo)
    for command in (
        ["steer", "me/middle", "--set", "skin tone=1", *out],
        ["sweep", "me/middle", "skin tone", *out],
        ["edit", str(photo), "--model", "me/middle", "--set", "skin tone=1", *out],
        ["preview", "me/middle", "skin tone"],
        ["export", "me/middle", "skin tone", "--format", "json", "--out", str(tmp_path / "out.json")],
    ):
        assert run(command) == 1
        assert message in capsys.readouterr().err


def test_among_sets_of_a_folder_its_own_name_goes_first(tiny_checkpoint: Path) -> None:
    own = eb.build(str(tiny_checkpoint), top_k=1)
    for bank in (own, eb.build(str(tiny_checkpoint), top_k=1, model_id="acme/late")):
        store(bank, checkpoint=tiny_checkpoint)
    assert find_checkpoint(str(tiny_checkpoint))[0] == own.model_id
    assert set_for_pipeline(open_pipeline(tiny_checkpoint)).model_id == own.model_id


def test_what_ships_is_there_from_the_start(demo_checkpoint: Path) -> None:
    bank = eb.load(DEMO_MODEL_ID)
    assert bank.labels
    assert find_checkpoint(DEMO_MODEL_ID)[1] == demo_checkpoint
    assert set_for_pipeline(open_pipeline(demo_checkpoint)).labels == bank.labels


def test_a_set_is_found_by_the_weights_where_the_name_is_not_known(
    kept: eb.DirectionSet, tiny_checkpoint: Path, faces_checkpoint: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(tiny_checkpoint, tmp_path / "renamed")
    assert set_for_pipeline(open_pipeline(copied)).model_id == "acme/tiny"
    unet = open_pipeline(copied).unet
    with eb.steer(unet, {next(iter(kept)).id: 1.0}) as handle:
        assert handle.terms[0].match == "exact"
    half = open_pipeline(copied)
    half.unet.half()
    assert set_for_pipeline(half).model_id == "acme/tiny"


def test_a_fine_tunes_set_is_its_bases_and_that_is_said_with_its_score(
    kept: eb.DirectionSet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pipe = open_pipeline(shutil.copytree(tiny_checkpoint, tmp_path / "tuned"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.add_(0.05 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    with pytest.warns(OtherModelWarning, match=r"that of acme/tiny is taken.*transfer 0\.9"):
        handle = eb.steer(pipe, {next(iter(kept)).id: 1.0})
    assert handle.terms[0].match.startswith("transfer 0.9")


def test_weights_that_no_set_fits_are_an_error(kept: eb.DirectionSet, tmp_path: Path) -> None:
    pipe = open_pipeline(make_checkpoint(tmp_path / "other", seed=7))
    with pytest.raises(UnknownNameError, match="No set in the catalog fits the pipeline's weights either"):
        eb.steer(pipe, {next(iter(kept)).id: 1.0})
