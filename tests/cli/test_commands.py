"""The commands as a user meets them: what they print, what they write, and how they refuse."""

import io
import json
import re
from pathlib import Path

import pytest
from faces import MODEL_ID as DEMO
from making import make_checkpoint
from PIL import Image

from eigenbank.cli.main import COMMANDS, run
from eigenbank.registry.load import load, load_without_people_labels

pytestmark = pytest.mark.usefixtures("with_faces")

MID = "mid_block.attentions.0/output-value/0"


def test_build_enters_the_set_into_the_catalog(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert run(["build", str(tiny_checkpoint), "--top-k", "2", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert {row["layer"] for row in rows} >= {"mid_block.attentions.0"}
    assert all(row["directions"] == 4 for row in rows)
    (model_id,) = re.findall(r"16 directions of 4 layers of (local/tiny0-checkpoint-[0-9a-f]{8}) ", err)
    assert run(["list", "-q"]) == 0
    assert model_id in capsys.readouterr().out.splitlines()
    assert list((home / "sets").rglob("manifest.json"))


def test_a_rebuild_replaces_the_set_and_its_folder(built: str, tiny_checkpoint: Path, home: Path) -> None:
    assert run(["build", str(tiny_checkpoint), "--model-id", built, "--top-k", "3"]) == 0
    assert len(list((home / "sets").rglob("manifest.json"))) == 1


def test_out_chooses_the_folder_and_never_overwrites(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["build", str(tiny_checkpoint), "--out", str(tmp_path / "set")]) == 0
    before = (tmp_path / "set" / "manifest.json").read_bytes()
    assert run(["build", str(tiny_checkpoint), "--out", str(tmp_path / "set")]) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert (tmp_path / "set" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("out", ["taken", "n" * 300])
def test_out_is_looked_at_before_the_work(
    out: str,
    built: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(*_given: object, **_more: object) -> None:
        pytest.fail("the work was done")

    monkeypatch.setattr("eigenbank.api.open_source", work)
    monkeypatch.setattr("eigenbank.loaders.pipelines.open_pipeline", work)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    assert run(["build", built, "--out", str(tmp_path / out)]) == 1
    assert "nothing was written" in capsys.readouterr().err


def test_steer_and_sweep_write_pictures(built: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steered, swept = tmp_path / "steered.png", tmp_path / "swept.png"
    call = ["--steps", "2", "--seeds", "0,1"]
    assert run(["steer", built, "--set", f"{MID}=0.0001", "--out", str(steered), *call]) == 0
    assert "the edit is hardly visible" in capsys.readouterr().err
    assert run(["steer", built, "--set", f"{MID}=1.5", "--out", str(steered), *call]) == 0
    assert "hardly visible" not in capsys.readouterr().err
    assert run(["sweep", built, MID, f"{built}#{MID[:-1]}1", "--scales=-1,0,1", "--out", str(swept), *call]) == 0
    for path in (steered, swept):
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert len(image.getcolors(100_000) or []) > 50
    assert sorted(path.name for path in tmp_path.glob("*.png*")) == ["steered.png", "swept.png"]


def test_a_sweep_of_many_seeds_goes_on_below_and_draws_what_is_unedited_once(
    built: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = []
    for seeds in ("0-2", "0-3"):
        call = ["--steps", "1", "--seeds", seeds, "--scales=-1,0,1", "--out", str(tmp_path / "swept.png")]
        assert run(["sweep", built, MID, *call]) == 0
        count = 3 if seeds == "0-2" else 4
        assert f"{3 * count} images × 1 steps" in capsys.readouterr().err  # unedited, -1 and +1 for each
        with Image.open(tmp_path / "swept.png") as image:
            sizes.append(image.size)
    assert sizes[1] == (sizes[0][0], 2 * sizes[0][1])


def test_ids_of_a_search_are_piped_into_a_sweep(
    built: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["search", "--model", built, "--layer", "mid_block.*", "--recipe", "output-value", "-q"]) == 0
    ids = capsys.readouterr().out
    out = tmp_path / "out.png"
    call = ["--steps", "2", "--seeds", "0", "--out", str(out)]
    for given, args in ((ids, ["-"]), (MID, [built, "-"]), ("", [f"{built}#{MID}"])):
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        assert run(["sweep", *args, *call]) == 0
        out.unlink()
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run(["sweep", "-", *call]) == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("a/b#x/y/0\nc/d#x/y/0\n"))
    assert run(["sweep", "-", *call]) == 2
    assert "ids of 2 models (a/b, c/d)" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_what_it_does_and_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        assert run([command, flag]) == 0
        text = capsys.readouterr().out
        assert "Example" in text
        assert f"eigenbank {command}" in text


def test_a_checkpoint_without_attention_or_with_damage_writes_nothing(
    tmp_path: Path, weights_file: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make_checkpoint(tmp_path / "plain", attention=False)
    weights_file.write_bytes(weights_file.read_bytes()[:1000])
    for folder, message in (
        (plain, "no self-attention"),
        (weights_file.parent.parent, "safetensors"),
        (tmp_path, "no diffusers"),
    ):
        assert run(["build", str(folder)]) == 1
        assert message in capsys.readouterr().err
    assert not (home / "sets").exists()


def test_debug_shows_the_traceback() -> None:
    from eigenbank.schemas.errors import EigenbankError

    with pytest.raises(EigenbankError):
        run(["--debug", "build", "/no/such/folder"])


def test_labelling_leaves_peoples_labels_to_people() -> None:
    assert run(["build", DEMO, "--layers", "mid_block*", "--recipe", "value", "--top-k", "1", "--replace"]) == 0
    one = f"{DEMO}#mid_block.attentions.0/value/0"
    assert run(["labels", "add", one, "grin", "--by", "ann"]) == 0
    assert run(["label", DEMO, "--steps", "1", "--seeds", "0", "--budget", "100"]) == 0
    assert "grin" not in load_without_people_labels(DEMO).labels
    assert "grin" in load(DEMO).labels
    assert run(["labels", "rm", one, "grin", "--by", "ann"]) == 0
    assert "grin" not in load(DEMO).labels


def test_a_set_whose_checkpoint_lies_elsewhere_is_drawn_from_the_folder_that_is_named(
    built: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    moved = tmp_path / "moved.jsonl"
    assert run(["catalog", "export", str(moved)]) == 0
    document = [json.loads(line) for line in moved.read_text(encoding="utf-8").splitlines()]
    text = "\n".join(json.dumps(line) for line in document).replace(str(tiny_checkpoint), "/no/such/place")
    moved.write_text(text + "\n", encoding="utf-8")
    monkeypatch.setenv("EIGENBANK_CATALOG", str(tmp_path / "elsewhere.db"))
    assert run(["catalog", "import", str(moved)]) == 0
    call = ["steer", built, "--set", f"{MID}=1", "--steps", "2", "--seeds", "0", "--out", str(tmp_path / "out.png")]
    assert run(call) == 1
    assert "Give its folder (--checkpoint)" in capsys.readouterr().err
    assert run([*call, "--checkpoint", str(tiny_checkpoint)]) == 0
    assert (tmp_path / "out.png").is_file()
