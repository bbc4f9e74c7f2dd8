"""What the Hub and its tools expect of a library: the `hf` extension, and the entry for the Hub's list of libraries."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import eigenbank as eb

ROOT = Path(__file__).parents[3]
EXTENSION = ROOT / "extensions" / "hf-eigenbank" / "hf-eigenbank"
HF = Path(sys.executable).with_name("hf")


@pytest.mark.skipif(os.name == "nt", reason="hf takes no scripts on Windows")
@pytest.mark.skipif(not HF.exists(), reason="the hf command is not installed")
def test_hf_eigenbank_is_eigenbank(tmp_path: Path) -> None:
    """Laid out as `hf extensions install ORG/hf-eigenbank` does it, which fetches from GitHub."""
    folder = tmp_path / ".local/share/hf/extensions/hf-eigenbank"
    folder.mkdir(parents=True)
    shutil.copy(EXTENSION, folder)
    facts = {
        "owner": "org", "repo": "hf-eigenbank", "repo_id": "org/hf-eigenbank", "short_name": "eigenbank",
        "executable_path": str(folder / "hf-eigenbank"), "type": "binary", "installed_at": "2026-11-30T00:00:00+00:00",
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(facts))
    search = f"{HF.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": search, "HF_HUB_DISABLE_UPDATE_CHECK": "1"}

    def hf(*args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([HF, *args], capture_output=True, text=True, env=environment, check=False, timeout=120)

    assert hf("eigenbank", "--version").stdout.split()[-1] == eb.__version__
    wrong = hf("eigenbank", "show", "no/such")
    assert wrong.returncode == 1
    assert "no/such" in wrong.stderr
    assert hf("eigenbank", "list", "--no-such-option").returncode == 2


def test_the_entry_for_the_hubs_list_of_libraries_is_about_what_sets_hold(published_set: Path) -> None:
    page = (ROOT / "extensions" / "use-this-model.md").read_text(encoding="utf-8")
    entry = re.search(r"\n\teigenbank: \{\n.*?\n\t\},\n", page, re.DOTALL)
    assert entry is not None
    counted = re.search(r'countDownloads: `path:"(.*?)"`', entry[0])
    assert counted is not None
    assert (published_set / counted[1]).is_file()
    config = json.loads((published_set / "config.json").read_text())
    assert entry[0].split(":")[0].strip() == config["library_name"]
    assert "library_name: eigenbank" in (published_set / "README.md").read_text()
