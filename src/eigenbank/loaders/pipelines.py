"""Open pipelines as they are asked for, find their denoiser and origin."""

import importlib.util
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eigenbank.devices import pick_device
from eigenbank.diffusers_compat import loaded_from, set_loaded_from
from eigenbank.loaders.plugins import target_of
from eigenbank.loaders.target import Target
from eigenbank.progress import Log, log_warning, quietly
from eigenbank.registry.file_kinds import (
    is_other,
    kind_of_bytes,
    kind_of_folder,
    kind_of_tensors,
    plain_name,
    unwrapped,
)
from eigenbank.registry.files import parse_json, read_bounded
from eigenbank.registry.sets.bundled import locate
from eigenbank.registry.sets.tensors import TensorInfo, read_header
from eigenbank.schemas.drawing import Drawing, LoraFile
from eigenbank.schemas.errors import SourceError, explaining

_OPENED_AS = "_eigenbank_model_id"
"""The attribute of a pipeline that says which model it was opened as: several ids can have one folder."""
_WEIGHTS = re.compile(r"\w+?(?:\.(?P<variant>[^.]+?))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
"""A file of a component's weights, as diffusers and transformers name them, and its variant."""
_DENOISERS = ("unet", "transformer", "prior")
_DISPENSABLE = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that a pipeline draws without: the last two read pictures, for the first and for IP-Adapters."""
_DTYPES = {"F32": torch.float32, "F64": torch.float32, "F16": torch.float16}
"""The dtype to compute in for one that weights are stored in; any other, such as 8-bit floats, is computed in bfloat16."""
_TEXT = "Pipelines that read prompts need transformers, offload accelerate, LoRAs peft: pip install 'eigenbank[text]'"
_FEW_STEPS = ("LCMScheduler", "TCDScheduler")
"""Schedulers of few-step LoRAs: they take the config of any of diffusers' Karras family, which does not list them."""
UNSCALED = ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler")
"""Those DDPMPipeline can use: it scales neither the denoiser's input nor the initial noise."""
_MOST_LAYERS, _MOST = 1_000, 2**24
"""Largest numbers of a component's config: of layers, which are all made before weights are looked for, and of anything else."""
_LAYERS = re.compile("layers|blocks|depth")
_SHORT = {
    "euler_a": "EulerAncestralDiscreteScheduler",
    "dpmpp": "DPMSolverMultistepScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "dpmpp_sde": "DPMSolverSDEScheduler",
}
"""What schedulers are called elsewhere. Other short names are the class's without Scheduler, Discrete, Multistep."""


def denoiser_of(pipe: Any) -> nn.Module:
    """Return the network that denoises, a pipeline's first if it has several. Raises SteerError where there is none."""
    return next(iter(target_of(pipe).denoisers.values()))


def origin_of(pipe: Any) -> str | None:
    """Return where a pipeline was loaded from, a catalog location or a model id; None if diffusers does not remember."""
    for owner in (pipe.owner if isinstance(pipe, Target) else pipe, denoiser_of(pipe)):
        name = loaded_from(owner)
        if name is not None:
            path = Path(name)
            if not path.is_dir():
                return locate(path) if path.is_file() else name
            # A denoiser of its own was loaded from a subfolder of the checkpoint.
            return locate(path.parent if (path.parent / "model_index.json").is_file() else path)
    return None


def opened_model_id(pipe: Any) -> str | None:
    """Return the model id that `open_pipeline` was given for a pipeline; None where there was none."""
    found = getattr(pipe.owner if isinstance(pipe, Target) else pipe, _OPENED_AS, None)
    return found if isinstance(found, str) else None


@explaining(outcome="nothing was opened")
def open_pipeline(
    path: Path,
    drawing: Drawing | None = None,
    *,
    model_id: str | None = None,
    config: str | None = None,
    log: Log = log_warning,
) -> Any:
    """Open a diffusers pipeline from a local folder or single file: all components in one dtype, on the device that `drawing` names.

    Weights are mapped into memory, so that opening takes as much of it as they do. Unconditional pipelines get DDIM in
    place of DDPM's sampler, which is random. `config` is the folder or Hub id of a pipeline of a single file's kind.
    `model_id` is the model whose directions are then looked up for it; `log` is
    told what was left out. Raises SourceError when diffusers cannot load it.
    """
    import diffusers

    drawing = drawing or Drawing()
    device = pick_device(drawing.device)
    pipe = _from_file(path, drawing, device, config) if path.is_file() else _from_folder(path, drawing, device, log)
    if not drawing.safety_checker and getattr(pipe, "safety_checker", None) is not None:
        pipe.safety_checker = None
    if type(pipe) is diffusers.DDPMPipeline:
        scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
        pipe = diffusers.DDIMPipeline(unet=pipe.unet, scheduler=scheduler)
    elif type(getattr(pipe, "scheduler", None)) is diffusers.DDPMScheduler:
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    if drawing.scheduler is not None:
        pipe = with_scheduler(pipe, drawing.scheduler)
    set_loaded_from(pipe, path)
    if model_id is not None:
        setattr(pipe, _OPENED_AS, model_id)
    pipe.set_progress_bar_config(disable=True)
    _load_loras(pipe, drawing.loras)
    return _place(pipe, device, drawing.offload, log)


def _from_folder(folder: Path, drawing: Drawing, device: str, log: Log) -> Any:
    import diffusers

    _check_files(folder)
    if not (folder / "model_index.json").is_file():
        problem = f"{folder} is no pipeline: it has no model_index.json"
        raise SourceError(problem, advice="Give the folder of the whole checkpoint")
    parts = _components(folder)
    unwanted = [] if drawing.safety_checker else [name for name in parts if name == "safety_checker"]
    lacking = [name for name in _DISPENSABLE if name in parts and name not in unwanted and not _is_whole(folder / name)]
    if lacking:
        log(f"{folder} lacks the files of its {' and '.join(lacking)}, which are left out: it draws without")
    left_out = lacking + unwanted
    for name in parts:
        if name not in left_out and not (folder / name).is_dir() and not list(folder.glob("*config.json")):
            problem = f"{folder} lacks its {name}"
            raise SourceError(problem, advice="Fetch the checkpoint again, whole")
    for name in parts:
        _check_sizes(folder / name)
        if name not in left_out:
            _check_files(folder / name)
    given: dict[str, Any] = dict.fromkeys(left_out)
    if "safety_checker" in left_out:
        given["requires_safety_checker"] = False
    held = set[str]().union(*(_variants(folder / name) for name in parts))
    if drawing.variant and held and drawing.variant not in held:
        problem = f"{folder} has no variant {drawing.variant!r}: it has {', '.join(each or 'the plain one' for each in sorted(held))}"
        raise SourceError(problem)
    variant = drawing.variant or _only_variant(folder, [name for name in parts if name not in left_out])
    dtype = _dtype(drawing, device, lambda: own_dtype(folder, variant))
    stored = {name: _stored(folder / name, variant) for name in parts if name not in left_out}
    for name in stored.keys() - set(_DENOISERS):
        wrapped = next((each for each in stored[name] if "_orig_mod." in each), None)
        if wrapped is not None:
            problem = f"{folder / name} was saved while it was compiled: it has {wrapped}, and diffusers would fill it with random values"
            raise SourceError(problem, advice=f"Save what is inside it: `pipe.{name}._orig_mod.save_pretrained(…)`")
    with quietly():
        try:
            for name in _DENOISERS:
                if any(unwrapped(plain_name(each)) != each for each in stored.get(name, ())):
                    given[name] = _without_prefixes(folder / name, stored[name]).to(dtype)
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                folder, torch_dtype=dtype, variant=variant, local_files_only=True, **given
            )
        except Exception as error:  # diffusers raises whatever its loaders raise
            problem = f"diffusers cannot load a pipeline from {folder}: {str(error).strip()}"
            lacks = isinstance(error, ImportError) or importlib.util.find_spec("transformers") is None
            raise SourceError(problem, advice=_TEXT if lacks else "") from error
    for name in _DENOISERS:
        if stored.get(name) and name not in given:
            _check_filled(getattr(pipe, name), stored[name], folder / name)
    for name in stored:
        part = getattr(pipe, name, None)
        empty = (
            [each for each, value in part.named_parameters() if value.is_meta] if isinstance(part, nn.Module) else []
        )
        if empty:
            problem = (
                f"{folder / name} lacks {len(empty)} tensors of its config's {type(part).__name__}, such as {empty[0]}"
            )
            raise SourceError(problem, advice=_SAVE_AGAIN)
    return pipe


