"""Folders and disks that are no place for a catalog, or stop being one."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.catalog.care import verify
from eigenbank.registry.catalog.database import file_system
from eigenbank.registry.catalog.transfer import export_file
from eigenbank.schemas.errors import CatalogError

from .made import label, manifest

if sys.platform == "win32":
    pytest.skip("processes are forked, disks mounted", allow_module_level=True)
FORK = multiprocessing.get_context("fork")
MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
filer:/export /mnt/team nfs4 rw,vers=4.2 0 0
//filer/x /mnt/a\\040share cifs rw 0 0
ann@host:/ /home/ann/far fuse.sshfs rw 0 0
tmpfs /mnt/team/local tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/ann", "ext4"),
        ("/mnt/team", "nfs4"),
        ("/mnt/team/deep/er", "nfs4"),
        ("/mnt/teammate", "ext4"),
        ("/mnt/a share/x", "cifs"),
        ("/home/ann/far/x", "fuse.sshfs"),
        ("/mnt/team/local", "tmpfs"),
    ],
)
def test_the_file_system_of_a_folder_is_told_from_the_mounts(folder: str, kind: str) -> None:
    assert file_system(Path(folder), MOUNTS) == kind


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own."""
    point = tmp_path / "disk"
    point.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", point], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a small disk needs the right to mount: {made.stderr.decode().strip()}")
    yield point
    subprocess.run(["umount", "-l", point], check=True)


def remount(point: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", point], check=True)


def test_a_full_disk_is_told_and_changes_nothing(small_disk: Path) -> None:
    path = small_disk / "catalog.db"
    with Catalog.open(path, shipped=False) as catalog:
        catalog.add_set(manifest("acme/first"), location="/x", digest="x")
        added = 1

        def add_for_ever() -> None:
            nonlocal added
            while True:
                catalog.add_set(manifest(f"acme/{added}", ranks=100), location="/x", digest="x")
                added += 1

        with pytest.raises(CatalogError, match=r"the disk is full\. Nothing was changed"):
            add_for_ever()
        assert len(catalog.model_ids()) == added
        with pytest.raises(CatalogError, match="cannot be written"):
            export_file(catalog, small_disk / "all.jsonl")
    assert {entry.name for entry in small_disk.iterdir()} <= {"catalog.db"}
    remount(small_disk, "size=40m")
    with Catalog.open(path, shipped=False) as catalog:
        assert len(catalog.model_ids()) == added
        assert verify(catalog) == []
        catalog.add_set(manifest("acme/last"), location="/x", digest="x")


def test_no_catalog_is_created_on_a_full_disk(small_disk: Path) -> None:
    (small_disk / "big").write_bytes(b"x" * (2 * 2**20 - 40_960))
    with Catalog.open(small_disk / "catalog.db", shipped=False) as catalog:
        with pytest.raises(CatalogError, match="the disk is full"):
            catalog.reindex()
        assert {entry.name: entry.stat().st_size for entry in small_disk.iterdir() if entry.name != "big"} == {
            "catalog.db": 0
        }
        (small_disk / "big").unlink()
        catalog.add_set(manifest(), location="/x", digest="x")
        assert verify(catalog) == []


def test_a_read_only_disk_is_read_and_not_written(small_disk: Path) -> None:
    path = small_disk / "catalog.db"
    with Catalog.open(path, shipped=False) as catalog:
        catalog.add_set(manifest(), location="/x", digest="x")
    remount(small_disk, "ro")
    with Catalog.open(path, shipped=False) as catalog:
        assert catalog.model_ids() == ["acme/faces"]
        assert len(catalog.search("mid")) == 6
        for change in (
            lambda: catalog.add_set(manifest("acme/cats"), location="/x", digest="x"),
            lambda: catalog.add_labels(["acme/faces#mid_block.attentions.0/value/0"], label("x", source="human:ann")),
        ):
            with pytest.raises(CatalogError, match="is read-only: nothing was changed"):
                change()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that another user may get to, which pytest's own are not, with a catalog in it."""
    folder = Path(tempfile.mkdtemp(prefix="eb-shared-"))
    folder.chmod(0o755)
    try:
        with Catalog.open(folder / "catalog.db", shipped=False) as catalog:
            catalog.add_set(manifest(), location="/x", digest="x")
        yield folder
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def as_a_user(work: Callable[[], str]) -> str:
    """Do work in a process that is not root's, who may write anything, and return what it says."""
    answers = FORK.Queue()

    def child() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            answers.put(work())
        except BaseException as error:
            answers.put(f"{type(error).__name__}: {error}")

    process = FORK.Process(target=child)
    process.start()
    answer = str(answers.get(timeout=60))
    process.join()
    return answer


@pytest.mark.parametrize(("file", "folder"), [(0o444, 0o777), (0o444, 0o555), (0o644, 0o555)])
def test_a_read_only_file_or_folder_is_read_and_not_written(shared: Path, file: int, folder: int) -> None:
    path = shared / "catalog.db"
    before = path.read_bytes()
    path.chmod(file)
    shared.chmod(folder)

    def work() -> str:
        with Catalog.open(path, shipped=False) as catalog:
            found = [*catalog.model_ids(), str(len(catalog.search("mid"))), str(verify(catalog))]
            for change in (
                lambda: catalog.add_set(manifest("acme/cats"), location="/x", digest="x"),
                lambda: catalog.add_labels(
                    ["acme/faces#mid_block.attentions.0/value/0"], label("x", source="human:ann")
                ),
                lambda: catalog.remove_labels(["acme/faces#mid_block.attentions.0/value/0"], "x", "human:ann"),
                lambda: catalog.set_published("x", "me/x", "c"),
                catalog.vacuum,
            ):
                with pytest.raises(CatalogError, match="is read-only: nothing was changed"):
                    change()
        return " ".join(found)

    assert as_a_user(work) == "acme/faces 6 []"
    assert path.read_bytes() == before


def test_a_file_that_may_not_be_read_is_told(shared: Path) -> None:
    path = shared / "catalog.db"
    path.chmod(0)
    answer = as_a_user(lambda: Catalog.open(path).place)
    assert answer.startswith(f"CatalogError: the catalog {path} cannot be read: Permission denied. Nothing was changed")


def test_no_catalog_is_created_in_a_folder_of_others(shared: Path) -> None:
    shared.chmod(0o555)

    def work() -> str:
        with Catalog.open(shared / "new.db", shipped=False) as catalog:
            assert catalog.model_ids() == []
            catalog.reindex()
        return "created"

    answer = as_a_user(work)
    assert answer.startswith(f"CatalogError: the catalog {shared / 'new.db'} is read-only: nothing was changed.")
    assert [entry.name for entry in shared.iterdir()] == ["catalog.db"]
