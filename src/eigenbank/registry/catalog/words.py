"""Words: how texts are split for the index, and a query into terms. Pure; any input is fine.

A word is a run of letters and digits, folded: case and accents do not matter. `mid_block.attentions.0` is four words.
"""

import re
import unicodedata
from dataclasses import dataclass

MAX_TERMS = 32
"""Most different terms of a query."""
MAX_WORD = 500
"""Longest word that any indexed text could hold."""

_WORD = re.compile(r"[^\W_]+")
_PART = re.compile(r'"([^"]*)"?|([^\s"]+)')


def fold(text: str) -> str:
    """Return the text without case and accents."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def split(text: str) -> list[str]:
    """Return the folded words of a text, in order."""
    return _WORD.findall(fold(text))


@dataclass(frozen=True)
class Term:
    """Words that must stand next to each other. With `prefix`, the last one may go on: `smil` finds `smile`."""

    words: tuple[str, ...]
    prefix: bool

    def match(self, words: list[str]) -> bool:
        """Whether the folded words of one text hold this term."""
        count = len(self.words)
        for start in range(len(words) - count + 1):
            window = words[start : start + count]
            if tuple(window[:-1]) != self.words[:-1]:
                continue
            if window[-1] == self.words[-1] or (self.prefix and window[-1].startswith(self.words[-1])):
                return True
        return False


def parse(query: str) -> list[Term]:
    """Split a query into its different terms: `"in double quotes"` as it stands, anything else word by word with the
    end left open. What holds no letter or digit is left out; the list is empty where nothing is left.
    """
    terms: dict[Term, None] = {}
    for quoted, bare in _PART.findall(query):
        words = tuple(split(quoted or bare))
        if words:
            terms[Term(words, prefix=not quoted)] = None
    return list(terms)
