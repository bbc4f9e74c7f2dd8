"""The main job over the Hub: publish on one machine, pull and load on another."""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub.fixtures import Client, Worker
from hub.server import Hub
from hub.sets import other_version
from hub.store import card_problems

from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.steer import steer
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.registry.sets.displacements import Displacements
from eigenbank.registry.sets.folder import read_manifest
from eigenbank.schemas import DisplacementRecord, Manifest

REPO = "me/faces-directions"
IMAGES = """
import sys, hashlib, torch, eigenbank as eb
from eigenbank.loaders.pipelines import open_pipeline
from pathlib import Path
pipe = open_pipeline(Path(sys.argv[1]))
bank = eb.load(sys.argv[2])
with eb.steer(pipe, {"warm smile": 1.5}, bank=bank):
    images = pipe(generator=torch.Generator().manual_seed(0), num_inference_steps=2, output_type="np").images
print(hashlib.sha256(images.tobytes()).hexdigest())
"""


def ok(done: "subprocess.CompletedProcess[str]") -> "subprocess.CompletedProcess[str]":
    assert done.returncode == 0, done.stderr
    return done


def test_what_is_published_steers_alike_from_another_home(
    published_set: Path, tiny_checkpoint: Path, hub: Hub, make_client: Callable[..., Client]
) -> None:
    pipe = open_pipeline(tiny_checkpoint)
    with steer(pipe, {"warm smile": 1.5}, bank=DirectionSet.open(published_set)):
        generator = torch.Generator().manual_seed(0)
        images = pipe(generator=generator, num_inference_steps=2, output_type="np").images
    ok(make_client("first").run("publish", str(published_set), "--repo", REPO))
    second = make_client("second", token=None)
    ok(second.run("pull", REPO))
    there = ok(second.python(IMAGES, str(tiny_checkpoint), "acme/faces"))
    assert there.stdout.strip() == hashlib.sha256(images.tobytes()).hexdigest()
    assert there.stderr == ""


def test_loading_by_model_id_finds_it_on_the_hub_and_remembers(
    published_set: Path, hub: Hub, make_client: Callable[..., Client]
) -> None:
    ok(make_client("first").run("publish", str(published_set), "--repo", REPO))
    second = make_client("second", token=None)
    load = "import eigenbank as eb; bank = eb.load('acme/faces'); print(len(bank))"
    first = ok(second.python(load))
    assert f"taken from {REPO}" in first.stderr
    hub.forget()
    again = ok(second.python(load))
    assert again.stdout == first.stdout
    assert again.stderr == ""
    assert not hub.requests
    listed = json.loads(ok(second.run("list", "--format", "json")).stdout)
    assert f"hub:{REPO}@{hub.head(REPO).sha}" in [row["location"] for row in listed]


def test_pulling_is_counted_as_a_download_by_the_hubs_rule(
    published_set: Path, hub: Hub, make_client: Callable[..., Client]
) -> None:
    """The Hub counts requests for config.json, which names what the set is, and of which checkpoint."""
    ok(make_client("first").run("publish", str(published_set), "--repo", REPO))
    config = json.loads(hub.files(REPO)["config.json"])
    assert config["library_name"] == "eigenbank"
    assert config["base_model"] == "acme/faces"
    assert config["directions"] == len(DirectionSet.open(published_set))
    assert hub.files(REPO).keys() == {*read_manifest(published_set).files, "manifest.json"}
    assert hub.store.repos["models", REPO].downloads == 0
    ok(make_client("second", token=None).run("pull", REPO))
    assert hub.store.repos["models", REPO].downloads >= 1
    before = hub.store.repos["models", REPO].downloads
    ok(make_client("third", token=None).run("sync"))  # reads manifests alone: that is no download
    assert hub.store.repos["models", REPO].downloads == before


PUSH = """
import eigenbank as eb
bank = eb.DirectionSet.from_pretrained("acme/built")
print(bank.push_to_hub("me/pushed", private=True, commit_message="From Python").commit)
print(bank.push_to_hub("me/pushed").changed, bank.push_to_hub("me/pushed", with_labels=True).changed)
again = eb.DirectionSet.from_pretrained("me/pushed")
print(len(again) == len(bank), again.save_pretrained("copy").folder.name)
"""


