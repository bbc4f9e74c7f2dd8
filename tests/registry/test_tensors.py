"""Safetensors headers: what is accepted here, the safetensors library reads too, and says the same of it."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from eigenbank.registry.sets.tensors import BITS, TensorFileError, parse_header, read_header

OK = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
SIZES = st.sampled_from([0, 1, 2, 3, 4, 8])
ODD: Any = st.sampled_from([2.0, -1, True, None, "1", 2**40, 2**64, [], {}])
NUMBERS = st.one_of(SIZES, SIZES, SIZES, ODD)
TEXTS = st.sampled_from(["a", "b", "é", "\ud800", "", "x" * 50])


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, int]:
    """A header that is sound, or nearly, and the length of a body for it."""
    at, entries = 0, []
    for name in draw(st.lists(TEXTS, max_size=3)):
        dtype = draw(st.sampled_from([*BITS, "U1", "f32", 8]))
        shape: Any = draw(st.lists(SIZES, max_size=3))
        bits = BITS.get(dtype, 8)
        for extent in shape:
            bits *= extent
        begin, end = at, at + bits // 8
        at = end
        if draw(st.integers(0, 4)) == 0:
            shape = draw(st.one_of(st.lists(NUMBERS, max_size=3), ODD))
        if draw(st.integers(0, 6)) == 0:
            begin += draw(st.integers(-1, 1))
        entry: Any = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": draw(st.sampled_from([[begin, end]] * 5 + [[end]])),
        }
        if draw(st.integers(0, 9)) == 0:
            entry = draw(st.sampled_from([{**entry, "more": 1}, list(entry.values()), None]))
        entries.append((name, entry))
    if draw(st.booleans()):
        metadata = draw(st.sampled_from([{}, {"a": "b"}, {"a": 1}, {"a": None}, [], None, "x", {"\ud800": "x"}]))
        entries.append(("__metadata__", metadata))
    draw(st.randoms()).shuffle(entries)
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(entry)}" for name, entry in entries) + "}"
    edge = draw(st.sampled_from(["", "", "", " ", "\n", "x", "["]))
    return draw(st.sampled_from([text + edge, edge + text])).encode(), max(
        0, at + draw(st.sampled_from([0, 0, 0, 1, -1]))
    )


@settings(max_examples=400)
@given(headers())
@example((json.dumps({"a": {**OK, "shape": [2.0]}}).encode(), 1))
@example((json.dumps({"__metadata__": {"a": 1}}).encode(), 0))
@example((b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}', 0))
@example((json.dumps({"a": {**OK, "shape": [2**40, 2**40, 0], "data_offsets": [0, 0]}}).encode(), 0))
@example((json.dumps({"a": {**OK, "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]}}).encode(), 0))
@example((json.dumps({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}).encode(), 1))
@example((json.dumps({"a": OK}).encode(), 2))
@example((json.dumps({"a": {**OK, "data_offsets": [1, 2]}}).encode(), 2))
@example((json.dumps({"a": OK, "b": OK}).encode(), 1))
def test_what_is_accepted_is_what_the_library_accepts(made: tuple[bytes, int]) -> None:
    text, body = made
    try:
        theirs: Any = {
            name: (entry["dtype"], tuple(entry["shape"]), len(entry["data"]))
            for name, entry in deserialize(struct.pack("<Q", len(text)) + text + bytes(body))
        }
    except SafetensorError:
        theirs = None
    try:
        ours: Any = {name: (info.dtype, info.shape, info.size) for name, info in parse_header(text, body, "x").items()}
    except TensorFileError:
        ours = None
    if ours is None and theirs is not None:
        # Three forms that the library lets pass, and nobody writes.
        found = json.loads(text, object_pairs_hook=list)
        names = [name for name, _ in found]
        entries = [entry for name, entry in found if name != "__metadata__"]
        keys = [[key[0] if isinstance(key, tuple) else None for key in entry] for entry in entries]
        assert len(set(names)) < len(names) or any(
            sorted(map(str, each)) != ["data_offsets", "dtype", "shape"] for each in keys
        )
    else:
        assert ours == theirs


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"{" + b'"a":{},' * 2_000_000 + b'"b":{}}', "more than 3,000,000 values"),
        (b'{"a":' + b"[" * 70 + b"]" * 70 + b"}", "nests deeper"),
        (b'{"a":{},"a":{}}', "a key twice"),
    ],
)
def test_a_header_that_costs_too_much_is_not_parsed(text: bytes, found: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(TensorFileError, match=found):
        read_header(path)
