from hypothesis import given
from hypothesis import strategies as st

from eigenbank.registry.catalog.words import Term, fold, parse, split


def test_a_layer_name_is_split_at_dots_and_underscores() -> None:
    assert split("mid_block.attentions.0") == ["mid", "block", "attentions", "0"]


def test_case_and_accents_do_not_matter() -> None:
    assert split("Étude STRASSE Straße") == ["etude", "strasse", "strasse"]


def test_a_bare_word_may_go_on_and_a_quoted_phrase_may_not() -> None:
    smile, phrase = parse('smil "long hair')
    assert smile.match(split("a smile"))
    assert phrase == Term(("long", "hair"), prefix=False)
    assert phrase.match(split("very long hair"))
    assert not phrase.match(split("long hairs"))
    assert not phrase.match(split("hair long"))


def test_a_dotted_name_is_a_phrase_with_an_open_end() -> None:
    assert parse("mid_block.att") == [Term(("mid", "block", "att"), prefix=True)]


def test_signs_alone_are_no_term() -> None:
    assert parse("* \" ' -- ; \x00 \udc80 () ^") == []


@given(st.text())
def test_any_text_is_parsed_into_words_of_letters_and_digits(text: str) -> None:
    for term in parse(text):
        assert term.words
        assert all(char.isalnum() for word in term.words for char in word)


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert split(" ".join(split(text))) == split(text)
    assert fold(text.upper().lower()) is not None
