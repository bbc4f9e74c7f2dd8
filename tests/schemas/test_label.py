"""A label says how good a slider it promises, and nothing that a catalog cannot keep."""

from datetime import datetime, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from eigenbank.schemas import Evidence, Label

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def label(source: str = "statistics", confidence: float | None = 0.9, **measured: Any) -> Label:
    facts = {"effect": 0.5, "selectivity": 0.5, "consistency": 1.0, "asymmetry": 0.5, "scale": 1.0, "steps": 10}
    evidence = Evidence(**{**facts, "seeds": (1, 2), **measured})
    return Label(text="smile", confidence=confidence, source=source, evidence=evidence, created=NOW)


@pytest.mark.parametrize(
    "better",
    [
        label(confidence=0.95),
        label(effect=0.6),
        label(selectivity=0.6),
        label(asymmetry=0.4),
        label(asymmetry=None),
        Label(text="smile", source="human:ann", created=NOW),
    ],
)
def test_what_promises_a_better_slider_is_worth_more(better: Label) -> None:
    assert better.worth > label().worth


def test_more_than_one_deviation_is_no_better_and_less_of_a_word_as_good_as_more() -> None:
    assert label(effect=3.0).worth == label(effect=1.0).worth == label(effect=-1.0).worth


def test_without_evidence_confidence_decides_last() -> None:
    guessed = [Label(text="smile", source="clip", confidence=each, created=NOW) for each in (None, 0.3, 0.8)]
    assert guessed == sorted(guessed, key=lambda each: each.worth)
    assert guessed[-1].worth < label(confidence=0.01).worth


@pytest.mark.parametrize(
    ("moment", "fine"),
    [
        ("0001-01-01T00:00:00+14:00", False),
        ("9999-12-31T23:59:59.999999-12:00", False),
        ("0001-01-01T00:00:00Z", True),
        ("9999-12-31T23:59:59.999999", True),
    ],
)
def test_it_was_given_at_a_time_that_utc_has(moment: str, fine: bool) -> None:
    document = {"text": "smile", "source": "human:ann", "created": moment}
    if fine:
        assert Label.model_validate(document).created.year in (1, 9999)
    else:
        with pytest.raises(ValidationError, match="in UTC this is before the year 1 or after 9999"):
            Label.model_validate(document)


def test_no_sampler_takes_more_than_a_million_steps() -> None:
    assert label(steps=1_000_000).evidence is not None
    with pytest.raises(ValidationError, match="steps"):
        label(steps=1_000_001)


def test_the_first_seed_that_is_none_is_one_error_not_thousands() -> None:
    with pytest.raises(ValidationError) as caught:
        label(seeds=["x"] * 9_000)
    assert caught.value.error_count() == 1
