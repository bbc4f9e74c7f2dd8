"""Sliders from words alone: does the text lens move pictures the way its words say, and what do a few pictures add?

    python benchmarks/lens.py --out benchmarks/results/lens.json    # about 1,300 pictures of 64×64

On the avatars, whose factors an attribute model reads. For each of twenty words: the lens in the set's directions, which acts on the
conditional branch of guidance, and the same on both branches; the whole of what the words write, of the same length, for what
their span leaves out; the lens of another word; random vectors; the plain difference of the prompts' embeddings, token by token, added to
the prompt. Then the composite that labelling fits to a few predicted pictures of the set's directions, on both branches and on the
conditional one: these pictures are drawn once for all words.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from common import about, save
from torch import Tensor
from torch.nn.functional import normalize

from eigenbank.api import build, find_checkpoint, source_of
from eigenbank.builders.label.composites import NORM, fit
from eigenbank.builders.label.criteria import Effects, effects
from eigenbank.builders.label.labeler import open_labelers
from eigenbank.builders.lens import RECIPE, lens
from eigenbank.loaders.measure import PipelineMeasurements
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.prompts import encode_prompts
from eigenbank.loaders.sample import sample
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID
from eigenbank.registry.sets.direction_set import Composite, DirectionSet
from eigenbank.schemas import CompositeRecord, DirectionRecord, Weighted
from eigenbank.schemas.recipe import Branch

PROMPTS = ("a person", "an avatar of a person", "a cartoon face")
WORDS = (
    ("with a smile", "with an angry mouth", "smile", 1), ("with grey hair", "with brown hair", "light hair", 1),
    ("with an open mouth", "with a smile", "open mouth", 1), ("with closed eyes", "with open eyes", "closed eyes", 1),
    ("with angry eyebrows", "with worried eyebrows", "angry brows", 1), ("with raised eyebrows", "with relaxed eyebrows", "raised brows", 1),
    ("with a long beard", "with no beard", "beard", 1), ("with a clean-shaven face", "with a beard", "beard", -1),
    ("with spiky hair", "with cropped hair", "spiky hair", 1), ("with hair in a bun", "with cropped hair", "bun", 1),
    ("with long hair", "with short hair", "hair length", 1), ("with blond hair", "with black hair", "light hair", 1),
    ("with red hair", "with black hair", "red hair", 1), ("with dark skin", "with pale skin", "dark skin", 1),
    ("with white clothes", "with black clothes", "light clothes", 1), ("with red clothes", "with blue clothes", "red clothes", 1),
    ("in a dress", "in a t-shirt", "dress", 1), ("in a turtleneck", "in a t-shirt", "turtleneck", 1),
    ("on a yellow background", "on a blue background", "warm background", 1), ("on a green background", "on a pink background", "warm background", -1),
)  # fmt: skip
"""What is asked for, what there is instead, the score that should move, and which way."""
STEPS, TOP_K, SCALE = 8, 16, 1.0
SCREENED = {"20": (10, (100,)), "100": (TOP_K, (100, 101, 102))}
"""Directions of each layer and seeds that are screened for about so many pictures; a predicted picture is a pass, of `STEPS`."""
BRANCHES: dict[Branch, str] = {"both": "", "cond": ", on the conditional branch"}
CLEAR = 0.1
"""A change in standard deviations from which on a word counts as moved at all."""
REPORT = 7_000
"""The first of the seeds that the figures are of."""


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--kept", type=click.Path(path_type=Path), help="Folder that keeps readings: a run cut short goes on.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/lens.json"))
def main(seeds: int, kept: Path | None, out: Path) -> None:
    """Draw every way's slider for every word, and read what it moved."""
    facts = about()
    _, folder = find_checkpoint(DEMO_MODEL_ID)
    pipe = open_pipeline(folder)
    (labeler,) = open_labelers(["attributes"], folder)
    assert labeler.stds is not None
    measurements = PipelineMeasurements(pipe, STEPS, prompts=PROMPTS)
    bank = measurements.calibrated(build(DEMO_MODEL_ID, recipes=[RECIPE.slug], top_k=TOP_K))
    report = range(REPORT, REPORT + seeds)
    scores = [labeler.names.index(score) for _, _, score, _ in WORDS]
    signs = [sign for *_, sign in WORDS]

    texts = [
        ([f"{prompt}, {text}" for prompt in PROMPTS], [f"{prompt}, {other}" for prompt in PROMPTS])
        for text, other, *_ in WORDS
    ]
    source = source_of(pipe)[1]
    whole = build(DEMO_MODEL_ID, recipes=[RECIPE.slug], top_k=128)  # a basis of everything, in the narrower layers too
    whole = whole.replaced(whole.manifest.model_copy(update={"layers": bank.manifest.layers}))
    lenses, wholes = (
        [
            lens(each, source, text, encode_prompts(pipe, positive), encode_prompts(pipe, neutral)).record
            for (text, *_), (positive, neutral) in zip(WORDS, texts, strict=True)
        ]
        for each in (bank, whole)
    )

    def measured(sliders: Sequence[Composite]) -> Effects:
        read = measurements.edited(sliders, labeler.read, scale=SCALE, seeds=report, force=True, cache=kept)
        return effects(*read, labeler.stds, SCALE)

    def of_weights(rows: Sequence[dict[str, float]], among: DirectionSet = bank, branch: Branch = "cond") -> Effects:
        return measured(composites(among, rows, branch))

    own = [{part.direction: part.weight for part in record.parts} for record in lenses]
    ways: dict[str, tuple[float, Callable[[], Effects]]] = {
        "the lens": (0, lambda: of_weights(own)),
        "the lens, on both branches": (0, lambda: of_weights(own, branch="both")),
        "all that the words write": (0, lambda: of_weights([{part.direction: part.weight for part in each.parts} for each in wholes], whole)),
        "another word's lens": (0, lambda: of_weights([own[(number + 7) % len(own)] for number in range(len(own))])),
        "random vectors": (0, lambda: measured(at_random(bank, own))),
        "the prompts' difference": (0, lambda: by_embedding(pipe, labeler, texts, report)),
    }  # fmt: skip
    for branch, (name, (ranks, screening)) in itertools.product(BRANCHES, SCREENED.items()):
        ids = [each.id for each in bank if each.rank < ranks]
        some = composites(bank, [{each: 1.0} for each in ids], branch)
        plus, minus = measurements.predicted(some, labeler.read, scale=SCALE / NORM, seeds=screening, cache=kept)
        found = effects(torch.zeros_like(plus[0]), plus, minus, labeler.stds, SCALE)
        pictures = round(len(some) * 2 * len(screening) / STEPS + len(screening))
        ways[f"fitted to {name} pictures{BRANCHES[branch]}"] = (
            pictures,
            lambda found=found, ids=ids, branch=branch: of_weights(fitted(found, ids, scores, signs), branch=branch),
        )
    ways["the lens, less the other words'"] = 0, lambda: of_weights(apart(own, scores))
    rows = []
    for name, (pictures, draw) in ways.items():
        rows.append({"way": name, "pictures": pictures, **figures(draw(), scores, signs)})
        click.echo({key: value for key, value in rows[-1].items() if key != "words"})
    save(
        out,
        {
            "about": facts, "what": "sliders from words alone, on the avatars", "words": [text for text, *_ in WORDS], "readings": len(labeler.names),
            "seeds": seeds, "rows": rows,
        },
    )  # fmt: skip


