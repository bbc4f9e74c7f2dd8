"""`eigenbank catalog import` of folders and `rm`: sets go into the catalog and out of it, and what is said of them."""

import json
from pathlib import Path

import pytest
from registry.catalog.made import label, manifest

from eigenbank.cli.main import run
from eigenbank.registry.catalog import Catalog
from eigenbank.registry.load import load
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID as DEMO

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def built(tiny_checkpoint: Path, capsys: Capture) -> Path:
    """The folder of the set of acme/tiny, one of its directions labelled by a person."""
    assert run(["build", str(tiny_checkpoint), "--model-id", "acme/tiny", "--top-k", "1"]) == 0
    bank = load("acme/tiny")
    assert run(["labels", "add", next(iter(bank)).full_id, "grin", "--by", "ann"]) == 0
    capsys.readouterr()
    assert bank.folder is not None
    return bank.folder


def test_a_removed_set_is_gone_and_its_folder_left(built: Path, tiny_checkpoint: Path, capsys: Capture) -> None:
    assert run(["catalog", "rm", "acme/tiny"]) == 0
    told = capsys.readouterr().err
    assert "removed acme/tiny from the catalog: 8 directions, 1 labels" in told
    assert "1 labels of people wait for the set, or another with their directions, to come back" in told
    assert f"its folder is left, {built}" in told
    assert (built / "manifest.json").is_file()
    assert run(["list", "-q"]) == 0
    assert capsys.readouterr().out.split() == [DEMO]
    assert run(["build", str(tiny_checkpoint), "--model-id", "acme/tiny", "--top-k", "1"]) == 0
    assert load("acme/tiny").labels == ["grin"]


def test_files_deletes_a_folder_of_eigenbanks_own(built: Path, home: Path, capsys: Capture) -> None:
    assert run(["catalog", "rm", "acme/tiny", "--files"]) == 0
    assert "its folder was deleted" in capsys.readouterr().err
    assert not built.exists()
    assert list(built.parent.iterdir()) == []


def test_files_deletes_no_other_folder(tmp_path: Path, tiny_checkpoint: Path, capsys: Capture) -> None:
    out = tmp_path / "set"
    assert run(["build", str(tiny_checkpoint), "--model-id", "acme/tiny", "--top-k", "1", "--out", str(out)]) == 0
    for model, where in (("acme/tiny", out), (DEMO, "avatars-64")):
        assert run(["catalog", "rm", model, "--files"]) == 1
        error = capsys.readouterr().err
        assert str(where) in error
        assert "nothing was removed. Leave out --files" in error
    assert (out / "manifest.json").is_file()
    assert load("acme/tiny").folder == out


def test_the_shipped_set_comes_back_when_what_replaced_it_goes(demo_checkpoint: Path, capsys: Capture) -> None:
    labels = load(DEMO).labels
    build = ["build", DEMO, "--layers", "mid_block*", "--recipe", "value", "--top-k", "1", "--replace"]
    assert run(build) == 0
    assert f"eigenbank catalog rm {DEMO} brings it back, as it ships" in capsys.readouterr().err
    assert load(DEMO).labels == []
    assert run(["catalog", "rm", DEMO, "--files"]) == 0
    assert "the set that ships with eigenbank is back" in capsys.readouterr().err
    bank = load(DEMO)
    assert (bank.labels, bank.folder) == (labels, demo_checkpoint / "directions")


