"""Attribute models as labelers: any network that maps images to scores, with a small JSON of their names.

A folder holds `config.json` and one of
- `model.safetensors`: the project's own network (`eigenbank.faces.attributes`);
- `model.onnx`: run by onnxruntime (extra `onnx`), one input `(n, 3, h, w)` float32, first output `(n, f)`;
- `model.pt2`: a program saved by `torch.export.save`, called with `(n, 3, h, w)`, giving `(n, f)`.

For the latter two, config.json has `names`, and may have `stds` (of the scores, over the population the model was
trained on), `size` (height and width the images are resized to), `mean` and `std` (per channel; images are in [0, 1]
before), e.g. {"names": ["smile", "age"], "size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from eigenbank.builders.label.labeler import Labeler
from eigenbank.faces.attributes import AttributeModel, load_attribute_model
from eigenbank.registry.sets.folder import file_digest
from eigenbank.schemas.common import Model, Text
from eigenbank.schemas.errors import SourceError, first_problem

Positive = Annotated[float, Field(gt=0)]
BATCH = 64


class ReaderConfig(Model):
    """The config.json of an attribute model that is a program: see the module."""

    names: tuple[Text, ...] = Field(min_length=1, max_length=10_000)
    stds: tuple[Positive, ...] | None = None
    size: Annotated[int, Field(ge=1, le=4096)] | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)

    @model_validator(mode="after")
    def _paired(self) -> "ReaderConfig":
        if self.stds is not None and len(self.stds) != len(self.names):
            message = f"{len(self.names)} names and {len(self.stds)} stds: expected as many"
            raise ValueError(message)
        return self


class ProgramLabeler:
    """Scores by a program of somebody's. `digest` is the SHA-256 of its file."""

    def __init__(self, config: ReaderConfig, digest: str, run: Callable[[Tensor], Tensor]) -> None:
        self.source = f"attribute-model:{digest[:16]}"
        self.names = config.names
        self.stds = None if config.stds is None else torch.tensor(config.stds)
        self._config = config
        self._run = run

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """`(n, 3, h, w)` in [0, 1] → `(n, f)`."""
        size = self._config.size
        if size is not None and images.shape[-2:] != (size, size):
            images = nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
        mean, std = (images.new_tensor(value)[:, None, None] for value in (self._config.mean, self._config.std))
        return torch.cat([self._run((part - mean) / std) for part in images.split(BATCH)])


def open_attributes(folder: Path) -> Labeler:
    """The attribute model in a folder. Raises SourceError where there is none, or its files are not sound."""
    programs: dict[str, Callable[[Path], Callable[[Tensor], Tensor]]] = {
        "model.onnx": _onnx,
        "model.pt2": _exported,
    }
    for name, load in programs.items():
        path = folder / name
        if path.is_file() and not (folder / "model.safetensors").is_file():
            config = _config(folder / "config.json")
            return ProgramLabeler(config, file_digest(path), load(path))
    return _Own(load_attribute_model(folder))


class _Own:
    """The project's own network as a labeler."""

    def __init__(self, model: AttributeModel) -> None:
        self.source = f"attribute-model:{model.digest[:16]}"
        self.names = model.config.names
        self.stds: Tensor | None = torch.tensor(model.config.stds)
        self.read = model.read


def _config(path: Path) -> ReaderConfig:
    try:
        return ReaderConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): no label was given. It must name the model's scores"
        raise SourceError(message) from error
    except ValidationError as error:
        message = f"{path} is no attribute model's config: {first_problem(error)}. No label was given"
        raise SourceError(message) from error


def _onnx(path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
    except ImportError as error:
        message = f"{path} needs onnxruntime: no label was given. pip install 'eigenbank[onnx]'"
        raise SourceError(message) from error
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0].name
    except Exception as error:  # onnxruntime's errors have no common parent
        message = f"{path} is no ONNX model onnxruntime can run: no label was given ({error})"
        raise SourceError(message) from error
    return lambda images: torch.from_numpy(session.run(None, {given: images.cpu().numpy()})[0])


def _exported(path: Path) -> Callable[[Tensor], Tensor]:
    try:
        return torch.export.load(path).module()
    except Exception as error:  # torch raises whatever its reader stumbles over
        message = f"{path} is no program saved by torch.export.save: no label was given ({error})"
        raise SourceError(message) from error
