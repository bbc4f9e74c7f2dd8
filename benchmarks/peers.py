"""What others must do to get as many directions of the cartoon faces' checkpoint: passes of the denoiser, and seconds.

    python benchmarks/peers.py [--runs 5] [--samples 64] [--steps 20]

Ours reads weights. Principal components of h-space draw samples, subspace iteration on the Jacobian differentiates at them;
both are the implementations that `benchmarks/quality.py` judges. A LoRA slider is trained one direction at a time: a few
training steps are measured, and the rest is extrapolated. Each run does all of them in turn; ratios are within a run.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import faces
import torch
from common import RESULTS, about, save, spread
from ways import jacobian, principal

from eigenbank.api import build, open_pipeline

LORA_STEPS = 1000
"""Training steps of one slider: what Concept Sliders' training takes by its own configuration, as far as known here."""
MEASURED = 10
BATCH = 1


def lora_steps(pipe: Any, steps: int) -> float:
    """Seconds of so many training steps of a LoRA of rank 4 on all attention projections: as Concept Sliders train, the
    frozen denoiser is run for the target (two conditions), the adapted one forwards and backwards.
    """
    from peft import LoraConfig, inject_adapter_in_model

    unet = type(pipe.unet).from_config(pipe.unet.config)
    unet.load_state_dict(pipe.unet.state_dict())
    config = LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    unet = inject_adapter_in_model(config, unet)
    optimizer = torch.optim.AdamW([each for each in unet.parameters() if each.requires_grad], lr=2e-4)
    side, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
    begun = time.perf_counter()
    with torch.enable_grad():
        for number in range(steps):
            images = torch.randn(BATCH, channels, side, side, generator=torch.Generator().manual_seed(number))
            at = torch.tensor([number * 97 % 1000])
            with torch.no_grad():
                target = pipe.unet(images, at).sample + 0.1 * pipe.unet(images, at).sample
            loss = (unet(images, at).sample - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.perf_counter() - begun


def measure(per_layer: int, samples: int, steps: int) -> dict[str, dict[str, float]]:
    """Seconds and denoiser passes of every way, once."""
    pipe = open_pipeline(str(faces.FOLDER))
    begun = time.perf_counter()
    bank = build(str(faces.FOLDER), recipes=["output-value"], top_k=per_layer)
    found = {"eigenvectors": {"seconds": time.perf_counter() - begun, "passes": 0.0}}
    count = len(bank)
    for name, method in (
        ("PCA of h-space", lambda: principal(pipe, count, samples, steps)),
        ("Jacobian, subspace iteration", lambda: jacobian(pipe, count, 4, steps, 4)),
    ):
        got = method()
        found[name] = {"seconds": got.seconds, "passes": float(got.evaluations)}
    trained = lora_steps(pipe, MEASURED) / MEASURED * LORA_STEPS
    # A step: two frozen passes, one forwards and backwards, which counts three.
    found["LoRA sliders, extrapolated"] = {"seconds": trained * count, "passes": float(5 * LORA_STEPS * count)}
    found["directions"] = {"count": float(count)}
    return found


def main() -> None:
    """Measure, and write benchmarks/results/peers.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--per-layer", type=int, default=6)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.json")
    args = parser.parse_args()
    home = tempfile.TemporaryDirectory(prefix="eigenbank-benchmark-")
    os.environ["EIGENBANK_HOME"] = home.name
    os.environ.pop("EIGENBANK_CATALOG", None)
    facts = about()
    measure(args.per_layer, 8, 2)  # imports and first calls, outside of the clock
    runs = [measure(args.per_layer, args.samples, args.steps) for _ in range(args.runs)]
    home.cleanup()
    count = int(runs[0].pop("directions")["count"])
    for run in runs[1:]:
        run.pop("directions")
    ways = {
        name: {
            "passes": runs[0][name]["passes"],
            "seconds": spread([run[name]["seconds"] for run in runs]),
            "by_ours": spread([run[name]["seconds"] / run["eigenvectors"]["seconds"] for run in runs]),
        }
        for name in runs[0]
    }
    document = {
        "about": facts, "runs": args.runs, "directions": count, "samples": args.samples, "steps": args.steps,
        "lora": f"extrapolated from {MEASURED} measured training steps to {LORA_STEPS} a direction, batch {BATCH}", "ways": ways,
    }  # fmt: skip
    save(args.out, document)
    for name, way in ways.items():
        print(
            f"{name}: {way['passes']:,.0f} passes, {way['seconds']['median']:.2f} s, {way['by_ours']['median']:.1f} × ours"
        )


if __name__ == "__main__":
    main()
