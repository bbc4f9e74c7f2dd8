"""The catalog: an index of direction sets, and the labels that people gave their directions."""

from eigenbank.registry.catalog.catalog import Catalog
from eigenbank.registry.catalog.rows import DirectionName, DirectionRow, Filters, Page, SetEntry, SetRow
from eigenbank.registry.ranking import Sort

__all__ = ["Catalog", "DirectionName", "DirectionRow", "Filters", "Page", "SetEntry", "SetRow", "Sort"]
