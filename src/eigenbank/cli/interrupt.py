"""Ctrl-C: whatever becomes of the exception on its way up, what was interrupted is told to be, and nothing else.

A library between may take a KeyboardInterrupt for a failure of its own: pydantic makes an error of validation of it.
"""

import signal
from types import FrameType

CODE = 130
"""The exit code of what was interrupted: 128 and the signal's number, as shells have it."""
SAID = "interrupted: nothing half-done was left behind"

_arrived: list[int] = []


def listen() -> None:
    """Note every SIGINT from now on. It is let alone where it is ignored, as in the background of a shell's script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)


def arrived() -> bool:
    """Whether one came that nobody was waiting for."""
    return bool(_arrived)


def awaited() -> None:
    """What came was what the command ran until: it ends well."""
    _arrived.clear()


def _note(number: int, _frame: FrameType | None) -> None:
    _arrived.append(number)
    raise KeyboardInterrupt
