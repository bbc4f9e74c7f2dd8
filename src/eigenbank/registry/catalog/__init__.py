"""The catalog: what is known of checkpoints, layers, directions and labels, and where their sets are."""

from eigenbank.registry.catalog.catalog import Catalog
from eigenbank.registry.catalog.query import Filters, Sort
from eigenbank.registry.catalog.rows import DirectionName, DirectionRow, Page, SetRow

__all__ = ["Catalog", "DirectionName", "DirectionRow", "Filters", "Page", "SetRow", "Sort"]
