"""Build, match and export by name: where builders, loaders and the registry meet. Nothing in this module computes."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from eigenbank.progress import Log, Progress, log_warning, no_progress
from eigenbank.registry.catalog import Catalog
from eigenbank.registry.local import checkpoint_id, hub_file_id, id_to_build, sets_of_checkpoint
from eigenbank.registry.sets.bundled import locate, resolve, shipped_checkpoint
from eigenbank.registry.sets.direction_set import Direction, DirectionSet
from eigenbank.schemas.errors import (
    EigenbankError,
    ExportError,
    SourceError,
    UnknownNameError,
    explaining,
    first_problem,
    unknown,
)

if TYPE_CHECKING:
    from torch import Tensor

    from eigenbank.builders.checkpoints.source import WeightSource
    from eigenbank.builders.discovery.families import Discovery
    from eigenbank.builders.label.labeler import Labeler
    from eigenbank.builders.label.settings import LabelSettings
    from eigenbank.builders.label.study import Found
    from eigenbank.loaders.export import Edits, ExportTerm, Format, Precision
    from eigenbank.loaders.lora import ReadWeight
    from eigenbank.loaders.match import Match
    from eigenbank.loaders.measure import PipelineMeasurements
    from eigenbank.loaders.target import Target
    from eigenbank.schemas import Part
    from eigenbank.schemas.drawing import Drawing, Dtype, Offload

T = TypeVar("T")
_INDEX = "model_index.json"
_REPOSITORY = re.compile(r"[\w][\w.\-]*/[\w][\w.\-]*")
"""The form of a repository id on the Hub: ORG/NAME."""
_INSIDE = re.compile(
    r"([\w][\w.\-]*/[\w][\w.\-]*)/((?:[\w][\w.\- ]*/)*[\w][\w.\- ]*\.(?:safetensors|ckpt|gguf|bin|pt|pth))"
)
"""The form of a file in such a repository: ORG/NAME/FILE."""


class CheckpointElsewhereError(SourceError):
    """A checkpoint that the catalog knows is not on this machine."""


@dataclass(frozen=True)
class _OnHub:
    """A checkpoint to fetch: the pipeline of a repository, or one file of it. `failed` makes the error of what prevents it."""

    repo: str
    file: str | None
    revision: str | None
    failed: Callable[[EigenbankError], EigenbankError]

    def attempt(self, call: Callable[[], T]) -> T:
        """Return what the call returns. Raises the error that `failed` makes."""
        try:
            return call()
        except EigenbankError as error:
            raise self.failed(error) from error

    def fetch(
        self, variant: str | None, drawing: "Drawing | None" = None, check: Callable[[], object] = lambda: None
    ) -> Path:
        """Find it in the client's cache or fetch it, once the pipeline's index agrees with `drawing`, and `check` was called."""
        from eigenbank.builders.checkpoints.hub import resolve as resolve_revision
        from eigenbank.builders.checkpoints.hub import small_file
        from eigenbank.loaders.drawing import check_checkpoint
        from eigenbank.plans.transport import fetch_pipeline
        from eigenbank.registry.hub.client import offline

        file, revision = self.file, self.revision
        if file is None and not offline():
            commit, names = self.attempt(lambda: resolve_revision(self.repo, self.revision))
            revision = commit
            if drawing is not None and _INDEX in names:
                check_checkpoint(self.attempt(lambda: small_file(self.repo, _INDEX, commit)).parent, drawing)
            if variant is None:
                from eigenbank.loaders.pipelines import needed_variant

                variant = needed_variant(names)
        check()
        if file is not None:
            return self.attempt(lambda: _fetch_file(self.repo, file, revision))
        return self.attempt(lambda: fetch_pipeline(self.repo, revision, variant))


def find_checkpoint(
    model: str,
    at: str | Path | None = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    fetch: bool = True,
    drawing: "Drawing | None" = None,
    check: Callable[[str], object] = lambda _model_id: None,
) -> tuple[str, Path]:
    """Find a checkpoint, given by model id, folder or file. Returns its model id, and its folder or file on this machine.

    A folder that is in the catalog has the id it was built under, of several its own (`registry.local.checkpoint_id`),
    else the newest; any other gets `local/NAME`, with a digest of its weights once it is built. What was built from the
    Hub is found in the client's cache, or fetched: the files its pipeline needs, of that `variant`, at
    `revision`, else the one it was built from. `at` is a folder, file, model id or Hub id to take instead of the
    checkpoint's own.

    Before anything large is fetched, `drawing` is compared with the pipeline, and `check` is called with the model id.
    Raises SourceError or UnknownNameError, and DrawingError for what the pipeline needs or cannot take.
    """
    from eigenbank.loaders.drawing import check_checkpoint

    elsewhere = None if at is None else _to_draw(str(at), revision)[1]
    model_id, own = _look_up(model, revision, fetch=fetch, elsewhere=elsewhere is not None)
    place = elsewhere or own
    if drawing is not None:
        variant = drawing.variant
    fetched = place.fetch(variant, drawing, lambda: check(model_id)) if isinstance(place, _OnHub) else None
    folder = fetched or place
    assert isinstance(folder, Path)
    if drawing is not None:  # of what was fetched too: its index was not seen if the Hub was not asked
        check_checkpoint(folder, drawing)
    if fetched is None:
        check(model_id)
    return model_id, folder


def _look_up(
    model: str, revision: str | None, *, fetch: bool = True, elsewhere: bool = False
) -> tuple[str, Path | _OnHub]:
    """Find a checkpoint's model id, and where it is: here, or where it can be fetched from. Raises as `find_checkpoint`.

    With `elsewhere` it need not be anywhere, and the second is `model` as a path.
    """
    shipped = shipped_checkpoint(model)
    if shipped is not None:
        return model, shipped
    path = _path(model)
    with Catalog.open() as catalog:
        if path.exists():
            known = sets_of_checkpoint(locate(path), catalog)
            return (known[0].model_id if known else checkpoint_id(locate(path))), path
        inside = _INSIDE.fullmatch(model)
        if elsewhere:
            return (hub_file_id(*inside.groups()) if inside else model), path
        found = None if inside else catalog.get_set(model)
        own = None if found is None or revision is not None else found.checkpoint_path
        if own is not None and resolve(own).exists():
            return model, resolve(own)
        if found is None and not (inside and fetch):
            if path.is_absolute() or model.startswith(".") or model.count("/") > 1:
                problem = f"no such folder: {model}"
                raise SourceError(problem, advice="Give a diffusers checkpoint's folder, or a model id")
            hint = "A checkpoint is given by its folder or its model id."
            raise unknown(kind="checkpoint", name=model, known=catalog.model_ids(), hint=hint)
    if inside and fetch:
        repo, name = inside.groups()
        return hub_file_id(repo, name), _OnHub(repo, name, revision, lambda error: error)
    problem, advice = (
        f"{model} is in the catalog, but its checkpoint is not on this machine",
        "Give its folder (--checkpoint)",
    )
    if not fetch or own is not None or not _REPOSITORY.match(model):
        raise CheckpointElsewhereError(problem, advice=advice)
    assert found is not None

    def failed(error: EigenbankError) -> EigenbankError:
        return CheckpointElsewhereError(f"{problem}, and cannot be fetched: {error.problem}", advice=advice)

    return model, _OnHub(model, None, revision or found.revision, failed)


def _to_draw(model: str, revision: str | None) -> tuple[str, Path | _OnHub]:
    """Find a checkpoint as `_look_up` does, and one that the catalog does not know on the Hub."""
    try:
        return _look_up(model, revision)
    except UnknownNameError as error:
        if not _REPOSITORY.fullmatch(model):
            raise
        here = error
    return model, _OnHub(model, None, revision, lambda error: UnknownNameError(f"{here} On the Hub: {error}"))


def _fetch_file(repo: str, name: str, revision: str | None) -> Path:
    """Find a file of a repository in the client's cache, or fetch it."""
    from huggingface_hub import hf_hub_download

    from eigenbank.registry.hub.client import hub_errors

    with hub_errors(f"fetching {repo}/{name}", "nothing was drawn"):
        return Path(hf_hub_download(repo, name, revision=revision))


