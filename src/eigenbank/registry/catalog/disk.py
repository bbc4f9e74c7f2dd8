"""Whether a folder is a place for a catalog: SQLite's log needs memory shared by all who use it, and locks that work."""

import contextlib
import errno
import os
import re
import secrets
import sys
from pathlib import Path

from eigenbank.schemas.errors import CatalogError

NETWORK = frozenset(
    [
        "9p",
        "afp",
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fuse.cephfs",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncp",
        "ncpfs",
        "nfs",
        "nfs3",
        "nfs4",
        "orangefs",
        "panfs",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
        "webdav",
    ]
)
"""File systems that several machines may use at once, by the names that Linux and macOS have for them."""


def file_system(folder: Path, mounts: str) -> str | None:
    """Return the kind of file system that a folder (absolute, resolved) is on, by the text of /proc/mounts."""
    best, kind = -1, None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # Blanks and the like are written as octal numbers.
        point = fields[1].encode().decode("unicode_escape").encode("latin-1", "replace").decode(errors="replace")
        if folder == Path(point) or Path(point) in folder.parents:
            depth = len(Path(point).parts)
            if depth >= best:  # of two at the same place the later one lies on top
                best, kind = depth, fields[2]
    return kind


def check_folder(folder: Path) -> None:
    """Refuse a folder on a network, or one where locks do not work. Raises CatalogError; nothing is left behind."""
    advice = (
        "Nothing was changed. Keep the catalog on a local disk (--catalog or EIGENBANK_CATALOG), or share one on a "
        "PostgreSQL server: --catalog postgresql+psycopg://USER@HOST/DATABASE."
    )
    kind = None
    with contextlib.suppress(OSError):
        kind = file_system(folder.resolve(), Path("/proc/mounts").read_text(encoding="utf-8", errors="replace"))
    if kind in NETWORK:
        message = (
            f"{folder} is on a network ({kind}), where programs on several machines would damage a catalog. {advice}"
        )
        raise CatalogError(message)
    problem = locks_work(folder)
    if problem is not None:
        message = f"files in {folder} cannot be locked ({problem}): two programs would damage a catalog. {advice}"
        raise CatalogError(message)


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove the files of a folder whose whole name matches, and whose program, by the group `pid`, is no more."""
    with contextlib.suppress(OSError):
        for entry in list(folder.iterdir()):
            found = re.fullmatch(pattern, entry.name)
            if found is not None and not _alive(int(found["pid"])):
                entry.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def locks_work(folder: Path) -> str | None:
    """Try a lock in a folder, twice. Returns what is wrong with it; None if nothing is, or it cannot be tried."""
    if sys.platform == "win32":
        return None
    import fcntl
    import struct

    command = getattr(fcntl, "F_OFD_SETLK", None)
    if command is None or not os.access(folder, os.W_OK):
        return None
    # struct flock of 64-bit Linux: type, whence, start, length, pid. Locks of open files conflict within a process, too.
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    remove_leftovers(folder, r"\.eigenbank-lock-(?P<pid>\d+)-[0-9a-f]{8}")
    path = folder / f".eigenbank-lock-{os.getpid()}-{secrets.token_hex(4)}"
    opened: list[int] = []
    try:
        opened.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        opened.append(os.open(path, os.O_RDWR))
        fcntl.fcntl(opened[0], command, wanted)
        with contextlib.suppress(BlockingIOError, PermissionError):
            fcntl.fcntl(opened[1], command, wanted)
            return "it was locked twice at once"
    except OSError as error:
        # No room or no right is for the one to tell who writes.
        if errno.errorcode.get(error.errno or 0) in ("ENOLCK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"):
            return error.strerror
    finally:
        for descriptor in opened:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            path.unlink()
    return None
