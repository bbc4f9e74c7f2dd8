"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eigenbank.schemas.errors import EigenbankError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to; moved over it when the block ends, removed when the block raises.

    A symbolic link is replaced, not followed. Raises OSError where the folder cannot be written to.
    """
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}-", suffix=".partial", dir=target.absolute().parent)
    os.close(handle)
    work = Path(name)
    try:
        yield work
        work.chmod(0o644)
        with work.open("r+b") as written:  # Windows flushes only what may be written to
            os.fsync(written.fileno())
        os.replace(work, target)
    finally:
        work.unlink(missing_ok=True)


def check_out(
    out: Path,
    suffixes: Sequence[str],
    kind: str,
    error: type[EigenbankError],
    *,
    outcome: str = "nothing was written",
    option: str = "--out",
) -> None:
    """Raise `error`, before anything is worked out, where a file could not be written, or not be known for its kind.

    `suffixes` are the endings a file of that kind may have, the first the usual one; `outcome` says what did not happen.
    """
    end = f": {outcome}. Choose another {option}"
    try:
        if out.suffix.lower() not in suffixes:
            message = f"{out} does not end in {suffixes[0]}, by which a {kind} file is known{end}"
            raise error(message)
        if out.exists() and not out.is_file():
            message = f"{out} is there and is no file{end}"
            raise error(message)
        parent = out.absolute().parent
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            message = f"{parent} is no folder that can be written to{end}"
            raise error(message)
    except (OSError, ValueError) as problem:  # a name too long for the file system, or with a null byte
        message = f"{str(out)[:200]!r} cannot be written ({getattr(problem, 'strerror', None) or problem}){end}"
        raise error(message) from problem
