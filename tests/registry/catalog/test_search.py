import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eigenbank.registry.catalog import Catalog, Page
from eigenbank.registry.catalog.care import verify
from eigenbank.schemas.errors import CatalogError, SearchError, UnknownNameError

from .made import label, manifest, measured

LONG = '"' + "long hair " * 10_000


def fill(catalog: Catalog) -> Catalog:
    """Two models; the labels are placed so that every tier of a search for `smile` has someone."""
    faces = {
        "mid_block.attentions.0/value/0": [label("smile", 0.5), label("big smile", 0.99)],
        "mid_block.attentions.0/value/1": [label("smiles", 0.95), label("Smile", 0.7)],
        "mid_block.attentions.0/value/2": [label("smile", None, "human:ann")],
        "down_blocks.2.attentions.0/value/0": [measured("long hair", 0.8), label("hair that is long", 0.9)],
        "down_blocks.2.attentions.0/value/1": [label("smiling", 0.9, "clip:x@1"), label("grin", 0.1)],
    }
    catalog.add_set(manifest("acme/faces", faces), location="/a", digest="1")
    smile = manifest("acme/smile-net", {"mid/qkv/0": [label("age", 0.3)]}, layers=("mid",), recipes=("qkv",))
    catalog.add_set(smile, location="/b", digest="2")
    return catalog


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    return fill(catalog)


def names(page: Page) -> list[str]:
    return [row.name for row in page]


def every(catalog: Catalog, limit: int, **search: Any) -> Iterator[str]:
    cursor = None
    while True:
        page = catalog.search(**search, limit=limit, cursor=cursor)
        assert len(page) == limit or page.cursor is None
        yield from (row.id for row in page)
        cursor = page.cursor
        if cursor is None:
            return


def test_the_best_match_comes_first(filled: Catalog) -> None:
    assert names(filled.search("smile")) == [
        "mid_block.attentions.0/value/2",  # smile, a person says so
        "mid_block.attentions.0/value/1",  # Smile, 0.7
        "mid_block.attentions.0/value/0",  # smile, 0.5
        "mid/qkv/0",  # by the model's name
        "mid/qkv/1",
        "mid/qkv/2",
    ]
    assert names(filled.search("smil"))[:3] == [f"mid_block.attentions.0/value/{rank}" for rank in (2, 0, 1)]
    assert "down_blocks.2.attentions.0/value/1" in names(filled.search("smil"))


def test_a_phrase_in_quotes_stands_as_it_is(filled: Catalog) -> None:
    assert names(filled.search('"long hair"')) == ["down_blocks.2.attentions.0/value/0"]
    assert names(filled.search('"hair long"')) == []
    assert names(filled.search("hair long")) == ["down_blocks.2.attentions.0/value/0"]
    assert names(filled.search('"smil"')) == []


def test_words_may_be_in_label_layer_and_model_together(filled: Catalog) -> None:
    assert names(filled.search("faces down grin")) == ["down_blocks.2.attentions.0/value/1"]
    assert names(filled.search("faces mid grin")) == []
    assert names(filled.search("age smile net")) == ["mid/qkv/0"]
    assert len(filled.search("acme")) == 15


def test_a_page_goes_on_after_rows_were_added(filled: Catalog) -> None:
    first = filled.search("smil", limit=2)
    filled.add_labels(["acme/faces#mid_block.attentions.0/output-value:output/0"], label("smile", 1.0, "human:bob"))
    rest = filled.search("smil", limit=50, cursor=first.cursor)
    assert not {row.id for row in first} & {row.id for row in rest}


@pytest.mark.parametrize("text", [None, "smile"])
@pytest.mark.parametrize("given", [{"layer": "*"}, {"recipe": "*"}, {"layer": "*", "recipe": "*"}])
def test_a_composite_is_of_no_layer_and_recipe_not_even_of_any(
    text: str | None, given: dict[str, str], catalog: Catalog
) -> None:
    one = manifest("acme/made", {"composite/smile": [label("smile", 0.9)]}, composites=("smile",))
    catalog.add_set(one, location="/made", digest="9")
    assert names(catalog.search(text, composites=True)) == ["composite/smile"]
    assert names(catalog.search(text, composites=True, **given)) == []


def test_a_plain_name_that_is_not_there_gets_suggestions(filled: Catalog) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'acme/faces'"):
        filled.search(model="acme/facs")
    with pytest.raises(UnknownNameError, match=r"no layer 'mid'"):
        filled.search(model="acme/faces", layer="mid")
    with pytest.raises(UnknownNameError, match="did you mean 'value'"):
        filled.search(recipe="valeu")
    with pytest.raises(UnknownNameError, match="did you mean 'eigenvalue'"):
        filled.search(sort="eigenvalues")  # type: ignore[arg-type]


