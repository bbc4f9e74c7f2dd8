"""The Hub's commands refuse wrong calls before anything is asked of the Hub. What they do is in tests/registry/hub."""

from pathlib import Path

import pytest

from eigenbank.cli.main import run


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["publish", "acme/faces"], 2, "Missing option '--repo'"),
        (["publish", "acme/faces", "--repo", "me/x"], 1, "no direction set of 'acme/faces'"),
        (["verify"], 2, "name a MODEL, or give --all"),
        (["verify", "acme/faces", "--all"], 2, "name a MODEL, or give --all"),
        (["verify", "acme/faces"], 1, "no direction set of 'acme/faces'"),
        (["pull"], 2, "Missing argument 'REPO|MODEL'"),
        (["pull", "me/faces-directions"], 1, "offline mode is on"),
        (["pull", "me/faces-directions", "--revision", "../../x"], 1, "offline mode is on"),
        (["sync"], 1, "offline mode is on"),
    ],
)
def test_a_wrong_call_is_refused(
    args: list[str], code: int, message: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(args) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_offline_comes_before_any_look_at_the_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert run(["publish", str(tmp_path), "--repo", "me/x"]) == 1
    assert "offline mode is on" in capsys.readouterr().err
