"""A label says how good a slider it promises."""

from datetime import datetime, timezone
from typing import Any

import pytest

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
