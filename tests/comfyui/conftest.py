"""The node pack in a stand-in of ComfyUI."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfyui_standin
import pytest


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The node pack, in a ComfyUI that is a stand-in, with an empty models folder."""
    with comfyui_standin.opened(monkeypatch, tmp_path) as found:
        yield found
