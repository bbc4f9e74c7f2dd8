"""MkDocs' hook: the order of the pages. Pages that are not listed stand under More, decisions under Decisions."""

import re
from pathlib import Path
from typing import Any

SECTIONS: dict[str, list[str]] = {
    "Start": ["index", "guide", "large-models", "how-it-works", "glossary"],
    "Make": ["building", "labels", "plans"],
    "Use": ["steering", "photos", "playground", "export", "loras"],
    "Find and share": ["catalog", "gallery", "hub"],
    "Results and compatibility": ["evaluation", "pipelines", "modes", "layers"],
    "Reference": ["cli", "api", "formats", "versions", "plugins", "discovery"],
}  # fmt: skip
LINK = re.compile(r"\]\(\.\./((?!decisions/)[\w./-]+)\)")


def on_config(config: Any) -> Any:
    """Make the navigation from the pages that are there."""
    docs = Path(config["docs_dir"])
    found = {path.stem for path in docs.glob("*.md")}
    listed = [name for names in SECTIONS.values() for name in names]
    nav = [{title: [f"{name}.md" for name in names if name in found]} for title, names in SECTIONS.items()]
    more = sorted(found - set(listed))
    if more:
        nav.append({"More": [f"{name}.md" for name in more]})
    nav.append({"Decisions": [f"decisions/{path.name}" for path in sorted((docs / "decisions").glob("*.md"))]})
    config["nav"] = nav
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links that leave docs/ lead to the repository."""
    if page.file.src_uri.startswith("decisions/"):
        return re.sub(r"\]\(\.\./\.\./([\w./-]+)\)", rf"]({config['extra']['repository']}/blob/main/\1)", markdown)
    return LINK.sub(rf"]({config['extra']['repository']}/blob/main/\1)", markdown)
