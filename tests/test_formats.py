"""The generated pages of the reference are what the code says."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from diagram import diagram
from formats import FORMATS, main, pages

from eigenbank.registry.catalog.tables import Base

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


def test_the_diagram_has_every_table_column_and_reference() -> None:
    root = ET.fromstring(diagram(Base.metadata))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for table in Base.metadata.tables.values():
        assert table.name in texts
        assert {column.name for column in table.columns} <= set(texts)
    references = sum(len(table.foreign_keys) for table in Base.metadata.tables.values())
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) == references > 5
