"""What docs/modes.md says of every mode is so."""

import modes
import pytest


def table() -> dict[str, list[str]]:
    """Mode → what the page says, one entry for each way to edit."""
    text = modes.DOCS.read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    return {row[0]: row[2:] for row in rows[1:]}


def test_the_page_lists_every_mode_and_every_way_to_edit() -> None:
    assert modes.DOCS.read_text(encoding="utf-8").startswith(modes.HEAD)
    assert list(table()) == [mode.name for mode in modes.MODES]


NORMAL = {
    "none": 4,
    "none, Wan": 1,
    "none, CogVideoX": 2,
    "float16": 0,
    "bfloat16, FLUX": 2,
    "attention backend": 3,
    "LoRA, loaded while steered": 0,
    "LoRA, FLUX": 1,
    "IP-Adapter, loaded before": 2,
    "sequential offload": 0,
    "group offload, by leaf": 1,
    "FasterCache, CogVideoX": 1,
    "First Block Cache": 1,
    "Pyramid Attention Broadcast": 0,
}
"""What the normal suite looks at: modes, and for each one way to edit. The slow one looks at all."""


@pytest.mark.parametrize(
    ("mode", "number"),
    [
        pytest.param(
            mode,
            number,
            id=f"{mode.name}: {edit.name}",
            marks=() if NORMAL.get(mode.name) == number else pytest.mark.slow,
        )
        for mode in modes.MODES
        for number, edit in enumerate(modes.EDITS)
        if number in mode.edits
    ],
)
def test_a_mode_does_what_the_page_says(mode: modes.Mode, number: int) -> None:
    assert modes._short(modes.outcome(mode, modes.EDITS[number])) == table()[mode.name][number]