@explaining(outcome="nothing was built")
def build(
    model: "str | Path | WeightSource | Any",
    *,
    layers: str | Sequence[str] = "*",
    recipes: str | Sequence[str] | None = None,
    top_k: int = 16,
    device: str = "auto",
    model_id: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    config: str | None = None,
    component: str | None = None,
    progress: Progress = no_progress,
) -> DirectionSet:
    """Compute the editing directions of a checkpoint from its attention weights; the set is held in memory.

    `model` is a pipeline, a folder, a single `.safetensors` file, a model id of the catalog or of the Hub (`revision`: its
    branch, tag or commit). Of a pipeline, LoRAs and other adapters that are not fused do not count. `variant` names one of a folder's sets of weights; `config` says where the config.json of a single
    file is. Of a pipeline with several denoisers all are built into one set, with layers named COMPONENT.LAYER, or the one
    `component`. `layers` is one or several globs over layer names; `recipes` written recipes, by default `output-value` on
    both sides; `device` is `auto`, `cpu` or `cuda`. Raises SourceError or UnknownNameError.
    """
    from eigenbank.builders.build import DEFAULT_RECIPES
    from eigenbank.builders.build import build as build_bank
    from eigenbank.builders.checkpoints.source import WeightSource

    if isinstance(model, (str, Path)):
        found_id, source, _ = open_source(
            str(model), revision=revision, variant=variant, config=config, component=component
        )
    elif isinstance(model, WeightSource):
        found_id, source = "local/checkpoint", model
    else:
        found_id, source = _source_of(model, component)
    if isinstance(recipes, str):
        recipes = [recipes]
    return build_bank(
        source,
        check_model_id(model_id or found_id),
        layers=[layers] if isinstance(layers, str) else list(layers),
        recipes=DEFAULT_RECIPES if recipes is None else recipes,
        top_k=top_k,
        device=device,
        progress=progress,
    )


