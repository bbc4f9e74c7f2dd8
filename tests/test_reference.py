"""The reference in the docs is what the commands say of themselves."""

from pathlib import Path

import pytest
from reference import main, reference

from eigenbank.cli.main import COMMANDS

DOCS = Path(__file__).parent.parent / "docs" / "cli.md"


def test_the_reference_in_the_docs_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(DOCS)]) == 0, capsys.readouterr().err


def test_every_command_is_in_it() -> None:
    text = reference()
    for command in [*COMMANDS, "catalog export", "labels add"]:
        assert f"# eigenbank {command}\n" in text


def test_a_stale_reference_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale = tmp_path / "cli.md"
    stale.write_text("old")
    assert main(["--check", str(stale)]) == 1
    assert "python docs/tools/reference.py" in capsys.readouterr().err
    assert main([str(stale)]) == 0
    assert main(["--check", str(stale)]) == 0
