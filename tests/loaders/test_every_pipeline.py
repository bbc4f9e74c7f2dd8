"""Pipelines of diffusers, made from their own signatures: built, steered, called, restored, and edited in one branch of guidance."""

import pipelines
import pytest

QUICK = {
    "StableDiffusionPipeline": "batched",
    "StableDiffusion3Pipeline": "batched",
    "FluxPipeline": "in turn, true CFG",
    "Flux2Pipeline": "no guidance",
    "WanPipeline": "in turn",
    "ZImagePipeline": "batched",
    "PixArtSigmaPipeline": "batched",
    "AllegroPipeline": "batched",  # the text has an axis more in the call than in the pipeline's variable
    "StableDiffusionPAGPipeline": "batched",  # in three parts
    "StableDiffusionInstructPix2PixPipeline": "batched",  # in three parts, the conditional one first
}
TABLE = {name: row for name, row in pipelines.written().items() if row[0] == "works" and name not in QUICK}


@pytest.mark.parametrize("name", QUICK)
def test_a_pipeline_is_built_steered_and_left_as_it_was_and_each_branch_edited_alone(name: str) -> None:
    assert pipelines.tried(name) == ("works", QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_a_pipeline_works_as_the_page_says(name: str) -> None:
    assert tuple(map(pipelines.plain, pipelines.tried(name))) == TABLE[name]


def test_the_page_says_that_most_classes_work() -> None:
    assert len(TABLE) + len(QUICK) >= 110


def test_a_branch_is_refused_where_a_controlnet_runs_the_edited_layers_too() -> None:
    verdict, branches = pipelines.tried("ZImageControlNetPipeline")
    assert verdict == "works"
    assert "controlnet runs the edited layers of its transformer too" in branches
