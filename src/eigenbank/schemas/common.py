"""Bounds and field types shared by the schemas: they limit what a file from elsewhere may contain."""

from datetime import datetime, timezone
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, StringConstraints

from eigenbank.schemas.printable import PRINTABLE

MAX_WIDTH = 65_536
"""Widest layer accepted. The widest public denoiser has 6,144 channels."""
MAX_RANKS = 4_096
"""Most directions of one layer and recipe."""
MAX_LAYERS = 4_096
"""Most layers of one set."""
MAX_DIRECTIONS = 200_000
"""Most directions of one set."""
MAX_COMPOSITES = 10_000
"""Most composites a set may hold."""
MAX_MANIFEST_BYTES = 64 * 2**20
"""Largest manifest.json read."""
MAX_STEPS = 1_000_000
"""Most denoising steps; samplers take at most a thousand."""
MAX_SEEDS = 10_000
"""Most seeds of one measurement."""
MAX_SCALE = 1e4
"""Largest scale of a direction, in token lengths; images break at a few."""


class Model(BaseModel):
    """Base of all schemas: unknown keys are an error, instances are immutable and hashable where their fields are."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


def _not_blank(text: str) -> str:
    if not text.strip():
        message = "blank"
        raise ValueError(message)
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=PRINTABLE)]
Word = Annotated[Text, AfterValidator(_not_blank)]
"""A text that is not blank."""
Note = Annotated[str, StringConstraints(max_length=10_000)]
ModelId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\w][\w.\-]*(/[\w][\w.\-]*)?$")]
ModulePath = Annotated[str, StringConstraints(max_length=300, pattern=r"^(\w+(\.\w+)*)?$")]
ParameterName = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^\w+(\.\w+)*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=PRINTABLE)]
Component = Annotated[str, StringConstraints(pattern=r"^\w{0,60}$")]
"""The name a pipeline gives its denoiser; empty for one without a pipeline."""
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Share = Annotated[float, Field(ge=0, le=1)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Seeds = Annotated[tuple[int, ...], FailFast(), Field(max_length=MAX_SEEDS)]


def _in_utc(moment: datetime) -> datetime:
    try:
        if moment.tzinfo is not None:
            moment.astimezone(timezone.utc)
    except OverflowError:
        message = "in UTC this is before the year 1 or after 9999"
        raise ValueError(message) from None
    return moment


Moment = Annotated[datetime, AfterValidator(_in_utc)]
"""A point in time; without a time zone it is in UTC."""
