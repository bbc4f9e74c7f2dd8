"""Where the command `eigenbank` begins: listening for Ctrl-C before anything of size is imported."""

import os
import sys

from eigenbank.cli import interrupt


def main() -> None:
    """Run the command line. Exits with 0, 1 for what went wrong, 2 for a wrong call, 130 when interrupted."""
    interrupt.listen()
    try:
        from eigenbank.cli.main import run

        code = run(sys.argv[1:])
    except BaseException:
        # Imports cut short fail in their own ways.
        if not interrupt.arrived():
            raise
        os.write(2, f"{interrupt.SAID}\n".encode())
        code = interrupt.CODE
    sys.exit(code)
