"""Original-layout files, as model-sharing sites hold them: one safetensors file with names of its own.

diffusers knows these layouts: it tells them apart by their keys, and has a converter for each. The converter is run on
markers instead of weights, one number a row, and from where the markers end up it is seen which rows of which stored
tensor make which parameter. No table is copied, and nothing of the weights is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eigenbank.builders.checkpoints.folder import check_tensors, choose_components, local_file, read_json
from eigenbank.builders.checkpoints.source import SCALES, Piece, SafetensorsSource, TensorFile
from eigenbank.registry.file_kinds import is_other, kind_of_bytes, plain_name, unwrapped
from eigenbank.registry.files import open_regular
from eigenbank.registry.sets.tensors import TensorInfo
from eigenbank.schemas.errors import SourceError

_SOURCE = 32
"""A marker's low bits are the row, its high bits the number of the stored tensor."""


@dataclass
class SingleFileSource(SafetensorsSource):
    """A checkpoint whose parameters are rows of otherwise named tensors. `markers`: parameter → a number a row."""

    markers: dict[str, Tensor] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def stored(self, parameter: str) -> list[Piece] | None:
        """As `WeightSource.stored` says."""
        marker = self.markers.get(parameter)
        if marker is None:
            return None
        codes = marker.reshape(marker.shape[0], -1)[:, 0].tolist() if marker.ndim else [int(marker)]
        pieces: list[Piece] = []
        for code in codes:
            name, row = self.names[code >> _SOURCE], code & (1 << _SOURCE) - 1
            if pieces and pieces[-1].stored == name and pieces[-1].end == row:
                pieces[-1] = Piece(name, pieces[-1].start, row + 1)
            else:
                pieces.append(Piece(name, row, row + 1))
        return pieces


def open_file(path: Path, *, config: str | None = None) -> SingleFileSource:
    """Open the denoiser in a single safetensors file. `config` is the folder, file or Hub id its config.json is from.

    Without it that of a pipeline it lies in is taken, else the one diffusers names for the layout, fetched through the Hub client's cache. Raises SourceError for
    other files, and for layouts diffusers does not know.
    """
    with open_regular(path) as opened:
        what = kind_of_bytes(opened.read(256))
    if what is None and path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        what = "a pickle", "Nothing of it was run; save it as safetensors"
    if what is not None:
        raise is_other(path, what)
    file = local_file(path)
    if config is None and (path.parent / "model_index.json").is_file():
        config = str(path.parent)
    beside = path.parent / "config.json"
    found = None if config is not None or not beside.is_file() else read_json(beside)
    return source_of(file, str(path), config=found or _config(str(path), file.header, config))


def source_of(file: TensorFile, where: str, *, config: dict[str, Any], revision: str | None = None) -> SingleFileSource:
    """The denoiser of that config in a single file, which may lie anywhere. Raises SourceError."""
    names = list(file.header)
    check_tensors(names, where)
    return SingleFileSource(
        config=config,
        revision=revision,
        where=where,
        files={where: file},
        home=dict.fromkeys(names, where),
        markers=_converted(where, file.header, names, config),
        names=names,
    )


def open_hub_file(repo: str, name: str, *, revision: str | None = None, config: str | None = None) -> SingleFileSource:
    """Open the denoiser in a single safetensors file of a repository, by ranges. As `open_file` otherwise.

    Offline, the file must be in the client's cache, whole.
    """
    from huggingface_hub import constants, hf_hub_download

    from eigenbank.builders.checkpoints.hub import remote_file, resolve

    where = f"{repo}/{name}"
    if not name.endswith(".safetensors"):
        message = (
            f"{where} is no safetensors file, and no part of another can be read alone: download it, and give its path"
        )
        raise SourceError(message)
    if constants.HF_HUB_OFFLINE:
        try:
            path = Path(hf_hub_download(repo, name, revision=revision, local_files_only=True))
        except Exception as error:  # the client's errors are of no common class
            problem = f"{where} is not in the cache, and the client is offline (HF_HUB_OFFLINE)"
            raise SourceError(problem) from error
        file, commit = local_file(path), path.parents[name.count("/")].name
    else:
        commit, names = resolve(repo, revision)
        if name not in names:
            near = [each for each in names if each.endswith(".safetensors")][:5]
            problem = f"{repo} holds no {name} at {commit[:12]}"
            raise SourceError(problem, advice=f"It holds {', '.join(near) or 'none'}")
        file = remote_file(repo, name, commit)
    return source_of(file, where, config=_config(where, file.header, config), revision=commit)