def _source_of(pipe: Any, component: str | None = None) -> "tuple[str, WeightSource]":
    """Return a pipeline's model id, and the weights of its denoisers, or of one of them, as a source.

    Raises SteerError for what is no pipeline, SourceError for one without that component.
    """
    from eigenbank.loaders.pipelines import opened_model_id, origin_of
    from eigenbank.loaders.plugins import target_of

    target = target_of(pipe)
    origin = origin_of(target) or "pipeline"
    name = opened_model_id(target) or (origin if _REPOSITORY.fullmatch(origin) else checkpoint_id(origin))
    if component is not None and component not in target.denoisers:
        problem = f"this {target.kind} has no denoiser {component!r}: it has {', '.join(target.denoisers)}"
        raise SourceError(problem)
    chosen = list(target.denoisers) if component is None else [component]
    source, *others = [_source_of_denoiser(target, each) for each in chosen]
    source.others = tuple(others)
    return name, source


def _source_of_denoiser(target: "Target", component: str) -> "WeightSource":
    from eigenbank.builders.checkpoints.folder import TensorSource

    denoiser = target.denoisers[component]
    names = {name.replace(".base_layer.", "."): name for name, _ in denoiser.named_parameters() if ".lora_" not in name}
    config: Any = denoiser.config
    weights = {name: target.parameter(denoiser, name) for name in names}
    facts = {"_class_name": type(denoiser).__name__, **dict(config)}
    return TensorSource(config=facts, component=component, where=f"this {target.kind}", given=weights)


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
    nothing is drawn to screen. Then the best candidates are drawn and have to earn the name as for `label`: the result's
    `directions` is the set with the label, `slider` what has it; None where nothing does it, and the set as it was. `nearest` is
    what screening expects to come nearest, and all there is without `confirm`. Raises LabelerError for a labeler that does not
    know words, SourceError for words that it cannot tell apart, or that are no label's.
    """
    from dataclasses import replace

    from eigenbank.builders.label import study
    from eigenbank.builders.label.labeler import LabelerError
    from eigenbank.builders.label.settings import FINDING
    from eigenbank.loaders.drawing import as_drawing

    _check_words(text, without)
    (opened,) = _opened_labelers([labeler], pipe)
    if not hasattr(opened, "asking"):
        message = f"the labeler {opened.source} reads scores of its own and knows no words"
        raise LabelerError(message, opened.source)
    drawing = as_drawing(drawing, call)
    prompts = drawing.prompts or ("a picture",)
    asking = opened.asking(
        text, [f"{prompt}, {text}" for prompt in prompts],
        [prompt if without is None else f"{prompt}, {without}" for prompt in prompts],
    )  # fmt: skip
    settings = replace(settings or FINDING, words=(text,), confirm=confirm)
    measurements, settings, announce = _asked(pipe, settings, drawing, call, log)
    return study.find(
        directions, measurements, asking, settings, cache=cache, progress=progress, log=log,
        announce=announce,
    )  # fmt: skip


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
    labeler: "Labeler | str" = "clip",
    limit: int = 20,
    log: Log = log_warning,
) -> list[Likeness]:
    """Look for any words in the catalog's sets, by what an image-text model saw when they were labelled. Nothing is drawn.

    `text` and `without` are as for `find`, `model` a glob of model ids. Only sets that keep what this `labeler` saw can be
    looked in; of the others `log` is told. The best `limit` are returned. What they do is an estimate from single passes of the denoiser;
    `find` confirms it. Raises SourceError for words that the model cannot tell apart.
    """
    from fnmatch import fnmatchcase

    from eigenbank.builders.label.labeler import LabelerError, open_labelers
    from eigenbank.registry.hub.client import folder_of
    from eigenbank.registry.hub.pull import folder_for
    from eigenbank.registry.sets.folder import read_manifest

    _check_words(text, without)
    (opened,) = open_labelers([labeler], Path()) if isinstance(labeler, str) else [labeler]
    if not hasattr(opened, "axis"):
        message = f"the labeler {opened.source} reads scores of its own and knows no words"
        raise LabelerError(message, opened.source)
    start = "a picture"
    axis = opened.axis(text, [f"{start}, {text}"], [start if without is None else f"{start}, {without}"]).cpu()
    found: list[Likeness] = []
    with Catalog.open() as catalog:
        rows = [row for row in catalog.sets() if fnmatchcase(row.model_id, model)]
        for row in rows:
            kept = read_manifest(folder_of(row.location)).displacements
            if kept is None or kept.source != opened.source:
                what = "nothing of the kind" if kept is None else f"what {kept.source} saw"
                log(f"{row.model_id} keeps {what}: it cannot be looked in with {opened.source}")
                continue
            bank = DirectionSet.open(folder_for(row))  # of a published set only the manifest may be here
            moved = bank.displacements
            assert moved is not None
            effects, purities = moved.towards(axis)
            found += [Likeness(*each) for each in zip(bank, effects.tolist(), purities.tolist(), strict=True)]
    return sorted(found, key=lambda each: abs(each.effect) * each.purity, reverse=True)[:limit]


def _check_words(*texts: str | None) -> None:
    """Raise SourceError for what is no label's text."""
    from pydantic import TypeAdapter, ValidationError

    from eigenbank.schemas.common import Word

    try:
        TypeAdapter(tuple[Word, ...]).validate_python(tuple(text for text in texts if text is not None))
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


