"""What a set's directions do to pictures as an image-text model sees it: enough to look for any words with nothing drawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eigenbank.registry.sets.folder import DISPLACEMENTS, check_displacements, file_mismatch
from eigenbank.schemas import DisplacementRecord, Manifest
from eigenbank.schemas.errors import SetError

if TYPE_CHECKING:
    from torch import Tensor


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


def read_displacements(folder: Path, manifest: Manifest) -> Displacements | None:
    """Read a set's displacements; None where it has none. Raises SetError where they are not what the manifest says."""
    from safetensors.torch import load_file

    if manifest.displacements is None:
        return None
    check_displacements(folder, manifest)
    path = folder / DISPLACEMENTS
    wrong = file_mismatch(path, manifest.files[DISPLACEMENTS])
    if wrong is not None:
        message = f"{path} {wrong}"
        raise SetError(message)
    found = load_file(path)
    return Displacements(manifest.displacements, found["mean"].float(), found["unedited"].float())
