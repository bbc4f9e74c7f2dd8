"""`eigenbank build`: what can be built of a checkpoint, and that no labelled set is replaced unasked."""

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from eigenbank.cli.main import run
from eigenbank.registry.catalog import Catalog
from eigenbank.registry.load import load
from eigenbank.registry.local import store
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID as DEMO
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas import Label

MIDDLE = ("--layers", "mid_block.*", "--recipe", "value", "--top-k", "1")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def labelled(tiny_checkpoint: Path, capsys: Capture) -> DirectionSet:
    """A set of one's own, with a labeler's label and a preview."""
    assert run(["build", str(tiny_checkpoint), "--model-id", "acme/tiny", "--top-k", "1"]) == 0
    bank = load("acme/tiny")
    name = next(iter(bank)).id
    smile = Label(text="smile", confidence=0.9, source="statistics", created=datetime.now(timezone.utc))
    kept = store(bank.labelled({name: (smile,)}), checkpoint=tiny_checkpoint)
    assert run(["preview", "acme/tiny", "--seeds", "0", "--scales=-1,1", "--steps", "1"]) == 0
    assert not kept.folder.exists()  # type: ignore[union-attr]
    capsys.readouterr()
    return load("acme/tiny")


def test_the_shipped_set_is_not_replaced_unasked(
    tmp_path: Path, home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = load(DEMO).labels
    monkeypatch.setattr("eigenbank.builders.build.build", lambda *_given, **_more: pytest.fail("the work was done"))
    for more in ((), ("--out", str(tmp_path / "set"))):
        assert run(["build", DEMO, *MIDDLE, *more]) == 1
        error = capsys.readouterr().err
        assert f"the catalog's set of {DEMO}, at shipped:avatars-64/directions, has " in error
        for part in (
            "labels by labelers",
            "composites and",
            "previews",
            "nothing was built",
            "--model-id",
            "--replace",
        ):
            assert part in error
    assert load(DEMO).labels == labels
    assert not (tmp_path / "set").exists()
    assert not (home / "sets").exists()


def test_a_set_of_ones_own_keeps_its_folder(labelled: DirectionSet, tiny_checkpoint: Path, capsys: Capture) -> None:
    assert run(["build", str(tiny_checkpoint), "--model-id", "acme/tiny", *MIDDLE]) == 1
    assert "has 1 label by labelers and 1 preview that the new one lacks" in capsys.readouterr().err
    assert (labelled.folder / "manifest.json").is_file()  # type: ignore[operator]
    assert run(["build", str(tiny_checkpoint), "--model-id", "acme/middle", *MIDDLE]) == 0
    assert load("acme/tiny").labels == ["smile"]


def test_replace_says_what_was_replaced(labelled: DirectionSet, tiny_checkpoint: Path, capsys: Capture) -> None:
    assert run(["build", str(tiny_checkpoint), "--model-id", "acme/tiny", *MIDDLE, "--replace"]) == 0
    told = capsys.readouterr().err
    assert f"replaced a set of {len(labelled)} directions of acme/tiny" in told
    assert "gone with it: 1 label by labelers and 1 preview. Its folder was removed" in told
    assert load("acme/tiny").labels == []
    assert not labelled.folder.exists()  # type: ignore[union-attr]


def test_the_same_set_again_and_unlabelled_ones_are_replaced_as_ever(tiny_checkpoint: Path, capsys: Capture) -> None:
    for more in ((), (), ("--top-k", "2")):
        assert run(["build", str(tiny_checkpoint), "--model-id", "acme/tiny", *more]) == 0
    assert "took the place" not in capsys.readouterr().err


def test_peoples_labels_do_not_stand_in_the_way_of_a_build(tiny_checkpoint: Path) -> None:
    build = ["build", str(tiny_checkpoint), "--model-id", "acme/tiny"]
    assert run([*build, "--top-k", "1"]) == 0
    name = next(iter(load("acme/tiny"))).full_id
    assert run(["labels", "add", name, "grin", "--by", "ann"]) == 0
    assert run([*build, "--top-k", "2"]) == 0
    assert load("acme/tiny").labels == ["grin"]


def test_labelling_again_may_leave_labels_out(labelled: DirectionSet) -> None:
    few = ["--steps", "1", "--seeds", "0", "--labeler", "statistics"]
    assert run(["label", "acme/tiny", *few]) == 0
    assert "smile" not in load("acme/tiny").labels


@pytest.mark.parametrize("out", [False, True])
def test_a_set_labelled_meanwhile_is_spared(out: bool, labelled: DirectionSet, tmp_path: Path, home: Path) -> None:
    """As another program may label it after the build has looked: the transaction looks again."""
    from eigenbank.schemas.errors import ReplaceError

    new = labelled.labelled({direction.id: () for direction in labelled})
    with pytest.raises(ReplaceError, match="the new set was not added"):
        store(new, out=tmp_path / "out" if out else None)
    with Catalog.open() as catalog:
        assert catalog.get_set("acme/tiny").labels == 1  # type: ignore[union-attr]
    assert [path.parent for path in (home / "sets").rglob("manifest.json")] == [labelled.folder]
    assert not (tmp_path / "out").exists()


def test_layers_are_listed_with_what_they_cost(tiny_checkpoint: Path, capsys: Capture) -> None:
    assert run(["build", "--dry-run", str(tiny_checkpoint), "--format", "json"]) == 0
    rows = {row["layer"]: row for row in json.loads(capsys.readouterr().out)}
    row = rows["mid_block.attentions.0"]
    assert (row["kind"], row["width"], row["heads"], row["frame"]) == ("spatial", 32, 4, "after norm inside")
    # Four projections with their biases, and the norm, in float32.
    assert row["bytes"] == 4 * (4 * 32 * 32 + 4 * 32 + 2 * 32)
    assert run(["build", "--dry-run", str(tiny_checkpoint)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list(rows)
