"""The loopback Hub answers the real client as the real Hub does, and fails as it is told to."""

import json
import subprocess
from pathlib import Path

import pytest
from hub.fixtures import Client
from hub.server import Hub

CARD = "---\nlicense: mit\ntags: [one, two]\nbase_model: acme/faces\nlibrary_name: eigenbank\n---\n# A card\n"
BIG = bytes(range(256)) * 1200

JOURNEY = """
import io, json, warnings
import huggingface_hub as h
from huggingface_hub import CommitOperationAdd as Add, CommitOperationDelete as Delete
from huggingface_hub.errors import *
api = h.HfApi()
card = CARD; big = bytes(range(256)) * 1200
assert api.whoami()["name"] == "me"
api.create_repo("me/x"); api.create_repo("me/x", exist_ok=True)
def refused(kind, call, *a, **k):
    try: call(*a, **k)
    except kind as error: return error
    raise AssertionError(f"{call} was not refused")
refused(HfHubHTTPError, api.create_repo, "me/x")
refused(HfHubHTTPError, api.create_repo, "you/x")
adds = lambda: [Add("README.md", card.encode()), Add("a/w.safetensors", big)]
one = api.create_commit("me/x", adds(), commit_message="first")
assert len(one.oid) == 40
assert api.create_commit("me/x", adds(), commit_message="same").oid == one.oid
refused(HfHubHTTPError, api.create_commit, "me/x", [Add("b.txt", b"b")], commit_message="late", parent_commit="0" * 40)
two = api.create_commit("me/x", [Add("b.txt", b"b"), Delete("a/w.safetensors")], commit_message="m", parent_commit=one.oid)
assert api.list_repo_files("me/x") == [".gitattributes", "README.md", "b.txt"]
assert {f.path for f in api.list_repo_tree("me/x", revision=one.oid, recursive=True)} >= {"a", "a/w.safetensors"}
assert api.get_paths_info("me/x", ["b.txt", "nope"])[0].size == 1
info = api.model_info("me/x", files_metadata=True, revision=one.oid)
assert {s.rfilename: s.size for s in info.siblings}["a/w.safetensors"] == len(big)
assert "base_model:acme/faces" in info.tags and info.card_data.license == "mit"
assert open(h.hf_hub_download("me/x", "a/w.safetensors", revision=one.oid), "rb").read() == big
folder = h.snapshot_download("me/x")
assert open(folder + "/b.txt").read() == "b"
assert [m.id for m in api.list_models(filter=["eigenbank", "base_model:acme/faces"])] == ["me/x"]
assert [m.id for m in api.list_models(filter="eigenbank", author="you")] == []
assert next(iter(api.list_models(filter="eigenbank", expand=["sha", "tags"]))).sha == two.oid
api.create_tag("me/x", tag="v1"); api.create_branch("me/x", branch="dev")
refused(HfHubHTTPError, api.create_tag, "me/x", tag="v1")
refs = api.list_repo_refs("me/x")
assert {b.name for b in refs.branches} == {"main", "dev"} and refs.tags[0].target_commit == two.oid
assert [c.commit_id for c in api.list_repo_commits("me/x")][:2] == [two.oid, one.oid]
with h.HfFileSystem().open("me/x@" + one.oid + "/a/w.safetensors", "rb", block_size=1000) as f:
    f.seek(5000); assert f.read(100) == big[5000:5100]
refused(RepositoryNotFoundError, api.model_info, "me/none")
refused(RevisionNotFoundError, api.model_info, "me/x", revision="none")
refused(RemoteEntryNotFoundError, h.hf_hub_download, "me/x", "none.txt")
refused(ValueError, api.create_commit, "me/x", [Add("README.md", b"---\\nlicense: nonsense\\n---\\n")], commit_message="bad")
api.create_repo("me/data", repo_type="dataset", private=True)
api.upload_file(path_or_fileobj=b"1", path_in_repo="d.txt", repo_id="me/data", repo_type="dataset")
assert open(h.hf_hub_download("me/data", "d.txt", repo_type="dataset")).read() == "1"
refused(RepositoryNotFoundError, h.HfApi(token=False).dataset_info, "me/data")
api.delete_repo("me/data", repo_type="dataset")
refused(HfHubHTTPError, h.HfApi(token="wrong").whoami)
print("done")
""".replace("CARD", repr(CARD))


