"""Names of files and folders that Linux, macOS and Windows all take."""

import unicodedata
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigenbank.registry.files import file_name, home, is_device
from eigenbank.schemas.errors import CatalogError

FORBIDDEN = set('<>:"/\\|?*') | {chr(code) for code in range(32)}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("acme/faces", "acme--faces"),
        ("runwayml/stable-diffusion-v1.5", "runwayml--stable-diffusion-v1.5"),
        ("mid_block/output-value:output@0.3-1/0", "mid_block--output-value-output-0.3-1--0"),
        ("C:\\models\\faces", "C--models-faces"),
        ("con", "_con"),
        ("NUL.tar", "_NUL.tar"),
        ("com1", "_com1"),
        ("com10", "com10"),
        ("console", "console"),
        ("faces. ", "faces.-"),
        ("faces.", "faces"),
        ("...", "unnamed"),
        ("", "unnamed"),
    ],
)
def test_names_are_fit_for_every_system(text: str, name: str) -> None:
    assert file_name(text) == name


@given(st.text(max_size=300))
def test_any_text_gives_one_plain_name(text: str) -> None:
    name = file_name(text)
    assert name
    assert not FORBIDDEN & set(name)
    assert name[0] not in ".-"
    assert name[-1] not in ". "
    assert len(name) <= 151
    assert not is_device(name)
    parts = PureWindowsPath("C:/eigenbank", name).parts
    assert parts[-1] == name
    assert len(parts) == 3
    assert file_name(name) == name or len(name) > 150


def test_both_forms_of_an_accent_are_one_name() -> None:
    assert file_name("acme/frisör") == file_name(unicodedata.normalize("NFD", "acme/frisör"))


def test_a_home_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EIGENBANK_HOME", "~nosuchuser/bank")
    with pytest.raises(CatalogError, match="whose user is not known"):
        home()
    monkeypatch.delenv("EIGENBANK_HOME")
    assert home().name == "eigenbank"
    assert isinstance(home(), Path)
