"""One tokeniser and one order for every search."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigenbank.registry.ranking import MAX_TERMS, Level, Query, Term, label_key, normalise, words
from eigenbank.schemas.errors import SearchError


def level(query: str, label: str, *names: str) -> Level:
    return Query.parse(query).level(label, names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mid_block.attentions.0", "mid block attentions 0"),
        ("Étude STRASSE Straße İstanbul ẞ", "etude strasse strasse istanbul ss"),
        ("Ёлка ή ﬁn Ǆ", "елка η fin dz"),
        ("\uff33\uff2d\uff29\uff2c\uff25", "smile"),
        ("ｶﾞガ カ\u3099 カ", "ガ ガ ガ カ"),
        ("长头发", "长 头 发"),
        ("긴머리", "긴 머 리"),
        ("3人のladies", "3 人 の ladies"),
        ("ยิ้ม", "ยิ้ ม"),
        ("मुस्कान", "मुस्कान"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"),
        ("😀👩\u200d🦰❤\ufe0f👍🏽", "😀 👩 🦰 ❤ 👍 🏽"),
        ("* \" ' -- ; \x00 \udc80 () ^ \u0301", ""),
    ],
)
def test_text_is_split_into_plain_words(text: str, expected: str) -> None:
    assert words(text) == expected.split()


@given(st.text())
def test_splitting_twice_is_splitting_once_and_blanks_join(text: str) -> None:
    found = words(text)
    assert words(" ".join(found)) == found
    assert normalise(normalise(text)) == normalise(text)
    assert all(not char.isascii() or char.isdigit() or char in "abcdefghijklmnopqrstuvwxyz" for char in "".join(found))


@given(st.text())
def test_a_label_is_the_exact_answer_to_itself(text: str) -> None:
    query = Query.parse(text)
    assert list(query.words) == words(text)
    assert query.level(text) == (Level.EXACT if words(text) else Level.NONE)


def test_a_bare_word_may_go_on_and_a_quoted_phrase_may_not() -> None:
    assert Query.parse('smil "long hair').terms == (Term(("smil",), prefix=True), Term(("long", "hair"), prefix=False))
    assert Query.parse("mid_block.att").terms == (Term(("mid", "block", "att"), prefix=True),)
    assert Query.parse("＂long hair＂ hair hair").terms == (
        Term(("long", "hair"), prefix=False),
        Term(("hair",), prefix=True),
    )


@pytest.mark.parametrize(
    ("query", "label", "expected"),
    [
        ("smile", "Smile!", Level.EXACT),
        ('"long hair"', "long-hair", Level.EXACT),
        ("very very long", "very, very long", Level.EXACT),
        ("smile", "big smile", Level.WORDS),
        ("hair long", "long hair", Level.WORDS),
        ('"hair long"', "long hair", Level.NONE),
        ("smil", "big smiles", Level.BEGINNINGS),
        ('"smil"', "smile", Level.NONE),
        ("air", "long hair", Level.NONE),
        ("头发", "长头发", Level.WORDS),
        ("머리", "긴머리", Level.WORDS),
        ("ぎんぱつ", "きんぱつ", Level.NONE),
        ("👍", "👍🏽", Level.WORDS),
        ("grin mid", "grin", Level.MIXED),
        ("faces mid_b", "grin", Level.NAMES),
        ("faces mid grins", "grin", Level.NONE),
        ("--", "--", Level.NONE),
    ],
)
def test_how_well_a_label_and_names_match(query: str, label: str, expected: Level) -> None:
    assert level(query, label, "mid_block.attentions.0", "acme/faces") == expected


def test_the_best_label_counts_and_worth_decides_among_equals() -> None:
    query = Query.parse("smile")
    assert query.rank([("big smile", 3.0), ("smile", 0.5), ("Smile", 0.7)], ["mid"]) == (Level.EXACT, 0.7)
    assert query.rank([("grin", 3.0)], ["smile"]) == (Level.NAMES, 0.0)
    assert query.rank([], ["mid"]) == (Level.NONE, 0.0)


def test_too_many_words_are_refused_with_their_number() -> None:
    query = " ".join(f"w{number}" for number in range(MAX_TERMS + 8))
    with pytest.raises(SearchError, match="up to 32 different words, this one has 40: leave some out"):
        Query.parse(query)


def test_labels_that_are_typed_alike_are_one() -> None:
    assert label_key("Cafe\u0301 ") == label_key("CAFÉ") == "cafe"
    assert label_key("(+)") == label_key(" (＋) ") != label_key("(-)")
