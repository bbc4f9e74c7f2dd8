"""The catalog: an index of direction sets, and the labels that people gave their directions."""

from eigenbank.registry.catalog.catalog import Catalog
from eigenbank.registry.catalog.index import SetEntry
from eigenbank.registry.catalog.search import DirectionRow, Filters, Page
from eigenbank.registry.catalog.sets import SetRow
from eigenbank.registry.ranking import Sort

__all__ = ["Catalog", "DirectionRow", "Filters", "Page", "SetEntry", "SetRow", "Sort"]
