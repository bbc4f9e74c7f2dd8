"""A direction set in memory: the directions, composites and LoRAs of one checkpoint; vectors are read when first used."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from eigenbank.registry.ranking import Query, label_key
from eigenbank.registry.sets.card import preview_name
from eigenbank.registry.sets.displacements import Displacements, read_displacements
from eigenbank.registry.sets.folder import (
    DISPLACEMENTS,
    check_vectors,
    read_manifest,
    read_previews,
    read_vectors,
    write_set,
)
from eigenbank.schemas import (
    CompositeRecord,
    DirectionRecord,
    Label,
    Layer,
    LoraRecord,
    Manifest,
    Preview,
    Quality,
    Recipe,
    SliderRecord,
)
from eigenbank.schemas.errors import SetError, first_problem, unknown
from eigenbank.schemas.recipe import Branch

if TYPE_CHECKING:
    from torch import Tensor

    from eigenbank.registry.hub.publish import PublishResult

R = TypeVar("R", DirectionRecord, CompositeRecord, LoraRecord)
LEAST_REACH = 3e-4
"""A direction whose reach is smaller moves no picture at a scale that anybody would give: set by `benchmarks/terrain.py`, see docs/evaluation.md."""


class Steerable(Generic[R]):
    """A direction, composite or LoRA: its record, and the set (`bank`) that it belongs to."""

    __slots__ = ("bank", "record")

    def __init__(self, bank: "DirectionSet", record: R) -> None:
        self.bank = bank
        self.record: R = record

    @property
    def id(self) -> str:
        """The name within its model: `LAYER/RECIPE/RANK`, `composite/NAME` or `lora/NAME`."""
        return self.record.id

    @property
    def full_id(self) -> str:
        """The name everywhere: `MODEL_ID#` and the name within its model."""
        return f"{self.bank.model_id}#{self.record.id}"

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels it was given; most directions have none."""
        return self.record.labels

    @property
    def quality(self) -> Quality | None:
        """How it behaves as a slider; None where that was not measured."""
        return self.record.quality

    @property
    def names(self) -> tuple[str, str]:
        """What search finds it by beside its labels: its layer (the own name of a composite or LoRA), and the model's id."""
        record: SliderRecord = self.record
        if isinstance(record, DirectionRecord):
            return record.layer, self.bank.model_id
        return record.id if isinstance(record, LoraRecord) else record.name, self.bank.model_id

    @property
    def parts(self) -> "tuple[tuple[Direction, float], ...]":
        """The directions it adds, and the weight of each."""
        raise NotImplementedError

    @property
    def branch(self) -> Branch:
        """The branch of guidance that it acts on, unless one says otherwise: both, or what a composite is made for."""
        return self.record.branch if isinstance(self.record, CompositeRecord) else "both"

    def __repr__(self) -> str:
        names = ", ".join(label.text for label in self.labels)
        return f"<{type(self).__name__} {self.full_id}{f' ({names})' if names else ''}>"


class Direction(Steerable[DirectionRecord]):
    """One direction of a set: its record, and its vector, read when first used."""

    __slots__ = ()

    @property
    def layer(self) -> str:
        """Name of the self-attention layer, as the denoiser's module path."""
        return self.record.layer

    @property
    def recipe(self) -> Recipe:
        """How the vector was made, and where and when it is added."""
        return self.record.recipe

    @property
    def rank(self) -> int:
        """Place in the spectrum; 0 is the largest eigenvalue."""
        return self.record.rank

    @property
    def eigenvalue(self) -> float:
        """Eigenvalue of the recipe's Gram matrix."""
        return self.record.eigenvalue

    @property
    def vector(self) -> "Tensor":
        """The unit vector, `(d,)` float32, its largest-magnitude entry positive."""
        return self.bank.vectors[f"{self.layer}/{self.recipe.basis}"][self.rank]

    @property
    def reach(self) -> float | None:
        """How long what a scale of 1 adds to the residual stream is, in lengths of that stream's tokens; None where it is not known.

        A vector added after the norm comes into the stream by way of W_O·W_V, which makes an eigenvector √eigenvalue times as long;
        for other matrices than that one it is not known. Token lengths are those that `measure` finds.
        """
        lengths = self.bank.layers[self.layer].lengths
        added, stream = lengths.get(self.recipe.site), lengths.get("block-input")
        read = self.recipe.site == "projection-input"
        if added is None or stream is None or (read and self.recipe.matrix != "output-value"):
            return None
        return added.length / stream.length * (float(self.eigenvalue**0.5) if read else 1.0)

    @property
    def acts(self) -> bool:
        """Whether it can move a picture at all, as far as its `reach` is known."""
        return self.reach is None or self.reach >= LEAST_REACH

    @property
    def parts(self) -> "tuple[tuple[Direction, float], ...]":
        """Itself, once."""
        return ((self, 1.0),)


