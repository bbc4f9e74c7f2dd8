"""Plan files: the checkpoints to build, label and publish, the revisions they are pinned to, and reports of runs."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from eigenbank.schemas.common import MAX_RANKS, Model, ModelId, Revision, Text
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import UnknownNameError
from eigenbank.schemas.recipe import Recipe

Step = Literal["build", "label", "preview", "publish"]
STEPS: tuple[Step, ...] = ("build", "label", "preview", "publish")
"""What a run does with a checkpoint, in order."""
Fact = Literal["id", "subfolder", "denoiser", "licence", "gated"]
"""What a plan states about a checkpoint and `plan --check` compares with the Hub."""

Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Subfolder = Annotated[str, StringConstraints(pattern=r"^\w{0,60}$")]
RepoName = Annotated[str, StringConstraints(min_length=1, max_length=96, pattern=r"^[A-Za-z0-9_][\w.\-]*$")]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=300)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1, max_length=10_000)]
Count = Annotated[int, Field(ge=1, le=1000)]


def _recipe(text: str) -> str:
    try:
        return Recipe.parse(text).slug
    except UnknownNameError as error:
        raise ValueError(str(error)) from None


def _labeler(text: str) -> str:
    if text.startswith("attributes:") and text.endswith(".pt2"):
        message = f"{text} is a program, which can run any code when it is opened: a plan can name none"
        raise ValueError(message)
    return text


LabelerText = Annotated[Text, AfterValidator(_labeler)]
RecipeText = Annotated[str, StringConstraints(max_length=200), AfterValidator(_recipe)]


class MeasurementSettings(Model):
    """How to measure directions for labels: the options of `eigenbank label`."""

    scale: Annotated[float, Field(ge=0.01, le=10)] = 1.0
    seeds: Seeds = tuple(range(100, 108))
    screening: Literal["predicted", "drawn"] = "predicted"
    confirm_seeds: Seeds = tuple(range(200, 208))
    confirm_most: Count = 48
    chance_most: Count = 24
    most: Count = 2
    per_word: Count = 1
    null: Annotated[int, Field(ge=1, le=64)] = 4
    parts: Annotated[int, Field(ge=0, le=1000)] = 32
    quality_seeds: Annotated[int, Field(ge=1, le=10_000)] = 6
    all_qualities: bool = False


class PreviewSettings(Model):
    """How to sample previews: the options of `eigenbank preview`. At most `most` labelled directions get one."""

    seeds: Annotated[tuple[int, ...], Field(min_length=1, max_length=64)] = (0, 1, 2)
    scales: Annotated[tuple[float, ...], Field(min_length=1, max_length=64)] = (-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2)
    most: Annotated[int, Field(ge=0, le=10_000)] = 64


class Settings(Model):
    """What to do with a checkpoint. Without `labelers`: statistics, and CLIP where there is a `vocabulary`.

    `drawing` is how pictures are generated while directions are measured and previewed. `steps` can leave some out: a
    denoiser without its pipeline, or one too large to sample from here, can still be built and published.
    """

    steps: Annotated[tuple[Step, ...], Field(min_length=1)] = STEPS
    layers: Annotated[tuple[Glob, ...], Field(min_length=1, max_length=100)] = ("*",)
    recipes: Annotated[tuple[RecipeText, ...], Field(min_length=1, max_length=100)] = (
        "output-value",
        "output-value:output",
    )
    top_k: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 16
    vocabulary: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    labelers: Annotated[tuple[LabelerText, ...], Field(max_length=20)] = ()
    drawing: Drawing = Drawing()
    measurement: MeasurementSettings = MeasurementSettings()
    previews: PreviewSettings = PreviewSettings()

    @property
    def asked_labelers(self) -> tuple[str, ...]:
        """The labelers, in the form of `eigenbank label --labeler`."""
        if self.labelers or self.vocabulary is None:
            return self.labelers or ("statistics",)
        return ("statistics", f"clip:#{self.vocabulary}")


class PlanEntry(Model):
    """A checkpoint of a plan. Settings that are None come from the plan's `defaults`, and so do those of `drawing`.

    `id` is its name in the catalog, and its repository on the Hub unless `repo` names another. `subfolder` holds the
    denoiser (None: model_index.json says where). `licence` is the Hub's id of the licence its owners state. `unchecked`
    lists facts that nobody has compared with the Hub yet. `publish_as` names the repository for its directions, without
    the organisation.
    """

    id: ModelId
    repo: ModelId | None = None
    revision: Revision | None = None
    subfolder: Subfolder | None = None
    variant: Annotated[str, StringConstraints(pattern=r"^[\w.\-]{1,60}$")] | None = None
    family: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.\-]{0,60}$")] | None = None
    denoiser: Annotated[str, StringConstraints(pattern=r"^\w{1,100}$")] | None = None
    licence: Text | None = None
    gated: bool | None = None
    unchecked: tuple[Fact, ...] = ()
    note: Text | None = None
    publish_as: RepoName | None = None
    steps: Annotated[tuple[Step, ...], Field(min_length=1)] | None = None
    layers: Annotated[tuple[Glob, ...], Field(min_length=1, max_length=100)] | None = None
    recipes: Annotated[tuple[RecipeText, ...], Field(min_length=1, max_length=100)] | None = None
    top_k: Annotated[int, Field(ge=1, le=MAX_RANKS)] | None = None
    vocabulary: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    labelers: Annotated[tuple[LabelerText, ...], Field(max_length=20)] | None = None
    drawing: Drawing | None = None
    measurement: MeasurementSettings | None = None
    previews: PreviewSettings | None = None

    @property
    def source(self) -> str:
        """The checkpoint's repository."""
        return self.repo or self.id

    @property
    def directions_name(self) -> str:
        """The name of the repository for its directions: `publish_as`, else `OWNER-NAME-directions`."""
        return self.publish_as or f"{self.id.replace('/', '-')}-directions"

    def settings(self, defaults: Settings) -> Settings:
        """Its settings, completed from the plan's defaults; those of `drawing` one by one."""
        own = {name: getattr(self, name) for name in Settings.model_fields}
        drawing = (
            defaults.drawing if self.variant is None else defaults.drawing.model_copy(update={"variant": self.variant})
        )
        if self.drawing is not None:
            given = {name: getattr(self.drawing, name) for name in self.drawing.model_fields_set}
            drawing = drawing.model_copy(update=given)
        own["drawing"] = drawing
        return defaults.model_copy(update={name: value for name, value in own.items() if value is not None})


