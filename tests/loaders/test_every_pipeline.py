"""Pipelines of diffusers, made from their own signatures: built, steered, called, restored."""

import pipelines
import pytest

QUICK = (
    "StableDiffusionPipeline", "StableDiffusion3Pipeline", "FluxPipeline", "WanPipeline", "ZImagePipeline", "PixArtSigmaPipeline",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in pipelines.classes()]
)
def test_a_pipeline_is_built_steered_and_left_as_it_was(name: str) -> None:
    verdict = pipelines.result(name)
    if verdict.startswith(("not made here", "refused")):
        assert name not in QUICK, verdict
        pytest.skip(verdict)
    assert verdict == "works"
