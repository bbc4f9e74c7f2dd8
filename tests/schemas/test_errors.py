"""An unknown name is answered with the names that are near it, a document that is wrong with the first problem and its place."""

import pytest
from pydantic import BaseModel, ValidationError

from eigenbank.schemas.errors import EigenbankError, explaining, first_problem, unknown


def test_near_matches_come_first_whatever_their_case() -> None:
    assert str(unknown("label", "smlie", ["Smile", "age"])) == "no label 'smlie': did you mean 'Smile'?"


def test_without_near_matches_some_known_ones_are_named() -> None:
    message = str(unknown("layer", "zzz", [f"layer{n}" for n in range(20)], "Ask: eigenbank list."))
    assert message.startswith("no layer 'zzz': known: layer0, layer1, layer10")
    assert message.endswith(", …. Ask: eigenbank list.")


def test_where_nothing_is_known_that_is_said() -> None:
    assert str(unknown("model", "x", [])) == "no model 'x': there is none yet."


class Part(BaseModel):
    ranks: list[int]


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ('{"ranks": [0, "x"]}', "ranks.1: Input should be a valid integer"),
        ("{}", "ranks: Field required"),
        ("7", "the document: Input should be an object"),
    ],
)
def test_the_first_problem_of_a_document_is_told_with_its_place(document: str, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Part.model_validate_json(document)
    assert first_problem(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("problem", "text"),
    [("it is red", "it is red; nothing was done. Paint it"), ("is it red?", "is it red? Nothing was done. Paint it")],
)
def test_what_happened_and_what_to_do_follow_the_problem(problem: str, text: str) -> None:
    assert str(EigenbankError(problem, outcome="nothing was done", advice="Paint it")) == text
    with pytest.raises(EigenbankError) as caught, explaining(outcome="nothing was done", advice="Paint it"):
        raise EigenbankError(problem)
    assert str(caught.value) == text
