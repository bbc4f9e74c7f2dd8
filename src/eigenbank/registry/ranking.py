"""How text is searched, everywhere: one tokeniser, one way to match, one order. Pure functions, any text is fine.

The catalog, `DirectionSet.search` and the gallery all follow this module, so that a query has the same answers in the same order
in each of them, and the first answer is what the text stands for in `eigenbank.steer`.

**Tokens.** Text is normalised (NFKC, case folded, accents taken off Latin, Greek and Cyrillic letters) and split into words:
runs of letters, digits and their marks. `mid_block.attentions.0` is four words. A character of a script that puts no blanks
between words (Chinese, Japanese, Thai, …), a Korean syllable and an emoji are each a word of their own. No word holds an ASCII
character but `a-z` and `0-9`: an index may store `" ".join(words(text))` and split it at blanks (SQLite's FTS5 with
`tokenize='ascii'`).

**Matching.** A query is split at blanks into terms, and all of them must be met. A term is one or several words that stand next
to each other; the last one may be the beginning of a longer word, unless the term was typed in double quotes. A direction is
searched by each of its labels on its own, and by two names: its layer's (a composite's own), and its model's id. The `Level`
says how well a label and the names match together.

**Order.** Directions and composites, each by the best (level, worth) among its labels:

1. `Level`, the highest first;
2. `Label.worth`, the largest first; 0 where the names alone match (`Level.NAMES`);
3. the order of the sets, and within a set the order of its manifest: directions, then composites.

Level and worth are numbers. Worth can be stored with each label; the level depends on a label's text and the names only, so that
it is computed once for each distinct text.
"""

import fnmatch
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Literal, get_args

from eigenbank.schemas.errors import SearchError

MAX_TERMS = 32
"""Most different terms of a query."""

Sort = Literal[
    "match",
    "confidence",
    "eigenvalue",
    "share",
    "rank",
    "catalog",
    "gap",
    "effect",
    "selectivity",
    "consistency",
    "linearity",
    "locality",
    "drift",
]
SORTS: tuple[Sort, ...] = get_args(Sort)
"""The orders a search can have; `match` is the order above."""

UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1100, 0x11FF),  # Hangul jamo
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),  # 々〆〇
    (0x3021, 0x303C),  # Hangzhou numerals, vertical kana marks
    (0x3040, 0x31FF),  # kana, Bopomofo, Hangul jamo, strokes
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0xA4CF),  # Han, Yi
    (0xA960, 0xA97F),  # Hangul jamo
    (0xAC00, 0xD7FF),  # Hangul syllables and jamo
    (0xF900, 0xFAFF),  # Han
    (0x1AFF0, 0x1B16F),  # kana
    (0x20000, 0x3FFFF),  # Han
)
"""Ranges of code points (first, last) of which every letter is a word of its own."""
SKIN_TONES = (0x1F3FB, 0x1F3FF)

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_PART = re.compile(r'"([^"]*)"?|([^\s"]+)')
_IGNORED = re.compile("[\u180b-\u180d\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # variation selectors
_ACCENTED = ("LATIN ", "GREEK ", "CYRILLIC ")  # how the names of their letters begin


def normalise(text: str) -> str:
    """Return the text as it is compared: NFKC, without case, without format characters (joiners, variation selectors), a blank for
    a control character, and without the accents of Latin, Greek and Cyrillic letters. Other marks stay: ガ is not カ.
    """
    if text.isascii():
        return "".join(char if char.isprintable() else " " for char in text.lower())
    kept = []
    for char in unicodedata.normalize("NFKC", text):
        category = unicodedata.category(char)
        if category == "Cc":
            kept.append(" ")
        elif category != "Cf" and not _IGNORED.match(char):
            kept.append(char.lower().upper().lower())  # ß and ẞ are ss; a browser's script can do the same
    base = " "
    plain = []
    # Folding can leave what NFKC would compose otherwise; NFD puts each letter before its marks.
    for char in unicodedata.normalize("NFD", unicodedata.normalize("NFKC", "".join(kept))):
        if not unicodedata.category(char).startswith("M"):
            base = char
        elif unicodedata.category(base) == "Ll" and unicodedata.name(base, "").startswith(_ACCENTED):
            continue
        plain.append(char)
    return unicodedata.normalize("NFC", "".join(plain))


def words(text: str) -> list[str]:
    """Split a text into its normalised words, in order. Empty for a text of punctuation alone."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    plain = normalise(text)
    found: list[str] = []
    inside = marked = False  # whether a letter, or a mark, belongs to the word before it
    for char in plain:
        category = unicodedata.category(char)
        if category.startswith("M"):
            if marked:
                found[-1] += char
            continue
        letter = category[0] in "LN"
        alone = _alone(char, category)
        if letter and inside and not alone:
            found[-1] += char
        elif letter or alone:
            found.append(char)
        marked = letter or alone
        inside = letter and not alone
    return found


def _alone(char: str, category: str) -> bool:
    """Whether a character is a word by itself."""
    code = ord(char)
    if category == "So" or SKIN_TONES[0] <= code <= SKIN_TONES[1]:
        return True
    return category[0] in "LN" and any(first <= code <= last for first, last in UNSPACED)


def label_key(text: str) -> str:
    """Return what makes two labels the same to those who type them: the words, or the normalised signs where there are none."""
    return " ".join(words(text)) or " ".join(normalise(text).split())


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a test of names against a glob, upper and lower case told apart."""
    pattern = re.sub(r"\*+", "*", pattern)
    if len(pattern) > 2_000:  # longer than any name; a regular expression of it would take long to make
        return lambda name: False
    compiled = re.compile(fnmatch.translate(pattern)).match
    return lambda name: compiled(name) is not None


def is_glob(pattern: str) -> bool:
    """Whether the pattern is more than a name."""
    return any(sign in pattern for sign in "*?[")


class Level(IntEnum):
    """How well a label, together with the names of its layer and model, matches a query. Higher is better."""

    NONE = 0
    """Some term is nowhere."""
    NAMES = 1
    """Every term is in the names; a direction needs no label for that."""
    MIXED = 2
    """Some terms are in the label, the others in the names."""
    BEGINNINGS = 3
    """Every term is in the label, some of them as the beginning of a word only."""
    WORDS = 4
    """Every term is in the label as whole words."""
    EXACT = 5
    """The label is the query, word for word."""


@dataclass(frozen=True)
class Term:
    """Words that must stand next to each other. With `prefix`, the last one may go on: `smil` finds `smile`."""

    words: tuple[str, ...]
    prefix: bool

    def matches(self, text: Sequence[str], *, whole: bool = False) -> bool:
        """Whether the words of a text hold this term. `whole`: the last word may not go on, even with `prefix`."""
        *before, last = self.words
        for start in range(len(text) - len(before)):
            end = start + len(before)
            if list(text[start:end]) != before:
                continue
            if text[end] == last or (self.prefix and not whole and text[end].startswith(last)):
                return True
        return False


@dataclass(frozen=True)
class Query:
    """A query, split into words. `terms`: the different ones, in order; empty where nothing can be searched for."""

    words: tuple[str, ...]
    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> "Query":
        """Parse what a person typed: words, and phrases "in double quotes" (the last quote may be missing).

        Raises SearchError for more than MAX_TERMS different terms.
        """
        terms: dict[Term, None] = {}
        every: list[str] = []
        for quoted, bare in _PART.findall(normalise(text)):
            found = words(quoted or bare)
            if found:
                terms[Term(tuple(found), prefix=not quoted)] = None
                every += found
        if len(terms) > MAX_TERMS:
            message = f"a search takes up to {MAX_TERMS} different words, this one has {len(terms)}: leave some out."
            raise SearchError(message)
        return cls(tuple(every), tuple(terms))

    def level(self, text: str, names: Sequence[str] = ()) -> Level:
        """Return how well a label's text and the names of its layer and model match. `text` may be empty, for the names alone."""
        own = _words(text)
        if not self.terms:
            return Level.NONE
        if own == self.words:
            return Level.EXACT
        missing = [term for term in self.terms if not term.matches(own)]
        if not missing:
            whole = all(term.matches(own, whole=True) for term in self.terms)
            return Level.WORDS if whole else Level.BEGINNINGS
        if not all(any(term.matches(_words(name)) for name in names) for term in missing):
            return Level.NONE
        return Level.MIXED if len(missing) < len(self.terms) else Level.NAMES

    def rank(self, labels: Iterable[tuple[str, float]], names: Sequence[str]) -> tuple[Level, float]:
        """Return the best (level, worth) of a direction's labels, given as (text, worth), and its names: the key of the order."""
        ranks = [(self.level("", names), 0.0)]
        for text, worth in labels:
            level = self.level(text, names)
            ranks.append((level, worth if level > Level.NAMES else 0.0))
        return max(ranks)


@lru_cache(maxsize=10_000)
def _words(text: str) -> tuple[str, ...]:
    return tuple(words(text))
