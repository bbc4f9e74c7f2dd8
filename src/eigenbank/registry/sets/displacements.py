"""What a set's directions do to pictures as an image-text model sees it: enough to look for any words with nothing drawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eigenbank.registry.files import read_bounded
from eigenbank.registry.sets.folder import file_mismatch
from eigenbank.registry.sets.tensors import read_header
from eigenbank.schemas import DisplacementRecord, Manifest
from eigenbank.schemas.errors import SetError

if TYPE_CHECKING:
    from torch import Tensor

DISPLACEMENTS = "displacements.safetensors"
MAX_WIDTH = 4096
"""Widest embedding accepted."""
MAX_UNEDITED = 1024


@dataclass(frozen=True)
class Displacements:
    """How far each direction moves an embedding per unit of scale, `mean` `(K, d)` in the set's order, zero where it was not looked
    at; and the embeddings of `unedited` pictures `(n, d)`. `record` says by which model, and how.
    """

    record: DisplacementRecord
    mean: "Tensor"
    unedited: "Tensor"

    def towards(self, axis: "Tensor") -> "tuple[Tensor, Tensor]":
        """How much each direction moves pictures along a unit `axis` `(d,)`, in standard deviations over the unedited ones; and
        the share of its movement that this is, from 0 to 1.
        """
        along = self.mean @ axis
        spread = (self.unedited @ axis).std().clamp_min(1e-6)
        return along / spread, along.abs() / self.mean.norm(dim=1).clamp_min(1e-9)

    def content(self) -> bytes:
        """The file of a set that holds them, in float16."""
        from safetensors.torch import save

        return save({"mean": self.mean.half().contiguous(), "unedited": self.unedited.half().contiguous()})


def most_bytes(manifest: Manifest) -> int:
    """How long the file of a set's displacements may be."""
    return 2 * MAX_WIDTH * (len(manifest.directions) + MAX_UNEDITED) + 2**16


def read_displacements(folder: Path, manifest: Manifest) -> Displacements | None:
    """Read a set's displacements; None where it has none. Raises SetError where they are not what the manifest says."""
    from safetensors.torch import load_file

    if manifest.displacements is None:
        return None
    check_displacements(folder, manifest)
    found = load_file(folder / DISPLACEMENTS)
    return Displacements(manifest.displacements, found["mean"].float(), found["unedited"].float())


def check_displacements(folder: Path, manifest: Manifest) -> None:
    """Raise SetError unless the file holds, for each direction, a vector as wide as those of the unedited pictures."""
    path = folder / DISPLACEMENTS
    if DISPLACEMENTS not in manifest.files or not path.is_file():
        message = f"{folder} lacks {DISPLACEMENTS}, which its manifest speaks of"
        raise SetError(message)
    wrong = file_mismatch(path, manifest.files[DISPLACEMENTS])
    if wrong is not None:
        message = f"{path} {wrong}"
        raise SetError(message)
    header = read_header(path)
    shapes = {name: (info.dtype, *info.shape) for name, info in header.items()}
    mean, unedited = (header[name].shape if name in header else () for name in ("mean", "unedited"))
    fits = (
        len(header) == 2 and {info.dtype for info in header.values()} == {"F16"} and len(mean) == len(unedited) == 2
        and mean[0] == len(manifest.directions) and 0 < mean[1] == unedited[1] <= MAX_WIDTH
        and 2 <= unedited[0] <= MAX_UNEDITED
    )  # fmt: skip
    if not fits:
        message = (
            f"{path} should hold mean ({len(manifest.directions)}, d) and unedited (n, d) in float16, it holds {shapes}"
        )
        raise SetError(message)
    size = sum(info.size for info in header.values())
    high = set(read_bounded(path, most_bytes(manifest))[-size:][1::2])  # the half of each number with its exponent
    if any(byte & 0x7C == 0x7C for byte in high):
        message = f"{path} holds numbers that are not finite"
        raise SetError(message)
