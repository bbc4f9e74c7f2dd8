"""What long work tells of how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


def unwatched(_what: str, _done: int, _total: int) -> None:
    """The progress of what nobody watches."""
