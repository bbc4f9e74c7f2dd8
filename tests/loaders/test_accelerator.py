"""Offload with a real accelerator: weights that lie elsewhere while an edit is attached."""

from typing import Any

import modes
import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]


def _on_gpu(pipe: Any) -> None:
    pipe.to("cuda")


def _grouped(pipe: Any) -> None:
    pipe.vae.to("cuda")
    pipe.unet.enable_group_offload(
        onload_device=torch.device("cuda"),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        use_stream=True,
    )


@pytest.mark.parametrize("edit", modes.EDITS, ids=lambda edit: edit.name)
@pytest.mark.parametrize(
    "enter",
    [
        _on_gpu,
        lambda pipe: pipe.enable_model_cpu_offload(),
        lambda pipe: pipe.enable_sequential_cpu_offload(),
        _grouped,
    ],
    ids=["on the device", "model offload", "sequential offload", "group offload with a stream"],
)
def test_an_edit_works_and_leaves_no_trace(enter: Any, edit: modes.Edit) -> None:
    mode = modes.Mode("accelerator", "", enter, tolerance=None)
    found = modes.outcome(mode, edit)
    assert found == "works" or (edit.name == "fused" and "weights come and go" in found)
