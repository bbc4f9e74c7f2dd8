"""On a GPU: building by building on the CPU, and what steering costs an image of a denoiser of Stable Diffusion's size.

    python benchmarks/gpu.py [--rounds 9]

Without a GPU it says so and measures nothing. Weights are random, of real shapes: of SDXL's and FLUX.1's layers those that
`building.py` builds, of Stable Diffusion 1.5 the whole U-Net in float16, 64 × 64 latents, guidance on. Times are by the
clock, the GPU's work awaited; what is compared takes turns. Results go to benchmarks/results/gpu.json.
"""

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from building import RECIPES, SHAPES, write
from common import RESULTS, about, accelerator, save
from steering import SPREADS, bank_of, edited, parts, ratios

from eigenbank.builders.build import build
from eigenbank.builders.checkpoints.folder import open_folder

SD15 = {"cross_attention_dim": 64}
"""Stable Diffusion 1.5's U-Net but for the width of the text, of which self-attention does not depend."""
SIDE, STEPS = 512, 10


def clock() -> float:
    """Seconds, when the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def building(name: str, rounds: int) -> None:
    """Reading and decomposing a checkpoint's layers, on the GPU by on the CPU."""
    config, pattern = SHAPES[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        write(folder, config, pattern)

        def built(device: str) -> Any:
            return lambda: build(open_folder(folder), "bench/model", layers=[pattern], recipes=RECIPES, device=device)

        ratios({f"building {name} on the GPU": built("cuda"), "on the CPU": built("cpu")}, "on the CPU", rounds, clock)


def steering(rounds: int) -> None:
    """Edited images by unedited ones."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    shared = parts(SD15)
    bank = bank_of(shared["unet"], 4, 4)
    pipe = StableDiffusionPipeline(scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), **shared)
    pipe.set_progress_bar_config(disable=True)
    pipe.to("cuda", torch.float16)
    ratios(edited(pipe, bank, STEPS, SIDE), "unedited", rounds, clock)


def main() -> None:
    """Measure, and write benchmarks/results/gpu.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    args = parser.parse_args()
    if accelerator() is None:
        print("no GPU here: nothing measured")
        return
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    home = tempfile.TemporaryDirectory(prefix="eigenbank-benchmark-")
    os.environ["EIGENBANK_HOME"] = home.name
    facts = about()
    steering(args.rounds)
    for name in ("sdxl", "flux.1"):
        building(name, min(args.rounds, 5))
    home.cleanup()
    document = {"about": facts, "what": "building and steering on a GPU", "steps": STEPS, "ratios": SPREADS}
    save(args.out, document)
    for name, found in SPREADS.items():
        print("{name}: {median:.3f} ({min:.3f} to {max:.3f})".format(name=name, **found))


if __name__ == "__main__":
    main()
