"""Beside other methods: sliders of the text-to-image demo, obtained in seven ways, on the same seeds and by the same readings.

    make leaderboard

For each word every method gives one slider. Its scale is set on other seeds such that the word's own reading moves by half a standard deviation
either way, or as near as the method comes. There it is measured on fresh seeds and other prompts: what it moves, what else it moves, whether minus is the
contrary of plus, and how much of the picture beside the change stays as it was. What obtaining it takes is counted in passes of the denoiser on
one picture, a backward pass as two. `--similarity MODULE:FUNCTION` adds a column of your own (LPIPS, DreamSim, an identity): it maps two batches
`(n, 3, h, w)` in [0, 1] to `(n,)`.
"""

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from common import about, save
from peft import LoraConfig
from rich.progress import Progress
from torch import Tensor, nn

from eigenbank.api import build, find_checkpoint
from eigenbank.builders.label.composites import fit
from eigenbank.builders.label.criteria import Effects, effects
from eigenbank.builders.label.labeler import open_labelers
from eigenbank.loaders.measure import PipelineMeasurements
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.steer import steer
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID
from eigenbank.registry.sets.direction_set import DirectionSet, Slider
from eigenbank.schemas import CompositeRecord, Weighted

WORDS = {
    "light hair": ("with blond hair", "with black hair"), "dark skin": ("with dark skin", "with pale skin"),
    "warm background": ("on a yellow background", "on a blue background"), "hair length": ("with long hair", "with short hair"),
}  # fmt: skip
"""The score of the checkpoint's attribute model, and how prompts say it and its contrary."""
PROMPTS = ("a person", "an avatar of a person", "a cartoon face")
"""What sliders are obtained with."""
FRESH = ("a cartoon avatar", "a portrait of a person", "a cartoon person", "an avatar")
"""What they are measured with."""
SCREENING, TUNING = range(6), range(1000, 1004)
STEPS, GUIDANCE, SCALE, TARGET = 10, 4.0, 0.3, 0.5
TRIED = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Multiples of a method's own unit, among which the scale is found."""
Edit = Callable[[float], AbstractContextManager[Any]]
"""What edits the pipeline at a scale while it is entered; it may give what to add to the prompt's embedding."""