class Composite(Steerable[CompositeRecord]):
    """Several directions of a set that act together as one slider."""

    __slots__ = ()

    @property
    def parts(self) -> tuple[tuple[Direction, float], ...]:
        """The directions it adds, and the weight of each."""
        return tuple((self.bank.direction(part.direction), part.weight) for part in self.record.parts)


class Lora(Steerable[LoraRecord]):
    """A LoRA that somebody trained, as a slider of the set: its scale is the adapter's weight. It adds no directions.

    In a set made by `randomised`, `random` is the seed of random weights as large that stand in for its own; else None.
    """

    __slots__ = ()

    @property
    def parts(self) -> "tuple[tuple[Direction, float], ...]":
        """None."""
        return ()

    @property
    def random(self) -> int | None:
        """Seed of the random weights that stand in for its own, if any do."""
        return self.bank.random


Slider = Direction | Composite | Lora
"""Whatever can have a label, and be steered by."""


class DirectionSet:
    """The directions of one checkpoint. Iterate over them; `directions[id]` and `directions["label"]` pick one."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        folder: Path | None = None,
        vectors: "dict[str, Tensor] | None" = None,
        previews: Mapping[str, bytes] | None = None,
        displacements: Displacements | None = None,
        random: int | None = None,
    ):
        if (folder is None) == (vectors is None):
            message = "a direction set has either a folder to read its vectors from, or the vectors"
            raise TypeError(message)
        self.manifest = manifest
        self.folder = folder
        self._given = vectors
        self._new_previews = dict(previews or {})
        self._new_displacements = displacements
        self.random = random

    @classmethod
    def open(cls, folder: Path) -> "DirectionSet":
        """Open a direction set on disk. Reads the manifest only. Raises SetError when the set is damaged."""
        manifest = read_manifest(folder)
        check_vectors(manifest, folder)
        return cls(manifest, folder=folder)

    @property
    def model_id(self) -> str:
        """The checkpoint's id."""
        return self.manifest.checkpoint.model_id

    @cached_property
    def vectors(self) -> "dict[str, Tensor]":
        """All vectors, `LAYER/BASIS` → `(k, d)` float32; verified against the manifest on first use."""
        if self._given is not None:
            return self._given
        assert self.folder is not None
        return read_vectors(self.folder, self.manifest)

    @property
    def previews(self) -> dict[str, bytes]:
        """The previews of its directions, composites and LoRAs: WebP pictures by their names in the set.

        Raises SetError where one is damaged or missing.
        """
        held = {} if self.folder is None else read_previews(self.folder, self.manifest)
        named = {preview_name(each.record) for each in self.sliders}
        return {name: picture for name, picture in {**held, **self._new_previews}.items() if name in named}

    @property
    def displacements(self) -> Displacements | None:
        """What its directions do to an image-text model's embedding of pictures, if that was kept. Raises SetError."""
        if self._new_displacements is not None or self.folder is None:
            return self._new_displacements
        return read_displacements(self.folder, self.manifest)

    def with_displacements(self, found: Displacements) -> "DirectionSet":
        """Return the set with what its directions do to an embedding."""
        made = self.replaced(self.manifest.model_copy(update={"displacements": found.record}))
        made._new_displacements = found
        return made

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """The layers by name."""
        return {layer.name: layer for layer in self.manifest.layers}

    @cached_property
    def _by_id(self) -> dict[str, Direction]:
        return {record.id: Direction(self, record) for record in self.manifest.directions}

    @cached_property
    def _composites(self) -> dict[str, Composite]:
        return {record.id: Composite(self, record) for record in self.manifest.composites}

    @cached_property
    def _loras(self) -> dict[str, Lora]:
        return {record.id: Lora(self, record) for record in self.manifest.loras}

    @cached_property
    def _by_label(self) -> "dict[str, list[tuple[Label, Slider]]]":
        found: dict[str, list[tuple[Label, Slider]]] = {}
        for slider in self.sliders:
            for label in slider.labels:
                found.setdefault(label_key(label.text), []).append((label, slider))
        for named in found.values():
            named.sort(key=lambda pair: pair[0].worth, reverse=True)
        return found

    def __iter__(self) -> Iterator[Direction]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, key: str) -> bool:
        return self._by_name(key) is not None or label_key(key) in self._by_label

    @property
    def composites(self) -> tuple[Composite, ...]:
        """The composites. Iterating over the set gives the directions alone."""
        return tuple(self._composites.values())

    @property
    def loras(self) -> tuple[Lora, ...]:
        """The LoRAs that are held beside the directions."""
        return tuple(self._loras.values())

    @property
    def sliders(self) -> tuple[Slider, ...]:
        """All that can have a label: the directions, the composites made of them, and LoRAs."""
        return (*self, *self.composites, *self.loras)

    def direction(self, key: str) -> Direction:
        """Return the direction of that id (with or without `MODEL_ID#`). Raises UnknownNameError, with near matches."""
        direction = self._by_id.get(self._bare(key))
        if direction is None:
            raise unknown(kind=f"direction in {self.model_id}:", name=key, known=self._by_id)
        return direction

    def __getitem__(self, key: str) -> Slider:
        """Return the direction, composite or LoRA of that id (with or without `MODEL_ID#`), else the best one of that label.

        Raises UnknownNameError, with near matches, where there is neither.
        """
        return self.find(key)[0]

    def own(self, slider: Slider) -> Slider:
        """Return this set's slider where it is the given one, of an older form of the set: with the token lengths known since.

        Another set's slider comes back as it is.
        """
        import torch

        mine = self._by_name(slider.id)
        if mine is None or isinstance(mine, Lora) or mine.bank is slider.bank or len(mine.parts) != len(slider.parts):
            return slider
        pairs = zip(mine.parts, slider.parts, strict=True)
        same = all(one.id == two.id and a == b and torch.equal(one.vector, two.vector) for (one, a), (two, b) in pairs)
        return mine if same else slider

    def find(self, key: str) -> tuple[Slider, int]:
        """Return what has that id, or is the best of that label, and the sign that makes it more of what was asked for.

        Raises UnknownNameError, with near matches, where there is neither.
        """
        slider = self._by_name(key)
        if slider is not None:
            return slider, 1
        label, named = self.named(key)
        return named, label.polarity

    def named(self, text: str) -> tuple[Label, Slider]:
        """The best direction, composite or LoRA labelled `text`, and that label, whose polarity says which way is more of it. It is the
        first answer of `search(text)`. Raises UnknownNameError, with near matches, where nothing has that label.
        """
        found = self.all_named(text)
        if not found:
            if text.count("/") >= 2:
                raise unknown(kind=f"direction in {self.model_id}:", name=text, known=self._by_id)
            labels = [pairs[0][0].text for pairs in self._by_label.values()]
            hint = f"See all: eigenbank list --model {self.model_id}"
            raise unknown(kind=f"label in {self.model_id}:", name=text, known=labels, hint=hint)
        return found[0]

    def all_named(self, text: str) -> "list[tuple[Label, Slider]]":
        """All that is labelled `text`, with that label, the best first; nothing where there is none."""
        return self._by_label.get(label_key(text), [])

    @property
    def labels(self) -> list[str]:
        """All label texts, those of the most trusted directions first."""
        order = sorted(self._by_label.values(), key=lambda pairs: pairs[0][0].worth, reverse=True)
        return [pairs[0][0].text for pairs in order]

    def search(self, text: str) -> list[Slider]:
        """Find directions, composites and LoRAs by their labels, their layer's and the model's name; the best answer first.

        Words match the beginnings of words, and all of them must be there; a phrase "in double quotes" matches as it stands.
        `eigenbank search` gives the same answers in the same order: see `eigenbank.registry.ranking`.
        """
        query = Query.parse(text)
        ranked = [
            (query.rank([(label.text, label.worth) for label in slider.labels], slider.names), slider)
            for slider in self.sliders
        ]
        # A stable sort: equals stay in the set's order.
        ranked.sort(key=lambda pair: pair[0], reverse=True)
        return [slider for (level, _), slider in ranked if level]

    def replaced(self, manifest: Manifest) -> "DirectionSet":
        """Return a set of the same vectors with another manifest (new labels, new token lengths)."""
        return DirectionSet(
            manifest,
            folder=self.folder,
            vectors=self._given,
            previews=self._new_previews,
            displacements=self._new_displacements,
            random=self.random,
        )

    def with_previews(self, previews: Mapping[str, tuple[Preview, bytes]]) -> "DirectionSet":
        """Return the set with previews (by id): how each was generated, and the WebP picture."""
        pictures = {preview_name(self[name].record): picture for name, (_, picture) in previews.items()}
        manifest = self.manifest.with_records("preview", {name: how for name, (how, _) in previews.items()})
        made = self.replaced(manifest)
        made._new_previews |= pictures
        return made

    def randomised(self, ranks: int, seed: int = 0) -> "DirectionSet":
        """Return random unit vectors in place of the first `ranks` of each layer and recipe: a null to compare with.

        Without labels and composites; of LoRAs with random weights in place of theirs.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        records = tuple(record for record in self.manifest.directions if record.rank < ranks)
        vectors = {
            name: torch.nn.functional.normalize(torch.randn(tensor.shape, generator=generator), dim=1)
            for name, tensor in sorted(self.vectors.items())
        }
        unlabelled = tuple(record.model_copy(update={"labels": ()}) for record in records)
        return DirectionSet(
            self.manifest.model_copy(update={"directions": unlabelled, "composites": (), "displacements": None}),
            vectors=vectors,
            random=seed,
        )

    def composed(self, composites: Sequence[CompositeRecord]) -> "DirectionSet":
        """Return the set with other composites. Raises ValueError (pydantic's) for one of directions it does not hold."""
        manifest = dict(self.manifest)
        return self.replaced(Manifest(**{**manifest, "composites": tuple(composites)}))

    def import_lora(self, source: str | os.PathLike[str], label: str, *, name: str | None = None) -> "DirectionSet":
        """Return the set with a LoRA that somebody trained, labelled by what its author calls it, to steer by and to compare with.

        `source` is a safetensors file, of which a copy is kept on this machine, a repository on the Hub, or `REPOSITORY/FILE`; `name`
        the last part of its id, by default made of the label. The set names the file by its digest and does not hold it. Raises
        SourceError for what is no LoRA that diffusers reads, SetError for a name that is none or taken, HubError. The same file under
        the same name and label changes nothing but that its copy is on this machine, as after a set was pulled.
        """
        from eigenbank.registry.loras import import_file

        plain = re.sub(r"[^a-z0-9.-]+", "-", (name or label).lower()).strip("-.")[:100] or "lora"
        former = self._loras.get(f"lora/{plain}")
        if former is not None:
            texts = [each.text for each in former.labels]
            if label in texts and import_file(os.fspath(source), plain).sha256 == former.record.sha256:
                return self
            problem = f"the set of {self.model_id} has a lora/{plain}"
            raise SetError(problem, outcome="nothing was imported", advice="Give another name")
        record = import_file(os.fspath(source), plain)
        given = {"text": label, "source": f"author:{record.origin}"[:300], "created": datetime.now(timezone.utc)}
        try:
            said = Label.model_validate(given)
        except ValueError as error:
            problem = f"no label can be made of this: {first_problem(error)}"
            raise SetError(problem, outcome="nothing was imported") from error
        loras = (*self.manifest.loras, record.model_copy(update={"labels": (said,)}))
        return self.replaced(Manifest(**{**dict(self.manifest), "loras": loras}))

    def without_lora(self, name: str) -> "DirectionSet":
        """Return the set without a LoRA, by its id. Raises UnknownNameError."""
        found = self._loras.get(self._bare(name))
        if found is None:
            raise unknown(kind=f"LoRA in {self.model_id}:", name=name, known=self._loras)
        loras = tuple(each for each in self.manifest.loras if each.id != found.id)
        return self.replaced(self.manifest.model_copy(update={"loras": loras}))

    def labelled(self, labels: Mapping[str, tuple[Label, ...]]) -> "DirectionSet":
        """Return the set with the labels of the given directions, composites and LoRAs (by id) replaced."""
        return self.replaced(self.manifest.with_records("labels", labels))

    def measured(self, qualities: Mapping[str, Quality]) -> "DirectionSet":
        """Return the set with the qualities of the given directions, composites and LoRAs (by id) replaced."""
        return self.replaced(self.manifest.with_records("quality", qualities))

    def save(self, folder: Path) -> "DirectionSet":
        """Write the set to a new folder, which appears by one atomic move. Returns the set, opened there."""
        found = self.displacements
        more = {} if found is None else {DISPLACEMENTS: found.content()}
        written = write_set(folder, self.manifest, self.vectors, {**self.previews, **more})
        return DirectionSet(written, folder=folder)

    # What the Hub's own libraries call these three.

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], *, revision: str | None = None) -> "DirectionSet":
        """Load a set by its repository on the Hub, its folder, or its checkpoint's model id: `eigenbank.load`."""
        from eigenbank.registry.load import load

        return load(name, revision=revision)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> "DirectionSet":
        """Write the set to a new folder, as `save` does."""
        return self.save(Path(folder))

    def push_to_hub(
        self,
        repo: str,
        *,
        with_labels: bool = False,
        private: bool = False,
        revision: str | None = None,
        commit_message: str | None = None,
    ) -> "PublishResult":
        """Publish the set on the Hub as one commit, as `eigenbank publish` does; a set that is there already is left alone.

        `repo` is `ORG/NAME`, made if needed, `private` or not; `revision` a branch. The labels that people gave in this
        machine's catalog go along only `with_labels`. Raises HubError; ConflictError where somebody else pushed meanwhile.
        """
        from eigenbank.progress import log_warning
        from eigenbank.registry.catalog import Catalog
        from eigenbank.registry.hub.publish import publish_set
        from eigenbank.registry.load import without_people_labels

        with tempfile.TemporaryDirectory(prefix="eigenbank-") as work, Catalog.open() as catalog:
            folder = without_people_labels(self, catalog).save(Path(work) / "set").folder
            return publish_set(
                str(folder),
                repo,
                catalog,
                with_labels=with_labels,
                private=private,
                revision=revision,
                message=commit_message,
                log=log_warning,
            )

    def _by_name(self, key: str) -> Slider | None:
        name = self._bare(key)
        return self._by_id.get(name) or self._composites.get(name) or self._loras.get(name)

    def _bare(self, key: str) -> str:
        return key.removeprefix(f"{self.model_id}#")

    def __repr__(self) -> str:
        return f"<DirectionSet {self.model_id}: {len(self)} directions of {len(self.layers)} layers, {len(self._by_label)} names>"