def test_the_real_client_does_its_whole_work_here(client: Client, hub: Hub) -> None:
    done = client.python(JOURNEY)
    assert done.stdout.strip() == "done", done.stderr[-3000:]
    assert hub.requests["lfs-upload"] == 1
    assert hub.received["lfs-upload"] == len(BIG)
    assert not [path for _, path, _ in hub.log if "unknown" in path]


def _download(client: Client, name: str = "w.safetensors") -> "subprocess.CompletedProcess[str]":
    return client.python(
        "import sys, hashlib, huggingface_hub as h\n"
        "try: print(hashlib.sha256(open(h.hf_hub_download('me/x', sys.argv[1]), 'rb').read()).hexdigest())\n"
        "except Exception as error: print(type(error).__name__)",
        name,
    )


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ({"kind": "get", "action": "cut", "times": 1}, "whole"),
        ({"kind": "get", "action": "reset", "times": 1}, "ReadError"),
        ({"kind": "get", "action": "other-bytes", "times": 1}, "other"),
        ({"kind": "get", "action": "wrong-size", "times": 1}, "OSError"),
        ({"kind": "get", "action": "status", "status": 500}, "HfHubHTTPError"),
        ({"kind": "head", "action": "status", "status": 403}, "LocalEntryNotFoundError"),
        ({"kind": "head", "action": "status", "status": 404, "code": "EntryNotFound"}, "RemoteEntryNotFoundError"),
        ({"kind": "get", "action": "slow", "seconds": 0.2}, "whole"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value['kind']}-{value['action']}",
)
def test_a_fault_is_what_the_client_meets(fault: dict[str, object], outcome: str, client: Client, hub: Hub) -> None:
    hub.put("me/x", {"w.safetensors": BIG})
    hub.fault(**fault)  # type: ignore[arg-type]
    said = _download(client).stdout.strip()
    whole = hub.head("me/x").files["w.safetensors"].sha256
    assert (said if len(said) != 64 else "whole" if said == whole else "other") == outcome


def test_large_files_can_come_from_another_origin_that_sees_no_token(client: Client, hub: Hub) -> None:
    hub.put("me/x", {"w.safetensors": BIG})
    hub.redirect_large = True
    assert _download(client).stdout.strip() == hub.head("me/x").files["w.safetensors"].sha256
    assert hub.requests["cdn"]
    assert not hub.cdn_saw_a_token


def test_a_long_listing_comes_in_pages(client: Client, hub: Hub) -> None:
    for number in range(7):
        hub.put(f"me/r{number}", {"README.md": CARD})
    hub.page_size = 3
    done = client.python("import huggingface_hub as h; print(len(list(h.HfApi().list_models(filter='eigenbank'))))")
    assert done.stdout.strip() == "7", done.stderr
    assert hub.requests["list"] == 3


def test_a_sparse_file_is_read_by_ranges(client: Client, hub: Hub, tmp_path: Path) -> None:
    from hub.store import Blob

    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(10 * 2**30)
    hub.put("me/huge", {"w.safetensors": Blob(sparse, lfs=True, known_sha256="0" * 64)})
    done = client.python(
        "import json, huggingface_hub as h\n"
        "with h.HfFileSystem().open('me/huge/w.safetensors', 'rb', block_size=1000) as f:\n"
        "    f.seek(9 * 2**30); print(json.dumps([f.size, f.read(10).hex()]))"
    )
    assert json.loads(done.stdout) == [10 * 2**30, "00" * 10], done.stderr
    assert hub.served["get"] < 100_000
