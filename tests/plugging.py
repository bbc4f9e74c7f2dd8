"""Packages of strangers, as pip would have installed them."""

from importlib.metadata import Distribution
from pathlib import Path


def install(site: Path, name: str, entry: str, group: str = "eigenbank.loaders") -> None:
    """What pip leaves of a package's entry points in a folder of installed packages."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
    assert list(Distribution.at(info).entry_points)