def layers_of(
    model: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    config: str | None = None,
    component: str | None = None,
) -> "tuple[Discovery, WeightSource]":
    """Find the self-attention layers of a checkpoint, from its headers alone. Returns them, and the opened checkpoint."""
    from eigenbank.builders.discovery.families import find_all_layers

    _, source, _ = open_source(model, revision=revision, variant=variant, config=config, component=component)
    return find_all_layers(source)


def match(
    directions: str | DirectionSet,
    model: Any,
    *,
    revision: str | None = None,
    variant: str | None = None,
    config: str | None = None,
) -> "list[Match]":
    """Say how well each direction of a set matches a checkpoint's weights; only the attention tensors are read.

    `directions` is a set, its folder or model id; `model` a pipeline or checkpoint as `build` takes it. The matches are in
    the set's order. Raises SourceError, SetError or UnknownNameError.
    """
    from eigenbank.loaders.match import match_stored
    from eigenbank.registry.load import load

    bank = directions if isinstance(directions, DirectionSet) else load(directions)
    if isinstance(model, (str, Path)):
        _, source, _ = open_source(str(model), revision=revision, variant=variant, config=config)
    else:
        _, source = _source_of(model)
    by_layer: dict[str, list[Direction]] = {}
    for direction in bank:
        by_layer.setdefault(direction.layer, []).append(direction)
    readers = {}
    for component in {layer.component for layer in bank.layers.values()}:
        held = source.of(component or bank.manifest.checkpoint.component)
        # A set of one denoiser is compared with the first, where the pipeline has none of that name.
        readers[component] = _reader(held or (None if component else source))
    found = {
        each.direction.id: each
        for name, members in by_layer.items()
        for each in match_stored(*readers[bank.layers[name].component], bank.layers[name], members)
    }
    return [found[direction.id] for direction in bank]


