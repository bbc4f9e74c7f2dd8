"""The catalog: what is known of checkpoints, layers, directions and labels, and where their sets are."""

from eigenbank.registry.catalog.catalog import Catalog
from eigenbank.registry.catalog.query import Filters
from eigenbank.registry.catalog.rows import DirectionName, DirectionRow, Page, SetRow
from eigenbank.registry.orders import Sort

__all__ = ["Catalog", "DirectionName", "DirectionRow", "Filters", "Page", "SetRow", "Sort"]
