"""The callbacks through which long work reports to its caller: how far it is, and messages for the user."""

import logging
from collections.abc import Callable

from eigenbank.schemas.printable import printable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

Count = Callable[[int, int], None]
"""Called with how much is done, and how much there is."""

Log = Callable[[str], None]
"""Called with a message for the user."""


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Ignore progress: the default where nobody watches."""


def no_count(_done: int, _total: int) -> None:
    """Ignore a count."""


def log_warning(message: str) -> None:
    """Log a message as a warning of the logger `eigenbank`: on stderr unless logging is set up."""
    logging.getLogger("eigenbank").warning("%s", printable(message))
