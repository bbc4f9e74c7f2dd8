"""What steering costs, beside what other ways to edit cost, and how its effect grows: ratios, all measured in one run.

    python benchmarks/steering.py --out benchmarks/results/steering.json

Times are of the processor, on one thread, so that others on the machine disturb them little; what is compared takes
turns, and the ratio of a variant is the median over the rounds of its time by its neighbour's.
"""

import copy
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import faces
import torch
from common import Spread, about, save, spread
from torch import Tensor

import eigenbank as eb
from eigenbank.api import open_pipeline
from eigenbank.builders.discovery.families import discover
from eigenbank.builders.label.attributes import load_attribute_model
from eigenbank.loaders.lengths import measure
from eigenbank.loaders.sample import sample
from eigenbank.registry.recipes import CASTS, gram, weights_digest
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas import Checkpoint, DirectionRecord, Manifest, Recipe, TokenLength

UNET = {
    "sample_size": 32, "block_out_channels": (64, 128, 256, 256), "layers_per_block": 1, "attention_head_dim": 8,
    "cross_attention_dim": 64, "norm_num_groups": 32,
}  # fmt: skip
"""Stable Diffusion's four levels, five times narrower; a latent of 32 × 32."""
WORDS = ["smile", "hat", "beard"]
SIDE = 256
SPREADS: dict[str, Spread] = {}
"""What `ratios` found, with least and most: by both variants' names."""
Variants = dict[str, Callable[[], Any]]