@dataclass
class Bench:
    """The pipeline, what reads its pictures, and a count of the denoiser's passes."""

    pipe: Any
    labeler: Any
    passes: int = 0
    backward: bool = False
    unedited: dict[Any, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pipe.unet.register_forward_pre_hook(self._count)

    def _count(self, _module: Any, args: tuple[Any, ...]) -> None:
        self.passes += len(args[0]) * (3 if torch.is_grad_enabled() and self.backward else 1)

    def counted(self) -> int:
        """The passes since this was last asked."""
        found, self.passes = self.passes, 0
        return found

    @torch.no_grad()
    def embedded(self, prompts: Sequence[str]) -> Tensor:
        """The prompts' embeddings `(n, tokens, d)`."""
        found: Tensor = self.pipe.encode_prompt(list(prompts), "cpu", 1, False)[0]
        return found

    @torch.no_grad()
    def draw(
        self, seeds: Sequence[int], prompts: Sequence[str], edit: AbstractContextManager[Any] | None = None
    ) -> Tensor:
        """Pictures `(n, 3, h, w)` of the seeds, which take the prompts in turn."""
        embeds = self.embedded([prompts[number % len(prompts)] for number in range(len(seeds))])
        with edit or nullcontext() as added:
            found: Tensor = self.pipe(
                prompt_embeds=embeds + added if isinstance(added, Tensor) else embeds,
                negative_prompt_embeds=self.embedded([""] * len(seeds)),
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="pt",
            ).images.float()  # fmt: skip
        return found

    def effects(
        self, edit: Edit, scale: float, seeds: Sequence[int], prompts: Sequence[str]
    ) -> tuple[Effects, list[Tensor]]:
        """What an edit at ± a scale does to all scores, in standard deviations, and the pictures: at plus, minus and none."""
        key = tuple(seeds), tuple(prompts)
        if key not in self.unedited:
            self.unedited[key] = self.draw(seeds, prompts)
        pictures = [self.draw(seeds, prompts, edit(scale)), self.draw(seeds, prompts, edit(-scale)), self.unedited[key]]
        plus, minus, base = (self.labeler.read(each) for each in pictures)
        return effects(base, plus[None], minus[None], self.labeler.stds, 1.0), pictures


def screened(bench: Bench, bank: DirectionSet, *, force: bool = False) -> tuple[list[Slider], Effects]:
    """What the directions of a set do, in predicted pictures."""
    measurements = PipelineMeasurements(bench.pipe, STEPS, prompts=PROMPTS, guidance_scale=GUIDANCE)
    directions = list(bank)
    plus, minus = measurements.predicted(
        directions, bench.labeler.read, scale=SCALE, seeds=tuple(SCREENING), force=force
    )
    zero = torch.zeros_like(plus[0])
    return list(directions), effects(zero, plus.nan_to_num(), minus.nan_to_num(), bench.labeler.stds, SCALE)


def composite(bank: DirectionSet, directions: Sequence[Slider], weights: Tensor) -> Slider:
    """The directions at these weights, as one slider."""
    parts = tuple(
        Weighted(direction=each.id, weight=float(weight))
        for each, weight in zip(directions, weights, strict=True)
        if weight
    )
    return bank.composed([CompositeRecord(name="one", parts=parts)]).composites[0]


def by_steering(bench: Bench, slider: Slider) -> Edit:
    """An edit by eigenbank; of random directions too, which are none of the weights."""
    return lambda scale: steer(bench.pipe, {slider: scale}, force=True)


def embedding_edit(bench: Bench, word: tuple[str, str]) -> Edit:
    """The difference of the prompts with the word and with its contrary, added to the prompt's embedding."""
    more, less = (bench.embedded([f"{prompt} {text}" for prompt in PROMPTS]) for text in word)
    return lambda scale: nullcontext(scale * (more - less).mean(0))


def components(bench: Bench, count: int = 16) -> list[Edit]:
    """The principal components of h-space, the output of the middle block, over unedited runs."""
    seen: list[Tensor] = []
    hook = bench.pipe.unet.mid_block.register_forward_hook(
        lambda _module, _args, out: seen.append(out.detach().flatten(1))
    )
    bench.draw([*SCREENING, *range(8, 32)], PROMPTS)
    hook.remove()
    values = torch.cat(seen).float()
    _, deviations, axes = torch.pca_lowrank(values, count)
    found: list[Edit] = []
    for k in range(count):
        vector = 4 * axes[:, k] * deviations[k] / len(values) ** 0.5  # four standard deviations

        @contextmanager
        def edit(scale: float, vector: Tensor = vector) -> Iterator[None]:
            hook = bench.pipe.unet.mid_block.register_forward_hook(
                lambda _module, _args, out: out + scale * vector.view(1, *out.shape[1:]).to(out)
            )
            try:
                yield
            finally:
                hook.remove()

        found.append(edit)
    return found


def trained(bench: Bench, word: tuple[str, str], out: Path, steps: int, rank: int = 4) -> Path:
    """A LoRA trained as Concept Sliders are: at ±1 it is to predict what the word, less its contrary, adds to the prediction."""
    pipe, torch_rng = bench.pipe, torch.Generator().manual_seed(0)
    unet, seeds = pipe.unet, list(SCREENING)
    runs: list[Tensor] = []

    def keep(_pipe: Any, _step: int, _time: Any, found: dict[str, Tensor]) -> dict[str, Tensor]:
        runs.append(found["latents"].clone())
        return {}

    pipe(
        [PROMPTS[number % len(PROMPTS)] for number in range(len(seeds))], generator=[torch.Generator().manual_seed(each) for each in seeds],
        num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="latent", callback_on_step_end=keep,
    )  # fmt: skip
    texts = [bench.embedded([f"{prompt} {text}".strip() for prompt in PROMPTS]) for text in ("", *word)]
    wanted = {each: each.requires_grad for each in unet.parameters()}
    unet.requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights="gaussian"), "trained"
    )
    weights = [each for each in unet.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    bench.backward = True
    for _ in range(steps):
        at = int(torch.randint(len(runs) - 1, (), generator=torch_rng))
        rows = torch.randperm(len(seeds), generator=torch_rng)[:4]
        noisy, time_now = runs[at][rows], pipe.scheduler.timesteps[at + 1]
        plain, more, less = (each[rows % len(PROMPTS)] for each in texts)
        with torch.no_grad():
            unet.disable_adapters()
            base, plus, minus = (unet(noisy, time_now, each).sample for each in (plain, more, less))
            unet.enable_adapters()
        for sign in (1.0, -1.0):
            unet.set_adapters("trained", sign)
            found = unet(noisy, time_now, plain).sample
            nn.functional.mse_loss(found, base + sign * 2.0 * (plus - minus)).backward()
        optimizer.step()
        optimizer.zero_grad()
    bench.backward = False
    unet.set_adapters("trained", 1.0)
    pipe.save_lora_weights(out.parent, unet_lora_layers=_lora(unet), weight_name=out.name)
    unet.delete_adapters("trained")
    pipe.unload_lora_weights()
    for each, before in wanted.items():
        each.requires_grad_(before)
    return out


def _lora(unet: nn.Module) -> dict[str, Tensor]:
    from peft.utils import get_peft_model_state_dict

    found: dict[str, Tensor] = get_peft_model_state_dict(unet, adapter_name="trained")
    return found


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM `(n, h, w)` of grey pictures, by the usual Gaussian window of 11 pixels."""
    steps = torch.arange(11.0) - 5
    line = torch.exp(-(steps**2) / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def smooth(values: Tensor) -> Tensor:
        return nn.functional.conv2d(nn.functional.pad(values, [5] * 4, mode="reflect"), window)

    a, b = (each.mean(1, keepdim=True) for each in (first, second))
    ma, mb = smooth(a), smooth(b)
    va, vb, both = smooth(a * a) - ma**2, smooth(b * b) - mb**2, smooth(a * b) - ma * mb
    return (((2 * ma * mb + 1e-4) * (2 * both + 9e-4)) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))[:, 0]


def kept_outside(edited: Tensor, plain: Tensor) -> Tensor:
    """Mean SSIM `(n,)` outside the tenth of the picture that changes most."""
    change = (edited - plain).square().mean(1).flatten(1)
    outside = change <= change.quantile(0.9, dim=1, keepdim=True)
    return (similarity(edited, plain).flatten(1) * outside).sum(1) / outside.sum(1)


def measured(
    bench: Bench, edit: Edit, score: int, seeds: Sequence[int], extra: Callable[[Tensor, Tensor], Tensor] | None
) -> dict[str, Any]:
    """What a slider does on fresh seeds and prompts, at the scale that was found for it on others."""
    tuned = {scale: float(bench.effects(edit, scale, TUNING, PROMPTS)[0].mean[0, score]) for scale in TRIED}
    scale = min(tuned, key=lambda each: abs(abs(tuned[each]) - TARGET))
    found, (plus, minus, plain) = bench.effects(edit, scale, seeds, FRESH)
    half = bench.effects(edit, scale / 2, seeds, FRESH)[0]
    whole = float(found.mean[0, score])
    row = {
        "scale": scale, "effect": abs(whole), "selectivity": float(found.selectivity[0, score]),
        "leads": bool(found.mean[0].abs().argmax() == score), "consistency": float(found.consistency[0, score]),
        "asymmetry": min(float(found.asymmetry[0, score]), 99.0),
        "half_scale": float(half.mean[0, score]) / whole if abs(whole) > 1e-6 else 0.0,
        "kept": float(torch.cat([kept_outside(each, plain) for each in (plus, minus)]).mean()),
    }  # fmt: skip
    if extra is not None:
        row["similarity"] = float(torch.cat([extra(each, plain) for each in (plus, minus)]).mean())
    return row


@click.command()
@click.option("--word", "words", multiple=True, type=click.Choice(list(WORDS)), help="Only these [default: all].")
@click.option("--seeds", default=12, show_default=True, help="Fresh seeds that each slider is measured on.")
@click.option("--train", default=150, show_default=True, help="Steps of a LoRA's training.")
@click.option("--parts", default=8, show_default=True, help="Directions of a composite.")
@click.option("--similarity", "other", metavar="MODULE:FUNCTION", help="A similarity of your own.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/leaderboard.json"))
def main(words: tuple[str, ...], seeds: int, train: int, parts: int, other: str | None, out: Path) -> None:
    """Measure sliders of seven methods for the same words, and write the table."""
    facts = about()
    extra = (
        None if other is None else getattr(importlib.import_module(other.partition(":")[0]), other.partition(":")[2])
    )
    with tempfile.TemporaryDirectory() as work, Progress() as bar:
        os.environ["EIGENBANK_HOME"] = work  # where copies of LoRAs are kept
        _, folder = find_checkpoint(DEMO_MODEL_ID)
        (labeler,) = open_labelers([], folder)
        bench = Bench(open_pipeline(folder, log=lambda _: None), labeler)
        chosen = words or tuple(WORDS)
        task = bar.add_task("obtaining", total=8 * len(chosen) + 3)
        bank = build(folder, recipes=["output-value", "output-value:output"], top_k=16)
        bench.counted()
        eigen, by_eigen = screened(bench, bank)
        cost_eigen = bench.counted()
        bar.advance(task)
        chance = bank.randomised(16, seed=1)
        random, by_random = screened(bench, chance, force=True)
        cost_random = bench.counted()
        bar.advance(task)
        axes = components(bench)
        by_axis = [bench.effects(each, 1.0, TUNING, PROMPTS)[0].mean[0] for each in axes]
        cost_axes = bench.counted()
        bar.advance(task)
        fresh = range(2000, 2000 + seeds)
        rows: list[dict[str, Any]] = []
        for word in chosen:
            score = labeler.names.index(word)
            bench.counted()
            lora = bank.import_lora(trained(bench, WORDS[word], Path(work) / f"{score}.safetensors", train), word)
            cost_lora = bench.counted()
            bar.advance(task)
            best = eigen[int(by_eigen.mean[:, score].abs().argmax())]
            axis = axes[max(range(len(axes)), key=lambda k, score=score: abs(float(by_axis[k][score])))]
            methods: dict[str, tuple[Edit, float]] = {
                "eigenvectors, composite": (by_steering(bench, composite(bank, eigen, fit(by_eigen, parts)[score])), cost_eigen),
                "eigenvector, the strongest": (by_steering(bench, best), cost_eigen),
                "random vectors, composite": (by_steering(bench, composite(chance, random, fit(by_random, parts)[score])), cost_random),
                "LoRA, trained as Concept Sliders are": (by_steering(bench, lora.loras[0]), cost_lora * len(chosen)),
                "LoRA of random weights as large": (by_steering(bench, lora.randomised(1, seed=1).loras[0]), 0),
                "difference of prompts' embeddings": (embedding_edit(bench, WORDS[word]), 0),
                "principal component of h-space": (axis, cost_axes),
            }  # fmt: skip
            for name, (edit, cost) in methods.items():
                row = {"method": name, "word": word, **measured(bench, edit, score, fresh, extra)}
                rows.append(row | {"passes": cost / len(chosen)})
                bar.advance(task)
                click.echo(f"{name}, {word}: effect {row['effect']:.2f}, selectivity {row['selectivity']:.2f}")
    save(
        out,
        {
            "about": facts,
            "what": "sliders of several methods on the avatars",
            "seeds": seeds,
            "train": train,
            "parts": parts,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
