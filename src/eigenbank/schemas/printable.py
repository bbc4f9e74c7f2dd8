"""Texts from outside, made fit for a terminal: what hides, reorders or commands is shown as an escape, what is long is cut.

`PRINTABLE` is the pattern of texts that need none of it, such as labels: joiners and variation selectors only where writing
needs them, in emoji (a family is four joined), in Persian and the scripts of India, and after Chinese characters.
"""

import re

_HIDDEN = (
    r"\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Controls, characters that set the direction of writing, and all that Unicode says are shown as nothing."""
_PICTURE = (
    r"[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u2460-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297"
    r"\u3299\U0001f000-\U0001faff][\U0001f3fb-\U0001f3ff]?[\ufe0e\ufe0f]?"
)
_JOINING = r"[\u0620-\u06dc\u06de-\u070e\u0710-\u0fff\u1000-\u109f\u1780-\u17b3\u17b6-\u17ff]"
_HAN = r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff][\ufe00-\ufe0d\U000e0100-\U000e01ef]"
_WRITTEN = (
    # The flags of Scotland, Texas …: letters that show as nothing, after a black flag and up to their end.
    r"\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f"
    rf"|{_PICTURE}(?:\u200d{_PICTURE})*|[#*0-9]\ufe0f\u20e3|{_JOINING}(?:[\u200c\u200d]{_JOINING})+|{_HAN}"
)
PRINTABLE = rf"^(?:[^{_HIDDEN}]|{_WRITTEN})*$"
_UNFIT = re.compile(rf"{_WRITTEN}|([{_HIDDEN}\ud800-\udfff])")
_UNFIT_JSON = re.compile(rf"[{_HIDDEN}\ud800-\udfff]".replace(r"\x00-\x1f", r"\x00-\x09\x0b-\x1f"))
_LONG_WORD = re.compile(r"\S{1000,}")
_MOST = 4_000
_NAMES = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}


def _escape(found: re.Match[str]) -> str:
    character = found[1]
    if character is None:
        return found[0]
    number = ord(character)
    plain = f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
    return _NAMES.get(character, plain)


def _shorten(text: str, head: int, tail: int) -> str:
    return f"{text[:head]}… ({len(text):,} characters) …{text[-tail:]}"


def printable(text: str, *, lines: bool = False) -> str:
    """Return a text as it can be printed: escapes in place of what hides, reorders or commands; long words and lines cut.

    A new line stays where it is indented, as a continuation, and with `lines` everywhere: so no text can pass for a line of
    the program's own. What is printable comes back as it is.
    """
    if lines:
        return "\n".join(printable(line) for line in text[: 10 * _MOST].split("\n"))
    first, *more = text[: 10 * _MOST].split("\n  ")
    if more:
        return "\n  ".join(map(printable, (first, *more)))
    if len(text) >= 1000:
        text = _LONG_WORD.sub(lambda word: _shorten(word[0], 300, 100), text)
        text = _shorten(text, _MOST - 1000, 800) if len(text) > _MOST else text
    return text if text.isascii() and text.isprintable() else _UNFIT.sub(_escape, text)


def printable_json(text: str) -> str:
    """Return a JSON document with the same content, in which nothing hides, reorders or commands."""
    return _UNFIT.sub(_escape_json, text) if _UNFIT_JSON.search(text) else text


def _escape_json(found: re.Match[str]) -> str:
    if found[1] in (None, "\n"):
        return found[0]
    units = found[1].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