def composites(among: DirectionSet, rows: Sequence[dict[str, float]], branch: Branch) -> tuple[Composite, ...]:
    """A composite of these weights for each row, of norm `NORM`, that acts on this branch of guidance."""
    records = []
    for number, weights in enumerate(rows):
        norm = sum(weight**2 for weight in weights.values()) ** 0.5
        parts = tuple(Weighted(direction=name, weight=NORM * weight / norm) for name, weight in weights.items())
        records.append(CompositeRecord(name=f"word-{number}", parts=parts, branch=branch))
    return among.composed(records).composites


def at_random(bank: DirectionSet, own: Sequence[dict[str, float]]) -> tuple[Composite, ...]:
    """For each word random vectors, in every layer as long as its lens is there."""
    generator = torch.Generator().manual_seed(0)
    vectors = {
        f"{name}/{RECIPE.slug}": normalize(torch.randn(len(WORDS), layer.width, generator=generator), dim=1)
        for name, layer in bank.layers.items()
    }
    records = tuple(
        DirectionRecord(layer=name, recipe=RECIPE, rank=rank, eigenvalue=0, share=0, gap=None)
        for name in bank.layers
        for rank in range(len(WORDS))
    )
    manifest = bank.manifest.model_copy(update={"directions": records, "composites": ()})
    among = DirectionSet(manifest, vectors=vectors)
    lengths = [
        {
            name: sum(weight**2 for each, weight in weights.items() if each.startswith(f"{name}/")) ** 0.5
            for name in bank.layers
        }
        for weights in own
    ]
    return composites(
        among,
        [
            {each.id: lengths[number][each.layer] for each in among if each.rank == number}
            for number in range(len(WORDS))
        ],
        "cond",
    )


