"""What commands say while they work."""

import pytest

from eigenbank.cli import output


def test_a_log_shows_now_and_then_that_work_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(output.time, "monotonic", lambda: now)
    with output.progress_bar() as progress:
        for done in range(1, 101):
            now += 1.0
            progress("drawing", done, 100)
    assert capsys.readouterr().err.splitlines() == [f"drawing: {done} of 100" for done in (30, 60, 90)]


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress_bar() as progress:
        progress("drawing", 1, 1)
    assert capsys.readouterr().err == ""
