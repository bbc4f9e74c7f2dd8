"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
