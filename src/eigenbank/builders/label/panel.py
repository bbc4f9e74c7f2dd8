"""Several labelers reading the same images: drawn once, read by all."""

import torch
from torch import Tensor

from eigenbank.builders.label.labeler import Labeler, checked_scores


class Panel:
    """Labelers side by side. `columns` says which of the scores, in the order they are read, are whose, by source;
    `width` is how many there are."""

    def __init__(self, labelers: list[Labeler]) -> None:
        self.labelers = labelers
        self.columns: dict[str, slice] = {}
        start = 0
        for labeler in labelers:
            self.columns[labeler.source] = slice(start, start + len(labeler.names))
            start += len(labeler.names)
        self.width = start

    def read(self, images: Tensor) -> Tensor:
        """`(n, 3, h, w)` in [0, 1] → `(n, f)` of all labelers. Raises LabelerError, which says whose fault it is."""
        return torch.cat([checked_scores(labeler, images) for labeler in self.labelers], dim=1)
