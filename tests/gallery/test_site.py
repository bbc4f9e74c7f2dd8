"""What is written: whole, from what the catalog and the sets hold, and nothing over what is not ours."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eigenbank.gallery.site import write_site
from eigenbank.registry.catalog import Catalog
from eigenbank.schemas import Label
from eigenbank.schemas.errors import GalleryError

from .catalogs import CELL, LAYERS, SCALES, SEEDS, add, label, make_bank
from .conftest import COMMIT, HOSTILE, MANY, write


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """An empty catalog."""
    with Catalog.open(tmp_path / "catalog.db", shipped=False) as opened:
        yield opened


def read(path: Path) -> dict[str, object]:
    """The value in a file of data."""
    found = re.fullmatch(r"eigenbank\.receive\(\.\.\.(.*)\);\n", path.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    value: dict[str, object] = json.loads(found[1])[1]
    return value


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("home")
def test_a_lora_has_no_earned_name_by_what_its_author_says(catalog: Catalog, tmp_path: Path) -> None:
    save_file({"unet.a.lora_A.weight": torch.ones(1, 1)}, tmp_path / "a.safetensors")
    bank = make_bank("acme/faces", labels={1: [label("smile")]}).import_lora(tmp_path / "a.safetensors", "grin")
    add(catalog, bank, tmp_path / "set")
    write(tmp_path / "site", catalog)
    card = read(tmp_path / "site/data/index.js")["sets"][0]  # type: ignore[index]
    assert (card["composites"], card["named"]) == (1, 1)
    assert "grin" in card["words"]


def test_everything_a_set_holds_is_in_its_file(catalog: Catalog, tmp_path: Path) -> None:
    add(
        catalog,
        make_bank("acme/faces", labels={1: [label("smile")]}, pictures=2),
        tmp_path / "set",
        repo="me/x",
        commit=COMMIT,
    )
    write(tmp_path / "site", catalog)
    card = read(tmp_path / "site/data/index.js")["sets"][0]  # type: ignore[index]
    assert card["model"] == card["name"] == "acme/faces"
    assert (card["directions"], card["named"], card["pictures"]) == (24, 1, 2)
    assert card["layers"] == len(LAYERS)
    assert card["words"] == "0 1 acme attentions block blocks down faces mid smile"
    assert (card["repo"], card["commit"]) == ("me/x", COMMIT)
    assert [pick["label"] for pick in card["picks"]] == ["smile", None]
    data = read(tmp_path / "site/data" / f"{card['slug']}.js")
    assert len(data["directions"]) == 24  # type: ignore[arg-type]
    first, second, third = data["directions"][:3]  # type: ignore[index]
    assert first[:6] == [0, 0, 0, 8, 0.3, 0.1]
    assert first[7][:2] == [[1.25, 0.8, 1.0, 0.95, 0.3, None], [-1.0, 2.0]]
    assert second[6][0][:2] == [0, 1]
    assert data["texts"] == [["smile", "smile"]]
    assert second[7] is None, "what was not measured is not made up"
    assert second[8] == 0
    assert third[8] is None
    assert data["previews"] == [{"seeds": list(SEEDS), "scales": list(SCALES), "steps": 20, "cell": [CELL, CELL]}]
    pictures = sorted((tmp_path / "site/pictures" / card["slug"]).iterdir())
    assert [path.name for path in pictures] == ["0.webp", "1.webp"]


def first_page(site: Path) -> int:
    """Bytes that are read before any picture: the page, its style and scripts, the index."""
    return sum(
        path.stat().st_size for path in [site / "index.html", *(site / "assets").iterdir(), site / "data/index.js"]
    )


@pytest.mark.slow
def test_the_first_page_of_a_thousand_checkpoints_is_small(many_folder: Path) -> None:
    index = read(many_folder / "data/index.js")
    assert index["total"] == {"sets": MANY, "directions": 4 * MANY, "composites": 0, "named": 2 * MANY}
    assert first_page(many_folder) < 300_000
    parts = [read(many_folder / f"data/cards-{number}.js") for number in range(1, index["more"] + 1)]  # type: ignore[operator]
    cards = [index["sets"], *parts]
    assert [card["name"] for part in cards for card in part] == [  # type: ignore[attr-defined]
        f"made-up/checkpoint-of-some-length-{number:04}" for number in range(MANY)
    ]
    assert max(path.stat().st_size for path in (many_folder / "data").glob("cards-*.js")) < 300_000


def test_the_index_stays_small_whatever_the_cards_hold(catalog: Catalog, tmp_path: Path) -> None:
    many = {number: [label(f"name {number:x>450}", evidence=None)] for number in range(400)}
    add(
        catalog,
        make_bank("acme/much", labels=many, ranks=16, layers=[f"layer.{number}" for number in range(9)]),
        tmp_path / "a",
    )
    add(catalog, make_bank("acme/less", labels={0: [label("smile")]}), tmp_path / "b")
    write(tmp_path / "site", catalog)
    assert first_page(tmp_path / "site") < 300_000
    index = read(tmp_path / "site/data/index.js")
    assert (index["sets"], index["more"]) == ([], 2)
    names = [[card["name"] for card in read(tmp_path / f"site/data/cards-{number}.js")] for number in (1, 2)]  # type: ignore[attr-defined]
    assert names == [["acme/much"], ["acme/less"]]
    assert index["hero"]["name"] == "acme/much"  # type: ignore[index]
    assert len(index["hints"]) == 24  # type: ignore[arg-type]


def test_the_best_slider_of_a_name_stands_for_a_checkpoint(composite_folder: Path) -> None:
    index = read(composite_folder / "data/index.js")
    card = index["sets"][0]  # type: ignore[index]
    assert [pick["id"] for pick in card["picks"][:2]] == ["composite/big-smile", f"{LAYERS[0]}/output-value:output/1"]
    assert index["hero"]["pick"]["id"] == "composite/big-smile"  # type: ignore[index]
    assert (card["directions"], card["composites"], card["named"], card["pictures"]) == (24, 1, 3, 25)


def test_the_same_catalog_gives_the_same_files(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, make_bank("acme/faces", labels={1: [label("smile")]}), tmp_path / "set")
    write(tmp_path / "one", catalog)
    write(tmp_path / "two", catalog)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_nothing_of_this_machine_is_in_it(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, make_bank("acme/faces"), tmp_path / "secret-folder")
    write(tmp_path / "site", catalog)
    assert not [name for name, content in files(tmp_path / "site").items() if b"secret-folder" in content]


def test_data_cannot_end_the_script_it_is_in(catalog: Catalog, tmp_path: Path) -> None:
    labels = {number: [label(text, evidence=None)] for number, text in enumerate(HOSTILE)}
    add(catalog, make_bank("acme/faces", labels=labels, licence="</script>\u2000"), tmp_path / "set")
    write(tmp_path / "site", catalog)
    for path in (tmp_path / "site/data").iterdir():
        assert not set("<\u2028\u2029") & set(path.read_text(encoding="utf-8"))
    page = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert "window.owned=1</script>" not in page
    assert "&lt;script&gt;window.owned=1&lt;/script&gt;" in page
    assert not re.search(
        r"\son\w+=|style=|javascript:[^w]", re.sub(r"<noscript>.*</noscript>", "", page, flags=re.DOTALL)
    )


def test_peoples_labels_of_this_catalog_are_shown_only_when_asked_for(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, make_bank("acme/faces"), tmp_path / "set")
    mine = Label(text="looks like uncle Bob", source="human:ann", created="2026-11-23T00:00:00Z")  # type: ignore[arg-type]
    catalog.add_labels([f"acme/faces#{LAYERS[0]}/output-value/0"], mine)
    write(tmp_path / "public", catalog)
    write(tmp_path / "own", catalog, people=True)
    assert not [
        name for name, content in files(tmp_path / "public").items() if b"uncle" in content or b"ann" in content.split()
    ]
    assert [
        name
        for name, content in files(tmp_path / "own").items()
        if b"uncle Bob" in content and name.startswith("data/acme")
    ]


def test_a_missing_or_damaged_set_is_said_and_left_out(catalog: Catalog, tmp_path: Path) -> None:
    for name in ("gone", "torn", "swapped", "good"):
        add(catalog, make_bank(f"acme/{name}"), tmp_path / name)
    (tmp_path / "gone").rename(tmp_path / "away")
    (tmp_path / "torn/manifest.json").write_text("{", encoding="utf-8")
    manifest = tmp_path / "swapped/manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("acme/swapped", "acme/other"), encoding="utf-8")
    elsewhere = make_bank("acme/remote").save(tmp_path / "remote")
    catalog.add_set(elsewhere.manifest, location=f"hub:me/remote@{COMMIT}", digest="0" * 64)
    said: list[str] = []
    site = write_site(tmp_path / "site", catalog, log=said.append)
    assert [(entry.model, entry.outcome) for entry in site.sets] == [
        ("acme/gone", "skipped"), ("acme/good", "shown"), ("acme/remote", "skipped"), ("acme/swapped", "skipped"), ("acme/torn", "skipped"),
    ]  # fmt: skip
    assert len(said) == 4
    assert "holds no manifest.json" in said[0]
    assert "eigenbank pull me/remote" in said[1]
    assert len(read(tmp_path / "site/data/index.js")["sets"]) == 1  # type: ignore[arg-type]


def test_damaged_pictures_are_said_and_left_out(catalog: Catalog, tmp_path: Path) -> None:
    bank = make_bank("acme/faces", pictures=5)
    add(catalog, bank, tmp_path / "set")
    first, second, third, *_ = sorted((tmp_path / "set/previews").iterdir())
    first.unlink()
    second.write_bytes(b"RIFF....WEBP" + b"x" * 100)
    third.write_bytes(third.read_bytes()[:-1] + b"\0")
    said: list[str] = []
    site = write_site(tmp_path / "site", catalog, log=said.append)
    assert site.sets[0].pictures == 2
    assert "3 pictures are left out" in said[0]
    assert len(list((tmp_path / "site/pictures").rglob("*.webp"))) == 2


@pytest.mark.parametrize("content", ["not a picture", "wrong grid"])
def test_a_picture_that_is_none_or_of_another_grid_is_left_out(catalog: Catalog, tmp_path: Path, content: str) -> None:
    from eigenbank.schemas import Preview

    from .catalogs import picture

    drawn = b"GIF89a" if content == "not a picture" else picture(0, rows=3, columns=2)
    bank = make_bank("acme/faces", pictures=0)
    name = f"{LAYERS[0]}/output-value/0"
    add(
        catalog,
        bank.with_previews({name: (Preview(seeds=(1, 2, 3, 4, 5), scales=(0.0, 1.0), steps=5), drawn)}),
        tmp_path / "set",
    )
    said: list[str] = []
    assert write_site(tmp_path / "site", catalog, log=said.append).sets[0].pictures == 0
    assert ("no WebP picture" if content == "not a picture" else "no grid of 2×5 equal cells") in said[0]


def test_two_sets_of_one_model_are_told_apart(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, make_bank("acme/faces", revision="a" * 40, pictures=1), tmp_path / "one")
    add(catalog, make_bank("acme/faces", revision="b" * 40, pictures=1), tmp_path / "two")
    write(tmp_path / "site", catalog)
    cards = read(tmp_path / "site/data/index.js")["sets"]
    names = [card["name"] for card in cards]  # type: ignore[attr-defined]
    assert sorted(len(name) for name in names) == [len("acme/faces"), len("acme/faces@") + 40]
    assert len({card["slug"] for card in cards}) == 2  # type: ignore[attr-defined]
    assert {card["newest"] for card in cards} == {True, False}  # type: ignore[attr-defined]


def test_ids_that_differ_only_in_case_have_files_of_their_own(catalog: Catalog, tmp_path: Path) -> None:
    for number, model in enumerate(("Acme/Faces", "acme/faces", "acme/faces.", "aux", "模型/層")):
        add(catalog, make_bank(model, pictures=1), tmp_path / str(number))
    write(tmp_path / "site", catalog)
    names = [path.stem for path in (tmp_path / "site/data").iterdir()]
    assert len({name.casefold() for name in names}) == 6
    assert all(re.fullmatch(r"[a-z0-9-]+", name) and name != "aux" for name in names)


def test_a_site_takes_the_place_of_an_earlier_one(catalog: Catalog, tmp_path: Path) -> None:
    folder = add(catalog, make_bank("acme/faces"), tmp_path / "set")
    write(tmp_path / "site", catalog)
    with Catalog.open(tmp_path / "two.db", shipped=False) as other:
        add(other, make_bank("acme/cats"), tmp_path / "cats")
        write(tmp_path / "site", other)
    assert [path.name.split("-")[1] for path in (tmp_path / "site/pictures").iterdir()] == ["cats"]
    assert folder.is_dir()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("what", ["a file", "a folder", "a link", "a site with more"])
def test_what_is_not_ours_is_not_overwritten(catalog: Catalog, tmp_path: Path, what: str) -> None:
    target = tmp_path / "site"
    if what == "a file":
        target.write_text("mine")
    elif what == "a link":
        (tmp_path / "real").mkdir()
        target.symlink_to(tmp_path / "real")
    else:
        if what == "a site with more":
            write(target, catalog)
        target.mkdir(exist_ok=True)
        (target / "CNAME").write_text("mine")
    before = files(tmp_path)
    with pytest.raises(GalleryError, match="nothing was written"):
        write(target, catalog)
    assert {name: content for name, content in files(tmp_path).items() if "catalog.db" not in name} == {
        name: content for name, content in before.items() if "catalog.db" not in name
    }


def test_force_sets_aside_what_is_there(catalog: Catalog, tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site/CNAME").write_text("mine")
        write(tmp_path / "site", catalog, force=True)
        assert (tmp_path / "site/index.html").is_file()
    assert (tmp_path / "site.1/CNAME").read_text() == "mine"
    assert (tmp_path / "site.2/CNAME").read_text() == "mine"


def test_a_folder_one_stands_in_is_never_replaced(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here/inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here/inner")
    for target in (tmp_path / "here", tmp_path):
        with pytest.raises(GalleryError, match="where you are"):
            write(target, catalog, force=True)


def test_nothing_is_left_behind_where_writing_fails(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(catalog, make_bank("acme/faces"), tmp_path / "set")
    write(tmp_path / "site", catalog)
    before = files(tmp_path / "site")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(GalleryError, match="No space left"):
        write(tmp_path / "site", catalog)
    assert files(tmp_path / "site") == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_told(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    with pytest.raises(GalleryError, match="cannot be written to"):
        write(tmp_path / "closed/site", catalog)
