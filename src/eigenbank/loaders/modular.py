"""Sliders as an input of modular pipelines: a block around the one that denoises.

    from diffusers import StableDiffusionXLAutoBlocks

    pipe = eb.with_sliders(StableDiffusionXLAutoBlocks()).init_pipeline("stabilityai/stable-diffusion-xl-base-1.0")
    pipe.load_components()
    image = pipe(prompt="a fisherman", sliders={"smile": 1.5}, output="images")[0]

`eb.steer` takes modular pipelines as well; the block spares the `with`, and is part of the pipeline where that is saved or shown.
"""

from typing import Any

from diffusers.modular_pipelines import ModularPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline_utils import InputParam

from eigenbank.loaders.steer import steer
from eigenbank.schemas.errors import SteerError

INPUTS = {
    "sliders": "Directions, labels or ids, with their scales, or a sliders file, as `eigenbank.steer` takes them.",
    "sliders_bank": "The direction set that they are looked up in; by default the catalog's of these weights.",
}


class SliderBlock(ModularPipelineBlocks):  # type: ignore[misc]  # untyped
    """Runs another block, the one with the denoising loop, with the sliders that the pipeline was called with."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.sub_blocks["steered"] = block
        self.model_name = block.model_name

    @property
    def block(self) -> Any:
        """The block that denoises."""
        return self.sub_blocks["steered"]

    @property
    def description(self) -> str:
        return f"Adds editing directions (`sliders`) while this denoises: {self.block.description}"

    @property
    def expected_components(self) -> Any:
        return self.block.expected_components

    @property
    def expected_configs(self) -> Any:
        return self.block.expected_configs

    @property
    def inputs(self) -> Any:
        return [*self.block.inputs, *(InputParam(name, description=text) for name, text in INPUTS.items())]

    @property
    def required_inputs(self) -> Any:
        return self.block.required_inputs

    @property
    def intermediate_outputs(self) -> Any:
        return self.block.intermediate_outputs

    @property
    def outputs(self) -> Any:
        return self.block.outputs

    def get_execution_blocks(self, **kwargs: Any) -> Any:
        return self

    def __call__(self, components: Any, state: Any) -> Any:
        sliders, bank = state.get("sliders"), state.get("sliders_bank")
        if not sliders:
            return self.block(components, state)
        with steer(components, sliders, bank=bank):
            return self.block(components, state)


def with_sliders(blocks: Any, at: str = "denoise") -> Any:
    """Put a SliderBlock around the block called `at` of a modular pipeline's blocks, which then takes `sliders` as an input.

    Returns the blocks, changed. Raises SteerError where there is no such block.
    """
    held = getattr(blocks, "sub_blocks", {})
    if at not in held:
        message = f"a {type(blocks).__name__} has no block {at!r}: it has {', '.join(held) or 'none'}"
        raise SteerError(message)
    if not isinstance(held[at], SliderBlock):
        held[at] = SliderBlock(held[at])
    return blocks
