"""A set's builder text says what was done to it, and can be read back."""

from hypothesis import given
from hypothesis import strategies as st

from eigenbank.registry.sets.provenance import build_key, stamped, steps_of

KEYS = st.text("0123456789abcdef", min_size=12, max_size=12)


@given(who=st.text(max_size=50), build=KEYS, label=KEYS)
def test_steps_are_read_back_whoever_did_them(who: str, build: str, label: str) -> None:
    once = stamped(who, build=build)
    assert steps_of(once)["build"] == build
    twice = stamped(once, label=label)
    assert steps_of(twice) == {**steps_of(once), "label": label}
    assert stamped(twice, without=("label",)) == stamped(once, without=("label",))
    assert stamped(twice, build=build) == twice


def test_texts_of_others_name_no_steps() -> None:
    for text in ("eigenbank 0.1.0", "someone (build)", "x (build 12)", "", "a (build 0123456789ab) b"):
        assert steps_of(text) == {}


def test_a_key_tells_recipes_apart_and_not_their_order() -> None:
    assert build_key(["*"], ["value", "qkv"], 3) == build_key(["*", "*"], ["qkv", "value"], 3)
    keys = {
        build_key(["*"], ["value"], 3),
        build_key(["a"], ["value"], 3),
        build_key(["*"], ["qkv"], 3),
        build_key(["*"], ["value"], 4),
    }
    assert len(keys) == 4