def _stored(part: Path, variant: str | None) -> dict[str, Path]:
    """The tensors of a component's safetensors files that diffusers loads, and the file of each.

    Raises SourceError or TensorFileError for files that are not what their names say.
    """
    files = _weights(part, variant)
    shards = [path for path in files if "-of-" in path.name]
    if shards and any(part.glob("*.index*.json")):
        files = shards
    stored = {name: path for path in files for name in read_header(path)}
    what = kind_of_tensors(stored) if part.name in _DENOISERS and "quantization_config" not in _config(part) else None
    if what is not None:
        raise is_other(part, what)
    return stored


def _weights(part: Path, variant: str | None) -> list[Path]:
    """The safetensors files of a component in a variant, the plain ones where it has none of it."""
    found = {
        path: named["variant"] or "" for path in part.glob("*.safetensors") if (named := _WEIGHTS.fullmatch(path.name))
    }
    wanted = variant if variant in _variants(part) else ""
    return [path for path, own in found.items() if own == wanted]


def _check_files(part: Path) -> None:
    """Raise SourceError where a folder holds pointers in place of files, or a model's config and no weights of it."""
    files = [path for path in part.iterdir() if path.is_file()] if part.is_dir() else []
    for path in files:
        with path.open("rb") as file:
            start = file.read(64)
        if start.startswith(b"version https://git-lfs") and (what := kind_of_bytes(start)):
            raise is_other(path, what)
    if (part / "config.json").is_file() and not _is_whole(part):
        nothing = "no more than its config", "Fetch the checkpoint again, whole"
        held, advice = kind_of_folder(path.name for path in files) or nothing
        problem = f"{part} has no weights that diffusers loads: it holds {held}"
        raise SourceError(problem, advice=advice)


