"""Attribute models as labelers: any network that maps images to scores, with a small JSON of their names.

A folder holds `config.json` and one of
- `model.safetensors`: the project's own network (`AttributeModel`);
- `model.onnx`: run by onnxruntime (extra `onnx`), one input `(n, 3, h, w)` float32, first output `(n, f)`;
- a program saved by `torch.export.save` (`NAME.pt2`), called with `(n, 3, h, w)`, giving `(n, f)`. Opening one can run
  whatever code is in it: it is opened only where the file itself is named, never because a folder holds it.

For the latter two, config.json has `names`, and may have `stds` (of the scores, over the population the model was
trained on), `size` (height and width the images are resized to), `mean` and `std` (per channel; images are in [0, 1]
before), e.g. {"names": ["smile", "age"], "size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file
from torch import Tensor, nn

from eigenbank.builders.label.labeler import BATCH, Labeler
from eigenbank.progress import log_warning
from eigenbank.registry.files import parse_as, read_bounded
from eigenbank.registry.sets.folder import file_digest
from eigenbank.registry.sets.tensors import read_header
from eigenbank.schemas.common import Model, Text
from eigenbank.schemas.errors import SourceError, first_problem

C = TypeVar("C", bound=Model)
Positive = Annotated[float, Field(gt=0)]
MAX_ONNX_BYTES = 2 * 2**30
"""Largest ONNX file, as its format allows in one piece."""


class ScoreConfig(Model):
    """The names of an attribute model's scores, none twice, and maybe the standard deviation of each."""

    names: tuple[Text, ...] = Field(min_length=1, max_length=10_000)
    stds: tuple[Positive, ...] | None = None

    @model_validator(mode="after")
    def _paired(self) -> "ScoreConfig":
        stds = self.names if self.stds is None else self.stds
        if len(self.names) != len(stds) or len(set(self.names)) != len(self.names):
            message = f"{len(self.names)} names and {len(stds)} stds: expected as many, and no name twice"
            raise ValueError(message)
        return self


class AttributeConfig(ScoreConfig):
    """What an attribute model reads: `names` and, for each, the standard deviation over the population it was trained on.

    `size` is the images' height and width, `first_channels` the network's, `r2` each name's share of variance read from
    images it was not trained on.
    """

    names: tuple[Text, ...] = Field(min_length=1, max_length=1000)
    stds: tuple[Positive, ...]
    size: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = 32
    first_channels: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 32
    r2: dict[Text, float] = Field(default_factory=dict)


class AttributeModel(nn.Module):
    """`(n, 3, size, size)` images in [-1, 1] → `(n, len(names))` attribute values; a labeler.

    The head is a plain flatten rather than a global pool: where a thing is, is part of what is asked.
    """

    def __init__(self, config: AttributeConfig) -> None:
        super().__init__()
        self.config = config
        self.source = "attribute-model:untrained"
        self.names = config.names
        self.stds: Tensor | None = torch.tensor(config.stds)
        layers: list[nn.Module] = []
        channels = 3
        for step in range(3):
            out = config.first_channels * 2 ** min(step, 1)
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.GroupNorm(8, out), nn.SiLU()]
            layers += [nn.Conv2d(out, out, 3, stride=2, padding=1), nn.SiLU()]
            channels = out
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * (config.size // 8) ** 2, 128),
            nn.SiLU(),
            nn.Linear(128, len(config.names)),
        )

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """Attributes of `(n, 3, h, w)` images in [0, 1], as `(n, len(names))`; other sizes are resized to the model's."""
        return _read(images.to(next(self.parameters()).device), self.config.size, lambda part: self(part * 2 - 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))  # type: ignore[no-any-return]


