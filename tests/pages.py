"""Documentation that runs: the blocks of a page, put together as one script, in the order in which a reader meets them.

Blocks fenced as `sh` are run by bash, as `python` by Python; neighbours of one language without the other in between share
a process. A block whose first line is `# not run here: REASON` is left out, visibly. What a page takes for granted stands in
an HTML comment `<!-- setup` … `-->`: a block, or several, that readers do not see.
"""

import re
from dataclasses import dataclass
from pathlib import Path

NOT_RUN = "# not run here: "
_SETUP = re.compile(r"<!-- setup\n(.*?)-->", re.DOTALL)
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LOOSE = re.compile(r"^ {4}(?:eigenbank|pip|make|python|hf|export|import|from) ", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and why it is not run, if it is not."""

    language: str
    text: str

    @property
    def reason(self) -> str | None:
        first = self.text.partition("\n")[0]
        return first.removeprefix(NOT_RUN) if first.startswith(NOT_RUN) else None


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, those of its setups among them."""
    return [Block(*found) for found in _FENCE.findall(page.read_text(encoding="utf-8"))]


def loose(page: Path) -> list[str]:
    """Lines of commands or code that stand indented, where nothing would run them."""
    outside = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [line.group() for line in _LOOSE.finditer(outside)]


def script(page: Path) -> str:
    """The page as a bash script; empty where nothing of it is run."""
    runs: list[tuple[str, list[str]]] = []
    for block in blocks(page):
        if block.language not in ("sh", "python") or block.reason is not None:
            continue
        if not runs or runs[-1][0] != block.language:
            runs.append((block.language, []))
        runs[-1][1].append(block.text)
    parts = []
    for language, texts in runs:
        text = "\n".join(texts)
        parts.append(text if language == "sh" else f"python - <<'END OF PYTHON'\n{text}\nEND OF PYTHON\n")
    return "\n".join(parts)
