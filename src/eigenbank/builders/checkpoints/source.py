"""The base class of checkpoints: which tensors one stores, and reading rows of them and nothing else.

A `ByteReader` knows where the bytes are: in a file, or on a server. A denoiser's parameter may be stored under another
name, or as rows of another tensor: `WeightSource.stored` says how.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eigenbank.registry.file_kinds import plain_name, unwrapped
from eigenbank.registry.files import open_regular
from eigenbank.registry.sets.tensors import TensorInfo
from eigenbank.schemas import Layer, Part
from eigenbank.schemas.errors import SourceError

if TYPE_CHECKING:
    from torch import Tensor

FLOATS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""The dtypes weights are read in, in safetensors' words and torch's."""
SCALES = (".weight_scale", ".scale_weight", ".weight_scale_inv")
"""What the scale of an 8-bit weight is called: `W = stored · scale`, for all of it, for each row, or for each block."""
_HARMLESS = re.compile(r"\.(bias|input_scale|scale_input|comfy_quant)$|(scale_shift_table|logit_scale)$")
"""What may lie beside a weight without changing it: scales of what the layer reads, and the name of a known format."""
_SCALE_LIKE = re.compile(r"scale|absmax|amax|zero_?point|qzeros|quant|dequant|codebook|lut$", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention|to_[qkv]|qkv", re.IGNORECASE)
_QUANTISED = {
    "I8": "8-bit integers (int8)",
    "U8": "packed into bytes (U8), as NF4, NVFP4 and other 4-bit formats are",
    "I32": "packed into integers (I32), as GPTQ and AWQ do",
    "F4": "4-bit floats",
}
_ORIGINAL = "Give the original checkpoint, in float32, float16 or bfloat16"
DEPRECATED = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Today's names of an attention's projections, and those of checkpoints saved before diffusers 0.17."""

Span = tuple[int, int]


class ByteReader(Protocol):
    """Reads byte ranges of one file, counted from its start."""

    def read(self, spans: Sequence[Span]) -> list[bytes | bytearray]:
        """The bytes of each span, in order. Raises SourceError."""


@dataclass(frozen=True)
class Piece:
    """Rows of a stored tensor, from `start` to before `end`."""

    stored: str
    start: int
    end: int


@dataclass
class WeightSource:
    """A denoiser's checkpoint: its config, what it stores, and where. Subclasses read rows of it."""

    config: dict[str, Any]
    component: str = ""
    licence: str | None = None
    revision: str | None = None
    where: str = ""
    bytes_read: int = field(default=0, init=False)
    others: "tuple[WeightSource, ...]" = field(default=(), init=False)
    """The pipeline's further denoisers."""

    @property
    def all(self) -> "tuple[WeightSource, ...]":
        """It and the pipeline's further denoisers."""
        return (self, *self.others)

    def of(self, component: str) -> "WeightSource | None":
        """That denoiser of the pipeline; where there is but one without a pipeline, or none is named, the first."""
        first = self if not (component and self.component) else None
        return next((each for each in self.all if component and each.component == component), first)

    @cached_property
    def headers(self) -> Mapping[str, TensorInfo]:
        """What is stored, by the name it is stored under."""
        raise NotImplementedError

    @property
    def quantised(self) -> str | None:
        """What the weights were quantised by, as the config says; None where they are not."""
        how = self.config.get("quantization_config")
        if not isinstance(how, dict):
            return None
        return str(how.get("quant_method") or how.get("quant_type") or "an unnamed method")[:100]

    def holds_values(self, parts: Iterable[Part]) -> bool:
        """Whether these parts are stored as numbers that can be read as they are."""
        return all(self.headers[piece.stored].dtype in FLOATS for part in parts for piece in self.pieces(part))

    @property
    def total(self) -> int:
        """Bytes of all that is stored."""
        return sum(info.size for info in self.headers.values())

    def rows(self, pieces: Sequence[Piece]) -> "list[Tensor]":
        """The rows of each piece, as stored. Adds to `bytes_read`."""
        raise NotImplementedError

    def stored(self, parameter: str) -> list[Piece] | None:
        """The pieces that make up a parameter of the denoiser, None where it is not stored."""
        plain = stored_name(parameter, self._stored_as)
        return None if plain is None else [self._whole(self._stored_as[plain])]

    @cached_property
    def _stored_as(self) -> dict[str, str]:
        return {plain_name(unwrapped(name)): name for name in self.headers}

    def shape(self, parameter: str) -> tuple[int, ...] | None:
        """The shape of a parameter of the denoiser as it is stored; None where it is not."""
        pieces = self.stored(parameter)
        if pieces is None:
            return None
        rest = self.headers[pieces[0].stored].shape[1:]
        return (sum(piece.end - piece.start for piece in pieces), *rest)

    def pieces(self, part: Part) -> list[Piece]:
        """The stored rows behind a part."""
        whole = self.stored(part.tensor) or []
        found: list[Piece] = []
        for start, end in part.rows or [(0, sum(piece.end - piece.start for piece in whole))]:
            offset = 0
            for piece in whole:
                low, high = max(start, offset), min(end, offset + piece.end - piece.start)
                if low < high:
                    found.append(Piece(piece.stored, piece.start + low - offset, piece.start + high - offset))
                offset += piece.end - piece.start
        return found

    def size(self, parts: Iterable[Part]) -> int:
        """Bytes to read for these parts: whole rows, of which columns are taken later."""
        pieces = {piece for part in parts for piece in self.pieces(part)}
        return sum(self._row_bytes(piece.stored) * (piece.end - piece.start) for piece in pieces)

    def layer_size(self, layer: Layer) -> int:
        """Bytes to read for a layer, of whichever denoiser."""
        return (self.of(layer.component) or self).size(layer.tensors.values())

    def _row_bytes(self, name: str) -> int:
        info = self.headers[name]
        return info.size // max(1, info.shape[0]) if info.shape else info.size

    def read(self, parts: Sequence[Part]) -> "list[Tensor]":
        """Each part as a matrix or vector, in the dtype it is stored in (8-bit floats as float32). Raises SourceError."""
        import torch

        wanted = [self.pieces(part) for part in parts]
        flat = list(dict.fromkeys(piece for pieces in wanted for piece in pieces))
        for piece in flat:
            self._check_dtype(piece.stored)
            self._check_scales(piece.stored)
        scales = {name: scale for name in {piece.stored for piece in flat} if (scale := self._scale_name(name))}
        tensors = dict(zip(flat, self.rows(flat), strict=True))
        factors = (
            dict(zip(scales, self.rows([self._whole(scale) for scale in scales.values()]), strict=True))
            if scales
            else {}
        )
        found = []
        for part, pieces in zip(parts, wanted, strict=True):
            each = [
                _dequantised(tensors[piece], piece, factors.get(piece.stored), self.headers[piece.stored])
                for piece in pieces
            ]
            matrix = each[0] if len(each) == 1 else torch.cat(each)
            matrix = matrix.flatten(1) if matrix.ndim > 2 else matrix
            found.append(matrix if part.columns is None else matrix[:, part.columns[0] : part.columns[1]])
        return found

    def fingerprint(self) -> str:
        """A short digest of the weights, which tells checkpoints apart: of a row of every attention matrix, in float16."""
        import torch

        names = [name for name, info in self.headers.items() if len(info.shape) == 2 and info.dtype in FLOATS]
        chosen = sorted(name for name in names if _ATTENTION.search(name)) or sorted(names)
        read = self.bytes_read
        found = hashlib.sha256(json.dumps(chosen).encode())
        for row in self.rows([Piece(name, 0, 1) for name in chosen]):
            found.update(row.to(torch.float16).contiguous().view(torch.uint8).numpy().tobytes())
        self.bytes_read = read
        return found.hexdigest()[:8]

    def _whole(self, name: str) -> Piece:
        shape = self.headers[name].shape
        return Piece(name, 0, shape[0] if shape else 1)

    def _scale_name(self, name: str) -> str | None:
        if not self.headers[name].dtype.startswith("F8") or not name.endswith(".weight"):
            return None
        stem = name[: -len(".weight")]
        return next((stem + suffix for suffix in SCALES if stem + suffix in self.headers), None)

    def _check_dtype(self, name: str) -> None:
        dtype = self.headers[name].dtype
        if dtype in FLOATS:
            return
        how = _QUANTISED.get(dtype, f"stored as {dtype[:40]}")
        problem = f"{self.where}: {name} is {how}, which cannot be decomposed as it is"
        raise SourceError(problem, advice="Give the original checkpoint in float32, float16, bfloat16 or 8-bit floats")

    def _check_scales(self, name: str) -> None:
        """Raise SourceError for a weight beside which lies what looks like a scale, and is none that is understood."""
        stem, _, last = name.rpartition(".")
        if last != "weight" or len(self.headers[name].shape) < 2:
            return
        own = self._scale_name(name)
        # Beside a weight lies nothing but its bias: any other name there says how it is to be read.
        strange = [key for key in self._beside[stem] if key not in (name, own)]
        named = re.compile(rf"(^|\.){re.escape(stem)}([._]|$)")
        strange += [key for key in self._scale_like if key != own and named.search(key)]
        strange += self._beside.get(name, ())
        if own is None and self.headers[name].dtype.startswith("F8"):
            strange += [key for key in self._scale_like if not key.endswith(SCALES)]
        if strange:
            problem = f"{self.where}: beside {name} lies {strange[0]}, which looks like its scale and is none that is understood"
            raise SourceError(problem, advice=_ORIGINAL)
        if own is not None:
            self._check_scale(name, own)

    @cached_property
    def _beside(self) -> dict[str, list[str]]:
        """Names of what is stored, but what is harmless, by all before their last dot."""
        found: dict[str, list[str]] = {}
        for key in self.headers:
            if not _HARMLESS.search(key) and not key.endswith("scaled_fp8"):
                found.setdefault(key.rpartition(".")[0], []).append(key)
        return found

    @cached_property
    def _scale_like(self) -> list[str]:
        return [key for keys in self._beside.values() for key in keys if _SCALE_LIKE.search(key)]

    def _check_scale(self, name: str, scale: str) -> None:
        """Raise SourceError for a scale that is no number, nor one for each row or block of its weight."""
        shape, (dtype, of) = self.headers[name].shape, (self.headers[scale].dtype, self.headers[scale].shape)
        # Of blocks of 128, as they are made, the last may be smaller: then the number of blocks does not tell their size.
        fits = all(
            count and extent % count == 0 and (count == 1 or (extent // count).bit_count() == 1)
            for extent, count in zip(shape, (*of, *[1] * (len(shape) - len(of))), strict=False)
        )
        if dtype not in FLOATS or dtype.startswith("F8") or len(of) > len(shape) or not fits:
            problem = (
                f"{self.where}: {scale}, the scale of {name}, is {dtype[:40]} of shape {list(of)}, which is not understood "
                f"for a weight of shape {list(shape)}"
            )
            raise SourceError(problem, advice=_ORIGINAL)


@dataclass
class SafetensorsSource(WeightSource):
    """A checkpoint in safetensors files. `files` holds each file's reader, header and where its tensors begin."""

    files: dict[str, "TensorFile"] = field(default_factory=dict)
    home: dict[str, str] = field(default_factory=dict)
    """Stored tensor → the file that holds it."""

    @cached_property
    def headers(self) -> Mapping[str, TensorInfo]:
        return {name: self.files[file].header[name] for name, file in self.home.items()}

    def rows(self, pieces: Sequence[Piece]) -> "list[Tensor]":
        import torch

        found: dict[Piece, Tensor] = {}
        for key in sorted({self.home[piece.stored] for piece in pieces}):
            file = self.files[key]
            mine = [piece for piece in pieces if self.home[piece.stored] == key]
            spans = []
            for piece in mine:
                size, begin = self._row_bytes(piece.stored), file.data + self.headers[piece.stored].begin
                spans.append((begin + piece.start * size, begin + piece.end * size))
            for piece, (start, end), data in zip(mine, spans, file.reader.read(spans), strict=True):
                if len(data) != end - start:
                    problem = f"{key} ends before {piece.stored} does"
                    raise SourceError(problem, advice="Fetch it again")
                info = self.headers[piece.stored]
                if not data:
                    problem = f"{piece.stored} in {key} has shape {list(info.shape)}: it is empty"
                    raise SourceError(problem, advice="Save the checkpoint again")
                shape = (piece.end - piece.start, *info.shape[1:]) if info.shape else ()
                tensor = torch.frombuffer(
                    data if isinstance(data, bytearray) else bytearray(data), dtype=getattr(torch, FLOATS[info.dtype])
                )
                found[piece] = tensor.reshape(shape)
                self.bytes_read += end - start
        return [found[piece] for piece in pieces]


@dataclass
class TensorFile:
    """A safetensors file: its header, the byte its tensors begin at, and the reader of its bytes."""

    reader: ByteReader
    header: dict[str, TensorInfo]
    data: int


class LocalReader:
    """Reads a file on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, spans: Sequence[Span]) -> list[bytes | bytearray]:
        """As `ByteReader` says."""
        try:
            with open_regular(self.path) as file:
                return [_filled(file, start, end) for start, end in spans]
        except OSError as error:
            problem = f"{self.path} cannot be read ({error.strerror or error})"
            raise SourceError(problem) from error


def _filled(file: Any, start: int, end: int) -> bytearray:
    buffer = bytearray(end - start)
    view = memoryview(buffer)
    done = 0
    file.seek(start)
    while done < len(buffer):
        count = file.readinto(view[done : done + 2**24])
        if not count:
            break
        done += count
    if hasattr(os, "posix_fadvise") and len(buffer) > 2**24:
        os.posix_fadvise(file.fileno(), start, len(buffer), os.POSIX_FADV_DONTNEED)
    return buffer if done == len(buffer) else buffer[:done]


def stored_name(parameter: str, headers: Mapping[str, object]) -> str | None:
    """The name under which a checkpoint stores a parameter of today's diffusers, None if it does not."""
    if parameter in headers:
        return parameter
    for today, former in DEPRECATED.items():
        stem, found, suffix = parameter.rpartition(f".{today}.")
        if found and f"{stem}.{former}.{suffix}" in headers:
            return f"{stem}.{former}.{suffix}"
    return None


def _dequantised(tensor: "Tensor", piece: Piece, scale: "Tensor | None", info: TensorInfo) -> "Tensor":
    """An 8-bit weight in float32, times its scale where there is one: one number, one a row, or one a block."""
    if not info.dtype.startswith("F8"):
        return tensor
    tensor = tensor.float()
    if scale is None:
        return tensor
    scale = scale.float()
    if scale.numel() == 1:
        return tensor * scale.reshape(())
    rows = info.shape[0] // scale.shape[0]
    scale = scale.reshape(scale.shape[0], -1).repeat_interleave(rows, dim=0)[piece.start : piece.end]
    return tensor * scale.repeat_interleave(tensor.shape[1] // scale.shape[1], dim=1)