def text_parts() -> tuple[Any, Any]:
    """A CLIP text encoder with random weights, and a tokenizer of letters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) for code in range(97, 123)]
    tokens = [*letters, *[f"{letter}</w>" for letter in letters], "<|startoftext|>", "<|endoftext|>"]
    end = len(tokens) - 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        said = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
        said |= {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    config = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    return CLIPTextModel(config).eval(), tokenizer


def parts(config: dict[str, Any] = UNET) -> dict[str, Any]:
    """The components all pipelines of the comparison share, with random weights, and a U-Net of a config."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    encoder, tokenizer = text_parts()
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=8, latent_channels=4, sample_size=SIDE,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    return {
        "vae": vae, "text_encoder": encoder, "tokenizer": tokenizer, "unet": UNet2DConditionModel(**config).eval(), "safety_checker": None,
        "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip


def bank_of(unet: Any, layers: int, ranks: int) -> DirectionSet:
    """The first `ranks` output-side directions of `layers` of a U-Net's layers, from its own weights."""
    recipe = Recipe.parse("output-value:output")
    found = discover({**unet.config, "_class_name": type(unet).__name__}).layers
    chosen = found[:: max(1, len(found) // layers)][:layers]
    vectors, records, digested = {}, [], []
    for layer in chosen:
        weights = {role: part.take(unet.get_parameter(part.tensor)) for role, part in layer.tensors.items()}
        matrix = gram(recipe, {role: weight.double() for role, weight in weights.items() if weight.ndim > 1}, layer)
        vectors[f"{layer.name}/{recipe.basis}"] = (
            torch.linalg.eigh(matrix).eigenvectors.T.flip(0)[:ranks].float().contiguous()
        )
        records += [
            DirectionRecord(layer=layer.name, recipe=recipe, rank=rank, eigenvalue=1, share=0.1, gap=None)
            for rank in range(ranks)
        ]
        length = TokenLength(length=layer.width**0.5, source="calibration")
        digests = {cast: weights_digest(weights, cast) for cast in CASTS}
        digested.append(
            layer.model_copy(
                update={"digests": digests, "lengths": {"block-output": length, "projection-input": length}}
            )
        )
    manifest = Manifest(
        checkpoint=Checkpoint(model_id="bench/unet", denoiser=type(unet).__name__, component="unet"),
        created="2026-01-01T00:00:00Z",  # type: ignore[arg-type]
        builder="the benchmark",
        layers=tuple(digested),
        directions=tuple(records),
    )
    return DirectionSet(manifest, vectors=vectors)


def ratios(
    variants: Variants, base: str, rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Each variant's time, the processor's unless there is another clock, by that of `base`: the median over rounds in which
    they take turns.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        run()
    for number in range(rounds):
        names = list(variants) if number % 2 else list(reversed(variants))
        for name in names:
            started = clock()
            variants[name]()
            times[name].append(clock() - started)
    by_base = {
        name: [mine / other for mine, other in zip(found, times[base], strict=True)] for name, found in times.items()
    }
    SPREADS.update({f"{name} by {base}": spread(found) for name, found in by_base.items() if name != base})
    table = {name: statistics.median(found) for name, found in by_base.items()}
    click.echo(json.dumps({name: round(value, 4) for name, value in table.items()}), err=True)
    return table


def edited(pipe: Any, bank: DirectionSet, steps: int, side: int = SIDE) -> Variants:
    """Drawing an image with guidance on, unedited and with edits of several kinds."""
    one, many = {next(iter(bank)): 0.5}, dict.fromkeys(bank, 0.5)

    def draw() -> None:
        pipe("a face", num_inference_steps=steps, guidance_scale=5.0, output_type="latent", height=side, width=side)

    def steered(edits: Any, **options: Any) -> Callable[[], None]:
        handle = eb.steer(pipe, edits, **options)

        def run() -> None:
            with handle:
                draw()

        return run

    return {
        "unedited": draw,
        "one direction": steered(one),
        "16 directions over 4 layers": steered(many),
        "16 directions, scheduled, a scale per sample": steered(dict.fromkeys(bank, lambda done: [done])),
        "16 directions after the norm": steered(many, site="projection"),
        "16 directions, folded": steered(many, fuse=True),
    }


def overhead(shared: dict[str, Any], steps: int, rounds: int) -> dict[str, float]:
    """Time per image, guidance on, by the unedited image's."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline(scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), **shared)
    pipe.set_progress_bar_config(disable=True)

    def draw(guidance: float = 5.0) -> None:
        pipe(
            "a face", num_inference_steps=steps, guidance_scale=guidance, output_type="latent", height=SIDE, width=SIDE
        )

    found = ratios(edited(pipe, bank_of(pipe.unet, 4, 4), steps), "unedited", rounds)
    second = ratios({"one pass": lambda: draw(1.0), "two passes": draw}, "one pass", min(rounds, 5))
    found["a second pass, as classifier-free guidance has (NoiseCLR, Asyrp)"] = second["two passes"]
    from peft import LoraConfig

    adapted = copy.deepcopy(pipe.unet)
    adapted.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False))
    plain = pipe.unet

    def with_lora() -> None:
        pipe.unet = adapted
        draw()
        pipe.unet = plain

    lora = ratios({"plain": draw, "with a LoRA": with_lora}, "plain", min(rounds, 5))
    found["an unfused LoRA of rank 4 (Concept Sliders)"] = lora["with a LoRA"]
    return found


Contender = tuple[Callable[[int], Any], Callable[[int], Any]]
"""Another method and ours for the same job, each for a number of edits at once."""


def contenders(shared: dict[str, Any], steps: int) -> dict[str, Contender]:
    """What is compared: SEGA and LEDITS++ as diffusers ships them, and ours, which does the same with directions."""
    import diffusers
    from PIL import Image

    ddim = {"steps_offset": 1, "clip_sample": False}
    ours = diffusers.StableDiffusionPipeline(scheduler=diffusers.DDIMScheduler(**ddim), **shared)
    sega = diffusers.SemanticStableDiffusionPipeline(scheduler=diffusers.DDIMScheduler(**ddim), **shared)
    solver = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=2)
    ledits = diffusers.LEditsPPPipelineStableDiffusion(scheduler=solver, **shared)
    for pipe in (ours, sega, ledits):
        pipe.set_progress_bar_config(disable=True)
    directions = list(bank_of(ours.unet, 3, 1))
    photo = Image.new("RGB", (SIDE, SIDE), (120, 90, 60))
    pixels = torch.rand((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    backwards, forwards = diffusers.DDIMInverseScheduler(**ddim), diffusers.DDIMScheduler(**ddim)

    def steered(number: int) -> None:
        with eb.steer(ours, dict.fromkeys(directions[:number], 0.5)):
            ours("a face", num_inference_steps=steps, guidance_scale=5.0, output_type="latent", height=SIDE, width=SIDE)

    def semantic(number: int) -> None:
        sega(
            prompt="a face", num_inference_steps=steps, guidance_scale=5.0, output_type="latent", height=SIDE, width=SIDE,
            editing_prompt=WORDS[:number], edit_guidance_scale=[5.0] * number, edit_warmup_steps=[0] * number,
            edit_threshold=[0.9] * number, reverse_editing_direction=[False] * number,
        )  # fmt: skip

    def inverted(number: int, guidance: float) -> None:
        with torch.no_grad():
            start = ours.vae.encode(pixels * 2 - 1).latent_dist.mean * 0.18215
        ours.scheduler = backwards
        call = {"num_inference_steps": steps, "output_type": "latent"}
        noise = ours("", guidance_scale=1.0, latents=start, **call).images
        ours.scheduler = forwards
        with eb.steer(ours, dict.fromkeys(directions[:number], 0.5)):
            ours("a face" if guidance > 1 else "", guidance_scale=guidance, latents=noise, **call)

    def limited(number: int) -> None:
        ledits.invert(image=photo, num_inversion_steps=steps, skip=0.0, source_prompt="")
        scales = {"edit_guidance_scale": [5.0] * number, "edit_threshold": [0.9] * number}
        ledits(editing_prompt=WORDS[:number], output_type="latent", **scales)

    def round_trip(repeats: int) -> Callable[[int], None]:
        def run(number: int) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                eb.edit(
                    ours,
                    photo,
                    dict.fromkeys(directions[:number], 0.5),
                    steps=steps,
                    repeats=repeats,
                    size=(SIDE, SIDE),
                )

        return run

    return {
        "SEGA, a new image, guidance on": (semantic, steered),
        "LEDITS++, a real image, inversion included": (limited, lambda number: inverted(number, 1.0)),
        "LEDITS++, a real image, ours with guidance besides": (limited, lambda number: inverted(number, 5.0)),
        "LEDITS++, `eb.edit(repeats=0)`: the unedited round trip too": (limited, round_trip(0)),
        "LEDITS++, `eb.edit`: that, and every step back corrected twice": (limited, round_trip(2)),
    }


TIMED = 3
"""Of the contenders, how many are timed too: the last two do more than was asked of the other."""
NUMBERS = {"one edit": 1, "three edits at once": 3}


def beside_others(shared: dict[str, Any], steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """Our time by that of SEGA and LEDITS++, for one edit and for three at once."""
    pairs = dict(list(contenders(shared, steps).items())[:TIMED])
    table: dict[str, dict[str, float]] = {}
    for name, number in NUMBERS.items():
        table[name] = {}
        for theirs in dict.fromkeys(theirs for theirs, _ in pairs.values()):
            mine = {each: partial(ours, number) for each, (other, ours) in pairs.items() if other is theirs}
            found = ratios({"theirs": partial(theirs, number), **mine}, "theirs", rounds)
            table[name] |= {each: found[each] for each in mine}
    return table


def evaluations(shared: dict[str, Any], steps: int) -> dict[str, dict[str, list[float]]]:
    """How many samples the denoiser is run on per step and image, theirs and ours: on any machine the same."""
    counted = [0]

    def count(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        counted[0] += len(args[0] if args else kwargs["sample"])

    hook = shared["unet"].register_forward_pre_hook(count, with_kwargs=True)
    table: dict[str, dict[str, list[float]]] = {}
    for name, number in NUMBERS.items():
        table[name] = {}
        for each, pair in contenders(shared, steps).items():
            table[name][each] = []
            for run in pair:
                counted[0] = 0
                run(number)
                table[name][each].append(counted[0] / steps)
    hook.remove()
    click.echo(json.dumps(table), err=True)
    return table


def sweeps(steps: int, rounds: int) -> float:
    """The time of a sweep of 5 scales on 4 seeds as one batch by that of its twenty single calls, on the cartoon faces."""
    pipe, bank = open_pipeline(str(faces.FOLDER)), DirectionSet.open(faces.SET)
    direction = next(direction for direction in bank if direction.labels)
    scales, seeds = (-2.0, -1.0, 0.0, 1.0, 2.0), (0, 1, 2, 3)

    def singles() -> None:
        for seed in seeds:
            for scale in scales:
                with eb.steer(pipe, {direction: scale}):
                    sample(pipe, [seed], steps)

    return ratios(
        {"twenty": singles, "one batch": lambda: eb.sweep(pipe, direction, scales, seeds=seeds, steps=steps)},
        "twenty",
        rounds,
    )["one batch"]


def growth(steps: int) -> dict[str, Any]:
    """How the effect grows with the scale, and how edits add up, on the cartoon faces."""
    pipe = open_pipeline(str(faces.FOLDER))
    bank = measure(pipe, DirectionSet.open(faces.SET))
    model = load_attribute_model(faces.FOLDER / "attributes")
    # For three labels the single direction that moves most, all through the run.
    named: dict[str, Any] = {}
    for direction in bank:
        for label in direction.labels:
            if direction.recipe.window.whole and label.evidence is not None:
                best = named.get(label.text)
                if best is None or label.evidence.effect > best[0]:
                    named[label.text] = label.evidence.effect, direction
    chosen = list(dict.fromkeys(direction for _, direction in named.values()))[:3]
    seeds = range(700, 704)
    base = sample(pipe, seeds, steps)
    deviations = torch.tensor(model.config.stds)

    def changed(edits: Any) -> Tensor:
        with eb.steer(pipe, edits):
            return sample(pipe, seeds, steps)

    lines = {}
    scales = (-0.4, -0.2, -0.1, 0.0, 0.1, 0.2, 0.4)
    for direction in chosen:
        readings = torch.stack([model.read(changed({direction: scale})).mean(0) for scale in scales]) / deviations
        led = int((readings[-1] - readings[0]).abs().argmax())
        x, y = torch.tensor(scales), readings[:, led] - readings[:, led].mean()
        slope = float((x @ y) / (x @ x))
        lines[direction.id] = {
            "factor": model.config.names[led],
            "slope": slope,
            "r2": 1 - float((y - slope * x).square().sum() / y.square().sum()),
        }
    sums: dict[str, float] = {}
    for scale in (0.05, 0.2, 0.4):
        off = []
        alone = {direction.id: changed({direction: scale}) - base for direction in chosen}
        for number, first in enumerate(chosen):
            for second in chosen[number + 1 :]:
                both = changed({first: scale, second: scale}) - base
                apart = alone[first.id] + alone[second.id]
                off.append(float((both - apart).norm() / both.norm()))
        sums[str(scale)] = statistics.mean(off)
    plain = changed(dict.fromkeys(chosen, 0.0))
    return {"lines": lines, "sums": sums, "scale 0 is exact": torch.equal(plain, base), "seeds": len(seeds)}


PARTS = ("overhead", "beside", "evaluations", "sweep", "growth")


@click.command()
@click.option("--part", "chosen", type=click.Choice(PARTS), multiple=True, help="Measure only this anew; repeatable.")
@click.option("--steps", default=4, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/steering.json"))
def main(chosen: tuple[str, ...], steps: int, rounds: int, out: Path) -> None:
    """Measure, and write the figures. Parts that are not measured anew are kept as they were."""
    warnings.simplefilter("ignore")
    from diffusers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    # A catalog of its own: the shipped sets and nothing else.
    home = tempfile.TemporaryDirectory(prefix="eigenbank-benchmark-")
    os.environ["EIGENBANK_HOME"] = home.name
    os.environ.pop("EIGENBANK_CATALOG", None)
    document = json.loads(out.read_text(encoding="utf-8")) if chosen and out.is_file() else {}
    document |= {
        "about": about(),
        "what": "steering: cost by that of unedited runs and of other methods, growth of the effect",
    }
    shared = parts()
    measured: dict[str, Callable[[], Any]] = {
        "overhead": lambda: overhead(shared, steps, rounds),
        "beside": lambda: beside_others(shared, steps, min(rounds, 5)),
        "evaluations": lambda: evaluations(shared, steps),
        "sweep": lambda: sweeps(steps, min(rounds, 5)),
        "growth": lambda: growth(6),
    }
    for name in chosen or PARTS:
        started = time.process_time()
        document[name] = measured[name]()
        document.setdefault("runs", {})[name] = {
            "steps": 6 if name == "growth" else steps,
            "rounds": rounds if name == "overhead" else min(rounds, 5),
            "load": round(os.getloadavg()[0], 1),
            "processor seconds": round(time.process_time() - started),
        }
        document.setdefault("spreads", {}).update(SPREADS)
        save(out, document)
    home.cleanup()
    if all(name in document for name in PARTS):
        click.echo(as_page(document))


MARK = "# What steering costs, and how its effect grows"
LIMITS = {
    "one direction": 1.02,
    "16 directions over 4 layers": 1.05,
    "16 directions, folded": 1.005,
}
"""What was set out to be reached, by the unedited image's time."""
BESIDE = {"one edit": 0.70, "three edits at once": 0.45}


WHAT_CAN_BE_REACHED = [
    "A new image costs us two samples a step, whatever the number of edits; SEGA's has one more for each edit. LEDITS++ inverts with one "
    "sample a step and draws with one and one more for each edit; it has no prompt of the picture to guide with. Beside it ours has one "
    "back and one forth: 2/3, and 2/5 for three edits. With classifier-free guidance besides, which LEDITS++ does not do, ours has one back "
    "and two forth: 3/3 and 3/5. Fewer is not to be had with as many steps: 0.70 would leave 1.1 samples a step for the way forth, "
    "guidance in one step of ten. `eb.edit` does more than LEDITS++ does: it draws the unedited round trip too, to report its error, and "
    "corrects each step back twice; its defaults are no faster than LEDITS++ (`benchmarks/inversion.py` has what they gain).",
]


def as_page(document: dict[str, Any]) -> str:
    """The figures of a run as Markdown."""
    found = document["overhead"]
    lines = [
        MARK,
        "",
        f"From here on written by `python benchmarks/steering.py`. Processor time on one thread, variants taking turns for "
        f"{document['runs']['overhead']['rounds']} rounds of {document['runs']['overhead']['steps']} steps "
        f"({document['runs']['beside']['rounds']} of {document['runs']['beside']['steps']} beside other methods); a U-Net in Stable "
        f"Diffusion's layout, five times narrower, random weights. The machine had other work to do (load "
        f"{document['runs']['overhead']['load']}), so the last digit is noise.",
        "",
        "## Time per image, by that of the unedited image",
        "",
        "| edit | ratio | set out to be at most |",
        "|---|---|---|",
        *[f"| {name} | {value:.3f} | {LIMITS.get(name, '')} |" for name, value in found.items() if name != "unedited"],
        "",
        "## By the time of other methods, as diffusers ships them",
        "",
        "Same U-Net, same steps. A real image is inverted first, by both.",
        "",
        "| beside | one edit | three edits at once |",
        "|---|---|---|",
        *[
            f"| {name} | {document['beside']['one edit'][name]:.2f} | {document['beside']['three edits at once'][name]:.2f} |"
            for name in document["beside"]["one edit"]
        ],
        f"| *set out to be at most* | {BESIDE['one edit']:.2f} | {BESIDE['three edits at once']:.2f} |",
        "",
        "The same counted, which is the same on every machine: samples that the denoiser is run on, per step and image.",
        "",
        "| beside | one edit: theirs | ours | ratio | three at once: theirs | ours | ratio |",
        "|---|---|---|---|---|---|---|",
        *[
            f"| {name} | "
            + " | ".join(
                f"{theirs:g} | {ours:g} | {ours / theirs:.2f}"
                for theirs, ours in (document["evaluations"][number][name] for number in NUMBERS)
            )
            + " |"
            for name in document["evaluations"]["one edit"]
        ],
        "",
        *WHAT_CAN_BE_REACHED,
        "",
        f"A sweep of 5 scales on 4 seeds as one batch takes {document['sweep']:.2f} of the time of twenty single calls on the cartoon faces "
        "(set out: at most 0.60).",
        "",
        "## Growth on the cartoon faces",
        "",
        "Change of the factor that a direction moves most, in standard deviations of the population, over seven scales from −0.4 to 0.4 "
        f"({document['growth']['seeds']} seeds); R² of the straight line.",
        "",
        "| direction | factor | per unit scale | R² |",
        "|---|---|---|---|",
        *[
            f"| `{name}` | {line['factor']} | {line['slope']:+.2f} | {line['r2']:.3f} |"
            for name, line in document["growth"]["lines"].items()
        ],
        "",
        "Two directions at once against the sum of each alone: mean over pairs of ‖Δ(a+b) − Δa − Δb‖ / ‖Δ(a+b)‖, in pixels. At a layer edits "
        "add exactly; what follows the layer is not linear, so pictures add up only for small edits.",
        "",
        f"| scale | {' | '.join(document['growth']['sums'])} |",
        f"|---|{'---|' * len(document['growth']['sums'])}",
        f"| off by | {' | '.join(f'{value:.2f}' for value in document['growth']['sums'].values())} |",
        "",
        f"At scale 0 the pictures are bit for bit the unedited ones: {'yes' if document['growth']['scale 0 is exact'] else 'NO'}.",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