def test_what_ships_stays_away_once_removed_and_is_added_again_as_removal_says(
    demo_checkpoint: Path, capsys: Capture
) -> None:
    assert run(["catalog", "rm", DEMO]) == 0
    told = capsys.readouterr().err
    command = told.rpartition("it ships with eigenbank; eigenbank ")[2].partition(" enters it again")[0]
    assert command == f"catalog import {demo_checkpoint / 'directions'}"
    assert run(["list", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert run(command.split()) == 0
    capsys.readouterr()
    assert run(["show", DEMO, "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["location"], row["checkpoint"]) == ("shipped:avatars-64/directions", "shipped:avatars-64")


def test_unknown_names_get_near_matches(built: Path, capsys: Capture) -> None:
    assert run(["catalog", "rm", "acme/tny"]) == 1
    assert "did you mean 'acme/tiny'" in capsys.readouterr().err
    assert run(["catalog", "rm", "acme/tiny", "--revision", "main"]) == 1
    assert "no revision of acme/tiny 'main'" in capsys.readouterr().err
    assert load("acme/tiny")


def test_of_several_revisions_one_must_be_named(capsys: Capture) -> None:
    with Catalog.open() as catalog:
        for number, revision in enumerate((None, "abc", "def")):
            catalog.add_set(manifest(revision=revision, days=number), location=f"/s/{number}", digest=str(number))
    assert run(["catalog", "rm", "acme/faces"]) == 1
    error = capsys.readouterr().err
    assert "acme/faces has 3 sets" in error
    assert "Name one: --revision" in error
    assert run(["catalog", "rm", "acme/faces", "--revision", "abc"]) == 0
    told = capsys.readouterr().err
    assert "removed acme/faces of revision abc from the catalog" in told
    assert "it is not on this machine; the catalog had it at /s/1" in told
    assert run(["catalog", "rm", "acme/faces", "--revision", ""]) == 0
    with Catalog.open() as catalog:
        assert [row.revision for row in catalog.sets() if row.model_id == "acme/faces"] == ["def"]


def test_a_set_that_was_replaced_meanwhile_is_not_removed() -> None:
    from eigenbank.schemas.errors import CatalogError

    with Catalog.open(shipped=False) as catalog:
        catalog.add_set(manifest(labels={"mid_block.attentions.0/value/1": [label("smile")]}), location="a", digest="2")
        with pytest.raises(CatalogError, match="nothing was removed"):
            catalog.remove_set("acme/faces", None, digest="1")
        assert catalog.model_ids() == ["acme/faces"]


def test_what_was_added_is_printed_and_can_be_drawn(tiny_checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    build = ["build", str(tiny_checkpoint), "--model-id", "acme/mid", "--layers", "mid_block.*", "--top-k", "1"]
    assert run([*build, "--out", str(tmp_path / "mid")]) == 0
    assert run(["catalog", "rm", "acme/mid"]) == 0
    assert (
        f"its folder is left, {tmp_path / 'mid'}; eigenbank catalog import {tmp_path / 'mid'}"
        in capsys.readouterr().err
    )
    add = ["catalog", "import", str(tmp_path / "mid"), "--checkpoint", str(tiny_checkpoint), "--format", "json"]
    assert run(add) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["schema"], row["model"], row["directions"], row["labels"]) == ("eigenbank/entered/1", "acme/mid", 2, 0)
    name = "acme/mid#mid_block.attentions.0/output-value/0"
    assert run(["sweep", name, "--steps", "1", "--seeds", "0", "--out", str(tmp_path / "out.png")]) == 0
    assert run([*build, "--top-k", "2"]) == 0
    capsys.readouterr()
    assert run(add) == 0
    assert "took the place of the set of acme/mid at " in capsys.readouterr().err


def test_a_wrong_call_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert run(["catalog", "import"]) == 2
    (tmp_path / "none").mkdir()
    assert run(["catalog", "import", str(tmp_path / "none")]) == 1
    assert "is no direction set" in capsys.readouterr().err
    assert run(["catalog", "import", str(tmp_path / "none"), str(tmp_path / "all.jsonl")]) == 2
    assert "the folders of sets, or one export" in capsys.readouterr().err
    for option in (["--replace"], ["--checkpoint", str(tmp_path)]):
        assert run(["catalog", "import", str(tmp_path / "all.jsonl"), *option]) == 2
        assert "go with the folders of sets" in capsys.readouterr().err
