"""What commands advise can be done where they say so, and says what happened to the data."""

from pathlib import Path

import pytest

from eigenbank.cli.main import run

pytestmark = pytest.mark.usefixtures("with_faces")

DEMO = "eigenbank/cartoon-faces-32"
BARE = "mid_block.attentions.0/output-value/0"


@pytest.mark.parametrize("bare", [BARE, "composite/smile"])
def test_a_direction_to_label_is_named_with_its_model(bare: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["labels", "add", bare, "grin", "--by", "ann"]) == 1
    assert "Names have the form MODEL_ID#" in capsys.readouterr().err
    assert run(["labels", "add", f"{DEMO}#{bare}", "grin", "--by", "ann"]) == 0
    capsys.readouterr()
    assert run(["search", "grin", "--model", DEMO, "--source", "human", "-q"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{DEMO}#{bare}"]
    assert run(["labels", "rm", f"{DEMO}#{bare}", "grin", "--by", "ann"]) == 0


@pytest.mark.parametrize(
    "content", [b"", b"junk" * 40, b"SQLite format 3\x00" + bytes(200), None], ids=["empty", "junk", "foreign", "cut"]
)
def test_a_file_to_take_in_that_is_none_is_not_to_be_deleted(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.db"
    if content is None:
        assert run(["--catalog", str(path), "catalog", "reindex"]) == 0
        content = path.read_bytes()[:5000]
    path.write_bytes(content)
    assert run(["catalog", "import", str(path)]) == 1
    said = capsys.readouterr().err
    assert "Nothing was imported. Check the path." in said or content.startswith(b"junk") or "it is damaged" in said
    assert "delete" not in said
    assert "--catalog" not in said
    assert path.read_bytes() == content
    assert "line 0" not in said


def test_near_names_are_told_by_what_they_do_not_share(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", f"{DEMO}#composite/hairlength"]) == 1
    assert f"did you mean '{DEMO}#composite/hair-length'?" in capsys.readouterr().err


def test_a_fold_that_cannot_be_is_told_in_the_commands_own_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["steer", DEMO, "--set", f"{BARE}=1", "--fuse", "--steps", "1", "--seeds", "0"]
    call += ["--out", str(tmp_path / "a.png")]
    assert run(call) == 1
    said = capsys.readouterr().err
    assert "add it there, --site output, or leave out --fuse" in said
    assert "fuse=True" not in said
    assert run([*call, "--site", "output"]) == 0


def test_a_gallery_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "site")
    assert run(["labels", "add", f"{DEMO}#{BARE}", "grin", "--by", "ann"]) == 0
    assert run(["gallery", "--out", out]) == 0
    assert "1 labels that people gave in this catalog are left out (--with-labels" in capsys.readouterr().err
    assert run(["gallery", "--out", out, "--with-labels"]) == 0
    assert "left out" not in capsys.readouterr().err


def test_what_was_named_by_nobody_can_be_looked_at(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["build", str(tiny_checkpoint), "--model-id", "acme/tiny", "--top-k", "1"]) == 0
    capsys.readouterr()
    assert run(["label", "acme/tiny", "--labeler", "statistics", "--steps", "1", "--seeds", "0", "--most", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "nothing earned a name" in printed.err
    assert "eigenbank labels add acme/tiny#DIRECTION" in printed.err
    assert run(["gallery", "--out", str(tmp_path / "site")]) == 0
    assert "no direction of acme/tiny has pictures: eigenbank preview acme/tiny" in capsys.readouterr().err
    assert run(["labels", "add", f"acme/tiny#{BARE}", "grin"]) == 0
    assert run(["preview", "acme/tiny"]) == 1
    said = capsys.readouterr().err
    assert "The 1 that people labelled in this catalog do not count here" in said
    assert f"eigenbank preview acme/tiny {BARE}" in said


def test_the_playground_says_that_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["play", "no/such"]) == 1
    assert capsys.readouterr().err.startswith("starting…")
