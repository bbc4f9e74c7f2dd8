"""`match --with-set`, and ids of a search piped into `steer`: on sets of tiny checkpoints."""

import io
import json
from pathlib import Path

import pytest
from making import make_checkpoint
from PIL import Image

from eigenbank.cli.main import run

MID = "mid_block.attentions.0"


@pytest.fixture
def built(with_faces: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sets of a checkpoint, and of another of the same shape, which has one recipe more."""
    other = make_checkpoint(tmp_path / "other", seed=1)
    more = ["--recipe", "output-value", "--recipe", "qkv"]
    assert (
        run(["build", str(tiny_checkpoint), "--model-id", "acme/one", "--recipe", "output-value", "--top-k", "3"]) == 0
    )
    assert run(["build", str(other), "--model-id", "acme/two", "--top-k", "3", *more]) == 0
    assert (
        run(
            ["build", str(other), "--model-id", "acme/key", "--recipe", "query-key", "--layers", "mid*", "--top-k", "1"]
        )
        == 0
    )
    capsys.readouterr()


@pytest.mark.usefixtures("built")
def test_what_a_fine_tune_moved_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["match", "--with-set", "acme/one", "acme/two", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert {row["id"] for row in rows} >= {f"acme/one#{MID}/output-value/{rank}" for rank in range(3)}
    for row in rows:
        assert row["nearest"].rpartition("/")[0] == row["id"].rpartition("/")[0].replace("acme/one", "acme/two")
    assert all(row["schema"] == "eigenbank/comparison/1" for row in rows)
    cosines = [abs(row["cosine"]) for row in rows]
    assert cosines == sorted(cosines)
    assert all(abs(row["same_rank_cosine"]) <= abs(row["cosine"]) + 1e-9 for row in rows)
    assert cosines[0] < 0.9
    assert "only in acme/two, and not compared: down_blocks.1.attentions.0/qkv" in err


@pytest.mark.usefixtures("built")
def test_rows_beyond_the_limit_are_told(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    folder = next((home / "sets").rglob("manifest.json")).parent
    for other in ("acme/one", str(folder)):
        assert run(["match", "--with-set", "acme/one", other, "--limit", "2", "-q"]) == 0
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 2
        assert "the 2 that moved most are shown, of 12: raise --limit" in err


REFUSED = [
    (["acme/one"], 2, "Missing argument 'CHECKPOINT|SET'"),
    (["acme/one", "acme/tow"], 1, "acme/two"),
    (["acme/one", "acme/key"], 1, "have no layer and recipe in common"),
    (["acme/one", "a\x00b"], 1, "is no model id"),
    (["acme/one", "x" * 100_000], 2, "expected a model id or a folder, found 100,000 letters"),
    (["acme/one", "acme/two", "--limit", "0"], 2, "--limit"),
    (["acme/one", "eigenbank/cartoon-faces-32"], 1, "wide in acme/one and"),
]


@pytest.mark.usefixtures("built")
def test_what_cannot_be_compared_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for args, code, message in REFUSED:
        assert run(["match", "--with-set", *args]) == code, args
        out, err = capsys.readouterr()
        assert out == ""
        assert message in err
        assert len(err) < 2_000


@pytest.mark.usefixtures("built")
def test_ids_of_a_search_are_piped_into_a_steer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["search", "--model", "acme/one", "--layer", "mid_block.*", "--limit", "2", "-q"]) == 0
    ids = capsys.readouterr().out
    call = ["--steps", "2", "--seeds", "0"]
    names = [f"{MID}/output-value/{rank}" for rank in range(2)]
    ways = (
        (ids, ["-", "--set", "-=1.5"]),
        (ids, ["acme/one", "--set", "-=1.5"]),
        ("\n".join(names), ["acme/one", "--set", "-=1.5"]),
        ("", ["acme/one", *(part for name in names for part in ("--set", f"{name}=1.5"))]),
    )
    drawn = []
    for number, (given, args) in enumerate(ways):
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        assert run(["steer", *args, "--out", str(tmp_path / f"{number}.png"), *call]) == 0
        with Image.open(tmp_path / f"{number}.png") as image:
            # Below the names of what was drawn, which differ in length.
            drawn.append(image.convert("RGB").crop((image.width - 40, image.height - 40, image.width, image.height)))
    assert [picture.tobytes() for picture in drawn[1:]] == [drawn[0].tobytes()] * 3


@pytest.mark.parametrize(
    ("given", "args", "code", "message"),
    [
        ("", ["-", "--set", "-=1"], 1, "no ids on stdin"),
        ("x", ["-", "--set", "smile=1"], 2, "give their scale"),
        ("a/b#x/y/0\nc/d#x/y/0\n", ["-", "--set", "-=1"], 2, "ids of 2 models (a/b, c/d)"),
        ("a/b#x/y/0\n", ["acme/one", "--set", "-=1"], 2, "ids of 2 models (a/b, acme/one)"),
        ("mid/value/0\n", ["-", "--set", "-=1"], 2, "ids without a model"),
    ],
)
def test_a_steer_refuses_what_it_cannot_read_from_stdin(
    given: str, args: list[str], code: int, message: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    assert run(["steer", *args, "--out", str(tmp_path / "x.png")]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
