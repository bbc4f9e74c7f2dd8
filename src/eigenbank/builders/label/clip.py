"""CLIP and SigLIP as labelers: words from a vocabulary, read off images by a model that knows both.

    eigenbank label MODEL --labeler clip:openai/clip-vit-base-patch32@<revision>#faces:de

A vocabulary is a JSON file of concepts, each with a prompt and the same without the concept ("a smiling face", "a face").
A concept's score is the image's embedding along the difference of the two prompts' embeddings, so that an edit's effect
is how far it moves in that direction. Several prompts a side are averaged. `:de` gives the
names in German where the vocabulary has them. Needs transformers (extra `clip`).
"""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from eigenbank.builders.label.labeler import BATCH, Labeler
from eigenbank.digests import digest_of
from eigenbank.progress import quietly
from eigenbank.registry.files import parse_as, read_bounded
from eigenbank.registry.sets.bundled import data_folder
from eigenbank.schemas.common import Model, Text, Word
from eigenbank.schemas.errors import SourceError, first_problem, unknown

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
SAME = 0.8
"""Cosine of two words' axes from which on they mean the same."""
LEAST = 1e-4
"""Distance of two groups of prompts below which they are one to a model."""
MAX_VOCABULARY_BYTES = 16 * 2**20
_SPEC = re.compile(
    r"(?P<model>[^@#]*)(@(?P<revision>[^#]*))?(#(?P<vocabulary>.*?)(:(?P<language>[\w-]{2,20}))?)?", re.DOTALL
)


class Concept(Model):
    """A word for something that can be more or less: prompts with it, prompts without, its name in other languages."""

    name: Word
    positive: tuple[Text, ...] = Field(min_length=1, max_length=100)
    neutral: tuple[Text, ...] = Field(min_length=1, max_length=100)
    names: dict[Text, Text] = Field(default={}, max_length=200)


class Vocabulary(Model):
    """The concepts to ask about for a kind of picture. `name` is the file's; names of concepts are distinct."""

    name: Word
    concepts: tuple[Concept, ...] = Field(min_length=1, max_length=10_000)

    @model_validator(mode="after")
    def _distinct(self) -> "Vocabulary":
        names = [concept.name for concept in self.concepts]
        if len(set(names)) != len(names):
            message = f"{next(name for name in names if names.count(name) > 1)!r} is named twice"
            raise ValueError(message)
        return self


def vocabularies() -> list[str]:
    """Return the names of the vocabularies that ship."""
    return sorted(path.stem for path in (data_folder() / "vocabularies").glob("*.json"))


def load_vocabulary(name: str) -> Vocabulary:
    """A vocabulary by its name, or by the path of a file of one's own. Raises SourceError or UnknownNameError."""
    path = Path(name).expanduser() if name.endswith(".json") else data_folder() / "vocabularies" / f"{name}.json"
    if not name.endswith(".json") and name not in vocabularies():
        raise unknown(kind="vocabulary", name=name, known=vocabularies(), hint="Or give a .json file of your own.")
    try:
        return parse_as(Vocabulary, read_bounded(path, MAX_VOCABULARY_BYTES), values=500_000)
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror})"
        raise SourceError(problem) from error
    except ValueError as error:
        problem = f"{path} is no vocabulary: {first_problem(error)}"
        raise SourceError(problem) from error


