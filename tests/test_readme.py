"""What the README promises beyond its commands, which `test_docs` runs with those of the docs."""

import re
from pathlib import Path

from pages import blocks

ROOT = Path(__file__).parent.parent


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    lines = [line for block in blocks(ROOT / "README.md") if block.language == "sh" for line in block.text.splitlines()]
    named = {line.split()[1] for line in lines if line.startswith("make ")}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert len(named) == 2
    assert named <= targets
