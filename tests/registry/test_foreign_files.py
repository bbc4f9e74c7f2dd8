"""Files that never end, and files that cost more than they look: refused before they are read, by every reader."""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from eigenbank.builders.checkpoints.folder import read_json
from eigenbank.builders.checkpoints.single_file import open_file
from eigenbank.builders.label.clip import load_vocabulary
from eigenbank.cli.drawing import _prompts_in
from eigenbank.loaders.photo import open_picture
from eigenbank.plans.files import read_lock, read_plan
from eigenbank.registry.catalog import Catalog
from eigenbank.registry.catalog.transfer import import_file
from eigenbank.registry.files import open_regular, parse_json, read_bounded
from eigenbank.registry.sets.folder import MANIFEST, read_manifest
from eigenbank.registry.sets.tensors import read_header
from eigenbank.registry.sliders import read_sliders
from eigenbank.schemas.errors import EigenbankError


def _import(path: Path) -> object:
    with Catalog.open(path.parent / "catalog.db", shipped=False) as catalog:
        return import_file(catalog, path)


READERS: dict[str, Callable[[Path], object]] = {
    "read_sliders": read_sliders,
    "load_vocabulary": lambda path: load_vocabulary(str(path)),
    "read_plan": read_plan,
    "read_lock": read_lock,
    "import_file": _import,
    "read_json": read_json,
    "read_header": read_header,
    "open_file": lambda path: open_file(path, config=str(path)),
    "open_picture": open_picture,
    "_prompts_in": _prompts_in,
}


@pytest.fixture(params=["pipe", "zero", "socket", "folder"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A name at which there is no file."""
    path = tmp_path / "x.json"
    match request.param:
        case "pipe":
            os.mkfifo(path)
        case "zero":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case _:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(path))
                yield path
            return
    yield path


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("reader", READERS)
def test_only_files_are_read(reader: str, odd: Path) -> None:
    with pytest.raises((EigenbankError, click.BadParameter, OSError)) as caught:
        READERS[reader](odd)
    # open_file is asked only for what the caller found to be a file; a file of prompts is a wrong call.
    assert isinstance(caught.value, (EigenbankError, click.BadParameter)) or reader == "open_file"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_manifest_that_never_ends_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).symlink_to("/dev/zero")
    with pytest.raises(EigenbankError, match="holds no manifest"):
        read_manifest(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc")
def test_a_file_that_says_it_is_empty_is_read_within_its_bound() -> None:
    with pytest.raises(OSError, match="at most 10 are read"):
        read_bounded("/proc/self/status", 10)
    with open_regular("/proc/self/status") as file:
        assert file.read(5) == b"Name:"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"[" + b"[]," * 3_000_000 + b"[]]", "more than 4,000,000 values"),
        (b"[" * 65 + b"]" * 65, "deeper than 64"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "deeper than 64"),
        (b'{"a":1,"a":2}', "a key twice"),
        (b'{"a":NaN}', "NaN is no value"),
        (b"\xff", "codec"),
        ("[1]".encode("utf-16"), "codec"),
        (b"[1" + b"0" * 5000 + b"]", "digits"),
        (b'"' + b"\\" * 1_000_001, "line 1"),
        (b'"\\"' * 1_000_000, "line 1"),
        (b'"\\', "line 1"),
    ],
)
def test_what_costs_too_much_is_not_parsed(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_json(text)


def test_brackets_in_texts_cost_nothing() -> None:
    text = '["' + "[" * 100 + ',,,\\"{"]'
    assert parse_json(text.encode(), values=2) == ["[" * 100 + ',,,"{']


BOMBS = {
    "values": b'{"directions":[' + b"[]," * 7_000_000 + b"[]]}",
    "keys": b"{" + b",".join(b'"%x":0' % number for number in range(1_500_000)) + b"}",
    "labels": b'{"directions":[{"labels":[' + b"{}," * 1_500_000 + b"{}]}]}",
    "files": b'{"files":{' + b",".join(b'"%x":{}' % number for number in range(90_000)) + b"}}",
    "inside files": b'{"files":{'
    + b",".join(b'"%x":{%s}' % (n, b",".join(b'"%x":0' % m for m in range(1000))) for n in range(1500))
    + b"}}",
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")
@pytest.mark.parametrize("kind", BOMBS)
def test_a_manifest_made_to_fill_the_memory_is_refused_in_little(kind: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(BOMBS[kind])
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from eigenbank.registry.sets.folder import read_manifest\n"
        "from eigenbank.schemas.errors import SetError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_manifest(Path(sys.argv[1]))\n"
        "except SetError as error: print(str(error)[:300])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    limit = 2 * 2**30
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 0, done.stderr[-500:]
    message, grown = done.stdout.splitlines()
    assert "nothing was read" in message
    assert int(grown) < 600, "MiB"
