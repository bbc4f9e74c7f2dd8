"""Plan files are believed only when every entry is right; what is wrong is told entry by entry."""

from pathlib import Path

import diffusers
import pytest

from eigenbank.plans.files import choose, pinned, read_lock, read_plan, shipped_plan, write_lock
from eigenbank.plans.steps import step_keys
from eigenbank.registry.sets.bundled import data_folder
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import PlanError, UnknownNameError
from eigenbank.schemas.plan import Lock, Pin, Plan, PlanEntry, Settings

NOW = "2026-11-23T12:00:00Z"


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    return str(caught.value)


def test_unknown_keys_and_wrong_values_are_told_for_every_entry(tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        """
        [defaults]
        topk = 3
        [[checkpoint]]
        id = "a/b"
        licens = "mit"
        [[checkpoint]]
        id = "c/d"
        top_k = 0
        recipes = ["output-valu:inside"]
        [[checkpoint]]
        family = "sd-1"
        [[checkpoint]]
        id = "e/f"
        measurement = {seed = [1]}
        """,
    )
    for words in (
        "the plan: no key 'topk': did you mean 'top_k'",
        "checkpoint 1 (a/b): no key 'licens': did you mean 'licence'",
        "checkpoint 2 (c/d): top_k:",
        "checkpoint 2 (c/d): recipes.0: 'output-valu:inside' is not a recipe",
        "checkpoint 3: id: is missing",
        "checkpoint 4 (e/f): no key 'seed': did you mean 'seeds'",
    ):
        assert words in said, said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '[[checkpoint]]\nid = "a/b"\n[[checkpoint]]\nid = "a/b"\n',
            "checkpoint 2: has the id a/b of checkpoint 1",
        ),
        ('[[checkpoint]]\nid = "a/b-c"\n[[checkpoint]]\nid = "a-b/c"\n', "Set publish_as"),
        (
            '[[checkpoint]]\nid = "a/b"\nx = 1\n[[checkpoint]]\nid = "a/b"\n',
            "checkpoint 2: has the id a/b of checkpoint 1",
        ),
        (f'[[checkpoint]]\nid = "a/{"b" * 90}"\n', "is not a valid repository name"),
        ('[[checkpoint]]\nid = "../../etc"\n', "checkpoint 1 (../../etc): id:"),
        ('[[checkpoint]]\nid = "a/b"\nsubfolder = "../x"\n', "subfolder"),
        ("checkpoint = 3\n", "the plan: checkpoint"),
        ("[[checkpoint]\n", "is not TOML"),
        ("format = 2\n", "format"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(tmp_path, text)


def test_a_plan_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.toml"):
        with pytest.raises(PlanError, match="cannot be read"):
            read_plan(path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(PlanError, match="is not TOML"):
        read_plan(tmp_path / "binary.toml")


def test_only_takes_globs_and_names_what_is_near() -> None:
    plan = Plan(checkpoint=(PlanEntry(id="google/a"), PlanEntry(id="google/b"), PlanEntry(id="other/c")))
    assert [entry.id for entry in choose(plan, ["google/*"])] == ["google/a", "google/b"]
    assert [entry.id for entry in choose(plan, ["*/c", "*/a"])] == ["google/a", "other/c"]
    with pytest.raises(UnknownNameError, match="did you mean 'google/a'"):
        choose(plan, ["gogle/a"])


def test_a_pin_holds_for_the_repository_and_revision_it_was_made_for(tmp_path: Path) -> None:
    commit, other = "1" * 40, "2" * 40
    lock = Lock.model_validate({"checked": NOW, "checkpoints": {"a/b": Pin(repo="a/b", revision=commit)}})
    write_lock(tmp_path / "plan.lock", lock)
    assert read_lock(tmp_path / "plan.lock") == lock
    assert pinned(PlanEntry(id="a/b"), lock) == commit
    assert pinned(PlanEntry(id="a/b", revision=other), lock) == other
    assert pinned(PlanEntry(id="a/b", revision="v2"), lock) is None
    assert pinned(PlanEntry(id="a/b", repo="c/d"), lock) is None
    assert pinned(PlanEntry(id="a/b"), None) is None
    (tmp_path / "plan.lock").write_text('{"format": 1, "checked": 3, "checkpoints": {"a/b": {}}}')
    with pytest.raises(PlanError, match="eigenbank plan --check"):
        read_lock(tmp_path / "plan.lock")


def test_the_shipped_plan_names_many_checkpoints_of_many_families() -> None:
    plan = read_plan(shipped_plan())
    assert len(plan.checkpoint) >= 60
    families = {entry.family for entry in plan.checkpoint}
    wanted = {"ddpm", "ldm", "sd-1", "sd-2", "sdxl", "dit", "pixart", "sd-3", "flux-1", "flux-2", "qwen-image", "z-image", "hunyuan-dit", "lumina", "sana", "wan"}  # fmt: skip
    assert families >= wanted
    for entry in plan.checkpoint:
        assert hasattr(diffusers, str(entry.denoiser)), entry.id
        assert entry.vocabulary is None or (data_folder() / "vocabularies" / f"{entry.vocabulary}.json").is_file()
        drawn = entry.drawing
        assert drawn or entry.denoiser == "UNet2DModel" or entry.steps == ("build", "publish"), entry.id
        if drawn is not None:
            assert len(drawn.prompts) >= 4, entry.id
            assert None not in (drawn.guidance_scale, drawn.size), entry.id
            assert drawn.dtype in ("float16", "bfloat16"), entry.id

        # Nobody has looked at the Hub: no licence and no gate is stated as if somebody had.
        assert entry.licence is None or "licence" in entry.unchecked
        assert entry.gated is None or "gated" in entry.unchecked


def test_how_an_entry_is_drawn_completes_the_defaults_field_by_field() -> None:
    defaults = Settings(drawing=Drawing(steps=8, dtype="float16", prompts=("a face",)))
    entry = PlanEntry.model_validate(
        {"id": "a/b", "drawing": {"prompts": ["x", "y"], "size": [512, 768]}, "variant": "fp16"}
    )
    found = entry.settings(defaults).drawing
    assert found == Drawing(prompts=("x", "y"), size=(512, 768), steps=8, dtype="float16", variant="fp16")
    assert step_keys(defaults)["label"] != step_keys(entry.settings(defaults))["label"]
    elsewhere = defaults.model_copy(update={"drawing": defaults.drawing.model_copy(update={"device": "cuda"})})
    assert step_keys(elsewhere) == step_keys(defaults), "a device draws the same pictures"
