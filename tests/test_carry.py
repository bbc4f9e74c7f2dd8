"""Labels of a relative are candidates for this checkpoint: found again by their vectors, and confirmed on its own pictures."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from making import make_checkpoint
from test_find import SETTINGS, Colours, easy  # noqa: F401  # a fixture

from eigenbank.builders.build import build
from eigenbank.builders.checkpoints.folder import open_folder
from eigenbank.builders.label.carry import carried
from eigenbank.builders.label.labeler import LabelerError
from eigenbank.cli.main import run
from eigenbank.loaders.measure import PipelineMeasurements
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.naming import label
from eigenbank.registry.load import load
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas import CompositeRecord, Label, Weighted

NAMES = ("warm", "light")
WARM = Label(text="warm", source="clip:other", created="2026-11-30T00:00:00Z")  # type: ignore[arg-type]


def relative(bank: DirectionSet) -> DirectionSet:
    """The same vectors but little, in another order and with other signs; one has a label, and so has a composite."""
    first, second, *others = bank
    turned = {
        name: -torch.nn.functional.normalize(rows.flip(0) + 0.02 * torch.randn(rows.shape), dim=1)
        for name, rows in bank.vectors.items()
    }
    weights = tuple(Weighted(direction=each.id, weight=weight) for each, weight in ((second, 0.5), (others[-1], -0.25)))
    made = DirectionSet(bank.manifest, vectors=turned).composed([CompositeRecord(name="light", parts=weights)])
    light = WARM.model_copy(update={"text": "light"})
    return made.labelled({first.id: (WARM,), "composite/light": (light,)})


@pytest.fixture(scope="module")
def bank(tiny_checkpoint: Path) -> DirectionSet:
    return build(open_folder(tiny_checkpoint), "a/b", recipes=["output-value"], top_k=2)


def test_the_same_directions_are_found_whatever_their_order_and_sign(bank: DirectionSet) -> None:
    found = carried(relative(bank), bank, NAMES)
    first, second, *others = bank
    assert found.lost == ()
    assert found.ids["warm"] == [second.id]  # which of two is first was changed
    (record,) = found.composites
    assert found.ids["light"] == [record.id]
    weights = {part.direction: part.weight for part in record.parts}
    assert weights == {first.id: -0.5, others[-2].id: 0.25}


def test_what_is_not_there_is_told(bank: DirectionSet) -> None:
    other = bank.randomised(2)
    found = carried(relative(bank), other, NAMES)
    assert found.count == 0
    assert len(found.lost) == 2
    some = DirectionSet(
        bank.manifest.model_copy(update={"directions": tuple(each.record for each in bank)[:2]}), vectors=bank.vectors
    )
    assert carried(relative(bank), some, NAMES).ids.keys() == {"warm"}


@pytest.mark.usefixtures("easy")
def test_nothing_is_screened_and_the_same_criteria_decide(
    bank: DirectionSet, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, said = open_pipeline(tiny_checkpoint), []
    reader = Colours()
    warm = bank[carried(relative(bank), bank, NAMES).ids["warm"][0]]
    _, plus, minus = PipelineMeasurements(pipe, 2).edited([warm], reader.features, scale=2.0, seeds=range(20, 24))
    moved = (plus - minus)[0].mean(0)
    reader.axes, reader.seen = torch.stack([torch.zeros(3), moved / moved.norm()]), 0  # "warm" is what it does

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(PipelineMeasurements, "predicted", refused)
    other = relative(bank)
    unknown = WARM.model_copy(update={"text": "of no labeler"})
    other = other.labelled({other["warm"].id: (WARM, unknown)})
    settings = dataclasses.replace(SETTINGS, confirm_most=4)
    found = label(pipe, bank, [reader], settings, carry=other, cache=tmp_path, log=said.append)
    assert found.labels == ["warm"]
    for text in found.labels:
        assert {each.id for each in found.search(f'"{text}"')} <= set(carried(other, bank, NAMES).ids[text])
    most = next(int(line.split()[2]) for line in said if line.startswith("at most "))
    assert 0 < reader.seen <= most


@pytest.mark.usefixtures("easy")
def test_what_is_not_carried_keeps_its_name_and_nothing_to_carry_is_told_before_anything_is_drawn(
    bank: DirectionSet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pipe, last = open_pipeline(tiny_checkpoint), list(bank)[-1]
    reader = Colours()
    own = bank.labelled({last.id: (WARM.model_copy(update={"text": "light", "source": reader.source}),)})
    only_warm = relative(bank).composed([])
    found = label(pipe, own, [reader], dataclasses.replace(SETTINGS, confirm_most=4), carry=only_warm, cache=tmp_path)
    assert [each.text for each in found[last.id].labels] == ["light"]
    reader = Colours()
    for nothing in (bank, relative(bank).labelled({each.id: () for each in relative(bank).sliders})):
        with pytest.raises(LabelerError, match="nothing that these labelers know has a name in the set of a/b"):
            label(pipe, own, [reader], SETTINGS, carry=nothing)
    assert reader.seen == 0


def test_the_command_carries_labels_to_the_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--steps", "1", "--budget", "200"]
    for name in ("base", "fast"):
        folder = make_checkpoint(tmp_path / name)
        assert run(["build", str(folder), "--model-id", f"a/{name}", "--top-k", "1", "--recipe", "output-value"]) == 0
    first = next(iter(load("a/fast")))
    assert run(["labels", "add", first.full_id, "brightness"]) == 0
    capsys.readouterr()
    assert run(["label", "a/base", "--from", "a/fast", "--labeler", "statistics", *few]) == 0
    assert re.search(r"at most (?!32 )\d+ images × 1 steps", capsys.readouterr().err)  # more than the unedited ones
    assert run(["label", "a/base", "--from", "a/nothing", *few]) == 1
    assert "a/nothing" in capsys.readouterr().err
