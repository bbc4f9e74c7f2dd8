"""Peak memory and seconds of opening Stable Diffusion 1.5: its real config with random weights, made on the spot.

    python benchmarks/opening.py [--folder /tmp/eigenbank-sd15] [--only-steer]

Then its whole use: built, and one picture of 256×256 and two steps drawn without and with a direction. `--only-steer` leaves the
rest of the results as they are. Every opening is a process of its own, and its libraries are imported before anything is counted.

What counts against a machine's memory is `peak_by_weights`: anonymous memory (RssAnon), which the process takes for good, as a
multiple of the weights in the dtype that was asked for. It exits with 1 where that is above MOST. `mapped_by_weights` is what is
resident besides, the pages of mapped files (RssFile): the system takes them back whenever it wants them. Weights that keep
their files' dtype are nothing else until they are first used, then as much as they are.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, about, save

WAYS = [("float32", "float32"), ("float16", "float16"), ("float16", "float32"), ("float32", "float16")]
"""Dtypes: of the files, and asked for. Folders first, then the same weights as single files, as CompVis names them."""
MOST = 1.15
"""The most anonymous memory that opening may take, by the weights."""


def make(folder: Path, dtype: str) -> None:
    """Save the pipeline in that dtype; leave one that is there."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    if (folder / "model_index.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    words = [*"abcdefghijklmnopqrstuvwxyz", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz")]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        text = CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768,
            bos_token_id=52, eos_token_id=53, pad_token_id=53,
        )  # fmt: skip
        StableDiffusionPipeline(
            unet=UNet2DConditionModel(
                sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
            ),
            vae=AutoencoderKL(
                block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            ),
            text_encoder=CLIPTextModel(text),
            tokenizer=CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77),
            scheduler=PNDMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
            ),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ).save_pretrained(folder)  # fmt: skip
    finally:
        torch.set_default_dtype(before)


def make_file(folder: Path, dtype: str) -> None:
    """Save the pipeline in a folder as a single file, too, with the configs around it; leave one that is there."""
    import eigenbank as eb

    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    import tiny_pipelines

    place = folder.with_name(f"{folder.name} file")
    if not (place / "sd15.safetensors").is_file():
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        pipe = eb.open_pipeline(str(folder), device="cpu", dtype=dtype)
        tiny_pipelines.single_file(pipe, place / "sd15.safetensors")


OPENING = """
import json, sys, threading, time
import diffusers, torch, transformers
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
import eigenbank as eb
eb.open_pipeline

def memory():
    found = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return {name: int(found[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}

peak, done = {}, threading.Event()
def watch():
    while not done.wait(0.005):
        for name, value in memory().items():
            peak[name] = max(peak.get(name, 0), value)

before = memory()
thread = threading.Thread(target=watch)
thread.start()
begun = time.perf_counter()
pipe = eb.open_pipeline(sys.argv[1], device="cpu", dtype=sys.argv[2])
seconds = time.perf_counter() - begun
done.set()
thread.join()
parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
print(json.dumps({"seconds": seconds, "weights": weights, **{name: peak[name] - before[name] for name in peak}}))
"""


STEERING = """
import json, sys, time
import torch
import eigenbank as eb
from eigenbank.loaders.sample import sample

def peak():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return round(int(lines["VmHWM"].split()[0]) * 1024 / 1e9, 2)

found, begun = {}, time.perf_counter()
def done(what):
    global begun
    found[what] = {"seconds": round(time.perf_counter() - begun, 1), "peak_gb": peak()}
    begun = time.perf_counter()

pipe = eb.open_pipeline(sys.argv[1], device="cpu", dtype=sys.argv[2])
done("open")
bank = eb.build(sys.argv[1], top_k=4)
done("build")
call = {"prompt": "a portrait", "size": (256, 256)}
plain = sample(pipe, [0], 2, **call)
done("draw")
with eb.steer(pipe, {next(iter(bank)): 2.0}) as edit:
    edited = sample(pipe, [0], 2, **call)
done("steer")
again = sample(pipe, [0], 2, **call)
found["match"] = [term.match for term in edit.terms]
found["change"] = float((edited - plain).abs().max())
found["without_trace"] = bool(torch.equal(again, plain))
found["directions"] = len(bank)
print(json.dumps(found))
"""


def _in_a_process(code: str, *arguments: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True,
            env={**os.environ, "EIGENBANK_HOME": home},
        )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def steering(folder: Path, dtype: str) -> dict[str, Any]:
    """Open, build and steer in a process of its own: seconds and the process's peak memory after each."""
    return _in_a_process(STEERING, str(folder), dtype)


def opening(folder: Path, dtype: str) -> dict[str, Any]:
    """Open the pipeline in a process of its own."""
    found = _in_a_process(OPENING, str(folder), dtype)
    return {
        "seconds": round(found["seconds"], 2), "weights_gb": round(found["weights"] / 1e9, 2),
        "peak_by_weights": round(found["RssAnon"] / found["weights"], 3), "mapped_by_weights": round(found["RssFile"] / found["weights"], 3),
    }  # fmt: skip


def main() -> int:
    """Measure and write results/opening.json. Returns 1 where opening took more than MOST."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/eigenbank-sd15"))
    parser.add_argument("--only-steer", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder
    document: dict[str, Any] = {"about": about()}
    if arguments.only_steer:
        document = json.loads((RESULTS / "opening.json").read_text(encoding="utf-8"))
    for kind in [] if arguments.only_steer else ["folder", "single file"]:
        for stored, asked in WAYS:
            subprocess.run([sys.executable, __file__, "--make", str(folder / stored), stored], check=True)
            place = folder / stored if kind == "folder" else folder / f"{stored} file" / "sd15.safetensors"
            found = opening(place, asked)
            document[f"{kind}, {stored} opened as {asked}"] = found
            print(f"{kind}, {stored} opened as {asked}: {found}", flush=True)
    subprocess.run([sys.executable, __file__, "--make", str(folder / "float16"), "float16"], check=True)
    document["steered"] = {"about": about(), "256, 2 steps, float32": steering(folder / "float16", "float32")}
    print(document["steered"], flush=True)
    document["about"]["finished"] = time.strftime("%H:%M")
    save(RESULTS / "opening.json", document)
    over = [name for name, found in document.items() if found.get("peak_by_weights", 0) > MOST]
    print(f"more than {MOST} × the weights: {', '.join(over) or 'none'}")
    return bool(over)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[2]), sys.argv[3])
        make_file(Path(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(main())
