"""Attribute models of several kinds read what they should; their files are checked."""

import json
import resource
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from eigenbank.builders.label.labeler import ATTRIBUTES as OPENER
from eigenbank.builders.label.labeler import open_labelers
from eigenbank.registry.sets.folder import file_digest
from eigenbank.schemas.errors import EigenbankError, SourceError
from eigenbank.schemas.plan import Settings

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Mean(nn.Module):
    """The mean of each channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def write_onnx(path: Path) -> None:
    """The same as an ONNX file."""
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])
    pooled = helper.make_node("GlobalAveragePool", ["images"], ["pooled"])
    flat = helper.make_node("Flatten", ["pooled"], ["scores"])
    out = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([pooled, flat], "mean", [given], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_pt2(path: Path) -> None:
    batch = torch.export.Dim("n", min=1, max=4096)
    torch.export.save(torch.export.export(Mean(), (torch.rand(4, 3, 8, 8),), dynamic_shapes=({0: batch},)), path)


@pytest.mark.parametrize("kind", ["model.onnx", "model.pt2"])
def test_a_program_with_names_is_a_labeler(kind: str, tmp_path: Path) -> None:
    {"model.onnx": write_onnx, "model.pt2": write_pt2}[kind](tmp_path / kind)
    config = {"names": ["red", "green", "blue"], "size": 8, "mean": [0.5, 0.5, 0.5], "std": [0.5, 1, 2]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    given = str(tmp_path / kind if kind.endswith("pt2") else tmp_path)
    labeler = OPENER.open(given, Path())
    assert labeler.names == ("red", "green", "blue")
    assert labeler.stds is None
    assert labeler.source == f"attribute-model:{file_digest(tmp_path / kind)[:16]}"
    expected = (IMAGES.mean(dim=(2, 3)) - 0.5) / torch.tensor([0.5, 1, 2])
    torch.testing.assert_close(labeler.read(IMAGES), expected, atol=1e-5, rtol=0)
    (tmp_path / "config.json").write_text(json.dumps({**config, "size": 16}))
    assert OPENER.open(given, Path()).digest != labeler.digest
    larger = nn.functional.interpolate(IMAGES, (16, 16))
    torch.testing.assert_close(labeler.read(larger), expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize("more", [{"size": 1024, "first_channels": 512}, {"first_channels": 40}, {"size": 2048}])
def test_a_config_that_asks_for_more_than_its_file_holds_takes_no_memory(
    more: dict[str, int], faces_checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(faces_checkpoint / "attributes", tmp_path / "attributes"))
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, **more}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError, match=r"does not fit its config|less than or equal to 1024"):
        OPENER.open(str(folder), Path())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "KiB"


def test_the_demos_own_reads_its_factors(faces_checkpoint: Path) -> None:
    labeler = OPENER.open(None, faces_checkpoint)
    assert "smile" in labeler.names
    assert labeler.stds is not None
    assert labeler.read(torch.rand(2, 3, 32, 32)).shape == (2, len(labeler.names))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "cannot be read"),
        ("{", "Invalid JSON"),
        ('{"names": []}', "names"),
        ('{"names": ["a"], "stds": [1, 2]}', "expected as many"),
        ('{"names": ["a"], "stds": [0]}', "greater than 0"),
        ('{"names": ["a"], "sizes": 8}', "sizes"),
    ],
)
def test_a_bad_config_is_refused(config: str | None, message: str, tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(EigenbankError, match=message):
        OPENER.open(str(tmp_path), Path())


@pytest.mark.parametrize("kind", ["model.onnx", "model.pt2"])
def test_a_file_that_is_no_such_program_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / kind).write_bytes(b"nonsense")
    (tmp_path / "config.json").write_text('{"names": ["a"]}')
    with pytest.raises(EigenbankError, match=r"is no (ONNX model|program)"):
        OPENER.open(str(tmp_path / kind), Path())


class Runs:
    """Pickled, it runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import os; open(os.environ['EIGENBANK_TEST_MARK'], 'w')",))


@pytest.mark.parametrize("given", [None, "folder"], ids=["the checkpoint's own", "a folder"])
def test_a_program_is_not_opened_unless_its_file_is_named(
    given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EIGENBANK_TEST_MARK", str(tmp_path / "ran"))
    folder = tmp_path / "attributes"
    folder.mkdir()
    (folder / "config.json").write_text('{"names": ["a"]}')
    torch.save(Runs(), folder / "model.pt2")
    with pytest.raises(EigenbankError, match=r"can run any code.*labeler=attributes:.*model\.pt2"):
        open_labelers([] if given is None else [f"attributes:{folder}"], tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_plan_cannot_name_a_program() -> None:
    with pytest.raises(ValueError, match="can run any code"):
        Settings(labelers=("statistics", "attributes:/tmp/model.pt2"))


def test_an_onnx_model_reads_no_other_files(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(torch.ones(3, 3).numpy().tobytes())
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3])
    out = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 3], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="secret.bin")
    graph = helper.make_graph([helper.make_node("MatMul", ["images", "w"], ["scores"])], "m", [given], [out], [outside])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "config.json").write_text('{"names": ["a", "b", "c"]}')
    with pytest.raises(EigenbankError, match="is no ONNX model"):
        OPENER.open(str(tmp_path), Path())
