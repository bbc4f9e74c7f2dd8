"""Ctrl-C, whenever it comes: one line, exit code 130; and stdout that cannot be written to."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


def begin(code: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run Python code as a process that heeds SIGINT, whatever this one does."""
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [sys.executable, "-c", code], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=False,
            timeout=120, **{"stdout": subprocess.PIPE, **options},
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, heeded)


STEER = (
    "steer",
    "eigenbank/avatars-64",
    "--set",
    "mid_block.attentions.0.transformer_blocks.0.attn1/output-value/0=1",
    "--prompt",
    "a person",
)
START = "import sys; sys.argv = ['eigenbank', *{args!r}]\n{before}\nfrom eigenbank.cli.start import main; main()"


@pytest.mark.parametrize(
    "before",
    [
        # While the program's own modules are imported.
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'eigenbank.cli.search': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())",
        # While click is, and the import machinery is told of another error.
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click':\n"
        "            try: os.kill(os.getpid(), signal.SIGINT)\n"
        "            except KeyboardInterrupt: raise ImportError('half a module') from None\n"
        "sys.meta_path.insert(0, Finder())",
        # Inside a library that makes an error of its own of it.
        "from eigenbank.registry.sets import folder as sets\n"
        "from eigenbank.schemas.errors import SetError\n"
        "def damaged(*_):\n"
        "    try: os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt: raise SetError('build the set again') from None\n"
        "import eigenbank.registry.sets.bundled as bundled\n"
        "bundled.shipped_sets = damaged",
        # Inside one that goes on as if nothing had been.
        "import eigenbank.registry.sets.bundled as bundled\n"
        "def passed(*_):\n"
        "    try: os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt: return []\n"
        "bundled.shipped_sets = passed",
    ],
    ids=["command", "click", "taken-for-damage", "passed-over"],
)
def test_an_interrupt_is_told_as_one(before: str) -> None:
    done = begin(START.format(args=["list"], before=f"import os, signal\n{before}"))
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted: nothing half-done was left behind")


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.4, 1.6])
def test_an_interrupt_at_any_moment_leaves_no_traceback(moment: float, tmp_path: Path) -> None:
    steer = [*STEER, "--out", str(tmp_path / "x.png")]
    before = "import os, signal, threading, time\nfrom eigenbank.cli import start; start.listen()\n"
    before += f"threading.Thread(target=lambda: (time.sleep({moment}), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()"
    done = begin(START.format(args=steer, before=before))
    assert "Traceback" not in done.stderr
    assert done.returncode in (130, -signal.SIGINT, 0)
    if done.returncode == 130:
        assert done.stderr.splitlines()[-1] == "interrupted: nothing half-done was left behind"
        for file in tmp_path.iterdir():  # too late: it is whole
            with Image.open(file) as image:
                image.load()


def test_what_may_be_half_done_is_not_denied() -> None:
    before = "import os, signal\nfrom eigenbank.registry.catalog import Catalog\n"
    before += "Catalog.open = lambda *_: os.kill(os.getpid(), signal.SIGINT)"
    done = begin(START.format(args=["publish", "a/b", "--repo", "a/c"], before=before))
    assert done.returncode == 130
    assert done.stderr.strip().startswith("interrupted: whether the set arrived on the Hub is not known")


@pytest.mark.parametrize(
    "error",
    ["MemoryError()", "OSError(12, 'Cannot allocate memory')", "RuntimeError(\"DefaultCPUAllocator: can't allocate memory\")",
     "ImportError('libtorch.so: failed to map segment from shared object')"],
)  # fmt: skip
def test_too_little_memory_is_one_line(error: str) -> None:
    before = (
        f"import eigenbank.registry.sets.bundled as bundled\ndef fails(*_): raise {error}\nbundled.shipped_sets = fails"
    )
    done = begin(START.format(args=["list"], before=before))
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "error: there is not enough memory for this. Free some, or do less at once",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_process_that_may_use_little_memory_says_so() -> None:
    before = "import resource; resource.setrlimit(resource.RLIMIT_AS, (500 * 2**20, 500 * 2**20))"
    done = begin(START.format(args=[*STEER, "--out", "x.png"], before=before))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "not enough memory" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_any_error_of_a_process_at_its_limit_is_told_as_that() -> None:
    before = "import mmap, resource\nimport eigenbank.registry.sets.bundled as bundled\n"
    before += "def fails(*_):\n"
    before += "    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    before += "    resource.setrlimit(resource.RLIMIT_AS, (used + {spare} * 2**20,) * 2)\n"
    before += "    raise SyntaxError(\"expected ':'\")\nbundled.shipped_sets = fails"
    at_it, far = (
        begin(START.format(args=["list"], before=before.replace("{spare}", str(spare)))) for spare in (4, 4000)
    )
    assert (at_it.returncode, at_it.stderr.strip()) == (
        1,
        "error: there is not enough memory for this. Free some, or do less at once",
    )
    assert "SyntaxError" in far.stderr


def test_where_interrupts_are_ignored_they_stay_so() -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += "from eigenbank.cli import start; start.listen()\n"
    code += "import os; os.kill(os.getpid(), signal.SIGINT); print(bool(start.arrived))"
    done = begin(code)
    assert (done.returncode, done.stdout) == (0, "False\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("fmt", ["json", "csv", "table"])
def test_output_that_cannot_be_written_is_one_line(fmt: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = begin(START.format(args=["list", "--format", fmt], before=""), stdout=full)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: the output cannot be written (No space left on device): it is cut short" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = begin(START.format(args=["list", "--format", "csv"], before=""), stdout=pipe)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps the folder a process is in")
def test_in_a_folder_that_was_deleted_a_command_says_so() -> None:
    before = "import os, tempfile; gone = tempfile.mkdtemp(); os.chdir(gone); os.rmdir(gone)"
    done = begin(START.format(args=["build", "."], before=before))
    assert done.returncode == 1
    assert done.stderr.strip() == "error: the folder you are in was deleted: nothing was done. Change to another"


def test_another_oserror_is_a_bug_that_looks_like_one() -> None:
    before = "import eigenbank.registry.sets.bundled as bundled\n"
    before += "def fails(*_): raise OSError(5, 'of a disk')\nbundled.shipped_sets = fails"
    done = begin(START.format(args=["list"], before=before))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