def _reader(
    source: "WeightSource | None",
) -> "tuple[Callable[[str], tuple[int, ...] | None], Callable[[list[Part]], list[Tensor] | None]]":
    """Ways to look up shapes in a denoiser's checkpoint, and to read parts of it where they are not quantised. None has no tensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    if source is not None and source.quantised is not None:
        # Quantised tensors are packed, so the shapes are those of the model that the config describes.
        from eigenbank.builders.discovery.fake_weights import empty_model

        shapes = {name: tuple(tensor.shape) for name, tensor in empty_model(source.config).named_parameters()}

    def shape(parameter: str) -> tuple[int, ...] | None:
        return shapes.get(parameter) if source is None or source.quantised is not None else source.shape(parameter)

    def read(parts: "list[Part]") -> "list[Tensor] | None":
        readable = source is not None and source.quantised is None and source.holds_values(parts)
        return source.read(parts) if source is not None and readable else None

    return shape, read


def local_pipelines() -> dict[str, Path]:
    """Return the folders of the catalog's checkpoints that are pipelines on this machine, by model id."""
    with Catalog.open() as catalog:
        locations = {found.model_id: found.checkpoint_path for found in catalog.sets() if found.checkpoint_path}
    folders = {model_id: resolve(location) for model_id, location in sorted(locations.items())}
    return {model_id: folder for model_id, folder in folders.items() if (folder / "model_index.json").is_file()}


def open_pipeline(
    model: str,
    *,
    device: str = "auto",
    dtype: "Dtype" = "auto",
    variant: str | None = None,
    offload: "Offload" = "none",
    scheduler: str | None = None,
    loras: Mapping[str, float] | None = None,
    revision: str | None = None,
    config: str | None = None,
    safety_checker: bool = True,
) -> Any:
    """Open a diffusers pipeline, given by model id, folder or single file, all in one dtype.

    What is not on this machine is found in the Hub client's cache or fetched, of that `revision`: the files the pipeline
    needs. A single file's `config` is the folder or Hub id of a pipeline of its kind, by default the one that diffusers names.

    `device` is `auto` (cuda, mps, else cpu) or one of torch's names; `dtype` is `auto` (the checkpoint's own on an
    accelerator, float32 on a CPU), `float32`, `float16` or `bfloat16`; `variant` one of its sets of weights, such as
    `fp16`; `offload` how to save memory of the device: `none`, `model`, `group` or `sequential`. `scheduler` is a class of
    diffusers or a short name (`euler`, `dpmpp`, `lcm`); `loras` maps LoRA files, or ids on the Hub, to weights;
    `safety_checker=False` leaves a safety checker out.

    Unconditional U-Nets get a DDIM scheduler, so that an image depends on its seed alone. Raises SourceError or
    UnknownNameError.
    """
    from pydantic import ValidationError

    from eigenbank.loaders.pipelines import open_pipeline as open_drawing_pipeline
    from eigenbank.schemas.drawing import Drawing, LoraFile

    try:
        drawing = Drawing(
            device=device,
            dtype=dtype,
            variant=variant,
            offload=offload,
            scheduler=scheduler,
            loras=tuple(LoraFile(file=file, weight=weight) for file, weight in (loras or {}).items()),
            safety_checker=safety_checker,
        )
    except ValidationError as error:
        raise SourceError(first_problem(error, "the options"), outcome="nothing was opened") from None
    model_id, place = _to_draw(model, revision)
    path = place if isinstance(place, Path) else place.fetch(variant)
    return open_drawing_pipeline(path, drawing, model_id=model_id, config=config)