def _check_sizes(part: Path) -> None:
    """Raise SourceError where a component's config asks for more than there can be, before memory is taken for it."""
    for name in ("config.json", "scheduler_config.json"):
        left: list[tuple[str, Any]] = [("", _config(part, name))]
        while left:
            key, value = left.pop()
            if isinstance(value, dict):
                left += value.items()
            elif isinstance(value, list):
                left += [(key, each) for each in value]
            elif (
                isinstance(value, int)
                and value > (most := _MOST_LAYERS if _LAYERS.search(key) else _MOST)
                and "theta" not in key  # of rotary embeddings: sizes nothing
            ):
                problem = f"{name} of {part} asks for a {key} of {value}, and at most {most:,} are made"
                raise SourceError(problem)


def _config(part: Path, name: str = "config.json") -> dict[str, Any]:
    try:
        found = parse_json(read_bounded(part / name, 2**24))
    except (OSError, ValueError):
        return {}  # diffusers says what is wrong
    return found if isinstance(found, dict) else {}


def _without_prefixes(part: Path, stored: dict[str, Path]) -> nn.Module:
    """The denoiser in a folder, of tensors that torch.compile or DataParallel named: diffusers would leave it random."""
    import diffusers
    from safetensors.torch import load_file

    kind = getattr(diffusers, str(_config(part).get("_class_name")))
    tensors = {name: tensor for path in set(stored.values()) for name, tensor in load_file(path).items()}
    tensors = {unwrapped(plain_name(name)): tensor for name, tensor in tensors.items()}
    with torch.device("meta"):  # a config may ask for more than there is memory: the file says what there is
        kind.from_config(kind.load_config(str(part))).load_state_dict(tensors, assign=True)
    model: nn.Module = kind.from_config(kind.load_config(str(part)))
    model.load_state_dict(tensors, assign=True)
    return model.eval()


_SAVE_AGAIN = "Fetch or save the checkpoint again; of a compiled component, save its `_orig_mod`"


def _check_filled(denoiser: Any, stored: Iterable[str], part: Path) -> None:
    """Raise SourceError where diffusers filled parameters with random values, since their tensors are not in the file."""
    names = set(stored)
    if any(".query." in name or ".proj_attn." in name for name in names):  # former names, which diffusers translates
        return
    missing = [name for name, _ in denoiser.named_parameters() if name not in names]
    if missing and "quantization_config" not in denoiser.config:
        problem = f"{part} lacks {len(missing)} tensors of its config's {type(denoiser).__name__}, such as {missing[0]}"
        raise SourceError(problem, advice=_SAVE_AGAIN)


