"""An unknown name is answered with the names that are near it."""

from eigenbank.schemas.errors import unknown


def test_near_matches_come_first_whatever_their_case() -> None:
    assert str(unknown("label", "smlie", ["Smile", "age"])) == "no label 'smlie': did you mean 'Smile'?"


def test_without_near_matches_some_known_ones_are_named() -> None:
    message = str(unknown("layer", "zzz", [f"layer{n}" for n in range(20)], "Ask: eigenbank list."))
    assert message.startswith("no layer 'zzz': known: layer0, layer1, layer10")
    assert message.endswith(", …. Ask: eigenbank list.")


def test_where_nothing_is_known_that_is_said() -> None:
    assert str(unknown("model", "x", [])) == "no model 'x': there is none yet."
