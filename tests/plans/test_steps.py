"""What is left to do follows from the plan and from what the set says was done to it."""

from datetime import datetime, timezone
from pathlib import Path

import pytest

from eigenbank.plans.steps import RunOptions, remaining, step_keys
from eigenbank.registry.catalog import SetRow
from eigenbank.registry.sets.provenance import stamped
from eigenbank.schemas.plan import PlanEntry, Settings

ENTRY = PlanEntry(id="google/faces")
SETTINGS = Settings(top_k=3)
ALL = RunOptions(label=True, publish="org")
REPO = "org/google-faces-directions"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text("{}")
    return tmp_path


def row(location: Path | str, *steps: str, settings: Settings = SETTINGS, repo: str | None = None) -> SetRow:
    keys = step_keys(settings)
    builder = stamped("eigenbank 0.1.0", **{step: keys[step] for step in steps})
    commit = None if repo is None else "1" * 40
    now = datetime.now(timezone.utc)
    return SetRow(
        "google/faces", "2" * 40, str(location), "d", None, now, 4, 0, repo, commit, "UNet2DModel", None, builder
    )


def test_without_a_set_everything_is_to_be_done(tmp_path: Path) -> None:
    assert remaining(ENTRY, SETTINGS, None, ALL) == ("build", "label", "preview", "publish")
    assert remaining(ENTRY, SETTINGS, None, RunOptions()) == ("build",)
    gone = row(tmp_path / "gone", "build", "label", "preview", repo=REPO)
    assert remaining(ENTRY, SETTINGS, gone, ALL)[0] == "build"


def test_only_what_is_missing_and_what_follows_is_done(folder: Path) -> None:
    assert remaining(ENTRY, SETTINGS, row(folder, "build"), ALL) == ("label", "preview", "publish")
    assert remaining(ENTRY, SETTINGS, row(folder, "build", "label"), ALL) == ("preview", "publish")
    assert remaining(ENTRY, SETTINGS, row(folder, "build", "label", "preview"), ALL) == ("publish",)
    assert remaining(ENTRY, SETTINGS, row(folder, "build", "label", "preview", repo=REPO), ALL) == ()
    assert remaining(ENTRY, SETTINGS, row(folder, "build", repo=REPO), RunOptions(publish="org")) == ()
    assert remaining(ENTRY, SETTINGS, row(folder, "build", repo="other/x"), RunOptions(publish="org")) == ("publish",)


def test_another_recipe_is_another_build_and_order_is_none(folder: Path) -> None:
    built = row(folder, "build", settings=Settings(recipes=("value", "qkv"), layers=("a*", "b*")))
    same = Settings(recipes=("qkv", "value"), layers=("b*", "a*"))
    assert remaining(ENTRY, same, built, RunOptions()) == ()
    for other in (Settings(recipes=("qkv",), layers=("a*", "b*")), Settings(recipes=("value", "qkv"))):
        assert remaining(ENTRY, other, built, RunOptions()) == ("build",)


def test_a_published_set_counts_wherever_it_is_and_steps_can_be_left_out(folder: Path) -> None:
    there = row(f"hub:{REPO}@{'1' * 40}", "build", repo=REPO)
    assert remaining(ENTRY, SETTINGS, there, RunOptions(publish="org")) == ()
    without = SETTINGS.model_copy(update={"steps": ("build", "publish")})
    assert remaining(ENTRY, without, row(folder, "build"), ALL) == ("publish",)