class ClipLabeler:
    """Scores of a vocabulary's concepts by a `transformers` CLIP or SigLIP model and its processor.

    Of names in other languages, `language` chooses; a concept without one keeps its own name. What is kept of images is their
    embeddings, so that other words are read off them later; `digest` is of the weights that make these.
    """

    stds: Tensor | None = None

    def __init__(
        self, model: Any, processor: Any, vocabulary: Vocabulary, source: str, language: str | None = None
    ) -> None:
        self.source = source
        self.names = tuple(
            concept.names.get(language, concept.name) if language else concept.name for concept in vocabulary.concepts
        )
        # In float32 even on a GPU: reading takes a hundredth of what generating does, and half precision would be noise.
        self._model = model.float().eval()
        self._processor = processor
        self.digest = digest_of([model, processor.image_processor])
        axes = [self.axis(concept.name, concept.positive, concept.neutral) for concept in vocabulary.concepts]
        self._axes: Tensor = torch.stack(axes)

    def to(self, device: torch.device | str) -> "ClipLabeler":
        """Read on another device from now on."""
        self._model.to(device)
        self._axes = self._axes.to(device)
        return self

    def asking(self, text: str, positive: Sequence[str], neutral: Sequence[str]) -> "ClipLabeler":
        """The same labeler with one more name, `text`, in the first place: prompts with what it means, prompts without.

        Of the others those that mean the same go, their axes nearer than `SAME`; the rest are asked about what they mean beside
        it: words that often go together would otherwise move together in any picture. Raises SourceError.
        """
        axis = self.axis(text, positive, neutral)
        cosines = self._axes @ axis
        left = (cosines.abs() < SAME).nonzero().flatten().tolist()
        others = self._axes[left] - cosines[left, None] * axis
        asked = copy.copy(self)
        asked.names = (text, *(name for number, name in enumerate(self.names) if number in left and name != text))
        kept = [row for row, number in enumerate(left) if self.names[number] != text]
        asked._axes = torch.cat([axis[None], torch.nn.functional.normalize(others[kept], dim=1)])
        return asked

    def axis(self, name: str, positive: Sequence[str], neutral: Sequence[str]) -> Tensor:
        """Return the unit difference `(d,)` of two groups of prompts. Raises SourceError where they are one to the model."""
        longest = self._processor.tokenizer.model_max_length
        for prompt in positive:
            if len(self._processor.tokenizer(prompt).input_ids) > longest:
                problem = f"{self.source} reads {longest} tokens, {prompt[:60]!r}… has more"
                raise SourceError(problem, advice="Use fewer words")
        axis = self._text(tuple(positive)) - self._text(tuple(neutral))
        if float(axis.norm()) < LEAST:
            problem = f"the prompts of {name!r} are all one to {self.source}"
            raise SourceError(problem, advice="Word them differently")
        unit: Tensor = axis / axis.norm()
        return unit.to(self._model.device)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """`(n, 3, h, w)` in [0, 1] → `(n, d)`: unit embeddings."""
        parts = []
        for part in images.cpu().clamp(0, 1).split(BATCH):
            pixels = self._processor.image_processor(images=list(part), do_rescale=False, return_tensors="pt")
            found = self._model.get_image_features(pixel_values=pixels["pixel_values"].to(self._axes.device))
            parts.append(_embedding(found))
        return torch.cat(parts)

    @property
    def features_width(self) -> int:
        """How wide an embedding is."""
        return self._axes.shape[1]

    def scores(self, features: Tensor) -> Tensor:
        """`(…, d)` embeddings → `(…, f)`: along each concept's axis, the cosine with it."""
        return features @ self._axes.T.to(features.device)

    def read(self, images: Tensor) -> Tensor:
        """`(n, 3, h, w)` in [0, 1] → `(n, f)`: cosine with each concept's axis."""
        return self.scores(self.features(images))

    @torch.no_grad()
    def _text(self, prompts: tuple[str, ...]) -> Tensor:
        """Return the mean embedding of the prompts, `(d,)`."""
        tokens = self._processor.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
        tokens = {
            name: value.to(self._model.device)
            for name, value in tokens.items()
            if name in ("input_ids", "attention_mask")
        }
        return _embedding(self._model.get_text_features(**tokens)).mean(0)


def asked_vocabulary(argument: str | None) -> Vocabulary:
    """The vocabulary of `MODEL@REVISION#VOCABULARY:LANGUAGE`, by default the model's own, if its folder has a vocabulary.json.

    Raises SourceError or UnknownNameError.
    """
    match = _SPEC.fullmatch(argument or "")
    assert match is not None  # every text matches
    own = Path(match["model"] or ".") / "vocabulary.json"
    return load_vocabulary(match["vocabulary"] or (str(own) if match["model"] and own.is_file() else "generic"))


def open_clip(argument: str | None, own: Path | None = None) -> Labeler:
    """Open the labeler that `MODEL@REVISION#VOCABULARY:LANGUAGE` names; each part may be left out: then the model is that in
    the folder `own`, if it is there. Raises SourceError.
    """
    match = _SPEC.fullmatch(argument or "")
    assert match is not None  # every text matches
    if not match["model"] and own is not None and (own / "config.json").is_file():
        return open_clip(f"{own}{argument or ''}")
    name, revision = match["model"] or DEFAULT_MODEL, match["revision"] or None
    vocabulary = asked_vocabulary(argument)
    try:
        import transformers
    except ImportError as error:
        problem = "the labeler clip needs transformers"
        raise SourceError(problem, advice="Install it: pip install 'eigenbank[clip]'") from error
    try:
        library: Any = transformers  # some of its names are without types
        with quietly():
            model = library.AutoModel.from_pretrained(
                name, revision=revision, use_safetensors=True, trust_remote_code=False
            )
            processor = library.AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:  # the library raises whatever the Hub, the disk or the file makes it raise
        problem = f"{name} cannot be loaded as a CLIP or SigLIP model ({error})"
        raise SourceError(problem) from error
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        problem = f"{name} is a {type(model).__name__}, which does not know images and texts"
        raise SourceError(problem)
    at = revision or _cached_commit(name)
    labeler = ClipLabeler(model, processor, vocabulary, f"clip:{name}@{at}", match["language"])
    if at is None:  # a folder: known by its weights, wherever it lies
        labeler.source = f"clip:{Path(name).name}@{labeler.digest[:12]}"
    return labeler


def _cached_commit(name: str) -> str | None:
    """Return the commit in the Hub's cache that a model was just loaded from, None for a folder."""
    from huggingface_hub import try_to_load_from_cache

    found = None if Path(name).exists() else try_to_load_from_cache(name, "config.json")
    return Path(found).parent.name if isinstance(found, str) else None


def _embedding(output: Any) -> Tensor:
    """Return unit embeddings `(n, d)`, from the tensor older releases return or the output object of newer ones."""
    tensor: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return torch.nn.functional.normalize(tensor.float(), dim=-1)
