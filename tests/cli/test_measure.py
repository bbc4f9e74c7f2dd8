"""`eigenbank measure`: token lengths, and which directions cannot act."""

import json
from pathlib import Path

import pytest

from eigenbank.cli.main import run
from eigenbank.loaders.pipelines import open_pipeline


def test_sites_whose_directions_cannot_act_are_listed_last_and_shown_so(
    tiny_checkpoint: Path, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    pipe.unet.down_blocks[1].attentions[0].to_out[0].weight.data *= 1e-5
    pipe.save_pretrained(tmp_path / "weak")
    assert run(["build", str(tmp_path / "weak"), "--model-id", "acme/weak", "--top-k", "1"]) == 0
    direction = "acme/weak#down_blocks.1.attentions.0/output-value/0"
    capsys.readouterr()
    assert run(["show", direction]) == 0
    assert "reach" not in capsys.readouterr().out, "not known yet"
    assert run(["measure", "acme/weak", "--steps", "1", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert (rows[-1]["layer"], rows[-1]["site"]) == ("down_blocks.1.attentions.0", "projection-input")
    assert rows[-1]["reach"] < 1e-3
    assert all(row["reach"] is None or row["reach"] > 1e-3 for row in rows[:-1])
    assert run(["show", direction]) == 0
    assert "too little to act" in capsys.readouterr().out
    assert run(["show", direction, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["reach"] == rows[-1]["reach"]
