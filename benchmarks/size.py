"""How large the project is: lines, modules, words, commands and options, by room.

    python benchmarks/size.py                   # the working tree; `make size` is the same
    python benchmarks/size.py --rev 4eaeaac     # that revision beside the working tree

Only the standard library is needed, except for the commands and options, which are counted from the command line itself
in a process of its own; where it cannot be imported they are left out.
"""

import argparse
import ast
import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
REFERENCE = "docs/cli.md"
WRITTEN_BY_CODE = ("docs/formats.md", "docs/layers.md", "docs/modes.md", "docs/pipelines.md")
"""Pages beside the command reference that a command writes, most of them tables."""
COUNT = """
import json, click
from eigenbank.cli.main import cli

def walk(command, context):
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            yield from walk(inner, click.Context(inner, info_name=name, parent=context))
    else:
        yield [(param.opts[0], param.help) for param in command.params if isinstance(param, click.Option)]

found = list(walk(cli, click.Context(cli)))
print(json.dumps([len(found), sum(map(len, found)), len(set(sum(found, [])))]))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rev", help="Git revision to show beside the working tree.")
    args = parser.parse_args()
    columns = {"now": measure(ROOT)}
    if args.rev:
        with tempfile.TemporaryDirectory() as folder:
            archive = subprocess.run(["git", "archive", args.rev], cwd=ROOT, check=True, capture_output=True).stdout
            subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)
            columns = {args.rev: measure(Path(folder)), **columns}
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        print(f"| {name} | " + " | ".join(column.get(name, "") for column in columns.values()) + " |")


def measure(root: Path) -> dict[str, str]:
    """Every figure of a tree, in the order in which it is printed."""
    package = root / "src" / "eigenbank"
    modules = {path: _lines(path) for path in sorted(package.rglob("*.py"))}
    found = {
        "Python in src, lines": f"{sum(modules.values()):,}",
        "modules in src": str(len(modules)),
        "median lines of a module": f"{statistics.median(modules.values()):.0f}",
        "modules over 600 lines": str(sum(count > 600 for count in modules.values())),
        "class names that several classes share": str(len(shared_names(package))),
    }
    rooms: Counter[str] = Counter()
    for path, count in modules.items():
        parts = path.relative_to(package).parts
        rooms[parts[0] if len(parts) > 1 else "(top)"] += count
        if parts[:2] == ("registry", "catalog"):
            rooms["registry/catalog"] += count
    found |= {f"src: {room}": f"{count:,}" for room, count in sorted(rooms.items())}
    found["tests, lines"] = f"{sum(map(_lines, (root / 'tests').rglob('*.py'))):,}"
    found["benchmarks, lines"] = f"{sum(map(_lines, (root / 'benchmarks').rglob('*.py'))):,}"
    pages = {str(path.relative_to(root)): path for path in (root / "docs").glob("*.md")}
    pages.pop(REFERENCE, None)
    tables = [path for name, path in pages.items() if name in WRITTEN_BY_CODE]
    decisions = list((root / "docs" / "decisions").glob("[0-9]*.md"))
    found["docs pages without the command reference"] = str(len(pages))
    found["words of them"] = f"{sum(map(_words, pages.values())):,}"
    found["of these in the tables of formats, layers, modes and pipelines, which commands write"] = (
        f"{sum(map(_words, tables)):,}"
    )
    found["words of README"] = f"{_words(root / 'README.md'):,}"
    found["decisions"] = str(len(decisions))
    found["words of decisions"] = f"{sum(map(_words, decisions)):,}"
    found["commands"], found["options"], found["options with a meaning of their own (name and help)"] = _commands(root)
    return found


def shared_names(package: Path) -> dict[str, list[str]]:
    """Names that several classes of the package have, leading underscores aside, and the modules they stand in."""
    where: dict[str, list[str]] = {}
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name.lstrip("_"), []).append(str(path.relative_to(package)))
    return {name: places for name, places in where.items() if len(places) > 1}


def _commands(root: Path) -> tuple[str, str, str]:
    """How many commands there are, how many options they have in all, and how many of these are not another command's; empty where
    they cannot be counted.
    """
    setup = f"import sys; sys.path.insert(0, {str(root / 'src')!r})\n"
    done = subprocess.run([sys.executable, "-c", setup + COUNT], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["?"])[-1]
        print(f"{root}: the commands cannot be counted: {reason}", file=sys.stderr)
        return "", "", ""
    commands, options, own = json.loads(done.stdout)
    return str(commands), str(options), str(own)


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _words(path: Path) -> int:
    """Words, as `wc -w` counts them."""
    return len(path.read_text(encoding="utf-8").split())


if __name__ == "__main__":
    main()
