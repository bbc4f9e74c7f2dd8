"""What commands advise can be done where they say so, and says what happened to the data."""

from pathlib import Path

import pytest

from eigenbank.cli.main import run
from eigenbank.registry.catalog import Catalog

DEMO = "eigenbank/cartoon-faces-32"
BARE = "mid_block.attentions.0/output-value/0"


@pytest.mark.parametrize("bare", [BARE, "composite/smile"])
def test_labels_take_the_model_of_bare_directions(bare: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["labels", "add", bare, "grin", "--by", "ann"]) == 1
    assert "With --model, the part behind the # is enough" in capsys.readouterr().err
    assert run(["labels", "add", bare, "grin", "--by", "ann", "--model", DEMO]) == 0
    capsys.readouterr()
    assert run(["labels", "ls", bare, "--model", DEMO, "--source", "human", "-q"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{DEMO}#{bare}"]
    assert run(["labels", "rm", f"{DEMO}#{bare}", "grin", "--by", "ann", "--model", DEMO]) == 0


@pytest.mark.parametrize(("command", "done"), [("merge", "merged"), ("import", "imported")])
@pytest.mark.parametrize(
    "content", [b"", b"junk" * 40, b"SQLite format 3\x00" + bytes(200), None], ids=["empty", "junk", "foreign", "cut"]
)
def test_a_file_to_take_in_that_is_none_is_not_to_be_deleted(
    command: str, done: str, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.db"
    if content is None:
        Catalog.open(path, shipped=False).close()
        content = path.read_bytes()[:5000]
        for each in tmp_path.glob("other.db*"):
            each.unlink()
    path.write_bytes(content)
    assert run(["catalog", command, str(path)]) == 1
    said = capsys.readouterr().err
    assert f"Nothing was {done}. Check the path." in said or (command == "import" and content.startswith(b"junk"))
    assert "delete" not in said
    assert "--catalog" not in said
    assert path.read_bytes() == content
    assert "line 0" not in said
