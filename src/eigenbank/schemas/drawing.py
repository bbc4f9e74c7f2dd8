"""How to generate pictures: what every command that draws takes as options, plan files as fields, Python as arguments."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from eigenbank.schemas.common import Model, Text

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
"""`auto` is the checkpoint's own dtype on an accelerator, float32 on a CPU."""
Offload = Literal["none", "model", "group", "sequential"]

Prompt = Annotated[str, StringConstraints(max_length=10_000)]
Side = Annotated[int, Field(ge=8, le=16_384, multiple_of=8)]
Steps = Annotated[int, Field(ge=1, le=10_000)]


class LoraFile(Model):
    """A LoRA to load beside the checkpoint, e.g. a few-step adapter: a file or a Hub id, and its weight."""

    file: Text
    weight: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)] = 1.0


class Drawing(Model):
    """How to generate pictures. What is None is the pipeline's own default.

    Images take the `prompts` in turn, in the order of their seeds as given. `size` is (height, width) in
    pixels. The fields from `scheduler` on say how to open the pipeline.
    """

    prompts: Annotated[tuple[Prompt, ...], Field(max_length=10_000)] = ()
    negative_prompt: Prompt | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    size: tuple[Side, Side] | None = None
    steps: Steps | None = None
    scheduler: Annotated[str, StringConstraints(pattern=r"^\w{1,100}$")] | None = None
    loras: Annotated[tuple[LoraFile, ...], Field(max_length=20)] = ()
    dtype: Dtype = "auto"
    device: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}(:\d{1,3})?$")] = "auto"
    offload: Offload = "none"
    variant: Annotated[str, StringConstraints(pattern=r"^[\w.\-]{1,60}$")] | None = None
    safety_checker: bool = True

    @field_validator("prompts", mode="before")
    @classmethod
    def _one_prompt(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def part(self, numbers: Sequence[int]) -> "Drawing":
        """Return what generates the images of these numbers alone: each has the prompt whose turn it is."""
        if not self.prompts:
            return self
        return self.model_copy(update={"prompts": tuple(self.prompts[each % len(self.prompts)] for each in numbers)})
