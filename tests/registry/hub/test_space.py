"""A gallery as a static Space: made, brought up to date as one commit, and nothing of anybody else's overwritten."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hub.fixtures import Client, Worker
from hub.server import Hub

pytestmark = pytest.mark.usefixtures("with_faces")

MODEL = "eigenbank/cartoon-faces-32"


def test_a_space_is_made_and_holds_the_page(hub: Hub, worker: Worker, client: Client, tmp_path: Path) -> None:
    assert worker.run("gallery", "--out", str(tmp_path / "site")).code == 0
    done = worker.run("gallery", "--publish", "me/gallery")
    assert done.code == 0, done.err
    files = hub.head("me/gallery", "spaces").files
    local = {
        path.relative_to(tmp_path / "site").as_posix(): path.read_bytes()
        for path in (tmp_path / "site").rglob("*")
        if path.is_file()
    }
    assert {name: blob.read() for name, blob in files.items() if name != ".gitattributes"} == local
    card = hub.repo("me/gallery", "spaces").card()
    assert card["sdk"] == "static"
    assert "published as a Space, me/gallery" in done.err


def test_publishing_again_uploads_nothing(hub: Hub, worker: Worker) -> None:
    assert worker.run("gallery", "--publish", "me/gallery").code == 0
    head = hub.head("me/gallery", "spaces").sha
    done = worker.run("gallery", "--publish", "me/gallery")
    assert done.code == 0
    assert "nothing was uploaded" in done.err
    assert hub.head("me/gallery", "spaces").sha == head


def test_an_update_deletes_what_is_gone_and_keeps_what_is_the_owners(hub: Hub, worker: Worker) -> None:
    assert worker.run("gallery", "--publish", "me/gallery").code == 0
    space = "---\ntitle: Mine\nsdk: static\n---\n"
    hub.put("me/gallery", {"README.md": space.encode(), "data/old.js": b"old", "own/notes.txt": b"mine"}, kind="spaces")
    parent = hub.head("me/gallery", "spaces").sha
    done = worker.run("gallery", "--publish", "me/gallery")
    assert done.code == 0, done.err
    head = hub.head("me/gallery", "spaces")
    assert head.parent == parent, "one commit"
    assert "data/old.js" not in head.files
    assert head.files["own/notes.txt"].read() == b"mine"
    assert head.files["README.md"].read() == space.encode()


def test_somebody_elses_space_is_left_alone(hub: Hub, worker: Worker) -> None:
    hub.put("me/app", {"app.py": b"import gradio", "README.md": b"---\nsdk: gradio\n---\n"}, kind="spaces")
    head = hub.head("me/app", "spaces").sha
    done = worker.run("gallery", "--publish", "me/app")
    assert done.code == 1
    assert "app.py" in done.err
    assert "nothing was published" in done.err
    assert hub.head("me/app", "spaces").sha == head


def test_an_edited_template_is_left_alone(hub: Hub, worker: Worker) -> None:
    hub.put("me/page", {"index.html": b"<h1>my page</h1>"}, kind="spaces")
    done = worker.run("gallery", "--publish", "me/page")
    assert done.code == 1
    assert hub.head("me/page", "spaces").files["index.html"].read() == b"<h1>my page</h1>"


def test_a_lost_answer_is_not_a_lost_page(hub: Hub, worker: Worker) -> None:
    hub.fault("commit", "lost", times=1)
    done = worker.run("gallery", "--publish", "me/gallery")
    assert done.code == 0, done.err
    assert "though the Hub's answer was not heard" in done.err


@pytest.mark.parametrize(
    ("repo", "message"), [("nobody", "expected ORG/NAME"), ("../x", "no repository id"), ("you/x", "may not do that")]
)
def test_wrong_names_are_refused(worker: Worker, repo: str, message: str) -> None:
    done = worker.run("gallery", "--publish", repo)
    assert done.code == 1
    assert message in done.err


def test_without_a_login_it_says_so(make_client: Callable[..., Client]) -> None:
    with Worker(make_client("stranger", token=None)) as stranger:
        done = stranger.run("gallery", "--publish", "me/gallery")
    assert done.code == 1
    assert "hf auth login" in done.err


def test_the_hub_checks_a_spaces_card(hub: Hub, worker: Worker, client: Client, tmp_path: Path) -> None:
    made = client.python(
        "import huggingface_hub as h; a = h.HfApi(); a.create_repo('me/s', repo_type='space', space_sdk='static')\n"
        "a.upload_file(path_or_fileobj=b'---\\nsdk: php\\n---\\n', path_in_repo='README.md', repo_id='me/s', repo_type='space')"
    )
    assert made.returncode
    assert '"sdk" must be one of' in made.stderr