def _config(where: str, header: Mapping[str, TensorInfo], given: str | None) -> dict[str, Any]:
    """The denoiser's config: the given one, else the one of the repository that diffusers names for the layout."""
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, infer_diffusers_model_type

    if given is not None:
        return _given_config(given)
    check_tensors(header, where)
    empty = {unwrapped(name): torch.empty(info.shape, device="meta") for name, info in header.items()}
    try:
        kind = infer_diffusers_model_type(empty)
        repo = DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]
    except Exception as error:  # diffusers looks into whatever it is given
        problem = f"diffusers does not recognise the layout of {where}"
        raise SourceError(problem, advice="Say what it is with `config=FOLDER_OR_HUB_ID`") from error
    name, subfolder = repo["pretrained_model_name_or_path"], repo.get("subfolder")
    try:
        return _hub_config(name, [subfolder] if subfolder else ["transformer", "unet"])
    except SourceError as error:
        problem = f"{where} is laid out as {kind}, whose config is {name}'s, and that cannot be fetched now"
        raise SourceError(problem, advice="Give it with `config=FOLDER_OR_HUB_ID`") from error


def _given_config(given: str) -> dict[str, Any]:
    path = Path(given).expanduser()
    if path.is_file():
        return read_json(path)
    if not path.is_dir():
        return _hub_config(given, ["transformer", "unet", ""])
    index = read_json(path / "model_index.json") if (path / "model_index.json").is_file() else None
    component = choose_components(index, lambda name: (path / name).is_dir(), str(path))[0]
    return read_json(path / component / "config.json")


def _hub_config(repo: str, subfolders: list[str]) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    problem: Exception | None = None
    for subfolder in subfolders:
        try:
            return read_json(Path(hf_hub_download(repo, "config.json", subfolder=subfolder or None)))
        except Exception as error:  # the client's errors are of no common class
            problem = error
    message = f"no config.json of a denoiser could be fetched from {repo} ({type(problem).__name__})"
    raise SourceError(message) from problem


def _converted(
    where: str, header: Mapping[str, TensorInfo], names: list[str], config: dict[str, Any]
) -> dict[str, Tensor]:
    """Parameter of the denoiser → its markers. Raises SourceError where diffusers has no converter, or it fails."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    from eigenbank.builders.discovery.fake_weights import empty_model

    # One column is enough to see where a row goes, and takes no memory.
    markers = {
        unwrapped(name): (number << _SOURCE) + torch.arange(info.shape[0]).reshape(-1, *[1] * (len(info.shape) - 1))
        if info.shape
        else torch.tensor(number << _SOURCE)
        for number, (name, info) in enumerate(header.items())
        if not name.endswith(SCALES) and not name.endswith("scaled_fp8")
    }
    parameters = dict(empty_model(config).named_parameters())
    own = {plain_name(name): marker for name, marker in markers.items()}
    if sum(name in parameters for name in own) > len(parameters) // 2:
        return own
    kind = str(config.get("_class_name"))
    entry = SINGLE_FILE_LOADABLE_CLASSES.get(kind)
    if entry is None:
        problem = f"diffusers has no converter for single files of a {kind}"
        raise SourceError(problem, advice="Give a diffusers folder")
    try:
        converted = entry["checkpoint_mapping_fn"](checkpoint=dict(markers), config=config)
    except Exception as error:  # a converter fails in whatever way the file makes it
        problem = (
            f"{where} is not what its config says, a {kind}: diffusers' converter fails ({type(error).__name__}"
            f": {error})"
        )
        raise SourceError(problem, advice="Say what it is with `config=`") from error
    return {str(name): marker for name, marker in converted.items() if isinstance(marker, torch.Tensor)}
