"""Texts from outside, as they are printed, and what a label may hold."""

import json
import re

import pytest
from pydantic import TypeAdapter, ValidationError

from eigenbank.schemas.common import Text
from eigenbank.schemas.errors import EigenbankError, first_problem
from eigenbank.schemas.printable import PRINTABLE, printable, printable_json

GOOD = [
    "smile",
    "R&B, 30 < age",
    "Größe",
    "笑顔",
    "葛\U000e0100城",
    "が",
    "👩‍👩‍👧‍👦",
    "❤️",
    "❤️‍🔥",
    "🏳️‍🌈",
    "👩🏽‍🚀",
    "⛹🏻‍♀️",
    "🧑🏿‍🦰",
    "1️⃣",
    "🇩🇪",
    "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "می‌خواهم",
    "ශ්‍රී",
    "क्‍ष",
    "مرحبا",
    "naïve\u00a0x",
]
BAD = {
    "clear": ("a\x1b[2Jb", r"a\x1b[2Jb"),
    "csi": ("a\x9b2Jb", r"a\x9b2Jb"),
    "bell": ("\x07", r"\x07"),
    "return": ("a\rb", r"a\rb"),
    "line": ("a\nerror: b", r"a\nerror: b"),
    "separator": ("a\u2028b", r"a\u2028b"),
    "bidi": ("a\u202eb", r"a\u202eb"),
    "isolate": ("a\u2066b", r"a\u2066b"),
    "zero width": ("sm\u200bile", r"sm\u200bile"),
    "right-to-left mark": ("\u200fa", r"\u200fa"),
    "left-to-right mark": ("\u200ea", r"\u200ea"),
    "Arabic mark": ("\u061ca", r"\u061ca"),
    "tag": ("a\U000e0041", r"a\U000e0041"),
    "hidden after a flag": ("🏴\U000e0041\U000e007f", r"🏴\U000e0041\U000e007f"),
    "byte order": ("\ufeffa", r"\ufeffa"),
    "joiner": ("a\u2060b", r"a\u2060b"),
    "joiner in a word": ("sm\u200dile", r"sm\u200dile"),
    "non-joiner in a word": ("sm\u200cile", r"sm\u200cile"),
    "joiner at an end": ("👩\u200d", r"👩\u200d"),
    "selector in a word": ("a\ufe0fb", r"a\ufe0fb"),
    "two selectors": ("❤\ufe0f\ufe0f", "❤\ufe0f\\ufe0f"),
    "data in selectors": ("😀\U000e0100\U000e0101", r"😀\U000e0100\U000e0101"),
    "soft hyphen": ("a\u00adb", r"a\xadb"),
    "grapheme joiner": ("a\u034fb", r"a\u034fb"),
    "filler": ("\u3164", r"\u3164"),
    "half filler": ("\uffa0", r"\uffa0"),
    "blank": ("a\u2800", r"a\u2800"),
    "annotation": ("\ufff9a", r"\ufff9a"),
}
LABEL: TypeAdapter[str] = TypeAdapter(Text)


@pytest.mark.parametrize("text", GOOD)
def test_what_people_write_is_a_label_and_printed_as_it_is(text: str) -> None:
    assert LABEL.validate_python(text) == text
    assert re.fullmatch(PRINTABLE, text)  # Python's reading of the pattern, and pydantic's
    assert printable(text) == text
    assert printable_json(json.dumps(text, ensure_ascii=False)) == json.dumps(text, ensure_ascii=False)


@pytest.mark.parametrize("name", BAD)
def test_what_commands_hides_or_reorders_is_no_label_and_printed_as_an_escape(name: str) -> None:
    text, shown = BAD[name]
    with pytest.raises(ValidationError) as caught:
        LABEL.validate_python(text)
    assert "control character, or one that is not shown" in first_problem(caught.value)
    assert not re.fullmatch(PRINTABLE, text)
    assert printable(text) == printable(printable(text)) == shown
    as_json = printable_json(json.dumps([text], ensure_ascii=False, indent=1))
    assert json.loads(as_json) == [text]
    assert as_json == printable_json(as_json)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066\u200b\u200e\u200f\U000e0041\ufeff]", as_json)


def test_a_lone_surrogate_is_printed_as_an_escape() -> None:
    assert printable("a\ud800") == r"a\ud800"
    assert json.loads(printable_json('"a\ud800"')) == "a\ud800"


def test_what_is_long_is_cut_and_its_length_said() -> None:
    found = printable(f"the dtype {'F' * 100_000} is unknown: read again")
    assert found == f"the dtype {'F' * 300}… (100,000 characters) …{'F' * 100} is unknown: read again"
    for text in ("a " * 50_000, "\x1b" * 100_000, "\u202e " * 50_000, "x\n  " * 50_000, "👩\u200d" * 50_000):
        assert len(printable(text)) < 60_000
    path = "/a" * 450
    assert printable(path) == path


def test_an_error_that_quotes_a_stranger_is_printable() -> None:
    error = EigenbankError(
        "the tensor \x1b]0;x\x07 is\nerror: forged", outcome="nothing\u202e was read", advice="Fix:\n  a"
    )
    assert str(error) == "the tensor \\x1b]0;x\\x07 is\\nerror: forged; nothing\\u202e was read. Fix:\n  a"
