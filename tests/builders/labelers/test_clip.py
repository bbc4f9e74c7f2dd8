"""CLIP and SigLIP plumbing, on tiny models made on the spot, and the vocabularies that ship."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from eigenbank.builders.label import clip
from eigenbank.builders.label.clip import load_vocabulary, vocabularies
from eigenbank.builders.label.labeler import CLIP as OPENER
from eigenbank.builders.label.labeler import LabelerEnsemble
from eigenbank.schemas.errors import EigenbankError

WORDS = ["a", "photo", "of", "the", "picture", "bright", "dark", "red", "green", "blue", "face", "smiling"]
VOCABULARY = {
    "name": "mine",
    "concepts": [
        {
            "name": "brightness",
            "positive": ["a bright picture"],
            "neutral": ["a dark picture"],
            "names": {"de": "hell"},
        },
        {"name": "red", "positive": ["a red picture", "a red photo"], "neutral": ["a picture"]},
    ],
}


def tiny(folder: Path, kind: str) -> str:
    """A model of random weights with its processor, saved as on the Hub."""
    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    # As CLIP's own does: the text's embedding is taken at the end mark.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_max_length=16,
    )  # fmt: skip
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 16, **size}
    vision = {"image_size": 16, "patch_size": 8, **size}
    pixels = {"size": {"height": 16, "width": 16}, "do_center_crop": False}
    if kind == "clip":
        config = CLIPConfig(
            text_config=CLIPTextConfig(**text, bos_token_id=2, eos_token_id=3, pad_token_id=0).to_dict(),
            vision_config=CLIPVisionConfig(**vision).to_dict(),
            projection_dim=12,
        )
        CLIPModel(config).save_pretrained(folder)
        CLIPProcessor(CLIPImageProcessor(**pixels), fast).save_pretrained(folder)
    else:
        config = SiglipConfig(
            text_config=SiglipTextConfig(**text).to_dict(), vision_config=SiglipVisionConfig(**vision).to_dict()
        )
        SiglipModel(config).save_pretrained(folder)
        pixels.pop("do_center_crop")
        SiglipProcessor(SiglipImageProcessor(**pixels), fast).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(VOCABULARY))
    return path


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_scores_are_cosines_with_the_prompts_difference(kind: str, tmp_path: Path, mine: Path) -> None:
    folder = tiny(tmp_path / "model", kind)
    labeler = OPENER.open(f"{folder}#{mine}", Path())
    assert labeler.names == ("brightness", "red")
    assert labeler.source == f"clip:model@{labeler.digest[:12]}"
    images = torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    scores = labeler.read(images)
    assert scores.shape == (3, 2)
    assert scores.abs().max() <= 1
    assert scores.std(0).min() > 0
    torch.testing.assert_close(labeler.read(images[1:2]), scores[1:2], atol=1e-5, rtol=0)
    assert OPENER.open(f"{folder}#{mine}", Path()).digest == labeler.digest
    swapped = json.loads(mine.read_text())
    for concept in swapped["concepts"]:
        concept["positive"], concept["neutral"] = concept["neutral"], concept["positive"]
    mine.write_text(json.dumps(swapped))
    other = OPENER.open(f"{folder}#{mine}", Path())
    assert (other.source, other.names) == (labeler.source, labeler.names)
    assert other.digest == labeler.digest, "the same embeddings are kept"
    ensemble = LabelerEnsemble([other])
    features = ensemble.features(images)
    assert features.shape == (3, ensemble.features_width)
    torch.testing.assert_close(ensemble.scores(features), -scores, atol=1e-6, rtol=0)
    torch.testing.assert_close(ensemble.scores(features[:2] - features[1:]), scores[1:] - scores[:2], atol=1e-6, rtol=0)
    torch.testing.assert_close(other.read(images), -scores, atol=1e-6, rtol=0)


def test_names_come_in_the_language_asked_for(tmp_path: Path, mine: Path) -> None:
    labeler = OPENER.open(f"{tiny(tmp_path / 'model', 'clip')}#{mine}:de", Path())
    assert labeler.names == ("hell", "red")


def test_the_vocabularies_that_ship_are_sound() -> None:
    assert set(vocabularies()) >= {
        "faces", "people", "animals", "rooms", "buildings", "landscapes", "cars", "styles", "generic",
    }  # fmt: skip
    for name in vocabularies():
        vocabulary = load_vocabulary(name)
        assert vocabulary.name == name
        assert len(vocabulary.concepts) >= 15
        assert all(not set(concept.positive) & set(concept.neutral) for concept in vocabulary.concepts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "x", "concepts": []}', "concepts"),
        ("nonsense", "Invalid JSON"),
        (json.dumps({"name": "x", "concepts": [VOCABULARY["concepts"][0]] * 2}), "named twice"),
        ('{"name": "x", "concepts": [{"name": "a", "positive": [], "neutral": ["b"]}]}', "positive"),
    ],
)
def test_a_bad_vocabulary_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(EigenbankError, match=message):
        load_vocabulary(str(path))


def test_a_model_that_is_none_is_refused(tmp_path: Path, mine: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(EigenbankError, match="cannot be loaded as a CLIP or SigLIP"):
        OPENER.open(f"{tmp_path / 'model'}#{mine}", Path())


def test_prompts_that_are_one_to_the_model_are_refused(tmp_path: Path, mine: Path) -> None:
    unknown = {"name": "x", "concepts": [{"name": "a", "positive": ["zig zag"], "neutral": ["wig wag"]}]}
    mine.write_text(json.dumps(unknown))
    with pytest.raises(EigenbankError, match="the prompts of 'a' are all one"):
        OPENER.open(f"{tiny(tmp_path / 'model', 'clip')}#{mine}", Path())


def test_the_source_names_the_commit_of_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "cache" / "models--acme--clip"
    tiny(repo / "snapshots" / commit, "clip")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    assert clip._cached_commit("acme/clip") == commit
    assert clip._cached_commit(str(repo)) is None


def test_it_reads_on_the_device_it_is_brought_to(tmp_path: Path, mine: Path) -> None:
    labeler = OPENER.open(f"{tiny(tmp_path / 'model', 'clip')}#{mine}", Path())
    labeler.to("meta")
    assert labeler.read(torch.rand(70, 3, 16, 16)).device.type == "meta"


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_a_model_that_brings_code_runs_none_and_asks_nothing(
    file: str, tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a word on it, transformers asks at the terminal whether to run it."""
    folder = Path(tiny(tmp_path / "model", "clip"))
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Theirs: pass\n")
    path = folder / file
    config = json.loads(path.read_text()) if path.is_file() else {}
    kinds = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor", "AutoTokenizer")
    config |= {"auto_map": dict.fromkeys(kinds, "theirs.Theirs")} | (
        {"model_type": "theirs"} if file == "config.json" else {"image_processor_type": "Theirs"}
    )
    path.write_text(json.dumps(config))
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(str(prompt)) or "y")
    with contextlib.suppress(EigenbankError):
        OPENER.open(f"{folder}#{mine}", Path())
    assert not asked
    assert not (tmp_path / "ran").exists()


def test_a_checkpoints_own_model_is_the_default(tmp_path: Path, mine: Path) -> None:
    tiny(tmp_path / "clip", "clip")
    own = OPENER.open(f"#{mine}", tmp_path)
    assert own.source == f"clip:clip@{own.digest[:12]}"
    (tmp_path / "clip" / "vocabulary.json").write_text(mine.read_text())
    assert OPENER.open(None, tmp_path).names == own.names
