"""Fixtures shared by all tests: a home of their own for every test, tiny checkpoints, the cartoon faces."""

import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faces
import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, settings
from making import make_checkpoint

from eigenbank.registry.sets.bundled import data_folder

pytest_plugins = ["browser", "hub.fixtures"]

# No test may depend on how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run first what the rest relies on, then what takes longest; leave out slow tests unless the environment asks."""
    first = ("test_diffusers_compat.py", "test_docs.py")
    items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else len(first))
    if "EIGENBANK_SLOW" not in os.environ:
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: EIGENBANK_SLOW=1 runs it"))


@pytest.fixture(scope="session", autouse=True)
def _home_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No fixture of a session reads this user's own catalog either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EIGENBANK_HOME", str(tmp_path_factory.mktemp("home")))
        yield


OURS = ("EIGENBANK", "HF_", "OMP_")
"""Environment variables that a test may not add either. Libraries add theirs when they are imported."""


def _state() -> dict[str, Any]:
    """What a test may change for all that follow in its process. Nothing is imported for it."""
    umask = os.umask(0o22)
    os.umask(umask)
    state: dict[str, Any] = {
        "umask": umask,
        "folder": Path.cwd(),
        "our environment": {name: value for name, value in os.environ.items() if name.startswith(OURS)},
        "Ctrl-C": signal.getsignal(signal.SIGINT),
    }
    for name in ("", "diffusers", "huggingface_hub", "transformers", "eigenbank"):
        if level := logging.getLogger(name).level:  # libraries set theirs when they are imported
            state[f"level of logging {name}"] = level
    if "torch" in sys.modules:
        import torch

        state["gradients"] = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        state["default dtype"] = torch.get_default_dtype()
        state["deterministic"] = torch.are_deterministic_algorithms_enabled()
        state["threads"] = torch.get_num_threads()
    return state


@pytest.fixture(autouse=True)
def _leaves_no_trace() -> Iterator[None]:
    """A test that changes the process for those after it fails itself."""
    before = _state()
    yield
    after = _state()
    assert {name: after.get(name) for name in before} == before


@pytest.fixture(autouse=True)
def home(_leaves_no_trace: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog and sets folder of the test's own, and no Hub: tests that need one run clients of `hub.fixtures`."""
    folder = tmp_path / "home"
    monkeypatch.setenv("EIGENBANK_HOME", str(folder))
    # Set, then deleted: so that what `--catalog` puts into the environment is taken back too.
    monkeypatch.setenv("EIGENBANK_CATALOG", "")
    monkeypatch.delenv("EIGENBANK_CATALOG")
    # The client reads the variable when it is imported, processes started by a test read it anew.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    """The folder of the checkpoint that ships."""
    return data_folder() / "avatars-64"


@pytest.fixture(scope="session")
def faces_checkpoint() -> Path:
    """The folder of the cartoon faces' checkpoint."""
    return faces.FOLDER


@pytest.fixture(scope="session")
def faces_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog that has the cartoon faces' set beside what ships. Not to be changed."""
    path = tmp_path_factory.mktemp("faces") / "catalog.db"
    faces.add_to_catalog(path)
    return path


@pytest.fixture
def with_faces(home: Path, faces_catalog: Path) -> Path:
    """The home of a test whose catalog has the cartoon faces."""
    home.mkdir(exist_ok=True)
    shutil.copyfile(faces_catalog, home / "catalog.db")
    return home


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint, small enough to run in milliseconds. Not to be changed."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture
def weights_file(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """The weights file of a copy of the tiny checkpoint, to be damaged."""
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_checkpoint, folder)
    return folder / "unet" / "diffusion_pytorch_model.safetensors"
