"""A recipe's written form and its parts are two views of one thing."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigenbank.schemas import Recipe, Window
from eigenbank.schemas.errors import UnknownNameError

hundredths = st.integers(0, 100).map(lambda n: n / 100)
windows = st.tuples(hundredths, hundredths).filter(lambda pair: pair[0] < pair[1])
recipes = st.builds(
    lambda matrix, side, head, window: Recipe(
        matrix=matrix, side=side, head=head, window=Window(start=window[0], end=window[1])
    ),
    st.sampled_from(["value", "output-value", "query-key", "qkv", "x9"]),
    st.sampled_from(["input", "output"]),
    st.none() | st.integers(0, 99),
    windows,
)


@given(recipes)
def test_parsing_undoes_writing(recipe: Recipe) -> None:
    assert Recipe.parse(recipe.slug) == recipe
    assert Recipe.parse(recipe.basis).basis == recipe.basis
    assert "/" not in recipe.slug


@given(st.text(max_size=30))
def test_any_text_is_a_recipe_or_a_clear_error(text: str) -> None:
    # Any other exception is a bug.
    with contextlib.suppress(UnknownNameError):
        assert Recipe.parse(text).slug


@pytest.mark.parametrize(
    ("slug", "site"),
    [
        ("value", "projection-input"),
        ("output-value", "projection-input"),
        ("output-value:output", "block-output"),
        ("query-key:output", "projection-input"),
        ("qkv@0-0.5", "projection-input"),
    ],
)
def test_a_vector_is_added_where_its_side_lives(slug: str, site: str) -> None:
    assert Recipe.parse(slug).site == site


def test_a_window_is_read_back_as_it_is_written() -> None:
    for start in (1e-7, 0.12345678, 1 / 3):
        recipe = Recipe(matrix="value", window=Window(start=start, end=1))
        assert Recipe.parse(recipe.slug) == recipe


def test_a_window_holds_the_steps_that_begin_in_it() -> None:
    window = Window(start=0.25, end=0.75)
    assert [step / 8 in window for step in range(8)] == [False, False, True, True, True, True, False, False]
    assert Window().whole
    assert 0.999 in Window()
