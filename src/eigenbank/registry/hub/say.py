"""How the Hub's work is announced: through a function that takes a sentence."""

import logging
from collections.abc import Callable

Say = Callable[[str], None]


def announce(message: str) -> None:
    """Tell the user of a library call: a warning of the logger `eigenbank`, on stderr unless logging is set up."""
    logging.getLogger("eigenbank").warning("%s", message)
