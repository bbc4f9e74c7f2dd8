"""Numbers and codes in plain words."""

from pathlib import Path

import pytest

from eigenbank.gallery.words import MEASURES, recipe_words, seeds_words, source_words
from eigenbank.schemas import Quality, Recipe


@pytest.mark.parametrize(
    ("slug", "words"),
    [
        ("output-value", ("output times value weights", "what the layer reads", "the whole run")),
        ("output-value:output@0.3-0.8", ("output times value weights", "what the layer writes", "30 % to 80 % of the run")),
        ("value.h3", ("value weights, head 3", "what the layer reads", "the whole run")),
        ("query-key:output", ("query times key weights", "what the layer reads", "the whole run")),
        ("somebody-s", ("somebody-s", "what the layer reads", "the whole run")),
    ],
)  # fmt: skip
def test_recipes(slug: str, words: tuple[str, str, str]) -> None:
    assert tuple(recipe_words(Recipe.parse(slug)).values()) == words


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("human:ann", "a person, ann"),
        ("human", "a person"),
        ("statistics", "image statistics"),
        ("attribute-model:4f2a9c11deadbeef", "attribute model 4f2a9c11"),
        ("clip:openai/clip-vit-base-patch32@abc", "CLIP, openai/clip-vit-base-patch32"),
        ("oracle:delphi", "oracle:delphi"),
    ],
)
def test_sources(source: str, words: str) -> None:
    assert source_words(source) == words


def test_seeds() -> None:
    assert seeds_words([]) == "no seeds"
    assert seeds_words([7]) == "seed 7"
    assert seeds_words(range(100, 112)) == "12 seeds, 100 to 111"
    assert seeds_words([3, 1, 9]) == "3 seeds, 3, 1, 9"
    assert seeds_words(range(0, 40, 2)).endswith("14 …")


def test_every_measure_is_a_field_of_a_quality_and_has_a_word_for_every_value() -> None:
    for measure in MEASURES:
        assert measure.key in Quality.model_fields
        bounds = [below for below, _ in measure.words]
        assert bounds[-1] is None
        assert bounds[:-1] == sorted(below for below in bounds[:-1] if below is not None)
        assert measure.word(0.0) == measure.words[0][1]
        assert measure.word(1e6) == measure.words[-1][1]


def test_every_number_of_a_quality_is_shown() -> None:
    about = {"source", "scale", "seeds", "steps", "recommended_range"}
    assert {measure.key for measure in MEASURES} == set(Quality.model_fields) - about


def test_the_page_states_the_threshold_that_matching_uses() -> None:
    from importlib.resources import files

    from eigenbank.loaders.match import TRANSFER

    assert f"of at least {TRANSFER:g}" in files("eigenbank.gallery").joinpath("assets/direction.js").read_text("utf-8")


def test_the_docs_state_every_bound() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "gallery.md").read_text(encoding="utf-8")
    rows = [line for line in docs.splitlines() if line.startswith("| ") and "," in line.split("|")[2]]
    fractions = {1 / 3: "⅓", 2 / 3: "⅔"}
    for measure in MEASURES:
        bounds = [fractions.get(below, f"{below:g}") for below, _ in measure.words if below is not None]
        assert any(all(f", {bound} " in row for bound in bounds) for row in rows), measure.title
