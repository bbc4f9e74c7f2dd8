"""What strangers install: the wheel and the sdist. `.ci/dist` installs them, too, and runs the demo from the wheel alone."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

import eigenbank as eb

ROOT = Path(__file__).parent.parent
MOST = 25_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist: those in EIGENBANK_DIST, else built here from what git knows, with this environment's setuptools."""
    if "EIGENBANK_DIST" in os.environ:
        folder = ROOT / os.environ["EIGENBANK_DIST"]
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        return wheel, sdist
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_is_small_and_holds_the_package_and_what_ships(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    assert wheel.stat().st_size <= MOST
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "eigenbank").rglob("*.py")}
    assert modules <= names
    assert "eigenbank/py.typed" in names
    assert "eigenbank/catalog/avatars-64/directions/manifest.json" in names
    assert not [name for name in names if "cartoon-faces" in name]
    avatars = {"model_index.json", "README.md", "NOTICE", "tokenizer/vocab.json", "tokenizer/merges.txt"}
    weights = {f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")}
    assert {f"eigenbank/catalog/avatars-64/{name}" for name in avatars | weights} <= names
    assert {name.split("/")[0] for name in names} == {"eigenbank"}
    assert not [name for name in names if "test" in name.split("/")[1]]


def test_the_metadata_says_what_it_is(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        found = BytesParser().parsebytes(archive.read(name))
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert found["Version"] == eb.__version__
    assert found["License-Expression"] == "Apache-2.0 AND CC-BY-4.0"
    assert found["Requires-Python"] == ">=3.10"
    assert {"postgres", "clip", "onnx"} <= set(found.get_all("Provides-Extra", []))
    assert {line.partition(",")[0] for line in found.get_all("Project-URL", [])} >= {"Homepage", "Changelog", "Issues"}
    assert "Typing :: Typed" in found.get_all("Classifier", [])
    assert "# eigenbank" in found.get_payload()


def test_the_sdist_holds_what_the_wheel_is_built_from(built: tuple[Path, Path]) -> None:
    _, sdist = built
    assert sdist.stat().st_size <= MOST
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/eigenbank/__init__.py"} <= names
    assert any(name.endswith("catalog/avatars-64/directions/manifest.json") for name in names)


def test_the_citation_is_of_this_version() -> None:
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert found["version"] == eb.__version__
    assert found["license"] == "Apache-2.0"
    assert found["cff-version"] == "1.2.0"
