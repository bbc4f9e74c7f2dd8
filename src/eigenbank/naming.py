"""Name directions by name: `label`, `find`, `like` and `preview`, where builders, loaders and the registry meet. Nothing here computes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenbank.progress import Log, Progress, log_warning, no_progress
from eigenbank.registry.catalog import Catalog
from eigenbank.registry.sets.bundled import resolve
from eigenbank.registry.sets.direction_set import Direction, DirectionSet
from eigenbank.schemas.errors import BranchError, HubError, SetError, SourceError, first_problem

if TYPE_CHECKING:
    from eigenbank.builders.checkpoints.source import WeightSource
    from eigenbank.builders.label.labeler import Labeler
    from eigenbank.builders.label.settings import LabelSettings
    from eigenbank.builders.label.study import Found
    from eigenbank.builders.lens import Lens
    from eigenbank.loaders.measure import PipelineMeasurements
    from eigenbank.schemas.drawing import Drawing


def label(
    pipe: Any,
    directions: DirectionSet,
    labelers: "Sequence[Labeler | str] | None" = None,
    settings: "LabelSettings | None" = None,
    *,
    carry: DirectionSet | None = None,
    drawing: "Drawing | None" = None,
    cache: Path | None = None,
    progress: Progress = no_progress,
    log: Log = log_warning,
    **call: Any,
) -> DirectionSet:
    """Name directions by what they do to a pipeline's images: the set with the labels that the labelers' readings justify.

    A label is given where one score clearly leads a direction's effect, on seeds it was not found with: with one sign on
    nearly all of them, and several times as much as random directions of equal length move it at the same spot. A score
    that hardly varies among the unedited images names nothing. For each score a composite of directions is tried too; one
    that does not earn that score's label is dropped. Whatever got a label also gets its quality, by the first labeler's
    scores. Earlier labels of these labelers are replaced.

    `carry` is the labelled set of a relative, such as a distilled checkpoint that draws in a few steps: then nothing is screened, and
    what has a name there is looked for here by its vectors and confirmed.

    `labelers` are objects or what `--labeler` takes, as in `"clip:openai/clip-vit-base-patch32#people"`; without any those of
    the checkpoint itself, else image statistics. They read on the pipeline's device, where they can.

    `call` is how to generate: `prompts`, which consecutive seeds take in turn (a seed's is always the same), `negative_prompt`, `guidance_scale`, `size`,
    and whatever else the pipeline takes; the pipeline's own where it is not given. The steps are those of `drawing`, else of
    `settings`, but no more than the pipeline's own. `cache` is a folder that keeps readings: an interrupted run continues
    from there. `log` is told first what it takes at most, by default a warning of the logger `eigenbank`. A labeler that fails is left out, which is logged; what it gave
    before is kept. Raises LabelerError when none is left, SteerError for a pipeline whose images are blank.
    """
    from eigenbank.builders.label import study
    from eigenbank.builders.label.settings import LabelSettings

    opened = _opened_labelers(labelers or (), pipe)
    measurements, settings, announce = _asked(pipe, settings or LabelSettings(), drawing, call, log)
    return study.label(
        directions,
        measurements,
        opened,
        settings,
        carry=carry,
        cache=cache,
        progress=progress,
        log=log,
        announce=announce,
    )


def find(
    pipe: Any,
    directions: DirectionSet,
    text: str,
    *,
    without: str | None = None,
    labeler: "Labeler | str" = "clip",
    settings: "LabelSettings | None" = None,
    confirm: bool = True,
    draw: bool = True,
    drawing: "Drawing | None" = None,
    cache: Path | None = None,
    progress: Progress = no_progress,
    log: Log = log_warning,
    **call: Any,
) -> "Found":
    """Find the slider for any words: the direction or composite that moves a pipeline's images towards them.

    `text` is what there should be more of, as a prompt says it ("wearing a hat"), `without` what there is instead, by default
    nothing. An image-text model reads both, beside its vocabulary, whose words are not to move: `labeler` is `"clip:MODEL#VOCABULARY"`
    or such a labeler opened. The `prompts` of `call` are put before both.

    Where `label` or `find` screened before with the same pipeline, prompts, settings and `cache`, what they kept is taken and
    nothing is drawn to screen. Else the text lens is tried before anything is screened.
    Then the best candidates are drawn and have to earn the name as for `label`: the result's
    `directions` is the set with the label, `slider` what has it; None where nothing does it, and the set as it was. `nearest` is
    what screening expects to come nearest, and all there is without `confirm`. Raises LabelerError for a labeler that does not
    know words, SourceError for words that it cannot tell apart, or that are no label's.

    One of the candidates is the text lens: the composite that the words themselves write into the image, through the pipeline's own
    text encoder and the weights of its text attention. It acts on the conditional branch of guidance, as the words would. With `draw=False` it is all there is: nothing
    is drawn, measured or labelled, no labeler is asked, and `slider` is that composite. It raises SourceError for a pipeline or set that it
    cannot be made of; with drawing it is then left out.
    """
    from dataclasses import replace
    from functools import partial

    from eigenbank.builders.label import study
    from eigenbank.builders.label.labeler import LabelerError, check_labeler
    from eigenbank.builders.label.settings import FINDING
    from eigenbank.loaders.drawing import as_drawing

    _check_words(text, without)
    drawing = as_drawing(drawing, call)
    if not draw:
        return look_through(pipe, directions, text, without=without, prompts=drawing.prompts, log=log)
    (opened,) = _opened_labelers([labeler], pipe)
    if not hasattr(opened, "asking"):
        message = f"the labeler {opened.source} reads scores of its own and knows no words"
        raise LabelerError(message, opened.source)
    positive, neutral = _prompted(drawing.prompts, text, without)
    asking = opened.asking(text, positive, neutral)
    check_labeler(asking, opened.source)  # a word beside which nothing is left to lead would always lead
    settings = replace(settings or FINDING, words=(text,), confirm=confirm)
    try:
        proposed = _lens(pipe, None, directions, text, positive, neutral).record if drawing.prompts else None
    except SourceError as error:
        log(f"no slider from the words alone: {error.problem}")
        proposed = None
    measurements, settings, announce = _asked(pipe, settings, drawing, call, log)
    look = partial(
        study.find, directions, measurements, asking, settings, cache=cache, progress=progress, log=log, announce=announce
    )  # fmt: skip
    try:
        return look(proposed=proposed)
    except BranchError as error:
        if proposed is None:
            raise
        log(f"{error.problem}: the words' own slider is tried on both branches")
        return look(proposed=proposed.model_copy(update={"branch": "both"}))


def look_through(
    pipe: Any,
    directions: DirectionSet,
    text: str,
    *,
    source: "WeightSource | None" = None,
    without: str | None = None,
    prompts: Sequence[str] = (),
    log: Log = log_warning,
) -> "Found":
    """The text lens alone, as `find` with `draw=False` gives it: `slider` is a composite that nothing has measured.

    `pipe` needs no more than its text encoders, where the `source` of its denoiser's weights is given.
    """
    from eigenbank.builders.label.study import Found

    _check_words(text, without)
    found = _lens(pipe, source, directions, text, *_prompted(prompts, text, without))
    kept = tuple(each for each in directions.manifest.composites if each.id != found.record.id)
    named = next((each for each in directions.manifest.composites if each.id == found.record.id), found.record)
    directions = directions.composed((*kept, named))
    share = sum(found.spanned.values()) / len(found.spanned)
    log(
        f"{found.record.id}: {len(found.record.parts)} directions of {len(found.spanned)} layers, from the words alone. Nothing was drawn "
        f"or measured, so it has no label. The set's directions span {share:.0%} of what the words write"
    )
    return Found(directions, directions[found.record.id], None, ())


def _lens(
    pipe: Any,
    source: "WeightSource | None",
    directions: DirectionSet,
    text: str,
    positive: Sequence[str],
    neutral: Sequence[str],
) -> "Lens":
    """Make the text lens of a pipeline's text encoders, and of the weights of its denoiser. Raises SourceError."""
    from eigenbank.api import source_of
    from eigenbank.builders.lens import lens
    from eigenbank.loaders.prompts import encode_prompts

    made = encode_prompts(pipe, [*positive, *neutral])
    weights = source or source_of(pipe)[1]
    return lens(directions, weights, text, made[: len(positive)], made[len(positive) :])


def _prompted(prompts: Sequence[str], text: str, without: str | None) -> tuple[list[str], list[str]]:
    """Put prompts before the words, and before what there is instead."""
    prompts = prompts or ("a picture",)
    return (
        [f"{prompt}, {text}" for prompt in prompts],
        [prompt if without is None else f"{prompt}, {without}" for prompt in prompts],
    )


@dataclass(frozen=True)
class Likeness:
    """A direction that moves pictures towards some words: by `effect` standard deviations per unit of scale, negative where the
    opposite scale does, which is the share `purity` of its whole movement in the embedding.
    """

    direction: Direction
    effect: float
    purity: float


def like(
    text: str,
    *,
    without: str | None = None,
    model: str = "*",
    labeler: "Labeler | str | None" = None,
    limit: int = 20,
    log: Log = log_warning,
) -> list[Likeness]:
    """Look for any words in the catalog's sets, by what an image-text model saw when they were labelled. Nothing is drawn.

    `text` and `without` are as for `find`, `model` a glob of model ids. Without a `labeler` the checkpoint's own image-text model
    reads the words, where it has one, else CLIP. Only sets that keep what that model saw can be looked in; of the others `log` is told.
    The best `limit` are returned. What they do is an estimate from single passes of the denoiser; `find` confirms it. Raises SourceError
    for words that the model cannot tell apart.
    """
    from fnmatch import fnmatchcase

    from eigenbank.registry.hub.client import folder_of
    from eigenbank.registry.hub.pull import folder_for
    from eigenbank.registry.sets.folder import read_manifest

    _check_words(text, without)
    readers = _Readers(labeler)
    found: list[Likeness] = []
    without_any: list[str] = []
    with Catalog.open() as catalog:
        rows = [row for row in catalog.sets() if fnmatchcase(row.model_id, model)]
    for row in rows:
        try:
            kept = read_manifest(folder_of(row.location)).displacements
            if kept is None:
                without_any.append(row.model_id)
                continue
            reader = readers.of(None if row.checkpoint_path is None else resolve(row.checkpoint_path), kept.source)
            if reader is None or kept.source != reader.source:
                how = "name that model" if reader is None else f"it cannot be looked in with {reader.source}"
                log(f"{row.model_id} keeps what {kept.source} saw: {how}")
                continue
            bank = DirectionSet.open(folder_for(row))  # of a published set only the manifest may be here
            moved = bank.displacements
        except (SetError, HubError) as error:  # one that cannot be read stops no search
            log(f"{row.model_id} was passed over: {error}")
            continue
        assert moved is not None
        axis = reader.axis(text, [f"a picture, {text}"], ["a picture" if without is None else f"a picture, {without}"])
        effects, purities = moved.towards(axis.cpu())
        found += [Likeness(*each) for each in zip(bank, effects.tolist(), purities.tolist(), strict=True)]
    if without_any:
        some = f"{', '.join(without_any[:3])}{', …' if len(without_any) > 3 else ''}"
        log(f"{len(without_any)} sets keep nothing that an image-text model saw: {some}")
    return sorted(found, key=lambda each: abs(each.effect) * each.purity, reverse=True)[:limit]


class _Readers:
    """Image-text models, each opened once: the one asked for, else a checkpoint's own, else CLIP."""

    def __init__(self, asked: "Labeler | str | None") -> None:
        self.asked = asked
        self._opened: dict[tuple[Path, str], Any] = {}

    def of(self, checkpoint: Path | None, source: str) -> Any:
        """Return the one for a checkpoint's set, which keeps what the model `source` saw; None where only that one would do, and it
        is a stranger's, so that it has to be named. Raises LabelerError for one that does not know words, SourceError.
        """
        from eigenbank.builders.label.clip import DEFAULT_MODEL
        from eigenbank.builders.label.labeler import LabelerError, open_labelers

        place, asked = Path("unknown"), self.asked
        if asked is None:
            own = checkpoint is not None and (checkpoint / "clip" / "config.json").is_file()
            place = checkpoint if checkpoint is not None and own else place
            asked = "clip" if own else source
            if not own and not source.startswith(f"clip:{DEFAULT_MODEL}@"):
                return None
        key = (place, asked if isinstance(asked, str) else "")
        if key not in self._opened:
            self._opened[key] = open_labelers([asked], place)[0] if isinstance(asked, str) else asked
        reader = self._opened[key]
        if not hasattr(reader, "axis"):
            message = f"the labeler {reader.source} reads scores of its own and knows no words"
            raise LabelerError(message, reader.source)
        return reader


def _check_words(*texts: str | None) -> None:
    """Raise SourceError for what is no label's text."""
    from pydantic import TypeAdapter, ValidationError

    from eigenbank.schemas.common import Word

    try:
        for text in texts:
            TypeAdapter(Word | None).validate_python(text)
    except ValidationError as error:
        problem = f"no slider has such a name: {first_problem(error, 'the words')}"
        raise SourceError(problem) from None


def _opened_labelers(labelers: "Sequence[Labeler | str]", pipe: Any) -> "list[Labeler | Any]":
    """Open the labelers that are names, by default the checkpoint's own; all read on the pipeline's device, where they can."""
    from eigenbank.builders.label.labeler import check_labeler, open_labelers
    from eigenbank.diffusers_compat import execution_device
    from eigenbank.loaders.pipelines import origin_of

    specs = [each for each in labelers if isinstance(each, str)]
    opened = [each for each in labelers if not isinstance(each, str)]
    for each in opened:
        check_labeler(each, each.source)
    if specs or not opened:
        opened = [*opened, *open_labelers(specs, resolve(origin_of(pipe) or "unknown"))]
    for each in opened:
        if hasattr(each, "to"):
            each.to(execution_device(pipe))
    return opened


def _asked(
    pipe: Any,
    settings: "LabelSettings",
    drawing: "Drawing | None",
    call: dict[str, Any],
    log: Log,
) -> "tuple[PipelineMeasurements, LabelSettings, Callable[[int], None]]":
    """Make what labelling measures with: the settings as well, and what says how much so many images are at most."""
    from dataclasses import replace

    from eigenbank.builders.label.settings import POPULATION
    from eigenbank.loaders.drawing import as_drawing, cost, own_steps, unused_prompts
    from eigenbank.loaders.measure import PipelineMeasurements

    drawing = as_drawing(drawing, call)
    steps = drawing.steps or min(settings.steps, own_steps(pipe) or settings.steps)
    settings = replace(settings, steps=steps)
    unused = unused_prompts(drawing, [*POPULATION, *settings.seeds, *settings.confirm_seeds])
    if unused:
        log(unused)

    def announce(images: int) -> None:
        log(f"at most {cost(pipe, images, drawing.model_copy(update={'steps': steps}), call)}")

    return PipelineMeasurements(pipe, steps, drawing=drawing, **call), settings, announce


def preview(
    pipe: Any,
    directions: DirectionSet,
    names: Sequence[str] | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    scales: Sequence[float] | None = None,
    drawing: "Drawing | None" = None,
    progress: Progress = no_progress,
    log: Log = log_warning,
    **call: Any,
) -> DirectionSet:
    """Generate previews, seeds by scales: the set with those of `names` (labels or ids), by default of all labelled ones.

    The set also gets the typical token lengths that it lacks, from two runs without a picture, as `measure` does. `call` is
    what else `sweep` takes, such as `prompt`. `log` is told first what it takes, by default a warning of the logger
    `eigenbank`. Raises as `sweep` does, and UnknownNameError.
    """
    from eigenbank.loaders.drawing import as_drawing, cost, drawn_prompts
    from eigenbank.loaders.lengths import lacks_lengths, measure
    from eigenbank.loaders.sweep import PREVIEW_SCALES, generate_preview

    chosen = (
        [each for each in directions.sliders if each.labels] if names is None else [directions[name] for name in names]
    )
    scales = PREVIEW_SCALES if scales is None else scales
    drawing = drawn_prompts(as_drawing(drawing, call, steps=call.pop("steps", None)), len(seeds), log)
    if not chosen:
        return directions
    images, done = len(chosen) * len(seeds) * len(scales), 0
    lacking = lacks_lengths(directions)
    log(f"{cost(pipe, images, drawing, call)}{', and 2 runs without a picture for token lengths' if lacking else ''}")

    def drawn(count: int) -> None:
        nonlocal done
        done += count
        progress("images", done, images)

    measured = measure(pipe, directions, drawing=drawing, **call) if lacking else directions
    progress("images", 0, images)
    made = {
        each.id: generate_preview(pipe, each, seeds=seeds, scales=scales, drawing=drawing, drawn=drawn, **call)
        for each in chosen
    }
    return measured.with_previews(made)
