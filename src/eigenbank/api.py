"""Build, match and export by name: where builders, loaders and the registry meet. Nothing in this module computes."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from eigenbank.progress import Progress, no_progress
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
    from eigenbank.loaders.export import Edits, ExportTerm, Format, Precision
    from eigenbank.loaders.lora import ReadWeight
    from eigenbank.loaders.match import Match
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
        from eigenbank.registry.hub.client import fetch_file, offline

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
            return self.attempt(lambda: fetch_file(self.repo, file, revision, "nothing was drawn"))
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
        "Give its folder (`checkpoint=`)",
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
        found_id, source = source_of(model, component)
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


def source_of(pipe: Any, component: str | None = None) -> "tuple[str, WeightSource]":
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
        _, source = source_of(model)
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
    model: str | Path,
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
    model_id, place = _to_draw(str(model), revision)
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
    from eigenbank.loaders.plugins import target_of
    from eigenbank.loaders.steer import matching_denoisers

    matching_denoisers(target_of(denoiser), [term.direction for term in terms], force=False)


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
