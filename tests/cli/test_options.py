"""A catalog that is named is made only in a folder that is there, and said to be made."""

from pathlib import Path

import pytest

from eigenbank.cli.main import run

SOME = "eigenbank/avatars-64#mid_block.attentions.0.transformer_blocks.0.attn1/output-value/0"
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}"])
@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_named_catalog_in_no_folder_is_refused(
    by: str, form: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = form.format(tmp_path / "nowhere" / "x.db")
    if by == "environment":
        monkeypatch.setenv("EIGENBANK_CATALOG", place)
    assert run([*(["--catalog", place] if by == "option" else []), "list"]) == 1
    error = capsys.readouterr().err
    assert f"there is no folder {tmp_path / 'nowhere'}. Nothing was created" in error
    assert "created a catalog" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}"])
@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_named_catalog_that_is_made_is_told(
    by: str, form: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = form.format(tmp_path / "x.db")
    if by == "environment":
        monkeypatch.setenv("EIGENBANK_CATALOG", place)
    call = ["--catalog", place] if by == "option" else []
    assert run([*call, "list"]) == 0
    assert list(tmp_path.iterdir()) == []  # reading writes nothing
    capsys.readouterr()
    add = [*call, "labels", "add", SOME, "grin", "--by", "ann"]
    assert run(add) == 0
    assert f"created a catalog, {tmp_path / 'x.db'}. It holds" in capsys.readouterr().err
    assert run(add) == 0
    assert "created" not in capsys.readouterr().err


def test_what_names_no_file_is_for_the_catalog_to_refuse(capsys: Capture) -> None:
    for place in ("sqlite://", "mysql:///x", "http://x/y", "postgresql+psycopg://u@127.0.0.1:1/x?connect_timeout=1"):
        assert run(["--catalog", place, "list"]) == 1
        assert "error: " in capsys.readouterr().err
