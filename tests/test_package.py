"""The package starts without torch, is complete, and says what it holds."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eigenbank as eb
from eigenbank.cli.main import COMMANDS
from eigenbank.cli.output import with_options

ROOT = Path(__file__).parent.parent
WITHOUT_TORCH = """
import json, sys

def check(what):
    found = {"torch", "diffusers", "numpy"} & set(sys.modules)
    assert not found, (what, found)

import eigenbank
check("import")
eigenbank.load("eigenbank/avatars-64")
check("load")
from eigenbank.cli.main import run
for args in json.loads(sys.argv[1]):
    assert run(args) == 0, args
    check(args)
"""


def test_starting_and_asking_does_not_import_torch() -> None:
    """One process for all: what is imported stays imported, and the first call that imports it is named."""
    calls = [
        ["--help"],
        ["list"],
        ["list", "--model", "eigenbank/avatars-64", "-q"],
        ["search", "hair", "--format", "json"],
        ["show", "eigenbank/avatars-64#mid_block.attentions.0.transformer_blocks.0.attn1/output-value/0"],
        *([name, "--help"] for name in COMMANDS),
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, json.dumps(calls)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_package_list_is_the_tree() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT / "src").parts) for path in (ROOT / "src").rglob("__init__.py")} | {
        "eigenbank.catalog"
    }
    assert set(listed) == found


def test_every_public_name_is_there_and_documented() -> None:
    assert set(eb.__all__) <= set(dir(eb))
    for name in eb.__all__:
        assert getattr(eb, name).__doc__, name
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = eb.nothing_like_this


def test_loaders_and_builders_do_not_know_each_other() -> None:
    for package, forbidden in {
        "schemas": {"registry", "builders", "loaders", "gallery", "play", "plans", "cli", "api", "naming"},
        "registry": {"builders", "loaders", "gallery", "play", "plans", "cli", "api", "naming"},
        "builders": {"loaders", "gallery", "play", "plans", "cli", "api", "naming"},
        "loaders": {"builders", "gallery", "play", "plans", "cli", "api", "naming"},
        "gallery": {"builders", "loaders", "play", "plans", "cli", "api", "naming"},
        "plans": {"gallery", "play", "cli"},
    }.items():
        for path in (ROOT / "src" / "eigenbank" / package).rglob("*.py"):
            assert not _rooms_imported(path) & forbidden, path


def _rooms_imported(path: Path) -> set[str]:
    """The parts of eigenbank that a module imports, at its top or later."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("eigenbank.")}


def test_no_two_classes_share_a_name() -> None:
    """A name means one thing everywhere, so that a search for it finds that thing. Leading underscores do not count."""
    homes: dict[str, list[str]] = {}
    for path in sorted((ROOT / "src" / "eigenbank").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.lstrip("_"), []).append(str(path.relative_to(ROOT)))
    shared = {name: paths for name, paths in homes.items() if len(paths) > 1}
    assert not shared


PACKAGE = Path(eb.__file__).parent
CLI_ALONE = ("cli", "play/request.py", "doctor.py")
"""What speaks to people at a command line, or writes commands to copy."""
WHOLE_COMMAND = re.compile(r"eigenbank \S+[^.;,]*")


def test_messages_of_the_core_name_arguments_and_the_command_line_makes_options_of_them() -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).as_posix().startswith(CLI_ALONE):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        found += [
            f"{path.name}:{node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented
            if re.search(r"(?<![\w-])--[a-z]", WHOLE_COMMAND.sub("", node.value))
        ]
    assert not found, "name the argument, as in `variant=fp16`"
    assert with_options("Give `variant=fp16` or `layers=`, `replace=True`, not `safety_checker=False`") == (
        "Give --variant fp16 or --layers, --replace, not --no-safety-checker"
    )
