"""How to generate pictures: the options that every command that draws shares, and plan files and Python too."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from eigenbank.schemas.common import Model, Text

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
"""`auto` is the checkpoint's own dtype on an accelerator, float32 on a CPU."""
Offload = Literal["none", "model", "group", "sequential"]

Prompt = Annotated[str, StringConstraints(max_length=10_000)]
Side = Annotated[int, Field(ge=8, le=16_384)]


class LoraFile(Model):
    """A LoRA to load beside the checkpoint, e.g. a few-step adapter: a file or a Hub id, and its weight."""

    file: Text
    weight: Annotated[float, Field(ge=-100, le=100)] = 1.0


class Drawing(Model):
    """How to generate pictures. What is None is the pipeline's own default.

    Images take the `prompts` in turn. `size` is (height, width) in pixels.
    """

    prompts: Annotated[tuple[Prompt, ...], Field(max_length=10_000)] = ()
    negative_prompt: Prompt | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    size: tuple[Side, Side] | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    scheduler: Annotated[str, StringConstraints(pattern=r"^\w{1,100}$")] | None = None
    loras: Annotated[tuple[LoraFile, ...], Field(max_length=20)] = ()
    dtype: Dtype = "auto"
    device: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}(:\d{1,3})?$")] = "auto"
    offload: Offload = "none"
    variant: Annotated[str, StringConstraints(pattern=r"^[\w.\-]{1,60}$")] | None = None
