"""`search`, `list`, `show` and `labels`, as a user meets them: on a catalog filled without building anything."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from registry.catalog.made import label, manifest, measured, quality

from eigenbank.cli.main import cli, run
from eigenbank.registry.catalog import Catalog

MID = "mid_block.attentions.0/value/0"
FACES = f"acme/faces#{MID}"


@pytest.fixture(autouse=True)
def filled(home: Path) -> Path:
    """This user's catalog, with two models."""
    with Catalog.open(shipped=True) as catalog:
        labels = {
            MID: [measured("smile", 0.9), label("big smile", 0.5)],
            "mid_block.attentions.0/value/1": [label("glasses", 0.7), label("grin", None, "human:bob")],
        }
        known = quality(effect=0.5, selectivity=0.62, consistency=1.0, recommended_range=(-2.0, 1.0), drift=0.25)
        faces = manifest("acme/faces", labels, qualities={MID: known})
        catalog.add_set(faces, location="/sets/faces", digest="1")
        catalog.add_set(manifest("zeta/cats", licence="apache-2.0"), location="/sets/cats", digest="2")
    return home / "catalog.db"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run a command; returns its exit code, output and errors."""

    def work(*args: str) -> tuple[int, str, str]:
        code = run(list(args))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return work


def ids(call, *args: str) -> list[str]:  # type: ignore[no-untyped-def]
    code, out, _ = call(*args, "-q")
    assert code == 0
    return out.splitlines()


def labels_of(call, name: str) -> list[dict[str, object]]:  # type: ignore[no-untyped-def]
    """What `show` says of the labels of one direction."""
    (row,) = json.loads(call("show", name, "--format", "json")[1])
    return list(row["evidence"])


def test_a_search_finds_the_best_match_first(call) -> None:  # type: ignore[no-untyped-def]
    assert ids(call, "search", "smile", "--model", "acme/*") == [FACES]
    assert ids(call, "search", "smi", "--model", "acme/*") == [FACES]
    assert ids(call, "search", '"big smile"') == [FACES]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--model", "acme/*"], 12),
        (["--model", "*a*/*s"], 24),
        (["--layer", "mid*", "--model", "acme/faces"], 6),
        (["--recipe", "value", "--model", "acme/faces"], 6),
        (["--min", "eigenvalue=9", "--model", "acme/faces"], 4),
        (["--max", "eigenvalue=4", "--model", "acme/faces"], 4),
        (["--min", "share=0.2", "--max", "share=0.3", "--model", "acme/faces"], 4),
        (["--source", "human"], 1),
        (["--min", "confidence=0.8", "--model", "acme/*"], 1),
        (["--labelled", "--model", "acme/faces"], 2),
        (["--unlabelled", "--model", "acme/faces"], 10),
        (["--min", "effect=0.4", "--model", "acme/*"], 1),
        (["--min", "selectivity=0.63", "--model", "acme/*"], 0),
        (["--min", "selectivity=0.62", "--min", "consistency=1", "--model", "acme/*"], 1),
        (["--min", "linearity=0", "--model", "acme/*"], 0),
        (["--min", "locality=0", "--model", "acme/*"], 0),
        (["--max", "drift=0.25", "--model", "acme/*"], 1),
        (["--max", "drift=0.2", "--model", "acme/*"], 0),
        (["--min", "gap=0.1", "--model", "acme/faces"], 8),
    ],
)
def test_every_filter_narrows(call, options: list[str], count: int) -> None:  # type: ignore[no-untyped-def]
    assert len(ids(call, "search", *options)) == count


def test_a_quality_is_shown_in_words_and_whole_to_machines(call) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = call("show", FACES)
    assert "by attribute-model:abc, at ±1.5 on 2 seeds, 20 steps" in out
    assert "62% of all that it moves is one score" in out
    assert "scales -2 to 1" in out
    assert "linearity" not in out
    (row,) = json.loads(call("show", FACES, "--format", "json")[1])
    assert row["quality"]["recommended_range"] == [-2.0, 1.0]
    assert row["quality"]["linearity"] is None
    other = FACES.replace("/0", "/1")
    assert "quality" not in call("show", other)[1]
    assert json.loads(call("show", other, "--format", "json")[1])[0]["quality"] is None


def test_a_quality_sorts_with_the_unknown_last(call) -> None:  # type: ignore[no-untyped-def]
    for sort in ("effect", "selectivity", "consistency", "linearity", "locality", "drift", "gap"):
        found = ids(call, "search", "--model", "acme/faces", "--sort", sort)
        assert len(found) == 12
        if sort not in ("linearity", "locality", "gap"):
            assert found[0] == FACES


def test_pages_go_on_where_the_last_one_ended(call) -> None:  # type: ignore[no-untyped-def]
    found: list[str] = []
    more: list[str] = []
    while True:
        code, out, err = call("search", "--model", "acme/faces", "--sort", "eigenvalue", "--limit", "5", "-q", *more)
        assert code == 0
        found += out.splitlines()
        if "--cursor" not in err:
            break
        more = ["--cursor", err.split("--cursor ")[1].split()[0]]
    assert len(found) == len(set(found)) == 12


def test_a_list_is_gone_on_with_as_it_says(call) -> None:  # type: ignore[no-untyped-def]
    every = ids(call, "list", "--model", "acme/faces")
    _, out, err = call("list", "--model", "acme/faces", "--limit", "5", "-q")
    again = err.splitlines()[-1].removeprefix("eigenbank ").split()
    assert [*out.splitlines(), *ids(call, *again)] == every


def test_a_typo_gets_near_matches_on_stderr(call) -> None:  # type: ignore[no-untyped-def]
    code, out, err = call("search", "smlie", "--format", "json")
    assert (code, json.loads(out)) == (0, [])
    assert "no label, layer or model has a word 'smlie': did you mean smile" in err
    assert "did you mean 'acme/faces'" in call("search", "--model", "acme/face")[2]


@pytest.mark.parametrize(
    "args",
    [
        ["search", "smile"], ["list"], ["list", "--model", "acme/faces"], ["show", FACES], ["show", "acme/faces"],
        ["catalog", "stats"],
    ],
)  # fmt: skip
def test_json_carries_a_schema_version_in_every_row(call, args: list[str]) -> None:  # type: ignore[no-untyped-def]
    rows = json.loads(call(*args, "--format", "json")[1])
    assert rows
    assert all(row["schema"].startswith("eigenbank/") and row["schema"].endswith("/1") for row in rows)
    lines = [json.loads(line) for line in call(*args, "--format", "jsonl")[1].splitlines()]
    assert lines == rows
    for fmt, delimiter in (("csv", ","), ("tsv", "\t")):
        table = list(csv.DictReader(io.StringIO(call(*args, "--format", fmt)[1]), delimiter=delimiter))
        assert len(table) == len(rows)
        assert "schema" not in table[0]


def test_an_empty_result_is_an_empty_list_everywhere(call) -> None:  # type: ignore[no-untyped-def]
    for args in (["search", "nothing"], ["search", "--source", "human:nobody"], ["search", "--min", "eigenvalue=1000000"],
                 ["verify"]):  # fmt: skip
        code, out, _ = call(*args, "--format", "json")
        assert (code, out) == (0, "[]\n"), args


def test_a_model_is_shown_with_its_layers_and_labels(call) -> None:  # type: ignore[no-untyped-def]
    (row,) = json.loads(call("show", "acme/faces", "--format", "json")[1])
    assert row["layers"] == ["down_blocks.2.attentions.0", "mid_block.attentions.0"]
    assert row["label_texts"] == ["big smile", "glasses", "grin", "smile"]
    assert "did you mean 'acme/faces'" in call("show", "acme/face")[2]
    assert "down_blocks.2.attentions.0" in call("show", "acme/faces", "zeta/cats")[1]


def test_a_persons_label_is_added_listed_and_removed(call) -> None:  # type: ignore[no-untyped-def]
    assert call("labels", "add", FACES, "laugh", "--by", "ann", "--note", "clearly")[0] == 0
    assert ids(call, "search", "laugh", "--source", "human") == [FACES]
    (row,) = (row for row in labels_of(call, FACES) if row["source"].startswith("human"))
    assert (row["text"], row["source"], row["note"], row["confidence"]) == ("laugh", "human:ann", "clearly", None)
    code, _, err = call("labels", "rm", FACES, "laugh", "--by", "bob")
    assert (code, "no label 'laugh' by human:bob there, only by human:ann. Nothing was removed" in err) == (
        1,
        True,
    )
    assert call("labels", "rm", FACES, "smile", "--by", "ann")[0] == 1
    assert call("labels", "rm", FACES, "laugh", "--by", "ann")[0] == 0
    assert {row["source"] for row in labels_of(call, FACES)} == {"attribute-model:abc", "statistics"}


def test_labels_are_given_to_all_or_to_none(call) -> None:  # type: ignore[no-untyped-def]
    code, _, err = call("labels", "add", FACES, FACES[:-1] + "9", "laugh", "--by", "ann")
    assert (code, "did you mean" in err) == (1, True)
    assert ids(call, "search", "laugh") == []


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["labels", "add", FACES], 2, "expected DIRECTION... TEXT"),
        (["labels", "add", FACES, "a\x00b", "--by", "ann"], 2, "no label can be made of this: text"),
        (["labels", "add", FACES, "x" * 501, "--by", "ann"], 2, "no label can be made of this: text"),
        (["labels", "add", FACES, "laugh", "--by", "\n"], 2, "expected a name"),
        (["search", "--model", "acme/face"], 1, "did you mean 'acme/faces'"),
        (["search", "--min", "eigenvalue=nan"], 1, "nan is no bound"),
        (["search", "x", "--sort", "size"], 2, "--sort"),
        (["search", "x", "--limit", "0"], 2, "--limit"),
        (["search", "x", "--cursor", "zzz"], 1, "is not a cursor"),
        (["catalog", "import", "/no/such/file"], 1, "cannot be read"),
        (["labels", "ls"], 2, "No such command"),
        (["show", FACES, "acme/faces"], 2, "not both"),
        (["search", "--min", "drift=0.2"], 2, "expected NAME=X, where NAME is one of confidence"),
        (["search", "--max", "drift"], 2, "expected NAME=X"),
        (["search", "--max", "drift=low"], 2, "'low' is no number"),
        (["search", "--min", "confidence=90"], 2, "confidence is between 0 and 1"),
    ],
)
def test_a_wrong_call_is_refused(call, args: list[str], code: int, message: str) -> None:  # type: ignore[no-untyped-def]
    found, out, err = call(*args)
    assert (found, out) == (code, "")
    assert message in err


def test_ids_are_piped_into_the_next_command(call, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def piped(text: str, *args: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return call(*args)

    found = ids(call, "search", "--model", "acme/faces", "--min", "eigenvalue=9")
    lines = "".join(f"{each}\n" for each in found)
    assert piped(lines, "labels", "add", "-", "first", "--by", "ann")[2] == "4 labelled 'first' by human:ann\n"
    assert ids(call, "search", "first") == found
    shown = piped(lines, "show", "-", "--format", "jsonl")[1]
    assert [json.loads(line)["id"] for line in shown.splitlines()] == found
    assert "no direction on standard input" in piped("", "show", "-")[2]


def test_the_catalog_travels(call, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    everything, other = tmp_path / "all.jsonl", tmp_path / "other.db"
    assert call("catalog", "export", str(everything))[0] == 0
    assert call("--catalog", str(other), "catalog", "import", str(everything))[0] == 0
    assert ids(call, "--catalog", str(other), "list") == ids(call, "--catalog", str(filled_path()), "list")
    code, out, err = call("--catalog", str(filled_path()), "catalog", "import", str(other), "--format", "json")
    assert (code, out, "nothing differed" in err) == (0, "[]\n", True)
    assert call("catalog", "reindex")[0] == 0
    assert call("catalog", "stats", "-q")[1].strip() == str(filled_path())
    assert "acme/faces" in call("verify", "--files")[1]


def filled_path() -> Path:
    return Path(os.environ["EIGENBANK_HOME"]) / "catalog.db"


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is a pty")
@pytest.mark.parametrize("columns", [40, 100])
def test_a_table_fits_the_terminal(columns: int) -> None:
    import pty

    control, terminal = pty.openpty()
    command = [sys.executable, "-m", "eigenbank", "search", "smile", "--model", "acme/*"]
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    subprocess.run(command, stdout=terminal, stderr=subprocess.DEVNULL, env=environment, check=True)
    os.close(terminal)
    text = b""
    try:
        while block := os.read(control, 65_536):
            text += block
    except OSError:  # the terminal's end
        pass
    os.close(control)
    import re

    lines = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).replace("\r", "").splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= columns


def test_no_query_imports_torch() -> None:
    queries = [["search", "smile"], ["list"], ["show", FACES], ["search", "--labelled"], ["catalog", "stats"],
               ["verify"], ["catalog", "--help"]]  # fmt: skip
    code = (
        "import sys\nfrom eigenbank.cli.main import cli, run\n"
        f"codes = [run(query) for query in {queries!r}]\n"
        "heavy = {'torch', 'diffusers', 'huggingface_hub', 'numpy', 'psycopg', 'sqlalchemy.dialects.postgresql'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'{codes} {heavy}' if any(codes[:5]) or heavy else 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("eigenbank sea", "search"),
        ("eigenbank search --model ac", "acme/faces"),
        ("eigenbank search gla", "glasses"),
        ("eigenbank search --model acme/faces --layer mid", "mid_block.attentions.0"),
        ("eigenbank search --min eff", "effect="),
        ("eigenbank catalog rm ze", "zeta/cats"),
        ("eigenbank show acme/faces#mid", FACES),
        ("eigenbank labels r", "rm"),
        *((f"eigenbank {command} acme/f", "acme/faces") for command in
          ("build", "label", "preview", "steer", "sweep", "export", "publish", "pull", "verify")),
        ("eigenbank edit photo.png --model acme/f", "acme/faces"),
        ("eigenbank sweep acme/faces gla", "glasses"),
        ("eigenbank sweep acme/faces mid_block.attentions.0/v", "mid_block.attentions.0/value/0"),
        ("eigenbank export acme/faces gla", "glasses"),
        ("eigenbank preview acme/faces gla", "glasses"),
        ("eigenbank steer acme/faces --set gla", "glasses="),
    ],
)  # fmt: skip
def test_the_shell_is_offered_commands_models_and_labels(words: str, offered: str) -> None:
    assert offered in completed(words)


def completed(line: str) -> list[str]:
    """What the shell is offered for the last word of a line."""
    _, *words, begun = line.split()
    return [
        item.value for item in ShellComplete(cli, {}, "eigenbank", "_EIGENBANK_COMPLETE").get_completions(words, begun)
    ]


def test_completing_makes_no_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EIGENBANK_HOME", str(tmp_path / "new"))
    assert completed("eigenbank search x") == []
    assert not (tmp_path / "new").exists()


MADE = "nord/made#composite/hair-length"


@pytest.fixture
def made(filled: Path) -> None:
    """One model more, of which a composite has the label that a direction has, too."""
    with Catalog.open() as catalog:
        labels = {"composite/hair-length": [measured("hair cut", 0.9)], MID: [label("hair cut", 0.4)]}
        known = {"composite/hair-length": quality(effect=0.9)}
        one = manifest("nord/made", labels, qualities=known, composites=("hair-length", "age"))
        catalog.add_set(one, location="/sets/made", digest="3")


def test_a_search_that_finds_nothing_says_so(call, filled) -> None:  # type: ignore[no-untyped-def]
    """Also where the word is known: of a label that filters leave out, or of a runner-up."""
    code, out, err = call("search", "glasses", "--min", "eigenvalue=1000000")
    assert (code, out) == (0, "")
    assert err == "nothing found for 'glasses' that meets the filters: without them there is something\n"
    assert "`eigenbank search --labelled` lists what has a label" in call("search", "glasses smile")[2]
    code, out, err = call("search", '"big smi')
    assert (code, out, "is not closed" in err) == (0, "", True)
    code, _, err = call("show", "glasses")
    assert code == 1
    assert "What has a label is found by `eigenbank search LABEL`" in err


def test_a_table_shows_what_was_asked_for(call, made) -> None:  # type: ignore[no-untyped-def]
    head, row = call("search", "hair cut", "--composites", "--sort", "drift", "--min", "effect=0.5")[1].splitlines()
    assert head.split()[-2:] == ["effect", "drift"]
    assert "0.9" in row.split()
    assert "effect" not in call("search", "hair cut")[1].splitlines()[0]
    rows = json.loads(call("search", "hair cut", "--sort", "effect", "--format", "json")[1])
    assert "effect" not in rows[0]


def test_tables_in_a_file_have_no_blanks_at_the_end_of_lines(call, filled) -> None:  # type: ignore[no-untyped-def]
    lines = call("list")[1].splitlines()
    assert len(lines) > 1
    assert lines == [line.rstrip() for line in lines]


def test_a_composite_is_searched_listed_and_shown(call, made) -> None:  # type: ignore[no-untyped-def]
    assert ids(call, "search", "hair cut") == [MADE, f"nord/made#{MID}"]
    assert ids(call, "search", "hair cut", "--composites") == [MADE]
    assert ids(call, "search", "hair cut", "--no-composites") == [f"nord/made#{MID}"]
    assert ids(call, "list", "--model", "nord/made")[-2:] == [MADE, "nord/made#composite/age"]
    assert len(ids(call, "search", "--model", "nord/made", "--layer", "*")) == 12
    (row,) = json.loads(call("show", MADE, "--format", "json")[1])
    assert (row["schema"], row["id"], row["composite"]) == ("eigenbank/direction/1", MADE, "hair-length")
    nothing = ("layer", "recipe", "rank", "kind", "width", "eigenvalue", "share", "gap")
    assert [row[name] for name in nothing] == [None] * len(nothing)
    assert (row["labels"], row["confidence"], row["quality"]["effect"]) == (["hair cut"], 0.9, 0.9)
    assert json.loads(call("show", FACES, "--format", "json")[1])[0]["composite"] is None
    code, out, _ = call("show", MADE)
    assert (code, "hair-length" in out, "eigenvalue" in out, "0.9 standard deviations" in out) == (0, True, False, True)
    code, out, _ = call("show", FACES)
    assert (code, "composite" in out, "eigenvalue" in out) == (0, False, True)
    code, _, err = call("show", "nord/made#composite/hair-lenght")
    assert (code, f"did you mean '{MADE}'" in err) == (1, True)


def test_what_a_composite_is_made_of_is_shown_where_its_set_is_here(call, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    one = manifest("nord/made", {}, composites=("age",))
    part = one.composites[0].parts[0]
    with Catalog.open() as catalog:
        catalog.add_set(one, location=str(tmp_path / "set"), digest="3")
    made = "nord/made#composite/age"
    code, out, err = call("show", made)
    assert (code, part.direction in out) == (0, False)
    assert f"what {made} is made of is in its set, which is not on this machine: eigenbank pull nord/made" in err
    assert json.loads(call("show", made, "--format", "json")[1])[0]["parts"] is None
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.json").write_text(one.model_dump_json())
    code, out, err = call("show", made)
    assert (code, part.direction in out, err) == (0, True, "")
    (row,) = json.loads(call("show", made, "--format", "json")[1])
    assert row["parts"] == [{"direction": part.direction, "weight": part.weight}]
    (tmp_path / "set" / "manifest.json").write_text("{")
    code, _, err = call("show", made)
    assert (code, "is not JSON" in err) == (0, True)


def test_a_person_labels_a_composite(call, made, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{MADE}\n"))
    assert call("labels", "add", "-", "mane", "--by", "ann")[0] == 0
    assert ids(call, "search", "mane", "--source", "human") == [MADE]
    (row,) = (row for row in labels_of(call, MADE) if row["source"].startswith("human"))
    assert (row["text"], row["source"]) == ("mane", "human:ann")
    (made_by,) = json.loads(call("show", "nord/made", "--format", "json")[1])
    assert "mane" in made_by["label_texts"]
    assert call("labels", "rm", MADE, "hair cut", "--by", "ann")[0] == 1  # a labeler says that
    assert call("labels", "rm", MADE, "mane", "--by", "ann")[0] == 0
    assert ids(call, "search", "mane") == []
    (stats,) = json.loads(call("catalog", "stats", "--format", "json")[1])
    assert stats["composites"] >= 2


def test_an_export_and_an_import_say_how_many_composites(call, made, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, _, err = call("catalog", "export", str(tmp_path / "all.jsonl"))
    assert (code, "composites, " in err) == (0, True)
    assert call("--catalog", str(tmp_path / "other.db"), "catalog", "import", str(tmp_path / "all.jsonl"))[0] == 0
    assert ids(call, "--catalog", str(tmp_path / "other.db"), "search", "hair cut")[0] == MADE


def test_a_list_of_models_has_a_most_of_rows_too(call) -> None:  # type: ignore[no-untyped-def]
    every = json.loads(call("list", "--format", "json")[1])
    code, out, err = call("list", "--limit", "1", "--format", "json")
    assert code == 0
    assert json.loads(out) == every[:1]
    assert f"{len(every)} models, of which 1 are listed" in err