def _from_file(file: Path, drawing: Drawing, device: str, config: str | None) -> Any:
    """Open a pipeline from a single file of weights, with the configs of a pipeline of its kind.

    Those lie beside it, or are the ones that diffusers names for its layout, from the client's cache or the Hub.
    """
    import diffusers
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    header = read_header(file)
    what = kind_of_tensors(header)
    if what is not None:
        raise is_other(file, what)
    if config is None and (file.parent / "model_index.json").is_file():
        config = str(file.parent)
    dtype = _dtype(drawing, device, lambda: _computed_in(header.values()))
    with quietly():
        try:
            if config is None:
                empty = {name: torch.empty(info.shape, device="meta") for name, info in header.items()}
                config = str(fetch_diffusers_config(empty)["pretrained_model_name_or_path"])
            for part in _components(Path(config)):  # it names no other code
                _check_sizes(Path(config) / part)
            kind = getattr(diffusers, str(diffusers.DiffusionPipeline.load_config(config)["_class_name"]))
            return kind.from_single_file(str(file), config=config, torch_dtype=dtype)
        except SourceError:
            raise
        except Exception as error:  # as above
            problem = f"diffusers cannot load a pipeline from {file}: {error}"
            advice = f"It needs the configs of {config or 'a pipeline of its kind'}: be online once, or give the folder of one (config=, or beside the file)"
            raise SourceError(problem, advice=advice) from error


def _dtype(drawing: Drawing, device: str, own: Callable[[], torch.dtype]) -> torch.dtype:
    """The one dtype of all components: `auto` is the checkpoint's own on an accelerator, float32 on a CPU."""
    if drawing.dtype != "auto":
        found: torch.dtype = getattr(torch, drawing.dtype)
        return found
    return torch.float32 if device == "cpu" else own()


def _components(folder: Path) -> list[str]:
    """The names under which a pipeline's index lists components that it does have; none where there is no index.

    Raises SourceError for an index that names other code than diffusers' and transformers': older versions of diffusers import
    whatever module it names, and so run it.
    """
    from diffusers import pipelines

    found = []
    for name, kind in _config(folder, "model_index.json").items():
        library = kind[0] if isinstance(kind, list) and kind else None
        known = library in (None, "diffusers", "transformers") or hasattr(pipelines, str(library))
        if (name == "_class_name" and not isinstance(kind, str)) or not (name.startswith("_") or known):
            problem = f"model_index.json of {folder} names code of its own for {name}, {kind!r}"
            raise SourceError(problem, outcome="nothing was opened, and none of it was run")
        if library and name.isidentifier() and not name.startswith("_"):
            found.append(name)
    return found


def _variants(part: Path) -> set[str]:
    """The variants of a component's weights; `""` is the plain one. Empty for what has no weights, such as a scheduler."""
    names = (path.name for path in part.iterdir()) if part.is_dir() else ()
    return {found["variant"] or "" for name in names if (found := _WEIGHTS.fullmatch(name))}


def _is_whole(part: Path) -> bool:
    """Whether a component's folder is there, with weights if it is a model."""
    return part.is_dir() and (bool(_variants(part)) or not (part / "config.json").is_file())


def _only_variant(folder: Path, parts: Iterable[str]) -> str | None:
    """The variant without which a pipeline cannot be opened, since a component has no plain weights; None if all have.

    Raises SourceError where it would also replace plain weights of the denoiser.
    """
    held = {name: found for name in parts if (found := _variants(folder / name))}
    needed = next((sorted(found)[0] for found in held.values() if "" not in found), None)
    for name in _DENOISERS:
        if needed is not None and {"", needed} <= held.get(name, set()):
            problem = f"{folder} has two sets of weights of its {name}, but not of all components"
            raise SourceError(
                problem, advice=f"Choose one: `variant={needed}`, or fetch the plain weights of the others"
            )
    return needed


def own_dtype(folder: Path, variant: str | None) -> torch.dtype:
    """Return the dtype to compute in that is nearest to the one a checkpoint's denoiser is stored in."""
    parts = _components(folder)
    denoisers = [name for name in _DENOISERS if name in parts] or parts
    files = [path for part in denoisers for path in _weights(folder / part, variant)]
    stored = [info for path in files for info in read_header(path).values()]
    return _computed_in(stored) if stored else torch.float16  # a pickle does not say it without being read


def needed_variant(files: Iterable[str]) -> str | None:
    """Return the variant without which the pipeline of a repository with these files cannot be opened; None for none."""
    held: dict[str, set[str]] = {}
    for file in files:
        part, _, name = file.rpartition("/")
        if part and "/" not in part and (found := _WEIGHTS.fullmatch(name)):
            held.setdefault(part, set()).add(found["variant"] or "")
    return next((sorted(variants)[0] for variants in held.values() if "" not in variants), None)


