"""Read a safetensors header safely: sizes are checked against the file before anything is allocated."""

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from eigenbank.schemas.errors import EigenbankError

MAX_HEADER_BYTES = 100 * 2**20
_AGAIN = "Fetch or save it again"
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip


class TensorFileError(EigenbankError):
    """A file is not safetensors, or damaged."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the header describes it: dtype as safetensors names it, shape, and the range of its bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of the tensor in the file."""
        return self.end - self.begin


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read which tensors a safetensors file holds, by name. Raises TensorFileError for a damaged or truncated file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
                problem = (
                    f"{path} is no whole safetensors file: it is {size} bytes long and its header would be {length}"
                )
                raise TensorFileError(problem, outcome="nothing was read", advice=_AGAIN)
            text = file.read(length)
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror or error})"
        raise TensorFileError(problem, outcome="nothing was done") from error
    return parse_header(text, size - 8 - length, str(path))


def _header_length(path: Path) -> int:
    with path.open("rb") as file:
        return int(struct.unpack("<Q", file.read(8))[0])


def parse_header(text: bytes, body: int, where: str) -> dict[str, TensorInfo]:
    """Parse a header's JSON and check it against a body of `body` bytes. Raises TensorFileError naming `where`."""
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = {
            str(name): TensorInfo(
                str(entry["dtype"]), tuple(map(int, entry["shape"])), *map(int, entry["data_offsets"])
            )
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        problem = f"{where} is no safetensors file: its header is malformed"
        raise TensorFileError(problem, outcome="nothing was read", advice=_AGAIN) from error
    reached = 0
    for name, info in sorted(entries.items(), key=lambda entry: (entry[1].begin, entry[1].end)):
        if not 0 <= info.begin <= info.end <= body:
            problem = f"{name} should end at byte {info.end} of {body}: it is truncated or damaged"
        elif info.begin < reached:
            problem = f"{name} overlaps the tensor before it: it is damaged"
        elif info.dtype in ITEM_BYTES and info.size != ITEM_BYTES[info.dtype] * prod(info.shape):
            problem = f"{name} is {info.dtype} of shape {list(info.shape)} but {info.size} bytes long: it is damaged"
        elif any(extent < 0 for extent in info.shape):
            problem = f"{name} has the shape {list(info.shape)}: it is damaged"
        else:
            reached = info.end
            continue
        message = f"{where}: {problem}"
        raise TensorFileError(message, outcome="nothing was read", advice=_AGAIN)
    return entries


def check_unit_rows(path: Path, tolerance: float = 1e-4) -> str | None:
    """Return the first tensor whose rows are not finite unit vectors; None when all are. Only float32 matrices pass.

    Maps the file into memory and needs no torch. Raises TensorFileError.
    """
    import numpy as np

    header = read_header(path)
    start = 8 + _header_length(path)
    for name, info in header.items():
        if info.dtype != "F32" or len(info.shape) != 2:
            return name
        if 0 in info.shape:
            continue
        rows = np.memmap(path, dtype="<f4", mode="r", offset=start + info.begin, shape=info.shape)
        with np.errstate(all="ignore"):
            lengths = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
            if not bool((np.abs(lengths - 1) < tolerance).all()):
                return name
    return None
