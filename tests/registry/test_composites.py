"""Composites in a set: kept, found by their label, and refused where they do not fit."""

import datetime
import json
from pathlib import Path

import pytest
from making import rewrite_json
from pydantic import ValidationError

import eigenbank as eb
from eigenbank.registry.sets.direction_set import Composite, DirectionSet
from eigenbank.schemas import CompositeRecord, Label, Weighted
from eigenbank.schemas.errors import SetError, UnknownNameError

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)


def label(text: str, polarity: int = 1, source: str = "human:ann") -> Label:
    return Label(text=text, polarity=polarity, source=source, created=NOW)


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> DirectionSet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EIGENBANK_HOME", str(tmp_path_factory.mktemp("home")))
        return eb.build(str(tiny_checkpoint), recipes=["output-value"], top_k=2)


def composed(bank: DirectionSet, *weights: float, **fields: object) -> DirectionSet:
    parts = tuple(Weighted(direction=each.id, weight=one) for each, one in zip(bank, weights, strict=False))
    return bank.composed([CompositeRecord(name="both", parts=parts, **fields)])  # type: ignore[arg-type]


def test_a_composite_is_saved_and_read_back(plain: DirectionSet, tmp_path: Path) -> None:
    made = composed(plain, 0.6, -0.8, labels=(label("smile", -1),))
    bank = DirectionSet.open(made.save(tmp_path / "set").folder)  # type: ignore[arg-type]
    found = bank["composite/both"]
    assert isinstance(found, Composite)
    assert found.record == made.composites[0].record
    assert [(each.id, weight) for each, weight in found.parts] == [
        (each.id, weight) for each, weight in zip(list(plain)[:2], (0.6, -0.8), strict=True)
    ]
    assert bank.find("smile") == (found, -1)
    assert bank.search("smi") == [found]
    assert bank[found.full_id] is found
    assert "smile" in (tmp_path / "set" / "README.md").read_text(encoding="utf-8")
    assert len(bank) == len(plain)
    assert bank.sliders == (*bank, found)


def test_the_best_of_direction_and_composite_has_the_word(plain: DirectionSet) -> None:
    bank = composed(plain, 0.6, 0.8, labels=(label("smile"),))
    first = next(iter(bank))
    assert isinstance(bank.labelled({first.id: (label("smile", source="statistics"),)})["smile"], Composite)
    again = bank.labelled({first.id: (label("smile"),), "composite/both": (label("smile", source="statistics"),)})
    assert again["smile"].id == first.id
    assert again["composite/both"].labels[0].source == "statistics"


def test_a_composite_of_what_is_not_there_is_refused(plain: DirectionSet, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"made of mid_block.attentions.0/output-value/9, which is not listed"):
        plain.composed(
            [CompositeRecord(name="x", parts=(Weighted(direction="mid_block.attentions.0/output-value/9", weight=1),))]
        )
    folder = composed(plain, 0.6, 0.8).save(tmp_path / "set").folder
    assert folder is not None
    file = folder / "manifest.json"
    rewrite_json(file, composites=2 * json.loads(file.read_text(encoding="utf-8"))["composites"])
    with pytest.raises(SetError, match="composite/both is listed twice"):
        DirectionSet.open(folder)


@pytest.mark.parametrize("name", ["", "Smile", "a/b", "../x", "a b", "x" * 101])
def test_names_that_could_be_paths_or_labels_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        CompositeRecord(name=name, parts=(Weighted(direction="a/value/0", weight=1.0),))


def test_an_unknown_composite_is_an_unknown_name(plain: DirectionSet) -> None:
    with pytest.raises(UnknownNameError):
        composed(plain, 1.0)["composite/other"]
