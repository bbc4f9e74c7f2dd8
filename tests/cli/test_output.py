"""What commands say while they work."""

import ast
import json
import logging
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from eigenbank.cli import output
from eigenbank.cli.main import run
from eigenbank.loaders.drawing import DrawingCost
from eigenbank.schemas import Quality

pytestmark = pytest.mark.usefixtures("with_faces")

SRC = Path(output.__file__).parent.parent
EVIL = "a\x1b]0;owned\x07\x9b2J\u202e\u200b\U000e0041z"
LOOKS = r"a\x1b]0;owned\x07\x9b2J\u202e\u200b\U000e0041z"


def test_only_one_module_prints() -> None:
    found = [
        f"{path.relative_to(SRC)}:{node.lineno}"
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write")
        and path.name != "output.py"
    ]
    assert not found


def _manifest(folder: Path, **more: object) -> list[str]:
    (folder / "set").mkdir()
    (folder / "set" / "manifest.json").write_text(json.dumps({"format": 1, **more}), encoding="utf-8")
    return ["catalog", "import", str(folder / "set")]


def _config(folder: Path, **more: object) -> list[str]:
    (folder / "x").mkdir()
    (folder / "x" / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **more}), encoding="utf-8")
    return ["build", str(folder / "x")]


def _tensors(folder: Path, entries: dict[str, object]) -> list[str]:
    head = json.dumps(entries).encode()
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    return ["build", str(folder / "x.safetensors"), "--config", str(folder)]


def _sliders(folder: Path, key: str) -> list[str]:
    (folder / "x.json").write_text(json.dumps({"format": 1, key: 1}), encoding="utf-8")
    return ["steer", "eigenbank/cartoon-faces-32", "--sliders", str(folder / "x.json"), "--out", str(folder / "x.png")]


def _plan(folder: Path) -> list[str]:
    (folder / "x.toml").write_text(
        f"[[checkpoint]]\nid = {json.dumps(EVIL)}\n{json.dumps(EVIL)} = 1\n", encoding="utf-8"
    )
    return ["plan", str(folder / "x.toml"), "--dry-run"]


HOSTILE: dict[str, Callable[[Path], list[str]]] = {
    "an unknown key of a manifest": lambda folder: _manifest(folder, **{EVIL: 1}),
    "a class": lambda folder: _config(folder, _class_name=EVIL),
    "a tensor's name": lambda folder: _tensors(folder, {EVIL: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}),
    "a dtype": lambda folder: _tensors(folder, {"a": {"dtype": EVIL, "shape": [1], "data_offsets": [0, 1]}}),
    "a key of sliders": lambda folder: _sliders(folder, EVIL),
    "a plan": _plan,
    "a file's name": lambda folder: ["catalog", "import", str(folder / EVIL)],
    "an argument": lambda _folder: ["list", EVIL],
    "a command": lambda _folder: [EVIL],
    "a long text": lambda folder: _manifest(folder, **{"F" * 100_000: 1}),
    "many lines": lambda folder: _manifest(folder, **{"x\nerror: " * 10_000: 1}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_strangers_text_reaches_no_terminal_as_it_is(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(HOSTILE[what](tmp_path)) in (1, 2)
    out, err = capsys.readouterr()
    assert not out
    assert err.replace("\n", "").isprintable(), err
    assert len(err) < 6_000
    assert "\nerror: x" not in err[7:]


def test_what_libraries_warn_of_and_log_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    factory, form = logging.getLogRecordFactory(), warnings.formatwarning
    try:
        output.guard_messages()
        assert (
            logging.getLogRecordFactory()("x", 30, "x", 1, "%s is odd", (EVIL,), None).getMessage() == f"{LOOKS} is odd"
        )
        assert LOOKS in warnings.formatwarning(EVIL, UserWarning, "x.py", 1)
    finally:
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = form


@pytest.mark.parametrize("fmt", ["table", "csv", "tsv", "json", "jsonl"])
def test_rows_of_a_strangers_texts_are_printable_and_data_stays_data(
    fmt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output.emit("thing", [{"id": EVIL, "texts": [EVIL, "👩\u200d🚀"], "n": 1}], ["id", "texts"], fmt=fmt)
    found = capsys.readouterr().out
    assert found.replace("\n", "").replace("\t", "").replace("\u200d", "").isprintable()
    assert "👩\u200d🚀" in found
    if fmt.startswith("json"):
        row = json.loads(found)[0] if fmt == "json" else json.loads(found)
        assert row == {"schema": "eigenbank/thing/1", "id": EVIL, "texts": [EVIL, "👩\u200d🚀"], "n": 1}
    else:
        assert LOOKS in found


def test_bare_ids_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit("thing", [{"id": EVIL}], ["id"], fmt="table", quiet=True, key="id")
    assert capsys.readouterr().out == f"{LOOKS}\n"


def test_of_many_parts_a_table_lists_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    output.echo_parts([{"direction": f"layer/{number}", "weight": 1.0} for number in range(output.MOST_PARTS)])
    assert capsys.readouterr().err == ""
    output.echo_parts([{"direction": f"layer/{number}", "weight": 1.0} for number in range(608)])
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == output.MOST_PARTS + 1
    assert "heaviest of 608 directions" in said.err


def test_a_range_that_holds_no_scale_is_said_to_be_none() -> None:
    quality = Quality(source="statistics", recommended_range=(0.0, 0.0), scale=1.0, seeds=(0,), steps=1)
    assert output.quality_facts(quality)["recommended range"].startswith("none")
    some = quality.model_copy(update={"recommended_range": (0.0, 2.0)})
    assert output.quality_facts(some)["recommended range"] == "scales 0 to 2"


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


def test_drawing_says_what_it_takes_then_its_pace_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(output.time, "monotonic", lambda: now)
    with output.drawing_bar(DrawingCost(100, 20, 2, (512, 768), "cuda:0")) as drawn:
        for _ in range(25):
            now += 8.0
            drawn(4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "100 images × 20 steps × 2 passes, at 768×512, on cuda:0"
    assert lines[1:3] == ["images: 4 of 100, 0.5 images/s, 3 min left", "images: 20 of 100, 0.5 images/s, 3 min left"]
    assert lines[-1] == "images: 100 of 100, 0.5 images/s, 0 s left"


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress_bar() as progress:
        progress("drawing", 1, 1)
    assert capsys.readouterr().err == ""


def test_a_progress_bar_shows_what_commands_a_terminal_as_escapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with output.progress_bar() as progress:
        progress("evil/\x1b]0;title\x07\u202egnp", 1, 2)
    shown = capsys.readouterr().err
    assert r"evil/\x1b]0;title\x07\u202egnp" in shown
    assert "\x1b]0" not in shown
    assert "\u202e" not in shown
