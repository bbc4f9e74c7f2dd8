"""A bank is found by its model id, by its folder, and for a pipeline by where that was loaded from."""

from pathlib import Path
from typing import Any

import pytest

import eigenbank as eb
from eigenbank.loaders.load import bank_for, set_of
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.schemas.errors import SourceError, UnknownNameError
from eigenbank.workflows import find_checkpoint, keep


@pytest.fixture
def kept(tiny_checkpoint: Path) -> eb.Bank:
    return keep(eb.build(str(tiny_checkpoint), top_k=2, model_id="acme/tiny"), checkpoint=tiny_checkpoint)


def test_by_model_id_and_by_folder(kept: eb.Bank) -> None:
    assert kept.folder is not None
    for key in ("acme/tiny", str(kept.folder)):
        found = eb.load(key)
        assert [direction.full_id for direction in found] == [direction.full_id for direction in kept]


def test_labels_given_in_the_catalog_are_there(kept: eb.Bank, tiny_checkpoint: Path) -> None:
    from datetime import datetime, timezone

    from eigenbank.registry.catalog import Catalog
    from eigenbank.schemas import Label

    direction = next(iter(kept))
    with Catalog.open() as catalog:
        label = Label(text="warm light", polarity=-1, source="human:ann", created=datetime.now(timezone.utc))
        catalog.add_label(direction.full_id, label)
    assert eb.load("acme/tiny")["warm light"].id == direction.id
    assert bank_for(open_pipeline(tiny_checkpoint)).labels == ["warm light"]
    assert set_of("acme/tiny").labels == []


def test_an_unknown_model_is_refused_with_near_matches(kept: eb.Bank) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'acme/tiny'"):
        eb.load("acme/tyni")


@pytest.mark.parametrize("name", [None, 3, "", " ", b"acme/tiny", "a\0b"])
def test_what_is_no_name_is_refused(name: Any, kept: eb.Bank) -> None:
    with pytest.raises(UnknownNameError, match="is no model id: expected one, as in"):
        eb.load(name)


def test_a_name_longer_than_any_folder_is_unknown(kept: eb.Bank) -> None:
    with pytest.raises(UnknownNameError, match="no direction set of"):
        eb.load("x" * 100_000)


def test_for_a_pipeline(kept: eb.Bank, tiny_checkpoint: Path) -> None:
    from diffusers import DDPMPipeline, UNet2DModel

    for pipe in (
        open_pipeline(tiny_checkpoint),
        DDPMPipeline.from_pretrained(tiny_checkpoint, low_cpu_mem_usage=False),
        UNet2DModel.from_pretrained(tiny_checkpoint / "unet", low_cpu_mem_usage=False),
        UNet2DModel.from_pretrained(tiny_checkpoint, subfolder="unet", low_cpu_mem_usage=False),
    ):
        assert bank_for(pipe).model_id == "acme/tiny"


def test_a_pipeline_of_unknown_origin_needs_a_bank() -> None:
    from diffusers import UNet2DModel

    unet = UNet2DModel(sample_size=8, block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1,
                       down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))  # fmt: skip
    with pytest.raises(UnknownNameError, match="pass bank="):
        bank_for(unet)


def test_a_checkpoint_is_found_by_the_id_it_was_built_under(kept: eb.Bank, tiny_checkpoint: Path) -> None:
    assert find_checkpoint("acme/tiny") == ("acme/tiny", tiny_checkpoint.resolve())
    assert find_checkpoint(str(tiny_checkpoint))[0] == "acme/tiny"


def test_a_checkpoint_that_was_moved_away_is_said(kept: eb.Bank, tmp_path: Path) -> None:
    keep(kept, checkpoint=tmp_path / "gone")
    with pytest.raises(SourceError, match="not on this machine"):
        find_checkpoint("acme/tiny")


def test_what_ships_is_there_from_the_start(demo_checkpoint: Path) -> None:
    bank = eb.load("eigenbank/cartoon-faces-32")
    assert bank.labels
    assert find_checkpoint("eigenbank/cartoon-faces-32")[1] == demo_checkpoint
    assert bank_for(open_pipeline(demo_checkpoint)).labels == bank.labels
