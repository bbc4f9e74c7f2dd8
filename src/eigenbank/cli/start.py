"""Where the command `eigenbank` begins: it listens for Ctrl-C before anything of size is imported.

A library may take a KeyboardInterrupt for a failure of its own (pydantic turns it into a validation error), so the signal is
noted as it arrives, and whatever exception comes of it, the user reads that the command was interrupted.
"""

import os
import signal
import sys
from types import FrameType

CODE = 130
"""The exit code of an interrupted command: 128 plus the signal's number, as in shells."""
MESSAGE = "interrupted: nothing half-done was left behind"

_arrived: list[int] = []


def listen() -> None:
    """Note every SIGINT from now on, unless it is ignored, as in the background of a shell script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)


def interrupted() -> bool:
    """Whether Ctrl-C was pressed, and not to end a command that runs until then."""
    return bool(_arrived)


def expected() -> None:
    """Say that Ctrl-C is how this command ends: it exits with 0."""
    _arrived.clear()


def _note(number: int, _frame: FrameType | None) -> None:
    _arrived.append(number)
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line. Exits with 0, 1 for what went wrong, 2 for a wrong call, 130 when interrupted."""
    listen()
    try:
        from eigenbank.cli.main import run

        code = run(sys.argv[1:])
    except BaseException:
        if not interrupted():  # an import that is cut short may raise anything
            raise
        os.write(2, f"{MESSAGE}\n".encode())
        code = CODE
    sys.exit(code)
