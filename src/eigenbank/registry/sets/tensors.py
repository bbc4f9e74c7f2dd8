"""Read a safetensors header safely: sizes are checked against the file before anything is allocated."""

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eigenbank.registry.file_kinds import kind_of_bytes
from eigenbank.registry.files import open_regular, parse_json
from eigenbank.schemas.errors import EigenbankError

MAX_HEADER_BYTES = 100_000_000
"""Longest header read, as in the safetensors library."""
_MAX_VALUES = 3_000_000
_AGAIN = "Fetch or save it again"
BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""The dtypes that the safetensors library knows, and the bits of one number of each."""
_MINUS_ZERO = re.compile(rb"[\[,:]\s*-0\s*[\],}]")
_U64 = 2**64


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
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(256) or b""  # None: a file of /proc that has nothing to say
            length = header_length(start, size, str(path))
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror or error})"
        raise TensorFileError(problem, outcome="nothing was done") from error
    return parse_header(text, size - 8 - length, str(path))


def header_length(start: bytes, size: int, where: str) -> int:
    """Read a header's length off the start of a file of that size. Raises TensorFileError, which says what it is instead."""
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        return int(length)
    kind = kind_of_bytes(start)
    if kind is not None:
        problem = f"{where} is no safetensors file, it is {kind[0]}"
        raise TensorFileError(problem, outcome="nothing was read", advice=kind[1])
    problem = f"{where} is no whole safetensors file: it is {size} bytes long and its header would be {length}"
    raise TensorFileError(problem, outcome="nothing was read", advice=_AGAIN)


def parse_header(text: bytes, body: int, where: str) -> dict[str, TensorInfo]:
    """Parse a header's JSON and check it against a body of `body` bytes: what passes, the safetensors library reads too.

    Raises TensorFileError naming `where`.
    """
    try:
        if _MINUS_ZERO.search(text):
            message = "it holds -0"
            raise ValueError(message)
        header = parse_json(text, values=_MAX_VALUES)
        metadata = {} if header.get("__metadata__") is None else header["__metadata__"]
        header.pop("__metadata__", None)
        entries = {name: _entry(entry) for name, entry in header.items()}
        # A lone surrogate, which Python's reader lets pass, or what is no text, fails here.
        "".join([*entries, *metadata.keys(), *metadata.values()]).encode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{where} is no safetensors file: its header is malformed ({error})"
        raise TensorFileError(problem, outcome="nothing was read", advice=_AGAIN) from error
    whole = max((info.end for info in entries.values()), default=0)
    if 0 <= body < whole and all(0 <= info.begin <= info.end for info in entries.values()):
        problem = f"{where} is truncated: of {whole} bytes of tensors it holds {body}"
        raise TensorFileError(problem, outcome="nothing was read", advice="Fetch it again, whole")
    reached = 0
    for name, info in sorted(entries.items(), key=lambda entry: (entry[1].begin, entry[1].end)):
        if not 0 <= info.begin <= info.end <= body:
            problem = f"{name} should end at byte {info.end} of {body}: it is truncated or damaged"
        elif info.begin < reached:
            problem = f"{name} overlaps the tensor before it: it is damaged"
        elif info.begin > reached:
            problem = f"the {info.begin - reached} bytes before {name} belong to no tensor: it is damaged"
        elif 8 * info.size != _bits(info):
            problem = f"{name} is {info.dtype} of shape {list(info.shape)} but {info.size} bytes long: it is damaged"
        else:
            reached = info.end
            continue
        message = f"{where}: {problem}"
        raise TensorFileError(message, outcome="nothing was read", advice=_AGAIN)
    if reached < body:
        message = f"{where}: its last {body - reached} bytes belong to no tensor: it is damaged"
        raise TensorFileError(message, outcome="nothing was read", advice=_AGAIN)
    return entries


def _entry(found: Any) -> TensorInfo:
    """Read a tensor's entry, its types as strict as the library's. Raises ValueError, KeyError, TypeError."""
    begin, end = found["data_offsets"]
    shape = found["shape"]
    whole = isinstance(shape, list) and all(type(number) is int and 0 <= number < _U64 for number in shape)
    if len(found) != 3 or not whole or type(begin) is not int or type(end) is not int or found["dtype"] not in BITS:
        message = "an entry is not a dtype, a shape and two offsets"
        raise ValueError(message)
    return TensorInfo(found["dtype"], tuple(shape), begin, end)


def _bits(info: TensorInfo) -> int | None:
    """The bits that a tensor's numbers take; None where counting them overflows, as it does in the library."""
    count = 1
    for extent in info.shape:
        count *= extent
        if count >= _U64:
            return None
    bits = count * BITS[info.dtype]
    return bits if bits < _U64 else None


def check_unit_rows(path: Path) -> str | None:
    """Return the first tensor whose rows are not finite unit vectors; None when all are. Only float32 matrices pass.

    Needs no torch. Raises TensorFileError.
    """
    import numpy as np
    from safetensors import safe_open

    header = read_header(path)
    with safe_open(path, framework="np") as file:
        for name, info in header.items():
            if info.dtype != "F32" or len(info.shape) != 2:
                return name
            lengths = np.linalg.norm(file.get_tensor(name).astype(np.float64), axis=1)
            if not (np.abs(lengths - 1) < 1e-4).all():
                return name
    return None
