"""Start the command `eigenbank`: handle Ctrl-C before anything large is imported.

Libraries may turn a KeyboardInterrupt into an error of their own (pydantic makes it a validation error). So the signal is noted
when it arrives, and whatever exception follows, the user reads that the command was interrupted.
"""

import errno
import os
import signal
import sys
from types import FrameType

CODE = 130
"""The exit code of an interrupted command: 128 plus the signal's number, as in shells."""
MESSAGE = "interrupted: nothing half-done was left behind"
NO_MEMORY = "error: there is not enough memory for this. Free some, or do less at once"

arrived: list[int] = []
"""The signals of Ctrl-C so far, but for one that stopped a server."""
state = {"begun": False}
"""Whether the command's own work has begun: from then on Ctrl-C is an exception, before there is nothing to tidy up."""


def listen() -> None:
    """Note every SIGINT from now on, unless the process ignores it, as in the background of a shell script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)
        sys.unraisablehook = _not_of_interrupts


def expected() -> None:
    """Treat the Ctrl-C as the normal end of this command, which exits with 0."""
    arrived.clear()


def _note(number: int, _frame: FrameType | None) -> None:
    arrived.append(number)
    if not state["begun"]:
        # An exception in the middle of an import comes out as anything, or as a traceback of the interpreter's own.
        _write(MESSAGE)
        os._exit(CODE)
    raise KeyboardInterrupt


def _not_of_interrupts(found: "sys.UnraisableHookArgs") -> None:
    """Say nothing of an interrupt in a place that can raise no exception: it is noted."""
    if not isinstance(found.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(found)


def _write(message: str) -> None:
    os.write(2, f"{message}\n".encode())


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, is that memory ran out: each library has its own words for it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        words = str(error).lower() if isinstance(error, (RuntimeError, ImportError)) else ""
        if (
            isinstance(error, MemoryError)
            or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
            or type(error).__name__ == "OutOfMemoryError"
            or any(each in words for each in ("can't allocate", "cannot allocate", "not enough memory", "bad_alloc",
                                              "out of memory", "failed to map segment", "can't start new thread"))
        ):  # fmt: skip
            return True
        error = error.__cause__ or error.__context__
    return at_its_limit()


def at_its_limit() -> bool:
    """Whether this process has nearly all the address space that it may have (`ulimit -v`): whatever failed then may have failed of
    that, as Python's parser does, which calls it a SyntaxError (3.11).
    """
    try:
        import resource
        from pathlib import Path

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return False
    return limit != resource.RLIM_INFINITY and used > 0.9 * limit


def main() -> None:
    """Run the command line. Exits with 0, 1 for what went wrong, 2 for a wrong call, 130 when interrupted."""
    listen()
    try:
        from eigenbank.cli.main import run

        code = run(sys.argv[1:])
    except BaseException as error:
        if arrived:  # an import that is cut short may raise anything
            _write(MESSAGE)
            code = CODE
        elif is_out_of_memory(error):
            _write(NO_MEMORY)
            code = 1
        else:
            raise
    signal.signal(signal.SIGINT, signal.SIG_DFL if arrived else signal.getsignal(signal.SIGINT))
    sys.exit(code)