def _computed_in(stored: Iterable[TensorInfo]) -> torch.dtype:
    sizes: dict[str, int] = {}
    for info in stored:
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.size
    return _DTYPES.get(max(sizes, key=sizes.__getitem__), torch.bfloat16)


def with_scheduler(pipe: Any, name: str) -> Any:
    """Return the pipeline with a scheduler of that class or short name. Raises SourceError, which lists those it can use."""
    import diffusers

    own: Any = getattr(pipe, "scheduler", None)
    bare = type(pipe).__name__ in ("DDIMPipeline", "DDPMPipeline")
    kinds = {kind.__name__: kind for kind in getattr(own, "compatibles", ())}
    if len(kinds) > 1:
        kinds |= {each: getattr(diffusers, each) for each in _FEW_STEPS}
    if bare:
        kinds = {each: kind for each, kind in kinds.items() if each in UNSCALED}
    short = {_short(each): kind for each, kind in kinds.items()}
    chosen = kinds.get(_SHORT.get(name.lower(), name)) or short.get(_short(name))
    if chosen is None:
        known = ", ".join(sorted(short)) or "none but its own"
        problem = f"no scheduler {name!r} for a {type(pipe).__name__} with {type(own).__name__}"
        raise SourceError(problem, outcome="nothing was drawn", advice=f"It can use: {known}")
    made = chosen.from_config(own.config)
    if bare and chosen is not diffusers.DDIMScheduler:
        return diffusers.DDPMPipeline(unet=pipe.unet, scheduler=made)
    pipe.scheduler = made
    return pipe


def _short(name: str) -> str:
    return re.sub("_|scheduler|discrete|multistep", "", name.lower())


def _load_loras(pipe: Any, loras: Iterable[LoraFile]) -> None:
    """Load LoRAs, each as an adapter with its weight. Only safetensors files are read. Raises SourceError."""
    weights = {}
    for number, lora in enumerate(loras):
        path = Path(lora.file).expanduser()
        deep = lora.file.count("/")
        if not path.exists() and (path.is_absolute() or deep == 0 or (deep == 1 and path.suffix == ".safetensors")):
            problem = f"the LoRA {lora.file} cannot be loaded: there is no such file"
            raise SourceError(problem, outcome="nothing was drawn")
        where, named = (str(path) if path.exists() else lora.file), dict[str, str]()
        if not path.exists() and deep == 2:  # a file of a repository
            where, named["weight_name"] = lora.file.rsplit("/", 1)
        try:
            if not hasattr(pipe, "load_lora_weights"):
                message = f"a {type(pipe).__name__} takes none"
                raise TypeError(message)
            pipe.load_lora_weights(where, adapter_name=f"lora_{number}", use_safetensors=True, **named)
            if not any(f"lora_{number}" in names for names in pipe.get_list_adapters().values()):
                message = f"no weight in it is of a {type(pipe).__name__}"
                raise TypeError(message)
        except Exception as error:  # diffusers and PEFT raise whatever the file makes them
            problem = f"the LoRA {lora.file} cannot be loaded: {error}"
            raise SourceError(
                problem,
                outcome="nothing was drawn",
                advice="Give a .safetensors LoRA of this model, one on the Hub as OWNER/NAME/FILE",
            ) from error
        weights[f"lora_{number}"] = lora.weight
    if weights:
        pipe.set_adapters(list(weights), list(weights.values()))


def _place(pipe: Any, device: str, offload: str, log: Log) -> Any:
    """Bring a pipeline to its device, or let its parts come there as they are needed."""
    if offload != "none" and device == "cpu":
        log("there is no accelerator to bring weights to when they are needed: drawn without offload")
    if device == "cpu":
        return pipe  # it is there, and diffusers would warn of float16
    if offload == "none":
        return pipe.to(device)
    try:
        if offload == "model":
            pipe.enable_model_cpu_offload(device=device)
        elif offload == "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        else:
            pipe.enable_group_offload(
                torch.device(device), offload_type="leaf_level", use_stream=device.startswith("cuda")
            )
    except Exception as error:  # accelerate is missing, or this pipeline cannot
        problem = f"a {type(pipe).__name__} cannot be drawn with `offload={offload}`: {error}"
        raise SourceError(problem, advice="Choose another `offload=`") from error
    return pipe
