"""What naming SDXL's directions costs: counted on a tiny SDXL with as many layers, in the real one's floating-point operations.

    python benchmarks/sdxl.py --out benchmarks/results/sdxl.json

The tiny one has SDXL's blocks and all 70 of its self-attention layers, narrow and with random weights; two recipes of 16 directions
a layer make 2,240. It is labelled as by `eigenbank label --size 512`, by twenty scores that random projections read off its pictures, with three
prompts and guidance. Every pass of the denoiser and every decoded picture is counted, and costs what torch counts for the real
sizes. How many candidates are confirmed depends on what pictures show, and random weights draw none: so for confirming it takes as
many pictures as `benchmarks/words.py` counted on the avatars, for as many words and prompts.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from common import RESULTS, about, save, spread
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from rich.progress import Progress
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from eigenbank.api import build
from eigenbank.builders.label.settings import LabelSettings
from eigenbank.loaders import predicted
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.naming import label
from eigenbank.schemas.drawing import Drawing

BLOCKS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time", "use_linear_projection": True,
}  # fmt: skip
"""SDXL's U-Net, whatever its widths."""
REAL = {
    "block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
TINY = {
    "block_out_channels": (8, 16, 24), "attention_head_dim": (1, 2, 3), "cross_attention_dim": 16, "norm_num_groups": 4,
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 8 + 6 * 8,
}  # fmt: skip
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
}
PROMPTS = ("a person", "a portrait photo", "a painting of a woman")
DRAWN = 128
"""The tiny one draws at this size: how much is drawn does not depend on it."""
STEPS = LabelSettings().steps
READER = 224
"""Pixels that CLIP ViT-L/14 reads, which is what a picture costs to read here."""


def tiny(folder: Path) -> None:
    """Save the tiny SDXL."""
    torch.manual_seed(0)
    letters = [chr(number) for number in range(97, 123)]
    words = ["<|startoftext|>", "<|endoftext|>", *(letter + end for letter in letters for end in ("", "</w>"))]
    (folder / "words").mkdir(parents=True)
    (folder / "words" / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "words" / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words", model_max_length=77)
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "projection_dim": 8,
    }
    config = CLIPTextConfig(**sizes, vocab_size=len(words), bos_token_id=0, eos_token_id=1)
    pipe = StableDiffusionXLPipeline(
        vae=AutoencoderKL(**VAE, block_out_channels=(4, 4, 8, 8), norm_num_groups=2, layers_per_block=1, scaling_factor=0.13025),
        text_encoder=CLIPTextModel(config), text_encoder_2=CLIPTextModelWithProjection(config), tokenizer=tokenizer, tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(**BLOCKS, **TINY, sample_size=128), scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"), add_watermarker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)


def teraflops(size: int) -> dict[str, float]:
    """What a pass of the real denoiser for one prompt, decoding a picture, and reading one cost, in 10^12 operations."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**BLOCKS, **REAL, sample_size=128)
        vae = AutoencoderKL(**VAE, block_out_channels=(128, 256, 512, 512), layers_per_block=2)
        reader = CLIPVisionModelWithProjection(
            CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14, projection_dim=768)
        )  # fmt: skip
        latents = torch.zeros(1, 4, size // 8, size // 8)
        added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
        return {
            "pass": _counted(
                lambda: unet(latents, torch.tensor(1.0), torch.zeros(1, 77, 2048), added_cond_kwargs=added)
            ),
            "decode": _counted(lambda: vae.decode(latents)),
            "decode small": _counted(lambda: vae.decode(latents[..., ::2, ::2])),
            "read": _counted(lambda: reader(torch.zeros(1, 3, READER, READER))),
        }


def _counted(run: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 1e12


class Projections:
    """Reads scores off pictures by random projections of them at 8 × 8."""

    stds = None

    def __init__(self, count: int) -> None:
        self.source = "projections"
        self.names = tuple(f"word {number}" for number in range(count))
        self.matrix = torch.randn(3 * 8 * 8, count, generator=torch.Generator().manual_seed(1))

    def read(self, images: Tensor) -> Tensor:
        """Scores `(n, f)` of images `(n, 3, h, w)`."""
        return torch.nn.functional.adaptive_avg_pool2d(images.float().cpu(), 8).flatten(1) @ self.matrix


@click.command()
@click.option("--size", default=512, show_default=True, help="Side of the pictures, in pixels.")
@click.option("--words", default=20, show_default=True)
@click.option("--runs", default=3, show_default=True, help="Choices of seeds.")
@click.option("--top-k", default=16, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/sdxl.json"))
def main(size: int, words: int, runs: int, top_k: int, out: Path) -> None:
    """Label the tiny SDXL's directions, and write what it would take of the real one."""
    facts, cost = about(), teraflops(size)
    rows: list[dict[str, Any]] = []
    with Progress() as bar, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "sdxl"
        tiny(folder)
        bank = build(str(folder), recipes=["output-value", "output-value:output"], top_k=top_k)
        drawing = Drawing(prompts=PROMPTS, size=(DRAWN, DRAWN), guidance_scale=5.0)
        pipe = open_pipeline(folder, drawing)
        predicted.SMALL = predicted.SMALL * DRAWN // size
        counts = {"pass": 0, "decode": 0, "decode small": 0}

        def passed(_module: Any, args: tuple[Tensor, ...]) -> None:
            counts["pass"] += len(args[0])

        pipe.unet.register_forward_pre_hook(passed)
        decode = pipe.vae.decode

        def decoded(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
            counts["decode" if latents.shape[-1] * 8 == DRAWN else "decode small"] += len(latents)
            return decode(latents, *args, **kwargs)

        pipe.vae.decode = decoded
        for run in range(runs):
            task, started, said = bar.add_task(f"run {run + 1} of {runs}", total=None), time.monotonic(), []
            counts |= dict.fromkeys(counts, 0)
            first = 500_000 + 1_000 * run
            settings = LabelSettings(
                seeds=tuple(range(first, first + 8)), confirm_seeds=tuple(range(first + 100, first + 108)), quality_seeds=0, agreement=-1.0
            )  # fmt: skip
            found = label(
                pipe, bank, [Projections(words)], settings, drawing=drawing, cache=Path(temporary) / str(run), log=said.append,
                progress=lambda _, done, total, task=task: bar.update(task, completed=done, total=total),
            )  # fmt: skip
            pictures = counts["decode"] + counts["decode small"]
            petaflops = (sum(counts[name] * cost[name] for name in counts) + pictures * cost["read"]) / 1000
            most = next((each for each in said if each.startswith("at most")), None)
            rows.append({
                **counts, "petaflops": round(petaflops, 1), "seconds": round(time.monotonic() - started),
                "labels": len(found.labels), "said": most,
            })  # fmt: skip
            click.echo(json.dumps(rows[-1]))
    confirmed = json.loads((RESULTS / "words.json").read_text())["vocabulary"]["of_them"]
    images = sum(count for what, count in confirmed.items() if what in ("confirming", "chance", "quality"))
    confirming = images * (STEPS * 2 * cost["pass"] + cost["decode"] + cost["read"]) / 1000
    document = {
        "about": facts, "what": "what naming SDXL's directions costs", "directions": len(bank), "words": words, "size": size,
        "teraflops": {name: round(value, 3) for name, value in cost.items()}, "rows": rows,
        "images_confirmed_on_the_avatars": images, "petaflops_of_these": round(confirming, 1),
        "petaflops": spread([round(row["petaflops"] + confirming, 1) for row in rows]),
    }  # fmt: skip
    save(out, document)
    click.echo(json.dumps(document["petaflops"]))


if __name__ == "__main__":
    main()
