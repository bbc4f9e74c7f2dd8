"""A catalog that is named is made only in a folder that is there, and said to be made."""

from pathlib import Path

import pytest

from eigenbank.cli.main import run

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
    assert f"there is no folder {tmp_path / 'nowhere'}. Nothing was made" in error
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
    call = [*(["--catalog", place] if by == "option" else []), "list"]
    assert run(call) == 0
    assert f"created a catalog, {tmp_path / 'x.db'}. It holds" in capsys.readouterr().err
    assert run(call) == 0
    assert capsys.readouterr().err == ""


def test_a_catalog_that_a_failing_command_makes_is_told(tmp_path: Path, capsys: Capture) -> None:
    assert run(["--catalog", str(tmp_path / "x.db"), "show", "no/such"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert f"created a catalog, {tmp_path / 'x.db'}" in first
    assert second.startswith("error: no direction 'no/such'")


def test_what_names_no_file_is_for_the_catalog_to_refuse(capsys: Capture) -> None:
    for place in ("sqlite://", "mysql:///x", "http://x/y", "postgresql+psycopg://u@127.0.0.1:1/x?connect_timeout=1"):
        assert run(["--catalog", place, "list"]) == 1
        assert "error: " in capsys.readouterr().err
