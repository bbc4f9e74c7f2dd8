"""The orders a search can have: known to the command line without the database's libraries."""

from typing import Literal, get_args

Sort = Literal[
    "match",
    "confidence",
    "eigenvalue",
    "share",
    "rank",
    "catalog",
    "gap",
    "effect",
    "selectivity",
    "consistency",
    "linearity",
    "locality",
    "drift",
]
SORTS: tuple[Sort, ...] = get_args(Sort)
