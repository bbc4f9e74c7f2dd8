"""A sliders file holds an edit, within bounds."""

from typing import Any

import pytest
from pydantic import ValidationError

from eigenbank.schemas import Sliders, SliderSetting, Window


def test_its_json_is_read_back_as_it_was() -> None:
    slider = SliderSetting(
        key="smile", scale=-1.5, window=Window(start=0.2, end=0.8), branch="cond", site="block-output"
    )
    sliders = Sliders(model="acme/faces", sliders=(slider, SliderSetting(key="a.b/value/3", scale=0)))
    assert Sliders.model_validate_json(sliders.model_dump_json(exclude_none=True)) == sliders


def test_a_site_is_understood_in_short_and_written_in_full() -> None:
    short, full = (SliderSetting(key="smile", scale=1, site=site) for site in ("output", "block-output"))  # type: ignore[arg-type]
    assert short == full
    assert '"site":"block-output"' in short.model_dump_json()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"sliders": []}, "sliders"),
        ({"format": 2}, "format"),
        ({"model": "../../etc"}, "model"),
        ({"extra": 1}, "extra"),
        ({"sliders": [{"key": "a", "scale": 1e5}]}, "scale"),
        ({"sliders": [{"key": "a", "scale": float("nan")}]}, "scale"),
        ({"sliders": [{"key": "", "scale": 1}]}, "key"),
        ({"sliders": [{"key": "a\x1b[2J", "scale": 1}]}, "key"),
        ({"sliders": [{"key": "a", "scale": 1, "window": {"start": 0.8, "end": 0.2}}]}, "window"),
        ({"sliders": [{"key": "a", "scale": 1, "guidance": "none"}]}, "guidance"),
        ({"sliders": [{"key": "a", "scale": 1, "site": "roof"}]}, "site"),
        ({"sliders": [{"key": "a", "scale": 1}, {"key": "a", "scale": 2}]}, "listed twice"),
        ({"sliders": [{"key": str(n), "scale": 1} for n in range(1001)]}, "sliders"),
    ],
)
def test_what_is_out_of_bounds_is_refused(change: dict[str, Any], where: str) -> None:
    whole = {"format": 1, "sliders": [{"key": "smile", "scale": 1}], **change}
    with pytest.raises(ValidationError, match=where):
        Sliders.model_validate(whole)
