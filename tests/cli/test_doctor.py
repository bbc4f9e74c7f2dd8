"""`eigenbank doctor` says what is wrong and what to do, changes nothing, and the first run says what was made."""

import json
import sqlite3
from pathlib import Path

import pytest
from hub.fixtures import Client
from hub.server import Hub

import eigenbank as eb
from eigenbank.cli.main import run
from eigenbank.registry.catalog.tables import VERSION
from eigenbank.registry.plugins import KINDS
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID

CHECKS = {"eigenbank", "python", "libraries", "extras", "device", "home", "catalog", "cache", "hub"} | set(KINDS)
Capture = pytest.CaptureFixture[str]


def findings(capsys: Capture, *args: str, code: int = 0) -> dict[str, dict[str, str]]:
    capsys.readouterr()
    assert run(["doctor", "--format", "json", *args]) == code
    rows = json.loads(capsys.readouterr().out)
    assert all(row["schema"] == "eigenbank/finding/1" for row in rows)
    return {row["check"]: row for row in rows}


def test_a_fresh_installation_is_well_and_nothing_is_made(home: Path, capsys: Capture) -> None:
    found = findings(capsys)
    assert found.keys() == CHECKS
    assert {row["status"] for row in found.values()} == {"ok"}
    assert "torch" in found["libraries"]["found"]
    assert "cpu (" in found["device"]["found"]
    assert found["catalog"]["found"] == f"none at {home / 'catalog.db'} yet"
    assert "offline mode is on" in found["hub"]["found"]
    assert not home.exists()


def test_the_catalog_is_counted_and_not_changed(home: Path, capsys: Capture) -> None:
    assert run(["catalog", "reindex"]) == 0
    before = (home / "catalog.db").read_bytes()
    assert findings(capsys)["catalog"]["found"].endswith(
        f"version {VERSION}: 1 models, {len(eb.load(DEMO_MODEL_ID))} directions"
    )
    assert (home / "catalog.db").read_bytes() == before


def test_what_is_no_catalog_is_a_problem(home: Path, capsys: Capture) -> None:
    home.mkdir()
    content = b"no database at all" * 10
    (home / "catalog.db").write_bytes(content)
    found = findings(capsys, code=1)["catalog"]
    assert found["status"] == "problem"
    assert "Nothing was changed" in found["found"]
    assert (home / "catalog.db").read_bytes() == content


def test_a_named_catalog_in_no_folder_is_a_problem(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EIGENBANK_CATALOG", str(tmp_path / "nowhere" / "x.db"))
    assert f"there is no folder {tmp_path / 'nowhere'}" in findings(capsys, code=1)["catalog"]["found"]


def test_a_newer_catalog_is_a_problem_that_names_the_version(home: Path, capsys: Capture) -> None:
    assert run(["catalog", "reindex"]) == 0
    newer = sqlite3.connect(home / "catalog.db")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    assert "is of version 99" in findings(capsys, code=1)["catalog"]["found"]


def test_a_home_that_is_a_file_is_a_problem(home: Path, capsys: Capture) -> None:
    home.write_text("here already")
    found = findings(capsys, code=1)
    assert "is a file" in found["home"]["found"]
    assert "EIGENBANK_HOME" in found["home"]["advice"]


def test_what_is_in_quarantine_is_a_warning(home: Path, capsys: Capture) -> None:
    (home / "quarantine").mkdir(parents=True)
    (home / "quarantine" / "me--faces--manifest.json").write_text("{")
    assert [row["check"] for row in findings(capsys).values() if row["status"] != "ok"] == ["quarantine"]


def test_the_hub_is_asked_without_the_login(hub: Hub, client: Client) -> None:
    done = client.run("doctor", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = {row["check"]: row for row in json.loads(done.stdout)}["hub"]
    assert found["status"] == "ok"
    assert hub.url in found["found"]
    assert "a login is set" in found["found"]
    assert "dummy" not in done.stdout
    assert hub.requests["list"] == 1


@pytest.mark.parametrize(("action", "reason"), [("status", "the Hub is failing (status 503)"), ("slow", "ReadTimeout")])
def test_a_hub_that_does_not_answer_is_a_warning(action: str, reason: str, hub: Hub, client: Client) -> None:
    hub.fault("list", action, **({"seconds": 5.0} if action == "slow" else {}))
    done = client.run("doctor", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = {row["check"]: row for row in json.loads(done.stdout)}["hub"]
    assert found["status"] == "warning"
    assert reason in found["found"]
    assert "works without it" in found["advice"]


def test_a_question_creates_nothing_and_the_first_change_says_what_was_created(home: Path, capsys: Capture) -> None:
    assert run(["list"]) == 0
    assert capsys.readouterr().err == ""
    assert not home.exists()
    assert run(["catalog", "reindex"]) == 0
    assert f"created a catalog, {home / 'catalog.db'}" in capsys.readouterr().err
    assert run(["catalog", "reindex"]) == 0
    assert "created" not in capsys.readouterr().err


def test_version_is_told(capsys: Capture) -> None:
    for flag in ("--version", "-V"):
        assert run([flag]) == 0
        assert capsys.readouterr().out.startswith("eigenbank, version ")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_home_where_no_file_can_be_made_is_a_problem(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Though the superuser may write there, as far as permissions go."""
    monkeypatch.setenv("EIGENBANK_HOME", "/proc/nope")
    found = findings(capsys, code=1)
    assert found["home"]["status"] == found["catalog"]["status"] == "problem"
    assert "cannot be written to" in found["home"]["found"]
    assert "none can be created there" in found["catalog"]["found"]