def open_source(
    model: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    config: str | None = None,
    component: str | None = None,
) -> "tuple[str, WeightSource, Path | None]":
    """Open a checkpoint's weights for reading. Returns its model id, its weights, and its path if it is on this machine.

    What is neither on this machine nor in the catalog is looked for on the Hub; `ORG/NAME/FILE.safetensors` is a single
    file there. `component` is one of a pipeline's denoisers, by default all. Raises SourceError or UnknownNameError.
    """
    from eigenbank.builders.checkpoints.folder import open_folder
    from eigenbank.builders.checkpoints.single_file import open_file

    path = _path(model)
    if component is not None and (path.is_file() or _INSIDE.fullmatch(model)):
        problem = f"{model} is a single file, which holds one denoiser"
        raise SourceError(problem, advice=f"Leave out the component {component!r}")
    if path.is_file() and shipped_checkpoint(model) is None:
        return _id_to_build(path, file := open_file(path, config=config)), file, path
    inside = _INSIDE.fullmatch(model)
    if inside and not path.exists():
        from eigenbank.builders.checkpoints.single_file import open_hub_file

        repo, name = inside.groups()
        return hub_file_id(repo, name), open_hub_file(repo, name, revision=revision, config=config), None
    local: UnknownNameError | SourceError
    if revision is None or path.is_dir():
        try:
            model_id, found = find_checkpoint(model, fetch=False)
            if found.is_file():
                return model_id, open_file(found, config=config), found
            source = open_folder(found, variant=variant, subfolder=component)
            return _id_to_build(found, source) if path.is_dir() else model_id, source, found
        except (UnknownNameError, CheckpointElsewhereError) as error:
            local = error
        if not _REPOSITORY.fullmatch(model):
            raise local
    from eigenbank.builders.checkpoints.hub import open_hub

    try:
        return model, open_hub(model, revision=revision, variant=variant, subfolder=component), None
    except SourceError as error:
        if revision is None and isinstance(local, UnknownNameError):
            message = f"{local} On the Hub: {error}"
            raise UnknownNameError(message) from error
        raise


def _id_to_build(path: Path, source: "WeightSource") -> str:
    with Catalog.open() as catalog:
        return id_to_build(locate(path), source.fingerprint(), catalog)


def export(
    model: str | DirectionSet,
    edits: "Edits | Iterable[str | Direction] | None",
    out: str | Path,
    *,
    format: "Format" = "diffusers",
    pipe: Any = None,
    checkpoint: str | Path | None = None,
    dtype: "Precision" = "float16",
) -> list[Path]:
    """Write an edit as a file for other programs. Returns the files written, what lies beside a LoRA for user interfaces too.

    `model` is a direction set, or what `load` takes. `edits` maps labels, ids or directions to scales; a list of them
    means scale 1, None the whole set. `format`: `diffusers`, for `pipe.load_lora_weights`, `comfyui` and `lycoris` hold the
    edit as one LoRA of biases, whose strength 1 is the scales as given, in `dtype`; `npz` and `json` hold the vectors and
    their records.

    A LoRA needs to know the layers' modules: from `pipe` (then the directions must match its weights, as for
    `steer`), from `checkpoint`, or by default from the checkpoint the set was built from; of weights only those are read
    that input-side directions go through. It needs the set's token lengths too (`measure`). Raises ExportError for what the
    format cannot express (see docs/export.md), UnknownNameError, MatchError, SourceError.
    """
    from eigenbank.loaders.export import LORA, check_expressible, check_format, choose, write
    from eigenbank.registry.load import load

    out = Path(out)
    check_format(out, format)
    bank = model if isinstance(model, DirectionSet) else load(model)
    terms = choose(bank, edits)
    if format not in LORA:
        return write(terms, bank, out, format)
    check_expressible(terms)  # before a checkpoint is looked for
    denoiser, read = _denoiser_for(bank, pipe, checkpoint)
    if pipe is not None:
        _check_matches(denoiser, terms)
    return write(terms, bank, out, format, denoiser, read=read, dtype=dtype)


