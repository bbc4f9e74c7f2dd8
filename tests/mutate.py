"""Changing inputs at random: bytes, texts, and JSON with its structure in mind; types, nesting and what terminals obey included."""

import json
import random
from typing import Any

_NEST: list[Any] = []
for _ in range(80):
    _NEST = [_NEST]
JUNK: list[Any] = [
    None, True, 0, -1, 1, 1.5, -1e308, 2**31, 2**63, 2**64, 10**400, "", "x", "\x00", "../../x", "/etc/passwd", "aux", "😀" * 50,
    "\u202e", "a" * 10_000, [], {}, [[]], {"": None}, [None] * 100, float("nan"), float("inf"), 2.0, "\x1b[2J\x9b\x07", "\u200b\ufeff",
    "\U000e0041", "x\nerror: forged", "F" * 100_000, [[]] * 10_000, {str(number): {} for number in range(2_000)}, _NEST,
]  # fmt: skip


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    """The bytes with a few of them changed, cut out, doubled, or the rest cut off."""
    found = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(found) + 1)
        match chance.randrange(6):
            case 5 if chance.random() < 0.05:
                unit = chance.choice([b"[", b"[],", b'{"a":', b'"', b"\\", b"[0],", b"0,", b"\x1b[2J", b"a.", b"{"])
                found[at:at] = unit * chance.choice([100, 10_000, 300_000])
            case 0 if at < len(found):
                found[at] ^= 1 << chance.randrange(8)
            case 1:
                del found[at : at + chance.randrange(1, 50)]
            case 2:
                found[at:at] = chance.randbytes(chance.randrange(1, 20))
            case 3:
                found[at:at] = found[at : at + chance.randrange(1, 200)]
            case _ if chance.random() < 0.3:
                del found[at:]
    return bytes(found)


def mutate_text(text: str, chance: random.Random) -> str:
    """The text with a few characters changed, some of them odd ones."""
    letters = list(text)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(letters) + 1)
        if chance.random() < 0.5:
            letters[at:at] = chance.choice(
                [
                    '"',
                    "'",
                    "\\",
                    "*",
                    "[",
                    "]",
                    "\x00",
                    "\n",
                    " ",
                    "é",
                    "ﬀ",
                    "\u0301",
                    "\U0001f600",
                    "\x1b[31m",
                    "\x9b",
                    "\u202e",
                    "\u200b",
                    "\u200d",
                    "\U000e0041",
                    "\ud800",
                    "#",
                    "/",
                ]
            )
        else:
            del letters[at : at + chance.randrange(1, 4)]
    return "".join(letters)


def mutate_json(text: bytes, chance: random.Random) -> bytes:
    """The document with one to three values replaced, removed, doubled or renamed; its bytes, if it is not JSON."""
    try:
        document = json.loads(text)
    except ValueError:
        return mutate_bytes(text, chance)
    for _ in range(chance.randrange(1, 4)):
        document = _mutate(document, chance)
    return json.dumps(document, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")


def _mutate(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        match chance.randrange(8):
            case 0:
                return {name: inner for name, inner in value.items() if name != key}
            case 1:
                return {**value, mutate_text(key, chance): value[key]}
            case 2:
                return {**value, "unknown": chance.choice(JUNK)}
            case _:
                return {**value, key: _mutate(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        match chance.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]]
            case _:
                return [*value[:at], _mutate(value[at], chance), *value[at + 1 :]]
    if isinstance(value, str) and chance.random() < 0.4:
        return mutate_text(value, chance)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and chance.random() < 0.4:
        return chance.choice([-value, value + 1, value * 10**6, str(value)])
    return chance.choice(JUNK)