class Plan(Model):
    """A plan file."""

    format: Literal[1] = 1
    defaults: Settings = Settings()
    checkpoint: Annotated[tuple[PlanEntry, ...], Field(max_length=100_000)] = ()


class Pin(Model):
    """A checkpoint's repository at the commit that `plan --check` found."""

    repo: ModelId
    revision: Commit
    asked: Revision | None = None
    """The revision the plan asked for when it was pinned; if the plan changes it, the pin no longer holds."""


class Lock(Model):
    """A lock file: the commit each checkpoint of a plan is built at."""

    format: Literal[1] = 1
    checked: datetime
    checkpoints: dict[ModelId, Pin] = Field(default={}, max_length=100_000)


StepOutcome = Literal["done", "there", "failed", "not reached"]


class StepReport(Model):
    """The outcome of a step: `there` means its result existed already. `seconds` counts work, not waiting.

    `attempts` is None where it is not known how often the step was started.
    """

    step: Step
    outcome: StepOutcome
    seconds: float | None = None
    bytes_read: int | None = None
    attempts: int | None = 1


class EntryReport(Model):
    """What a run did with a checkpoint. `unchanged` means that there was nothing to do."""

    id: str
    repo: str
    revision: str | None = None
    status: Literal["done", "unchanged", "failed"]
    steps: tuple[StepReport, ...] = ()
    directions: int | None = None
    labels: int | None = None
    location: str | None = None
    published: str | None = None
    commit: str | None = None
    error: str | None = None
    traceback: str | None = None
    """For an unexpected error only: a bug."""