def export_all(
    model: str | DirectionSet,
    folder: str | Path,
    *,
    format: "Format" = "diffusers",
    pipe: Any = None,
    checkpoint: str | Path | None = None,
    dtype: "Precision" = "float16",
) -> tuple[list[Path], dict[str, str]]:
    """Write every named slider of a set into a folder, a file each, as `export` does; of several of a name the best that fits.

    Returns the files written, and why the other labels have none. Raises as `export` does, but ExportError of no label.
    """
    from eigenbank.loaders.export import LORA, SUFFIXES, check_expressible, check_format, choose, file_names, write
    from eigenbank.registry.load import load

    bank = model if isinstance(model, DirectionSet) else load(model)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{folder} cannot be made ({error.strerror or error}): choose another name"
        raise ExportError(message) from error
    denoiser, read = _denoiser_for(bank, pipe, checkpoint) if format in LORA else (None, None)
    written: list[Path] = []
    refused: dict[str, str] = {}
    for text, stem in file_names(bank).items():
        out = folder / f"{stem}{SUFFIXES.get(format, '')}"
        check_format(out, format)
        refusals: list[str] = []
        for label, slider in bank.all_named(text):
            try:
                terms = choose(bank, {text: 1.0}, {text: (slider, label.polarity)})
                if format in LORA:
                    check_expressible(terms)
                    if pipe is not None:
                        _check_matches(denoiser, terms)
                written += write(terms, bank, out, format, denoiser, read=read, dtype=dtype)
                break
            except ExportError as error:
                refusals.append(str(error))
        else:
            refused[text] = refusals[0]
    return written, refused


def _check_matches(denoiser: Any, terms: "Iterable[ExportTerm]") -> None:
    """Raise MatchError for the first direction that is none of the denoiser's weights."""
    from eigenbank.loaders.steer import check_match

    for term in terms:
        check_match(denoiser, term.direction)


def _denoiser_for(bank: DirectionSet, pipe: Any, checkpoint: str | Path | None) -> "tuple[Any, ReadWeight | None]":
    """Return the denoiser a LoRA is for, and what reads its weights where it has none itself. Raises SourceError."""
    from eigenbank.builders.discovery.fake_weights import empty_model

    component = bank.manifest.checkpoint.component
    if pipe is not None:
        from eigenbank.loaders.plugins import target_of

        denoisers = target_of(pipe).denoisers
        return denoisers.get(component) or next(iter(denoisers.values())), None
    try:
        source = open_source(bank.model_id if checkpoint is None else str(checkpoint))[1]
    except (SourceError, UnknownNameError) as error:
        if checkpoint is not None:
            raise
        advice = f"The file depends on how the layers of {bank.model_id} are made: give the checkpoint's folder or id, or the pipeline"
        raise SourceError(str(error), outcome="nothing was written", advice=advice) from error
    found = source.of(component) or source
    return empty_model(found.config), lambda part: found.read([part])[0].float()


def check_model_id(model_id: str) -> str:
    """Return the id, if it is a valid model id. Raises SourceError otherwise."""
    from pydantic import TypeAdapter, ValidationError

    from eigenbank.schemas.common import ModelId

    try:
        return TypeAdapter(ModelId).validate_python(model_id)
    except ValidationError:
        problem = f"{model_id!r} is no model id: expected NAME or ORG/NAME of letters, digits, '_', '.' and '-'"
        raise SourceError(problem) from None


def _path(model: str) -> Path:
    """Return the path that the user gave. Raises SourceError for text that cannot be one."""
    try:
        path = Path(model).expanduser()
        path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        message = f"{model[:200]!r} is no folder, file or model id ({error})"
        raise SourceError(message) from None
    if not model.strip():
        message = "the checkpoint's name is empty: give its folder, a file or a model id"
        raise SourceError(message)
    return path
