"""Start the command `eigenbank`: handle Ctrl-C before anything large is imported.

Libraries may turn a KeyboardInterrupt into an error of their own (pydantic makes it a validation error). So the signal is noted
when it arrives, and whatever exception follows, the user reads that the command was interrupted.
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
    """Note every SIGINT from now on, unless the process ignores it, as in the background of a shell script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)


def interrupted() -> bool:
    """Whether Ctrl-C was pressed, other than to stop a server."""
    return bool(_arrived)


def expected() -> None:
    """Treat the Ctrl-C as the normal end of this command, which exits with 0."""
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