def test_the_hubs_own_words_do_what_ours_do(
    tiny_checkpoint: Path, hub: Hub, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ok(client.run("build", str(tiny_checkpoint), "--model-id", "acme/built", "--top-k", "1"))
    row = json.loads(ok(client.run("search", "--model", "acme/built", "--limit", "1", "--format", "json")).stdout)[0]
    ok(client.run("labels", "add", row["id"], "my own word", "--by", "ann"))
    said = ok(client.python(PUSH))
    first, *others = said.stdout.splitlines()
    assert others == ["False True", "True copy"]
    head = hub.head("me/pushed")
    assert head.sha != first
    assert "my own word" in hub.files("me/pushed")["manifest.json"].decode()
    assert "my own word" not in hub.files("me/pushed", revision=first)["manifest.json"].decode()
    assert "1 labels that people gave in this catalog stay here" in said.stderr
    assert hub.store.repos["models", "me/pushed"].private
    assert (tmp_path / "copy" / "config.json").is_file()


def test_publishing_twice_uploads_nothing(published_set: Path, hub: Hub, worker: Worker) -> None:
    first = worker.run("publish", str(published_set), "--repo", REPO, "--format", "json")
    assert first.code == 0, first.err
    assert {row["change"] for row in json.loads(first.out)} == {"add"}
    assert hub.requests["commit"] == 1
    assert hub.head(REPO).files["directions.safetensors"].lfs
    before = hub.head(REPO).sha
    hub.forget()
    again = worker.run("publish", str(published_set), "--repo", REPO)
    assert again.code == 0
    assert "nothing was uploaded" in again.err
    assert set(hub.requests) <= {"info", "head", "get"}
    assert not sum(hub.received.values())
    assert hub.head(REPO).sha == before


def test_only_what_changed_is_uploaded(
    set_folder: Path, tmp_path: Path, hub: Hub, worker: Worker, published_set: Path
) -> None:
    assert worker.run("publish", str(set_folder), "--repo", REPO).code == 0
    hub.forget()
    other = other_version(set_folder, tmp_path / "other", "frown")
    done = worker.run("publish", str(other), "--repo", REPO, "--format", "json")
    assert done.code == 0, done.err
    changes = {row["file"]: row["change"] for row in json.loads(done.out)}
    (preview,) = [name for name in changes if name.startswith("previews/")]
    assert changes == {
        "directions.safetensors": "keep",
        "config.json": "keep",
        "README.md": "change",
        "manifest.json": "change",
        preview: "delete",
    }
    assert not hub.requests["lfs-upload"]
    assert hub.head(REPO).title == "Directions of acme/faces"
    assert "frown" in hub.files(REPO)["README.md"].decode()
    assert preview not in hub.files(REPO)


def test_what_a_model_saw_goes_along_and_goes_when_the_set_no_longer_has_it(
    published_set: Path, tmp_path: Path, hub: Hub, worker: Worker
) -> None:
    bank = DirectionSet.open(published_set)
    record = DisplacementRecord(source="clip:x", scale=1.0, seeds=(0,), steps=2)
    seen = bank.with_displacements(Displacements(record, torch.randn(len(bank), 4), torch.randn(5, 4)))
    seen.save(tmp_path / "seen")
    assert worker.run("publish", str(tmp_path / "seen"), "--repo", REPO).code == 0
    assert "displacements.safetensors" in hub.files(REPO)
    assert worker.run("pull", REPO).code == 0
    assert worker.run("publish", str(published_set), "--repo", REPO).code == 0
    assert "displacements.safetensors" not in hub.files(REPO)


def test_the_catalog_remembers_where_a_set_is_published(
    published_set: Path, hub: Hub, client: Client, tiny_checkpoint: Path
) -> None:
    ok(client.run("build", str(tiny_checkpoint), "--model-id", "acme/built", "--top-k", "2"))
    ok(client.run("publish", "acme/built", "--repo", REPO))
    asked = client.python(
        "from eigenbank.registry.catalog import Catalog\n"
        "with Catalog.open() as c: row = c.get_set('acme/built'); print(row.repo, row.commit)"
    )
    assert asked.stdout.split() == [REPO, hub.head(REPO).sha]


def test_a_dry_run_changes_nothing(published_set: Path, hub: Hub, worker: Worker) -> None:
    done = worker.run("publish", str(published_set), "--repo", REPO, "--dry-run")
    assert done.code == 0, done.err
    assert "this would be published" in done.err
    assert "directions.safetensors" in done.out
    assert not hub.store.repos
    assert set(hub.requests) == {"info", "validate-yaml"}


def test_a_set_can_be_private_and_on_a_branch(
    published_set: Path, hub: Hub, worker: Worker, make_client: Callable[..., Client]
) -> None:
    done = worker.run("publish", str(published_set), "--repo", REPO, "--private", "--revision", "dev")
    assert done.code == 0, done.err
    assert hub.repo(REPO).private
    assert "manifest.json" not in hub.files(REPO)
    assert "manifest.json" in hub.files(REPO, "dev")
    assert worker.run("pull", REPO, "--revision", "dev").code == 0
    stranger = make_client("stranger", token=None).run("pull", REPO, "--revision", "dev")
    assert stranger.returncode == 1
    assert "error: no direction set of" in stranger.stderr


def test_the_card_is_valid_and_says_what_it_must(published_set: Path, hub: Hub, worker: Worker) -> None:
    assert worker.run("publish", str(published_set), "--repo", REPO).code == 0
    card = hub.files(REPO)["README.md"].decode()
    assert card_problems(card) == []
    header = hub.repo(REPO).card()
    assert header["library_name"] == "eigenbank"
    assert (header["base_model"], header["base_model_relation"]) == ("acme/faces", "adapter")
    assert header["license"] == "apache-2.0"
    assert header["tags"][:2] == ["eigenbank", "eigen-directions"]
    manifest = read_manifest(published_set)
    assert "| licence of the base checkpoint | unknown |" in card
    assert "| base revision | unknown (a local folder) |" in card
    assert f"`{manifest.files['directions.safetensors'].sha256}`" in card
    assert "`output-value:output`" in card
    (preview,) = [name for name in manifest.files if name.startswith("previews/")]
    row = next(line for line in card.splitlines() if "warm smile" in line and line.startswith("|"))
    assert f"![preview]({preview})" in row
    assert "age &#60; 30" in card
    assert "age < 30" not in card.replace("{'age < 30'", "")


def test_the_snippet_of_the_card_runs(
    published_set: Path, tiny_checkpoint: Path, hub: Hub, worker: Worker, make_client: Callable[..., Client]
) -> None:
    hub.put(
        "acme/faces", {p.relative_to(tiny_checkpoint).as_posix(): p for p in tiny_checkpoint.rglob("*") if p.is_file()}
    )
    assert worker.run("publish", str(published_set), "--repo", REPO).code == 0
    code = re.findall(r"```python\n(.*?)```", hub.files(REPO)["README.md"].decode(), re.DOTALL)
    assert len(code) == 1
    done = ok(make_client("reader", token=None).python(code[0] + "\nprint(len(images), images[0].size)"))
    assert done.stdout.strip() == "1 (8, 8)"


@pytest.mark.parametrize("token", ["dummy", "hf_secret-token-of-mine"])
def test_a_token_is_never_shown_or_stored(
    token: str, published_set: Path, hub: Hub, make_client: Callable[..., Client]
) -> None:
    client = make_client(token=token)
    done = client.run("--debug", "publish", str(published_set), "--repo", REPO)
    assert (done.returncode == 0) == (token == "dummy")
    assert token not in (done.stdout + done.stderr).replace("dummy_", "")
    for path in client.home.rglob("*"):
        assert not (path.is_file() and token.encode() in path.read_bytes()), path


def test_a_pinned_commit_is_what_is_loaded(
    set_folder: Path, tmp_path: Path, hub: Hub, worker: Worker, make_client: Callable[..., Client]
) -> None:
    assert worker.run("publish", str(set_folder), "--repo", REPO).code == 0
    old = hub.head(REPO).sha
    assert worker.run("publish", str(other_version(set_folder, tmp_path / "o", "frown")), "--repo", REPO).code == 0
    reader = make_client("reader", token=None)
    code = "import sys, eigenbank as eb; print(*eb.load('acme/faces', **eval(sys.argv[1])).labels)"
    assert ok(reader.python(code, "{}")).stdout.startswith("frown")
    assert "warm" in ok(reader.python(code, f"dict(revision={old!r})")).stdout
    assert ok(reader.python(code, "{}")).stdout.startswith("frown")
    assert "warm" in ok(reader.python(code, f"dict(repo={REPO!r}, revision={old!r})")).stdout


def test_peoples_labels_are_published_when_asked_for(published_set: Path, hub: Hub, worker: Worker) -> None:
    assert worker.run("publish", str(published_set), "--repo", REPO).code == 0
    assert worker.run("pull", REPO).code == 0
    one = f"acme/faces#{read_manifest(published_set).directions[2].id}"
    added = worker.run("labels", "add", one, "raised brow", "--by", "bob")
    assert added.code == 0, added.err
    before = hub.head(REPO).sha
    done = worker.run("publish", "acme/faces", "--repo", REPO)
    assert "1 labels that people gave in this catalog stay here (--with-labels" in done.err
    assert hub.head(REPO).sha == before
    hub.forget()
    done = worker.run("publish", "acme/faces", "--repo", REPO, "--with-labels")
    assert done.code == 0, done.err
    assert not hub.requests["lfs-upload"]
    there = Manifest.model_validate_json(hub.files(REPO)["manifest.json"]).directions[2]
    assert [(label.text, label.source) for label in there.labels] == [("raised brow", "human:bob")]
    assert "raised brow" in hub.files(REPO)["README.md"].decode()
    again = worker.run("publish", "acme/faces", "--repo", REPO, "--with-labels")
    assert "nothing was uploaded" in again.err