def fitted(found: Effects, ids: list[str], scores: list[int], signs: list[int]) -> list[dict[str, float]]:
    """What labelling fits to the readings, for each word."""
    weights = fit(found)
    return [
        {name: sign * float(weight) for name, weight in zip(ids, weights[score], strict=True) if weight}
        for score, sign in zip(scores, signs, strict=True)
    ]


def apart(own: Sequence[dict[str, float]], scores: list[int]) -> list[dict[str, float]]:
    """Each lens without what the words of other scores write too: less its ridge regression on their lenses."""
    ids = list(own[0])
    every = torch.tensor([[weights[name] for name in ids] for weights in own])
    found = []
    for row, score in zip(every, scores, strict=True):
        others = every[torch.tensor([each != score for each in scores])]
        inner = others @ others.T + 0.1 * NORM**2 * torch.eye(len(others))
        found.append(dict(zip(ids, (row - others.T @ torch.linalg.solve(inner, others @ row)).tolist(), strict=True)))
    return found


def by_embedding(
    pipe: Any, labeler: Any, texts: Sequence[tuple[list[str], list[str]]], report: Sequence[int]
) -> Effects:
    """What others do: the embedding of the prompt, plus or minus the difference that the words make to it."""

    @torch.no_grad()
    def embedded(prompts: Sequence[str]) -> Tensor:
        made: Tensor = pipe.encode_prompt(list(prompts), pipe.device, 1, False)[0]
        return made

    turns = [seed % len(PROMPTS) for seed in report]
    unwanted = embedded([""] * len(report))

    def read(tokens: Tensor) -> Tensor:
        found: Tensor = labeler.read(
            sample(pipe, report, STEPS, prompt_embeds=tokens, negative_prompt_embeds=unwanted, num_images_per_prompt=1)
        )
        return found

    base = embedded([PROMPTS[turn] for turn in turns])
    plus, minus = [], []
    for positive, neutral in texts:
        change = embedded([positive[turn] for turn in turns]) - embedded([neutral[turn] for turn in turns])
        plus.append(read(base + change))
        minus.append(read(base - change))
    return effects(read(base), torch.stack(plus), torch.stack(minus), labeler.stds, 1.0)


def figures(found: Effects, scores: list[int], signs: list[int]) -> dict[str, Any]:
    """What was moved, of each word's own reading and beside it: counts and means over the words, and of each its effect and rank."""
    rows = torch.arange(len(scores))
    own = found.mean[rows, scores] * torch.tensor(signs)
    size = found.mean.abs()
    rank = 1 + (size > own[:, None]).sum(1) - (own < 0).long()  # the wrong way is behind all others
    purity = own / size.sum(1)
    return {
        "right": int((own > 0).sum()),
        "clear": int((own >= CLEAR).sum()), "effect": round(float(own.mean()), 3), "rank": float(rank.float().median()),
        "leads": int((rank == 1).sum()), "purity": round(float(purity.mean()), 3),
        "words": [[round(float(value), 2), int(place)] for value, place in zip(own, rank, strict=True)],
    }  # fmt: skip


if __name__ == "__main__":
    main()
