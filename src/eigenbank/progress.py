"""How long work reports to its caller: how far it is, messages for the user, and no bars of the libraries' own."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def without_advice(kind: type[Warning]) -> Iterator[None]:
    """Run something without what diffusers logs of it, below errors, and without warnings of a kind."""
    logger = logging.getLogger("diffusers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", kind)
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def quietly() -> Iterator[None]:
    """Load something without the progress bars of diffusers and transformers, and their quarrel over the name of the dtype."""
    from diffusers.utils import is_transformers_available
    from diffusers.utils import logging as diffusers_logging

    libraries = [diffusers_logging]
    if is_transformers_available():
        from transformers.utils import logging as transformers_logging

        libraries.append(transformers_logging)
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
            yield
    finally:
        for library in shown:
            library.enable_progress_bar()