HOSTILE = ['"', '""', "*", "* *", "smile*", "^smile", "a AND b", "NEAR(a b)", "smile\x00", "\x00", "\udcff", "-smile",
           "'; DROP TABLE labels; --", "words:smile", "(", "{a b}: c", "a" * 100_000, "x " * 50_000, LONG,
           "".join(map(chr, range(1, 2_000))), "%", "_", "\\", "[", "[!", "????", "𝕤𝕞𝕚𝕝𝕖"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_anywhere_gives_rows_or_a_clear_error(filled: Catalog, text: str) -> None:
    try_everywhere(filled, text)


def try_everywhere(filled: Catalog, text: str) -> None:
    """Search for a text in every field: rows, or an error made for people, and nothing changed."""
    before = [(row.id, row.label_texts) for row in filled.search(limit=100)]
    assert len(before) == 15
    fields = [
        {"text": text},
        {"text": text, "sort": "eigenvalue"},
        {"cursor": text},
        *({field: text} for field in ("model", "layer", "recipe", "kind", "denoiser", "licence", "location", "source")),
        *({field: text + "*"} for field in ("model", "layer", "recipe")),
    ]
    for search in fields:
        with contextlib.suppress(CatalogError, SearchError, UnknownNameError):
            filled.search(**search)  # type: ignore[arg-type]
    known = f"acme/faces#mid_block.attentions.0/value/0{text}"
    asked: list[Callable[[], object]] = [
        *(
            partial(filled.get_direction, name)
            for name in (text, known, f"{text}#x/value/0", f"acme/faces#{text}/value/0")
        ),
        *(partial(ask, text) for ask in (filled.get_set, filled.sets_at, filled.layer_names, filled.recipe_slugs)),
        *(partial(ask, text) for ask in (filled.label_texts, filled.label_counts, filled.near)),
        partial(filled.get_set, "acme/faces", text),
        partial(filled.label_counts, source=text),
        partial(filled.remove_labels, [text], "smile", "statistics"),
        partial(filled.remove_labels, [known[: -len(text)]], text, "statistics"),
        partial(filled.remove_labels, [known[: -len(text)]], "smile", text),
        partial(filled.add_labels, [known[: -len(text)], text], label("x", source="human:ann")),
        partial(filled.set_published, text, "me/x", "c"),
    ]
    for ask in asked:
        with contextlib.suppress(CatalogError, SearchError, UnknownNameError):
            ask()
    assert [(row.id, row.label_texts) for row in filled.search(limit=100)] == before
    assert verify(filled) == []


def test_a_text_of_too_many_words_says_so(filled: Catalog) -> None:
    with pytest.raises(SearchError, match="up to 32 different words, this one has 40"):
        filled.search(" ".join(f"w{index}" for index in range(40)))


def test_a_cursor_of_another_search_is_refused(filled: Catalog) -> None:
    cursor = filled.search("smil", limit=1).cursor
    assert cursor is not None
    with pytest.raises(CatalogError, match="another search"):
        filled.search("smile", cursor=cursor)
    with pytest.raises(CatalogError, match="is not a cursor"):
        filled.search("smile", cursor="WzEsMiwzXQ")


@pytest.mark.parametrize("limit", [0, -1, 10**6])
def test_a_page_of_an_impossible_size_is_refused(filled: Catalog, limit: int) -> None:
    with pytest.raises(CatalogError, match="1 to 10,000"):
        filled.search(limit=limit)


def test_an_empty_catalog_finds_nothing(path: Path) -> None:
    with Catalog.open(path, shipped=False) as catalog:
        assert len(catalog.search()) == len(catalog.search("smile")) == len(catalog.search(source="human")) == 0
        with pytest.raises(UnknownNameError, match="there is none yet"):
            catalog.search(model="acme/faces")


def test_a_set_whose_last_layer_has_no_directions_is_found_by_its_models_name(catalog: Catalog) -> None:
    one = manifest("acme/smile")
    layers = {"layers": (*one.layers, one.layers[0].model_copy(update={"name": "up.1"}))}
    catalog.add_set(one.model_copy(update=layers), location="x", digest="d")
    found = [row.id for row in catalog.search("smile", sort="eigenvalue")]
    assert sorted(found) == sorted(f"acme/smile#{record.id}" for record in one.directions)


def test_what_is_asked_wrongly_is_not_blamed_on_the_catalog(filled: Catalog) -> None:
    with pytest.raises(TypeError):
        filled.search("smile", rank="first")  # type: ignore[arg-type]
