"""The generated pages of the reference are what the code says."""

import json
from pathlib import Path

import pytest
from formats import FORMATS, main, pages

DOCS = Path(__file__).parent.parent / "docs"


def test_the_pages_in_the_docs_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(DOCS)]) == 0, capsys.readouterr().err


def test_a_stale_page_is_told_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "formats.md").write_text("old")
    assert main(["--check", str(tmp_path)]) == 1
    assert "formats.md" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0


def test_every_format_forbids_what_it_does_not_know_and_has_a_number() -> None:
    made = pages()
    for name, (model, _) in FORMATS.items():
        document = json.loads(made[f"schemas/{name}.schema.json"])
        assert document["additionalProperties"] is False
        assert document["properties"]["format"]["const"] == model.model_fields["format"].default