def load_attribute_model(folder: Path) -> AttributeModel:
    """Load an attribute model from its config.json and model.safetensors. Raises SourceError for anything else."""
    config_file, weights = folder / "config.json", folder / "model.safetensors"
    if not config_file.is_file() or not weights.is_file():
        problem = f"{folder} is no attribute model: expected config.json and model.safetensors in it"
        raise SourceError(problem)
    config = _config(AttributeConfig, config_file)
    with torch.device("meta"):  # the config may ask for more than there is memory: the file says what there is
        model = AttributeModel(config)
    held = {name: info.shape for name, info in read_header(weights).items()}
    if held != {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}:
        problem = f"{weights} does not fit its config.json"
        raise SourceError(problem, advice="Its files belong to different models")
    model.stds = torch.tensor(config.stds)
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()}, assign=True)
    model.source = f"attribute-model:{file_digest(weights)[:16]}"
    return model.eval()


class ProgramConfig(ScoreConfig):
    """The config.json of an attribute model that is a program: see the module."""

    size: Annotated[int, Field(ge=1, le=1024)] | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)


class ProgramLabeler:
    """Reads scores by running a program; `digest` is the SHA-256 of its file."""

    def __init__(self, config: ProgramConfig, digest: str, run: Callable[[Tensor], Tensor]) -> None:
        self.source = f"attribute-model:{digest[:16]}"
        self.digest = config.model_dump_json()
        self.names = config.names
        self.stds = None if config.stds is None else torch.tensor(config.stds)
        self._config = config
        self._run = run

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """`(n, 3, h, w)` in [0, 1] → `(n, f)`."""
        mean, std = (images.new_tensor(value)[:, None, None] for value in (self._config.mean, self._config.std))
        return _read(images, self._config.size, lambda part: self._run((part - mean) / std))


def _read(images: Tensor, size: int | None, run: Callable[[Tensor], Tensor]) -> Tensor:
    """What a network reads off images resized to its size, a batch at a time."""

    def resized(part: Tensor) -> Tensor:
        if size is None or part.shape[-2:] == (size, size):
            return part
        return nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True)

    return torch.cat([run(resized(part)) for part in images.split(BATCH)])


def open_attributes(path: Path) -> Labeler:
    """Open the attribute model in a folder, or a program in a file that is named itself, whose config.json lies beside it.

    Raises SourceError where there is none, or its files are not valid.
    """
    if path.is_file():
        load = {".onnx": _onnx, ".pt2": _exported}.get(path.suffix)
        if load is None:
            message = f"{path} is no attribute model: expected a folder, or a file .onnx or .pt2"
            raise SourceError(message)
        return ProgramLabeler(_config(ProgramConfig, path.parent / "config.json"), file_digest(path), load(path))
    if not (path / "model.safetensors").is_file():
        if (path / "model.onnx").is_file():
            return open_attributes(path / "model.onnx")
        program = next(iter(sorted(path.glob("*.pt2"))), None)
        if program is not None:
            problem = f"{program} is a program, which can run any code when it is opened, and was not named itself"
            advice = f"If you trust where it is from: `labeler=attributes:{program}`. Else save the model as ONNX"
            raise SourceError(problem, advice=advice)
    return load_attribute_model(path)


def _config(kind: type[C], path: Path) -> C:
    try:
        return parse_as(kind, read_bounded(path, 2**20))
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror})"
        raise SourceError(problem, advice="It must name the model's scores") from error
    except ValueError as error:
        problem = f"{path} is no attribute model's config: {first_problem(error)}"
        raise SourceError(problem) from error


def _onnx(path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
    except ImportError as error:
        problem = f"{path} needs onnxruntime"
        raise SourceError(problem, advice="Install it: pip install 'eigenbank[onnx]'") from error
    try:
        # From bytes: a model in several files could name any file of this machine as one of them.
        session = onnxruntime.InferenceSession(read_bounded(path, MAX_ONNX_BYTES), providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0].name
    except Exception as error:  # onnxruntime's errors have no common parent
        problem = f"{path} is no ONNX model onnxruntime can run ({error})"
        raise SourceError(problem) from error
    return lambda images: torch.from_numpy(session.run(None, {given: images.cpu().numpy()})[0])


def _exported(path: Path) -> Callable[[Tensor], Tensor]:
    log_warning(f"{path} is a program: opening it can run any code that is in it")
    try:
        return torch.export.load(path).module()
    except Exception as error:  # torch raises whatever its reader stumbles over
        problem = f"{path} is no program saved by torch.export.save ({error})"
        raise SourceError(problem) from error
