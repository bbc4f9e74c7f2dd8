"""Stable Diffusion 1.5 at its real size, of random weights: opened, built and steered."""

import importlib.util
from pathlib import Path

import pytest

# By its path: as a folder of modules, benchmarks/ would hide tests' own, such as `gallery` and `play`.
_SPEC = importlib.util.spec_from_file_location("opening", Path(__file__).parents[2] / "benchmarks" / "opening.py")
assert _SPEC is not None
assert _SPEC.loader is not None
opening = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(opening)


@pytest.mark.slow
def test_stable_diffusion_is_opened_built_and_steered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed (pip install 'eigenbank[text]')")
    opening.make(tmp_path / "sd15", "float16")
    found = opening.steering(tmp_path / "sd15", "float32")
    with capsys.disabled():
        print(found)
    assert set(found["match"]) == {"exact"}
    assert found["change"] > 0.01
    assert found["without_trace"]
    for dtype in ("float32", "float16"):
        opened = opening.opening(tmp_path / "sd15", dtype)
        with capsys.disabled():
            print(opened)
        assert opened["peak_by_weights"] <= opening.MOST
