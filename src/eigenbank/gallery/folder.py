"""A site's folder: it appears whole, takes the place of an earlier site, and never that of anything else."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eigenbank.schemas.errors import GalleryError

MARK = "gallery.json"
"""The file by which a folder is known as a site of ours."""
OURS = frozenset({MARK, "README.md", "assets", "data", "index.html", "pictures"})
NOTHING = "nothing was written"


def check_target(target: Path, *, force: bool) -> None:
    """Raise GalleryError where a site may not be put: over something else, unless forced; over a home; in no folder."""
    if target.is_symlink():
        message = f"{target} is a symbolic link: {NOTHING}. Name the folder it leads to, or remove it"
        raise GalleryError(message)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    here = target.resolve()
    if here in (Path.cwd(), *Path.cwd().parents, Path.home(), *Path.home().parents) or here.is_mount():
        message = f"{target} is where you are, your home, or holds them: {NOTHING}. Choose a folder of its own"
        raise GalleryError(message)
    if force:
        return
    strangers = _strangers(target)
    if strangers:
        message = (
            f"{target} holds {strangers[0]}{' and more' if len(strangers) > 1 else ''}, which no gallery wrote: {NOTHING}. "
            f"Choose another --out, or give --force, which sets what is there aside under another name"
        )
        raise GalleryError(message)


def _strangers(target: Path) -> list[str]:
    if not target.is_dir():
        return ["something that is no folder"]
    names = sorted(path.name for path in target.iterdir())
    if MARK not in names:
        return names
    return [name for name in names if name not in OURS]


@contextmanager
def new_site(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `target` to fill, put in its place when the block ends, removed when it raises.

    An earlier site is removed once the new one is there. With `force` anything else is set aside as `NAME.1`, `NAME.2`, ….
    Raises GalleryError, with the target as it was.
    """
    check_target(target, force=force)
    target = target.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}-", dir=target.parent))
    except OSError as error:
        message = f"{target.parent} cannot be written to ({error.strerror}): {NOTHING}. Choose another folder"
        raise GalleryError(message) from error
    try:
        yield work
        work.chmod(0o755)
        check_target(target, force=force)
        _put(work, target)
    except OSError as error:
        message = f"{target} could not be written ({error.strerror or error}): nothing was left behind"
        raise GalleryError(message) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _put(work: Path, target: Path) -> None:
    """Move the new site into place. A folder cannot be replaced in one step: the old one steps aside just before."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        if os.name == "nt" and target.is_dir():
            target.rmdir()  # Windows replaces no folder, not even an empty one
        os.replace(work, target)
        return
    foreign = bool(_strangers(target))
    aside = _free_name(target) if foreign else Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}-", dir=target.parent))
    os.replace(target, aside)
    try:
        os.replace(work, target)
    except OSError:
        os.replace(aside, target)
        raise
    if not foreign:
        shutil.rmtree(aside, ignore_errors=True)


def _free_name(target: Path) -> Path:
    number = 1
    while (found := target.with_name(f"{target.name}.{number}")).exists():
        number += 1
    return found
